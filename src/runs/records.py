"""Records of runs as plain values, from an MLflow store or from a file of exported runs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, Protocol

import pandas as pd

from src.config import UserError, one_line

QUESTIONS = "questions.parquet"  # the artifact that holds a run's scores by question
# The sets that a run is scored on: settings are chosen on the first, and nothing on the second.
VALIDATION, TEST = "validation", "test"
# Columns of QUESTIONS that version 0.1 did not have: the set, the article's title, hashes of article and passage.
PLACES = ("split", "title", "article", "passage")
SPENT = "spent_seconds"  # tag: wall time of all attempts that sweeps made at a run
# The tag that marks the parent run of a sweep, and its value. In QUESTIONS, the column of the same name holds the kind
# of an answer (src/evaluation/kinds.py), which version 0.1 did not store.
KIND, SWEEP = "kind", "sweep"


class Status(Enum):
    """The status of a run; printed as its value."""

    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"
    PRUNED = "pruned"  # stored in MLflow as KILLED, with the tag `stopped`

    def __str__(self) -> str:
        return self.value

    @property
    def in_mlflow(self) -> str:
        """MLflow's name for the status."""
        return "KILLED" if self is Status.PRUNED else self.value


class Input(NamedTuple):
    """A set of questions that a run was trained or scored on."""

    digest: str
    rows: int


class Source(Protocol):
    """A store or file that holds runs; records read their larger parts from it."""

    @property
    def name(self) -> str:
        """A name for its runs together."""

    @property
    def selection(self) -> Selection | None:
        """The selection that was made when the runs were exported; None for a store."""

    def runs(self, condition: str = "") -> list[Record]:
        """All runs and parent runs that meet a condition in MLflow's language, the newest first."""

    def sweeps(self) -> list[Record]:
        """The parent runs of all sweeps, the newest first."""

    def members(self, sweep: str) -> list[Record]:
        """The runs of a sweep, by the id of its parent run, the oldest first."""

    def points(self, run_id: str, metric: str) -> pd.DataFrame:
        """Columns `step`, `timestamp` (milliseconds since 1970) and `value`: one metric of a run, sorted by step."""

    def questions(self, run_id: str, columns: Sequence[str] | None = None) -> pd.DataFrame | None:
        """The scores by question of a run, with the given columns as far as it has them (`to_read`); None without them.

        Raises OSError, ValueError or KeyError if they are damaged.
        """


def short_key(text: str) -> str:
    """A hash of a passage or a title, twelve hexadecimal digits; differences in white space do not matter."""
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()[:12]


@dataclass(frozen=True, eq=False)
class Record:
    """One run. Its curves and scores by question are read when they are needed."""

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
        """The ids of the sweeps that the run belongs to."""
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

    def questions(self, columns: Sequence[str] | None = None, split: str | None = VALIDATION) -> pd.DataFrame | None:
        """The scores (0 to 1), texts and clusters of the questions of one set, with `id` as index.

        Args:
            columns: to read; None for all.
            split: the set, VALIDATION or TEST; None for both, in which case an id may occur twice.

        Returns:
            None if the run kept no scores of that set. If a run of version 0.1 kept no texts, `article` and `passage`
            are None in each row.

        Raises:
            UserError: the file is damaged.
        """
        try:
            table = self.source.questions(self.id, None if columns is None else ["id", "split", *columns])
            if table is None:
                return None
            table = _with_places(table)
            if split is not None:
                table = table[table["split"] == split].drop(columns="split")
            table = table.set_index("id")
            return None if table.empty else table if columns is None else table[list(columns)]
        except (OSError, ValueError, KeyError) as error:  # raised by pyarrow and pandas for a damaged file
            reason = one_line(error, 150)
            raise UserError(f"{QUESTIONS} of run {self.id[:8]} ({self.name}) cannot be read ({reason})") from error


def to_read(present: Sequence[str], columns: Sequence[str] | None) -> list[str]:
    """The columns to read from a table of scores by question.

    Args:
        present: the columns of the table. Those of PLACES may be missing; some of them follow from the passage's text.
        columns: the requested columns; None for all.

    Raises:
        KeyError: other columns are missing.
    """
    wanted = dict.fromkeys(present if columns is None else columns)
    missing = [column for column in wanted if column not in present]
    if unknown := [column for column in missing if column not in (*PLACES, KIND)]:
        raise KeyError(f"no column {', '.join(unknown)}")
    derived_from = ["context"] if "context" in present and {"article", "passage"} & set(missing) else []
    return list(dict.fromkeys([column for column in wanted if column in present] + derived_from))


def _with_places(table: pd.DataFrame) -> pd.DataFrame:
    """Add those of PLACES that are missing in scores of version 0.1."""
    known = "passage" in table or "context" not in table
    passages = table.get("passage") if known else table["context"].map(short_key)
    places = {"split": VALIDATION, "title": "", "article": passages, "passage": passages, KIND: None}
    return table.assign(**{column: value for column, value in places.items() if column not in table})


@dataclass(frozen=True)
class Selection:
    """The runs to compare, with a title, and the parent runs of the sweeps that they belong to, if any."""

    title: str
    results: list[Record]
    parents: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # on how names of runs were resolved
