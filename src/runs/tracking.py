"""One run in MLflow: its parameters, metrics, inputs, artifacts and how it ended.

src.runs.store says where it goes.
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
from src.runs.identity import alive, describe_process, hashes, process_tags
from src.runs.naming import run_name
from src.runs.provenance import environment, git_commit, versions
from src.runs.records import SPENT, Input, Record, Status
from src.runs.store import (
    METRICS_A_BATCH,
    PARAMS_A_BATCH,
    AlreadyRunning,
    connect,
    joined,
    patience,
    quick_refusal,
    reason_of,
    store_failed,
)

LONGEST_VALUE = 6000
KEY = re.compile(r"[\w.-]{1,100}")
FLUSH_SECONDS = 10.0
CLAIMED = "claimed"  # tag of a run that no other machine has begun at the same moment


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested mapping as `{"train.epochs": "3", ...}`.

    One value stays what is a list, is empty, or has keys that MLflow does not take in a name, such as peft's patterns.
    """
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value and all(KEY.fullmatch(str(inside)) for inside in value):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + str(key)] = str(value)
    return flat


def recorded(config: Config) -> dict[str, Any]:
    """The configuration as a run keeps it: without secrets, and without what belongs to its command or to a plan."""
    values = dataclasses.asdict(config)
    del values["sweep"], values["rerun"], values["from_run"], values["model"]["shape"]
    clean: dict[str, Any] = without_secrets_in_values(values)
    return clean


