"""Analyses the errors of a run: kinds of error, and scores by properties of the question, the answer and the passage.

All results are computed from the scores by question that every run keeps (`src.runs.records`); `src.errors` is the
command.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from src.evaluation.kinds import Kind, kind_of, shared_words
from src.report.groups import GROUPINGS, Group, grouped, groups, in_order

SHARED = "question words in the answer's sentence"


@dataclass(frozen=True)
class Errors:
    """The errors of a run."""

    kinds: list[Group]  # those that occur, in the order of `Kind`
    by: dict[str, list[Group]]  # of GROUPINGS and SHARED, by label
    rows: pd.DataFrame  # the run's questions, with the column `kind`


def errors_of(table: pd.DataFrame) -> Errors:
    """Classify the answers of a run, and group its scores by properties of the questions.

    Args:
        table: the scores by question, with their texts (`src.runs.records.Record.questions`).
    """
    kinds = [kind_of(row.predicted, list(row.answers), row.context) for row in table.itertuples()]
    rows = table.assign(kind=[kind.value for kind in kinds])
    values = {label: groups(table, label) for label in GROUPINGS}
    values[SHARED] = [shared_words(row.question, list(row.answers), row.context) for row in table.itertuples()]
    by = {label: grouped(rows, of, in_order(label, of)) for label, of in values.items()}
    there = [kind.value for kind in Kind if kind in kinds]
    return Errors(grouped(rows, list(rows["kind"]), there), by, rows)


@dataclass(frozen=True)
class Exchange:
    """The questions that one run answers correctly and another does not."""

    both: int  # the number of questions that both answer correctly, by exact match
    first: int  # only the first run
    second: int
    neither: int
    gained: pd.DataFrame  # the questions on which the second is better by F1, the largest gain first
    lost: pd.DataFrame  # those on which it is worse


def exchange(first: Errors, second: Errors) -> Exchange:
    """Compare two runs question by question.

    Raises:
        ValueError: the runs share no question.
    """
    columns = ["exact_match", "f1", "predicted", "kind"]
    shared = first.rows.join(second.rows[columns], how="inner", rsuffix="_second")
    if shared.empty:
        raise ValueError("the runs share no question")
    a, b = shared["exact_match"] > 0.5, shared["exact_match_second"] > 0.5
    difference = shared["f1_second"] - shared["f1"]
    shared = shared.assign(difference=difference).sort_values("difference", kind="stable")
    return Exchange(
        both=int((a & b).sum()),
        first=int((a & ~b).sum()),
        second=int((~a & b).sum()),
        neither=int((~a & ~b).sum()),
        gained=shared[shared["difference"] > 0].iloc[::-1],
        lost=shared[shared["difference"] < 0],
    )
