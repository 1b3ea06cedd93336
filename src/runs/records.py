"""Records of runs: plain values, wherever they are kept (a store of MLflow's, or a file that runs were exported to)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, Protocol

import pandas as pd

from src.config import UserError

QUESTIONS = "questions.parquet"  # the artifact that holds a run's scores by question
KIND, SWEEP = "kind", "sweep"  # the tag that tells the parent run of a sweep from other runs, and its value


class Status(Enum):
    """How a run stands or how it ended; printed as its value."""

    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"
    PRUNED = "pruned"  # MLflow knows it as KILLED, with the tag `stopped`

    def __str__(self) -> str:
        return self.value

    @property
    def in_mlflow(self) -> str:
        """MLflow's name for it."""
        return "KILLED" if self is Status.PRUNED else self.value


class Input(NamedTuple):
    """A set of questions that a run was trained or scored on."""

    digest: str
    rows: int


class Source(Protocol):
    """What keeps runs; a record asks it for whatever is larger than a line."""

    @property
    def name(self) -> str:
        """What its runs are called together."""

    @property
    def selection(self) -> Selection | None:
        """The choice of runs that was made when they were exported; None for a store."""

    def runs(self, condition: str = "") -> list[Record]:
        """All runs and parent runs that meet a condition in MLflow's language, the newest first."""

    def sweeps(self) -> list[Record]:
        """The parent runs of all sweeps, the newest first."""

    def members(self, sweep: str) -> list[Record]:
        """The runs of a sweep, by the id of its parent run, the oldest first."""

    def points(self, run_id: str, metric: str) -> pd.DataFrame:
        """Columns `step`, `timestamp` (milliseconds since 1970) and `value`: one metric of a run, sorted by step."""

    def questions(self, run_id: str, columns: Sequence[str] | None = None) -> pd.DataFrame | None:
        """The columns of a run's scores by question, or all; None where the run kept none.

        Raises OSError, ValueError or KeyError where they are damaged.
        """


@dataclass(frozen=True, eq=False)
class Record:
    """One run. Its curves and its scores by question are read when they are asked for."""

    id: str
    name: str
    status: Status
    started: int  # milliseconds since 1970, as is `ended`
    ended: int | None
    params: dict[str, str]
    metrics: dict[str, float]  # the last value of each
    tags: dict[str, str]
    inputs: dict[str, Input]  # by context (train, validation)
    source: Source = field(repr=False)

    @property
    def finished(self) -> bool:
        return self.status is Status.FINISHED

    @property
    def failed(self) -> bool:
        return self.status is Status.FAILED

    @property
    def pruned(self) -> bool:
        return self.status is Status.PRUNED

    @property
    def is_sweep(self) -> bool:
        """Whether it is the parent run of a sweep."""
        return self.tags.get(KIND) == SWEEP

    @property
    def sweeps(self) -> list[str]:
        """The ids of the sweeps that it is part of."""
        return self.tags.get("sweep", "").split()

    @property
    def seed(self) -> str:
        return self.params.get("train.seed", "")

    def history(self, metric: str) -> pd.DataFrame:
        """Columns `step`, `seconds` (since the first value) and `value`, in the order of the steps."""
        points = self.source.points(self.id, metric)
        begin = points["timestamp"].iloc[0] if len(points) else 0
        seconds = (points["timestamp"] - begin) / 1000
        return pd.DataFrame({"step": points["step"], "seconds": seconds, "value": points["value"]})

    def questions(self, columns: Sequence[str] | None = None, split: str = "validation") -> pd.DataFrame | None:
        """Each question of a split with its scores (0 to 1) and texts, by `id`; None where the run kept none.

        Raises:
            UserError: they are damaged.
        """
        try:
            table = self.source.questions(self.id)
            if table is None:
                return None
            table = table.set_index("id")
            if "split" in table:
                table = table[table["split"] == split]
            for key in ("passage", "article"):
                if key not in table:
                    table[key] = table["context"] if "context" in table and key == "passage" else None
            return table if columns is None else table[list(columns)]
        except (OSError, ValueError, KeyError) as error:  # what pyarrow and pandas make of a damaged file
            reason = " ".join(str(error).split())[:150]
            raise UserError(f"{QUESTIONS} of run {self.id[:8]} ({self.name}) cannot be read ({reason})") from error


@dataclass(frozen=True)
class Selection:
    """The runs to compare: what they are called together, and the parent runs of the sweeps they make up, if any."""

    title: str
    results: list[Record]
    parents: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # on how names of runs were understood
