"""Asking stored models: one question or many, one run or several, from the command line, a file or a prompt."""

from __future__ import annotations

import json
import re
import shutil
from functools import partial
from pathlib import Path

import datasets
import pytest

from src import predict, question_file
from src.answering import load_run, place_of, together
from src.config import TrackingConfig
from src.data import sample
from src.run import run
from src.tasks.base import NO_PLACE, Answer, Span
from tests.conftest import TINY

PASSAGE = "The bridge was opened in 1912. It was designed by Ada Byron."


@pytest.fixture(scope="module")
def store(configure, empty_store, tmp_path_factory):
    """The folder of a store, and the ids of its runs: an encoder of each of two methods, and a decoder."""
    folder = tmp_path_factory.mktemp("store")
    shutil.copy(empty_store, folder)
    shared = [*TINY, "train.epochs=1", "hardware.precision=fp32", f"tracking.folder={folder}"]
    ids = [run(configure(*shared, f"method={method}")).run_id for method in ("full", "lora")]
    small = ["dataset.train_size=16", "dataset.validation_size=8", "dataset.test_size=null", "method=full"]
    decoder = run(configure(*shared, "model=tiny_llm", *small, "evaluation.max_answer_length=3"))
    return folder, [*ids, decoder.run_id]


@pytest.fixture
def asked(store, ended):
    return partial(ended, predict, f"folder={store[0]}")


def questions(count):
    return [
        {"id": record["id"], "question": record["question"], "context": record["context"]}
        for record in sample.generate(count, 3, "validation")
    ]


def write_lines(file, rows):
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return file


def read_lines(text):
    return [json.loads(line) for line in text.splitlines()]


def span(text, probability, start=NO_PLACE):
    return Span(text, start, NO_PLACE if start == NO_PLACE else start + len(text), 0.0, probability)


@pytest.mark.parametrize("number", [1, 2])
def test_a_file_is_answered_as_the_model_answers(store, asked, tmp_path, number):
    rows = questions(12)
    file, out = write_lines(tmp_path / "questions.jsonl", rows), tmp_path / "answers.jsonl"
    cache = Path(datasets.config.HF_DATASETS_CACHE) / "tuneoff"
    before = sorted(cache.iterdir())
    status, shown, said = asked(f"run={store[1][number]}", f"input={file}", f"output={out}")
    assert (status, shown) == (0, "")
    assert said.startswith("12 questions in ") and said.endswith(" a second\n")
    assert sorted(cache.iterdir()) == before, "the questions are left in the cache"
    answers = load_run(store[1][number], TrackingConfig(folder=str(store[0]))).answer(rows)
    lines = read_lines(out.read_text(encoding="utf-8"))
    assert [line["id"] for line in lines] == [row["id"] for row in rows]
    for line, answer, row in zip(lines, answers, rows, strict=True):
        assert (line["answer"], line["question"]) == (answer.best.text, row["question"])
        assert line["probability"] == pytest.approx(answer.best.probability, abs=1e-6)
        assert [each["answer"] for each in line["n_best"]] == [each.text for each in answer.n_best[:5]]
        if number == 1:
            assert row["context"][line["start"] : line["end"]] == line["answer"]


def test_a_broken_line_is_named_and_the_others_are_answered(store, asked, monkeypatch):
    monkeypatch.setattr(question_file, "AT_ONCE", 2)
    good = [json.dumps(row).encode() for row in questions(5)]
    bad = {
        2: (b'{"question": "Who?"', "this is not JSON (Expecting ',' delimiter: line 1 column 20 (char 19))"),
        4: (b'["Who?"]', "this is not a JSON object with question and context"),
        5: (b'{"question": " ", "context": "Ada."}', "`question` is missing or empty"),
        6: (b'{"question": "Who?", "context": 7}', "`context` is missing or empty"),
        7: ("Wér?".encode("latin-1"), "this is not UTF-8 text"),
        9: (
            b'{"question": "Who?", "context": "A\\ud800"}',
            "this is not JSON (column 35: \\ud800 is half a character, a lone surrogate)",
        ),
        10: (b'{"id": ' + b"9" * 5000 + b"}", "this is not JSON (a number has more than 4,300 digits)"),
        11: (b"[" * 100_000, "this is not JSON (lists or objects stand inside each other too deeply)"),
        12: (b'{"question": "Who?", "context": "A", "id": [1]}', "`id` is neither a text nor a number"),
    }
    lines = [
        good[0],
        bad[2][0],
        good[1],
        *(bad[n][0] for n in (4, 5, 6, 7)),
        b"",
        *(bad[n][0] for n in (9, 10, 11, 12)),
        *good[2:],
    ]
    status, shown, said = asked(f"run={store[1][0]}", "input=-", stdin=b"\xef\xbb\xbf" + b"\n".join(lines))
    assert status == 1
    assert [line["id"] for line in read_lines(shown)] == [row["id"] for row in questions(5)]
    *named, summary = said.splitlines()
    assert named == [f"input=-, line {n}: {why}; the line is skipped." for n, (_, why) in bad.items()]
    assert summary.startswith("5 questions in ") and summary.endswith("; 9 lines were skipped")


def test_what_is_answered_cannot_steer_the_terminal(store, asked, tmp_path):
    """The values stay what they are in a file, and for a program that reads them."""
    row = {"id": "\x1b[2J", "question": "Who\x9b2J?", "context": "\x1b]0;A\x07 \x9b2J \x7f"}
    file, out = write_lines(tmp_path / "questions.jsonl", [row]), tmp_path / "answers.jsonl"
    run = f"run={store[1][0]}"
    shown = asked(run, f"input={file}")[1]
    assert asked(run, f"input={file}", f"output={out}")[0] == 0
    [answer], [kept] = read_lines(shown), read_lines(out.read_text(encoding="utf-8"))
    assert (answer["id"], answer["question"]) == (row["id"], row["question"])
    assert answer == kept and answer["answer"] in row["context"]
    shown += asked(run, f"question={row['question']}", f"context={row['context']}")[1]
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", shown)


