"""Logs one run to MLflow: its parameters, metrics, inputs, artifacts and how it ended.

`src.runs.store` is the store that it is logged to.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import pandas as pd
from filelock import FileLock
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from src.config import Config, UserError
from src.credentials import without_secrets_in_values
from src.harmless import json_text
from src.runs.identity import alive, describe_process, hashes, process_tags
from src.runs.naming import run_name
from src.runs.provenance import environment, git_commit, versions
from src.runs.records import SPENT, Input, Record, Status
from src.runs.store import (
    METRICS_A_BATCH,
    PARAMS_A_BATCH,
    STORE_ERRORS,
    AlreadyRunning,
    connect,
    joined,
    patience,
    quick_refusal,
    reason_of,
    store_errors_explained,
    store_failed,
)

LONGEST_VALUE = 6000
KEY = re.compile(r"[\w.-]{1,100}")
FLUSH_SECONDS = 10.0
LONGEST_WAIT = 16  # the most, in FLUSH_SECONDS, between attempts at a server that does not answer: each may take 20 s
CLAIMED = "claimed"  # tag of a run that has checked that no other machine started it at the same moment
REQUEST = "request_id"  # tag: drawn for each request to create a run


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten a nested mapping to `{"train.epochs": "3", ...}`.

    A list, an empty mapping, and a mapping with keys that MLflow does not allow in names (such as peft's patterns) stay
    a single value.
    """
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value and all(KEY.fullmatch(str(inside)) for inside in value):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + str(key)] = str(value)
    return flat


def recorded(config: Config) -> dict[str, Any]:
    """The configuration as a run stores it: without secrets, and without keys that belong to its command or plan."""
    values = dataclasses.asdict(config)
    del values["sweep"], values["rerun"], values["from_run"], values["model"]["shape"]
    clean: dict[str, Any] = without_secrets_in_values(values)
    return clean


def digest_of(questions: Iterable[Mapping[str, Any]]) -> str:
    """A hash of some questions, twelve hexadecimal digits, over ids, passages, questions and answers."""
    digest = hashlib.sha256()
    for row in questions:
        digest.update(json.dumps([row["id"], row["context"], row["question"], row["answers"]]).encode())
    return digest.hexdigest()[:12]


