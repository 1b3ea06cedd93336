"""Assigns a free GPU to each of several runs that a launcher starts on one machine at the same time.

File locks mark the GPUs in use; the system releases them when a process ends, however it ends.
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
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; this does not initialise CUDA."""
    import torch

    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return named[:count] if named else [str(number) for number in range(count)]


@contextmanager
def free_gpu(folder: Path, gpus: Sequence[str]) -> Iterator[None]:
    """Make one GPU visible to this process that no other run of the store uses; waits until one is free.

    With one GPU or none, nothing changes. Enter it before the process uses a GPU.

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
        for gpu in gpus:  # the name of the host, since machines may share the folder
            name = re.sub(r"[^\w.-]", "_", f"{socket.gethostname()}-{gpu}.lock")
            lock = FileLock(folder / name)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            return gpu, lock
        time.sleep(POLL_SECONDS)
