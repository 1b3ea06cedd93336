"""The identity of a run (the hash of its configuration), and whether its process is alive."""

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
SILENCE_SECONDS = 300.0  # after so long without a heartbeat, a run of another machine counts as dead
# The files of a model's folder that its hash covers.
CONTENT = (".json", ".parquet", ".safetensors", ".txt")
MODEL_KEYS = ("model.path", "model.tokenizer")
# Keys of the schema that version 0.1 did not have; its hashes are computed without them.
ADDED_SINCE_0_1 = (
    *("dataset.test_path", "dataset.test_size", "method.quantize"),
    *("model.task", "model.gguf", "model.prompt"),
)


class Hashes(NamedTuple):
    """The hash of a run, and the hash that version 0.1 gave it."""

    present: str
    previous: str | None


def hashes(config: Config) -> Hashes:
    """Both hashes of a configuration, as the user gave it."""
    return Hashes(config_hash(config), previous_hash(config))


def config_hash(config: Config) -> str:
    """Twelve hexadecimal digits that are equal for two runs that must give the same result.

    The hash covers the values that differ from the schema's defaults (`src.config.Config()`, not the files of conf/).
    A new key with its default therefore does not change the hash of stored runs. Files and folders are hashed by their
    content, not by their path. Keys that do not affect the result (CHANGES_NO_RESULT) are left out.
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
    """The hash that version 0.1 gave the same run; None if it had no such run or gave other runs the same hash."""
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
            return None  # it hashed only the top level of a folder
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
    """The values that determine a run's identity, by their keys; each extra validation file has its own key."""
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
    """A digest of the file or folder at `path`; if there is none, `name` (a hub name, or a path that is wrong)."""
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
    """The digest of files, each given by path, name, size and time; size and time make the cache notice changes."""
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
    """An id of this machine that survives a reboot; the network card distinguishes machines with the same name."""
    return hashlib.sha256(f"{socket.gethostname()} {uuid.getnode()}".encode()).hexdigest()[:12]


def alive(tags: Mapping[str, str]) -> bool:
    """Whether the process that made the tags still works on its run.

    On this machine it is identified by process id and start time, so that neither a reboot nor a reused process id is
    mistaken for it. On another machine the last heartbeat decides.
    """
    if tags.get("host_id") != _host_id():
        return time.time() - float(tags.get("heartbeat", 0)) < SILENCE_SECONDS
    try:
        process = psutil.Process(int(tags["process_id"]))
        # Start times are relative to the boot time, which is only accurate to a second.
        same = abs(process.create_time() - float(tags["process_start"])) < 2
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.AccessDenied:  # another user's process, which the system gives no details about
        return True
    except (KeyError, ValueError, psutil.NoSuchProcess):
        return False


def describe_process(tags: Mapping[str, Any]) -> str:
    """The process of `process_tags`, in words: `process 123 on HOST`."""
    return f"process {tags.get('process_id', '?')} on {tags.get('host', '?')}"
