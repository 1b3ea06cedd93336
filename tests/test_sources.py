"""Which questions a run sees: the same for every method, no article on both sides, nothing silently switched."""

from __future__ import annotations

import time
from dataclasses import replace

import datasets
import pandas as pd
import pytest

from src.config import DatasetConfig, UserError
from src.data import notes, sample
from src.data.answers import training_answer
from src.data.read import read
from src.data.sources import load
from src.data.split import group
from tests.conftest import own_csv, question, squad_json

NO_TEST = "dataset.test_size=null"


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
    sides = {side: sample.generate(400, seed=3, side=side) for side in ("train", "validation", "test")}
    titles, answers = {}, {}
    for side, records in sides.items():
        titles[side] = {record["title"] for record in records}
        answers[side] = {a for r in records for a in r["answers"]["text"] if not any(c.isdigit() for c in a)}
        for record in records:
            [text], [start] = record["answers"]["text"], record["answers"]["answer_start"]
            assert record["context"][start : start + len(text)] == text
            assert record["context"].count(text) == 1
    assert len(titles["train"]) > 50
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not titles[one] & titles[other]
        assert not answers[one] & answers[other]
    assert len(answers["validation"]) > 50 and len(answers["test"]) > 50


def test_sample_sides_share_no_word_and_no_wording():
    for facts in sample.TOPICS.values():
        for fact in facts:
            for number, wordings in enumerate((fact.statements, fact.questions)):
                everything = [*wordings, fact.test[number]]
                assert len(everything) == len(set(everything)) >= 4
                assert all("{x}" in wording for wording in everything)
    assert set(sample.TEST_WORDS) == set(sample.WORDS)
    for name, words in sample.TEST_WORDS.items():
        assert not set(words) & set(sample.WORDS[name])
    for side, opening in (("validation", "Which year saw"), ("test", "When did")):
        asked = {s: [r["question"] for r in sample.generate(300, 0, s)] for s in ("train", "validation", "test")}
        assert any(question.startswith(opening) for question in asked[side])
    assert not any(question.startswith("Which year saw") for side in ("train", "test") for question in asked[side])


def test_the_sample_has_a_test_set_where_one_is_asked_for(configure):
    one, two, without = (load(configure(*given).dataset) for given in ([], ["dataset.test_size=40"], [NO_TEST]))
    assert [len(sets.test) for sets in (one, two)] == [250, 40] and without.test is None
    assert one.test["id"][:40] == two.test["id"], "a smaller one is part of a larger one"
    for name in ("train", "validation"):
        assert [getattr(sets, name).to_list() == getattr(one, name).to_list() for sets in (two, without)] == [True] * 2


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


# Test sets


def sides_of(sets):
    return [questions.to_list() for questions in sets.by_context.values()]


# Validation questions of uneven_file() as version 0.1 drew them, 8 of a fifth.
BY_ARTICLE = ["14-1-0", "14-2-0", "15-1-1", "15-2-0", "15-3-0", "15-3-3", "23-0-1", "23-3-0"]
AT_RANDOM = ["17-1-0", "18-0-3", "19-3-1", "20-0-0", "22-2-2", "23-1-3", "24-0-3", "29-0-2"]


def uneven_file(path):
    """30 articles of different sizes, with one to four passages of one to five questions each."""
    made = []
    for a in range(30):
        for p in range(1 + a % 4):
            context = f"In passage {p} of article {a} stands word{a}x{p}."
            answers = [(f"word{a}x{p}", context.index("word"))]
            asked = [question(f"{a}-{p}-{q}", f"What is {q}?", answers) for q in range(1 + (a + p) % 5)]
            made.append((f"Article {a}", context, asked))
    return squad_json(path, made)


@pytest.mark.parametrize("more", [{}, {"validation_size": 10}, {"train_size": 20}, {"seed": 3}, {"subset": "first"}])
def test_validation_is_the_same_with_a_test_set_and_without(tmp_path, more):
    path = uneven_file(tmp_path / "a.json")
    without, everything, ten = (load(file_config(path, test_size=n, **more)) for n in (None, "all", 10))
    assert without.test is None
    assert without.validation.to_list() == everything.validation.to_list() == ten.validation.to_list()
    assert set(ten.test["id"]) < set(everything.test["id"]) and len(ten.test) == 10
    for sets in (everything, ten):
        train, validation, test = (set(questions["title"]) for questions in sets.by_context.values())
        assert not train & validation and not train & test and not validation & test
    assert len(everything.test) >= len(without.train) // 4 * ("train_size" not in more)


