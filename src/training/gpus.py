"""A free GPU for each of several runs that a launcher starts on one machine at once.

Which one is taken is said by locked files, which the system releases when their process ends, however it ends.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

VISIBLE = "CUDA_VISIBLE_DEVICES"
POLL_SECONDS = 0.5


def visible_gpus() -> list[str]:
    """Numbers or names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES has them; starts no GPU."""
    import torch

    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return named[:count] if named else [str(number) for number in range(count)]


@contextmanager
def free_gpu(folder: Path, gpus: Sequence[str]) -> Iterator[None]:
    """Let this process see one GPU alone that no other run of the store uses, and wait until there is one.

    With one GPU or none nothing changes. To be entered before the process uses a GPU.

    Args:
        folder: of the store; its subfolder `gpus` holds the locks.
        gpus: to choose from.
    """
    if len(gpus) < 2:
        yield
        return
    (folder / "gpus").mkdir(parents=True, exist_ok=True)
    gpu, lock = _take(folder / "gpus", gpus)
    before = os.environ.get(VISIBLE)
    os.environ[VISIBLE] = gpu
    try:
        yield
    finally:
        lock.release()
        if before is None:
            del os.environ[VISIBLE]
        else:
            os.environ[VISIBLE] = before


def _take(folder: Path, gpus: Sequence[str]) -> tuple[str, FileLock]:
    while True:
        for gpu in gpus:  # a folder may be shared by machines
            name = re.sub(r"[^\w.-]", "_", f"{socket.gethostname()}-{gpu}.lock")
            lock = FileLock(folder / name)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            return gpu, lock
        time.sleep(POLL_SECONDS)
