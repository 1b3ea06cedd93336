"""Where runs err: kinds of error, groups of questions, and what one run gains and loses against another."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pandas as pd
import pytest

from src import errors
from src.error_analysis import errors_of, exchange
from src.evaluation.kinds import Kind, kind_of, shared_words
from src.report.comparison import compare_runs
from src.report.groups import GROUPINGS, groups, in_order
from src.report.page import render
from src.report.plots import plots
from src.report.tables import kinds_of_answers
from src.runs.results import select
from tests.stored import Store

PASSAGE = "Ada Byron wrote the first program in 1843. She lived in London, near Dr. Who's. Babbage built an engine."


@pytest.mark.parametrize(
    ("predicted", "answers", "kind"),
    [
        ("the ada byron.", ["Ada Byron"], Kind.RIGHT),
        ("", [], Kind.RIGHT),
        ("Ada", [], Kind.INVENTED),
        ("", ["Ada Byron"], Kind.SILENT),
        ("the", ["Ada Byron"], Kind.SILENT),
        ("twenty five", ["twenty-five"], Kind.SPELLING),
        ("Dr. Who", ["Dr. Who's"], Kind.SPELLING),
        ("wrote the first program", ["program"], Kind.LONGER),
        ("Ada", ["Eve", "Ada Byron"], Kind.SHORTER),
        ("Byron wrote", ["Ada Byron"], Kind.OVERLAPPING),
        ("program in 1843", ["first program"], Kind.OVERLAPPING),
        ("Byron the Ada", ["Ada Byron"], Kind.OVERLAPPING),
        ("1843", ["Ada Byron"], Kind.SENTENCE),
        ("Babbage", ["Ada Byron"], Kind.ELSEWHERE),
        ("London", ["Ada Byron"], Kind.ELSEWHERE),
        ("Charles", ["Ada Byron"], Kind.NOT_THERE),
        ("THE FIRST", ["Ada Byron"], Kind.SENTENCE),
        ("in 1843. She lived", ["London"], Kind.SENTENCE),
        ("ada program", ["Ada Byron"], Kind.OVERLAPPING),
        ("Charles was in Rome", ["in London"], Kind.NOT_THERE),
        ("gram in", ["Ada Byron"], Kind.SENTENCE),
        ("on", ["engine"], Kind.ELSEWHERE),
    ],
)
def test_each_answer_has_one_kind(predicted, answers, kind):
    assert kind_of(predicted, answers, PASSAGE) is kind


@pytest.mark.parametrize(
    ("question", "answers", "shared"),
    [
        ("Who wrote the first program?", ["Ada Byron"], "over 2/3"),
        ("Who wrote the second book?", ["Ada Byron"], "1/3 to 2/3"),
        ("Who invented Python?", ["Ada Byron"], "under 1/3"),
        ("Who was it?", ["Ada Byron"], "none"),
        ("Who wrote it?", ["Charles"], "none"),
    ],
)
def test_words_that_question_and_answer_share(question, answers, shared):
    assert shared_words(question, answers, PASSAGE) == shared


def row(question="Who?", answers=("Ada Byron",), context=PASSAGE):
    return {"question": question, "answers": list(answers), "context": context}


def test_questions_in_groups():
    long = "word " * 200
    table = pd.DataFrame(
        [row(), row("In which year?", ["1843"]), row("Name it.", ["engine"], PASSAGE + long), row(answers=[])]
    )
    found = {label: groups(table, label) for label in GROUPINGS}
    assert found == {
        "question word": ["who", "which", "other", "who"],
        "words in the answer": ["2", "1", "1", "none"],
        "words in the passage": ["1 - 80", "1 - 80", "161 - 240", "1 - 80"],
        "place of the answer": ["first third", "second third", "first third", "none"],
    }
    assert in_order("question word", found["question word"]) == ["who", "which", "other"]
    assert in_order("words in the answer", ["none", "9 or more", "1", "3 - 4", "2"]) == [
        *("1", "2", "3 - 4", "9 or more", "none")
    ]
    shuffled = ["last third", "none", "first third", "second third"]
    assert in_order("place of the answer", shuffled) == ["first third", "second third", "last third", "none"]
    assert in_order("shared", ["over 2/3", "1/3 to 2/3", "none", "under 1/3"])[:3] == [
        *("under 1/3", "1/3 to 2/3", "over 2/3")
    ]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


@pytest.fixture
def shown(store, ended):
    return partial(ended, errors, f"folder={store.folder}")


def test_the_errors_of_a_run_add_up(store, shown):
    id = store.run("lora", 1e-3, 0.6, questions=50, test=40, metrics={"extra/noisy/f1": 20.0, "quality/f1": 50.0})
    table = store.record(id).questions(split="test")
    found = errors_of(table)
    assert sum(group.questions for group in found.kinds) == 40
    for groups_of in found.by.values():
        assert sum(group.questions for group in groups_of) == 40
        mean = sum(group.questions * group.f1 for group in groups_of) / 40
        assert mean == pytest.approx(100 * table["f1"].mean(), rel=1e-5)
    right = found.kinds[0]
    assert (right.name, right.exact_match) == ("right", 100) and right.questions == table["exact_match"].sum()
    plain = json.loads(shown(f"run={id}", "format=json")[1])
    assert plain["split"] == "test"
    [run] = plain["runs"]
    assert (run["id"], run["questions"], run["extra_f1"]) == (id, 40, {"noisy": 20.0})
    assert run["f1"] == pytest.approx(100 * table["f1"].mean())
    assert run["kinds"] == [vars(group) for group in found.kinds]
    assert run["kind_of"] == found.rows["kind"].to_dict()
    assert json.loads(shown(f"run={id}", "format=json", "split=validation")[1])["runs"][0]["questions"] == 50
    store.client.set_tag(id, "mlflow.runName", "lora [/b] rate")  # no markup of the terminal's
    status, out, _ = shown(f"run={id}", "examples=1")
    assert status == 0
    assert "│ right " in out and out.count("    predicted  another\n") == 1
    assert "lora [/b] rate on noisy: F1 20.0, -30.0 against the validation questions" in out


def test_what_the_second_run_gains_and_loses(store, shown):
    first, second = store.run("full", 1e-4, 0.4, test=60), store.run("lora", 1e-3, 0.7, test=60)
    tables = [store.record(id).questions(split="test") for id in (first, second)]
    between = exchange(*map(errors_of, tables))
    a, b = (table["exact_match"].to_numpy() > 0.5 for table in tables)
    assert (between.both, between.first, between.second, between.neither) == (
        *((a & b).sum(), (a & ~b).sum(), (~a & b).sum(), (~a & ~b).sum()),
    )
    difference = tables[1]["f1"] - tables[0]["f1"]
    assert set(between.gained.index) == set(difference.index[difference > 0])
    assert set(between.lost.index) == set(difference.index[difference < 0])
    assert np.all(np.diff(between.gained["difference"]) <= 0) and np.all(np.diff(between.lost["difference"]) >= 0)
    plain = json.loads(shown(f"runs=[{first},{second}]", "format=json")[1])
    assert plain["exchange"]["second_alone"] == between.second > 5
    assert len(plain["exchange"]["gained"]) == len(between.gained)
    status, out, _ = shown(f"runs=[{first},{second}]", "examples=2")
    assert status == 0
    assert f"run 2 alone  {between.second}\n" in out
    assert f"run 2 gains ({len(between.gained)} questions)\n" in out and out.count("    run 2      answer ") >= 2


def test_mistakes_are_one_sentence(store, shown, tmp_path):
    one = store.run("full", 1e-4, 0.4)
    other = store.run("lora", 1e-3, 0.4, context=lambda i: f"Other {i} says answer {i}.", questions=10)
    failed = store.run("lora", 1e-2, 0.4, status="FAILED")
    for arguments, status, sentence in (
        (["format=json"], 2, "Give one run, run=RUN, or two, 'runs=[RUN,RUN]'; --help shows an example."),
        (["runs=[a,b,c]"], 2, "Give one run, run=RUN, or two,"),
        (["run=nope"], 1, "run=nope: no run has this name or such an id"),
        ([f"run={failed}"], 1, "run=lora lr=0.01 epochs=3 seed=0 ("),
        ([f"run={one}", "split=test"], 1, "run=full lr=0.0001 epochs=3 seed=0 ("),
        ([f"run={one}", "split=train"], 1, "split=train must be 'test' or 'validation'."),
    ):
        code, out, said = shown(*arguments)
        assert code == status, said
        assert out == "" and said.startswith(f"Error: {sentence}") and said.count("\n") == 1
    assert shown(f"runs=[{one},{other}]")[0] == 0, "q0 to q9 are in both"


def test_the_page_counts_the_kinds_of_answers_of_each_method(tmp_path):
    store = Store(tmp_path)
    for method, right in (("full", 0.6), ("lora", 0.4)):
        for seed in (0, 1):
            store.run(method, 1e-3, right, seed)
    comparison = compare_runs("both", select(store.tracking).results)
    table = kinds_of_answers(comparison)
    shares = [
        np.mean([100 * run["kind"].eq("right").mean() for run in arm.best.by_seed.values()]) for arm in comparison.arms
    ]
    assert table.arms == ["full", "lora"] and shares[0] > shares[1]
    cells = {label: [cell.value for cell in row] for label, row in table.rows}
    assert cells == {"right": pytest.approx(shares), "not in the passage": pytest.approx([100 - s for s in shares])}
    page = render(comparison, plots(comparison))
    assert "<h2>Where they err</h2>" in page and f"<td>{shares[0]:.1f}</td>" in page


def test_runs_that_kept_no_kinds_have_none_on_the_page(tmp_path, monkeypatch):
    store = Store(tmp_path)
    monkeypatch.setattr(pd.DataFrame, "to_parquet", _without_kinds(pd.DataFrame.to_parquet))
    store.run("full", 1e-4, 0.6)
    store.run("lora", 1e-3, 0.4)
    comparison = compare_runs("both", select(store.tracking).results)
    assert kinds_of_answers(comparison).rows == []
    assert "Where they err" not in render(comparison, plots(comparison))


def _without_kinds(write):
    return lambda table, *arguments, **named: write(table.drop(columns="kind"), *arguments, **named)
