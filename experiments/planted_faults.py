"""Which fault makes an exact match of 20 beside an F1 of 55? Plants the usual ones in a finished run's own answers.

    python -m experiments.planted_faults run=RUN_ID
    python -m experiments.planted_faults run=RUN_ID tracking.folder=mlruns

SQuAD's F1 of a model that finds the right place is some 10 to 20 points above its exact match. Published figures with
35 points between the two (experiments/subset_1000.yaml) say that something cuts nearly every answer wrongly, or
compares it wrongly. Each row takes the same predicted spans and makes one such mistake with them. A fault in the
training labels shows the same way: what is learnt is the shifted span.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import Field
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from transformers import AutoTokenizer

from src.arguments import ExperimentArguments, read
from src.compose import MISTAKES, fail
from src.config import UserError
from src.console import begin
from src.evaluation.squad_metric import exact_match, f1
from src.runs.records import Record
from src.runs.results import choose
from src.runs.store import Store, connect

Question = dict[str, Any]  # context, answers, start and end (characters of the predicted span), tokens
Score = Callable[[str, Sequence[str]], tuple[float, float]]


class PlantedFaults(ExperimentArguments):
    """What this command takes."""

    run: str = Field(description="the beginning of a run's id, its name, or best")


def official(text: str, answers: Sequence[str]) -> tuple[float, float]:
    """Exact match and F1 by SQuAD's rules."""
    return exact_match(text, answers), f1(text, answers)


def as_they_are(text: str, answers: Sequence[str]) -> tuple[float, float]:
    """Exact match of the bare strings, with SQuAD's F1."""
    return float(text in answers), f1(text, answers)


def first_answer(text: str, answers: Sequence[str]) -> tuple[float, float]:
    """SQuAD's rules with one human answer instead of the best of all."""
    return official(text, answers[:1])


def span(question: Question) -> str:
    return str(question["context"][question["start"] : question["end"]])


def by_tokens(first: int, last: int) -> Callable[[Question], str]:
    """The predicted span with its first and last token moved by so many."""

    def cut(question: Question) -> str:
        inside = [i for i, (s, e) in enumerate(question["tokens"]) if s < question["end"] and e > question["start"]]
        begin, end = inside[0] + first, inside[-1] + last
        kept = question["tokens"][max(0, begin) : end + 1] if end >= begin else []
        return str(question["context"][kept[0][0] : kept[-1][1]]) if kept else ""

    return cut


def by_characters(first: int, last: int) -> Callable[[Question], str]:
    """The predicted span with its first and last character moved by so many."""
    return lambda question: str(question["context"][max(0, question["start"] + first) : question["end"] + last])


def decoded(question: Question) -> str:
    """What `tokenizer.decode` makes of the span's tokens: an uncased one's lower case, spaces round punctuation."""
    return str(question["decode"](span(question)))


FAULTS: dict[str, tuple[Callable[[Question], str], Score]] = {
    "none": (span, official),
    "last token left out (input_ids[start:end])": (by_tokens(0, -1), official),
    "one token too many at the end": (by_tokens(0, 1), official),
    "starts one token late": (by_tokens(1, 0), official),
    "both ends one token late": (by_tokens(1, 1), official),
    "last character left out (context[start:end - 1])": (by_characters(0, -1), official),
    "both ends one character late": (by_characters(1, 1), official),
    "one human answer instead of all": (span, first_answer),
    "bare strings": (span, as_they_are),
    "decoded uncased, official rules": (decoded, official),
    "decoded uncased, bare strings": (decoded, as_they_are),
    "space before the answer kept, official rules": (lambda question: " " + span(question), official),
    "space before the answer kept, bare strings": (lambda question: " " + span(question), as_they_are),
}


def planted(questions: Sequence[Question]) -> dict[str, tuple[float, float]]:
    """Exact match and F1 in percent, by fault."""
    rows = {}
    for fault, (cut, rule) in FAULTS.items():
        scores = [rule(cut(question), question["answers"]) for question in questions]
        exact, overlap = (100 * sum(each) / len(scores) for each in zip(*scores, strict=True))
        rows[fault] = (exact, overlap)
    return rows


def questions_of(store: Store, run: Record) -> list[Question]:
    """A run's validation questions with its predictions; those it left unanswered are not here.

    Raises:
        UserError: the run kept no predictions.
    """
    rows = run.questions(["context", "answers"])
    if rows is None:
        raise UserError(f"run={run.id} kept no predictions (it is {run.status}); choose a FINISHED run.")
    with tempfile.TemporaryDirectory() as temporary:
        best = json.loads(store.text(run.id, "nbest.json") or "{}")
        tokenizer = AutoTokenizer.from_pretrained(store.artifact(run.id, "model", temporary))

    def decode(text: str) -> str:
        return str(tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]))

    found = []
    for name, row in rows.iterrows():
        spans = [s for s in best[name] if s["start"] >= 0]
        if len(row["answers"]) and spans:
            tokens = tokenizer(row["context"], add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            found.append(
                {
                    "context": row["context"],
                    "answers": list(row["answers"]),
                    "tokens": tokens["offset_mapping"],
                    "decode": decode,
                    "start": spans[0]["start"],
                    "end": spans[0]["end"],
                }
            )
    return found


def main() -> None:
    """The command line."""
    try:
        begin()
        given = read(PlantedFaults, sys.argv[1:] or ["--help"], str(__doc__))
        store = connect(given.tracking(), create=False)
        [run] = choose(store, runs=[given.run]).results
        questions = questions_of(store, run)
    except MISTAKES as error:
        fail(error)
    table = Table("fault", "EM", "F1", "F1 - EM", title=f"{run.name}, {len(questions):,} questions")
    for column in table.columns[1:]:
        column.justify = "right"
    for fault, (exact, overlap) in planted(questions).items():
        table.add_row(escape(fault), f"{exact:.1f}", f"{overlap:.1f}", f"{overlap - exact:.1f}")
    Console(width=None if sys.stdout.isatty() else 120).print(table)


if __name__ == "__main__":
    main()
