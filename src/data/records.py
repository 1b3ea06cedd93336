"""Questions of a SQuAD-format file, read and checked one by one.

Used by `python -m src.train dataset=file dataset.path=FILE`. Every source is brought into one schema:
`id, title, context, question, answers{text[], answer_start[]}`; no answers means unanswerable.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.config import UserError, no_such_file

NOT_FOUND = -1  # answer_start of an answer that could not be located: it can be scored, not trained on
COLUMNS = ("id", "title", "context", "question", "answers")
SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")


@dataclass
class Checked:
    """Records in the one schema, and what checking them brought out."""

    records: list[dict[str, Any]]
    realigned: int = 0  # answers whose answer_start was moved to the only place where their text stands
    empty_answers: int = 0  # left out; the question has others
    untrainable: int = 0  # questions none of whose answers could be located: kept for evaluation alone


def read_file(path: Path) -> Checked:
    """Read and check a file of questions.

    Args:
        path: SQuAD JSON (v1.1 or v2.0, nested), or JSON Lines, CSV or Parquet with the columns of `COLUMNS`
            (`title` may be missing; in CSV `answers` is JSON).

    Raises:
        UserError: the file cannot be read, or a record is no question; the sentence names file and record.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; name one file ({', '.join(SUFFIXES)}).")
    if not path.exists():
        raise UserError(no_such_file(path))
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{path} ends in {path.suffix or 'nothing'}; a file of questions is one of {SUFFIXES}.")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty.")
    reader = {".json": _json, ".jsonl": _json_lines, ".csv": _csv, ".parquet": _parquet}[suffix]
    try:
        return check(reader(path), path.name)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}); convert it first.") from None


def check(raw_records: Iterable[tuple[str, Any]], source: str) -> Checked:
    """Bring raw records into the one schema, and every answer_start to its text.

    Args:
        raw_records: pairs of where the record stands ("article 0, paragraph 2, question 1") and the record.
        source: file or data set, for the messages.

    Raises:
        UserError: on the first record that is no question, and where there is none at all.
    """
    checked = Checked([])
    seen: dict[str, str] = {}
    for where, raw in raw_records:
        place = f"{source}: {where}"
        if not isinstance(raw, dict):
            raise UserError(f"{place} is no object with the keys {', '.join(COLUMNS)}.")
        missing = [key for key in COLUMNS if key != "title" and raw.get(key) is None]
        if missing:
            raise UserError(f"{place} has no {' and no '.join(missing)}.")
        record_id, context, question = str(raw["id"]), raw["context"], raw["question"]
        place = f"{place} (id {record_id})"
        for key, text in (("context", context), ("question", question)):
            if not isinstance(text, str) or not text.strip():
                raise UserError(f"{place} has an empty {key}; remove the record or mend it.")
        if record_id in seen:
            raise UserError(f"{place} has the same id as {seen[record_id]}; ids must be unique.")
        seen[record_id] = where

        texts, starts = _answers(raw["answers"], place)
        if raw.get("is_impossible"):
            texts, starts = [], []  # v2.0 keeps tempting wrong answers beside, as plausible_answers
        if "" in texts:  # real sets hold some, beside proper answers of the same question
            kept = [(text, start) for text, start in zip(texts, starts, strict=True) if text]
            if not kept:
                raise UserError(
                    f"{place} has nothing but empty answers; an unanswerable question has no answers at all."
                )
            checked.empty_answers += len(texts) - len(kept)
            texts, starts = [text for text, _ in kept], [start for _, start in kept]
        located = [_locate(context, text, start) for text, start in zip(texts, starts, strict=True)]
        checked.realigned += sum(now != was and now != NOT_FOUND for now, was in zip(located, starts, strict=True))
        checked.untrainable += bool(texts) and all(start == NOT_FOUND for start in located)
        checked.records.append(
            {
                "id": record_id,
                "title": str(raw.get("title") or ""),
                "context": context,
                "question": question,
                "answers": {"text": texts, "answer_start": located},
            }
        )
    if not checked.records:
        raise UserError(f"{source} holds no question.")
    return checked


