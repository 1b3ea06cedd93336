"""The verdict of a comparison in words: which method to use, and the findings about each method."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from src.metrics import F1, TRAIN_SECONDS, metric
from src.report.arms import Arm
from src.report.comparison import Comparison, Contrast
from src.report.crossfit import SPLITS
from src.report.decision import Decision
from src.report.fairness import before_and_after, comparable, learned
from src.report.findings import TRY, decimals, does_not_fit, f1_of, headline, missing, needed, sentences
from src.report.more_seeds import more_seeds
from src.report.spending import together
from src.report.words import count, duration, listed, share

DISPLAYED = {"full": "full fine-tuning", "lora": "LoRA"}
RANK = "method.peft.r"  # shown for every method that has one
COSTS = ("memory/peak_train_mb", TRAIN_SECONDS)  # the costs by which a method is cheaper
MOST_SEEDS = 20  # a next command adds no more seeds to each method
AT_LEAST_SEEDS = 2


@dataclass(frozen=True)
class Recommendation:
    """The recommended method in one sentence, and the command to run next, if any."""

    headline: str
    next_command: str = ""


def recommendation(comparison: Comparison) -> Recommendation:
    """Recommend a method, or say that none is decided yet and what would decide it; docs/verdict.md has the rule."""
    if not comparison.arms:
        return Recommendation("No decision yet: no run has finished.")
    too_large = [f"{name} {why}" for name, reason in comparison.empty.items() if (why := does_not_fit(reason))]
    if not any(learned(arm) for arm in comparison.arms):
        return Recommendation(f"No decision yet: {_nothing_learned(comparison)} {TRY}")
    if not comparison.contrasts:
        if len(comparison.arms) == 1 and too_large:
            return Recommendation(f"Use {displayed(comparison.arms[0], comparison)}: {listed(too_large)}.")
        which = "only one method has a result" if len(comparison.arms) == 1 else "no two methods share data and model"
        return Recommendation(f"No decision yet: {which}.")
    groups: dict[str, list[Contrast]] = defaultdict(list)
    for contrast in comparison.contrasts:
        groups[contrast.base.name].append(contrast)
    headlines = [_of_group(group, comparison) for group in groups.values()]
    if len(comparison.groups) > 1 and not _crosses(comparison):
        names = [" ".join(group[0].base.group) for group in groups.values()]
        headlines = [f"{name}: {line[0].lower()}{line[1:]}" for name, line in zip(names, headlines, strict=True)]
        headlines += _not_decided(comparison)
    return Recommendation(" ".join([*headlines, *(f"{each}." for each in too_large)]), _next_command(comparison))


def _crosses(comparison: Comparison) -> bool:
    """Whether an arm is compared with one of another model or other data."""
    return any(contrast.arm.group != contrast.base.group for contrast in comparison.contrasts)


def _not_decided(comparison: Comparison) -> list[str]:
    """A sentence for each model (or data set) in which no two methods are compared."""
    base, compared = comparison.baseline.method, {contrast.base.group for contrast in comparison.contrasts}
    sentences = []
    for group in comparison.groups:
        methods = [arm.method for arm in comparison.arms if arm.group == group]
        if group not in compared:
            why = f"only {base} has a result" if base in methods else f"there is no {base} to compare with"
            sentences.append(f"{' '.join(group)}: no decision yet: {why}.")
    return sentences


def _of_group(contrasts: Sequence[Contrast], comparison: Comparison) -> str:
    """The recommendation for a baseline and the methods that are compared with it."""
    base, limit = contrasts[0].base, f"{comparison.margin:g}"
    if not learned(base):
        return f"No decision yet: {base.name} has learned next to nothing ({before_and_after(base)}). {TRY}"
    known = [contrast for contrast in contrasts if learned(contrast.arm)]
    if not known:
        names = listed([contrast.arm.name for contrast in contrasts])
        return f"No decision yet: nothing was learned by {names}. {TRY}"
    if better := [contrast for contrast in known if contrast.decision is Decision.BETTER]:
        chosen = max(better, key=lambda contrast: f1_of(contrast.arm, comparison))
        use = f"Use {displayed(chosen.arm, comparison)}: its F1 is higher than that of {base.name}."
        return use + _of_one_seed(chosen)
    enough = [contrast for contrast in known if contrast.decision is Decision.NOT_INFERIOR]
    if cheaper := [contrast for contrast in enough if any(cost < 1 for cost in _costs(contrast).values())]:
        chosen = min(cheaper, key=lambda contrast: math.prod(_costs(contrast).values()) ** (1 / len(_costs(contrast))))
        difference = chosen.differences["f1"]
        bound = f"{difference.bound:.{decimals(difference, comparison.margin)}f}"
        saved = listed([f"{share(cost)} the {metric(key).noun}" for key, cost in _costs(chosen).items()])
        use = f"Use {displayed(chosen.arm, comparison)}: at most {bound} F1 worse than {base.name} (95 %)"
        return f"{use}, with {saved}.{_of_one_seed(chosen)}"
    if unknown := [contrast for contrast in enough if not _costs(contrast)]:
        return (
            f"No decision yet: {unknown[0].arm.name} is at most {limit} F1 worse than {base.name}, but their costs do "
            "not compare; run both on one machine."
        )
    undecided = [contrast for contrast in known if contrast.decision is Decision.UNDECIDED]
    if undecided:
        closest = max(undecided, key=lambda contrast: contrast.differences["f1"].low)
        decides = missing(closest, comparison)
        return f"{headline(closest, comparison.margin)} {decides[0].upper()}{decides[1:]}."
    if apart := [contrast for contrast in known if contrast.decision is None]:
        return f"No decision yet: {apart[0].arm.name} and {base.name} do not compare ({apart[0].why_not})."
    return f"Use {displayed(base, comparison)}: no cheaper method is shown to be at most {limit} F1 worse."


def _of_one_seed(contrast: Contrast) -> str:
    """The reservation of a recommendation that is based on a single run of each method; otherwise empty."""
    assert contrast.basis is not None
    return " One seed each: other seeds may differ." if max(contrast.basis.seeds) == 1 else ""


def _costs(contrast: Contrast) -> dict[str, float]:
    """The ratios of COSTS to those of the baseline, as far as they are known and can be compared."""
    ratios = {}
    for key in COSTS:
        value, other = contrast.arm.best.average(key), contrast.base.best.average(key)
        if value and other and comparable(key, contrast.arm, contrast.base):
            ratios[key] = round(value / other, 2) or value / other
    return ratios


def _next_command(comparison: Comparison) -> str:
    """The command that adds seeds to the best settings, if they would decide or are needed for a fair score."""
    if comparison.schedule is not None:  # a settled sweep continues as planned, or not at all
        goes_on = any(contrast.look is not None and contrast.look.goes_on for contrast in comparison.contrasts)
        return "\n".join(filter(None, comparison.commands)) if goes_on else ""
    wanted: dict[str, Arm] = {}
    number = AT_LEAST_SEEDS
    for contrast in comparison.contrasts:
        pair = [contrast.base, contrast.arm]
        scores = [each for arm in pair if (each := comparison.scored[arm.name]) is not None]
        more = _missing_seeds(contrast, comparison)
        if more is None or more > MOST_SEEDS:
            continue
        if more or any(each.on_choosing_seeds for each in scores):
            wanted |= {arm.name: arm for arm in pair}
            number = max(number, more)
    return more_seeds(comparison, list(wanted.values()), number) if wanted else ""


def _missing_seeds(contrast: Contrast, comparison: Comparison) -> int | None:
    """How many more seeds would decide a contrast: 0 if it is decided, None if no number would."""
    if contrast.decision is not Decision.UNDECIDED or contrast.basis is None:
        return 0
    return AT_LEAST_SEEDS if min(contrast.basis.seeds) == 1 else needed(contrast, comparison)[0]


def displayed(arm: Arm, comparison: Comparison) -> str:
    """The name of an arm with its setting: `LoRA (r=16, rate 0.001)`.

    Model and data are added if arms of several models or data sets are compared with each other.
    """
    keys = [key for key in arm.labels if key.startswith("method.") and key != "method.name"]
    settings = arm.best.setting(dict.fromkeys([*keys, *comparison.varied, RANK]))
    name = " ".join([*(arm.group if _crosses(comparison) else ()), _name(arm)])
    return f"{name} ({', '.join([*settings, f'rate {arm.best.rate:g}'])})"


def method_name(arm: Arm) -> str:
    """The name of a method in a heading: `LoRA r=16`."""
    others = [label for key, label in arm.labels.items() if key.startswith("method.") and key != "method.name"]
    return " ".join([_name(arm), *others])


def _name(arm: Arm) -> str:
    name = arm.labels.get("method.name", "")
    return DISPLAYED.get(name, name)


def verdict(comparison: Comparison) -> list[list[str]]:
    """The findings: for each arm against its baseline the decision, its evidence and limits, and the costs.

    If no arm has learned anything, a single finding says so, with the findings about each arm as its details.
    """
    if not comparison.arms:
        return [["No run has finished: there is nothing to compare."]]
    findings = _too_large(comparison) + _findings(comparison)
    if any(learned(arm) for arm in comparison.arms):
        return findings
    return [[f"No decision yet: {_nothing_learned(comparison)}", TRY, *(" ".join(each) for each in findings)]]


def _nothing_learned(comparison: Comparison) -> str:
    """The sentence `every method has learned next to nothing (full: F1 9.9, 5.1 before training).`"""
    each = "; ".join(f"{arm.name}: {before_and_after(arm)}" for arm in comparison.arms)
    which = "the method" if len(comparison.arms) == 1 else "every method"
    return f"{which} has learned next to nothing ({each})."


def _too_large(comparison: Comparison) -> list[list[str]]:
    """A finding for each method that ran out of GPU memory, with the best method that fits."""
    less = "train.gradient_checkpointing=true or a lower train.batch_size needs less memory."
    findings = []
    for name, reason in comparison.empty.items():
        if not (why := does_not_fit(reason)):
            continue
        alike = [arm for arm in comparison.arms if all(label in name.split() for label in arm.group)]
        best = max(alike or comparison.arms, key=lambda arm: f1_of(arm, comparison))
        findings.append([f"{name} {why}; use {best.name}, {metric(F1).named(f1_of(best, comparison))}.", less])
    return findings


def _findings(comparison: Comparison) -> list[list[str]]:
    if len(comparison.arms) == 1:
        arm = comparison.baseline
        f1 = metric(F1).named(f1_of(arm, comparison))
        return [[f"One method alone, {arm.name}: {f1} at rate {arm.best.rate:g}.", "There is nothing to compare."]]
    if not comparison.contrasts:
        return [["No two of these methods share data and model: there is nothing to compare."]]
    return [sentences(contrast, comparison) for contrast in comparison.contrasts]


def protocol(comparison: Comparison) -> str:
    """A sentence for each set of scored questions: which questions settings were chosen on and scored on."""
    groups: dict[tuple[str, int, int, int | None], list[Arm]] = defaultdict(list)
    for arm in comparison.arms:
        if (scores := comparison.scored[arm.name]) is not None:
            groups[(scores.split, len(scores.ids), *scores.clusters.counts)].append(arm)
    lines = []
    for (split, questions, passages, articles), arms in groups.items():
        of = [count(passages, "passage")] if passages < questions else []
        of += [] if articles is None else [count(articles, "article")]
        on = count(questions, f"{split} question") + (f" ({', '.join(of)})" if of else "")
        chosen = any(arm.was_chosen for arm in arms)
        crossed = any(scores is not None and scores.cross_fitted for scores in map(comparison.scored.get, _names(arms)))
        if split == "test":
            how = "Settings chosen on the validation set" if chosen else "One setting of each method"
            lines.append(f"{how}, scored on {on}.")
        elif crossed:
            how = "settings chosen on one half of the passages and scored on the other, median of"
            lines.append(f"No test set: {how} {SPLITS} splits of {on}.")
        elif chosen:
            lines.append(f"No test set: settings chosen and scored on the same {on}.")
        else:
            lines.append(f"No test set: one setting of each method, scored on {on}.")
    return " ".join(lines)


def spent(comparison: Comparison) -> str:
    """What a settled sweep spent: `27 runs, 1 h 12 min, after probes of 2 min, of a budget of 2h.`

    It is empty for any other sweep.
    """
    schedule = comparison.schedule
    if schedule is None or not comparison.spent:
        return ""
    total = together(comparison.spent, "", "")
    seconds = [] if total.seconds is None else [duration(total.seconds)]
    probes = [f"after probes of {duration(schedule.probing)}"] if schedule.probing else []
    return f"{', '.join([count(total.runs, 'run'), *seconds, *probes])}, of a budget of {schedule.budget}."


def _names(arms: Sequence[Arm]) -> list[str]:
    return [arm.name for arm in arms]
