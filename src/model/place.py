"""Where the files of a model lie on this machine, and whether they are the ones that are meant."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from pathlib import Path

from src.config import UserError

PACKAGE = "pkg://"


def place_of(path: str, install: str | None = None) -> str:
    """A hub name or a folder as it is; pkg://PACKAGE/FOLDER as the folder inside the installed package.

    Args:
        path: as in the configuration.
        install: the command that installs the package, where it takes more than its name.

    Raises:
        UserError: the package is not installed.
    """
    if not path.startswith(PACKAGE):
        return str(Path(path).expanduser()) if path.startswith(("~", ".", "/")) else path
    package, _, folder = path.removeprefix(PACKAGE).partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        how = install or "pip install it"
        raise UserError(f"{path}: the Python package {package} is not installed; {how}, or set model.path.")
    return str(Path(spec.submodule_search_locations[0]) / folder)


def check_hash(file: Path, expected: str) -> None:
    """Hold a file against the sha256 that the configuration names.

    Raises:
        UserError: it is not there, or has another one.
    """
    if not file.exists():
        raise UserError(f"{file} does not exist, and model.sha256 asks to check it; set model.sha256=null to skip.")
    if (found := sha256_of(file)) != expected:
        raise UserError(
            f"{file} has sha256 {found}, not model.sha256={expected}: these are other weights than the "
            "configuration means."
        )


def sha256_of(file: Path) -> str:
    """The sha256 of a file, in hexadecimal digits; read once in a process as long as size and time stay."""
    status = file.stat()
    return _sha256(str(file), status.st_size, status.st_mtime_ns)


@functools.cache
def _sha256(file: str, size: int, time: int) -> str:
    digest = hashlib.sha256()
    with Path(file).open("rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
