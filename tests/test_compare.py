"""`python -m src.compare` on runs whose figures are known, each fault planted once."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import tempfile
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy.stats import permutation_test

from src.config import TrackingConfig, UserError
from src.metrics import CPU_WAIT_SECONDS
from src.report.comparison import compare_runs
from src.report.fairness import comparable, learned
from src.report.groups import kind_of_question
from src.report.markdown import as_markdown
from src.report.page import differing_most, render, wrong_answers
from src.report.plots import pareto_front, plots
from src.report.tables import all_runs, as_csv, conditions, overview, side_by_side
from src.report.terminal import Terminal
from src.report.verdict import verdict
from src.reporting import report
from src.runs.parent import ParentRun
from src.runs.records import Status
from src.runs.results import resolve_run, select
from src.sweep import _progress
from tests.stored import QUESTIONS, Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


@pytest.fixture(scope="module")
def fair(tmp_path_factory, empty_store):
    made = Store(Path(shutil.copy(empty_store, tmp_path_factory.mktemp("fair"))).parent)
    made.fair()
    return made


def compared(store, **how):
    selection = select(store.tracking)
    return compare_runs(selection.title, selection.results, **how)


def warned(comparison):
    """The texts of its warnings, without the one that each comparison here has: a passage for each question."""
    return [warning.text for warning in comparison.warnings if warning.code != "one_question_per_passage"]


def test_a_fair_comparison_warns_of_nothing(fair):
    found = compared(fair)
    assert warned(found) == []
    assert [arm.name for arm in found.arms] == ["full", "lora"]
    assert [(arm.best.rate, len(arm.best.runs), len(arm.trials)) for arm in found.arms] == [(1e-4, 2, 3), (1e-3, 2, 3)]
    [[finding, evidence, power, missing, costs, rates, forgetting]] = verdict(found)
    assert re.fullmatch(r"No decision yet: lora is at most \d\.\d F1 worse than full \(95 %; margin 1\.0\)\.", finding)
    assert evidence.startswith("lora (rate 0.001) against full (rate 0.0001): F1 ")
    assert evidence.endswith(f"; {QUESTIONS} validation questions, 2 seeds.")
    assert re.fullmatch(r"Minimum detectable effect \(80 % power\): \d\.\d F1\.", power)
    assert "more validation questions would" in missing
    share = "6.9 % of the trained parameters, 70 % of the training time, 54 % of the peak memory and 3 % of the stored"
    assert costs == f"Compared with full, lora needs {share} size."
    assert rates == "Its best learning rate is 10 times that of full."
    assert forgetting == "Its hidden states have moved less from what they were before training: CKA 0.900, full 0.800."


def test_what_the_runs_were_made_with_is_told(fair):
    told = dict(conditions(compared(fair)))
    assert told["data"] == "wiki" and told["training questions"] == "4,000" and told["validation questions"] == "300"
    assert told["hardware"] == "CPU, 2 threads, bf16" and told["machine"] == "here"
    assert "- hardware: CPU, 2 threads, bf16" in as_markdown(compared(fair))


def test_the_table_holds_the_runs_figures_and_ratios(fair):
    rows = dict(side_by_side(compared(fair)).rows)
    assert [cell.text for cell in rows["learning rate"]] == ["0.0001", "0.001"]
    assert [str(cell) for cell in rows["trained parameters"]] == ["20,000", "1,370 (0.069x)"]
    assert [str(cell) for cell in rows["training time (s)"]] == ["100.0", "70.0 (0.70x)"]
    assert [cell.text for cell in rows["F1 before training"]] == ["0.0", "0.0"]
    best = compared(fair).arms[1].best
    f1 = [run.metrics["quality/f1"] for run in best.runs]
    assert rows["F1"][1].value == pytest.approx(np.mean(f1))
    assert rows["F1"][1].text == f"{np.mean(f1):.1f} ± {np.std(f1, ddof=1):.1f}"


def test_differences_agree_with_the_scores_and_with_scipy(store):
    store.run("full", 1e-4, 0.6)
    store.run("lora", 1e-3, 0.55)
    found = compared(store)
    [contrast] = found.contrasts
    tables = [arm.best.runs[0].questions() for arm in found.arms]
    base, own = (100 * table["exact_match"].to_numpy() for table in tables)
    assert contrast.differences["exact_match"].mean == pytest.approx(own.mean() - base.mean())
    exact = permutation_test(
        (own, base),
        lambda a, b, axis: (a - b).mean(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=9999,
        rng=np.random.default_rng(0),
    )
    assert contrast.differences["exact_match"].p == pytest.approx(exact.pvalue, abs=0.03)


def test_a_worse_method_is_called_worse(store):
    for seed in (0, 1, 2):
        store.run("full", 1e-4, 0.7, seed)
        store.run("lora", 1e-3, 0.4, seed)
    [[finding, evidence, untuned, *_]] = verdict(compared(store))
    assert finding.startswith("lora is worse than full by more than 1.0 F1: by ")
    assert evidence.endswith("300 validation questions, 3 seeds.")
    assert untuned == "Only one learning rate of full and lora was tried: another rate may change the result."


def test_one_seed_says_that_it_is_one_run(store):
    store.run("full", 1e-4, 0.7)
    store.run("lora", 1e-3, 0.4)
    [[finding, evidence, limits, *_]] = verdict(compared(store))
    assert finding.startswith("lora is worse than full by more than 1.0 F1: by ") and evidence.endswith(", 1 seed.")
    assert limits == "The interval is for these two runs; other seeds may differ by more."


PLANTED = {
    "other training data": (
        "training_data_differ",
        lambda s: s.run("lora", 1e-3, 0.65, 2, digests=("train-b", "validation-a")),
        "The training data differ (full: train-a; lora: train-a, train-b)",
    ),
    "edge": (
        "best_rate_at_edge",
        lambda s: [s.run("lora", 1e-2, 0.7, seed) for seed in (0, 1)] + [s.run("full", 1e-3, 0.1)],
        "lora: its best learning rate, 0.01, is the highest one tried; a higher one may be better.",
    ),
    "unequal trials": (
        "unequal_learning_rates",
        lambda s: s.run("lora", 1e-5, 0.1),
        "The methods had different numbers of learning rates: full 3, lora 4.",
    ),
    "unequal seeds": (
        "unequal_seeds",
        lambda s: s.run("lora", 1e-3, 0.6, 2),
        "The methods had different numbers of seeds at the best setting: full 2, lora 3.",
    ),
    "nothing adapted": (
        "nothing_adapted",
        lambda s: [s.run("lora_none", 1e-3, 0.3, 0, metrics={"params/adapter": 0, "params/trainable": 770})],
        "lora_none adapts no layer of the backbone: only the 770 parameters of the head trained.",
    ),
    "failed arm": (
        "arm_without_result",
        lambda s: s.run("dora", 1e-3, 0.3, status="FAILED", tags={"error": "UserError: no such layer."}),
        "dora has no finished run (UserError: no such layer).",
    ),
    "failed run": (
        "runs_failed",
        lambda s: s.run("lora", 1e-2, 0.3, status="FAILED"),
        "lora: 1 run failed; its best setting may be among them.",
    ),
    "more steps": (
        "unequal_steps",
        lambda s: [s.run("lora", 1e-3, 0.8, seed, params={"train.epochs": 10}) for seed in (0, 1)],
        "The methods had different numbers of optimizer steps: full 750, lora 2,500.",
    ),
    "other hardware": (
        "hardware_differs",
        lambda s: s.run("lora", 1e-3, 0.6, 2, tags={"hardware": "CPU, 1 thread, fp32"}),
        "The runs were made on different hardware (full: CPU, 2 threads, bf16; lora: CPU, 1 thread, fp32, CPU, 2",
    ),
    "stopped early": (
        "unequal_steps",
        lambda s: [s.run("lora", 1e-3, 0.8, seed, metrics={"train/steps": 400}) for seed in (0, 1)],
        "The methods had different numbers of optimizer steps: full 750, lora 400.",
    ),
    "no biases": (
        "nothing_adapted",
        lambda s: s.run(
            "bitfit",
            1e-3,
            0.3,
            params={"method.trainable": "['*.bias', 'head']"},
            metrics={"params/adapter": 0, "params/backbone": 0, "params/trainable": 770},
        ),
        "bitfit adapts no layer of the backbone: only the 770 parameters of the head trained.",
    ),
    "untrained": (
        "learned_nothing",
        lambda s: s.run("head", 1e-3, 0.4, metrics={"quality/f1": 9.9}),
        "head has learned next to nothing (F1 9.9, 0.0 before training): train it longer",
    ),
    "shared machine": (
        "shared_machine",
        lambda s: s.run("lora", 1e-3, 0.6, 2, tags={"launcher": "joblib"}),
        "Runs of lora may have shared their machine: their times are not reliable.",
    ),
    "other work": (
        "threads_waited",
        lambda s: s.run("lora", 1e-3, 0.6, 2, metrics={CPU_WAIT_SECONDS: 21}),  # two threads, 70 seconds
        "The threads of training runs waited for a core part of the time (lora up to 15 %), since other work used ",
    ),
    "another machine": (
        "machines_differ",
        lambda s: s.run("lora", 1e-3, 0.6, 2, tags={"host": "there"}),
        "The runs were made on different machines (full: here; lora: here, there): time is not comparable.",
    ),
}


def test_one_slow_run_of_three_moves_no_time(store):
    store.fair()
    slow = {"time/train_seconds": 7000, "speed/examples_per_second": 0.5}
    store.run("lora", 1e-3, 0.6, 2, metrics=slow)
    cells = dict(side_by_side(compared(store)).rows)
    assert [str(cell) for cell in cells["training time (s)"]] == ["100.0", "70.0 (0.70x)"]
    assert [str(cell) for cell in cells["training speed (examples/s)"]] == ["36.0", "49.0 (1.36x)"]


@pytest.mark.parametrize("fault", PLANTED)
@pytest.mark.slow
def test_each_planted_fault_brings_its_warning(store, fault):
    code, plant, expected = PLANTED[fault]
    store.fair()
    plant(store)
    assert [w for w in compared(store).warnings if w.code == code and w.text.startswith(expected)]


def test_no_run_waits_longer_than_it_trains(store):
    """The waiting time is the sum over all threads; an earlier version logged it under another key."""
    store.run("full", 1e-4, 0.6, metrics={"time/waited_seconds": 143})  # of 100 seconds on two threads
    store.run("lora", 1e-3, 0.6, metrics={CPU_WAIT_SECONDS: 7}, tags={"hardware": "CPU, 1 thread, fp32"})
    store.run("head", 1e-3, 0.6, metrics={CPU_WAIT_SECONDS: 900}, tags={"hardware": "NVIDIA A100, bf16"})
    [warning] = [warning for warning in warned(compared(store)) if warning.startswith("The threads")]
    assert "(full up to 72 %, lora up to 10 %, head up to 100 %)" in warning


NOTHING_LEARNED = {"quality/f1": 7.0, "quality/exact_match": 1.0}


@pytest.mark.slow
def test_where_nobody_learned_anything_there_is_no_answer(store):
    store.run("full", 1e-4, 0.6, metrics=NOTHING_LEARNED)
    store.run("lora", 1e-3, 0.3, metrics=NOTHING_LEARNED)
    [[finding, advice, of_lora]] = verdict(compared(store))
    assert finding == (
        "No decision yet: every method has learned next to nothing (full: F1 7.0, 0.0 before training; "
        "lora: F1 7.0, 0.0 before training)."
    )
    assert "dataset.train_size" in advice and "train.epochs" in advice and "train.learning_rate" in advice
    assert of_lora.startswith("As the runs stand: lora is worse than full by more than 1.0 F1: by ")
    text = as_markdown(compared(store))
    assert text.count("**No decision yet: every method has learned") == 2 and "**lora" not in text
    shown = Terminal()
    shown.console = Console(width=200, file=StringIO(), force_terminal=True, color_system="standard", highlight=False)
    for bold, *details in verdict(compared(store)):
        shown.finding(bold, details)
    [line] = [line for line in shown.console.file.getvalue().splitlines() if "\x1b[1m" in line]
    assert "No decision yet" in line
    alone = Store(store.folder / "alone")
    alone.run("full", 1e-4, 0.6, metrics=NOTHING_LEARNED)
    assert verdict(compared(alone))[0][0] == (
        "No decision yet: the method has learned next to nothing (full: F1 7.0, 0.0 before training)."
    )


def test_what_has_learned_nothing_is_neither_better_nor_worse(store):
    store.run("full", 1e-4, 0.6)
    store.run("lora", 1e-3, 0.55)
    store.run("head", 1e-3, 0.1, metrics=NOTHING_LEARNED)
    [of_lora, *_], [of_head, advice, meanwhile, *_] = verdict(compared(store))
    assert of_head == "No decision yet: head has learned next to nothing (F1 7.0, 0.0 before training)."
    assert advice.startswith("Train on more questions")
    assert meanwhile.startswith("As the runs stand: head is worse than full by more than 1.0 F1: by ")
    assert of_lora.startswith("lora is worse than full")


@pytest.mark.parametrize(
    ("before", "after", "enough"), [(5, 14, False), (5, 15, True), (80, 81, False), (80, 85, True)]
)
def test_what_counts_as_learning_depends_on_what_was_missing(before, after, enough):
    best = SimpleNamespace(score_before_training=lambda score: before, average=lambda metric: after)
    assert learned(SimpleNamespace(best=best)) == enough


@pytest.mark.parametrize(("other", "told"), [(0.888, False), (0.88, True)])
def test_encoders_that_moved_equally_far_are_not_told_apart(store, other, told):
    store.run("full", 1e-4, 0.6, metrics={"forgetting/cka": other})
    store.run("lora", 1e-3, 0.5, metrics={"forgetting/cka": 0.897})
    assert any("Its hidden states have moved less" in sentence for sentence in verdict(compared(store))[0]) is told


def test_what_seeds_differ_by_is_no_difference_in_how_far_encoders_moved(store):
    for seed, cka in enumerate((0.80, 0.90)):
        store.run("full", 1e-4, 0.6, seed, metrics={"forgetting/cka": 0.90})
        store.run("lora", 1e-3, 0.5, seed, metrics={"forgetting/cka": cka})
    assert not any("hidden states" in sentence for sentence in verdict(compared(store))[0])


def scored(store, method, exact, f1):
    """A run with these scores by question, from 0 to 1."""
    run = store.run(method, 1e-3, 0.5, questions=len(f1))
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(store.client.download_artifacts(run, "questions.parquet", temporary))
        table = pd.read_parquet(file).assign(exact_match=exact, f1=np.asarray(f1, "float32"))
        table.to_parquet(Path(temporary) / "questions.parquet")
        store.client.log_artifact(run, str(Path(temporary) / "questions.parquet"))
    return run


def test_from_one_right_answer_no_interval_is_made(store):
    nothing, one = np.zeros(200), np.eye(200)[0]
    scored(store, "full", nothing, nothing)
    scored(store, "lora", one, one)
    found = compared(store)
    assert found.contrasts[0].differences == {}
    assert (
        "no difference is computed (only 1 of 200 questions got a score above 0 from either method"
        in verdict(found)[0][0]
    )
    assert "interval" not in " ".join(verdict(found)[0])
    assert "differences" not in {plot.name for plot in plots(found)}


def test_from_equal_answers_no_interval_is_made(store):
    half = np.tile([0.0, 1.0], 100)
    for method in ("full", "lora"):
        scored(store, method, half, half)
    assert verdict(compared(store))[0][0].endswith("(the two methods score differently on only 0 of 200 questions).")


def test_an_exact_match_that_is_hardly_ever_made_has_no_interval(store):
    generator = np.random.default_rng(0)
    for method in ("full", "lora"):
        scored(store, method, np.eye(200)[3], generator.random(200))
    found = compared(store)
    assert list(found.contrasts[0].differences) == ["f1"]
    evidence = verdict(found)[0][1]
    assert "exact match without an interval (only 1 of 200 questions got a score above 0 from either method" in evidence
    [plot] = [plot for plot in plots(found) if plot.name == "differences"]
    assert [list(line.y) for line in plot.figure.data] == [["lora"]]


def damage(store, run, content):
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(store.client.download_artifacts(run, "questions.parquet", temporary))
        file.write_bytes(content(file.read_bytes()))
        store.client.log_artifact(run, str(file))


@pytest.mark.parametrize(
    "content", [lambda whole: b"", lambda whole: whole[:2000], lambda whole: whole[:40] + bytes(4000) + whole[4040:]]
)
def test_a_damaged_file_of_scores_is_left_out_and_named(store, content):
    store.run("full", 1e-4, 0.6)
    runs = [store.run("lora", 1e-3, 0.3, seed) for seed in (0, 1)]
    damage(store, runs[0], content)
    found = compared(store)
    assert [contrast.basis.seeds for contrast in found.contrasts] == [(1, 1)]
    [warning] = [warning for warning in warned(found) if "questions.parquet" in warning]
    assert warning.startswith(
        f"questions.parquet of run {runs[0][:8]} (lora lr=0.001 epochs=3 seed=0) cannot be read ("
    )
    assert verdict(found)[0][1].endswith("300 validation questions, 1 seed.")
    assert "lora is worse than full" in verdict(found)[0][0]
    assert "agreement" in {plot.name for plot in plots(found)} and differing_most(found)
    damage(store, runs[1], content)
    found = compared(store)
    assert len([warning for warning in warned(found) if "cannot be read" in warning]) == 2
    assert "no difference is computed (a run has no scores by question" in verdict(found)[0][0]
    assert render(found, plots(found)) and as_markdown(found)


def test_other_validation_questions_are_never_compared(store):
    store.run("full", 1e-4, 0.6)
    store.run("lora", 1e-3, 0.9, digests=("train-a", "validation-b"))
    found = compared(store)
    assert found.contrasts[0].differences == {}
    assert any("no difference is computed" in warning for warning in warned(found))
    assert "no difference is computed (scored on other validation questions)" in verdict(found)[0][0]


def test_each_draw_of_the_questions_is_compared_within_itself(store):
    for draw, right in (("0", 0.4), ("1", 0.7)):
        for method, gain in (("full", 0.0), ("lora", 0.1)):
            digests = (f"train-{draw}", f"validation-{draw}")
            store.run(method, 1e-3, right + gain, params={"dataset.seed": draw}, digests=digests)
    found = compared(store)
    pairs = [(contrast.arm.name, contrast.base.name) for contrast in found.contrasts]
    assert pairs == [("seed=0 lora", "seed=0 full"), ("seed=1 lora", "seed=1 full")]
    assert all(contrast.differences for contrast in found.contrasts)
    assert not [warning for warning in warned(found) if "differ" in warning]


def test_nothing_is_compared_with_another_models_baseline(store):
    store.run("full", 1e-4, 0.7, params={"model.name": "bert_base"})
    for model in ("bert_base", "minilm"):
        store.run("lora", 1e-3, 0.5, params={"model.name": model})
    found = compared(store)
    assert [(contrast.arm.name, contrast.base.name) for contrast in found.contrasts] == [
        ("bert_base lora", "bert_base full")
    ]
    assert warned(found)[0] == "There is no full to compare minilm lora with."


def test_a_stray_run_does_not_choose_between_two_others(store):
    def run(rate, *f1s):
        for seed, f1 in enumerate(f1s):
            store.run("full", rate, 0.5, seed, metrics={"quality/f1": f1})
        return compared(store)

    run(1e-4, 66.0, 60.0, 60.0)
    assert run(3e-4, 65.0, 66.0, 66.0).arms[0].best.rate == 3e-4
    found = run(1e-2, 40.0)  # the only seed that all three share is the first's best
    assert found.arms[0].best.rate == 3e-4
    assert next(w.code for w in found.warnings) == "scored_on_choosing_seed", "the stray run has no other seed"
    assert run(1e-3, 66.5).arms[0].best.rate == 1e-3


def test_a_sweep_under_way_shows_the_best_mean_and_no_lucky_seed(store):
    parent = ParentRun.begin(store.tracking, "rates", "", "identity", "command", planned=9, fresh=False)
    parent.started(0)

    def run(method, rate, *f1s, model="minilm"):
        for seed, f1 in enumerate(f1s):
            params = {"model.name": model}
            made = store.run(method, rate, 0.5, seed, metrics={"quality/f1": f1}, params=params, questions=20)
            parent.include(store.record(made))

    run("full", 1e-3, 70.0, 40.0, 40.0)
    run("full", 1e-4, 60.0, 62.0, 64.0)
    run("lora", 1e-3, 55.0)
    parent.include(store.record(store.run("head", 1e-3, 0.5, status="FAILED")))
    line = _progress(parent, parent.members())
    assert line.strip().startswith("7 of 9 done; 1 failed; ")
    assert line.endswith("; best mean F1: full 62.0 (rate 0.0001, 3 seeds), lora 55.0 (rate 0.001, 1 seed)")
    run("lora", 1e-3, 90.0, model="bert_base")
    line = _progress(parent, parent.members())
    assert "bert_base lora 90.0 (rate 0.001, 1 seed), minilm full 62.0 (rate 0.0001, 3 seeds), minilm lora 55.0" in line
    parent.end(Status.FINISHED, [])


def test_a_setting_with_fewer_seeds_that_may_be_better_is_named(store):
    for seed, f1 in enumerate((65.7, 63.9, 63.9)):
        store.run("full", 3e-4, 0.5, seed, metrics={"quality/f1": f1})
    for rate, f1 in ((1e-4, 65.4), (1e-3, 40.9)):
        store.run("full", rate, 0.5, metrics={"quality/f1": f1})
    found = compared(store)
    assert found.arms[0].best.rate == 3e-4
    assert warned(found) == [
        (
            "No test set: full scored on the questions that the best setting was chosen on, which flatters the result; "
            "set dataset.test_size."
        ),
        "full: rate 0.0001 has F1 65.4 on 1 seed, above the chosen setting's 64.5; add seeds.",
    ]


def test_fresh_seeds_of_the_best_setting_alone_are_not_called_cross_fitted(store):
    for rate, right in ((1e-4, 0.4), (3e-4, 0.6)):
        store.run("full", rate, right)
    store.run("full", 3e-4, 0.6, 1)
    both = compared(store).scored["full"]
    assert (both.seeds, both.cross_fitted) == (("0", "1"), False), "seed 1 has one setting: nothing to choose from"
    assert both.on_choosing_questions and both.on_choosing_seeds
    store.run("full", 3e-4, 0.6, 2)
    fresh = compared(store).scored["full"]
    assert (fresh.seeds, fresh.cross_fitted) == (("1", "2"), False)
    assert fresh.on_choosing_questions and not fresh.on_choosing_seeds
    for seed in (1, 2):
        store.run("full", 1e-4, 0.4, seed)
    crossed = compared(store).scored["full"]
    assert (crossed.seeds, crossed.cross_fitted) == (("0", "1", "2"), True)
    assert not crossed.on_choosing_questions and not crossed.on_choosing_seeds


def test_a_failed_setting_is_none_to_choose_from(store):
    store.run("full", 1e-4, 0.6)
    store.run("full", 1e-3, 0.0, status="FAILED")
    scores = compared(store).scored["full"]
    assert not scores.cross_fitted and not scores.on_choosing_questions


def test_a_key_that_is_null_is_as_one_that_older_runs_lack(store):
    for seed, params in enumerate(({}, {"dataset.test_size": None}, {"dataset.test_size": None})):
        store.run("full", 1e-4, 0.6, seed, params=params)
    [arm] = (found := compared(store)).arms
    assert (len(arm.trials), arm.best.seeds, found.varied) == (1, {"0", "1", "2"}, [])


def test_without_scores_by_question_the_f1_is_that_of_the_scored_set(store):
    id = store.run("full", 1e-4, 0.6, test=100, metrics={"quality/f1": 70.0, "test/f1": 55.0})
    damage(store, id, lambda whole: b"")
    assert overview(compared(store))[1][0][1].value == 55.0


def test_memory_compares_on_two_machines_of_one_kind(store):
    store.run("full", 1e-4, 0.6)
    store.run("lora", 1e-3, 0.6, tags={"host": "there"})
    lora, full = reversed(compared(store).arms)
    assert comparable("memory/peak_train_mb", lora, full)
    assert not comparable("time/train_seconds", lora, full)


def test_a_rate_that_failed_or_was_pruned_was_tried(store):
    for rate, right in ((1e-4, 0.4), (3e-4, 0.6)):
        store.run("full", rate, right)
    assert any("is the highest one tried" in warning for warning in warned(compared(store)))
    store.run("full", 1e-3, 0.0, status="FAILED")
    store.run("full", 3e-5, 0.0, status="KILLED", tags={"stopped": "behind the median"})
    [arm], warnings = (found := compared(store)).arms, warned(found)
    assert (arm.rates, arm.settings, arm.unfinished) == ([3e-5, 1e-4, 3e-4, 1e-3], 4, 0)
    assert len(warnings) == 2 and warnings[0].startswith("The best setting of full was chosen on seeds that are scored")
    assert warnings[1] == "full: 1 run failed; its best setting may be among them."
    store.run("lora", 1e-3, 0.0, status="KILLED", tags={"stopped": "behind the median"})
    assert "lora has no finished run (all pruned)." in warned(compared(store))


def test_what_an_attempt_left_before_the_finished_run_is_forgotten(store):
    store.run("full", 1e-4, 0.5, status="FAILED", tags={"config_hash": "a"})
    store.run("full", 1e-4, 0.5, status="KILLED", tags={"config_hash": "a"})
    store.run("full", 1e-4, 0.6, tags={"config_hash": "a"})
    assert warned(compared(store)) == []


def test_the_setting_that_won_is_named(store):
    store.run("full", 1e-4, 0.6)
    for rank, right in ((4, 0.5), (16, 0.7)):
        store.run("lora", 1e-3, right, params={"method.peft.r": rank})
    found = compared(store)
    assert dict(side_by_side(found).rows)["setting"][1].text == "r=16"
    assert verdict(found)[0][1].startswith("lora (rate 0.001, r=16) against full (rate 0.0001): ")
    headings, rows = all_runs(found)
    assert [row[headings.index("setting")].text for row in rows] == ["–", "r=4", "r=16"]
    assert ["setting", "", "r=16", ""] in list(csv.reader(StringIO(as_csv(found))))


def test_a_sweep_in_which_everything_failed_is_reported(store):
    store.run("full", 1e-4, 0.6, status="FAILED", tags={"error": "UserError: no room"})
    found = compared(store)
    assert verdict(found) == [["No run has finished: there is nothing to compare."]]
    assert warned(found) == ["full has no finished run (UserError: no room)."]
    assert "no room" in render(found, plots(found)) and "no room" in as_markdown(found) and as_csv(found)


def test_the_same_data_in_another_place_is_the_same_setting(store):
    for seed, path in enumerate(("/here/squad.json", "/there/squad.json")):
        store.run("full", 1e-4, 0.6, seed, params={"dataset.path": path})
    [trial] = compared(store).arms[0].trials
    assert len(trial.runs) == 2


def test_a_figure_without_a_number_is_drawn_all_the_same(store):
    store.run("full", 1e-4, 0.6)
    store.run("lora", 1e-3, 0.5, metrics={"train/final_loss": float("nan"), "memory/peak_train_mb": float("nan")})
    found = compared(store)
    page = render(found, plots(found))
    figures = re.search(r'<script id="figures" type="application/json">(.*?)</script>', page, re.S).group(1)
    json.loads(figures, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_ranks_become_arms_when_asked_for(store):
    store.run("full", 1e-4, 0.6)
    for rank in (1, 16):
        store.run("lora", 1e-3, 0.5, params={"method.peft.r": rank})
    assert [arm.name for arm in compared(store).arms] == ["full", "lora"]
    assert {arm.name for arm in compared(store, by=["method.peft.r"]).arms} == {"full", "lora r=1", "lora r=16"}


def test_each_model_and_size_has_its_own_baseline(store):
    for number, (model, right) in enumerate({"minilm": 0.5, "bert_base": 0.7}.items()):
        for method, rate, gain in (("full", 1e-4, 0.0), ("lora", 1e-3, 0.1)):
            store.run(
                method, rate, right + gain, params={"model.name": model}, metrics={"memory/peak_train_mb": 100 + number}
            )
    found = compared(store)
    assert [(c.arm.name, c.base.name) for c in found.contrasts] == [
        ("bert_base lora", "bert_base full"),
        ("minilm lora", "minilm full"),
    ]
    assert [arm.name for arm in found.arms] == ["bert_base full", "bert_base lora", "minilm full", "minilm lora"]
    assert all(contrast.differences["exact_match"].mean > 0 for contrast in found.contrasts)
    memory = dict(side_by_side(found).rows)["peak memory, training (MB)"]
    assert [str(cell) for cell in memory] == ["101", "101", "100", "100"]
    assert as_csv(found).splitlines()[0].endswith("bert_base lora / bert_base full,minilm lora / minilm full")
    assert "minilm lora (rate 0.001) against minilm full (rate 0.0001)" in verdict(found)[1][1]
    assert warned(found) == []
    named = compared(store, baseline="minilm full")
    assert {contrast.base.name for contrast in named.contrasts} == {"minilm full"} and len(named.contrasts) == 3


def test_one_method_with_several_models_compares_these(store):
    for model in ("minilm", "bert_base"):
        store.run("lora", 1e-3, 0.5, params={"model.name": model})
    [contrast] = compared(store).contrasts
    assert (contrast.arm.method, contrast.base.method) == ("lora", "lora")


def test_a_curve_over_training_sizes(store):
    for size, right in ((4000, 0.6), (250, 0.3), (1000, 0.5)):
        for method in ("full", "lora"):
            store.run(
                method, 1e-3, right, params={"dataset.train_size": size}, digests=(f"train-{size}", "v"), trained=size
            )
    found = compared(store, by=["dataset.train_size"])
    assert [contrast.base.name for contrast in found.contrasts] == [f"full train_size={n}" for n in (250, 1000, 4000)]
    assert warned(found) == []
    [plot] = [plot for plot in plots(found) if plot.name == "f1_by_size"]
    assert [(line.name, list(line.x)) for line in plot.figure.data] == [
        ("full", [250, 1000, 4000]),
        ("lora", [250, 1000, 4000]),
    ]
    assert list(plot.figure.data[1].y) == sorted(plot.figure.data[1].y)


def printed(width, show):
    """What is shown on a terminal of so many columns."""
    terminal = Terminal()
    terminal.console = Console(width=width, file=StringIO(), soft_wrap=True, highlight=False)
    show(terminal)
    text = terminal.console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width and "…" not in text
    return text


LONG = {"params/trainable": 22_566_146, "time/train_seconds": 12_345.6, "memory/peak_train_mb": 12_345}


def test_the_overview_is_whole_on_a_narrow_terminal(store):
    methods = ("full", "lora_attention_and_feed_forward_dropout", "lora", "head", "pissa")
    for number, method in enumerate(methods):
        for seed in (0, 1, 2):
            store.run(method, 1e-3, 0.5 - 0.05 * number, seed, metrics=LONG)
    headings, rows = overview(compared(store))
    texts = [[str(cell) for cell in row] for row in rows]
    for width in (80, 200):
        text = printed(width, lambda terminal: terminal.overview(headings, texts))
        for row in texts:
            for cell in row[1:3]:
                assert all(part in text for part in cell.replace(" [", "|[").split("|")), "a score is cut off"
        assert "lora_attention_and_feed_forward_dropout" in text or width == 80
        assert "12,345.6" in text


@pytest.mark.parametrize(("width", "last"), [(80, "F1"), (100, "training (s)"), (200, "memory (MB)")])
def test_a_sweeps_table_shows_what_there_is_room_for(width, last):
    figures = {"quality/exact_match": 51.25, "quality/f1": 64.75, **LONG}
    names = ["lora lr=0.001 epochs=3 seed=12", "minilm squad lora_attention_dropout lr=0.000333333 epochs=10 seed=12"]
    for name in names:
        rows = [(name, "FINISHED", "0123abcd", figures), ("full lr=1e-05 epochs=3 seed=0", "pruned", "89abcdef", {})]
        text = printed(width, lambda terminal, rows=rows: terminal.sweep_table(rows))
        assert all(whole in text for whole in ("51.2", "64.8", "seed=12", "FINISHED", "0123abcd", "89abcdef"))
        if name is names[0]:
            [heading] = [line for line in text.splitlines() if "run id" in line]
            assert heading.split("┃")[-2].strip() == last
            assert name in text


def test_agreement_counts_each_side_for_itself(store):
    store.run("full", 1e-4, 0.3)
    store.run("lora", 1e-3, 0.7)
    found = compared(store)
    [plot] = [plot for plot in plots(found) if plot.name == "agreement"]
    counts = {bar.name: bar.x[0] for bar in plot.figure.data}
    full, lora = (arm.best.runs[0].questions(["exact_match"])["exact_match"] > 0.5 for arm in found.arms)
    assert counts == {
        "both right": (full & lora).sum(),
        "the method alone": (lora & ~full).sum(),
        "full alone": (full & ~lora).sum(),
        "neither": (~full & ~lora).sum(),
    }
    assert counts["the method alone"] > 100 > counts["full alone"]


def test_the_verdict_counts_the_questions_of_what_it_compares(store):
    for name, size in (("small", 100), ("large", 300)):
        for method in ("full", "lora"):
            params = {"dataset.name": name, "dataset.split": "article" if name == "small" else "given"}
            right = 0.5 if method == "full" else 0.4
            store.run(
                method, 1e-3, right, params=params, questions=size, digests=(f"train-{name}", f"validation-{name}")
            )
    large, small = verdict(compared(store))
    assert "large lora" in large[0] and "300 validation questions" in large[1]
    assert "small lora" in small[0] and "100 validation questions" in small[1]
    made = {plot.name: plot for plot in plots(compared(store))}
    assert (made["by_question"].title, made["by_question_1"].title) == (
        "F1 by question word, large",
        "F1 by question word, small",
    )
    assert list(made["by_question_1"].figure.data[0].y) == ["what (25)", "who (25)", "when (25)", "how many (25)"]


def test_generated_questions_are_called_so(store):
    store.run("full", 1e-4, 0.3, params={"dataset.source": "sample"})
    assert warned(compared(store)) == ["The questions are generated: the result does not transfer to real ones."]


def test_of_a_run_that_was_repeated_the_newer_counts(store):
    parents = []
    for name in ("old", "new"):
        parents.append(ParentRun.begin(store.tracking, name, "", name, "command", planned=1, fresh=False))
        parents[-1].include(store.record(store.run("full", 1e-4, 0.6)))
    for order in (["old", "new"], ["new", "old"]):
        selection = select(store.tracking, order)
        [run] = compare_runs(selection.title, selection.results).arms[0].best.runs
        assert [run.id] == [member.id for member in parents[1].members()]


def test_one_seed_against_several_says_whose_spread_it_is(store):
    store.run("lora", 1e-3, 0.5)
    for seed in (0, 1, 2):
        store.run("full", 1e-4, 0.5, seed)
    [[_, evidence, *more]] = verdict(compared(store))
    assert evidence.endswith("300 validation questions, 1 and 3 seeds.")
    assert "lora has one seed: the spread between seeds is that of full." in more


def test_the_command_line_writes_every_format(fair, command, tmp_path):
    shown = command("src.compare", f"tracking.folder={fair.folder}", f"output={tmp_path}", "where=tags.method != 'x'")
    assert shown.returncode == 0, shown.stderr
    assert "lora" in shown.stdout and "430 (0.54x)" in shown.stdout
    assert "No decision yet: lora is at most" in shown.stdout
    rows = list(csv.reader((tmp_path / "side_by_side.csv").open()))
    assert rows[0] == ["", "full", "lora", "lora / full"]
    assert ["training time (s)", "100.0", "70.0", "0.7"] in rows
    assert "| training time (s) | 100.0 | 70.0 (0.70x) |" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "report.html").stat().st_size < 6_000_000


def test_a_sweeps_parent_keeps_the_report_and_nothing_else_of_its_folder(store, tmp_path):
    parent = ParentRun.begin(
        store.tracking, "a sweep", "", "identity", "python -m src.train -m", planned=2, fresh=False
    )
    for method, rate in (("full", 1e-4), ("lora", 1e-3)):
        parent.include(store.record(store.run(method, rate, 0.5)))
    parent.end(Status.FINISHED, parent.members())
    folder = tmp_path / "shared folder"
    folder.mkdir()
    (folder / "private.txt").write_text("not of the report")
    report(store.tracking, sweeps=["a sweep"], output=folder)
    kept = {Path(file.path).name for file in store.client.list_artifacts(parent.run_id, "report")}
    assert kept == {"report.html", "report.md", "side_by_side.csv", "verdict.csv", "verdict.json"}
    other = report(store.tracking, sweeps=["a sweep"], by=["method.name"], baseline="lora", formats=["md"])
    assert other.name.endswith("-name-lora")
    assert [file.path for file in store.client.list_artifacts(parent.run_id, "report-name-lora")] == [
        "report-name-lora/report.md",
        "report-name-lora/verdict.json",
    ]
    ids = [run.id for run in parent.members()]
    folders = {report(store.tracking, runs=chosen, formats=["md"]) for chosen in (ids, ids[:1], ids[1:])}
    assert len(folders) == 3
    second = ParentRun.begin(store.tracking, "another", "", "other", "command", planned=1, fresh=False)
    second.include(store.record(ids[0]))
    report(store.tracking, sweeps=["a sweep", "another"])
    kept = {file.path for file in store.client.list_artifacts(second.run_id)}
    assert kept == {"command.txt", f"report-{parent.run_id[:12]}-{second.run_id[:12]}"}
    with pytest.raises(UserError, match="give one of them"):
        report(store.tracking, sweeps=["a sweep"], where="params.model.name = 'minilm'")


def resolved(store, text):
    run, note = resolve_run(store.store.everywhere(), text)
    return run.id, note


def test_a_run_is_named_by_its_id_its_name_or_as_the_best(store):
    made = {
        name: store.run("full", rate, 0.5, metrics={"quality/f1": f1}, questions=20)
        for name, rate, f1 in (("low", 1e-5, 40.0), ("high", 1e-4, 60.0), ("again", 1e-4, 50.0))
    }
    failed = store.run("lora", 1e-3, 0.5, status="FAILED")
    store.client.set_tag(made["low"], "mlflow.runName", "odd = {name}")
    assert resolved(store, made["low"]) == resolved(store, made["low"][:12]) == resolved(store, "odd = {name}")
    assert resolved(store, made["low"]) == (made["low"], "")
    newest, note = resolved(store, "full lr=0.0001 epochs=3 seed=0")
    assert newest == made["again"]
    assert note.startswith("2 finished runs are called full lr=0.0001 epochs=3 seed=0; the newest one is taken, ")
    assert note.endswith(f"{made['again'][:8]} (the others: {made['high'][:8]}).")
    assert resolved(store, failed[:12])[0] == failed
    with pytest.raises(UserError, match=r"run=lora lr=0.001 epochs=3 seed=0: that run is FAILED; choose a FINISHED"):
        resolved(store, "lora lr=0.001 epochs=3 seed=0")
    with pytest.raises(UserError, match=r"no run has this name .*; there are: full lr=0.0001 epochs=3 seed=0, odd = "):
        resolved(store, "nothing")
    with pytest.raises(UserError, match=r"4 runs have such an id \(.*give more of it"):
        resolved(store, "")
    best, note = resolved(store, "best")
    assert (best, note) == (
        made["high"],
        f"The best run of the store is full lr=0.0001 epochs=3 seed=0, {best[:8]} (F1 60.0).",
    )
    parent = ParentRun.begin(store.tracking, "a sweep", "", "identity", "command", planned=2, fresh=False)
    with pytest.raises(UserError, match="run=best: no run of the sweep a sweep has finished yet"):
        resolved(store, "best")
    for id in (made["low"], failed):
        parent.include(store.record(id))
    parent.end(Status.FINISHED, [])
    assert resolved(store, "best")[0] == made["low"], "of the newest sweep"
    with pytest.raises(UserError, match="no run has this name or such an id"):
        resolved(store, parent.run_id)
    selection = select(store.tracking, runs=["best", made["low"], "full lr=0.0001 epochs=3 seed=0"])
    assert [result.id for result in selection.results] == [made["low"], made["again"]]
    assert len(selection.notes) == 2


def test_the_reports_address_can_be_opened(store, tmp_path, capsys):
    store.run("full", 1e-4, 0.6)
    folder = tmp_path / "my report #1 ü"
    report(store.tracking, output=folder)
    assert capsys.readouterr().out.splitlines()[-1] == f"Report: {(folder / 'report.html').as_uri()}"
    assert "my%20report%20%231%20%C3%BC/report.html" in (folder / "report.html").as_uri()
    report(store.tracking, output=folder, formats=["md"])
    assert capsys.readouterr().out.splitlines()[-1] == f"Report: {folder}"


def test_a_store_that_can_only_be_read_is_compared(store, tmp_path, monkeypatch, capsys):
    parent = ParentRun.begin(store.tracking, "a sweep", "", "identity", "command", planned=2, fresh=False)
    for method in ("full", "lora"):
        parent.include(store.record(store.run(method, 1e-3, 0.5)))
    parent.end(Status.FINISHED, parent.members())
    before = (tmp_path / "mlflow.db").read_bytes()
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    report(store.tracking)
    *_, last = capsys.readouterr().out.splitlines()
    said = f"note tracking.folder={tmp_path} can only be read: no report is kept in the store"
    assert last == f"{said}, and none is written; output=FOLDER writes one."
    assert not (tmp_path / "reports").exists()
    report(store.tracking, output=tmp_path / "out", formats=["md"])
    *_, where, last = capsys.readouterr().out.splitlines()
    assert (where, last) == (f"Report: {tmp_path / 'out'}", f"{said}.")
    assert (tmp_path / "out" / "report.md").exists()
    assert [file.path for file in store.client.list_artifacts(parent.run_id)] == ["command.txt", "table.csv"]
    assert (tmp_path / "mlflow.db").read_bytes() == before


def test_a_folder_without_runs_is_named_and_left_as_it_was(tmp_path):
    with pytest.raises(UserError, match=r"nowhere holds no store \(mlflow.db\); train something first"):
        report(TrackingConfig(folder=str(tmp_path / "nowhere")))
    assert not (tmp_path / "nowhere").exists()


def test_a_sweep_that_is_taken_up_takes_the_name_it_is_given(store):
    def begin(name):
        parent = ParentRun.begin(store.tracking, name, "sweep a=1", "identity", "command", planned=1, fresh=False)
        parent.end(Status.FINISHED, [])
        return parent.run_id, store.client.get_run(parent.run_id).info.run_name

    first = begin(None)
    assert first[1] == "sweep a=1"
    assert begin("rates") == (first[0], "rates") == begin(None)


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("sweep=nothing", "Error: sweep=nothing: there is no such sweep; there are: none."),
        (
            "runs=[zzz]",
            "Error: runs=zzz: no run has this name or such an id; there are: lora lr=0.003 epochs",
        ),
        (
            "runs=[lora lr=0.001 epochs=3]",
            "Error: runs=lora lr=0.001 epochs=3: no run has this name or such an id (did you mean",
        ),
        ("where=params.model.name = 'x'", "Error: where=params.model.name = 'x': no run meets it."),
        ("by=[method.peft.rank]", "Error: by=method.peft.rank: no run has such a parameter"),
        ("formats=[doc]", "Error: formats=doc must be 'html', 'md', 'csv', 'tex', 'png', 'svg' or 'pdf'."),
        ("sweep=[]", "Error: sweep=[] names nothing; give at least one, or leave it out."),
        ("runs=[ ,]", "Error: runs=[ ,] names nothing; give at least one"),
        ("runs=[", "Error: runs=[ has no closing bracket; write [A,B], in quotes"),
        ("sweep=[a,b", "Error: sweep=[a,b has no closing bracket"),
        ("by=[", "Error: by=[ has no closing bracket"),
        ("by=[]", "Error: by=[] names nothing"),
        ("formats=[", "Error: formats=[ has no closing bracket"),
        ("formats=[]", "Error: formats=[] names nothing"),
        ("margin=0", "Error: sweep.margin=0 must be greater than 0."),
        ("margin=nan", "Error: sweep.margin=nan must be a finite number."),
        ("margin=wide", "Error: sweep.margin=wide must be a valid number."),
        ("examples=-1", "Error: examples=-1 must be greater than or equal to 0."),
        ("baseline=nope", "Error: baseline=nope is none of the methods compared; there are: full, lora."),
        ("sweeep=x", "Error: There is no key 'sweeep' (did you mean 'sweep'?)"),
        ("tracking.experiment=other", "Error: There is no experiment other in the store; there are: "),
    ],
)
def test_a_mistake_is_one_sentence(fair, argument, expected, monkeypatch, capsys):
    from src import compare

    monkeypatch.setattr("sys.argv", ["compare", f"tracking.folder={fair.folder}", argument])
    with pytest.raises(SystemExit) as ended:
        compare.main()
    assert ended.value.code == 1
    shown = capsys.readouterr().err
    assert shown.startswith(expected) and shown.count("\n") == 1


def test_a_comparison_ends_with_the_next_commands(fair, monkeypatch, capsys):
    from src import compare

    store = f"tracking.folder={fair.folder}"
    question = "'question=Who wrote it?' 'context=It was written by Ada.'"
    ui = f"see all runs  python -m src.ui {store}"
    for chosen, expected in (
        ([], [f"ask the best  python -m src.predict run=best {question} {store}", ui]),
        (["where=params.train.seed = '0'"], [ui]),
    ):
        monkeypatch.setattr("sys.argv", ["compare", f"folder={fair.folder}", "formats=md", *chosen])
        compare.main()
        lines = capsys.readouterr().out.rstrip().splitlines()
        assert lines[-len(expected) :] == expected
        assert ("ask the best" in "".join(lines)) == (len(expected) == 2)


def test_the_figures_hold_the_runs_figures(fair):
    found = compared(fair)
    made = {plot.name: plot.figure for plot in plots(found)}
    assert list(made) == [
        "differences",
        "f1_by_rate",
        "pareto_params_trainable",
        "pareto_time_train_seconds",
        "pareto_memory_peak_train_mb",
        "pareto_storage_checkpoint_mb",
        "agreement",
        "by_question",
        "by_answer",
        "by_passage",
        "score_by_epoch",
        "loss_by_step",
        "loss_by_second",
    ]
    full, lora = made["f1_by_rate"].data
    assert list(full.x) == [3e-5, 1e-4, 3e-4] and list(lora.x) == [3e-4, 1e-3, 3e-3]
    assert lora.y[1] == pytest.approx(found.arms[1].best.average("quality/f1"), abs=0.01)
    assert sum(bar.x[0] for bar in made["agreement"].data) == QUESTIONS
    assert list(made["by_question"].data[0].y) == ["what (75)", "who (75)", "when (75)", "how many (75)"]
    assert made["loss_by_second"].data[0].x[-1] == 14.5


def test_pareto_front():
    assert pareto_front([(1, 5), (2, 4), (2, 7), (3, 7), (4, 9)]) == [(1, 5), (2, 7), (4, 9)]


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("How many moons?", "how many"),
        ("In which year did who win?", "which"),
        ("Whose was it?", "who"),
        ("Name the river.", "other"),
        ("The show somehow ended when?", "when"),
    ],
)
def test_kind_of_question(question, kind):
    assert kind_of_question(question) == kind


def test_the_questions_apart_are_the_ones_furthest_apart(store):
    store.run("full", 1e-4, 0.6)
    store.run("lora", 1e-3, 0.5)
    found = compared(store)
    [(name, base, rows)] = differing_most(found)
    assert base == "full"
    assert name == "lora"
    tables = [arm.best.runs[0].questions() for arm in found.arms]
    apart = (tables[1]["f1"] - tables[0]["f1"]) * 100
    assert rows[0]["f1"] - rows[0]["base_f1"] == pytest.approx(apart.max())
    assert rows[-1]["f1"] - rows[-1]["base_f1"] < 0
    assert [len(differing_most(found, shown)[0][2]) for shown in (1, 3, 12)] == [1, 3, 12]


def test_a_run_alone_shows_what_it_got_wrong(store):
    store.run("full", 1e-4, 0.5)
    found = compared(store)
    table = found.arms[0].best.questions
    rows = wrong_answers(found.arms[0])
    hard = set(table.loc[table["f1"] == 0, "question"])
    assert len(rows) == 11 and len(hard) > 11 and {row["question"] for row in rows} <= hard
    page = render(found, plots(found))
    assert "<h2>Wrong answers of full</h2>" in page and page.count("answered: <strong>another") == 11


@pytest.mark.parametrize("methods", [["full"], ["full", "lora"]])
def test_a_page_without_examples_holds_no_text_of_the_data_set(store, methods):
    for method, f1 in zip(methods, (0.6, 0.5), strict=False):
        store.run(method, 1e-3, f1, context=lambda i: "a passage that is not to be passed on")
    found = compared(store)
    assert "not to be passed on" in render(found, plots(found))
    page = render(found, plots(found), examples=0)
    assert not any(text in page for text in ("not to be passed on", "<blockquote", "differ most", "Wrong answers"))


def test_whatever_a_name_or_a_passage_holds_is_text(store):
    bad = "<script>document.title='owned'</script><img src=x onerror=alert(1)>"
    first = store.run("full", 1e-4, 0.6, context=lambda i: bad)
    store.run("lora", 1e-3, 0.5, context=lambda i: bad, params={"method.name": "lora" + bad})
    store.client.set_tag(first, "mlflow.runName", bad)
    found = compared(store)
    page = render(found, plots(found))
    assert "<script>document" not in page and "<img" not in page
    assert page.count("&lt;script&gt;document") > 3
    assert len(re.findall("<script", page)) == 3  # the page's own
