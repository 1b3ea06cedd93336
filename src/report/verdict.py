"""What a comparison says, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from src.metrics import CKA, F1, Place, metric, shown
from src.report.arms import Arm
from src.report.comparison import Comparison, Contrast
from src.report.fairness import before_and_after, count, learned
from src.report.statistics import Difference

CKA_APART = 0.01  # encoders whose likeness to before differs by less have moved equally far
TRY = (
    "Train on more questions (dataset.train_size), for more epochs (train.epochs) or at a higher rate "
    "(train.learning_rate)."
)


@dataclass(frozen=True)
class Recommendation:
    """The answer to "full or LoRA?" in one line, and the command to run next where there is one."""

    headline: str
    next_command: str = ""


def recommendation(comparison: Comparison) -> Recommendation:
    """What to use, or that it is not decided yet and what would decide it."""
    return Recommendation("No decision yet.")


def verdict(comparison: Comparison) -> list[list[str]]:
    """For each arm against its baseline the sentences that tell: what was found, the figures, the limits, the costs.

    Where no arm has learned anything, one finding says so, and what would be said of each arm is part of its details.
    """
    if not comparison.arms:
        return [["No run has finished: there is nothing to compare."]]
    told = _findings(comparison)
    if any(learned(arm) for arm in comparison.arms):
        return told
    listed = "; ".join(f"{arm.name}: {before_and_after(arm)}" for arm in comparison.arms)
    which = "the method" if len(comparison.arms) == 1 else "every method"
    headline = f"No answer yet: {which} has learned next to nothing ({listed})."
    return [[headline, TRY, *(" ".join(each) for each in told)]]


def _findings(comparison: Comparison) -> list[list[str]]:
    if len(comparison.arms) == 1:
        arm = comparison.baseline
        f1 = metric(F1).named(arm.best.average(F1) or 0.0)
        return [[f"One method alone, {arm.name}: {f1} at rate {arm.best.rate:g}.", "There is nothing to compare."]]
    if not comparison.contrasts:
        return [["No two of these methods were run in the same place: there is nothing to compare."]]
    several = len([contrast for contrast in comparison.contrasts if contrast.differences]) > 1
    nobody = not any(learned(arm) for arm in comparison.arms)
    return [_sentences(contrast, several, comparison.varied, nobody) for contrast in comparison.contrasts]


def _sentences(contrast: Contrast, several: bool, varied: Sequence[str], nobody: bool) -> list[str]:
    arm, base = contrast.arm, contrast.base
    opening = f"{_named(arm, varied)} against {_named(base, varied)}: "
    if not contrast.differences:
        return [f"{opening}no difference is computed ({contrast.why_not}).", *_costs(arm, base)]
    f1, em = contrast.differences["f1"], contrast.differences.get("exact_match")
    assert contrast.footing is not None
    seeds = sorted(set(contrast.footing.seeds))
    told = count(seeds[0], "seed") if len(seeds) == 1 else f"{seeds[0]} and {count(seeds[1], 'seed')}"
    size = f"n = {contrast.footing.questions:,}, {told}"
    p = f1.adjusted_p
    adjusted = ", adjusted for the number of comparisons, which the intervals are not" if several else ""
    shown = f1.significant
    better = "better" if f1.mean > 0 else "worse"
    subject = arm.name if seeds[-1] > 1 else f"this run of {arm.name}"
    found = f"{subject} is {better} in F1." if shown else "no difference in F1 shown."
    exact = _interval(em) if em is not None else f"without an interval ({contrast.left_out['exact_match']})"
    figures = f"F1 {_interval(f1)}, p {_p(p)}{adjusted}; exact match {exact}; {size}."
    sentences = [opening + found, figures]
    if not_learned := [a for a in (base, arm) if not learned(a)]:
        reasons = "; ".join(f"{a.name} has learned next to nothing ({before_and_after(a)})" for a in not_learned)
        # Where none has learned, the headline says all this.
        advice = [] if nobody else [f"{reasons}. {TRY}"]
        sentences = [f"{opening}no answer yet.", *advice, f"As the runs stand: {found}", figures]
    if not shown:
        sentences.append(f"A true difference of {f1.minimum_detectable:.1f} F1 would be found four times out of five.")
    if seeds[0] == 1 < seeds[-1]:
        one, more = (arm, base) if contrast.footing.seeds[0] == 1 else (base, arm)
        sentences.append(f"With one seed of {one.name}, the spread between seeds is taken from {more.name}'s.")
    if seeds[-1] == 1:
        sentences.append("How much other seeds would differ is not known: the interval is about these runs alone.")
    if untuned := [a.name for a in (base, arm) if len(a.rates) == 1]:
        sentences.append(
            f"Only one learning rate was tried of {' and of '.join(untuned)}: another may turn this round."
        )
    return sentences + _costs(arm, base) + _rates(arm, base) + _forgetting(arm, base)


def _named(arm: Arm, varied: Sequence[str]) -> str:
    """`lora (rate 0.001, r=16)`."""
    return f"{arm.name} ({', '.join([f'rate {arm.best.rate:g}', *arm.best.setting(varied)])})"


def _interval(difference: Difference) -> str:
    return f"{difference.mean:+.1f} (95 % interval {difference.low:+.1f} to {difference.high:+.1f})"


def _p(p: float) -> str:
    return f"= {p:.3f}" if p >= 0.001 else "< 0.001"


def _costs(arm: Arm, base: Arm) -> list[str]:
    parts = []
    for cost in shown(Place.VERDICT, base.best.runs[0].metrics):
        own, other = arm.best.average(cost.key), base.best.average(cost.key)
        if own is not None and other:
            parts.append(f"{_share(own / other)} the {cost.noun}")
    listed = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1] if parts else ""
    return [f"It costs {listed} of {base.name}."] if parts else []


def _rates(arm: Arm, base: Arm) -> list[str]:
    if min(len(arm.rates), len(base.rates)) == 1:
        return []
    factor = arm.best.rate / base.best.rate
    apart = "that" if factor == 1 else f"{factor:.2g} times that"
    return [f"Its best learning rate is {apart} of {base.name}."]


def _forgetting(arm: Arm, base: Arm) -> list[str]:
    own, other = arm.best.average(CKA), base.best.average(CKA)
    if own is None or other is None:
        return []
    spread = [a.best.deviation(CKA) or 0.0 for a in (arm, base)]
    if abs(own - other) <= max(CKA_APART, *spread):
        return []
    moved = "less" if own > other else "more"
    figures = f"{metric(CKA).named(own)}, {base.name} {metric(CKA).text(other)}"
    return [f"Its encoder has moved {moved} from what it was before training: {figures}."]


def _share(value: float) -> str:
    """`2.9 % of`, `41 % of`, `120 % of`, `3.1 times`."""
    if value >= 2:
        return f"{value:.1f} times"
    return f"{100 * value:.0f} % of" if value >= 0.095 else f"{100 * value:.2g} % of"


def ratio(value: float) -> str:
    """`0.71x`, `0.029x`, `12x`."""
    return f"{value:.2g}x" if value < 0.1 else f"{value:.2f}x" if value < 10 else f"{value:.0f}x"
