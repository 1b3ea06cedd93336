"""One run in MLflow: its parameters, metrics, inputs, artifacts and how it ended.

src.runs.store says where it goes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import pandas as pd
from filelock import FileLock
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from src.config import Config, UserError
from src.runs.identity import alive, config_hash, holder, who
from src.runs.naming import run_name
from src.runs.provenance import environment, git_commit
from src.runs.store import (
    AlreadyRunning,
    connect,
    experiment_id,
    finished_run,
    joined,
    keep_alive,
    mark_dead_runs,
    search,
    store_errors_explained,
)

PARAMS_A_BATCH = 100  # MLflow's limits
METRICS_A_BATCH = 1000
LONGEST_VALUE = 6000
FLUSH_SECONDS = 10.0
INPUT_TRIES = 3


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested mapping as `{"train.epochs": "3", ...}`; lists stay one value."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + str(key)] = str(value)
    return flat


def recorded(config: Config) -> dict[str, Any]:
    """The configuration as a run keeps it: without what belongs to the command that started it."""
    values = dataclasses.asdict(config)
    del values["sweep"], values["rerun"]
    return values


class _Nothing:
    """Stands in for the client where nothing is logged."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: self


class Stopped(UserError):
    """A run that is ended before its time, for a reason that is no failure."""


