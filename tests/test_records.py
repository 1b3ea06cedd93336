"""Files of questions: every form gives the same records, and every bad record is named."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd
import pytest

from src.config import UserError
from src.data import sample
from src.data.files import EXAMPLE
from src.data.records import NOT_FOUND, check, read_file
from tests.conftest import own_csv, question, squad_json

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
        ("cut.json", '{"data": [{"title": "T", "para', "is not valid JSON (line 1, column"),
        ("text.json", "Dear Sir or Madam", "is not valid JSON"),
        ("list.json", "[1, 2]", "is not in SQuAD format: the top level has no list `data`"),
        ("other.json", '{"data": [{"title": "T"}]}', "article 0 has no list `paragraphs`"),
        ("other2.json", '{"data": [{"paragraphs": [{"context": "c"}]}]}', "article 0, paragraph 0 has no list `qas`"),
        ("none.json", '{"data": []}', "holds no question"),
        ("bad.jsonl", '{"id": 1', "line 1 is not valid JSON"),
        ("half.jsonl", '{"id": "1", "context": "c"}', "line 1 has no question and no answers"),
        ("bad.csv", "id,question\n1,Who?\n", "has no column context, answers"),
        ("bad.parquet", "PAR0", "is not a valid Parquet file"),
        ("latin.json", '{"data": "é"}'.encode("latin-1"), "is not UTF-8 text (byte 10)"),
        ("questions.txt", "x", "ends in .txt; a file of questions ends in .json, .jsonl, .csv, .tsv or .parquet."),
        ("book.xlsx", "x", "is a spreadsheet; in Excel choose 'Save as' and the type 'CSV UTF-8'."),
        (
            "utf16.csv",
            "question,context\nWho?,Ada".encode("utf-16"),
            "is UTF-16 text and must be UTF-8; in Excel",
        ),
        ("utf16.csv", "question\n".encode("utf-16-le"), "(iconv -f UTF-16LE -t UTF-8 "),
        ("utf16.jsonl", '{"id": 1}'.encode("utf-16-be"), "(iconv -f UTF-16BE -t UTF-8 "),
        (
            "typo.csv",
            "Question,contxt,anwser\nWho?,Ada.,Ada\n",
            "contxt, anwser. Probably a misspelling: rename 'contxt' to 'context' and 'anwser' to 'answer'.",
        ),
        ("typo.json", '[{"question": "Who?", "contex": "Ada", "answer": "Ada"}]', "rename 'contex' to 'context'."),
        ("list.jsonl", "[1]\n[2]", "line 1 is not an object"),
        (
            "cell.csv",
            "id;question;context;answers\n1;Who?;Ada;Ada\n",
            "cell.csv: row 1: answers is not JSON",
        ),
        (
            "header.csv",
            "question;passage;answer\nWho?;Ada.;Ada\n",
            "has no column context; it has question, passage, answer.\nTwo lines",
        ),
        (
            "headless.csv",
            "Who?,It was Ada.,Ada\n",
            "has no column question, context, answer; it has who?, it was ada., ada",
        ),
        ("rowless.csv", "question,context,answer\n", "holds no question"),
        ("twice.csv", "question,Question,context,answer\na,b,c,d\n", "more than one column named question"),
        ("keys.json", '[{"question": "Who?", "text": "Ada"}]', "has no context and no answer in any record"),
        (
            "useless.csv",
            "question,context,answer\n,Ada.,Ada\nWho?,,Ada\n",
            "can be used: row 1 has no question; row 2 has no context",
        ),
        (
            "surrogate.json",
            '{"data": [\n{"title": "\\\\ud800 \\ud83d\\ude00 \\ude00"}]}',
            "line 2, column 33: \\ude00 is half a",
        ),
        (
            "surrogate.jsonl",
            '{"question": "\\ud800"}',
            "line 1 is not valid JSON (column 15: \\ud800 is half a character",
        ),
        ("digits.json", '{"data": [' + "9" * 5000 + "]}", "cannot be read (a number has more than 4,300 digits)"),
        ("digits.jsonl", '{"answer_start": -' + "9" * 5000 + "}", "JSON (a number has more than 4,300 digits)"),
        ("deep.json", "[" * 100_000, "cannot be read (lists or objects stand inside each other too deeply); correct"),
        ("deep.jsonl", '{"a":' * 100_000, "line 1 is not valid JSON (lists or objects stand inside each other"),
        ("deep.csv", "id,question,context,answers\n1,Who?,Ada," + "[" * 100_000, "row 1: answers is not JSON (lists"),
        ("blank.csv", " \n\t\n ", "holds nothing but white space"),
        ("blank.json", " \n ", "is not valid JSON (line 2, column 2"),
        ("blank.jsonl", " \n ", "holds no question"),
        ("windows.csv", "question;context\nWhat?;Caf\xe9\n".encode("cp1252"), "line 2. In Excel choose 'Save as'"),
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
    shows_the_form = all(line in str(caught.value) for line in EXAMPLE.splitlines())
    assert shows_the_form == (name not in ("missing.json", "latin.json", "windows.csv", "utf16.csv", "utf16.jsonl"))


@pytest.mark.parametrize("damage", ["cut", "header", "page", "text"])
def test_a_damaged_parquet_file_is_one_sentence(tmp_path, damage):
    """pyarrow raises OSError for some of it, which else is about the disk."""
    path = write(tmp_path, ".parquet")
    whole = path.read_bytes()
    content = {
        "cut": whole[:-20],
        "header": whole[:8] + b"\xff" * 40 + whole[48:],
        "page": whole[:-200] + b"\x00" * 150 + whole[-50:],
        "text": whole.replace(b"Ada wrote", b"\xff\xfe\xffa wrote"),
    }
    path.write_bytes(content[damage])
    with pytest.raises(UserError, match=r"questions.parquet is not a valid Parquet file, or damaged \("):
        read_file(path)


def test_a_place_of_thousands_of_digits_is_none(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(f"question,context,answer,answer_start\nWho?,It was Ada.,Ada,{'7' * 5000}\n")
    assert read_file(path).records[0]["answers"] == {"text": ["Ada"], "answer_start": [7]}


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        read_file(tmp_path)


def test_what_is_no_file_of_questions_is_neither_read_nor_waited_for(tmp_path, monkeypatch):
    (tmp_path / "in" / "side").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "in" / "side")
    os.mkfifo("pipe.csv")  # which nobody writes to
    Path("endless.csv").symlink_to("/dev/zero")
    Path("loop.csv").symlink_to("loop.csv")
    sentences = {
        "../..": "is a folder",
        "pipe.csv": "is empty",
        "endless.csv": "is empty",
        "loop.csv": "does not exist",
    }
    for path, sentence in sentences.items():
        with pytest.raises(UserError, match=rf"^{path} {sentence}"):
            read_file(Path(path))


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        ({"context": "  "}, "question 1 (id 9) has an empty context"),
        ({"question": ""}, "question 1 (id 9) has an empty question"),
        ({"id": "8"}, "question 1 (id 8) has the same id as article 0, paragraph 0, question 0"),
        ({"answers": [{"text": "Ada"}]}, "(id 9): answers needs `text` and `answer_start`"),
        ({"answers": [{"text": "", "answer_start": 0}]}, "(id 9) has nothing but empty answers"),
        ({"answers": [{"text": "Ada", "answer_start": "0"}]}, "answer_start is '0' and must be a whole number"),
        ({"id": ["9"]}, "question 1: id is ['9'] and must be a text or a number"),
        (
            {"answers": [{"text": [[[0]]] * 99, "answer_start": 0}]},
            "the answer text is [[[0]], [[0]], [[0]], [[0]], [[0]], [[0]], ...] and must be",
        ),
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


# Files with one plain answer


SEPARATORS = {"comma.csv": ",", "semicolon.csv": ";", "tab.csv": "\t", "bar.csv": "|", "tab.tsv": "\t"}


@pytest.mark.parametrize("name", [*SEPARATORS, "lines.jsonl", "list.json", "table.parquet"])
def test_a_file_of_questions_passages_and_answers_is_taken(tmp_path, name):
    records = sample.generate(300, 0, "train")
    rows = [{"question": r["question"], "context": r["context"], "answer": r["answers"]["text"][0]} for r in records]
    path = tmp_path / name
    if name in SEPARATORS:
        own_csv(path, 300, SEPARATORS[name])
    elif name == "table.parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        path.write_text("\n".join(map(json.dumps, rows)) if name == "lines.jsonl" else json.dumps(rows))
    checked = read_file(path)
    expected = [{**record, "id": str(i), "title": ""} for i, record in enumerate(records, start=1)]
    assert checked.records == expected
    assert (checked.left_out, checked.realigned, checked.untrainable) == ([], 0, 0)


def test_a_spreadsheet_of_another_country(tmp_path):
    """Semicolons, decimal commas, quotes, line breaks in cells, CRLF, a byte order mark, capitals in the header."""
    path = tmp_path / "tabelle.csv"
    text = (
        ' Question;" CONTEXT ";Answer;Note\r\n'
        'How long?;"The bridge, ""Old Mary"";\r\nis 3,5 km long; it opened in 1990.";3,5 km;x\r\n'
        ";;;\r\n"
        'What name?;"The bridge, ""Old Mary"", is long.";"""Old Mary""";\r\n'
    )
    path.write_bytes(text.encode("utf-8-sig"))
    checked = read_file(path)
    one, two = checked.records
    assert checked.left_out == []  # a row of nothing but separators is no row
    context = 'The bridge, "Old Mary";\r\nis 3,5 km long; it opened in 1990.'
    answers = {"text": ["3,5 km"], "answer_start": [context.index("3,5")]}
    assert one == {"id": "1", "title": "", "context": context, "question": "How long?", "answers": answers}
    assert (two["id"], two["answers"]) == ("3", {"text": ['"Old Mary"'], "answer_start": [12]})


@pytest.mark.parametrize(
    ("answer", "context", "expected"),
    [
        ("Rome", "Rome and Rome.", [("Rome", 0), ("Rome", 9)]),
        (" Rome ", "In Rome.", [("Rome", 3)]),
        ("art", "The party saw art.", [("art", 14)]),  # a whole word before a part of one
        ("part", "The party.", [("part", 4)]),
        ("old rome", "In Old  \nRome.", [("Old  \nRome", 3)]),
        ("rome", "Rome, rome", [("rome", 6)]),  # as it is written comes first
        ("$5 (net)", "It cost $5 (net).", [("$5 (net)", 8)]),
        ("東京", "彼は東京都に住む。", [("東京", 2)]),
        ("London", "In Rome.", [("London", NOT_FOUND)]),
        ("", "In Rome.", []),
        ("  ", "In Rome.", []),
        (1990, "In 1990.", [("1990", 3)]),
        (["Rome", "in rome"], "In Rome.", [("Rome", 3), ("In Rome", 0)]),
        (None, "In Rome.", []),
    ],
)
def test_an_answer_is_located_in_its_passage(tmp_path, answer, context, expected):
    path = tmp_path / "own.json"
    path.write_text(json.dumps([{"question": "Q?", "context": context, "answer": answer}]))
    checked = read_file(path)
    answers = checked.records[0]["answers"]
    assert list(zip(answers["text"], answers["answer_start"], strict=True)) == expected
    assert checked.not_found == (["1"] if expected and expected[0][1] == NOT_FOUND else [])


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_lines_may_end_in_any_way(tmp_path, ending):
    path = tmp_path / "own.csv"
    path.write_bytes(ending.join(["question,context,answer", "Q?,In Rome.,Rome", "Who?,Ada did.,Ada"]).encode())
    assert [record["question"] for record in read_file(path).records] == ["Q?", "Who?"]


def test_keys_of_json_may_be_written_in_capitals(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({"Question": "Q?", " CONTEXT ": "In Rome.", "Answer": "Rome"}))
    assert read_file(path).records[0]["answers"] == {"text": ["Rome"], "answer_start": [3]}


def test_given_ids_titles_and_places_are_kept(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("id,title,question,context,answer,answer_start\nq7,T,Q?,Rome and Rome.,Rome,9\n,,Q?,Rome.,Rome,7\n")
    one, two = read_file(path).records
    assert (one["id"], one["title"], one["answers"]["answer_start"]) == ("q7", "T", [9])
    assert (two["id"], two["title"], two["answers"]["answer_start"]) == ("2", "", [0])


def test_rows_that_cannot_be_used_are_named_and_the_others_are_kept(tmp_path):
    rows = ["id;question;context;answer", "a;Q?;In Rome.;Rome", ";;In Rome.;Rome", 'b;Q?;"In" Rome.;Rome']
    rows += ["c;Q?;In Rome; or so.;Rome", "a;Q?;In Rome.;Rome", "d;Q?", "e;Q?;In Rome.;Rome", 'f;Q?;"In Rome.;Rome']
    path = tmp_path / "own.csv"
    path.write_text("\n".join(rows))
    checked = read_file(path)
    assert [record["id"] for record in checked.records] == ["a", "e"]
    assert [row.partition(" (")[0] for row in checked.left_out] == [
        "row 2 has no question",
        "row 3 is not valid CSV",
        "row 4 has 5 cells where the header has 4",
        "row 5 has the same id as row 1",
        "row 6 has no context",
        "row 8 is not valid CSV",
    ]


def test_a_line_that_is_not_json_is_named_too(tmp_path):
    path = tmp_path / "own.jsonl"
    good = json.dumps({"question": "Q?", "context": "In Rome.", "answer": "Rome"})
    odd = json.dumps({"question": "Q?", "context": "In Rome.", "answer": {"text": "Rome"}})
    path.write_text(f'{good}\n[1]\n{odd}\n{{"question": "Q')
    checked = read_file(path)
    assert [record["id"] for record in checked.records] == ["1"]
    assert checked.left_out[:2] == ["line 2 is not an object", "line 3 has an answer that is not text"]
    assert checked.left_out[2].startswith("line 4 is not valid JSON (Unterminated string")


def test_a_passage_of_any_length_fits_into_a_cell(tmp_path):
    path = own_csv(tmp_path / "own.csv", 1, rows=[["Q?", "word " * 40_000 + "end", "end"]])
    assert read_file(path).records[1]["answers"] == {"text": ["end"], "answer_start": [200_000]}


def test_is_impossible_is_a_word_in_a_csv_file(tmp_path):
    path = tmp_path / "v2.csv"
    table = [
        {**row, "answers": json.dumps(row["answers"]), "is_impossible": not row["answers"]["text"]} for row in ROWS
    ]
    pd.DataFrame(table).to_csv(path, index=False)
    checked = read_file(path)
    assert checked.records == ROWS
    assert checked.declares_unanswerable