def test_the_split_of_version_0_1_is_still_drawn_without_a_test_set(tmp_path):
    """Runs are stored that were scored on it: by article, and at random through passages."""
    path = uneven_file(tmp_path / "a.json")
    by_article, at_random = (load(file_config(path, split=split, validation_size=8)) for split in ("article", "random"))
    assert by_article.validation["id"] == BY_ARTICLE
    assert at_random.validation["id"] == AT_RANDOM


def test_the_test_set_stays_along_a_curve_over_the_training_size(tmp_path):
    path = uneven_file(tmp_path / "a.json")
    sets = {n: load(file_config(path, train_size=n, test_size="all")) for n in (None, 5, 60, 150)}
    total = sum(len(side) for side in sides_of(sets[None]))
    ids = {n: each.test["id"] if each.test is not None else [] for n, each in sets.items()}
    assert ids[None] == ids[5] == ids[60] and len(ids[None]) >= total // 5
    assert not any(sets[n].notes for n in (None, 5, 60))
    assert sets[150].notes == [
        (
            f"dataset.train_size=150 leaves less than a fifth of {total:,} questions for test: they are others than "
            "with a smaller training set, and the two do not make a curve."
        )
    ]
    assert 0 < len(ids[150]) < total // 5
    assert [len(each.train) for n, each in sets.items() if n] == [5, 60, 150]