def test_runs_side_by_side_and_together(store, asked, tmp_path):
    file = write_lines(tmp_path / "questions.jsonl", questions(4))
    first, second, _ = store[1]
    status, shown, _ = asked(f"runs=[{first},{second}]", "ensemble=true", f"input={file}")
    assert status == 0
    runs = [load_run(each, TrackingConfig(folder=str(store[0]))) for each in (first, second)]
    of_runs = [each.answer(questions(4)) for each in runs]
    for line, *answers in zip(read_lines(shown), *of_runs, strict=True):
        assert [(id, each["name"]) for id, each in line["runs"].items()] == [(each.id, each.name) for each in runs]
        assert [each["answer"] for each in line["runs"].values()] == [answer.best.text for answer in answers]
        assert line["answer"] == together(answers)[0].text
    shown = asked(f"runs=[{first},{second}]", "ensemble=true", "question=Who?", f"context={PASSAGE}")[1].splitlines()
    heads = [line for line in shown if line and not line.startswith((" ", ">", PASSAGE[:5]))][:3]
    assert heads == [f"{each.name}  {each.id[:8]}" for each in runs] + ["ensemble"]


def test_an_ensemble_takes_the_mean_probability():
    one = Answer("0", span("Ada", 0.6, 18), (span("Ada", 0.6, 18), span("1912", 0.3, 40), span("the Ada", 0.1, 14)), 0)
    other = Answer("0", span("1912", 0.5, 40), (span("1912", 0.5, 40), span("The Ada", 0.1, 60)), 0)
    found = together([one, other])
    assert [(each.text, each.start) for each in found] == [("1912", 40), ("Ada", 18)]
    assert [each.probability for each in found] == pytest.approx([0.4, 0.35])


def test_the_place_of_an_answer():
    assert place_of(span("Ada", 1.0, 3), PASSAGE) == (3, 6)
    assert place_of(span("1912", 1.0), PASSAGE) == (25, 29)
    assert place_of(span("was", 1.0), PASSAGE) is None, "it stands there twice"
    assert place_of(span("Eve", 1.0), PASSAGE) is None
    assert place_of(span("", 1.0), PASSAGE) is None


def test_the_place_is_shown_in_its_paragraph():
    context = f"First.\n{PASSAGE}\nLast."
    start = context.index("1912")
    text = predict.excerpt(context, start, start + 4, marked=False).plain
    assert text == f"{PASSAGE.replace('1912', '>>1912<<')}\n(characters 7 to {7 + len(PASSAGE)} of {len(context):,})"
    assert predict.excerpt(PASSAGE, 25, 29, marked=False).plain == PASSAGE.replace("1912", ">>1912<<")
    marked = predict.excerpt(PASSAGE, 25, 29, marked=True)
    assert marked.plain == PASSAGE
    assert [(each.start, each.end, each.style) for each in marked.spans] == [(25, 29, "bold green")]
    long = "word " * 1000 + "1912" + " word" * 1000
    part, where = predict.excerpt(long, 5000, 5004, marked=False).plain.splitlines()
    assert part == "word " * 60 + ">>1912<<" + " word" * 60
    assert where == "(characters 4,700 to 5,304 of 10,004)"


def test_a_prompt_goes_on_asking(store, asked):
    lines = [PASSAGE, "Who designed it?", "", "@nowhere.txt", "Ada wrote it.", "Who?"]
    status, shown, said = asked(f"run={store[1][0]}", stdin="\n".join([*lines, ""]).encode())
    assert status == 0
    assert said == "Error: context=@nowhere.txt: the file cannot be read (No such file or directory); check the path.\n"
    assert shown.count("passage (or @FILE): ") == 3 and shown.count("question: ") == 4
    assert shown.count("\n> ") + shown.count(": > ") == 2
    assert any(
        line.count(">>") == 1 and line.replace(">>", "").replace("<<", "") == PASSAGE for line in shown.splitlines()
    )


def test_a_passage_on_standard_input(store, asked):
    arguments = [f"run={store[1][0]}", "question=Who?", "context=-"]
    status, shown, _ = asked(*arguments, stdin=PASSAGE.encode())
    assert status == 0
    assert PASSAGE in shown.replace(">>", "").replace("<<", "")
    sentence = "Error: context=-: standard input is empty; it must hold the passage.\n"
    assert asked(*arguments, stdin=b" \n") == (1, "", sentence)


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["question=Who?", "context=Ada."], 2, "Give either run= or runs=; --help shows an example."),
        (["run=best", "runs=[best]"], 2, "Give either run= or runs=; --help shows an example."),
        (
            ["run=best", "question=Who?"],
            2,
            "context= must be given too; or leave both out, and you are asked for them.",
        ),
        (["run=best", "input=-", "context=Ada."], 2, "input= provides questions and passages; leave question= and"),
        (["run=best", "ensemble=true", "input=-"], 2, "ensemble=true needs several runs: 'runs=[RUN,RUN]'."),
        (["run=best", "input=nowhere.jsonl"], 1, "input=nowhere.jsonl: there is no such file; give one, or - for"),
        (["run=best", "input=-", "output=there.jsonl"], 1, "output=there.jsonl: this file exists; give another name."),
    ],
)
def test_a_mistake_is_one_sentence(asked, arguments, status, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("there.jsonl").touch()
    ended, shown, said = asked(*arguments)
    assert (ended, shown) == (status, "")
    assert said.startswith(f"Error: {sentence}") and said.count("\n") == 1
