"""Decisions, recommendations, warnings and files for programs, on scores whose differences are known."""

from __future__ import annotations

import csv
import json
import re
import sqlite3
import tempfile
from dataclasses import fields
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow.entities import Dataset, DatasetInput, InputTag
from rich.console import Console

from src.config import ROOT, UserError
from src.csv_text import csv_text
from src.report.comparison import Comparison, compare_runs
from src.report.decision import Decision
from src.report.fairness import CODES
from src.report.findings import decimals, does_not_fit, missing, short
from src.report.latex import as_latex
from src.report.machine import as_csv
from src.report.statistics import Difference
from src.report.tables import overview, side_by_side
from src.report.terminal import Terminal
from src.report.verdict import protocol, recommendation, verdict
from src.report.words import listed, ratio, share, unbroken
from src.reporting import as_dict, compare, report, show
from src.runs.parent import MARGIN, ParentRun
from src.runs.records import Status
from src.runs.results import select
from src.sweep import _kept_margin, margin_line
from tests.conftest import TINY
from tests.stored import Store

QUESTIONS = 400


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def scored(store, method, f1, seed=0, rate=1e-3, split="validation", passages=100, articles=20, digest="a", **more):
    """A run with these F1 by question, in percent, and with a test set where `split` is test."""
    f1 = np.clip(np.asarray(f1, float) / 100, 0, 1)
    params = {"dataset.split": "article", **more.pop("params", {})}
    id = store.run(method, rate, 0.5, seed, questions=len(f1), params=params, **more)
    number = np.arange(len(f1))
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(store.client.download_artifacts(id, "questions.parquet", temporary))
        table = pd.read_parquet(file).assign(
            exact_match=f1 > 0.8,
            f1=f1,
            split=split,
            title="",
            passage=[f"p{i % passages}" for i in number],
            article=[f"a{i % articles}" for i in number],
        )
        table.to_parquet(file, index=False)
        store.client.log_artifact(id, str(file))
    store.client.log_metric(id, "quality/f1", 100 * float(f1.mean()))
    if split == "test":
        profile = f'{{"num_rows": {len(f1)}}}'
        dataset = Dataset("wiki", f"test-{digest}", "local", "{}", profile=profile)
        store.client.log_inputs(id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "test")])])
    return id


def pair(store, difference, noise, seeds=(0, 1, 2), methods=("full", "lora"), **more):
    """Full at F1 60 and LoRA that much above it, with so much noise between questions and none between seeds."""
    base = 60 + np.random.default_rng(0).normal(0, 5, QUESTIONS)
    apart = np.random.default_rng(1).normal(0, noise, QUESTIONS)
    apart += difference - apart.mean()
    for seed in seeds:
        scored(store, methods[0], base, seed, **more)
        scored(store, methods[1], base + apart, seed, **more)


def compared(store, **how):
    selection = select(store.tracking)
    return compare_runs(selection.title, selection.results, **how)


def codes(comparison):
    return [warning.code for warning in comparison.warnings]


DECISIONS = {
    Decision.BETTER: (2.0, 4, r"lora is better than full, by 1\.\d to 2\.\d F1 \(95 %\)\.", "better"),
    Decision.NOT_INFERIOR: (
        -0.3,
        4,
        r"lora is at most 0\.\d F1 worse than full \(95 %; margin 1\.0\)\.",
        r"at most 0\.\d worse",
    ),
    Decision.INFERIOR: (
        -3.0,
        4,
        r"lora is worse than full by more than 1\.0 F1: by 2\.\d to 3\.\d F1 \(95 %\)\.",
        r"worse by more than 1\.0",
    ),
    Decision.WORSE: (
        -1.2,
        8,
        r"lora is worse than full; by how much is open: between 0\.\d+ and [12]\.\d+ F1 \(95 %; margin 1\.0+\)\.",
        "worse, by how much is open",
    ),
    Decision.UNDECIDED: (
        -0.3,
        15,
        r"No decision yet: lora is at most [12]\.\d F1 worse than full \(95 %; margin 1\.0\)\.",
        "undecided",
    ),
}
RECOMMENDED = {
    Decision.BETTER: "Use LoRA (rate 0.001): its F1 is higher than that of full.",
    Decision.NOT_INFERIOR: (
        r"Use LoRA \(rate 0\.001\): at most 0\.\d F1 worse than full \(95 %\), with 54 % of the peak memory and 70 % "
        r"of the training time\."
    ),
    Decision.INFERIOR: "Use full fine-tuning (rate 0.001): no cheaper method is shown to be at most 1 F1 worse.",
    Decision.WORSE: "Use full fine-tuning (rate 0.001): no cheaper method is shown to be at most 1 F1 worse.",
}


