"""Which questions a run sees: the same for every method, no article on both sides, nothing silently switched."""

from __future__ import annotations

import time

import pandas as pd
import pytest

from src.config import DatasetConfig, UserError
from src.data import notes, sample
from src.data.answers import training_answer
from src.data.sources import load
from src.data.split import group
from tests.conftest import own_csv, question, squad_json


def article_file(path, articles=10, each=20, prefix=""):
    made = []
    for a in range(articles):
        context = f"{prefix}In article {a} the answer is value{a}."
        answer = f"value{a}"
        qas = [question(f"{a}-{q}", f"What is {q}?", [(answer, context.index(answer))]) for q in range(each)]
        made.append((f"Article {a}", context, qas))
    return squad_json(path, made)


def file_config(path, **more):
    return DatasetConfig(**{"name": "f", "source": "file", "path": str(path), "split": "article", **more})


def test_sample_sides_share_nothing():
    sides = {side: sample.generate(400, seed=3, side=side) for side in ("train", "validation")}
    titles, answers, openings = ({}, {}, {})
    for side, records in sides.items():
        titles[side] = {record["title"] for record in records}
        answers[side] = {a for r in records for a in r["answers"]["text"] if not any(c.isdigit() for c in a)}
        openings[side] = {" ".join(record["question"].split()[:4]) for record in records}
        for record in records:
            [text], [start] = record["answers"]["text"], record["answers"]["answer_start"]
            assert record["context"][start : start + len(text)] == text
            assert record["context"].count(text) == 1
    assert len(titles["train"]) > 50
    assert not titles["train"] & titles["validation"]
    assert not answers["train"] & answers["validation"]
    assert len(answers["validation"]) > 50


def test_sample_wordings_of_the_validation_side_are_held_out():
    for facts in sample.TOPICS.values():
        for fact in facts:
            for wordings in (fact.statements, fact.questions):
                assert len(wordings) == len(set(wordings)) >= 3
    trained = {r["question"] for r in sample.generate(300, 0, "train")}
    assert not any(q.startswith("Which year saw") for q in trained)
    assert any(r["question"].startswith("Which year saw") for r in sample.generate(300, 0, "validation"))


def test_sample_is_repeatable_and_of_any_size():
    assert sample.generate(37, 1, "train") == sample.generate(37, 1, "train")
    assert sample.generate(37, 1, "train") != sample.generate(37, 2, "train")
    assert len(sample.generate(5000, 0, "train")) == 5000
    assert len({record["id"] for record in sample.generate(5000, 0, "train")}) == 5000


def test_split_by_article_keeps_the_sides_apart(tmp_path):
    sets = load(file_config(article_file(tmp_path / "a.json"), train_size=120, validation_size=30))
    assert (len(sets.train), len(sets.validation)) == (120, 30)
    assert not set(sets.train["title"]) & set(sets.validation["title"])


def test_a_training_set_that_takes_from_the_validation_side_is_told(tmp_path):
    path = article_file(tmp_path / "a.json")
    assert not [note for note in load(file_config(path, train_size=120, validation_size=5)).notes if "curve" in note]
    [note] = [note for note in load(file_config(path, train_size=170, validation_size=5)).notes if "curve" in note]
    assert note.startswith("dataset.train_size=170 leaves less than a fifth of 200 questions for validation")


def test_a_smaller_training_set_is_part_of_the_larger_one_and_validation_stays(tmp_path):
    path = article_file(tmp_path / "a.json")
    small, large = (load(file_config(path, train_size=n, validation_size=30)) for n in (20, 120))
    assert set(small.train["id"]) < set(large.train["id"])
    assert small.validation["id"] == large.validation["id"]


def test_the_draw_depends_on_the_data_seed_alone(tmp_path):
    path = article_file(tmp_path / "a.json")
    one, same, other = (load(file_config(path, train_size=50, validation_size=20, seed=s)) for s in (0, 0, 1))
    assert one.train["id"] == same.train["id"] != other.train["id"]


def test_first_takes_the_first_questions(tmp_path):
    train, validation = article_file(tmp_path / "a.json"), article_file(tmp_path / "b.json", articles=2)
    sets = load(
        file_config(
            train, validation_path=str(validation), split="given", subset="first", train_size=25, validation_size=5
        )
    )
    assert sets.train["id"][:2] == ["0-0", "0-1"]
    assert sets.train["id"][24] == "1-4"
    assert sets.validation["id"] == [f"0-{i}" for i in range(5)]


def test_extra_sets_lose_the_articles_that_were_trained_on(tmp_path):
    path, noisy = article_file(tmp_path / "a.json"), article_file(tmp_path / "noisy.json", prefix="Uh. ")
    # Nothing of the noisy answers can be found; they are scored all the same.
    noisy.write_text(noisy.read_text().replace("the answer is value", "the answer is valley"))
    sets = load(file_config(path, train_size=120, validation_size=30, extra_validation={"noisy": str(noisy)}))
    held_out = {f"Article {a}" for a in range(10)} - set(sets.train["title"])
    assert set(sets.extra["noisy"]["title"]) == held_out
    assert len(sets.extra["noisy"]) == 20 * len(held_out)
    assert sets.untrainable == 200
    assert any("noisy" in note and "8 articles that were trained on are left out" in note for note in sets.notes)


