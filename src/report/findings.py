"""The sentences about one method compared with its baseline."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from math import isfinite

from src.metrics import CKA, Place, metric, shown
from src.report.arms import Arm
from src.report.comparison import Comparison, Contrast
from src.report.decision import Decision, decide
from src.report.fairness import before_and_after, comparable, learned
from src.report.planning import more_needed
from src.report.scored import Basis
from src.report.statistics import Difference
from src.report.words import count, listed, share

CKA_APART = 0.01  # smaller differences in CKA are not reported
MOST_DECIMALS = 3
GOES_ON = "the sweep has not ended, and the same command continues it"
TRY = (
    "Train on more questions (dataset.train_size), for more epochs (train.epochs) or at a higher rate "
    "(train.learning_rate)."
)


def sentences(contrast: Contrast, comparison: Comparison) -> list[str]:
    """The headline of a contrast, then its evidence, the limits of that, and the costs."""
    arm, base = contrast.arm, contrast.base
    if not contrast.differences:
        return [f"{arm.name} against {base.name}: no difference is computed ({contrast.why_not}).", *costs(arm, base)]
    details = [evidence(contrast, comparison), *_limits(contrast, comparison)]
    untuned = [each.name for each in (base, arm) if len(each.rates) == 1]
    if untuned:
        details.append(f"Only one learning rate of {listed(untuned)} was tried: another rate may change the result.")
    details += costs(arm, base) + _rates(arm, base) + _forgetting(arm, base)
    decision = headline(contrast, comparison.margin)
    reasons = [
        f"{each.name} has learned next to nothing ({before_and_after(each)})"
        for each in (base, arm)
        if not learned(each)
    ]
    if not reasons:
        return [decision, *details]
    if not any(learned(each) for each in comparison.arms):  # the verdict begins with the reasons
        return [f"As the runs stand: {decision}", *details]
    return [f"No decision yet: {listed(reasons)}.", TRY, f"As the runs stand: {decision}", *details]


def headline(contrast: Contrast, margin: float) -> str:
    """The decision in one sentence, with its bound at 95 % confidence."""
    difference, names = contrast.differences["f1"], (contrast.arm.name, contrast.base.name)
    places = decimals(difference, margin)
    arm, base = names
    low, high, limit = (f"{abs(points):.{places}f}" for points in (difference.low, difference.high, margin))
    if contrast.decision is Decision.BETTER:
        return f"{arm} is better than {base}, by {low} to {high} F1 (95 %)."
    if contrast.decision is Decision.INFERIOR:
        return f"{arm} is worse than {base} by more than {limit} F1: by {high} to {low} F1 (95 %)."
    if contrast.decision is Decision.WORSE:
        return f"{arm} is worse than {base}; by how much is open: between {high} and {low} F1 (95 %; margin {limit})."
    if contrast.decision is Decision.UNDECIDED:
        return f"No decision yet: {arm} is at most {low} F1 worse than {base} (95 %; margin {limit})."
    if difference.high < 0:
        return f"{arm} is worse than {base}, but by at most {low} F1 (95 %; margin {limit})."
    return f"{arm} is at most {low} F1 worse than {base} (95 %; margin {limit})."


def short(contrast: Contrast, margin: float) -> str:
    """The decision, short enough for a cell of a table."""
    if contrast.decision is None:
        return "not compared"
    difference = contrast.differences["f1"]
    places = decimals(difference, margin)
    return {
        Decision.BETTER: "better",
        Decision.NOT_INFERIOR: f"at most {difference.bound:.{places}f} worse",
        Decision.INFERIOR: f"worse by more than {margin:.{places}f}",
        Decision.WORSE: "worse, by how much is open",
        Decision.UNDECIDED: "undecided",
    }[contrast.decision]


def decimals(difference: Difference, margin: float) -> int:
    """The fewest decimals, at least 1, with which the rounded ends of the interval lead to the same decision.

    With a margin of 1.0 an end of -1.04 is not shown as -1.0, and an end of 0.02 is not shown as 0.0.
    """
    of_margin = len(f"{margin:g}".partition(".")[2])
    for places in range(max(1, of_margin), MOST_DECIMALS):
        low, high = round(difference.low, places), round(difference.high, places)
        if decide(replace(difference, low=low, high=high), margin) is decide(difference, margin) and not {low, high} & {
            0.0,
            -margin,
        }:
            return places
    return MOST_DECIMALS


def interval(difference: Difference, places: int = 1) -> str:
    """The difference with its 95 % interval: `-0.6 [-1.0, -0.2]`."""
    mean, low, high = (f"{points:+.{places}f}" for points in (difference.mean, difference.low, difference.high))
    return f"{mean} [{low}, {high}]"


def evidence(contrast: Contrast, comparison: Comparison) -> str:
    """The settings, the differences with their intervals and p-values, and the basis of these."""
    f1, exact = contrast.differences["f1"], contrast.differences.get("exact_match")
    assert contrast.basis is not None
    comparisons = sum(bool(each.differences) for each in comparison.contrasts)
    number = f"{comparisons} comparisons" if comparisons > 1 else ""
    if comparison.schedule is not None:
        number = comparison.schedule.adjustment(comparisons)
    adjusted = f" (interval and p adjusted for {number})" if number else ""
    without = f"without an interval ({contrast.left_out.get('exact_match')})"
    return (
        f"{_setting(contrast.arm, comparison.varied)} against {_setting(contrast.base, comparison.varied)}: "
        f"F1 {_spelt(f1, decimals(f1, comparison.margin))}, p {_p(f1.adjusted_p)}{adjusted}; "
        f"exact match {_spelt(exact, 1) if exact is not None else without}; {basis_text(contrast.basis)}."
    )


def tested(comparison: Comparison) -> int:
    """The number of intervals that share the error rate: contrasts with a difference, times the looks."""
    comparisons = sum(bool(contrast.differences) for contrast in comparison.contrasts)
    return comparisons if comparison.schedule is None else comparison.schedule.tests(comparisons)


def basis_text(basis: Basis) -> str:
    """The basis of a difference: `1,660 test questions, 540 passages, 10 articles, 3 seeds`."""
    fewer, more = sorted(basis.seeds)
    seeds = count(more, "seed") if fewer == more else f"{fewer} and {count(more, 'seed')}"
    return f"{size_text(basis)}, {seeds}"


def size_text(basis: Basis) -> str:
    """The basis without its seeds: `1,660 test questions, 540 passages, 10 articles`."""
    parts = [count(basis.questions, f"{basis.split} question")]
    parts += [count(basis.passages, "passage")] if basis.passages < basis.questions else []
    parts += [count(basis.articles, "article")] if basis.articles is not None else []
    return ", ".join(parts)


def missing(contrast: Contrast, comparison: Comparison) -> str:
    """What would decide an undecided contrast; empty for a contrast that is decided."""
    basis = contrast.basis
    if contrast.decision is not Decision.UNDECIDED or basis is None:
        return ""
    if contrast.look is not None:
        return GOES_ON if contrast.look.goes_on else _new_questions(contrast, comparison)
    if min(basis.seeds) == 1:
        return "run at least 2 more seeds per method: how much seeds differ is not known yet"
    seeds, questions = needed(contrast, comparison)
    split, power = basis.split, "would decide it with 80 % power if the two are equal"
    more = "" if questions is None else count(questions, f"more {split} question")
    if seeds is not None:
        each = f"about {count(seeds, 'more seed')} per method"
        return f"{each} or {more} {power}" if more else f"{each} {power}"
    if more:
        return f"no number of seeds would decide it on these questions; about {more} would"
    return f"both more seeds and more {split} questions are needed to decide it"


def _new_questions(contrast: Contrast, comparison: Comparison) -> str:
    """What would decide a contrast that has no looks left."""
    assert contrast.basis is not None
    used = "no planned look is left, so more seeds cannot decide it on these questions"
    new = "new test questions are needed (another dataset.seed, another file, or dataset.test_path)"
    _, more = needed(contrast, comparison)
    if more is None:
        return f"{used}; {new}"
    number = f"about {contrast.basis.questions + more:,} of them"
    return f"{used}; {new}; {number} would decide it with 80 % power if the two are equal"


def at_look(contrast: Contrast) -> str:
    """The look that a contrast is based on, and why it is the last one; empty where no looks were planned."""
    look = contrast.look
    if look is None:
        return ""
    where = f"Look {look.number} of {look.of}, at {count(look.seeds, 'fresh seed')} of each"
    if look.number == look.of:
        return f"{where}."
    if look.chance is None:
        return f"{where}: decided, so no more seeds were run."
    chance = f"with {look.planned} seeds it would be decided with a chance of {100 * look.chance:.0f} %"
    return f"{where}: {chance}{'; ' + GOES_ON if look.goes_on else ', so it ended here'}."


def needed(contrast: Contrast, comparison: Comparison) -> tuple[int | None, int | None]:
    """How many more seeds of each method, or how many more questions, would decide a contrast.

    Each is None where no number would.
    """
    assert contrast.basis is not None
    f1, seeds = contrast.differences["f1"], min(contrast.basis.seeds)
    return more_needed(f1, comparison.margin, contrast.basis.questions, seeds, tested(comparison))


def does_not_fit(reason: str) -> str:
    """`does not fit in 24 GiB`, if a run failed because the GPU's memory was full; otherwise empty.

    Args:
        reason: the error of the run, as `src.training.hardware` writes it.
    """
    if "GPU's memory" not in reason or "is full" not in reason:
        return ""
    capacity = re.search(r"memory of (\d+(?:\.\d+)?) GiB", reason)
    return f"does not fit in {float(capacity[1]):.0f} GiB" if capacity else "does not fit in the GPU's memory"


def _limits(contrast: Contrast, comparison: Comparison) -> list[str]:
    """What the evidence leaves open."""
    assert contrast.basis is not None
    limits, (fewer, more) = [], sorted(contrast.basis.seeds)
    if more == 1:
        limits.append("The interval is for these two runs; other seeds may differ by more.")
    elif fewer == 1:
        one, several = (contrast.arm, contrast.base) if contrast.basis.seeds[0] == 1 else (contrast.base, contrast.arm)
        limits.append(f"{one.name} has one seed: the spread between seeds is that of {several.name}.")
    difference = contrast.differences["f1"]
    if not difference.significant:
        limits.append(f"Minimum detectable effect (80 % power): {difference.minimum_detectable:.1f} F1.")
    if stage := at_look(contrast):
        limits.append(stage)
    if (decides := missing(contrast, comparison)) and decides not in stage:
        limits.append(f"{decides[0].upper()}{decides[1:]}.")
    return limits


def _setting(arm: Arm, varied: Sequence[str]) -> str:
    """The name of an arm with its best setting: `lora (rate 0.001, r=16)`."""
    return f"{arm.name} ({', '.join([f'rate {arm.best.rate:g}', *arm.best.setting(varied)])})"


def _spelt(difference: Difference, places: int) -> str:
    mean, low, high = (f"{points:+.{places}f}" for points in (difference.mean, difference.low, difference.high))
    return f"{mean} (95 % interval {low} to {high})"


def _p(p: float) -> str:
    return f"= {p:.3f}" if p >= 0.001 else "< 0.001"


def costs(arm: Arm, base: Arm) -> list[str]:
    """The costs of an arm relative to its baseline, as far as they can be compared."""
    parts = []
    for cost in shown(Place.VERDICT, base.best.runs[0].metrics):
        value, other = arm.best.average(cost.key), base.best.average(cost.key)
        if value is not None and other and isfinite(value / other) and comparable(cost.key, arm, base):
            parts.append(f"{share(value / other)} the {cost.noun}")
    return [f"Compared with {base.name}, {arm.name} needs {listed(parts)}."] if parts else []


def _rates(arm: Arm, base: Arm) -> list[str]:
    if min(len(arm.rates), len(base.rates)) == 1 or arm.model != base.model:
        return []
    factor = arm.best.rate / base.best.rate
    apart = "that" if factor == 1 else f"{float(f'{factor:.2g}'):g} times that"
    return [f"Its best learning rate is {apart} of {base.name}."]


def _forgetting(arm: Arm, base: Arm) -> list[str]:
    value, other = arm.best.average(CKA), base.best.average(CKA)
    if value is None or other is None or arm.model != base.model:
        return []
    spread = [each.best.std(CKA) or 0.0 for each in (arm, base)]
    if abs(value - other) <= max(CKA_APART, *spread):
        return []
    change = "less" if value > other else "more"
    both = f"{metric(CKA).named(value)}, {base.name} {metric(CKA).text(other)}"
    return [f"Its hidden states have moved {change} from what they were before training: {both}."]


def f1_of(arm: Arm, comparison: Comparison) -> float:
    """The F1 that the verdict is based on; the F1 that the runs logged if they kept no scores by question."""
    scores = comparison.scored.get(arm.name)
    return scores.level("f1") if scores is not None else arm.best.average(arm.best.f1_key) or 0.0
