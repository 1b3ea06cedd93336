"""Compares runs: one arm for each method, at its best setting, each against its baseline.

This module computes the comparison; other modules of `src.report` show it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import numpy as np

from src.metrics import TRAINABLE
from src.report.arms import NOT_A_SETTING, RATE, SCORES, Arm, Result, trials
from src.report.decision import OPEN, Decision, decide
from src.report.fairness import Caveat, by_importance, caveats
from src.report.planning import chance_to_decide
from src.report.schedule import Look, Schedule
from src.report.scored import Basis, Scored, basis_of, scored
from src.report.spending import Spent, spending
from src.report.statistics import FEWEST_SCORED, Difference, compare
from src.report.words import count, listed

# Parameters that separate arms wherever they vary. Scores on different questions cannot be compared, so the parameters
# that draw the questions are among them.
DRAWN_BY = ("dataset.split", "dataset.subset", "dataset.validation_size", "dataset.test_size", "dataset.seed")
FEWEST_SEEDS = 2  # fresh seeds that both methods must have, so that the spread between seeds can be estimated
NAMES = ("dataset.name", "model.name", "method.name")
ARMS_BY = ("dataset.name", *DRAWN_BY, "model.name", "method.name")


@dataclass(frozen=True)
class Contrast:
    """An arm against its baseline: the differences of their scores, or the reason why there are none."""

    arm: Arm
    base: Arm
    differences: dict[str, Difference] = field(default_factory=dict)  # by score; empty, or with F1 among them
    decision: Decision | None = None  # None where there is no difference to decide on
    basis: Basis | None = None
    why_not: str = ""
    left_out: dict[str, str] = field(default_factory=dict)  # scores without an interval, and why
    seeds: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset())  # used, of arm and baseline
    look: Look | None = None  # of a settled sweep


@dataclass(frozen=True)
class Comparison:
    """All arms of some runs; each baseline stands before the arms that are compared with it."""

    title: str
    commands: Sequence[str]
    arms: list[Arm]
    empty: dict[str, str]  # arms without a finished run, and why
    contrasts: list[Contrast]
    warnings: list[Caveat]  # the most important first
    varied: list[str]  # parameters other than rate and epochs that differ between the settings of an arm
    scored: dict[str, Scored | None]  # by the name of the arm
    margin: float = 1.0  # points of F1 that an arm may lose against its baseline
    margin_afterwards: bool = False  # the margin was chosen after the runs had been made
    schedule: Schedule | None = None  # of a settled sweep
    spent: list[Spent] = field(default_factory=list)  # by a settled sweep

    @property
    def baseline(self) -> Arm:
        """The first baseline."""
        return self.contrasts[0].base if self.contrasts else self.arms[0]

    @property
    def baselines(self) -> str:
        """A name for all baselines together."""
        bases = {contrast.base.name: contrast.base for contrast in self.contrasts}
        if len(bases) == 1:
            return next(iter(bases))
        methods = {base.method for base in bases.values()}
        one_place = len({base.data for base in bases.values()}) == 1
        method = methods.pop() if len(methods) == 1 else "the baseline"
        return f"{method} of the same {'model' if one_place else 'group'}"

    @property
    def groups(self) -> list[tuple[str, ...]]:
        """The distinct groups of the arms, in their order: only arms of one group are compared by default."""
        return list(dict.fromkeys(arm.group for arm in self.arms))

    @property
    def models(self) -> list[tuple[str, ...]]:
        """The labels of each model, in the order of the arms."""
        return list(dict.fromkeys(arm.model for arm in self.arms))


def compare_runs(
    title: str,
    results: Iterable[Result],
    by: Sequence[str] = (),
    baseline: str = "full",
    commands: Sequence[str] = (),
    margin: float = 1.0,
    margin_afterwards: bool = False,
    schedule: Schedule | None = None,
) -> Comparison:
    """Compare runs.

    Args:
        title: of the comparison.
        results: finished and other runs.
        by: parameters that separate arms in addition to method, model and data set, such as `method.peft.r`.
        baseline: the method that the others are compared with, each within its data set, model and so on; or the full
            name of one arm. If no arm has it, the arm with the most trained parameters is the baseline.
        commands: that made the runs.
        margin: points of F1 that an arm may lose against its baseline and still be preferred.
        margin_afterwards: whether the margin was chosen after the runs had been made.
        schedule: of the settled sweep that made the runs. Differences are then computed at the last look that both
            methods have reached, on the seeds planned for it, and their error rate holds over all looks together.
    """
    results = list(results)
    keys = arm_keys(results, by)
    arms, empty = make_arms(results, keys, schedule.verdict_seeds if schedule else ())
    pairs = pair_up(arms, baseline)
    alone = [arm for arm in arms if len(arms) > 1 and arm.method != baseline and not any(arm in pair for pair in pairs)]
    without_baseline = [
        Caveat("no_baseline", f"There is no {baseline} to compare {listed([arm.name for arm in members])} with.")
        for _, members in groupby(alone, key=lambda arm: arm.group)
    ]
    varied = _varied(arms, [*keys, RATE, "train.epochs", "method.learning_rate"])
    scores = {arm.name: scored(arm) for arm in arms}
    empty = {**(schedule.out if schedule else {}), **empty}
    runs = {name: _runs_of(results, keys, name) for name in (*(arm.name for arm in arms), *empty)}
    return Comparison(
        title,
        commands,
        arms,
        empty,
        _contrasts(pairs, scores, margin, schedule),
        by_importance(without_baseline + caveats(arms, pairs, empty, scores, margin_afterwards, schedule is not None)),
        varied,
        scores,
        margin,
        margin_afterwards,
        schedule,
        spending(runs, schedule) if schedule else [],
    )


def arm_keys(results: Sequence[Result], by: Sequence[str] = ()) -> list[str]:
    """The parameters that separate arms: the method, those of `by`, and model, data set and so on where they vary."""
    return [key for key in dict.fromkeys((*ARMS_BY, *by)) if key in ("method.name", *by) or _varies(results, key)]


def make_arms(
    results: Sequence[Result], keys: Sequence[str], fresh: Collection[str] = ()
) -> tuple[list[Arm], dict[str, str]]:
    """Group runs into arms by the parameters `keys`.

    Args:
        results: all runs.
        keys: from `arm_keys`.
        fresh: seeds that were reserved for the chosen settings.

    Returns:
        The arms that have a finished run, and the names of the others with the reason.
    """
    grouped: dict[tuple[tuple[str, str], ...], list[Result]] = defaultdict(list)
    for result in results:
        grouped[_labels(result, keys)].append(result)
    arms, empty = [], {}
    for labels, members in grouped.items():
        finished = [result for result in members if result.finished]
        done = {result.tags.get("config_hash", result.id) for result in finished}  # earlier attempts do not count
        others = [result for result in members if result.tags.get("config_hash", result.id) not in done]
        failed = [result for result in others if result.failed]
        pruned = [result for result in others if result.pruned]
        if finished:
            unfinished = len(others) - len(failed) - len(pruned)
            arms.append(Arm(dict(labels), trials(finished), failed, pruned, unfinished, frozenset(fresh)))
        else:
            reason = failed[0].tags.get("error", "failed") if failed else "all pruned" if pruned else "not finished"
            empty[_name(labels)] = reason.splitlines()[0][:300]
    return arms, empty


def _varied(arms: Sequence[Arm], shown: Sequence[str]) -> list[str]:
    varied: dict[str, None] = {}
    for arm in arms:
        for key in arm.best.runs[0].params:
            values = {trial.runs[0].params.get(key, "None") for trial in arm.trials}
            if len(values) > 1 and key not in shown and not key.startswith(NOT_A_SETTING):
                varied[key] = None
    return list(varied)


def _value(result: Result, key: str) -> str:
    # A run that failed early has tags but no parameters.
    return result.params.get(key, result.tags.get(key.partition(".")[0], "") if key in NAMES else "")


def _varies(results: Sequence[Result], key: str) -> bool:
    """Whether runs differ in a parameter; one of DRAWN_BY must differ within one data set."""
    values: dict[str, set[str]] = defaultdict(set)
    for result in results:
        if value := _value(result, key):
            values[_value(result, "dataset.name") if key in DRAWN_BY else ""].add(value)
    return any(len(distinct) > 1 for distinct in values.values())


def _labels(result: Result, keys: Sequence[str]) -> tuple[tuple[str, str], ...]:
    values = [(key, _value(result, key)) for key in keys]
    return tuple((k, value if k in NAMES else f"{k.rpartition('.')[2]}={value}") for k, value in values if value)


def _name(labels: Iterable[tuple[str, str]]) -> str:
    return " ".join(label for _, label in labels)


def _runs_of(results: Sequence[Result], keys: Sequence[str], name: str) -> list[Result]:
    """The runs of the arm that is called `name`."""
    return [result for result in results if _name(_labels(result, keys)) == name]


def _natural(label: str) -> list[Any]:
    """A sort key for labels that orders the numbers in them by value."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", label)]


