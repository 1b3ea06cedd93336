"""Files of questions: every form gives the same records, and every bad record is named."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from src.config import UserError
from src.data.records import NOT_FOUND, check, read_file
from tests.conftest import question, squad_json

CONTEXT = "Ada wrote it in Paris. Bob read it in Rome, and Rome was far."
ROWS = [
    {
        "id": "1",
        "title": "T",
        "context": CONTEXT,
        "question": "Where was it written?",
        "answers": {"text": ["Paris"], "answer_start": [16]},
    },
    {"id": "2", "title": "T", "context": CONTEXT, "question": "Why?", "answers": {"text": [], "answer_start": []}},
]


def write(tmp_path, suffix):
    path = tmp_path / f"questions{suffix}"
    if suffix == ".json":
        impossible = question(
            "2", "Why?", [], is_impossible=True, plausible_answers=[{"text": "Rome", "answer_start": 38}]
        )
        return squad_json(path, [("T", CONTEXT, [question("1", "Where was it written?", [("Paris", 16)]), impossible])])
    if suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in ROWS))
    elif suffix == ".csv":
        pd.DataFrame([{**row, "answers": json.dumps(row["answers"])} for row in ROWS]).to_csv(path, index=False)
    else:
        pd.DataFrame(ROWS).to_parquet(path)
    return path


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".parquet"])
def test_every_form_gives_the_same_records(tmp_path, suffix):
    checked = read_file(write(tmp_path, suffix))
    assert checked.records == ROWS
    assert (checked.realigned, checked.untrainable) == (0, 0)


def test_answers_are_moved_only_where_there_is_one_place():
    def located(text, start):
        raw = {**ROWS[0], "answers": {"text": [text], "answer_start": [start]}}
        checked = check([("record 0", raw)], "test")
        return checked.records[0]["answers"]["answer_start"][0], checked.realigned, checked.untrainable

    assert located("Paris", 16) == (16, 0, 0)
    assert located("Paris", 3) == (16, 1, 0)
    assert located("Paris", -7) == (16, 1, 0)
    assert located("Rome", 3) == (NOT_FOUND, 0, 1)  # twice in the passage
    assert located("Rome", 48) == (48, 0, 0)
    assert located("London", 3) == (NOT_FOUND, 0, 1)


def test_a_question_with_one_findable_answer_stays_trainable():
    raw = {**ROWS[0], "answers": {"text": ["London", "Paris"], "answer_start": [0, 0]}}
    checked = check([("record 0", raw)], "test")
    assert checked.records[0]["answers"]["answer_start"] == [NOT_FOUND, 16]
    assert (checked.realigned, checked.untrainable) == (1, 0)


def test_an_empty_answer_beside_others_is_left_out():
    raw = {**ROWS[0], "answers": {"text": ["", "Paris", " "], "answer_start": [0, 16, 0]}}
    checked = check([("record 0", raw)], "test")
    assert checked.records[0]["answers"] == {"text": ["Paris"], "answer_start": [16]}
    assert checked.empty_answers == 2


def test_text_is_kept_to_the_letter(tmp_path):
    context = "First line.\r\nNaïve “quotes”, e\u0301 and 👩‍🔬 said: שלום, null, NA.\r\nEnd"
    answers = {"text": ["NA", "null", "שלום"], "answer_start": [context.index(x) for x in ("NA", "null", "שלום")]}
    row = {"id": "007", "title": "null", "context": context, "question": "NA?", "answers": answers}
    csv, jsonl = tmp_path / "a.csv", tmp_path / "a.jsonl"
    pd.DataFrame([{**row, "answers": json.dumps(answers)}]).to_csv(csv, index=False)
    jsonl.write_text(json.dumps(row))
    for path in (csv, jsonl):
        checked = read_file(path)
        assert checked.records == [row]
        assert checked.realigned == 0


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("missing.json", None, "does not exist (did you mean 'missing.jsonl'?)"),
        ("empty.json", "", "is empty"),
        ("cut.json", '{"data": [{"title": "T", "para', "is no valid JSON (line 1, column"),
        ("text.json", "Dear Sir or Madam", "is no valid JSON"),
        ("list.json", "[1, 2]", "is not in SQuAD format: the top level has no list `data`"),
        ("other.json", '{"data": [{"title": "T"}]}', "article 0 has no list `paragraphs`"),
        ("other2.json", '{"data": [{"paragraphs": [{"context": "c"}]}]}', "article 0, paragraph 0 has no list `qas`"),
        ("none.json", '{"data": []}', "holds no question"),
        ("bad.jsonl", '{"id": 1', "line 1 is no valid JSON"),
        ("half.jsonl", '{"id": "1", "context": "c"}', "line 1 has no question and no answers"),
        ("bad.csv", "id,question\n1,Who?\n", "has no column context, answers"),
        ("bad.parquet", "PAR0", "is no valid Parquet file"),
        ("latin.json", '{"data": "é"}'.encode("latin-1"), "is not UTF-8 text (byte 10)"),
        ("questions.txt", "x", "ends in .txt"),
    ],
)
def test_bad_files_in_one_sentence(tmp_path, name, content, expected):
    (tmp_path / "missing.jsonl").write_text("x")
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        read_file(tmp_path / name)
    assert expected in str(caught.value)
    assert name in str(caught.value)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        read_file(tmp_path)


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        ({"context": "  "}, "question 1 (id 9) has an empty context"),
        ({"question": ""}, "question 1 (id 9) has an empty question"),
        ({"id": "8"}, "question 1 (id 8) has the same id as article 0, paragraph 0, question 0"),
        ({"answers": [{"text": "Ada"}]}, "(id 9): answers needs `text` and `answer_start`"),
        ({"answers": [{"text": "", "answer_start": 0}]}, "(id 9) has nothing but empty answers"),
        ({"answers": [{"text": "Ada", "answer_start": "0"}]}, "answer_start is '0' and must be a whole number"),
        ({"answers": {"text": ["Ada"], "answer_start": []}}, "1 answer texts and 0 values"),
    ],
)
def test_bad_records_are_named(tmp_path, bad, expected):
    good = question("8", "Who?", [("Ada", 0)])
    broken = {**question("9", "Who?", [("Ada", 0)]), **{k: v for k, v in bad.items() if k != "context"}}
    if "context" in bad:
        path = tmp_path / "a.json"
        paragraphs = [{"context": CONTEXT, "qas": []}, {"context": bad["context"], "qas": [good, broken]}]
        path.write_text(json.dumps({"data": [{"title": "T", "paragraphs": paragraphs}]}))
        expected = "article 0, paragraph 1, question 0 (id 8) has an empty context"
    else:
        path = squad_json(tmp_path / "a.json", [("T", CONTEXT, [good, broken])])
    with pytest.raises(UserError) as caught:
        read_file(path)
    assert expected in str(caught.value)
