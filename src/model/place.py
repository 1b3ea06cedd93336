"""Locates the files of a model on this machine, and checks that they are the expected ones."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from pathlib import Path

from src.config import UserError

PACKAGE = "pkg://"


def place_of(path: str, install: str | None = None) -> str:
    """Resolve `model.path`: pkg://PACKAGE/FOLDER becomes the folder inside the installed package.

    Hub names and folders stay as they are.

    Args:
        path: as in the configuration.
        install: the command that installs the package, if it needs more than its name.

    Raises:
        UserError: the package is not installed.
    """
    if not path.startswith(PACKAGE):
        return str(Path(path).expanduser()) if path.startswith(("~", ".", "/")) else path
    package, _, folder = path.removeprefix(PACKAGE).partition("/")
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):  # not a package name: empty, or with a leading dot
        spec = None
    if spec is None or not spec.submodule_search_locations:
        how = install or "pip install it"
        raise UserError(f"{path}: the Python package {package} is not installed; {how}, or set model.path.")
    return str(Path(spec.submodule_search_locations[0]) / folder)


def check_hash(file: Path, expected: str) -> None:
    """Check that a file has the sha256 of the configuration.

    Raises:
        UserError: the file is missing, or has another hash.
    """
    if not file.exists():
        raise UserError(f"{file} does not exist, and model.sha256 asks to check it; set model.sha256=null to skip.")
    if (digest := sha256_of(file)) != expected:
        raise UserError(
            f"{file} has sha256 {digest}, not model.sha256={expected}: these are not the weights that the "
            "configuration names."
        )


def sha256_of(file: Path) -> str:
    """The sha256 of a file in hexadecimal digits; the file is read again only if its size or time has changed."""
    status = file.stat()
    return _sha256(str(file), status.st_size, status.st_mtime_ns)


@functools.cache
def _sha256(file: str, size: int, time: int) -> str:
    digest = hashlib.sha256()
    with Path(file).open("rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