def test_untrainable_questions_are_scored_and_not_trained_on(tmp_path):
    path = tmp_path / "a.json"
    articles = [
        (f"T{a}", "Some words here.", [question(f"{a}{i}", "Q?", [(("gone", "words")[i], 5)]) for i in range(2)])
        for a in range(4)
    ]
    sets = load(file_config(squad_json(path, articles)))
    assert all(answers["answer_start"] == [5] for answers in sets.train["answers"])
    assert len(sets.train) == 3
    assert len(sets.validation) == 2
    assert sets.untrainable == 4


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"train_size": 500}, "dataset.train_size=500 is too large: 'f' has 160 questions to train on"),
        ({"validation_size": 500}, "validation_size=500 is more than the 180 questions that 'f' has for it"),
        ({"extra_validation": {"same": "a.json"}, "train_size": 190, "split": "random"}, "was trained on"),
    ],
)
def test_too_little_data_is_said(tmp_path, more, expected):
    article_file(tmp_path / "a.json")
    with pytest.raises(UserError, match=expected):
        load(file_config("a.json", root=str(tmp_path), **more))


def test_passages_on_both_sides_are_said(tmp_path):
    path = article_file(tmp_path / "a.json")
    same = load(file_config(path, split="given", validation_path=str(path)))
    assert any(
        "200 of 200 validation questions are about articles or passages that were trained on" in n for n in same.notes
    )
    apart = load(file_config(path))
    assert apart.notes == []


def test_one_title_cannot_be_split_by_article(tmp_path):
    with pytest.raises(UserError, match=r"two articles at least.*dataset.split=random"):
        load(file_config(article_file(tmp_path / "a.json", articles=1)))


def test_which_answer_is_trained_on():
    answers = {"text": ["in the city of Rome", "Rome", "City", "Rome"], "answer_start": [0, 15, -1, 15]}
    assert training_answer(answers, "first") == ("in the city of Rome", 0)
    assert training_answer(answers, "majority") == ("Rome", 15)
    assert training_answer(answers, "shortest") == ("Rome", 15)  # "City" has no place
    assert training_answer({"text": ["x"], "answer_start": [-1]}, "first") is None
    assert training_answer({"text": [], "answer_start": []}, "first") is None


def test_hub_data_sets_are_loaded_by_the_same_code(tmp_path):
    for split, count in (("train", 12), ("validation", 5)):
        pd.DataFrame(sample.generate(count, 0, split)).to_parquet(tmp_path / f"{split}-00000.parquet")
    sets = load(DatasetConfig(name="squad", source="hub", path=str(tmp_path), train_size=10, subset="first"))
    assert (len(sets.train), len(sets.validation)) == (10, 5)
    assert sets.train[0]["question"] == sample.generate(12, 0, "train")[0]["question"]


