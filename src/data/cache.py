"""Caches data sets as files in the cache of Hugging Face's `datasets`, with a checksum.

A file is an Arrow stream, followed by the SHA-256 of the stream, which Arrow's readers ignore.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

import datasets
from datasets import Dataset

FOLDER = "tuneoff"  # in the cache of `datasets`
UNFINISHED = "unfinished-"  # begins the names of the folders in which files are being made
LONGEST_SECONDS = 24 * 3600  # after which nobody is at it any more
DIGEST_SIZE = hashlib.sha256().digest_size
TEMPORARY: ContextVar[str | None] = ContextVar(
    "TEMPORARY", default=None
)  # the folder of the cache, within `temporary_cache`


@contextmanager
def temporary_cache() -> Iterator[None]:
    """Use a temporary folder as the cache, for data that will not be needed again."""
    with tempfile.TemporaryDirectory(prefix="tuneoff-cache-") as folder:
        before = TEMPORARY.set(folder)
        try:
            yield
        finally:
            TEMPORARY.reset(before)


def cached(name: str, make: Callable[[Path], object]) -> tuple[Dataset, list[str]]:
    """Load a data set from the cache, or make it.

    Args:
        name: of the file; it must identify everything that the data set depends on.
        make: writes the data set to a path, as an Arrow stream. It is called if the file is missing or damaged.

    Returns:
        The data set, mapped into memory, and notes for the terminal.
    """
    notes = []
    folder = Path(TEMPORARY.get() or datasets.config.HF_DATASETS_CACHE) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    _clear(folder)
    file = folder / name
    exists = file.exists()
    if not (exists and _is_whole(file)):
        if exists:
            notes.append(f"The cached file {file} is damaged; it is made again.")
        # Another process may be making the same file.
        with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=folder) as temporary:
            made = Path(temporary) / name
            make(made)
            with made.open("ab") as end:
                end.write(_digest(made, made.stat().st_size))
            made.replace(file)
    return Dataset.from_file(str(file)), notes


def _clear(folder: Path) -> None:
    """Remove what killed processes have left long ago."""
    for left in folder.glob(f"{UNFINISHED}*"):
        with suppress(OSError):  # another process removes it
            if time.time() - left.stat().st_mtime > LONGEST_SECONDS:
                shutil.rmtree(left)


def _is_whole(file: Path) -> bool:
    """Whether a file ends with the digest of its content before it."""
    size = file.stat().st_size - DIGEST_SIZE
    if size <= 0:
        return False
    with file.open("rb") as content:
        content.seek(size)
        return content.read() == _digest(file, size)


def _digest(file: Path, size: int) -> bytes:
    """The SHA-256 of the first `size` bytes."""
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while size > 0 and (block := content.read(min(size, 1 << 20))):
            digest.update(block)
            size -= len(block)
    return digest.digest()
