"""The parent run of a sweep: its plan, its runs, and how it ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from src.config import TrackingConfig, UserError
from src.csv_text import csv_text
from src.metrics import Metric, Place, shown
from src.runs.identity import describe_process, process_tags
from src.runs.records import KIND, SWEEP, Record, Status
from src.runs.store import AlreadyRunning, Store, connect, joined, store_errors_explained

MARGIN = "margin"  # tag: sweep.margin, as it was when the parent was made
PLAN = "plan"  # tag: the plan of a settle command, as JSON


class ParentRun:
    """The MLflow run that the runs of a sweep are nested under. It has no metrics itself."""

    def __init__(self, store: Store, run_id: str, margin: float | None = None) -> None:
        self.store, self.run_id = store, run_id
        self.margin = margin  # named before the first run; None if no margin was named then
        self.ended = threading.Event()

    @classmethod
    @store_errors_explained()
    def begin(
        cls,
        tracking: TrackingConfig,
        name: str | None,
        otherwise: str,
        identity: str,
        command: str,
        planned: int,
        fresh: bool,
        margin: float | None = None,
        plan: str | None = None,
    ) -> ParentRun:
        """Continue the parent run of the same sweep, or create one.

        Args:
            tracking: the store.
            name: the requested name; an existing parent is renamed.
            otherwise: the name of a new parent if none was requested.
            identity: equal for sweeps over the same runs.
            command: that starts the sweep.
            planned: the number of runs.
            fresh: create a parent in any case.
            margin: points of F1 that a cheaper method may lose; an existing parent keeps its first one.
            plan: of a settle command, as JSON; an existing parent keeps its first one.

        Raises:
            AlreadyRunning: a live process works on the same sweep.
            UserError: the store fails.
        """
        store = connect(tracking)
        with FileLock(Path(tracking.folder).resolve() / "runs.lock"):
            store.mark_dead_runs()
            same = store.runs(f"tags.sweep_hash = '{identity}'")
            for record in same:
                if record.status is Status.RUNNING:
                    raise AlreadyRunning(
                        f"The same sweep is running already ({describe_process(record.tags)}); let it finish."
                    )
            tags = {KIND: SWEEP, "sweep_hash": identity, "command": command, "planned": str(planned), **process_tags()}
            if same and not fresh:
                first = same[0].tags.get(MARGIN)
                parent = cls(store, same[0].id, None if first is None else float(first))
                store.client.update_run(parent.run_id, status="RUNNING", name=name)
                store.tag(parent.run_id, tags)
            else:
                tags_of_new = {"mlflow.source.name": "src.train", **tags}
                if margin is not None:
                    tags_of_new[MARGIN] = str(margin)
                if plan is not None:
                    tags_of_new[PLAN] = plan
                created = store.client.create_run(store.experiment, tags=tags_of_new, run_name=name or otherwise)
                parent = cls(store, created.info.run_id, margin)
        store.keep_alive(parent.run_id, parent.ended)
        store.client.log_text(parent.run_id, command + "\n", "command.txt")
        return parent

    @classmethod
    def of(cls, tracking: TrackingConfig, run_id: str) -> ParentRun:
        """The parent run with an id that a job was given.

        Raises:
            UserError: there is no such run, or it is not the parent of a sweep.
        """
        store = connect(tracking)
        if not store.is_parent(run_id):
            raise UserError(
                f"sweep.parent={run_id} is not the parent run of a sweep; leave it out: a sweep sets it for its runs."
            )
        return cls(store, run_id)

    @property
    def tags(self) -> dict[str, str]:
        return self.store.record(self.run_id).tags

    def started(self, done: int) -> None:
        """Store the start time and the number of runs that were done before; the time left is estimated from them."""
        self.store.tag(self.run_id, {"attempt_started": f"{time.time():.0f}", "done_before": str(done)})

    def include(self, run: Record) -> None:
        """Add a run that was done before to this sweep; it stays nested under its first parent."""
        self.store.tag(run.id, {"sweep": joined(run.tags.get("sweep", ""), self.run_id)})

    def members(self) -> list[Record]:
        """The runs of the sweep, the oldest first."""
        return self.store.members(self.run_id)

    def end(self, status: Status, members: Sequence[Record]) -> None:
        """Log the table of all runs, and end as FINISHED, FAILED or KILLED."""
        columns = shown(Place.CSV, (key for run in members for key in _metrics(run)))
        rows = [_row(run, columns) for run in members]
        if rows:
            text = csv_text([rows[0], *(row.values() for row in rows)])
            self.store.client.log_text(self.run_id, text, "table.csv")
        self.ended.set()
        self.store.client.set_terminated(self.run_id, status.in_mlflow)


def _metrics(run: Record) -> dict[str, float]:
    """The metrics of a finished run; empty for other runs."""
    return run.metrics if run.finished else {}


def _row(run: Record, columns: Sequence[Metric]) -> dict[str, Any]:
    """The row of a run in table.csv, with unrounded values."""
    metrics = _metrics(run)
    return {
        "run": run.name,
        "status": run.status.in_mlflow,
        **{entry.heading: metrics.get(entry.key, "") for entry in columns},
        "run id": run.id,
        "error": run.tags.get("error", ""),
    }