@pytest.mark.parametrize("decision", Decision)
def test_each_decision_is_a_sentence_with_its_bound(store, decision):
    difference, noise, sentence, cell = DECISIONS[decision]
    pair(store, difference, noise)
    found = compared(store)
    [contrast] = found.contrasts
    assert contrast.decision is decision
    f1 = contrast.differences["f1"]
    [[finding, evidence, *more]] = verdict(found)
    assert re.fullmatch(sentence, finding)
    assert f"{abs(f1.low):.{decimals(f1, 1.0)}f}" in finding
    assert evidence.endswith("400 validation questions, 100 passages, 20 articles, 3 seeds.")
    assert any(line.startswith("Minimum detectable effect (80 % power): ") for line in more) == (not f1.significant)
    assert re.fullmatch(cell, short(contrast, 1.0))
    assert overview(found)[1][1][3].text == short(contrast, 1.0)
    expected = RECOMMENDED.get(decision)
    advice = recommendation(found).headline
    if expected is None:
        assert advice.startswith(finding) and advice.endswith(missing(contrast, found)[1:] + ".")
    else:
        assert advice == expected or re.fullmatch(expected, advice)


def test_worse_but_within_the_margin_is_said_so(store):
    pair(store, -0.5, 3)
    [[finding, *_]] = verdict(compared(store))
    assert re.fullmatch(r"lora is worse than full, but by at most 0\.\d F1 \(95 %; margin 1\.0\)\.", finding)


def interval(low, high):
    return Difference(**{field.name: 0.1 for field in fields(Difference)} | {"low": low, "high": high})


@pytest.mark.parametrize(
    ("low", "high", "places"), [(-1.04, 0.5, 2), (-0.96, 0.5, 2), (0.02, 1.0, 2), (-0.8, 0.5, 1), (-3.0, -0.001, 3)]
)
def test_a_rounded_bound_never_contradicts_the_decision(low, high, places):
    assert decimals(interval(low, high), 1.0) == places


def test_a_finer_margin_has_finer_figures():
    assert decimals(interval(-0.2, 0.5), 0.25) == 2


def test_what_decides_comes_from_the_plan(store, monkeypatch):
    pair(store, -0.3, 15)
    found = compared(store)
    for planned, expected in (
        (
            (4, 900),
            "about 4 more seeds per method or 900 more validation questions would decide it with 80 % power if ",
        ),
        ((None, 1200), "no number of seeds would decide it on these questions; about 1,200 more validation questions"),
        ((4, None), "about 4 more seeds per method would decide it"),
        ((None, None), "both more seeds and more validation questions are needed to decide it"),
    ):
        monkeypatch.setattr("src.report.findings.more_needed", lambda *given, planned=planned: planned)
        assert missing(found.contrasts[0], found).startswith(expected)


def test_with_one_seed_each_seeds_are_what_is_missing(store):
    pair(store, -0.3, 15, seeds=(0,))
    found = compared(store)
    assert missing(found.contrasts[0], found).startswith("run at least 2 more seeds per method")
    assert "The interval is for these two runs; other seeds may differ by more." in verdict(found)[0]


def test_the_better_of_two_better_methods_is_recommended(store):
    pair(store, 2.0, 4)
    pair(store, 4.0, 4, methods=("full", "dora"))
    assert recommendation(compared(store)).headline == "Use dora (rate 0.001): its F1 is higher than that of full."


def test_the_cheaper_of_two_equal_methods_is_recommended(store):
    generator = np.random.default_rng(0)
    base = generator.normal(60, 5, QUESTIONS)
    cheap = {"memory/peak_train_mb": 200, "time/train_seconds": 90}
    for method, metrics in (("full", {}), ("lora", {}), ("head", cheap)):
        for seed in (0, 1):
            scored(store, method, base + generator.normal(0, 1, QUESTIONS), seed, metrics=metrics)
    found = compared(store)
    assert [contrast.decision for contrast in found.contrasts] == [Decision.NOT_INFERIOR] * 2
    headline = recommendation(found).headline
    assert headline.startswith("Use head (rate 0.001): at most ")
    assert headline.endswith("with 25 % of the peak memory and 90 % of the training time.")


