"""Groups questions by question word, length of answer and passage, and position of the answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

FIRST_WORDS = ("how many", "how much", "how", "what", "which", "who", "when", "where", "why")
ALSO_WHO = ("whom", "whose")


def kind_of_question(question: str) -> str:
    """The first question word in a question; `other` where there is none."""
    text = question.lower()
    words = [(m.start(), word) for word in FIRST_WORDS if (m := re.search(rf"\b{word}\b", text))]
    words += [(m.start(), "who") for word in ALSO_WHO if (m := re.search(rf"\b{word}\b", text))]
    return min(words, key=lambda item: (item[0], -len(item[1])))[1] if words else "other"


def _range(number: int, edges: Sequence[int]) -> str:
    """The range that a number of at least 1 falls into; each edge belongs to the range that it ends."""
    low = 1
    for edge in edges:
        if number <= edge:
            return str(edge) if low == edge else f"{low} - {edge}"
        low = edge + 1
    return f"{low} or more"


def _answer_length(row: Any) -> str:
    shortest = min((len(answer.split()) for answer in row.answers), default=0)
    return _range(shortest, (1, 2, 4, 8)) if shortest else "none"


def _passage_length(row: Any) -> str:
    return _range(len(row.context.split()), (80, 120, 160, 240))


def _starts(text: str, context: str) -> list[int]:
    return [match.start() for match in re.finditer(re.escape(text), context)] if text else []


def _place(row: Any) -> str:
    """The third of the passage in which the answer first occurs."""
    places = [start for answer in row.answers for start in _starts(answer, row.context)]
    if not places:
        return "none"
    third = min(2, 3 * min(places) // len(row.context))
    return ("first third", "second third", "last third")[third]


# For each grouping, by its label, the function that maps the row of a question to its group.
GROUPINGS: Mapping[str, Callable[[Any], str]] = {
    "question word": lambda row: kind_of_question(row.question),
    "words in the answer": _answer_length,
    "words in the passage": _passage_length,
    "place of the answer": _place,
}


def groups(table: pd.DataFrame, label: str) -> list[str]:
    """The group of each question under one of GROUPINGS, shape (questions,)."""
    return [GROUPINGS[label](row) for row in table.itertuples()]


def in_order(label: str, values: Sequence[str]) -> list[str]:
    """The groups in display order: question words by frequency, ranges in ascending order."""
    counts = pd.Series(list(values), dtype=object).value_counts()
    if label == "question word":
        return [str(each) for each in counts.index]
    places = ("first third", "second third", "last third", "under 1/3", "1/3 to 2/3", "over 2/3")
    return sorted(map(str, counts.index), key=partial(_rank, places))


def _rank(places: Sequence[str], value: str) -> tuple[int, int]:
    number = re.match(r"\d+(?!/)", value)
    if value in places:
        return 0, places.index(value)
    return 0 if number else 1, int(number.group()) if number else 0


@dataclass(frozen=True)
class Group:
    """Some questions of a run, with their mean scores in percent."""

    name: str
    questions: int
    exact_match: float
    f1: float


def grouped(rows: pd.DataFrame, values: Sequence[str], order: Sequence[str]) -> list[Group]:
    """Compute the mean scores of each group of questions.

    Args:
        rows: the scores of each question (0 to 1).
        values: the group of each question, shape (questions,).
        order: the groups, in display order.
    """
    of = np.array(values, dtype=object)
    made = []
    for name in order:
        some = rows[of == name]
        made.append(Group(name, len(some), 100 * float(some["exact_match"].mean()), 100 * float(some["f1"].mean())))
    return made