def pair_up(arms: list[Arm], baseline: str) -> list[tuple[Arm, Arm]]:
    """Sort the arms in place, baselines first, and pair each arm with its baseline.

    An arm whose group lacks the baseline that other groups have is in no pair.
    """
    present = any(baseline in (arm.method, arm.name) for arm in arms)

    def order(arm: Arm) -> Any:
        group = [_natural(label) for label in arm.group] if present else []
        is_base = baseline in (arm.method, arm.name)
        return arm.name != baseline, group, not is_base, -(arm.best.average(TRAINABLE) or 0.0), arm.name

    arms.sort(key=order)
    named = [arm for arm in arms if arm.name == baseline]
    based = any(arm.method == baseline for arm in arms)

    def base(arm: Arm) -> Arm:
        group = [other for other in arms if other.group == arm.group]
        of_group = [other for other in group if other.method == baseline]
        return (named or of_group or (group if not based else [arm]))[0]

    pairs = [(arm, base(arm)) for arm in arms]
    if len({arm.method for arm in arms}) == 1:  # one method on several data sets or models: compare those
        pairs = [(arm, arms[0]) for arm in arms]
    return [(arm, other) for arm, other in pairs if arm is not other]


def _contrasts(
    pairs: Sequence[tuple[Arm, Arm]], scores: Mapping[str, Scored | None], margin: float, schedule: Schedule | None
) -> list[Contrast]:
    reasons = [_not_comparable(scores[arm.name], scores[base.name], arm, base) for arm, base in pairs]
    comparisons = sum(not reason for reason in reasons)
    return [
        Contrast(arm, base, why_not=reason)
        if reason
        else _contrast(arm, base, scores, comparisons, margin)
        if schedule is None
        else _at_look(arm, base, scores, schedule.tests(comparisons), margin, schedule)
        for (arm, base), reason in zip(pairs, reasons, strict=True)
    ]