def test_what_is_no_cheaper_is_no_reason_to_change(store):
    same = {"memory/peak_train_mb": 800, "time/train_seconds": 100}
    pair(store, -0.2, 4, metrics=same)
    assert recommendation(compared(store)).headline.startswith("Use full fine-tuning (rate 0.001): no cheaper method")


def test_each_model_has_its_own_recommendation(store):
    pair(store, 2.0, 4, params={"model.name": "minilm"})
    pair(store, -3.0, 4, params={"model.name": "bert"})
    assert recommendation(compared(store)).headline == (
        "bert: use full fine-tuning (rate 0.001): no cheaper method is shown to be at most 1 F1 worse. "
        "minilm: use LoRA (rate 0.001): its F1 is higher than that of minilm full."
    )


MEMORY = "UserError: The GPU's memory of 23.65 GiB is full (CUDA out of memory); lower train.batch_size."


def test_a_method_that_does_not_fit_is_a_verdict(store):
    scored(store, "lora", np.full(QUESTIONS, 71.3))
    store.run("full", 1e-4, 0.5, status="FAILED", tags={"error": MEMORY})
    found = compared(store)
    assert verdict(found)[0][0] == "full does not fit in 24 GiB; use lora, F1 71.3."
    assert recommendation(found).headline == "Use LoRA (rate 0.001): full does not fit in 24 GiB."
    assert codes(found)[0] == "arm_without_result"


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (MEMORY, "does not fit in 24 GiB"),
        ("The GPU's memory is full (CUDA out of memory); lower", "does not fit in the GPU's memory"),
        ("UserError: no such layer.", ""),
    ],
)
def test_only_a_full_memory_is_called_one(reason, text):
    assert does_not_fit(reason) == text


def test_where_nobody_learned_the_recommendation_says_what_to_try(store):
    for method in ("full", "lora"):
        scored(store, method, np.full(QUESTIONS, 5.0) + np.arange(QUESTIONS) % 3)
    advice = recommendation(compared(store))
    assert advice.headline.startswith("No decision yet: every method has learned next to nothing (full: F1 6.0")
    assert "train.epochs" in advice.headline and advice.next_command == ""


def begun(store, command, margin=1.0, identity="i"):
    return ParentRun.begin(store.tracking, None, "sweep a", identity, command, planned=2, fresh=False, margin=margin)


def swept(store, command="python -m src.train -m method=full,lora 'train.seed=range(0,3)' tracking.folder=runs", **how):
    """A sweep of all runs that are there, begun an hour before them."""
    parent = begun(store, command, **how)
    with sqlite3.connect(store.folder / "mlflow.db") as database:
        database.execute("UPDATE runs SET start_time = start_time - 3600000 WHERE run_uuid = ?", [parent.run_id])
    for run in store.store.runs(""):
        if not run.is_sweep:
            parent.include(run)
    parent.end(Status.FINISHED, [])
    return parent.run_id


def test_the_next_command_adds_seeds_to_the_chosen_settings(store, monkeypatch):
    monkeypatch.setattr("src.report.findings.more_needed", lambda *given: (3, 900))
    pair(store, -0.3, 15)
    for method in ("full", "lora"):
        scored(store, method, np.full(QUESTIONS, 30.0), rate=1e-2)
    id = swept(
        store, "python -m src.train -m method=full,lora train.learning_rate=1e-3,1e-2 folder=runs +train.seed=0,1"
    )
    lines = recommendation(compare(store.tracking)).next_command.splitlines()
    run = "python -m src.train -m folder=runs method={0} train.learning_rate=0.001 train.seed=3,4,5 sweep.margin=1"
    assert lines == [
        *(f"{run.format(method)} sweep.name=more-{method}" for method in ("full", "lora")),
        f"python -m src.compare 'sweep=[{id[:12]},more-full,more-lora]' folder=runs",
    ]


