"""Makes the plan of a settle command: it probes the variants and determines what the budget allows."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from src.config import Config, DatasetConfig, UserError
from src.data.sources import load
from src.estimate.cards import limit_mb, read_memory
from src.estimate.probe import NoProbe, Probe, does_not_fit, probe_isolated
from src.protocol.plan import RUNS, ArmPlan, Plan, make_plan, read_budget, spread_of
from src.report.planning import reachable_margin
from src.report.terminal import Terminal, duration
from src.report.words import count
from src.runs.plans import read_plan
from src.runs.store import Store
from src.settling.arms import Arm, check_pairs, named, pairs_of

LONGEST_TAG = 8000  # the number of characters that MLflow stores of a tag


def stored(store: Store, sweep_hash: str) -> Plan | None:
    """The plan that the same command stored before; None if there is none."""
    plans = (read_plan(parent) for parent in store.runs(f"tags.sweep_hash = '{sweep_hash}'"))
    return next((each.plan for each in plans if each is not None), None)


def make(arms: Sequence[Arm], settings: Config, terminal: Terminal, remote: bool = False) -> Plan:
    """Probe each variant, and make the plan that the budget allows.

    Args:
        arms: the variants.
        settings: the configuration without the keys that vary.
        terminal: shows what the probes measure.
        remote: the runs are made on other machines, where a probe on this one is not valid. A budget that is a number
            of runs is then planned without probes.

    Raises:
        UserError: the budget is too small for the smallest protocol, or fewer than two variants can run here.
    """
    budget = read_budget(str(settings.sweep.budget), settings.hardware.price_per_hour)
    probes: dict[str, Probe | None] = {arm.hash: None for arm in arms}
    out: dict[str, str] = {}
    begun = time.monotonic()
    if not (remote and budget.unit == RUNS):
        terminal.line(f"Probe: a few steps of each of {count(len(arms), 'variant')}.")
        for arm in arms:
            probed, reason = _probe(arm, needed=budget.unit != RUNS)
            if reason is not None:
                out[arm.name] = reason
            probes[arm.hash] = probed
            terminal.line(f"  {arm.name}: {reason or _of_probe(probed)}")
        terminal.line()
    left = [arm for arm in arms if arm.name not in out]
    if len(left) < 2:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in out.items())
        raise UserError(f"Fewer than two variants can run here, so there is nothing to compare. {reasons}")
    left = named(left)
    check_pairs(left)
    sizes = [_sizes(dataset) for dataset in {str(arm.config.dataset): arm.config.dataset for arm in left}.values()]
    plan = make_plan(
        _planned(left, probes),
        budget,
        settings.sweep.margin,
        settings.train.seed,
        by=left[0].by,
        out=out,
        spread=max(spread_of(size.validation) for size in sizes),
        probing=round(time.monotonic() - begun, 1),
    )
    comparisons = plan.comparisons * len(plan.looks)
    seeds = len(plan.verdict_seeds)
    reachable = max(
        reachable_margin(size.questions, size.passages, size.articles, seeds, comparisons) for size in sizes
    )
    plan = replace(plan, reachable=reachable, tests=sorted({arm.test for arm in left}))
    if len(plan.as_json()) > LONGEST_TAG:
        raise UserError(f"{count(len(arms), 'variant')} are too many for one plan; compare fewer at a time.")
    return plan


def seen_before(store: Store, plan: Plan) -> list[str]:
    """The names of other settle commands with the same test questions."""
    others = [(parent, read_plan(parent)) for parent in store.sweeps()]
    return [parent.name for parent, other in others if other is not None and {*other.plan.tests} & {*plan.tests}]


def _probe(arm: Arm, needed: bool) -> tuple[Probe | None, str | None]:
    """Probe a variant.

    Args:
        arm: the variant.
        needed: whether the plan needs a probe.

    Returns:
        The probe and None; None and the reason why the variant cannot take part; or None twice if it cannot be probed.

    Raises:
        UserError: it cannot run for another reason than memory.
    """
    outcome = probe_isolated(arm.config)
    if outcome.error == "KeyboardInterrupt":
        raise KeyboardInterrupt
    if does_not_fit(outcome):
        return None, f"it runs out of memory: {outcome.reason}"
    if outcome.error == NoProbe.__name__ and not needed:
        return None, None
    if outcome.reason is not None:
        raise UserError(f"{arm.name} cannot run: {outcome.reason}")
    probe: Probe = outcome.value
    memory, peak = arm.config.hardware.memory, max(probe.peak_train_mb, probe.peak_eval_mb)
    if memory is not None and peak > (limit := limit_mb(read_memory(memory), probe.measured.device)):
        return None, f"it needs {peak:,.0f} MB, more than the {limit:,.0f} MB that memory={memory} leaves to a run"
    return probe, None


def _of_probe(probe: Probe | None) -> str:
    if probe is None:
        return "not probed"
    return f"about {duration(probe.run_seconds)} a run, {probe.peak_train_mb:,.0f} MB while training"


def _planned(arms: Sequence[Arm], probes: Mapping[str, Probe | None]) -> list[ArmPlan]:
    """The arms of a plan, each with the index of its baseline."""
    known = {arm.name: probe for arm in arms if (probe := probes[arm.hash]) is not None}
    index = {arm.name: number for number, arm in enumerate(arms)}
    pairs = pairs_of(arms, {name: probe.measured.trainable for name, probe in known.items()})
    base = {name: index[other] for name, other in pairs}
    shared = set.intersection(*(set(arm.overrides) for arm in arms))
    return [
        ArmPlan(
            arm.name,
            [override for override in arm.overrides if override not in shared],
            arm.config.train.learning_rate,
            base.get(arm.name),
            known[arm.name].run_seconds if arm.name in known else 0.0,
            arm.hash,
        )
        for arm in arms
    ]


@dataclass(frozen=True)
class _Sizes:
    validation: int
    questions: int  # of the test set
    passages: int
    articles: int | None


def _sizes(dataset: DatasetConfig) -> _Sizes:
    sets = load(dataset)
    test = sets.test
    assert test is not None
    articles = len(set(test["title"])) if dataset.split == "article" else None
    return _Sizes(len(sets.validation), len(test), len(set(test["context"])), articles)


def plan_line(plan: Plan) -> str:
    """The content of a plan in one sentence."""
    looks = " and ".join(str(number) for number in plan.looks)
    second = ", a second choosing seed where two are close" if plan.second_seed else ""
    return (
        f"budget {plan.budget.given}: 3 learning rates for each of {len(plan.arms)} variants, up to {plan.extra_rates} "
        f"more at an edge{second}; then {len(plan.verdict_seeds)} fresh seeds, with looks at {looks}"
    )
