"""Reads raw records from a file: SQuAD JSON, a JSON list, JSON Lines, CSV with any usual separator, or Parquet.

`src.data.records` checks the records.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import sys
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from src.config import UserError, no_such_file, one_line

SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".parquet")
KINDS = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")
SAVE_AS = "in Excel choose 'Save as' and the type 'CSV UTF-8'"
DELIMITERS = (",", ";", "\t", "|")
# The columns of a simple file, and those of SQuAD's records (`title` may be missing).
SIMPLE_COLUMNS = ("question", "context", "answer")
SQUAD_COLUMNS = ("id", "context", "question", "answers")
EXAMPLE = "question,context,answer\nWho wrote it?,It was written by Ada in Paris.,Ada"

# The escapes in a JSON text; the group matches a lone surrogate, which is half of a character beyond U+FFFF.
ESCAPES = re.compile(r"\\u[dD][89abAB]..\\u[dD][c-fC-F]..|(\\u[dD][89a-fA-F]..)|\\.")

RawRecord = tuple[str, Any]  # where the record stands ("row 3"), and the record


class Unreadable(str):
    """The reason why a record could not be read, as the end of a sentence: `is not valid JSON (...)`."""


def malformed(sentence: str) -> UserError:
    """The error for a file of the wrong form: the sentence, and two example lines that would be accepted."""
    example = EXAMPLE.replace("\n", "\n    ")
    return UserError(f"{sentence}\nTwo lines of a CSV file that can be read, a header and one question:\n    {example}")


def read_raw(path: Path) -> list[RawRecord]:
    """Read the records of a file; keys of flat records are converted to lower case and stripped of white space.

    Raises:
        UserError: the file is missing, empty, of another format or not UTF-8 text.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; name one file ({KINDS}).")
    if not path.exists():
        raise UserError(no_such_file(path))
    suffix = path.suffix.lower()
    if suffix in SPREADSHEETS:
        raise malformed(f"{path} is a spreadsheet; {SAVE_AS}.")
    if suffix not in SUFFIXES:
        raise malformed(f"{path} ends in {path.suffix or 'nothing'}; a file of questions ends in {KINDS}.")
    if path.stat().st_size == 0:
        raise malformed(f"{path} is empty.")
    return list({".json": _json, ".jsonl": _json_lines, ".parquet": _parquet}.get(suffix, _csv)(path))


def parsed(text: str) -> Any:
    """Parse a JSON text.

    Raises:
        ValueError: it is not JSON (JSONDecodeError), or it is nested too deeply, or has a number that is too long or a
            lone surrogate.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise ValueError("lists or objects stand inside each other too deeply") from None
    except ValueError:  # Python's limit for numbers that would take minutes to parse
        raise ValueError(f"a number has more than {sys.get_int_max_str_digits():,} digits") from None
    for escape in ESCAPES.finditer(text) if "\\u" in text else ():
        if escape[1]:
            line, column = text.count("\n", 0, escape.start()) + 1, escape.start() - text.rfind("\n", 0, escape.start())
            place = f"line {line}, column {column}" if "\n" in text else f"column {column}"
            raise ValueError(f"{place}: {escape[1]} is half a character, a lone surrogate")
    return value


def is_simple(columns: list[str]) -> bool:
    """Whether records with these keys have a plain `answer` instead of SQuAD's `id` and `answers`."""
    return "answers" not in columns and ("answer" in columns or "id" not in columns)


def missing_columns(columns: list[str]) -> list[str]:
    """The required keys that records with these keys lack."""
    return [key for key in (SIMPLE_COLUMNS if is_simple(columns) else SQUAD_COLUMNS) if key not in columns]


def _text(path: Path) -> str:
    data = path.read_bytes()
    if data and (encoding := _utf_16(data)):
        raise UserError(
            f"{path} is UTF-16 text and must be UTF-8; {SAVE_AS}; elsewhere convert the file "
            f"({_converted(path, encoding)})."
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path} is not UTF-8 text (byte {error.start}); the first character that is not stands in line {line}. "
            f"{SAVE_AS[:1].upper()}{SAVE_AS[1:]}; elsewhere convert the file "
            f"(Windows' own encoding: {_converted(path, 'CP1252')})."
        ) from None