@pytest.mark.parametrize("command", ["", "python other.py"])
def test_without_a_known_sweep_there_is_no_next_command(store, command):
    pair(store, -0.3, 15, seeds=(0,))
    swept(store, command)
    assert recommendation(compare(store.tracking)).next_command == ""


# Warnings


def choosing(store, **more):
    """A setting chosen among two on the same seeds, by a test set."""
    pair(store, -0.2, 4, split="test", **more)
    for method in ("full", "lora"):
        for seed in (0, 1, 2):
            scored(store, method, np.full(QUESTIONS, 20.0), seed, rate=1e-2, split="test", **more)


def without_crossing(store):
    """A setting chosen among two, of which one was scored on fewer questions."""
    pair(store, -0.2, 4)
    scored(store, "lora", np.full(QUESTIONS - 50, 20.0), rate=1e-2)


WARNED = {
    "scored_on_choosing_seed": (
        choosing,
        "The best setting of full and lora was chosen on seeds that are scored",
    ),
    "chosen_on_scored_questions": (without_crossing, "No test set: lora scored on the questions that the best setting"),
    "no_test_set": (
        lambda s: pair(s, -0.2, 4, params={"train.keep": "best"}),
        "No test set: the epoch of full and lora was chosen on the validation questions that are scored",
    ),
    "test_data_differ": (
        lambda s: [
            scored(s, method, np.arange(QUESTIONS) % 90, split="test", digest=method) for method in ("full", "lora")
        ],
        "The test data differ (full: test-full; lora: test-lora): they were scored on other questions, and no",
    ),
    "no_shared_seed": (
        lambda s: [scored(s, method, np.arange(400) % 90, seed) for seed, method in enumerate(("full", "lora"))],
        "lora and full share no seed;",
    ),
    "one_article": (
        lambda s: pair(s, -0.2, 4, articles=1),
        "All 400 validation questions are about one article: the result may differ for others.",
    ),
    "one_question_per_passage": (
        lambda s: pair(s, -0.2, 4, passages=QUESTIONS),
        "Each validation question has its own passage",
    ),
    "several_commits": (
        lambda s: [
            pair(s, -0.2, 4, tags={"git_commit": f"{commit * 40}"}, seeds=(seed,)) for seed, commit in enumerate("ab")
        ],
        "The runs were made by different versions of the code (aaaaaaaaaaaa, bbbbbbbbbbbb), which may change",
    ),
    "uncommitted_changes": (
        lambda s: pair(s, -0.2, 4, tags={"git_commit": "a" * 40 + "-dirty"}),
        "Some runs were made by code with uncommitted changes",
    ),
}


@pytest.mark.parametrize("code", WARNED)
def test_each_fault_has_its_code(store, code):
    plant, text = WARNED[code]
    plant(store)
    [warning] = [warning for warning in compared(store).warnings if warning.code == code]
    assert warning.text.startswith(text) and str(warning) == warning.text


def test_a_clean_comparison_has_none_of_them(store):
    pair(store, -0.2, 4)
    assert codes(compared(store)) == []


@pytest.mark.slow
def test_early_stopping_chooses_an_epoch_too_unless_there_is_a_test_set(store):
    params = {"train.early_stopping_patience": 2}
    pair(store, -0.2, 4, params=params)
    assert codes(compared(store)) == ["no_test_set"]
    tested = Store(store.folder / "tested")
    pair(tested, -0.2, 4, params=params, split="test")
    assert codes(compared(tested)) == []


def test_seeds_that_nothing_was_chosen_on_need_no_warning(store):
    choosing(store)
    for method in ("full", "lora"):
        for seed in (3, 4):
            scored(store, method, 60 + np.arange(QUESTIONS) % 7, seed, split="test")
    assert "scored_on_choosing_seed" not in codes(compared(store))


def test_a_run_without_the_test_set_of_the_other_is_not_compared(store):
    scored(store, "full", np.arange(QUESTIONS) % 90, split="test")
    scored(store, "lora", np.arange(QUESTIONS) % 90)
    found = compared(store)
    assert found.contrasts[0].why_not == "one of them has a test set, the other has none"
    assert recommendation(found).headline.startswith("No decision yet: lora and full do not compare (one of them has")
    [warning] = [warning for warning in found.warnings if warning.code == "test_data_differ"]
    assert warning.text.startswith("The test data differ (full: test-a; lora: none)")