def test_at_random_with_a_test_set_passages_stay_whole(tmp_path):
    path = uneven_file(tmp_path / "a.json")
    sets = load(file_config(path, split="random", test_size="all"))
    train, validation, test = ({r["context"] for r in side} for side in sides_of(sets))
    assert not train & validation and not train & test and not validation & test
    total = sum(map(len, sides_of(sets)))
    assert all(total // 5 <= len(side) <= total // 5 + 5 for side in sides_of(sets)[1:])
    assert {r["title"] for r in sides_of(sets)[2]} & {r["title"] for r in sides_of(sets)[0]}
    assert any("test questions are about articles or passages that were trained on" in note for note in sets.notes)


@pytest.mark.parametrize("split", ["article", "random"])
def test_passages_of_one_question_each_make_three_sides(tmp_path, split):
    path = tmp_path / "own.csv"
    path.write_text("question,context,answer\n" + "".join(f"Q{i}?,Word{i} here.,Word{i}\n" for i in range(20)))
    sets = load(file_config(path, split=split, test_size="all"))
    assert [len(side) for side in sides_of(sets)] == [12, 4, 4]
    assert load(file_config(path, split=split, test_size=7)).test.num_rows == 7


@pytest.mark.parametrize(
    ("articles", "more", "sizes", "expected"),
    [
        (3, {}, [20, 20, 20], None),
        (2, {}, [20, 20], "No test set: 'f' has 2 articles, too few for three sides."),
        (3, {"train_size": 30}, [30, 20], "has 3 articles, too few for three sides with dataset.train_size=30."),
        (1, {"split": "random"}, [16, 4], "No test set: 'f' has 1 passage, too few for three sides."),
    ],
)
def test_where_all_is_nothing_a_note_says_so(tmp_path, articles, more, sizes, expected):
    """The default for a file: a file of a newcomer is not refused for want of a test set."""
    config = {"test_size": "all", **more}
    sets = load(file_config(article_file(tmp_path / "a.json", articles), **config))
    assert [len(side) for side in sides_of(sets)] == sizes
    assert (expected is None and not sets.notes) or any(expected in note for note in sets.notes)
    if expected:
        with pytest.raises(UserError, match=r"dataset.test_size=5: 'f' has .* give dataset.test_size=null"):
            load(file_config(tmp_path / "a.json", **{**config, "test_size": 5}))
        without = load(file_config(tmp_path / "a.json", **{**config, "test_size": None}))
        assert sides_of(without) == sides_of(sets)


def test_test_questions_of_their_own(tmp_path):
    path = article_file(tmp_path / "a.json")
    other = article_file(tmp_path / "t.json", prefix="Elsewhere. ")
    other.write_text(other.read_text().replace('"Article ', '"Other article '))
    without = load(file_config(path))
    for split in ("article", "random"):
        sets = load(file_config(path, split=split, test_path=str(other), test_size="all"))
        assert len(sets.test) == 200 and len(set(sets.test["title"])) == 10
        assert sides_of(sets)[:2] == sides_of(load(file_config(path, split=split)))
    ten = load(file_config(path, test_path=str(other), test_size=10))
    assert len(ten.test) == 10 and ten.notes == without.notes == []
    with pytest.raises(UserError, match=r"=201 is more than the 200 questions that .* ask for fewer, or all for"):
        load(file_config(path, test_path=str(other), test_size=201))
    off = load(file_config(path, test_path=str(other)))
    assert off.test is None
    assert off.notes == [f"No test set: dataset.test_size=null; dataset.test_path={other} is not read."]


def test_given_sides(tmp_path):
    parts = [article_file(tmp_path / f"{n}.json", prefix=f"File {n}. ") for n in range(3)]
    for n, part in enumerate(parts):
        part.write_text(part.read_text().replace('"Article ', f'"{n} Article '))
    config = {"split": "given", "validation_path": str(parts[1]), "test_size": "all"}
    sets = load(file_config(parts[0], test_path=str(parts[2]), **config))
    assert [{r["title"][0] for r in side} for side in sides_of(sets)] == [{"0"}, {"1"}, {"2"}] and sets.notes == []
    without = load(file_config(parts[0], **config))
    assert without.test is None and without.notes[0].startswith("No test set: with dataset.split=given it comes from")


def test_a_test_file_that_shares_what_is_trained_on_or_chosen_by_is_said(tmp_path):
    path = article_file(tmp_path / "a.json")
    sets = load(file_config(path, test_path=str(path), test_size="all"))
    told = [
        "160 of 200 test questions are about articles or passages that were trained on, which flatters the ",
        "40 of 200 test questions are validation questions too: settings are chosen by them, which flatters the ",
    ]
    assert [note[: len(start)] for note, start in zip(sets.notes, told, strict=True)] == told
    assert sets.notes[0].endswith("; take these out of dataset.path or dataset.test_path.")


def test_a_number_that_is_more_than_there_is(tmp_path):
    path = article_file(tmp_path / "a.json")
    with pytest.raises(UserError, match=r"dataset.test_size=500 is more than the 140 questions that 'f' has for it"):
        load(file_config(path, test_size=500))
    with pytest.raises(UserError, match=r"has 120 questions to train on, .* kept for validation and test \("):
        load(file_config(path, test_size="all", train_size=300))


def test_test_questions_that_cannot_be_answered_are_said(tmp_path):
    sets = load(file_config(silent_file(tmp_path / "a.json", 30, 60), test_size="all", unanswerable=False))
    silent = [row["id"] for row in sets.test if not row["answers"]["text"]]
    [told] = [note for note in sets.notes if note.startswith("test: ")]
    assert (
        0 < len(silent) < 9 and told.startswith(f"test: {len(silent)} of 12 question") and f"(id {silent[0]})" in told
    )


def test_a_split_of_the_hub_is_the_test(tmp_path):
    for split, count in (("train", 40), ("validation", 5), ("test", 9)):
        pd.DataFrame(sample.generate(count, 0, split)).to_parquet(tmp_path / f"{split}-00000.parquet")
    config = DatasetConfig(name="squad", source="hub", path=str(tmp_path), split="article", test_size="all")
    for name, count in (("validation", 5), ("test", 9)):
        sets = load(replace(config, test_path=name))
        assert len(sets.test) == count and len(sets.train) + len(sets.validation) == 40
        assert not set(sets.train["title"]) & set(sets.validation["title"])
    given = load(replace(config, test_path="test", split="given"))
    assert [len(side) for side in sides_of(given)] == [40, 5, 9]
    with pytest.raises(UserError, match=r"^dataset.test_path=tset: .* has no such split .*give one that it has"):
        load(replace(config, test_path="tset"))


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
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("the hub's client tries again after pauses"))
    with pytest.raises(UserError) as caught:
        load(DatasetConfig(name="squad", source="hub", path="rajpurkar/squad"))
    assert str(caught.value).startswith(
        "dataset=squad: rajpurkar/squad could not be loaded from the hub (it is not in the cache, and "
        "http://127.0.0.1:9 does not answer (ConnectError: "
    )
    assert str(caught.value).endswith("dataset=sample, or a file of your own with dataset=file dataset.path=FILE.")


def test_without_a_hub_a_data_set_comes_from_the_cache(tmp_path, monkeypatch):
    folder = tmp_path / "there" / "some_questions"
    folder.mkdir(parents=True)
    pd.DataFrame(sample.generate(5, 0, "train")).to_parquet(folder / "train.parquet")
    datasets.load_dataset(str(folder))  # it is kept under the last part of its name
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("the hub's client tries again after pauses"))
    config = DatasetConfig(name="some", source="hub", path="some_questions")
    assert [row["question"] for row in read(replace(config, split="article")).train.records] == [
        record["question"] for record in sample.generate(5, 0, "train")
    ]
    assert not datasets.config.HF_HUB_OFFLINE


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
