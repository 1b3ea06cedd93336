"""Answers a file of questions in JSON Lines: `python -m src.predict run=RUN input=FILE`.

Questions are answered in chunks, so that memory does not grow with the file, and the answers of each chunk are written
at once.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from src.answering import AT_ONCE, SHOWN, STANDARD, StoredRun, place_of, together
from src.console import behind
from src.data.files import parsed
from src.harmless import json_text


def answer_file(runs: Sequence[StoredRun], source: str, target: str, ensemble: bool) -> int:
    """Answer all questions of a file; returns the exit status, 1 if a line was not a question.

    Args:
        runs: the runs that answer.
        source, target: files, or - for standard input and output.
        ensemble: whether to combine the answers of the runs.
    """
    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    begun, answered, broken = time.perf_counter(), 0, 0
    console = Console(file=behind(sys.stderr))
    with ExitStack() as stack:
        lines = sys.stdin.buffer if source == STANDARD else stack.enter_context(Path(source).open("rb"))
        out = sys.stdout if target == STANDARD else stack.enter_context(Path(target).open("x", encoding="utf-8"))
        columns = TextColumn("{task.completed:,} questions"), TextColumn("{task.fields[speed]}"), TimeElapsedColumn()
        progress = stack.enter_context(Progress(*columns, console=console, disable=not console.is_terminal))
        task = progress.add_task("", total=None, speed="")
        for questions, refused in _some_at_a_time(lines, source):
            for sentence in refused:
                print(sentence, file=sys.stderr)
            broken += len(refused)
            _answer_some(runs, questions, ensemble, out)
            answered += len(questions)
            speed = answered / (time.perf_counter() - begun)
            progress.update(task, completed=answered, speed=f"{speed:,.1f} a second")
    seconds = time.perf_counter() - begun
    rate = f"{answered / seconds:,.1f} a second" if answered else "none a second"
    skipped = f"; {broken:,} lines were skipped" if broken else ""
    print(f"{answered:,} questions in {seconds:,.1f} s, {rate}{skipped}", file=sys.stderr)
    return 1 if broken else 0


def _some_at_a_time(lines: BinaryIO, source: str) -> Iterator[tuple[list[dict[str, Any]], list[str]]]:
    """Yield the questions of up to AT_ONCE lines, and an error message for each line that is not a question."""
    questions: list[dict[str, Any]] = []
    refused: list[str] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        problem, question = _question(line, number)
        if problem:
            refused.append(f"input={source}, line {number}: {problem}")
        else:
            questions.append(question)
        if len(questions) + len(refused) == AT_ONCE:
            yield questions, refused
            questions, refused = [], []
    if questions or refused:
        yield questions, refused


def _question(line: bytes, number: int) -> tuple[str, dict[str, Any]]:
    """The error message for a line (empty if it is valid), and its question."""
    try:
        record = parsed(line.strip().decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError:
        return "this is not UTF-8 text; the line is skipped.", {}
    except ValueError as error:
        return f"this is not JSON ({error}); the line is skipped.", {}
    if not isinstance(record, dict):
        return "this is not a JSON object with question and context; the line is skipped.", {}
    for key in ("question", "context"):
        if not isinstance(record.get(key), str) or not record[key].strip():
            return f"`{key}` is missing or empty; the line is skipped.", {}
    if isinstance(record.get("id"), list | dict):
        return "`id` is neither a text nor a number; the line is skipped.", {}
    return "", {"id": str(record.get("id", number)), "question": record["question"], "context": record["context"]}


def _answer_some(runs: Sequence[StoredRun], questions: list[dict[str, Any]], ensemble: bool, out: TextIO) -> None:
    """Answer the questions, and write a line for each."""
    if not questions:
        return
    of_runs = [run.answer(questions) for run in runs]
    for number, question in enumerate(questions):
        answers = [of_run[number] for of_run in of_runs]
        row: dict[str, Any] = {"id": question["id"], "question": question["question"]}
        if ensemble:
            candidates = together(answers)
            row |= _plain(candidates[0], candidates, question["context"])
        elif len(runs) == 1:
            row |= _plain(answers[0].best, answers[0].n_best, question["context"])
        if len(runs) > 1:
            row["runs"] = {
                run.id: {"name": run.name, **_plain(answer.best, answer.n_best, question["context"])}
                for run, answer in zip(runs, answers, strict=True)
            }
        out.write(json_text(row) + "\n")
    out.flush()


def _plain(best: Any, candidates: Sequence[Any], context: str) -> dict[str, Any]:
    """An answer as plain values; `start` and `end` are null if it has no place in the passage."""

    def of(span: Any) -> dict[str, Any]:
        start, end = place_of(span, context) or (None, None)
        return {"answer": span.text, "probability": round(span.probability, 6), "start": start, "end": end}

    return of(best) | {"n_best": [of(span) for span in candidates[:SHOWN]]}
