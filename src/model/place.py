"""Where the files of a model lie on this machine, and whether they are the ones that are meant."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import re
from pathlib import Path

from huggingface_hub import constants, is_offline_mode
from huggingface_hub.utils import get_session

from src.config import UserError, one_line

PACKAGE = "pkg://"
HUB_NAME = r"[\w.-]+(/[\w.-]+)?"
HUB_SECONDS = 5  # to answer; HF_HUB_ETAG_TIMEOUT sets another limit


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
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):  # what is no name of a package: empty, or with a dot before it
        spec = None
    if spec is None or not spec.submodule_search_locations:
        how = install or "pip install it"
        raise UserError(f"{path}: the Python package {package} is not installed; {how}, or set model.path.")
    return str(Path(spec.submodule_search_locations[0]) / folder)


def hub_problem(place: str) -> str | None:
    """Why a model that is named so cannot be asked for on the hub; None where it can, or where it is a local folder.

    The hub is asked once in a process, for some seconds: its own client would try for three quarters of a minute with
    every file, and not look into its cache before.

    Args:
        place: as `place_of` returns it.
    """
    if re.fullmatch(HUB_NAME, place) is None or Path(place).is_dir():
        return None
    return _ask_hub()


@functools.cache
def _ask_hub() -> str | None:
    """Why the hub does not answer; None where it does, whatever it says."""
    if is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    seconds = constants.HF_HUB_ETAG_TIMEOUT if "HF_HUB_ETAG_TIMEOUT" in os.environ else HUB_SECONDS
    try:
        get_session().head(constants.ENDPOINT, timeout=seconds)
    except Exception as error:  # of the HTTP library that huggingface_hub uses, which changes from version to version
        return f"{constants.ENDPOINT} does not answer ({type(error).__name__}: {one_line(error)})"
    return None


def check_hash(file: Path, expected: str) -> None:
    """Hold a file against the sha256 that the configuration names.

    Raises:
        UserError: it is not there, or has another one.
    """
    if not file.exists():
        raise UserError(f"{file} does not exist, and model.sha256 asks to check it; set model.sha256=null to skip.")
    if (digest := sha256_of(file)) != expected:
        raise UserError(
            f"{file} has sha256 {digest}, not model.sha256={expected}: these are other weights than the "
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