def _at_look(
    arm: Arm, base: Arm, scores: Mapping[str, Scored | None], tests: int, margin: float, schedule: Schedule
) -> Contrast:
    """The contrast at the last look that both arms have reached, on the verdict seeds up to it that both have."""
    number = schedule.look(arm.ran, base.ran)
    looks, planned = len(schedule.looks), len(schedule.verdict_seeds)
    if number == 0:
        reason = f"the first look is at {count(schedule.looks[0], 'fresh seed')} of each, which have not all been run"
        return Contrast(arm, base, why_not=reason, look=Look(0, looks, 0, planned, None, goes_on=True))
    seen, arm_scores, base_scores = schedule.looks[number - 1], scores[arm.name], scores[base.name]
    assert arm_scores is not None and base_scores is not None
    both = {*schedule.verdict_seeds[:seen]} & {*arm_scores.seeds} & {*base_scores.seeds}
    if len(both) < FEWEST_SEEDS:
        return Contrast(arm, base, why_not=f"both have a result on only {count(len(both), 'fresh seed')}")
    contrast = _contrast(arm, base, {arm.name: arm_scores.of(both), base.name: base_scores.of(both)}, tests, margin)
    chance = None
    if contrast.decision in OPEN and number < looks:
        chance = chance_to_decide(contrast.differences["f1"], margin, seen, planned, tests)
    goes_on = chance is not None and chance >= schedule.least_chance and margin == schedule.margin
    return replace(contrast, look=Look(number, looks, seen, planned, chance, goes_on))


def _not_comparable(arm_scores: Scored | None, base_scores: Scored | None, arm: Arm, base: Arm) -> str:
    """The reason why two arms cannot be compared; empty where they can."""
    split = base.best.scored_on
    if arm.best.scored_on != split:
        return "one of them has a test set, the other has none"
    if arm.best.digest(split) != base.best.digest(split):
        return f"scored on other {split} questions"
    if arm_scores is None or base_scores is None or not arm_scores.ids.equals(base_scores.ids):
        return "a run has no scores by question (questions.parquet)"
    return ""


def _contrast(arm: Arm, base: Arm, scores: Mapping[str, Scored | None], comparisons: int, margin: float) -> Contrast:
    arm_scores, base_scores = scores[arm.name], scores[base.name]
    assert arm_scores is not None and base_scores is not None
    splits = max(len(arm_scores.values["f1"]), len(base_scores.values["f1"]))
    first, second = (
        [np.repeat(values, splits // len(values), axis=0) for values in map(each.values.__getitem__, SCORES)]
        for each in (arm_scores, base_scores)
    )
    results = compare(first, second, base_scores.clusters, comparisons, margin)
    seeds = (frozenset(arm_scores.seeds), frozenset(base_scores.seeds))
    differences = dict(zip(SCORES, results, strict=True))
    basis = basis_of(arm_scores, base_scores)
    left_out = {}
    for score in SCORES:
        if reason := _too_few_to_compare(arm_scores.values[score], base_scores.values[score], differences[score]):
            left_out[score] = reason
            del differences[score]
    if "f1" in left_out:
        return Contrast(arm, base, basis=basis, why_not=left_out["f1"], seeds=seeds)
    decision = decide(differences["f1"], margin)
    return Contrast(arm, base, differences, decision, basis, left_out=left_out, seeds=seeds)


def _too_few_to_compare(first: np.ndarray, second: np.ndarray, difference: Difference) -> str:
    """The reason why a score has too few informative questions for an interval; empty where it has enough.

    Args:
        first, second: the scores of two arms, each of shape (splits, seeds, questions).
        difference: of their means.
    """
    questions = first.shape[-1]
    answered = int(((first > 0).any((0, 1)) | (second > 0).any((0, 1))).sum())
    if answered < FEWEST_SCORED:
        return f"only {answered} of {questions:,} questions got a score above 0 from either method"
    if round(difference.low, 1) == round(difference.high, 1):
        apart = int((first.mean((0, 1)) != second.mean((0, 1))).sum())
        return f"the two methods score differently on only {apart} of {questions:,} questions"
    return ""