def test_the_most_important_warning_comes_first(store):
    pair(store, -0.2, 4, passages=QUESTIONS, params={"train.keep": "best"})
    store.run("dora", 1e-3, 0.3, status="FAILED", tags={"error": "no such layer"})
    found = codes(compared(store, margin_afterwards=True))
    assert found == ["arm_without_result", "no_test_set", "margin_afterwards", "one_question_per_passage"]
    assert found == sorted(found, key=CODES.index)


def test_every_code_is_documented_in_its_order():
    text = (ROOT / "docs" / "verdict.md").read_text(encoding="utf-8").partition("## Warnings")[2]
    assert tuple(re.findall(r"^\| `([a-z_]+)` \|", text, re.M)) == CODES


PROTOCOLS = [
    (
        lambda s: choosing(s),
        "Settings chosen on the validation set, scored on 400 test questions (100 passages, 20 articles).",
    ),
    (
        lambda s: pair(s, 0, 4, split="test"),
        "One setting of each method, scored on 400 test questions (100 passages, 20 articles).",
    ),
    (
        lambda s: [pair(s, 0, 4, rate=rate) for rate in (1e-3, 1e-2)],
        (
            "No test set: settings chosen on one half of the passages and scored on the other, median of 50 splits of "
            "400 validation questions (100 passages, 20 articles)."
        ),
    ),
    (
        lambda s: pair(s, 0, 4),
        "No test set: one setting of each method, scored on 400 validation questions (100 passages, 20 articles).",
    ),
]


@pytest.mark.parametrize("number", range(len(PROTOCOLS)))
def test_a_line_says_what_was_chosen_and_scored_on_what(store, number):
    plant, line = PROTOCOLS[number]
    plant(store)
    assert protocol(compared(store)) == line


# Files and costs


def test_prices_are_those_of_a_run_and_of_all_runs(store):
    for method, hours in (("full", 2), ("lora", 1)):
        for rate, f1 in ((1e-3, 60.0), (1e-2, 30.0)):
            priced = {"metrics": {"time/total_seconds": 3600 * hours}, "params": {"hardware.price_per_hour": 1.5}}
            scored(store, method, f1 + np.arange(QUESTIONS) % 7, rate=rate, **priced)
    headings, [full, lora] = overview(compared(store))
    assert headings[-2:] == ["price of a run", "price of tuning"]
    assert [str(cell) for cell in full[-2:]] == ["3.00", "6.00"]
    assert [str(cell) for cell in lora[-2:]] == ["1.50 (0.50x)", "3.00 (0.50x)"]
    method = as_dict(compared(store))["contrasts"][0]["method"]
    assert (method["price_of_a_run"], method["price_of_tuning"]) == (1.5, 3.0)


@pytest.mark.parametrize("price", ["None", "free", "-1", "nan"])
def test_without_a_price_there_is_none(store, price):
    pair(store, 0, 4, params={"hardware.price_per_hour": price})
    assert "price of a run" not in overview(compared(store))[0]


def test_times_on_different_machines_have_no_ratio(store):
    base = np.arange(QUESTIONS) % 90
    scored(store, "full", base)
    scored(store, "lora", base[::-1], tags={"hardware": "NVIDIA H100, bf16"})
    rows = dict(side_by_side(compared(store)).rows)
    assert [rows[key][1].ratio for key in ("training time (s)", "peak memory, training (MB)", "stored size (MB)")] == [
        "",
        "",
        "0.03x",
    ]
    assert "the training time" not in " ".join(verdict(compared(store))[0])
    assert set(as_dict(compared(store))["contrasts"][0]["cost_ratios"]) == {"params/trainable", "storage/checkpoint_mb"}


def test_scores_stand_first_side_by_side_and_have_no_ratio(store):
    pair(store, 0, 4)
    rows = side_by_side(compared(store)).rows
    assert [label for label, _ in rows[:3]] == ["F1", "exact match", "settings tried"]
    ratios = {label for label, cells in rows if cells[1].ratio}
    assert not ratios & {"F1", "exact match", "settings tried", "learning rate", "epochs", "seeds at the best one"}
    assert "training time (s)" in ratios


