"""Thousands of files that nobody has thought of: readers raise UserError or nothing else, and find every gold span.

The inputs are the same at every run of one version of hypothesis. `python -m benchmarks.torture fuzz` tries others, as
many as TUNEOFF_EXAMPLES says.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from src.config import UserError
from src.data.files import DELIMITERS, SUFFIXES
from src.data.records import read_file
from src.question_file import _question

MORE = os.environ.get("TUNEOFF_EXAMPLES")
quick = settings(
    max_examples=int(MORE or 250),
    deadline=None,
    database=None,
    derandomize=MORE is None,
    suppress_health_check=[HealthCheck.too_slow],
)

# Any text that UTF-8 can hold; no NUL, with which a file looks like UTF-16.
LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
TEXTS = st.text(LETTERS, max_size=30) | st.text("aA ,;|\t\"'\\\r\n\u2028=é👍", max_size=30)
KEYS = ("data", "paragraphs", "qas", "context", "question", "answers", "text", "answer_start", "id", "title", "answer")
PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.just(10**400),
    st.floats(),
    TEXTS,
    st.text(max_size=3),  # with halves of characters
    st.sampled_from(["Ada", "It was Ada.", "0", "\ud83d"]),
)
VALUES = st.recursive(
    PLAIN,
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | TEXTS, inside, max_size=5),
    max_leaves=12,
)
ANSWERS = st.lists(st.fixed_dictionaries({"text": PLAIN, "answer_start": PLAIN}), max_size=2)
QUESTION = st.fixed_dictionaries(
    {},
    optional={"id": PLAIN, "question": PLAIN, "context": PLAIN, "title": PLAIN, "answer": VALUES, "answers": ANSWERS},
)
SQUAD = st.lists(QUESTION, max_size=3).map(
    lambda qas: {"data": [{"title": "T", "paragraphs": [{"context": "It was Ada.", "qas": qas}]}]}
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def nothing_but_a_sentence(file: Path) -> None:
    """Read a file; what is read holds only what a tokenizer and Arrow take."""
    try:
        checked = read_file(file)
    except UserError as error:
        assert file.name in str(error)
        return
    for record in checked.records:
        texts = [record[key] for key in ("id", "title", "context", "question")] + record["answers"]["text"]
        assert "".join(texts).encode("utf-8") is not None
        for text, start in zip(record["answers"]["text"], record["answers"]["answer_start"], strict=True):
            assert start == -1 or record["context"].startswith(text, start)


@pytest.mark.parametrize("suffix", SUFFIXES)
@quick
@given(content=st.binary(max_size=200) | TEXTS.map(str.encode) | st.text(max_size=40).map(lambda t: t.encode("utf-16")))
@example(content=b"PAR1" + b"\0" * 8 + b"PAR1")
@example(content=b'"')
def test_any_bytes(folder, suffix, content):
    file = folder / f"any{suffix}"
    file.write_bytes(content)
    nothing_but_a_sentence(file)


@pytest.mark.parametrize("form", ["json", "squad", "lines", "csv"])
@quick
@given(data=st.data())
def test_values_in_the_wrong_places(folder, form, data):
    if form == "squad":
        text = json.dumps(data.draw(SQUAD))
    elif form == "json":
        text = json.dumps(data.draw(VALUES | st.lists(QUESTION, max_size=3)))
    elif form == "lines":
        text = "\n".join(map(json.dumps, data.draw(st.lists(QUESTION | VALUES, max_size=4))))
    else:
        text = data.draw(st.sampled_from(["question,context,answer\n", "id;question;context;answers\n"]))
        text += data.draw(st.lists(TEXTS | VALUES.map(json.dumps), max_size=6).map(",".join))
    file = folder / f"values.{ {'lines': 'jsonl', 'csv': 'csv'}.get(form, 'json') }"
    file.write_text(text, encoding="utf-8")
    nothing_but_a_sentence(file)


@quick
@given(
    st.binary(max_size=60)
    | VALUES.map(lambda value: json.dumps(value).encode())
    | QUESTION.map(json.dumps).map(str.encode)
)
def test_lines_of_questions(line):
    problem, record = _question(line, 1)
    assert bool(problem) != bool(record)
    assert all(record[key].strip() and record[key].encode("utf-8") for key in record if key != "id")
    assert not problem or problem.endswith("; the line is skipped.")


# What is whole is read to the letter


@st.composite
def asked(draw: Callable[..., Any]) -> dict[str, Any]:
    """A question in SQuAD's form, whose answer is any part of any passage that is not bounded by white space."""
    context = draw(TEXTS.filter(str.strip))
    spans = [(i, j) for i in range(len(context)) for j in range(i + 1, len(context) + 1)]
    start, end = draw(st.sampled_from([(i, j) for i, j in spans if context[i:j] == context[i:j].strip()]))
    answers = {"text": [context[start:end]], "answer_start": [start]}
    return {"title": draw(TEXTS), "context": context, "question": draw(TEXTS.filter(str.strip)), "answers": answers}


