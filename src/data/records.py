"""Reads the questions of a file and checks each of them.

All sources are converted to one schema: `id, title, context, question, answers{text[], answer_start[]}`. A question
without answers is unanswerable.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

from src.config import UserError
from src.data.files import (
    SQUAD_COLUMNS,
    RawRecord,
    Unreadable,
    is_simple,
    malformed,
    missing_columns,
    parsed,
    read_raw,
    renaming,
)

NOT_FOUND = -1  # answer_start of an answer that could not be located: it can be scored, not trained on


@dataclass
class Checked:
    """Records in the common schema, and the results of checking them."""

    records: list[dict[str, Any]]
    names: dict[str, str] = field(default_factory=dict)  # by id, the position of the record: "row 3 (id q7)"
    left_out: list[str] = field(default_factory=list)  # rows of a simple file: "row 17 has no question"
    # Ids of the questions concerned; the first two lists have one entry for each answer.
    realigned_ids: list[str] = field(default_factory=list)  # answer_start was moved to the text, which occurs once
    empty: list[str] = field(default_factory=list)  # an empty answer was left out; the question has other answers
    not_found: list[str] = field(default_factory=list)  # no answer could be located: used for evaluation only
    declares_unanswerable: bool = False  # a record has `is_impossible: true`
    source: str = ""  # what notes call the file or data set

    @property
    def realigned(self) -> int:
        """The number of answers whose position was corrected."""
        return len(self.realigned_ids)

    @property
    def empty_answers(self) -> int:
        return len(self.empty)

    @property
    def untrainable(self) -> int:
        """The number of questions that have answers, but none with a known position."""
        return len(self.not_found)


def read_file(path: Path) -> Checked:
    """Read and check a file of questions.

    Args:
        path: SQuAD JSON (v1.1 or v2.0, nested), or JSON Lines, a JSON list, CSV or Parquet with either the columns
            `id`, `context`, `question`, `answers` (in CSV `answers` is JSON) or `question`, `context`, `answer`;
            `title` is optional. A row of the second form that cannot be used is left out.

    Raises:
        UserError: the file cannot be read, a record of SQuAD's form is not a question, or no row can be used; the
            message names file and record.
    """
    raw = read_raw(path)
    columns = list(dict.fromkeys(key for _, record in raw if isinstance(record, dict) for key in record))
    if not columns or not is_simple(columns):
        return check(raw, path.name)
    if missing := missing_columns(columns):
        raise malformed(
            f"{path} has no {' and no '.join(missing)} in any record; it has {', '.join(columns[:12])}."
            f"{renaming(missing, columns)}"
        )
    records, left_out = _from_simple(raw)
    if not records:
        more = f"; and {len(left_out) - 3} more" if len(left_out) > 3 else ""
        raise malformed(f"No row of {path} can be used: {'; '.join(left_out[:3])}{more}.")
    checked = check(records, path.name)
    checked.left_out = left_out
    return checked


def check(raw_records: Iterable[RawRecord], source: str) -> Checked:
    """Convert raw records to the common schema, and correct every answer_start that does not point to its text.

    Args:
        raw_records: pairs of the record's position ("article 0, paragraph 2, question 1") and the record.
        source: file or data set, for messages.

    Raises:
        UserError: a record is not a question, or there is no record.
    """
    checked = Checked([], source=source)
    for where, raw in raw_records:
        place = f"{source}: {where}"
        if isinstance(raw, Unreadable):
            raise malformed(f"{place} {raw}.")
        if not isinstance(raw, dict):
            raise malformed(f"{place} is not an object with the keys {', '.join(SQUAD_COLUMNS)}.")
        missing = [key for key in SQUAD_COLUMNS if raw.get(key) is None]
        if missing:
            raise malformed(f"{place} has no {' and no '.join(missing)}.")
        record_id, title, context = _plain(raw, "id", place), _plain(raw, "title", place), raw["context"]
        name = where if where.partition(" ")[2] == record_id else f"{where} (id {record_id})"
        place = f"{source}: {name}"
        for key in ("context", "question"):
            if not isinstance(raw[key], str) or not raw[key].strip():
                raise UserError(f"{place} has an empty {key}; remove the record or correct it.")
        if record_id in checked.names:
            raise UserError(f"{place} has the same id as {checked.names[record_id]}; ids must be unique.")
        checked.names[record_id] = name

        texts, starts = _answers(raw["answers"], place)
        if str(raw.get("is_impossible")).lower() in ("true", "1"):  # in a CSV file it is text
            texts, starts = [], []  # v2.0 lists plausible wrong answers separately, in plausible_answers
            checked.declares_unanswerable = True
        if "" in texts:  # real data sets contain some, next to proper answers of the same question
            kept = [(text, start) for text, start in zip(texts, starts, strict=True) if text]
            if not kept:
                raise UserError(
                    f"{place} has nothing but empty answers; an unanswerable question has no answers at all."
                )
            checked.empty += [record_id] * (len(texts) - len(kept))
            texts, starts = [text for text, _ in kept], [start for _, start in kept]
        located = [_locate(context, text, start) for text, start in zip(texts, starts, strict=True)]
        checked.realigned_ids += [record_id] * sum(
            now != was and now != NOT_FOUND for now, was in zip(located, starts, strict=True)
        )
        if texts and all(start == NOT_FOUND for start in located):
            checked.not_found.append(record_id)
        checked.records.append(
            {
                "id": record_id,
                "title": title,
                "context": context,
                "question": raw["question"],
                "answers": {"text": texts, "answer_start": located},
            }
        )
    if not checked.records:
        raise malformed(f"{source} holds no question.")
    return checked


def _plain(raw: dict[str, Any], key: str, place: str) -> str:
    """An id or a title as text; empty if it is missing."""
    value = raw.get(key)
    if isinstance(value, list | dict):
        raise UserError(f"{place}: {key} is {shortened(value)} and must be a text or a number.")
    return "" if value is None else str(value)


def _locate(context: str, text: str, start: int) -> int:
    """The start of an answer: the given one if it is right, else that of its only occurrence, else NOT_FOUND."""
    if start >= 0 and context.startswith(text, start):
        return start
    first = context.find(text)
    return first if first == context.rfind(text) else NOT_FOUND


def _answers(answers: Any, place: str) -> tuple[list[str], list[int]]:
    """Texts and starts from SQuAD's two forms: {text: [], answer_start: []} or [{text, answer_start}, ...]."""
    if isinstance(answers, str):  # a CSV cell
        try:
            answers = parsed(answers)
        except ValueError as error:
            raise malformed(
                f'{place}: answers is not JSON ({error}); write {{"text": ["..."], "answer_start": [0]}} in the cell, '
                "or have one plain `answer` column."
            ) from None
    try:
        if isinstance(answers, dict):
            texts, starts = list(answers["text"]), list(answers["answer_start"])
        else:
            texts, starts = [a["text"] for a in answers], [a["answer_start"] for a in answers]
    except (KeyError, TypeError):
        raise malformed(f"{place}: answers needs `text` and `answer_start`.") from None
    if len(texts) != len(starts):
        raise UserError(f"{place} has {len(texts)} answer texts and {len(starts)} values of answer_start.")
    for text, start in zip(texts, starts, strict=True):
        if not isinstance(text, str):
            raise UserError(f"{place}: the answer text is {shortened(text)} and must be a string.")
        if not isinstance(start, int) or isinstance(start, bool):
            raise UserError(f"{place}: answer_start is {shortened(start)} and must be a whole number.")
    return [text if text.strip() else "" for text in texts], starts