def test_the_verdict_for_programs(store, tmp_path):
    pair(store, -0.3, 4, seeds=(0, 1))
    store.client.log_metric(store.store.runs("")[0].id, "storage/checkpoint_mb", float("nan"))
    id = swept(store)
    folder = report(store.tracking, output=tmp_path / "out", formats=["csv", "tex"])
    kept = {Path(file.path).name for file in store.client.list_artifacts(id, "report")}
    assert kept == {"verdict.json", "verdict.csv", "verdict.tex", "side_by_side.csv"}
    text = (folder / "verdict.json").read_text(encoding="utf-8")
    content = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert (content["format"], content["version"], content["title"]) == ("tuneoff verdict", 1, "sweep a")
    assert (content["margin"], content["margin_named_afterwards"], content["warnings"]) == (1.0, False, [])
    assert content["commands"][0].startswith("python -m src.train -m method=full,lora")
    [contrast] = content["contrasts"]
    difference = compare(store.tracking).contrasts[0].differences["f1"]
    assert contrast["decision"] == "at most the margin worse" and contrast["why_not"] is None
    assert contrast["f1"]["difference"] == pytest.approx(difference.mean) == pytest.approx(-0.3, abs=1e-4)
    assert (contrast["f1"]["low"], contrast["f1"]["bound"]) == (difference.low, -difference.low)
    assert contrast["counts"] == {"questions": 400, "passages": 100, "articles": 20, "unit": "article", "seeds": [2, 2]}
    assert contrast["method"]["settings"] == {"learning_rate": 0.001, "epochs": 3}
    assert sorted(contrast["method"]["run_ids"]) == sorted(
        run.id for run in store.store.runs("") if run.tags.get("method") == "lora"
    )
    assert (contrast["scored_on"], contrast["chosen_on"], contrast["cross_fitted"]) == ("validation", None, False)
    assert contrast["cost_ratios"]["memory/peak_train_mb"] == pytest.approx(430 / 800)
    assert content["recommendation"]["headline"].startswith("Use LoRA (rate 0.001): at most 0.")
    assert as_dict(compare(store.tracking))["contrasts"] == content["contrasts"]
    [row] = csv.DictReader((folder / "verdict.csv").open())
    assert (row["method"], row["baseline"], row["seeds"]) == ("lora", "full", "0 1")
    assert float(row["low"]) == difference.low and row["run_ids"].split() == contrast["method"]["run_ids"]


def test_no_cell_of_a_csv_file_is_a_formula(store, tmp_path):
    evil = "=cmd|' /C calc'!A0"
    pair(store, -0.3, 4, methods=("full", evil))
    folder = report(store.tracking, where="attributes.status = 'FINISHED'", output=tmp_path / "out", formats=["csv"])
    parent = ParentRun.begin(store.tracking, "a", "", "identity", "command", planned=6, fresh=False)
    for run in store.store.runs("attributes.status = 'FINISHED'"):
        parent.include(run)
    parent.end(Status.FINISHED, parent.members())
    files = [folder / "verdict.csv", folder / "side_by_side.csv"]
    files.append(Path(store.client.download_artifacts(parent.run_id, "table.csv", str(tmp_path))))
    for file in files:
        cells = [cell for row in csv.reader(file.open()) for cell in row]
        assert any(cell.startswith(f"'{evil}") for cell in cells)
        assert not [cell for cell in cells if cell.startswith(("=", "@", "+"))]
        negative = [cell for cell in cells if cell.startswith("-")]
        assert all(float(cell) < 0 for cell in negative) and bool(negative) == (file.name == "verdict.csv")


def test_texts_that_a_spreadsheet_would_compute():
    given = ["=1", " =1", "+a", "-a", "-1.5", "@a", "\ta", "＝1", "a=1", "", -1.5, None]
    shown = ["'=1", "' =1", "'+a", "'-a", "-1.5", "'@a", "'\ta", "'＝1", "a=1", "", "-1.5", ""]
    assert list(csv.reader(StringIO(csv_text([given])))) == [shown]


def test_warnings_and_what_is_not_compared_are_in_the_verdict_for_programs(store):
    scored(store, "full", np.arange(QUESTIONS) % 90, split="test")
    scored(store, "lora", np.arange(QUESTIONS) % 90)
    content = as_dict(compared(store))
    assert content["contrasts"][0]["f1"] is None and content["contrasts"][0]["decision"] is None
    assert content["warnings"][0]["code"] == "test_data_differ"
    assert next(csv.DictReader(StringIO(as_csv(content))))["difference"] == ""