class RunLog:
    """A run of MLflow, RUNNING from `with` to its end: FINISHED, FAILED, or KILLED by Ctrl-C or SIGTERM.

    Entering it takes over an unfinished run of the same configuration that has left a checkpoint here, or begins a
    new one in place of those that have not. Metrics are collected and sent in batches, at the latest after
    FLUSH_SECONDS.
    """

    def __init__(self, config: Config, enabled: bool = True) -> None:
        """Connect to the store; with `enabled` false (the helping processes of one run) log nothing at all."""
        self.config = config
        self.config_hash = config_hash(config)
        self.client: Any = _Nothing()
        if enabled:
            self.client, _ = connect(config.tracking)
        self.pending: list[Metric] = []
        self.flushed = time.monotonic()
        self.run_id = ""
        self.resumed = False
        self.result: dict[str, Any] | None = None  # of a run that was whole but for its status
        self.logged: set[tuple[str, int]] = set()  # metric and step, by the attempts before this one
        self.ended = threading.Event()

    def finished(self) -> Run | None:
        """The run that has done this already."""
        if isinstance(self.client, _Nothing) or self.config.rerun:
            return None
        return finished_run(self.client, experiment_id(self.client, self.config.tracking), self.config_hash)

    @property
    def checkpoints(self) -> Path:
        """Where the run's checkpoints lie, on this machine."""
        return Path(self.config.tracking.folder).resolve() / "checkpoints" / self.run_id

    def __enter__(self) -> RunLog:
        """
        Raises:
            AlreadyRunning: a live process works on this configuration.
            UserError: the experiment takes no runs.
        """
        if isinstance(self.client, _Nothing):
            return self
        tracking = self.config.tracking
        Path(tracking.folder).mkdir(parents=True, exist_ok=True)
        try:
            # Two processes of this machine that want the same run decide one after the other.
            with FileLock(Path(tracking.folder).resolve() / "runs.lock"):
                self._claim(experiment_id(self.client, tracking))
        except MlflowException as error:  # its experiment was deleted, say
            raise UserError(
                f"tracking.experiment={tracking.experiment} takes no run ({str(error).splitlines()[0]}); restore it in "
                "the MLflow UI, or choose another name."
            ) from error
        keep_alive(self.client, self.run_id, self.ended)
        if self.resumed:
            return self
        try:
            params = [Param(key, value[:LONGEST_VALUE]) for key, value in flatten(recorded(self.config)).items()]
            for i in range(0, len(params), PARAMS_A_BATCH):
                self.client.log_batch(self.run_id, params=params[i : i + PARAMS_A_BATCH])
            self.text("environment.txt", environment())
        except BaseException:  # an interruption too must not leave the run RUNNING
            self._end("FAILED")
            raise
        return self

    def _claim(self, experiment: str) -> None:
        mark_dead_runs(self.client, experiment)
        same = search(self.client, experiment, f"tags.config_hash = '{self.config_hash}'")
        for run in same:
            if run.info.status == "RUNNING":
                raise AlreadyRunning(
                    f"{run_name(self.config)} is running already ({who(run.data.tags)}, run {run.info.run_id})."
                )
        unfinished = [] if self.config.rerun else [run for run in same if run.info.status != "FINISHED"]
        for run in unfinished:
            self.run_id = run.info.run_id
            self.result = self._whole_result()
            if self.result is not None or any(self.checkpoints.glob("step-*")):
                self._take_over(run)
                return
        self._create(experiment)
        for run in unfinished:  # nothing of them can be used: the new one stands for them
            self.client.set_tag(run.info.run_id, "superseded_by", self.run_id)
            self.client.delete_run(run.info.run_id)  # the UI shows it among the deleted ones

    def _create(self, experiment: str) -> None:
        config = self.config
        tags = {
            "mlflow.source.name": "src.train",
            "method": config.method.name,
            "model": config.model.name,
            "dataset": config.dataset.name,
            "seed": str(config.train.seed),
            "config_hash": self.config_hash,
            "git_commit": git_commit(),
            "command": " ".join(sys.argv[1:]),
            **self._membership({}),
            **holder(),
        }
        self.run_id = self.client.create_run(experiment, tags=tags, run_name=run_name(config)).info.run_id

    def record_failure(self, reason: str) -> None:
        """Put a run on record as FAILED whose process died without a word, or before the run began."""
        experiment = experiment_id(self.client, self.config.tracking)
        same = search(self.client, experiment, f"tags.config_hash = '{self.config_hash}'")
        if not same or same[0].info.status == "FINISHED":
            self._create(experiment)
            tags: Mapping[str, str] = {}
        else:
            self.run_id, status, tags = same[0].info.run_id, same[0].info.status, same[0].data.tags
            if status == "KILLED" or (status == "RUNNING" and alive(tags)):
                return
        self.tags({"error": reason[:LONGEST_VALUE], **self._membership(tags)})
        self.client.set_terminated(self.run_id, "FAILED")

    def _take_over(self, run: Run) -> None:
        tags, commits = run.data.tags, run.data.tags.get("git_commit", "").split(", ")
        self.resumed = True
        self.client.update_run(self.run_id, status="RUNNING")
        if "error" in tags:
            self.client.delete_tag(self.run_id, "error")
        self.tags(
            {
                **holder(),
                **self._membership(tags),
                "resumed": str(int(tags.get("resumed", 0)) + 1),
                "git_commit": ", ".join(dict.fromkeys([*commits, git_commit()])),
            }
        )
        self.logged = {
            (point.key, point.step)
            for key in run.data.metrics
            for point in self.client.get_metric_history(self.run_id, key)
        }

    def _membership(self, tags: Mapping[str, str]) -> dict[str, str]:
        """Tags for the parent that the UI nests the run under, and for all the sweeps that it is part of."""
        parent = self.config.sweep.parent
        return {} if parent is None else {"mlflow.parentRunId": parent, "sweep": joined(tags.get("sweep", ""), parent)}

    def _whole_result(self) -> dict[str, Any] | None:
        """What `result.json` says; it is written when all other artifacts are there."""
        if not any(item.path == "result.json" for item in self.client.list_artifacts(self.run_id)):
            return None
        with tempfile.TemporaryDirectory() as temporary:
            result: dict[str, Any] = json.loads(
                Path(self.client.download_artifacts(self.run_id, "result.json", temporary)).read_text(encoding="utf-8")
            )
            return result

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended.set()
        if error is None:
            try:
                self.flush()
                self.client.set_terminated(self.run_id, "FINISHED")
                return
            except MlflowException as failure:
                error = failure
        stopped = isinstance(error, KeyboardInterrupt | SystemExit | Stopped)
        if not isinstance(error, KeyboardInterrupt | SystemExit):
            key, text = ("stopped", str(error)) if stopped else ("error", f"{type(error).__name__}: {error}")
            self._quietly(lambda: self.tags({key: text[:LONGEST_VALUE]}))
        self._quietly(self.flush)
        self._end("KILLED" if stopped else "FAILED")
        if isinstance(error, MlflowException):
            with store_errors_explained():
                raise error

    def _end(self, status: str) -> None:
        self._quietly(lambda: self.client.set_terminated(self.run_id, status))

    @staticmethod
    def _quietly(action: Any) -> None:
        """On the way out of an error, a store that fails as well must not hide the first reason."""
        try:
            action()
        except (MlflowException, OSError) as error:
            print(f"The run's end could not be logged: {' '.join(str(error).split())[:200]}", file=sys.stderr)

    def metrics(self, values: Mapping[str, float], step: int = 0, at: float | None = None) -> None:
        """Collect metrics; `at` is in seconds since 1970, now by default."""
        timestamp = int((at or time.time()) * 1000)
        self.pending += [
            Metric(name, float(value), timestamp, step)
            for name, value in values.items()
            if (name, step) not in self.logged
        ]
        if time.monotonic() - self.flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Send what was collected: outside the clock, not by a thread beside it, which would be measured with it."""
        for i in range(0, len(self.pending), METRICS_A_BATCH):
            self.client.log_batch(self.run_id, metrics=self.pending[i : i + METRICS_A_BATCH])
        self.pending, self.flushed = [], time.monotonic()

    def tags(self, values: Mapping[str, str]) -> None:
        self.client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in values.items()])

    def inputs(self, datasets: Mapping[str, Any], source: str) -> None:
        """Log which examples were used, by a digest of ids and texts; `datasets` by context (train, validation)."""
        logged = []
        for context, dataset in datasets.items():
            digest = hashlib.sha256()
            for row in dataset:
                digest.update(json.dumps([row["id"], row["context"], row["question"], row["answers"]]).encode())
            profile = json.dumps({"num_rows": len(dataset)})
            entity = Dataset(source, digest.hexdigest()[:12], "local", json.dumps({"uri": source}), profile=profile)
            logged.append(DatasetInput(entity, [InputTag("mlflow.data.context", context)]))
        for tries_left in reversed(range(INPUT_TRIES)):
            try:
                self.client.log_inputs(self.run_id, logged)
                return
            except MlflowException:  # two runs that log the same new data set at once: the store refuses one of them
                if not tries_left:
                    raise

    def text(self, name: str, content: str) -> None:
        self.client.log_text(self.run_id, content, name)

    def json(self, name: str, content: Any) -> None:
        self.client.log_text(self.run_id, json.dumps(content, ensure_ascii=False, indent=1), name)

    def table(self, name: str, columns: dict[str, Sequence[Any]]) -> None:
        self.client.log_table(self.run_id, columns, name)

    def frame(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows as a compressed Parquet file."""
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary) / name
            pd.DataFrame(rows).to_parquet(file, compression="zstd", index=False)
            self.client.log_artifact(self.run_id, str(file))

    def figure(self, name: str, figure: Any) -> None:
        self.client.log_figure(self.run_id, figure, name)

    @contextmanager
    def folder(self, name: str) -> Any:
        """A temporary folder that becomes the artifact folder `name`."""
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
            self.client.log_artifacts(self.run_id, temporary, name)