def _utf_16(data: bytes) -> str | None:
    """The encoding of UTF-16 text, detected by its byte order mark or its zero bytes; None for other text."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    beginning = data[:1000]
    if beginning.count(0) < len(beginning) / 4:  # in UTF-16, every second byte of an ASCII character is zero
        return None
    return "UTF-16LE" if beginning.find(b"\0") % 2 else "UTF-16BE"


def _converted(path: Path, encoding: str) -> str:
    """The command that converts a file to UTF-8, ready to be pasted into a shell."""
    target = path.with_name(f"{path.stem}-utf8{path.suffix}")
    return f"iconv -f {encoding} -t UTF-8 {shlex.quote(str(path))} > {shlex.quote(str(target))}"


def _lower_keys(record: Any) -> Any:
    return {str(key).strip().lower(): value for key, value in record.items()} if isinstance(record, dict) else record


def _json(path: Path) -> Iterator[RawRecord]:
    """The questions of SQuAD's nested JSON, or of a plain list of records."""
    try:
        top = parsed(_text(path))
    except json.JSONDecodeError as error:
        raise malformed(
            f"{path} is not valid JSON (line {error.lineno}, column {error.colno}: {error.msg}); it may be truncated. "
            "JSON Lines files must be named .jsonl."
        ) from None
    except ValueError as error:
        raise malformed(f"{path} cannot be read ({error}); correct the file.") from None
    if isinstance(top, list) and any(isinstance(record, dict) for record in top):
        yield from ((f"record {number}", _lower_keys(record)) for number, record in enumerate(top, start=1))
        return

    def children(parent: Any, key: str, where: str) -> list[Any]:
        items = parent.get(key) if isinstance(parent, dict) else None
        if not isinstance(items, list):
            raise malformed(
                f"{path} is not in SQuAD format: {where} has no list `{key}` "
                "(data > paragraphs > qas, with id, question and answers)."
            )
        return items

    for i, article in enumerate(children(top, "data", "the top level")):
        for j, paragraph in enumerate(children(article, "paragraphs", f"article {i}")):
            for k, question in enumerate(children(paragraph, "qas", f"article {i}, paragraph {j}")):
                where = f"article {i}, paragraph {j}, question {k}"
                if not isinstance(question, dict):
                    raise malformed(f"{path}: {where} is not an object with id, question and answers.")
                answers = question.get("answers", [] if question.get("is_impossible") else None)
                shared = {"title": article.get("title"), "context": paragraph.get("context"), "answers": answers}
                yield where, {**question, **shared}


def _json_lines(path: Path) -> Iterator[RawRecord]:
    # Not `splitlines`, since JSON may contain line separators such as U+2028 unescaped.
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            try:
                yield f"line {number}", _lower_keys(parsed(line))
            except ValueError as error:
                yield f"line {number}", Unreadable(f"is not valid JSON ({getattr(error, 'msg', error)})")


def _csv(path: Path) -> Iterator[RawRecord]:
    """The rows of a CSV file, counted without the header; all cells stay text."""
    csv.field_size_limit(2**31 - 1)  # the default refuses a passage of more than 131,072 characters
    text = _text(path).lstrip("\r\n")
    if not text.strip():
        raise malformed(f"{path} holds nothing but white space.")
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    try:
        header = [name.strip().lower() for name in next(rows, [])]
    except csv.Error as error:
        raise malformed(f"{path} is not valid CSV (its header: {error}).") from None
    if missing := missing_columns(header):
        raise _lacks(path, missing, header)
    if repeated := sorted({name for name in header if name and header.count(name) > 1}):
        raise malformed(f"{path} has more than one column named {', '.join(repeated)}; rename or remove one.")
    number = 0
    while True:
        number += 1
        try:
            cells = next(rows, None)
        except csv.Error as error:  # the reader continues with the next line
            problem = Unreadable(f"is not valid CSV ({error}; a quoted cell doubles the quotes inside it)")
            yield f"row {number}", problem
            continue
        if cells is None:
            return
        if not any(cell.strip() for cell in cells):
            continue  # spreadsheets export rows of separators only
        if len(cells) > len(header):
            counts = f"has {len(cells)} cells where the header has {len(header)}"
            yield f"row {number}", Unreadable(f"{counts} (text with separators must be quoted)")
        else:
            yield f"row {number}", dict(zip(header, cells, strict=False))


def _delimiter(text: str) -> str:
    """The separator with which the header has most of the required columns; guessing from the text is unreliable."""

    def missing(delimiter: str) -> int:
        try:
            header = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])
        except csv.Error:  # reported when the whole file is read
            header = []
        return len(missing_columns([name.strip().lower() for name in header]))

    return min(DELIMITERS, key=missing)


def _parquet(path: Path) -> Iterator[RawRecord]:
    from pyarrow import parquet

    with path.open("rb") as file:
        try:
            table = parquet.read_table(file)
            rows = table.to_pylist()
        except Exception as error:  # pyarrow raises various types for a damaged file, such as OSError
            reason = one_line(error)
            raise malformed(f"{path} is not a valid Parquet file, or damaged ({reason}).") from None
    columns = [name.strip().lower() for name in table.column_names]
    if missing := missing_columns(columns):
        raise _lacks(path, missing, columns)
    yield from ((f"row {number}", _lower_keys(row)) for number, row in enumerate(rows, start=1))


def _lacks(path: Path, missing: list[str], columns: list[str]) -> UserError:
    shown = ", ".join(name[:40] for name in columns[:12])
    return malformed(f"{path} has no column {', '.join(missing)}; it has {shown}.{renaming(missing, columns)}")


def renaming(missing: list[str], columns: list[str]) -> str:
    """A sentence that proposes columns to rename, if some are similar to missing ones; otherwise empty."""
    others = [name for name in columns if name not in (*SIMPLE_COLUMNS, *SQUAD_COLUMNS)]
    pairs = [(get_close_matches(name, others, n=1), name) for name in missing]
    renamed = [f"'{close[0]}' to '{name}'" for close, name in pairs if close]
    return f" Probably a misspelling: rename {' and '.join(renamed)}." if renamed else ""