class _Nothing:
    """Replaces the client where nothing is logged."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: self


class Stopped(UserError):
    """Ends a run early for a reason that is not a failure."""


class RunLog:
    """An MLflow run as a context manager: RUNNING inside, then FINISHED, FAILED, or KILLED by Ctrl-C or SIGTERM.

    Entering it resumes an unfinished run of the same configuration that left a checkpoint on this machine, or starts a
    new run that replaces unfinished ones without a checkpoint. Metrics are collected and sent in batches, at the latest
    after FLUSH_SECONDS; while the store does not answer, less and less often.
    """

    def __init__(
        self, config: Config, enabled: bool = True, warn: Callable[[str], None] = lambda sentence: None
    ) -> None:
        """Connect to the store.

        Args:
            config: of the run.
            enabled: false in the processes of a run other than the main one, which log nothing.
            warn: called when the store stops answering during the run, and when it answers again.
        """
        self.config = config
        self.hashes = hashes(config)
        self.store: Any = connect(config.tracking) if enabled else _Nothing()
        self.client: Any = self.store.client if enabled else _Nothing()
        self.warn = warn
        self.pending: list[Metric] = []
        self.out_of_reach = False  # whether the store did not answer last time
        self.wait = 1  # in FLUSH_SECONDS, until metrics are sent again
        self.flushed = time.monotonic()
        self.request = uuid.uuid4().hex
        self.run_id = ""
        self.resumed = False
        self.result: dict[str, Any] | None = None  # of a run that was complete but for its status
        self.logged: dict[tuple[str, int], float] = {}  # values of earlier attempts, by metric and step
        self.ended = threading.Event()
        self.end_failed = False  # whether it has been said that the end could not be logged

    def finished(self) -> Record | None:
        """The finished run of this configuration, if any."""
        if isinstance(self.client, _Nothing) or self.config.rerun:
            return None
        done: Record | None = self.store.finished(self.hashes)
        return None if done is None or done.id == self.config.from_run else done

    @property
    def checkpoints(self) -> Path:
        """The folder of the run's checkpoints on this machine."""
        return self._checkpoints_of(self.run_id)

    def _checkpoints_of(self, run_id: str) -> Path:
        return Path(self.config.tracking.folder).resolve() / "checkpoints" / run_id

    def begin(self, config: Config) -> RunLog:
        """Set the configuration to record, which may hold values that depend on the data; returns this log to enter.

        The identity of the run stays that of the configuration that the log was created with.
        """
        self.config = config
        return self

    def __enter__(self) -> RunLog:
        """
        Raises:
            AlreadyRunning: a live process works on this configuration.
            UserError: the experiment does not accept runs.
        """
        if isinstance(self.client, _Nothing):
            return self
        tracking = self.config.tracking
        Path(tracking.folder).mkdir(parents=True, exist_ok=True)
        try:
            # The lock keeps two processes of this machine from starting the same run.
            with FileLock(Path(tracking.folder).resolve() / "runs.lock"):
                self._claim()
        except STORE_ERRORS as error:
            if getattr(error, "error_code", None) != "INVALID_PARAMETER_VALUE":
                raise store_failed(error) from error
            raise UserError(  # such as a deleted experiment
                f"tracking.experiment={tracking.experiment} takes no run ({reason_of(error)}); restore it in the "
                "MLflow UI, or choose another name."
            ) from error
        self.store.keep_alive(self.run_id, self.ended)
        if self.resumed:
            return self
        try:
            with store_errors_explained():
                self._log_params()
                self.text("environment.txt", environment())
        except BaseException:  # also an interruption must not leave the run RUNNING
            self._end("FAILED")
            raise
        return self

    def _log_params(self) -> None:
        params = [Param(key, value[:LONGEST_VALUE]) for key, value in flatten(recorded(self.config)).items()]
        for i in range(0, len(params), PARAMS_A_BATCH):
            self.client.log_batch(self.run_id, params=params[i : i + PARAMS_A_BATCH])

    def _claim(self) -> None:
        self.store.mark_dead_runs()
        same: list[Record] = self.store.of_hash(self.hashes)
        for run in same:
            if run.status is Status.RUNNING:
                raise AlreadyRunning(
                    f"{run_name(self.config)} is running already ({describe_process(run.tags)}, run {run.id})."
                )
        unfinished = [] if self.config.rerun else [run for run in same if not run.finished]
        for run in unfinished:
            self.run_id = run.id
            self.result = self._whole_result()
            if self.result is not None or any(self.checkpoints.glob("step-*")):
                self._take_over(run)
                return
        self._create()
        spent = [float(run.tags[SPENT]) for run in unfinished if SPENT in run.tags]
        if spent:
            self.tags({SPENT: f"{sum(spent):.1f}"})
        self._check_again()
        for run in unfinished:  # nothing of them can be used, and the new run replaces them
            self.client.set_tag(run.id, "superseded_by", self.run_id)
            self.client.delete_run(run.id)  # the UI lists it among the deleted runs
            self._clear(run.id)

    def _clear(self, run_id: str) -> None:
        """Remove an unfinished first checkpoint of a dead process; complete checkpoints stay."""
        folder = self._checkpoints_of(run_id)
        shutil.rmtree(folder / "unfinished", ignore_errors=True)
        with suppress(OSError):  # it does not exist, or it holds a checkpoint that was completed meanwhile
            folder.rmdir()

    def _check_again(self) -> None:
        """Give way to a run that another machine started at the same moment, since file locks are local to a machine.

        A run that has passed this check has priority over one that has not, and otherwise the older one. If a server
        answered too late, was asked again and made a second run, that run is deleted.

        Raises:
            AlreadyRunning: the other run has priority.
        """

        def order(run: Record) -> tuple[bool, int, str]:
            return CLAIMED not in run.tags, run.started, run.id

        running = [run for run in self.store.of_hash(self.hashes) if run.status is Status.RUNNING]
        for run in running:
            if run.tags.get(REQUEST) == self.request and run.id != self.run_id:
                self._discard(run.id)
        first = min(
            (run for run in running if run.tags.get(REQUEST) != self.request or run.id == self.run_id), key=order
        )
        if first.id != self.run_id:
            self._discard(self.run_id)
            raise AlreadyRunning(
                f"{run_name(self.config)} was begun at the same moment by {describe_process(first.tags)} "
                f"(run {first.id}), which continues with it."
            )
        self.tags({CLAIMED: "true"})

    def _discard(self, run_id: str) -> None:
        self.client.set_terminated(run_id, "KILLED")
        self.client.delete_run(run_id)

    def _create(self) -> None:
        config = self.config
        tags = {
            "mlflow.source.name": "src.train",
            "method": config.method.name,
            "model": config.model.name,
            "dataset": config.dataset.name,
            "seed": str(config.train.seed),
            "config_hash": self.hashes.present,
            "git_commit": git_commit(),
            "versions": versions(),
            "command": " ".join(sys.argv[1:]),
            REQUEST: self.request,
            **self._membership({}),
            **process_tags(),
        }
        if config.from_run is not None:
            tags["reproduces"] = config.from_run
        created = self.client.create_run(self.store.experiment, tags=tags, run_name=run_name(config))
        self.run_id = created.info.run_id

    def record_failure(self, reason: str) -> None:
        """Record a run as FAILED whose process died without logging it, or before the run began."""
        same: list[Record] = self.store.of_hash(self.hashes)
        if not same or same[0].finished:
            self._create()
            self._log_params()  # a comparison identifies the run by them
            tags: Mapping[str, str] = {}
        else:
            self.run_id, status, tags = same[0].id, same[0].status, same[0].tags
            if status in (Status.KILLED, Status.PRUNED) or (status is Status.RUNNING and alive(tags)):
                return
        self.tags({"error": reason[:LONGEST_VALUE], **self._membership(tags)})
        self.client.set_terminated(self.run_id, "FAILED")

    def _take_over(self, run: Record) -> None:
        tags, commits = run.tags, run.tags.get("git_commit", "").split(", ")
        self.resumed = True
        self.client.update_run(self.run_id, status="RUNNING")
        for ending in {"error", "stopped"} & tags.keys():
            self.client.delete_tag(self.run_id, ending)
        self.tags(
            {
                **process_tags(),
                **self._membership(tags),
                "resumed": str(int(tags.get("resumed", 0)) + 1),
                "git_commit": ", ".join(dict.fromkeys([*commits, git_commit()])),
                "versions": "; ".join(dict.fromkeys([*filter(None, [tags.get("versions")]), versions()])),
            }
        )
        self.logged = {
            (point.key, point.step): point.value
            for key in run.metrics
            for point in self.client.get_metric_history(self.run_id, key)
        }

    def _membership(self, tags: Mapping[str, str]) -> dict[str, str]:
        """The tags for the parent that the UI nests the run under, and for all sweeps that the run belongs to."""
        parent = self.config.sweep.parent
        return {} if parent is None else {"mlflow.parentRunId": parent, "sweep": joined(tags.get("sweep", ""), parent)}

    def _whole_result(self) -> dict[str, Any] | None:
        """The content of `result.json`, which is written after all other artifacts; None if it does not exist."""
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
            except STORE_ERRORS as failure:
                error = failure
        self.end_failed = isinstance(error, STORE_ERRORS)  # which says so itself
        stopped = isinstance(error, KeyboardInterrupt | SystemExit | Stopped)
        if not isinstance(error, KeyboardInterrupt | SystemExit):
            key, text = ("stopped", str(error)) if stopped else ("error", f"{type(error).__name__}: {error}")
            self._quietly(lambda: self.tags({key: text[:LONGEST_VALUE]}))
        self._quietly(self.flush)
        self._end("KILLED" if stopped else "FAILED")
        if isinstance(error, STORE_ERRORS):
            if not any(self.checkpoints.glob("step-*")):
                raise store_failed(error) from error
            raise UserError(
                f"The tracking store failed ({reason_of(error)}). What was trained is kept in "
                f"{self.checkpoints}; the same command continues from there when the store answers again."
            ) from error

    def _end(self, status: str) -> None:
        self._quietly(lambda: self.client.set_terminated(self.run_id, status))

    def _quietly(self, action: Any) -> None:
        """Do something while an error is handled: if the store fails as well, that must not hide the first error."""
        try:
            with quick_refusal():
                action()
        except (MlflowException, OSError) as error:
            if not self.end_failed:
                print(f"The run's end could not be logged: {reason_of(error)}", file=sys.stderr)
            self.end_failed = True

    def metrics(self, values: Mapping[str, float], step: int = 0, at: float | None = None) -> None:
        """Collect metrics, which are sent later.

        Args:
            values: by the keys of the metrics.
            step: of the values.
            at: seconds since 1970; None for now.
        """
        timestamp = int((at or time.time()) * 1000)
        self.pending += [
            Metric(name, float(value), timestamp, step)
            for name, value in values.items()
            if (name, step) not in self.logged
        ]
        if time.monotonic() - self.flushed > self.wait * FLUSH_SECONDS:
            self._try_to_flush()

    def final(self, values: Mapping[str, float]) -> None:
        """Collect the final metrics; they replace values of an earlier attempt whose end was not stored."""
        for name, value in values.items():
            if self.logged.get((name, 0)) != value:
                self.logged.pop((name, 0), None)
        self.metrics(values)

    def flush(self) -> None:
        """Send the collected metrics.

        This happens in the main thread while the clock is stopped; a second thread would slow down measured steps.

        Raises:
            MlflowException: the store does not accept them; those that were not sent are kept.
        """
        while self.pending:
            self.client.log_batch(self.run_id, metrics=self.pending[:METRICS_A_BATCH])
            del self.pending[:METRICS_A_BATCH]
        self.flushed = time.monotonic()

    def _try_to_flush(self) -> None:
        """Send the collected metrics, or keep them for later with a warning: training survives a failing store."""
        kept = len(self.pending)
        try:
            with quick_refusal():
                self.flush()
        except MlflowException as error:
            if not self.out_of_reach:
                reason = reason_of(error)
                self.warn(f"The tracking store does not answer ({reason}). Training continues; metrics are sent later.")
            self.out_of_reach, self.wait = True, min(2 * self.wait, LONGEST_WAIT)
        else:
            if self.out_of_reach:
                self.warn(f"The tracking store answers again; {kept:,} metrics have been sent.")
            self.out_of_reach, self.wait = False, 1
        self.flushed = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """The metrics that have not been sent yet, for checkpoints."""
        return {"pending": [[metric.key, metric.value, metric.timestamp, metric.step] for metric in self.pending]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the metrics that an earlier attempt could not send."""
        stored = [Metric(*values) for values in state["pending"]]
        self.pending += [metric for metric in stored if (metric.key, metric.step) not in self.logged]

    def tags(self, values: Mapping[str, str]) -> None:
        self.client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in values.items()])

    def inputs(self, datasets: Mapping[str, Any], source: str) -> dict[str, str]:
        """Log which questions are used, by a digest of ids and texts.

        Args:
            datasets: by context (train, validation).
            source: the name of the data set.

        Returns:
            The digests, by context.
        """
        logged = {}
        for context, dataset in datasets.items():
            logged[context] = Input(digest_of(dataset), len(dataset))
        self.store.log_inputs(self.run_id, source, logged)
        return {context: each.digest for context, each in logged.items()}

    def text(self, name: str, content: str) -> None:
        self.client.log_text(self.run_id, content, name)

    def json(self, name: str, content: Any) -> None:
        self.client.log_text(self.run_id, json_text(content, indent=1), name)

    def table(self, name: str, columns: dict[str, Sequence[Any]]) -> None:
        self.client.log_table(self.run_id, columns, name)

    def frame(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log rows as a compressed Parquet file."""
        self.store.log_table(self.run_id, name, pd.DataFrame(rows))

    def figure(self, name: str, figure: Any) -> None:
        self.client.log_figure(self.run_id, figure, name)

    @contextmanager
    def folder(self, name: str) -> Any:
        """A temporary folder that becomes the artifact folder `name`."""
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
            with patience():
                self.client.log_artifacts(self.run_id, temporary, name)