def _locate(context: str, text: str, start: int) -> int:
    """Where the answer stands: where it says, else its only occurrence, else NOT_FOUND."""
    if start >= 0 and context.startswith(text, start):
        return start
    first = context.find(text)
    return first if first == context.rfind(text) else NOT_FOUND


def _answers(answers: Any, place: str) -> tuple[list[str], list[int]]:
    """Texts and starts out of SQuAD's two forms: {text: [], answer_start: []} or [{text, answer_start}, ...]."""
    if isinstance(answers, str):  # a CSV cell
        try:
            answers = json.loads(answers)
        except json.JSONDecodeError:
            raise UserError(
                f'{place}: answers is no JSON; write {{"text": ["..."], "answer_start": [0]}} in the cell.'
            ) from None
    try:
        if isinstance(answers, dict):
            texts, starts = list(answers["text"]), list(answers["answer_start"])
        else:
            texts, starts = [a["text"] for a in answers], [a["answer_start"] for a in answers]
    except (KeyError, TypeError):
        raise UserError(f"{place}: answers needs `text` and `answer_start`.") from None
    if len(texts) != len(starts):
        raise UserError(f"{place} has {len(texts)} answer texts and {len(starts)} values of answer_start.")
    for text, start in zip(texts, starts, strict=True):
        if not isinstance(text, str):
            raise UserError(f"{place}: the answer text is {text!r} and must be a string.")
        if not isinstance(start, int) or isinstance(start, bool):
            raise UserError(f"{place}: answer_start is {start!r} and must be a whole number.")
    return [text if text.strip() else "" for text in texts], starts


def _json(path: Path) -> Iterator[tuple[str, Any]]:
    """The questions of SQuAD's nested JSON."""
    try:
        top = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is no valid JSON (line {error.lineno}, column {error.colno}: {error.msg}); it may be truncated. "
            "JSON Lines files must be named .jsonl."
        ) from None

    def children(parent: Any, key: str, where: str) -> list[Any]:
        items = parent.get(key) if isinstance(parent, dict) else None
        if not isinstance(items, list):
            raise UserError(
                f"{path} is not in SQuAD format: {where} has no list `{key}` "
                "(data > paragraphs > qas, with id, question and answers)."
            )
        return items

    for i, article in enumerate(children(top, "data", "the top level")):
        for j, paragraph in enumerate(children(article, "paragraphs", f"article {i}")):
            for k, question in enumerate(children(paragraph, "qas", f"article {i}, paragraph {j}")):
                where = f"article {i}, paragraph {j}, question {k}"
                if not isinstance(question, dict):
                    raise UserError(f"{path}: {where} is no object with id, question and answers.")
                answers = question.get("answers", [] if question.get("is_impossible") else None)
                shared = {"title": article.get("title"), "context": paragraph.get("context"), "answers": answers}
                yield where, {**question, **shared}


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield f"line {number}", json.loads(line)
                except json.JSONDecodeError as error:
                    raise UserError(f"{path}: line {number} is no valid JSON ({error.msg}).") from None


def _csv(path: Path) -> Iterator[tuple[str, Any]]:
    import pandas as pd

    try:
        # Everything stays the text it is: an answer may well be "NA", "null" or "007".
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except pd.errors.ParserError as error:
        raise UserError(f"{path} is no valid CSV ({error}).") from None
    yield from _rows(path, list(table.columns), table.to_dict("records"))


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except pyarrow.ArrowException as error:
        raise UserError(f"{path} is no valid Parquet file ({str(error).splitlines()[0]}).") from None
    yield from _rows(path, table.column_names, table.to_pylist())


def _rows(path: Path, columns: list[str], rows: list[Any]) -> Iterator[tuple[str, Any]]:
    missing = [column for column in COLUMNS if column != "title" and column not in columns]
    if missing:
        raise UserError(f"{path} has no column {', '.join(missing)}; it has {', '.join(map(str, columns))}.")
    yield from ((f"row {number}", row) for number, row in enumerate(rows, start=1))