def test_latex_is_escaped(store):
    pair(store, -0.3, 4, methods=("full", "lora_50%"), seeds=(0, 1))
    text = as_latex(compared(store))
    assert text.count("\\begin{tabular}") == text.count("\\end{tabular}") == 1
    assert all(rule in text for rule in ("\\toprule", "\\midrule", "\\bottomrule"))
    [row] = [line for line in text.splitlines() if line.startswith("    lora")]
    assert row.startswith("    lora\\_50\\% & ") and row.endswith(" \\\\") and "$-$0.3 [$-$" in row and "$\\pm$" in row
    assert "400 validation questions, 100 passages, 20 articles, 2 seeds" in text
    body = text.partition("\n")[2]  # after the comment
    assert not re.search(r"(?<!\\)[%_#]|±|–", body)


# The margin


def test_the_margin_is_that_of_the_sweep(store):
    pair(store, -0.3, 4)
    id = swept(store, margin=2.0)
    assert store.record(id).tags[MARGIN] == "2.0"
    found = compare(store.tracking)
    assert (found.margin, found.margin_afterwards) == (2.0, False)
    for given, afterwards in ((2.0, False), (0.5, True)):
        found = compare(store.tracking, margin=given)
        assert (found.margin, found.margin_afterwards) == (given, afterwards)
    assert codes(found)[0] == "margin_afterwards" and found.warnings[0].text == (
        "The margin was named after the runs were made."
    )


@pytest.mark.parametrize("tag", [None, "wide", "-1", "inf"])
def test_a_sweep_without_a_margin_has_the_default_named_afterwards(store, tag):
    pair(store, -0.3, 4)
    id = swept(store, margin=None)
    if tag:
        store.client.set_tag(id, MARGIN, tag)
    found = compare(store.tracking)
    assert (found.margin, found.margin_afterwards) == (1.0, True)


def test_a_run_that_was_made_before_the_sweep_has_no_margin(store):
    pair(store, -0.3, 4)
    parent = begun(store, "python -m src.train -m method=full,lora", margin=3.0)
    for run in store.store.runs(""):
        if not run.is_sweep:
            parent.include(run)
    found = compare(store.tracking, sweeps=[parent.run_id])
    assert (found.margin, found.margin_afterwards) == (3.0, True)


def test_runs_that_an_earlier_sweep_has_made_have_its_margin(store):
    pair(store, -0.3, 4)
    swept(store, margin=0.5)
    later = swept(store, margin=3.0, identity="wider")
    found = compare(store.tracking, sweeps=[later])
    assert (found.margin, found.margin_afterwards) == (3.0, True)


def test_of_several_sweeps_the_smallest_margin_is_used(store, capsys):
    ids = []
    for seed, margin in enumerate((0.5, 2.0)):
        parent = begun(store, "python -m src.train", margin, identity=str(seed))
        for method in ("full", "lora"):
            parent.include(store.record(scored(store, method, np.arange(QUESTIONS) % 90, seed)))
        ids.append(parent.run_id)
        parent.end(Status.FINISHED, [])
    found = compare(store.tracking, sweeps=ids)
    assert (found.margin, found.margin_afterwards) == (0.5, False)
    report(store.tracking, sweeps=ids, formats=["md"])
    assert (
        "The sweeps have named different margins, 0.5 and 2 F1; the smallest, 0.5, is used." in capsys.readouterr().out
    )


@pytest.mark.parametrize("margin", [0.0, -1.0, float("nan"), float("inf")])
def test_a_margin_that_is_not_above_0_is_refused(store, margin):
    pair(store, -0.3, 4, seeds=(0,))
    with pytest.raises(UserError, match=r"margin=\S+ must be a number above 0"):
        compare(store.tracking, margin=margin)


def test_a_sweep_that_goes_on_keeps_its_margin(store):
    first = begun(store, "command", 2.0)
    first.end(Status.KILLED, [])
    again = begun(store, "command", 1.0)
    assert (again.run_id, again.margin, again.tags[MARGIN]) == (first.run_id, 2.0, "2.0")
    assert _kept_margin(again.margin, 1.0) == [
        "The sweep keeps the margin that it began with, 2 F1; sweep.margin=1 is ignored"
    ]
    assert _kept_margin(again.margin, 2.0) == []


