"""The report of a settled sweep: its looks, what it has spent, and what it advises."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from src.config import UserError
from src.protocol.plan import SECONDS, ArmPlan, Budget, Plan
from src.report.comparison import make_arms
from src.report.decision import Decision
from src.report.markdown import as_markdown
from src.report.page import render
from src.report.plots import plots
from src.report.scored import scored as scores_of
from src.report.statistics import compare as compare_scores
from src.report.tables import spending
from src.report.verdict import recommendation, spent, verdict
from src.reporting import PAGE, as_dict, compare, report
from src.runs.export import export_runs
from src.runs.parent import ParentRun
from src.runs.plans import ENDED_AT, PLAN
from src.runs.results import choose
from tests.stored import Store
from tests.test_verdict import QUESTIONS, codes, scored, swept

RATES = {3e-4: -15, 1e-3: 0, 3e-3: -10}  # and how far the F1 lies below that of the best one
SECONDS_OF_A_RUN = {"full": 200.0, "lora": 100.0, "head": 50.0}
COMMAND = "python -m src.settle method=full,lora,head budget=2h"
PLANNED = Plan(
    arms=[
        ArmPlan("full", ["method=full"], 1e-3),
        ArmPlan("lora", ["method=lora"], 1e-3, base=0),
        ArmPlan("head", ["method=head"], 1e-3, base=0),
    ],
    budget=Budget(7200.0, SECONDS, "2h"),
    margin=1.0,
    extra_rates=0,
    second_seed=True,
    choosing_seeds=[0, 1],
    verdict_seeds=[2, 3, 4, 5, 6],
    looks=[3, 5],
)


class Shape(NamedTuple):
    """What the runs of an arm are like: its difference from full in F1, the noise by question, its verdict seeds."""

    difference: float
    noise: float
    seeds: tuple[int, ...]
    level: float = 0.0  # how far its runs' levels differ, one standard deviation


SETTLED = {
    "full": Shape(0, 3, (2, 3, 4, 5, 6)),
    "lora": Shape(0.5, 3, (2, 3, 4)),
    "head": Shape(-0.4, 15, (2, 3, 4, 5, 6)),
}


def run(store, method, rate, seed, shape, **more):
    """A run on questions that are equally hard for all."""
    hard = np.random.default_rng(0).normal(0, 5, QUESTIONS)
    apart = np.random.default_rng([len(method)]).normal(0, shape.noise, QUESTIONS)
    noise = np.random.default_rng([seed, len(method)]).normal(0, 2, QUESTIONS)
    luck = shape.level * np.random.default_rng([seed, len(method), 1]).normal()
    f1 = 60 + luck + hard + shape.difference + (apart - apart.mean()) + RATES[rate] + noise
    given = {"time/total_seconds": SECONDS_OF_A_RUN[method]}
    return scored(store, method, f1, seed, rate, split="test", metrics=given, **more)


def settled(store, arms=SETTLED, plan=PLANNED, tags=None, **more):
    """A settled sweep: three rates on seed 0, the best two of LoRA on seed 1 too, one of full cut short."""
    for method, shape in arms.items():
        for rate in RATES:
            if (method, rate) == ("full", 3e-3):
                cut = {"stopped": "Cut short after epoch 1.", "spent_seconds": "70.5"}
                store.run(method, rate, 0.5, 0, status="KILLED", tags=cut, **more)
            else:
                run(store, method, rate, 0, shape, **more)
            if method == "lora" and rate != 3e-4:
                run(store, method, rate, 1, shape, **more)
        for seed in shape.seeds:
            run(store, method, 1e-3, seed, shape, **more)
    parent = swept(store, COMMAND)
    for member in store.store.members(parent):
        store.store.tag(member.id, {"mlflow.parentRunId": parent})
    store.store.tag(parent, {PLAN: plan.as_json(), **(tags or {})})
    return parent


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def expected(store, method, seeds, tests):
    """The difference to full on some seeds, among so many intervals, without a schedule."""
    arms, _ = make_arms([each for each in store.store.runs("") if not each.is_sweep], ["method.name"], seeds)
    first, second = (scores_of(next(arm for arm in arms if arm.name == name)).of(seeds) for name in (method, "full"))
    values = ([each.values["exact_match"], each.values["f1"]] for each in (first, second))
    return compare_scores(*values, second.clusters, tests, 1.0)[1]


@pytest.mark.slow
def test_an_interval_holds_at_every_look_on_the_seeds_that_both_have(store):
    settled(store)
    found = compare(store.tracking)
    lora, head = sorted(found.contrasts, key=lambda contrast: contrast.arm.name != "lora")
    assert lora.differences["f1"] == expected(store, "lora", ("2", "3", "4"), 2 * 2)
    assert head.differences["f1"] == expected(store, "head", ("2", "3", "4", "5", "6"), 2 * 2)
    assert lora.differences["f1"].low < expected(store, "lora", ("2", "3", "4"), 2).low
    assert (lora.basis.seeds, head.basis.seeds) == ((3, 3), (5, 5))
    assert (lora.decision, head.decision) == (Decision.NOT_INFERIOR, Decision.UNDECIDED)
    assert (lora.look.number, lora.look.of, lora.look.chance, lora.look.goes_on) == (1, 2, None, False)
    assert (head.look.number, head.look.seeds, head.look.goes_on) == (2, 5, False)
    said = " ".join(" ".join(finding) for finding in verdict(found))
    assert said.count("(interval and p adjusted for 2 comparisons at 2 looks)") == 2
    assert "Look 1 of 2, at 3 fresh seeds of each: decided, so no more seeds were run." in said
    assert "Look 2 of 2, at 5 fresh seeds of each." in said
    assert codes(found) == []


@pytest.mark.slow
def test_seeds_beyond_the_look_of_one_of_them_change_nothing(store):
    """A sweep that was interrupted between two looks has been looked at once."""
    seeds = (2, 3, 4, 5)
    settled(
        store, {name: shape._replace(difference=0, level=0.5, noise=3, seeds=seeds) for name, shape in SETTLED.items()}
    )
    found = compare(store.tracking)
    for contrast in found.contrasts:
        assert contrast.differences["f1"] == expected(store, contrast.arm.name, ("2", "3", "4"), 4)
    [head] = [contrast for contrast in found.contrasts if contrast.arm.name == "head"]
    assert head.look.chance >= 0.1 and head.look.goes_on
    assert recommendation(found).next_command == COMMAND
    assert "the same command continues it" in " ".join(verdict(found)[found.contrasts.index(head)])


@pytest.mark.slow
def test_where_the_budget_ended_early_the_last_look_is_there(store):
    seeds = (2, 3, 4, 5)
    parent = settled(store, {name: shape._replace(seeds=seeds) for name, shape in SETTLED.items()})
    store.store.tag(parent, {ENDED_AT: "4"})
    found = compare(store.tracking)
    for contrast in found.contrasts:
        assert contrast.differences["f1"] == expected(store, contrast.arm.name, ("2", "3", "4", "5"), 4)
        assert (contrast.look.number, contrast.look.of, contrast.look.goes_on) == (2, 2, False)
    assert "looks at 3 and 4, where the budget was used up; each" in str(found.schedule)


def test_before_the_first_look_there_is_no_difference(store):
    settled(store, {name: shape._replace(seeds=(2, 3)) for name, shape in SETTLED.items()})
    found = compare(store.tracking)
    assert all(not contrast.differences for contrast in found.contrasts)
    assert "the first look is at 3 fresh seeds of each, which have not all been run" in verdict(found)[0][0]
    assert recommendation(found).next_command == COMMAND


def test_a_failed_fresh_seed_is_left_out_on_both_sides(store):
    arms = {"full": SETTLED["full"], "lora": Shape(0.5, 3, (2, 4))}
    failed = {"tags": {"error": "The disk is full."}, "params": {"dataset.split": "article"}}
    store.run("lora", 1e-3, 0.5, 3, status="FAILED", **failed)
    settled(store, arms)
    found = compare(store.tracking)
    assert found.contrasts[0].differences["f1"] == expected(store, "lora", ("2", "4"), 4)
    assert [(warning.code, "a fresh seed that fails is left out" in str(warning)) for warning in found.warnings] == [
        ("runs_failed", True)
    ]


@pytest.mark.slow
def test_the_chosen_rate_is_the_one_that_was_repeated(store):
    """Also where another one has a higher F1 on the choosing seed, or the same."""
    settled(store)
    run(store, "lora", 3e-3, 0, Shape(30, 3, ()))
    [member] = [each for each in store.store.runs("") if not each.is_sweep and not each.sweeps]
    ParentRun(store.store, store.store.sweeps()[0].id).include(member)
    found = compare(store.tracking)
    assert {arm.best.rate for arm in found.arms} == {1e-3}
    assert codes(found) == []


@pytest.mark.slow
def test_a_rate_at_the_edge_is_still_a_warning(store):
    settled(store, {"full": SETTLED["full"], "lora": SETTLED["lora"]})
    for each in store.store.runs(""):
        if each.tags.get("method") == "lora" and each.params["train.learning_rate"] == "0.003":
            store.client.delete_run(each.id)
    assert codes(compare(store.tracking)) == ["best_rate_at_edge", "unequal_learning_rates", "unequal_settings"]


@pytest.mark.slow
def test_after_the_last_look_it_takes_new_questions_and_no_seeds(store):
    settled(store, {"full": SETTLED["full"], "head": SETTLED["head"]})
    advice = recommendation(compare(store.tracking))
    assert advice.headline.startswith("No decision yet: head is at most ")
    assert "so more seeds cannot decide it on these questions; new test questions are needed (" in advice.headline
    assert "of them would decide it with 80 % power if the two are equal" in advice.headline
    assert "more seed" not in advice.headline.replace("more seeds cannot", "")
    assert advice.next_command == ""


@pytest.mark.slow
def test_what_was_spent_is_told_by_arm_and_phase(store):
    settled(store, params={"hardware.price_per_hour": "3.6"})
    found = compare(store.tracking)
    headings, rows = spending(found)
    assert headings == ["method", "bracket", "second choosing seed", "repeat", "together", "price"]
    assert [[str(cell) for cell in row] for row in rows] == [
        ["full", "3 runs, 8 min (1 cut short)", "–", "5 runs, 17 min", "8 runs, 25 min (1 cut short)", "1.47"],
        ["lora", "3 runs, 5 min", "2 runs, 3 min", "3 runs, 5 min", "8 runs, 13 min", "0.80"],
        ["head", "3 runs, 2 min", "–", "5 runs, 4 min", "8 runs, 7 min", "0.40"],
        [
            "all methods",
            "9 runs, 15 min (1 cut short)",
            "2 runs, 3 min",
            "13 runs, 26 min",
            "24 runs, 45 min (1 cut short)",
            "2.67",
        ],
    ]
    assert spent(found) == "24 runs, 45 min, of a budget of 2h."
    assert spending(compare(store.tracking, where="params.model.name = 'minilm'")) == ([], [])


@pytest.mark.slow
def test_the_page_and_its_companions_name_the_protocol(store, tmp_path, capsys):
    settled(store)
    folder = report(store.tracking, output=tmp_path / "out")
    line = (
        "Rates half a decade apart on seed 0 (two that lie close also on seed 1), then 5 fresh seeds, looks at 3 and "
        "5; each look has an equal share of the error (docs/protocol.md)."
    )
    shown = capsys.readouterr().out
    page = (folder / PAGE).read_text(encoding="utf-8")
    for text in (shown, page, (folder / "report.md").read_text(encoding="utf-8")):
        assert line in text
        assert "24 runs, 45 min, of a budget of 2h." in text
        assert "second choosing seed" in text
    content = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
    assert content["schedule"] == {
        "protocol": line,
        "budget": "2h",
        "choosing_seeds": ["0", "1"],
        "verdict_seeds": ["2", "3", "4", "5", "6"],
        "looks": [3, 5],
        "looks_planned": 2,
        "comparisons": 2,
        "reachable_margin": None,
        "left_out": {},
    }
    assert content["spent"][0] == {
        "arm": "full",
        "phase": "bracket",
        "runs": 3,
        "cut_short": 1,
        "failed": 0,
        "seconds": 470.5,
        "price": None,
    }
    [lora] = [each for each in content["contrasts"] if each["method"]["name"] == "lora"]
    assert lora["look"] == {"number": 1, "of": 2, "seeds": 3, "planned": 5, "chance": None, "goes_on": False}
    assert lora["baseline"]["seeds"] == ["2", "3", "4"] and len(lora["baseline"]["run_ids"]) == 3
    assert lora["f1"]["difference"] == pytest.approx(lora["method"]["f1"] - lora["baseline"]["f1"])
    assert as_dict(compare(store.tracking, where="params.model.name = 'minilm'"))["schedule"] is None


@pytest.mark.slow
def test_an_export_gives_the_same_page(store, tmp_path):
    settled(store)
    file = tmp_path / "runs.zip"
    export_runs(store.store, choose(store.store), file)
    found = [compare(store.tracking), compare(store.tracking, exported=file)]
    texts = [as_markdown(each) for each in found]
    assert texts[0] == texts[1] and "Look 1 of 2" in texts[0]
    pages = [render(each, plots(each)).partition("<dt>report made")[0] for each in found]
    assert pages[0] == pages[1]


@pytest.mark.slow
def test_its_parameters_tell_arms_apart(store):
    plan = replace(
        PLANNED,
        arms=[ArmPlan("full", ["method=full"], 1e-3), ArmPlan("lora", ["method=lora"], 1e-3, base=0)],
        by=["train.batch_size"],
        out={"dora": "its memory is full"},
    )
    settled(store, plan=plan)
    found = compare(store.tracking)
    assert [arm.name for arm in found.arms] == ["full batch_size=16", "lora batch_size=16", "head batch_size=16"]
    assert {contrast.base.name for contrast in found.contrasts} == {"full batch_size=16"}
    assert found.empty == {"dora": "its memory is full"}
    assert compare(store.tracking, by=["model.name"]).arms[0].name == "minilm full"


@pytest.mark.slow
def test_a_plan_that_cannot_be_read_is_no_reason_to_forget_its_looks(store):
    parent = settled(store)
    for text in ("{", '{"arms": 1}', "[]", PLANNED.as_json().replace("[3, 5]", "[]"), '{"arms": [], "budget": []}'):
        store.store.tag(parent, {PLAN: text})
        with pytest.raises(UserError, match=r"The plan of the sweep sweep a \(tag `plan` of run .{8}\) cannot be read"):
            compare(store.tracking)


@pytest.mark.slow
def test_the_phone_page_is_no_wider_than_the_screen(store, browser):
    settled(store)
    found = compare(store.tracking)
    file = Path(store.folder) / "report.html"
    file.write_text(render(found, plots(found)), encoding="utf-8")
    page = browser.new_page(viewport={"width": 360, "height": 800})
    page.goto(file.as_uri())
    page.wait_for_selector("body[data-drawn]", timeout=60_000)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.locator("#spent tbody tr").count() == 4
    assert page.locator("#schedule").inner_text().startswith("Rates half a decade apart")
    page.close()
