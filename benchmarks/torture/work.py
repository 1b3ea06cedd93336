"""What the parts share: a separate folder for each trial, its commands, and what they must leave there."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from mlflow import MlflowClient

from benchmarks.torture.forked import Forked, apart
from src.compose import assignment

ROOT = Path(__file__).parents[2]
# A tiny model; one thread, so that sums are added up in one order whatever else the machine does.
SETTINGS = ["model=tiny", "train_size=48", "validation_size=8", "test_size=60", "batch_size=8", "threads=1"]
CURVES = ("train/loss", "train/learning_rate", "train/grad_norm", "eval/exact_match", "eval/f1", "eval/loss")
MEASURED = ("time/", "speed/", "memory/")
PATIENCE = 900.0  # seconds; a command that takes longer hangs


Process = subprocess.Popen[bytes] | Forked
Trial = TypeVar("Trial")


@dataclass(frozen=True)
class Outcome:
    """One trial: what was done, in the words of each table, and everything that was lost; nothing lost: survived."""

    tried: Mapping[str, str]
    lost: Sequence[str]


def chosen(trials: Mapping[str, Trial], arguments: argparse.Namespace) -> list[tuple[str, Trial]]:
    """The trials whose names contain one of the words of `--only`, each as often as `--times` says."""
    names = [name for name in trials if any(word in name for word in arguments.only)]
    return [(name, trials[name]) for name in names for _ in range(arguments.times)]


class NotTried(Exception):
    """A fault that cannot be made on this machine."""


@contextmanager
def scratch(keep: Path | None) -> Iterator[Path]:
    """Where the trials lie: a folder that was named, or a temporary one."""
    with tempfile.TemporaryDirectory(prefix="torture-") as temporary:
        Place.database = Path(temporary) / "mlflow.db"
        apart(make_database, Place.database)
        yield Path(temporary) if keep is None else keep.resolve()


def make_database(file: Path) -> None:
    MlflowClient(f"sqlite:///{file}").search_experiments()


@dataclass
class Place:
    """The folder of a trial: its store, caches and temporary files, and what its commands print."""

    folder: Path
    environment: Mapping[str, str | None] = field(default_factory=dict)  # None: the variable is not set
    at: Path | None = None  # another store
    uri: str | None = None  # of a database instead of the store's SQLite file
    fresh: bool = False  # start interpreters instead of forking
    new: bool = False  # begin without a database
    always_fresh: ClassVar[bool] = False
    database: ClassVar[Path | None] = None  # an empty one, which others begin with: its tables take seconds

    def __post_init__(self) -> None:
        for name in ("store", "cache", "tmp"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        if self.database is not None and not self.new and not self.at:
            shutil.copy(self.database, self.store / "mlflow.db")

    @property
    def store(self) -> Path:
        return self.at or self.folder / "store"

    @property
    def output(self) -> Path:
        return self.folder / "output.txt"

    def words(self, module: str, *arguments: str) -> list[str]:
        """`python -m src.MODULE ARGUMENTS` on this store."""
        key, at = "tracking.folder", str(self.store)
        where = assignment(key, at) if module in ("train", "settle") else f"{key}={at}"  # only Hydra needs quotes
        return [sys.executable, "-m", f"src.{module}", *arguments, where]

    @property
    def surroundings(self) -> dict[str, str]:
        """The environment of the commands."""
        own = {"HF_HOME": str(self.folder / "cache"), "TMPDIR": str(self.folder / "tmp"), "OMP_NUM_THREADS": "1"}
        merged: dict[str, str | None] = {**os.environ, **own, **self.environment}
        return {key: value for key, value in merged.items() if value is not None}

    def start(self, module: str, *arguments: str, output: Path | None = None) -> Process:
        """A command under way, as the leader of a process group."""
        words, output = self.words(module, *arguments), output or self.output
        output.touch()
        if not (self.fresh or self.always_fresh):
            return Forked(words[2:], ROOT, self.surroundings, output)
        with output.open("ab") as file:
            return subprocess.Popen(
                words,
                cwd=ROOT,
                env=self.surroundings,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                preexec_fn=os.setpgrp,
            )

    def finish(self, module: str, *arguments: str) -> tuple[int, str]:
        """Run a command to its end: exit status, and all that it printed."""
        output = self.folder / "last.txt"
        output.write_bytes(b"")
        process = self.start(module, *arguments, output=output)
        try:
            status = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        return status, output.read_text(encoding="utf-8", errors="replace")

    def client(self) -> MlflowClient:
        return MlflowClient(self.uri or f"sqlite:///{self.store / 'mlflow.db'}")


def runs(client: MlflowClient) -> tuple[list[Any], list[Any]]:
    """Parents and children of a store."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    everything = client.search_runs(experiments, max_results=1000)
    parents = [run for run in everything if run.data.tags.get("kind") == "sweep"]
    return parents, [run for run in everything if run not in parents]