def _from_simple(rows: Iterable[RawRecord]) -> tuple[list[RawRecord], list[str]]:
    """Convert rows with a plain answer to records of SQuAD's form.

    A row without an id gets its number as id. All occurrences of the answer in the passage are kept, in their order.

    Returns:
        The records, and a message for each row that is left out.
    """
    records: list[RawRecord] = []
    left_out: list[str] = []
    seen: dict[str, str] = {}
    for where, row in rows:
        if not isinstance(row, dict):
            left_out.append(f"{where} {row if isinstance(row, Unreadable) else 'is not an object'}")
            continue
        cells = {key: _cell(row.get(key)) for key in ("id", "title", "question", "context")}
        answers = row.get("answer")
        texts = [_cell(text) for text in (answers if isinstance(answers, list) else [answers])]
        record_id = (cells["id"] or "").strip() or where.rpartition(" ")[2]
        missing = [key for key in ("question", "context") if not (cells[key] or "").strip()]
        if missing:
            left_out.append(f"{where} has no {' and no '.join(missing)}")
        elif None in texts:
            left_out.append(f"{where} has an answer that is not text")
        elif record_id in seen:
            left_out.append(f"{where} has the same id as {seen[record_id]} ({record_id})")
        else:
            seen[record_id] = where
            wanted = [text.strip() for text in texts if text and text.strip()]
            places = [place for text in wanted for place in _places(cells["context"] or "", text, row)]
            located = [{"text": text, "answer_start": start} for text, start in places]
            records.append((where, {**row, **cells, "id": record_id, "answers": located}))
    return records, left_out


def _cell(value: Any) -> str | None:
    """The text of a cell; numbers are converted, an empty cell is "", and other types give None."""
    if value is None or value != value:  # NaN is how pandas writes an empty cell
        return ""
    return str(value) if isinstance(value, str | int | float) else None


def _places(context: str, text: str, row: dict[str, Any]) -> list[tuple[str, int]]:
    """The occurrences of an answer in its passage, as (text, start), with the text as the passage spells it.

    An exact match goes before one that ignores case and the amount of white space, and whole words go before parts of
    words. If the row has an `answer_start` that fits, it is the only occurrence. Without any, the start is NOT_FOUND.
    """
    given = str(row.get("answer_start", "")).strip()
    if given.isdecimal() and len(given) < 10 and context.startswith(text, int(given)):
        return [(text, int(given))]
    pattern = re.escape(text) if text in context else r"\s+".join(map(re.escape, text.split()))
    spans = [match.span() for match in re.finditer(pattern, context, 0 if text in context else re.IGNORECASE)]
    whole = [
        (start, end)
        for start, end in spans
        if not (context[start - 1 : start].isalnum() and context[start].isalnum())
        and not (context[end : end + 1].isalnum() and context[end - 1].isalnum())
    ]
    return [(context[start:end], start) for start, end in whole or spans] or [(text, NOT_FOUND)]
