"""Which questions a run sees: the same for every method, no article on both sides, nothing silently switched."""

from __future__ import annotations

import time

import pandas as pd
import pytest

from src.config import DatasetConfig, UserError
from src.data import sample
from src.data.sources import load, training_answer
from tests.conftest import question, squad_json


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
        ({"train_size": 500}, "dataset.train_size=500 is more than the"),
        ({"validation_size": 500}, "dataset.validation_size=500 is more than the"),
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