def test_no_hub_is_one_sentence_with_two_ways_on(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the hub's client tries again after pauses
    with pytest.raises(UserError) as caught:
        load(DatasetConfig(name="squad", source="hub", path="rajpurkar/squad"))
    assert "dataset=sample" in str(caught.value)
    assert "dataset=file dataset.path=FILE" in str(caught.value)


# Files without titles


def test_without_titles_no_passage_is_on_both_sides(tmp_path):
    sets = load(file_config(own_csv(tmp_path / "own.csv")))
    assert (len(sets.train), len(sets.validation)) == (236, 64)
    assert not set(sets.train["context"]) & set(sets.validation["context"])
    assert sets.notes == ["f: split by passage: the file has no titles."]


def test_questions_without_a_title_are_grouped_by_passage_among_others_with_one(tmp_path):
    articles = [
        (f"T{a}" if a < 5 else "", f"Passage {a}.", [question(f"{a}{i}", "Q?", [("Passage", 0)]) for i in "ab"])
        for a in range(10)
    ]
    sets = load(file_config(squad_json(tmp_path / "a.json", articles)))
    assert len(sets.validation) == 4
    assert not set(sets.train["context"]) & set(sets.validation["context"])
    assert sets.notes == ["f: split by article, and by passage where there is no title (10 of 20 questions)."]


def test_the_split_of_a_file_with_titles_has_not_changed(tmp_path):
    sets = load(file_config(article_file(tmp_path / "a.json")))
    assert set(sets.validation["title"]) == {"Article 1", "Article 8"}


def test_one_passage_cannot_be_split(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("question,context,answer\nQ?,In Rome.,Rome\nWho?,In Rome.,Rome\n")
    with pytest.raises(
        UserError, match=r"two articles at least, 'f' has one passage and no titles; choose dataset.split="
    ):
        load(file_config(path))


# Questions without an answer


def silent_file(path, silent, total, **more):
    """A passage for each of `total` questions, the first `silent` of which have no answer."""
    articles = [
        (f"T{i}", f"Word{i} here.", [question(f"q{i}", "Q?", [] if i < silent else [(f"Word{i}", 0)], **more)])
        for i in range(total)
    ]
    return squad_json(path, articles)


@pytest.mark.parametrize(
    ("silent", "total", "unanswerable", "expected"),
    [
        (1, 40, None, False),
        (9, 40, None, False),  # too few
        (10, 200, None, True),
        (10, 201, None, False),  # too small a share
        (1, 40, True, True),
        (30, 40, False, False),
        (0, 40, None, False),
    ],
)
def test_no_answer_is_predicted_where_asked_for_or_beyond_doubt(tmp_path, silent, total, unanswerable, expected):
    train = silent_file(tmp_path / "train.json", silent, total)
    validation = silent_file(tmp_path / "validation.json", 2, 4)
    config = file_config(train, validation_path=str(validation), split="given", unanswerable=unanswerable)
    sets = load(config)
    assert sets.unanswerable is expected
    assert len(sets.train) == (total if expected else total - silent)
    assert len(sets.validation) == 4
    about = [note for note in sets.notes if " no answer (" in note]
    names = [f"article {i}, paragraph 0, question 0 (id q{i})" for i in range(3)]
    first = names[0] if silent == 1 else "the first are " + "; ".join(names)
    have = "has" if silent == 1 else "have"
    told = [f"{silent} of {total} training questions {have} no answer ({first})"] if silent else []
    told += [] if expected else [f"validation: 2 of 4 questions have no answer ({'; '.join(names[:2])}) and score 0,"]
    assert len(about) == len(told)
    assert all(note.startswith(start) for note, start in zip(about, told, strict=True))
    assert any("left out of training; dataset.unanswerable=true" in note for note in about) == bool(
        silent and not expected
    )


def test_the_mode_does_not_change_with_the_draw(tmp_path):
    path = silent_file(tmp_path / "a.json", 20, 200)
    assert all(load(file_config(path, train_size=size)).unanswerable for size in (2, 100))


def test_a_file_may_declare_its_unanswerable_questions(tmp_path):
    path = silent_file(tmp_path / "a.json", 4, 40, is_impossible=False)
    sets = load(file_config(path))
    assert not sets.unanswerable
    path.write_text(path.read_text().replace('"answers": [], "is_impossible": false', '"is_impossible": true'))
    assert load(file_config(path)).unanswerable


def test_an_empty_cell_of_a_spreadsheet_is_a_question_without_an_answer(tmp_path):
    path = own_csv(tmp_path / "own.csv", rows=[["Why?", "Nobody knows.", ""]])
    sets = load(file_config(path, split="random"))
    assert not sets.unanswerable
    assert [note for note in sets.notes if "questions has no answer (row 301)" in note]
    assert "301" not in sets.train["id"]


# Notes


def test_notes_name_the_rows(tmp_path):
    """Moved answers, empty answers, answers that are nowhere."""
    articles = []
    for a in range(10):
        answers = [(f"Rome{a}", 5), ("", 0)] if a < 5 else [("London", 0)] if a == 5 else [(f"Rome{a}", 3)]
        articles.append((f"T{a}", f"In Rome{a}.", [question(f"q{a}", "Q?", answers)]))
    sets = load(file_config(squad_json(tmp_path / "a.json", articles)))
    moved = "the first are " + "; ".join(f"article {a}, paragraph 0, question 0 (id q{a})" for a in range(3))
    nowhere = "located in the passage (article 5, paragraph 0, question 0 (id q5))"
    assert sets.notes == [
        f"a.json: 5 empty answers next to proper ones were left out ({moved}).",
        f"a.json: 5 answers were moved to where the text stands, since answer_start pointed elsewhere ({moved}).",
        f"a.json: 1 of 10 questions is scored but not trained on, since no answer can be {nowhere}.",
    ]


def test_notes_name_the_rows_that_are_left_out(tmp_path):
    path = own_csv(tmp_path / "own.csv", 30, rows=[["Q?", "", "x"], ["", "In Rome.", "Rome"]])
    said = load(file_config(path)).notes
    assert said[0] == (
        "own.csv: 2 of 32 rows were left out (counted from 1, without the header): row 31 has no context; "
        "row 32 has no question."
    )
    own_csv(path, 30, rows=[["Q?", "", "x"]] * 9)
    said = load(file_config(path)).notes
    assert said[0].endswith("row 34 has no context; row 35 has no context; and 4 more.")


def test_listed():
    assert notes.listed(["row 3 (id q7)", "row 9"]) == "row 3 (id q7), row 9"
    assert notes.listed(["row 3", "row 3", "row 9", "row 11", "row 12"]) == "the first are row 3, row 9, row 11"


def test_nothing_to_train_on_is_said(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("question,context,answer\n" + "".join(f"Q?,Passage {i}.,nowhere\n" for i in range(10)))
    with pytest.raises(UserError, match="nothing to train on: none of 8 training questions has an answer that can be"):
        load(file_config(path))


def test_passages_that_differ_in_white_space_alone_are_one_group():
    assert group({"title": "", "context": "Ada  wrote\nit. "}) == group({"title": "", "context": "Ada wrote it."})