def squad(rows: list[dict[str, Any]]) -> str:
    articles = []
    for row in rows:
        [text], [start] = row["answers"].values()
        question = {"id": row["id"], "question": row["question"], "answers": [{"text": text, "answer_start": start}]}
        articles.append({"title": row["title"], "paragraphs": [{"context": row["context"], "qas": [question]}]})
    return json.dumps({"data": articles})


def simple(row: dict[str, Any]) -> dict[str, Any]:
    [text], [start] = row["answers"].values()
    return {**{key: row[key] for key in row if key != "answers"}, "answer": text, "answer_start": start}


def table(rows: list[dict[str, Any]], delimiter: str) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


FORMS: dict[str, Callable[[list[dict[str, Any]]], str]] = {
    "squad.json": squad,
    "list.json": lambda rows: json.dumps(rows, ensure_ascii=False),
    "simple.json": lambda rows: json.dumps([simple(row) for row in rows]),
    "lines.jsonl": lambda rows: "\n".join(json.dumps(row, ensure_ascii=False) for row in rows),
    "simple.jsonl": lambda rows: "\r\n".join(json.dumps(simple(row)) for row in rows),
    "squad.csv": lambda rows: table([{**row, "answers": json.dumps(row["answers"])} for row in rows], ","),
    **{
        f"simple{number}.csv": lambda rows, delimiter=delimiter: table([simple(row) for row in rows], delimiter)
        for number, delimiter in enumerate(DELIMITERS)
    },
}


# Instead of a value, as it stands in JSON.
RAW = (
    *(
        r'"\ud83d"',
        r'"A\udc00"',
        r'"\u0000"',
        '"\x1b[2J"',
        '""',
        '" "',
        '"7"',
        '"x"',
        "null",
        "true",
        "[]",
        "{}",
        "-1",
        "1.5",
    ),
    *(
        "NaN",
        "-Infinity",
        "1e999",
        "9" * 400,
        "9" * 5000,
        f"[{'9' * 5000}]",
        "[" * 900 + "]" * 900,
        "[" * 9000 + "]" * 9000,
    ),
    *('{"a":' * 9000 + "1" + "}" * 9000, '["A", "B"]', '{"text": "A"}', "", '"', "]"),
)
GOOD = {"id": "q", "title": "T", "context": "It was Ada.", "question": "Who?"}


PLACES = [(name, key) for name in FORMS for key in [*GOOD, "text", "answer_start"]]
PLACES += [(name, "answers") for name in ("list.json", "lines.jsonl", "squad.csv")]


@pytest.mark.parametrize(("name", "key"), PLACES)
def test_any_value_may_stand_in_a_good_file(folder, name, key):
    answers: Any = {"text": ["Ada"], "answer_start": [7]}
    rows = [{**GOOD, "answers": answers}, {**GOOD, "id": "other", "answers": answers}]
    if key in answers:
        rows[0]["answers"] = {**answers, key: ["@"]}
    else:
        rows[0][key] = "@"
    text = FORMS[name](rows)
    for raw in RAW:
        wanted = ('""@""', raw.replace('"', '""')) if '""@""' in text else ('"@"', raw) if '"@"' in text else ("@", raw)
        (folder / name).write_text(text.replace(*wanted), encoding="utf-8", newline="")
        nothing_but_a_sentence(folder / name)


@quick
@given(rows=st.lists(asked(), min_size=1, max_size=4))
def test_every_gold_span_is_found_in_every_form(folder, rows):
    rows = [{"id": f"q{number}", **row} for number, row in enumerate(rows)]
    for name, form in FORMS.items():
        (folder / name).write_text(form(rows), encoding="utf-8", newline="")
        checked = read_file(folder / name)
        assert (checked.records, checked.left_out, checked.realigned_ids, checked.not_found) == (rows, [], [], []), name


@settings(quick, max_examples=int(MORE or 40))
@given(rows=st.lists(asked(), min_size=1, max_size=4), data=st.data())
def test_a_parquet_file_is_read_to_the_letter_or_refused(folder, rows, data):
    rows = [{"id": f"q{number}", **row} for number, row in enumerate(rows)]
    file = folder / "rows.parquet"
    pd.DataFrame(rows).to_parquet(file)
    assert read_file(file).records == rows
    whole = file.read_bytes()
    file.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(UserError):
        read_file(file)
