"""The parent run of a sweep: what was planned, which runs are part of it, and how it ended."""

from __future__ import annotations

import csv
import io
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Run, RunTag

from src.config import TrackingConfig
from src.metrics import Metric, Place, shown
from src.runs.identity import holder, who
from src.runs.store import AlreadyRunning, connect, experiment_id, joined, keep_alive, mark_dead_runs, search


class ParentRun:
    """A run of MLflow that the runs of one sweep are nested under. It has no figures of its own."""

    def __init__(self, client: MlflowClient, experiment: str, run_id: str) -> None:
        self.client, self.experiment, self.run_id = client, experiment, run_id
        self.ended = threading.Event()

    @classmethod
    def begin(
        cls,
        tracking: TrackingConfig,
        name: str | None,
        otherwise: str,
        identity: str,
        command: str,
        planned: int,
        fresh: bool,
    ) -> ParentRun:
        """Take up the parent of the same sweep, or make one.

        Args:
            tracking: the store.
            name: that was asked for; a parent that is taken up is renamed.
            otherwise: the name of a new parent where none was asked for.
            identity: equal for sweeps over the same runs.
            command: that makes the sweep.
            planned: number of runs.
            fresh: make one in any case.

        Raises:
            AlreadyRunning: a live process works on the same sweep.
        """
        client, _ = connect(tracking)
        experiment = experiment_id(client, tracking)
        with FileLock(Path(tracking.folder).resolve() / "runs.lock"):
            mark_dead_runs(client, experiment)
            same = search(client, experiment, f"tags.sweep_hash = '{identity}'")
            for run in same:
                if run.info.status == "RUNNING":
                    raise AlreadyRunning(f"The same sweep is running already ({who(run.data.tags)}); let it finish.")
            tags = {"kind": "sweep", "sweep_hash": identity, "command": command, "planned": str(planned), **holder()}
            if same and not fresh:
                parent = cls(client, experiment, same[0].info.run_id)
                client.update_run(parent.run_id, status="RUNNING", name=name)
                parent.tag(tags)
            else:
                tags_of_new = {"mlflow.source.name": "src.train", **tags}
                created = client.create_run(experiment, tags=tags_of_new, run_name=name or otherwise)
                parent = cls(client, experiment, created.info.run_id)
        keep_alive(client, parent.run_id, parent.ended)
        client.log_text(parent.run_id, command + "\n", "command.txt")
        return parent

    @classmethod
    def of(cls, tracking: TrackingConfig, run_id: str) -> ParentRun:
        """The parent that a job was given."""
        client, _ = connect(tracking)
        return cls(client, experiment_id(client, tracking), run_id)

    def tag(self, tags: Mapping[str, str]) -> None:
        self.client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    @property
    def tags(self) -> dict[str, str]:
        found: dict[str, str] = self.client.get_run(self.run_id).data.tags
        return found

    def started(self, done: int) -> None:
        """Note when the work began and how many runs were done before: what the time left is reckoned from."""
        self.tag({"attempt_started": f"{time.time():.0f}", "done_before": str(done)})

    def include(self, run: Run) -> None:
        """Make a run that was done before a part of this sweep; it stays where it is nested."""
        self.client.set_tag(run.info.run_id, "sweep", joined(run.data.tags.get("sweep", ""), self.run_id))

    def members(self) -> list[Run]:
        """The runs of the sweep, the oldest first."""
        return search(self.client, self.experiment, f"tags.sweep LIKE '%{self.run_id}%'")[::-1]

    def end(self, status: str, members: Sequence[Run]) -> None:
        """Log the table of all runs, and end as FINISHED, FAILED or KILLED."""
        columns = shown(Place.CSV, (key for run in members for key in _metrics(run)))
        rows = [_row(run, columns) for run in members]
        if rows:
            text = io.StringIO()
            writer = csv.DictWriter(text, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
            self.client.log_text(self.run_id, text.getvalue(), "table.csv")
        self.ended.set()
        self.client.set_terminated(self.run_id, status)


def _metrics(run: Run) -> dict[str, float]:
    """What a finished run has measured; nothing of any other."""
    return dict(run.data.metrics) if run.info.status == "FINISHED" else {}


def _row(run: Run, columns: Sequence[Metric]) -> dict[str, Any]:
    """The row of a run: values in full, as a program wants them."""
    metrics = _metrics(run)
    return {
        "run": run.info.run_name,
        "status": run.info.status,
        **{entry.heading: metrics.get(entry.key, "") for entry in columns},
        "run id": run.info.run_id,
        "error": run.data.tags.get("error", ""),
    }