def test_a_sweep_says_what_its_questions_can_show(configure, monkeypatch):
    given = []
    monkeypatch.setattr("src.report.planning.reachable_margin", lambda *a, **more: given.append((*a, more)) or 2.34)
    configs = [
        configure(*TINY, "dataset=sample", "dataset.test_size=null", f"method={method}", f"train.seed={seed}")
        for method in ("full", "lora", "head")
        for seed in (0, 1)
    ]
    assert margin_line(1.0, configs) == (
        "1 F1 (sweep.margin); this validation set (24 questions) and 2 seeds can show a margin of about 2.3 F1"
    )
    [(questions, passages, articles, seeds, more)] = given
    assert (questions, articles, seeds, more) == (24, None, 2, {"comparisons": 2})
    assert 1 <= passages <= 24
    assert margin_line(1.0, configs[:1]) == "1 F1 (sweep.margin)"
    configs[0].dataset.source, configs[0].dataset.path = "file", "nowhere.csv"
    assert margin_line(1.0, configs) == "1 F1 (sweep.margin)"


# The terminal


def on_80_columns(act):
    terminal = Terminal()
    terminal.console = Console(width=80, file=StringIO(), soft_wrap=True, highlight=False)
    act(terminal)
    lines = terminal.console.file.getvalue().splitlines()
    assert [line for line in lines if len(line) > 80] == []
    return lines


def shown(comparison: Comparison):
    return on_80_columns(lambda terminal: show(comparison, terminal))


def test_a_comparison_fits_80_columns_in_the_order_of_the_page(store):
    params = {"train.keep": "best", "hardware.price_per_hour": 2.5}
    metrics = {"time/total_seconds": 123_456, "time/train_seconds": 12_345.6, "memory/peak_train_mb": 78_000}
    pair(store, -0.3, 15, params=params, metrics=metrics)
    pair(store, -3.0, 15, methods=("full", "lora_attention_and_feed_forward"), params=params, metrics=metrics)
    lines = shown(compared(store, margin_afterwards=True))
    text = "\n".join(lines)
    order = [
        "seeds 0, 1, 2",
        "No decision yet: lora",
        "┃",
        "No test set: one setting",
        "lora (rate",
        "WARNING",
    ]
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    joined = " ".join(text.split())
    for finding, *details in verdict(compared(store)):
        assert all(" ".join(each.split()) in joined for each in (finding, *details)), "a sentence is cut off"
    assert not re.search(r"\d\n +(%|F1)", text), "a unit stands alone at the beginning of a line"


def test_lines_of_a_sweep_and_warnings_fit_80_columns():
    words = " ".join(["several words of a sentence"] * 8)
    lines = on_80_columns(lambda terminal: terminal.warning(words))
    assert lines[0].startswith("WARNING several") and all(line.startswith(" " * 8) for line in lines[1:])
    lines = on_80_columns(lambda terminal: terminal.line("        " + words))
    assert lines[0].startswith(" " * 8 + "several") and all(line.startswith(" " * 10) for line in lines[1:])
    lines = on_80_columns(lambda terminal: terminal.header({"sweep": words, "runs": "8"}, wrap=True))
    assert lines[0].startswith("sweep  several") and lines[1].startswith(" " * 7) and "runs   8" in lines
    assert " ".join(" ".join(lines[:-2]).split()) == f"sweep {words}"


def test_off_a_terminal_a_paragraph_is_a_line(capsys):
    Terminal().warning("word " * 60 + "end")
    assert capsys.readouterr().out.count("\n") == 1


def test_words():
    assert [listed(["a", "b", "c"][:number]) for number in (1, 2, 3)] == ["a", "a and b", "a, b and c"]
    assert [ratio(value) for value in (0.999, 1.0, 0.029, 0.711, 12.3)] == ["", "", "0.029x", "0.71x", "12x"]
    assert [share(value) for value in (0.029, 0.41, 1.2, 3.1)] == ["2.9 % of", "41 % of", "120 % of", "3.1 times"]
    assert unbroken("1.5 % and 2 F1 of 3 runs") == "1.5\u00a0% and 2\u00a0F1 of 3 runs"