def points(client: MlflowClient, run_id: str, key: str) -> list[Any]:
    """The values of a metric, in order."""
    return sorted(client.get_metric_history(run_id, key), key=lambda point: point.step)


def results(client: MlflowClient) -> dict[str, dict[str, Any]]:
    """Status, curves and final metrics by configuration, without what a clock or the system measured.

    Raises:
        AssertionError: a configuration is there twice.
    """
    by_hash: dict[str, dict[str, Any]] = {}
    for run in runs(client)[1]:
        key = run.data.tags["config_hash"]
        assert key not in by_hash, f"{key} is there twice"
        curves = {name: [(p.step, p.value) for p in points(client, run.info.run_id, name)] for name in CURVES}
        final = {k: v for k, v in run.data.metrics.items() if not k.startswith(MEASURED) and k not in CURVES}
        artifacts = sorted(item.path for item in client.list_artifacts(run.info.run_id))
        by_hash[key] = {"status": run.info.status, "artifacts": artifacts, **curves, **final}
    return by_hash


def differences(after: Mapping[str, Mapping[str, Any]], expected: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What is not as in an undisturbed store, as sentences."""
    sentences = [f"{name} is missing" for name in expected.keys() - after.keys()]
    sentences += [f"{name} should not be there" for name in after.keys() - expected.keys()]
    for name in expected.keys() & after.keys():
        for key in expected[name].keys() | after[name].keys():
            is_now, was = after[name].get(key), expected[name].get(key)
            if is_now != was:
                sentences.append(f"{name} {key}: {str(is_now)[:200]} instead of {str(was)[:200]}")
    return sentences


def left_over(place: Place) -> list[str]:
    """What a store that is at rest should not hold: runs that seem to run, checkpoints, half-written files."""
    parents, children = runs(place.client())
    sentences = [f"{run.info.run_name} stays RUNNING" for run in parents + children if run.info.status == "RUNNING"]
    stopped = {run.info.run_id for run in children if "stopped" in run.data.tags}  # these may be taken up again
    kept = [path for path in place.store.glob("checkpoints/*") if path.name not in stopped]
    kept += [*place.store.rglob("*.progress"), *(place.folder / "cache").rglob("unfinished-*")]
    return sentences + [f"{os.path.relpath(path, place.folder)} is left" for path in kept]


def no_traceback(text: str) -> list[str]:
    return ["a traceback was shown"] if "Traceback (most recent call last)" in text else []


def ended_well(status: int, text: str) -> list[str]:
    """What is wrong with the end of a command that should have done all of its work."""
    last = " / ".join(text.strip().splitlines()[-3:])[-300:]
    return ([f"exit status {status}: {last}"] if status else []) + no_traceback(text)


def said_why(status: int, text: str, sentence: str) -> list[str]:
    """What is wrong with the end of a command that should have given up with a sentence."""
    wrong = [] if status == 1 else [f"exit status {status} instead of 1"]
    said = [] if sentence in text else [f"it did not say '{sentence}': {' / '.join(text.splitlines()[-3:])[-300:]}"]
    return wrong + said + no_traceback(text)