def digest_of(questions: Iterable[Mapping[str, Any]]) -> str:
    """Twelve hexadecimal digits that stand for some questions: ids, passages, questions and answers."""
    digest = hashlib.sha256()
    for row in questions:
        digest.update(json.dumps([row["id"], row["context"], row["question"], row["answers"]]).encode())
    return digest.hexdigest()[:12]


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

    def __init__(
        self, config: Config, enabled: bool = True, warn: Callable[[str], None] = lambda sentence: None
    ) -> None:
        """Connect to the store.

        Args:
            config: of the run.
            enabled: false in the helping processes of one run, which log nothing at all.
            warn: is called where the store stops answering while the run goes on, and where it answers again.
        """
        self.config = config
        self.hashes = hashes(config)
        self.store: Any = connect(config.tracking) if enabled else _Nothing()
        self.client: Any = self.store.client if enabled else _Nothing()
        self.warn = warn
        self.pending: list[Metric] = []
        self.out_of_reach = False  # the store did not answer last time
        self.flushed = time.monotonic()
        self.run_id = ""
        self.resumed = False
        self.result: dict[str, Any] | None = None  # of a run that was whole but for its status
        self.logged: dict[tuple[str, int], float] = {}  # by metric and step, what the attempts before this one logged
        self.ended = threading.Event()

    def finished(self) -> Record | None:
        """The run that has done this already."""
        if isinstance(self.client, _Nothing) or self.config.rerun:
            return None
        done: Record | None = self.store.finished(self.hashes)
        return None if done is None or done.id == self.config.from_run else done

    @property
    def checkpoints(self) -> Path:
        """Where the run's checkpoints lie, on this machine."""
        return self._checkpoints_of(self.run_id)

    def _checkpoints_of(self, run_id: str) -> Path:
        return Path(self.config.tracking.folder).resolve() / "checkpoints" / run_id

    def begin(self, config: Config) -> RunLog:
        """The log, to be entered, of a run whose configuration is recorded as `config`.

        That is the one it is known by, with what its data have settled.
        """
        self.config = config
        return self

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
                self._claim()
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise store_failed(error) from error
            raise UserError(  # its experiment was deleted, say
                f"tracking.experiment={tracking.experiment} takes no run ({reason_of(error)}); restore it in the "
                "MLflow UI, or choose another name."
            ) from error
        self.store.keep_alive(self.run_id, self.ended)
        if self.resumed:
            return self
        try:
            self._log_params()
            self.text("environment.txt", environment())
        except BaseException:  # an interruption too must not leave the run RUNNING
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
        for run in unfinished:  # nothing of them can be used: the new one stands for them
            self.client.set_tag(run.id, "superseded_by", self.run_id)
            self.client.delete_run(run.id)  # the UI shows it among the deleted ones
            self._clear(run.id)

    def _clear(self, run_id: str) -> None:
        """Remove the beginning of a first checkpoint that a dead process has left; a whole one stays."""
        folder = self._checkpoints_of(run_id)
        shutil.rmtree(folder / "unfinished", ignore_errors=True)
        with suppress(OSError):  # it does not exist, or holds one that has become whole meanwhile
            folder.rmdir()

    def _check_again(self) -> None:
        """Give way to a run of another machine that was begun at the same moment: the file lock is of this machine.

        One that has passed this check goes before one that has not, the older before the younger.

        Raises:
            AlreadyRunning: the other one goes on.
        """

        def order(run: Record) -> tuple[bool, int, str]:
            return CLAIMED not in run.tags, run.started, run.id

        first = min((run for run in self.store.of_hash(self.hashes) if run.status is Status.RUNNING), key=order)
        if first.id != self.run_id:
            self.client.set_terminated(self.run_id, "KILLED")
            self.client.delete_run(self.run_id)
            raise AlreadyRunning(
                f"{run_name(self.config)} was begun at the same moment by {describe_process(first.tags)} "
                f"(run {first.id}), which goes on with it."
            )
        self.tags({CLAIMED: "true"})

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
            **self._membership({}),
            **process_tags(),
        }
        if config.from_run is not None:
            tags["reproduces"] = config.from_run
        created = self.client.create_run(self.store.experiment, tags=tags, run_name=run_name(config))
        self.run_id = created.info.run_id

    def record_failure(self, reason: str) -> None:
        """Put a run on record as FAILED whose process died without a word, or before the run began."""
        same: list[Record] = self.store.of_hash(self.hashes)
        if not same or same[0].finished:
            self._create()
            self._log_params()  # a comparison tells by them which run it was
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
            if not any(self.checkpoints.glob("step-*")):
                raise store_failed(error) from error
            raise UserError(
                f"The tracking store failed ({reason_of(error)}). What was trained is kept in "
                f"{self.checkpoints}; the same command goes on from there when the store answers again."
            ) from error

    def _end(self, status: str) -> None:
        self._quietly(lambda: self.client.set_terminated(self.run_id, status))

    @staticmethod
    def _quietly(action: Any) -> None:
        """On the way out of an error, a store that fails as well must not hide the first reason."""
        try:
            with quick_refusal():
                action()
        except (MlflowException, OSError) as error:
            print(f"The run's end could not be logged: {reason_of(error)}", file=sys.stderr)

    def metrics(self, values: Mapping[str, float], step: int = 0, at: float | None = None) -> None:
        """Collect metrics; `at` is in seconds since 1970, now by default."""
        timestamp = int((at or time.time()) * 1000)
        self.pending += [
            Metric(name, float(value), timestamp, step)
            for name, value in values.items()
            if (name, step) not in self.logged
        ]
        if time.monotonic() - self.flushed > FLUSH_SECONDS:
            self._try_to_flush()

    def final(self, values: Mapping[str, float]) -> None:
        """Collect metrics; they replace what an earlier attempt, whose end was not stored, has logged of them."""
        for name, value in values.items():
            if self.logged.get((name, 0)) != value:
                self.logged.pop((name, 0), None)
        self.metrics(values)

    def flush(self) -> None:
        """Send what was collected.

        In the training process's own thread, outside the clock: a second thread would be measured with the steps.

        Raises:
            MlflowException: the store does not take it; what it has not taken is kept.
        """
        while self.pending:
            self.client.log_batch(self.run_id, metrics=self.pending[:METRICS_A_BATCH])
            del self.pending[:METRICS_A_BATCH]
        self.flushed = time.monotonic()

    def _try_to_flush(self) -> None:
        """Send what was collected, or keep it for later and say so: training does not end with its store."""
        kept = len(self.pending)
        try:
            with quick_refusal():
                self.flush()
        except MlflowException as error:
            if not self.out_of_reach:
                reason = reason_of(error)
                self.warn(f"The tracking store does not answer ({reason}). Training goes on; metrics are sent later.")
            self.out_of_reach = True
        else:
            if self.out_of_reach:
                self.warn(f"The tracking store answers again; {kept:,} metrics have been sent.")
            self.out_of_reach = False
        self.flushed = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """What has not been sent yet, for the checkpoints."""
        return {"pending": [[metric.key, metric.value, metric.timestamp, metric.step] for metric in self.pending]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what an earlier attempt could not send."""
        stored = [Metric(*values) for values in state["pending"]]
        self.pending += [metric for metric in stored if (metric.key, metric.step) not in self.logged]

    def tags(self, values: Mapping[str, str]) -> None:
        self.client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in values.items()])

    def inputs(self, datasets: Mapping[str, Any], source: str) -> dict[str, str]:
        """Log which examples were used, by a digest of ids and texts, and return the digests.

        Args:
            datasets: by context (train, validation).
            source: the name of the data set.
        """
        logged = {}
        for context, dataset in datasets.items():
            logged[context] = Input(digest_of(dataset), len(dataset))
        self.store.log_inputs(self.run_id, source, logged)
        return {context: each.digest for context, each in logged.items()}

    def text(self, name: str, content: str) -> None:
        self.client.log_text(self.run_id, content, name)

    def json(self, name: str, content: Any) -> None:
        self.client.log_text(self.run_id, json.dumps(content, ensure_ascii=False, indent=1), name)

    def table(self, name: str, columns: dict[str, Sequence[Any]]) -> None:
        self.client.log_table(self.run_id, columns, name)

    def frame(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows as a compressed Parquet file."""
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
