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
from typing import Any, NamedTuple

import psutil

from src.config import CHANGES_NO_RESULT, DATA_FILES, Config

HEARTBEAT_SECONDS = 60.0
SILENCE_SECONDS = 300.0  # without a heartbeat for so long, a run of another machine counts as dead
# The files that a folder with a model is known by.
CONTENT = (".json", ".parquet", ".safetensors", ".txt")
MODEL_KEYS = ("model.path", "model.tokenizer")
# Keys of the schema that version 0.1 did not have; without them its hashes are found again.
ADDED_SINCE_0_1 = (
    *("dataset.test_path", "dataset.test_size", "method.quantize"),
    *("model.task", "model.gguf", "model.prompt"),
)


class Hashes(NamedTuple):
    """What a run is known by: its hash, and the one that version 0.1 gave it."""

    present: str
    previous: str | None


def hashes(config: Config) -> Hashes:
    """Both hashes of a run, as its configuration was given."""
    return Hashes(config_hash(config), previous_hash(config))


def config_hash(config: Config) -> str:
    """Twelve hexadecimal digits that two runs share when their results must be the same.

    It is taken over what differs from the schema's defaults (`src.config.Config()`, not the files of conf/), so that a
    new key changes the hash of no stored run as long as it has its default. A file or folder counts by its content and
    not by its place. What a run leaves and where, and how fast it is, do not count.
    """
    default = _flat(Config())
    values = _flat(config)
    root = Path(config.dataset.root or ".")
    for key in _data_keys(config):
        values[key] = _content(root / Path(values[key]).expanduser(), values[key], nested=True)
    for key in MODEL_KEYS:
        if values[key] is not None:
            values[key] = _content(Path(values[key]).expanduser(), values[key])
    return _short_hash({key: value for key, value in values.items() if value != default.get(key)})


def previous_hash(config: Config) -> str | None:
    """The hash that version 0.1 gave the same run; None where it could not have made it, or not told it from others."""
    default, present = _flat(Config()), _flat(config)
    if any(present[key] != default[key] for key in ADDED_SINCE_0_1):
        return None
    values = dataclasses.asdict(config)
    for key in (*CHANGES_NO_RESULT, *ADDED_SINCE_0_1):
        *sections, last = key.split(".")
        functools.reduce(lambda node, name: node[name], sections, values).pop(last)
    root = Path(config.dataset.root or ".")
    for key in _data_keys(config):
        path = root / Path(present[key]).expanduser()
        if path.is_dir() and _files(path, nested=True) != _files(path):
            return None  # it took the top level of a folder for the whole
        _, *sections, last = key.split(".", 2)
        functools.reduce(lambda node, name: node[name], sections, values["dataset"])[last] = _content(
            path, present[key]
        )
    for key in MODEL_KEYS:
        if present[key] is not None:
            name = key.removeprefix("model.")
            values["model"][name] = _content(Path(present[key]).expanduser(), present[key])
    return _short_hash(values)


def _short_hash(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def _flat(config: Config) -> dict[str, Any]:
    """The values that make up a run's identity, by their keys; extra validation files one by one."""
    flat: dict[str, Any] = {}
    for section, values in dataclasses.asdict(config).items():
        if isinstance(values, dict):
            flat |= {f"{section}.{key}": value for key, value in values.items()}
    for name, path in flat.pop("dataset.extra_validation").items():
        flat[f"dataset.extra_validation.{name}"] = path
    return {key: value for key, value in flat.items() if not _is_excluded(key)}


def _is_excluded(key: str) -> bool:
    return key in CHANGES_NO_RESULT or key.partition(".")[0] in CHANGES_NO_RESULT


def _data_keys(config: Config) -> list[str]:
    """The keys that name files or folders of questions."""
    if config.dataset.source == "sample":
        return []
    keys = [key for key, value in _flat(config).items() if key.startswith(DATA_FILES) and value is not None]
    if config.dataset.source == "hub":
        keys = [key for key in keys if key != "dataset.test_path"]  # the name of a split
    return keys


def _content(path: Path, name: str, nested: bool = False) -> str:
    """A digest of what lies at `path`; `name` where nothing does (a hub name, or a mistake that the run will name)."""
    if path.is_dir():
        files = _files(path, nested)
    elif path.is_file():
        files = [path]
    else:
        return name
    status = [(file, file.stat()) for file in files]
    relative = {file: file.relative_to(path).as_posix() if len(files) > 1 else "" for file in files}
    return _digest(tuple((str(file), relative[file], stat.st_size, stat.st_mtime_ns) for file, stat in status))


def _files(folder: Path, nested: bool = False) -> list[Path]:
    """The files that make up a model (the top level of its folder) or a data set (with all folders in it)."""
    if nested:
        visible = (file for file in folder.rglob("*") if file.is_file())
        return sorted(f for f in visible if not any(part.startswith(".") for part in f.relative_to(folder).parts))
    return sorted(file for file in folder.iterdir() if file.suffix in CONTENT)


@functools.cache
def _digest(files: tuple[tuple[str, str, int, int], ...]) -> str:
    """Of files given by path, name, size and time: sizes and times, so that a file that changes is read again."""
    digest = hashlib.sha256()
    for path, name, size, _ in files:
        digest.update(f"{name} {size} ".encode())
        with Path(path).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def process_tags() -> dict[str, str]:
    """The tags that name the process working on a run: host, process id, start time and last heartbeat."""
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


def describe_process(tags: Mapping[str, Any]) -> str:
    """The process of `process_tags`, in words: `process 123 on HOST`."""
    return f"process {tags.get('process_id', '?')} on {tags.get('host', '?')}"
