"""What a comparison says, in words."""

from __future__ import annotations

from src.report.arms import Arm
from src.report.comparison import Comparison, Contrast
from src.report.fairness import count
from src.report.statistics import Difference


def verdict(comparison: Comparison) -> list[str]:
    """A paragraph for each arm against the baseline: the difference, whether it is one, and what it costs."""
    if not comparison.arms:
        return ["No run has finished: there is nothing to compare."]
    if len(comparison.arms) == 1:
        arm = comparison.baseline
        f1 = arm.best.mean("quality/f1") or 0.0
        return [f"One method alone, {arm.name}: F1 {f1:.1f} at rate {arm.best.rate:g}. There is nothing to compare."]
    several = len([contrast for contrast in comparison.contrasts if contrast.differences]) > 1
    return [_paragraph(comparison, contrast, several) for contrast in comparison.contrasts]


def _paragraph(comparison: Comparison, contrast: Contrast, several: bool) -> str:
    arm, base = contrast.arm, contrast.base
    opening = f"{arm.name} (rate {arm.best.rate:g}) against {base.name} (rate {base.best.rate:g}): "
    if not contrast.differences:
        return f"{opening}no difference is computed ({contrast.why_not}). {_costs(arm, base)}".strip()
    f1, em = contrast.differences["f1"], contrast.differences["exact_match"]
    seeds = min(len(arm.best.runs), len(base.best.runs))
    size = f"n = {base.best.validation_questions:,}, {count(seeds, 'seed')}"
    p = contrast.adjusted_p
    adjusted = ", adjusted for the number of methods" if several else ""
    figures = f"F1 {_interval(f1)}, p {_p(p)}{adjusted}; exact match {_interval(em)}. "
    if not (f1.shown and p < 0.05):
        finding = f"No difference in F1 shown at {size}: one under {f1.unseen:.1f} F1 would probably not be seen. "
    elif seeds > 1:
        finding = f"{arm.name} is {'better' if f1.mean > 0 else 'worse'} in F1, at {size}. "
    else:
        finding = (
            f"This run of {arm.name} is {'better' if f1.mean > 0 else 'worse'} in F1 than {base.name}'s, at {size}. "
        )
    limits = "How much other seeds would differ is not known: the interval is about these runs alone. "
    untuned = [a.name for a in (base, arm) if len(a.rates) == 1]
    if untuned:
        tuned = f"Only one learning rate was tried of {' and of '.join(untuned)}: another may turn this round. "
    return opening + figures + finding + (limits if seeds == 1 else "") + (tuned if untuned else "") + _costs(arm, base)


def _interval(difference: Difference) -> str:
    return f"{difference.mean:+.1f} (95 % interval {difference.low:+.1f} to {difference.high:+.1f})"


def _p(p: float) -> str:
    return f"= {p:.3f}" if p >= 0.001 else "< 0.001"


COSTS = (
    ("params/trainable", "the trained parameters"),
    ("time/train_seconds", "the training time"),
    ("memory/peak_train_mb", "the peak memory"),
    ("storage/checkpoint_mb", "the stored size"),
)


def _costs(arm: Arm, base: Arm) -> str:
    parts = []
    for metric, what in COSTS:
        own, other = arm.best.mean(metric), base.best.mean(metric)
        if own is not None and other:
            parts.append(f"{_share(own / other)} {what}")
    listed = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1] if parts else ""
    return f"It costs {listed} of {base.name}." if parts else ""


def _share(value: float) -> str:
    """`2.9 % of`, `41 % of`, `120 % of`, `3.1 times`."""
    if value >= 2:
        return f"{value:.1f} times"
    return f"{100 * value:.0f} % of" if value >= 0.095 else f"{100 * value:.2g} % of"


def ratio(value: float) -> str:
    """`0.71x`, `0.029x`, `12x`."""
    return f"{value:.2g}x" if value < 0.1 else f"{value:.2f}x" if value < 10 else f"{value:.0f}x"
