"""What makes two runs the same, and whether a run that is marked RUNNING still runs."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import socket
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from src.config import Config

HEARTBEAT_SECONDS = 60.0
SILENCE_SECONDS = 300.0  # without a heartbeat for so long, a run of another machine counts as dead
# What a folder with a model or a data set is known by.
CONTENT = (".json", ".parquet", ".safetensors", ".txt")


def config_hash(config: Config) -> str:
    """Twelve hexadecimal digits that two runs share when their results must be the same.

    A file or folder counts by its content and not by its place. What a run leaves and where, and how fast it is,
    do not count.
    """
    values = dataclasses.asdict(config)
    for key in ("tracking", "sweep", "rerun"):
        del values[key]
    del values["hardware"]["threads"]
    del values["train"]["checkpoint_minutes"], values["train"]["keep_checkpoints"]
    data, root = values["dataset"], Path(values["dataset"].pop("root") or ".")
    for holder, key in [
        (data, "path"),
        (data, "validation_path"),
        *((data["extra_validation"], k) for k in data["extra_validation"]),
    ]:
        if holder[key] is not None and data["source"] != "sample":
            holder[key] = _content(root / Path(holder[key]).expanduser(), holder[key])
    for key in ("path", "tokenizer"):
        if values["model"][key] is not None:
            values["model"][key] = _content(Path(values["model"][key]).expanduser(), values["model"][key])
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def _content(path: Path, name: str) -> str:
    """A digest of what lies at `path`; `name` where nothing does (a hub name, or a mistake that the run will name)."""
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in CONTENT)
    elif path.is_file():
        files = [path]
    else:
        return name
    status = [(file, file.stat()) for file in files]
    return _digest(tuple((str(file), stat.st_size, stat.st_mtime_ns) for file, stat in status))


@functools.cache
def _digest(files: tuple[tuple[str, int, int], ...]) -> str:
    """Sizes and times are arguments, so that a file that changes is read again."""
    digest = hashlib.sha256()
    for name, size, _ in files:
        digest.update(f"{Path(name).name if len(files) > 1 else ''} {size} ".encode())
        with Path(name).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def holder() -> dict[str, str]:
    """Tags that tell which process works on a run: host, process id, the process's start and the last sign of life."""
    process = psutil.Process()
    return {
        "host": socket.gethostname(),
        "host_id": _host_id(),
        "process_id": str(process.pid),
        "process_start": f"{process.create_time():.2f}",
        "heartbeat": f"{time.time():.0f}",
    }


@functools.cache
def _host_id() -> str:
    """Survives a reboot, and tells machines (and containers) of one name apart by their network card."""
    return hashlib.sha256(f"{socket.gethostname()} {uuid.getnode()}".encode()).hexdigest()[:12]


def alive(tags: Mapping[str, str]) -> bool:
    """Whether the process that holds a run still works on it.

    On this machine by process id and start time, so that neither a reboot nor a process id that was given away again
    deceives; on another one by its last heartbeat.
    """
    if tags.get("host_id") != _host_id():
        return time.time() - float(tags.get("heartbeat", 0)) < SILENCE_SECONDS
    try:
        process = psutil.Process(int(tags["process_id"]))
        # The boot time that start times count from is known to a second.
        same = abs(process.create_time() - float(tags["process_start"])) < 2
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.AccessDenied:  # another user's, which the system says no more about
        return True
    except (KeyError, ValueError, psutil.NoSuchProcess):
        return False


def who(tags: Mapping[str, Any]) -> str:
    """`process 123 on HOST`."""
    return f"process {tags.get('process_id', '?')} on {tags.get('host', '?')}"
