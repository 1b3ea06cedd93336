"""Runs put side by side: one arm a method, at its best setting, each against its baseline.

Knows the figures of runs (`src.runs.results`), not how they are shown.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from src.metrics import TRAINABLE
from src.report.arms import NOT_A_SETTING, RATE, SCORES, Arm, Result, trials
from src.report.fairness import warnings
from src.report.statistics import Difference, compare, holm

# What tells arms apart wherever it varies. Scores on different questions do not compare, so what draws the questions
# is among it.
DRAWN_BY = ("dataset.split", "dataset.subset", "dataset.validation_size", "dataset.seed")
FEWEST_SCORED = 10  # questions that one of two methods scores on, below which there is nothing to resample
NAMES = ("dataset.name", "model.name", "method.name")
ARMS_BY = ("dataset.name", *DRAWN_BY, "model.name", "method.name")


@dataclass(frozen=True)
class Contrast:
    """An arm against its baseline: the differences of its scores, or why there are none."""

    arm: Arm
    base: Arm
    differences: dict[str, Difference] = field(default_factory=dict)  # by score; F1 is there, or none
    adjusted_p: float = 1.0  # of F1, for the number of arms compared
    why_not: str = ""
    seeds: tuple[int, int] = (0, 0)  # of the arm and its baseline, behind the differences
    left_out: dict[str, str] = field(default_factory=dict)  # scores that no interval is given for, and why


@dataclass(frozen=True)
class Comparison:
    """All arms of some runs, the baselines first among those they are compared with."""

    title: str
    commands: Sequence[str]
    arms: list[Arm]
    empty: dict[str, str]  # arms without a finished run, and why
    contrasts: list[Contrast]
    warnings: list[str]
    varied: list[str]  # parameters that differ between the settings of an arm, beside rate and epochs, which are shown

    @property
    def baseline(self) -> Arm:
        """The first of them."""
        return self.contrasts[0].base if self.contrasts else self.arms[0]

    @property
    def baselines(self) -> str:
        """What they are called together."""
        names = {contrast.base.name for contrast in self.contrasts}
        return names.pop() if len(names) == 1 else f"{self.baseline.method} of the same group"


def compare_runs(
    title: str, results: Iterable[Result], by: Sequence[str] = (), baseline: str = "full", commands: Sequence[str] = ()
) -> Comparison:
    """Put runs side by side.

    Args:
        title: of the whole.
        results: finished and other runs.
        by: parameters that tell arms apart beside method, model and data set (`method.peft.r`, say).
        baseline: the method that the others are compared with, each with that of its own data set, model and so on; or
            the whole name of one arm. Where there is none, it is the arm that trains most.
        commands: that made the runs.
    """
    results = list(results)
    keys = arm_keys(results, by)
    arms, empty = make_arms(results, keys)
    based = any(baseline in (arm.method, arm.name) for arm in arms)

    def order(arm: Arm) -> Any:
        group = [_natural(label) for label in arm.group] if based else []
        is_base = baseline in (arm.method, arm.name)
        return arm.name != baseline, group, not is_base, -(arm.best.average(TRAINABLE) or 0.0), arm.name

    arms.sort(key=order)
    pairs = _pairs(arms, baseline)
    alone = [arm for arm in arms if len(arms) > 1 and arm.method != baseline and not any(arm in pair for pair in pairs)]
    told = [f"There is no {baseline} to compare {arm.name} with." for arm in alone]
    varied = _varied(arms, [*keys, RATE, "train.epochs", "method.learning_rate"])
    return Comparison(title, commands, arms, empty, _contrasts(pairs), told + warnings(arms, pairs, empty), varied)


def arm_keys(results: Sequence[Result], by: Sequence[str] = ()) -> list[str]:
    """The parameters that tell arms apart: the method and those of `by`; model, data set and so on where they vary."""
    return [key for key in (*ARMS_BY, *by) if key in ("method.name", *by) or _varies(results, key)]


def make_arms(results: Sequence[Result], keys: Sequence[str]) -> tuple[list[Arm], dict[str, str]]:
    """Runs by the parameters `keys`: the arms with a finished run, and the names of the others with the reason."""
    grouped: dict[tuple[tuple[str, str], ...], list[Result]] = defaultdict(list)
    for result in results:
        grouped[_labels(result, keys)].append(result)
    arms, empty = [], {}
    for labels, members in grouped.items():
        finished = [result for result in members if result.finished]
        done = {result.tags.get("config_hash", result.id) for result in finished}  # whatever became of earlier attempts
        others = [result for result in members if result.tags.get("config_hash", result.id) not in done]
        failed = [result for result in others if result.failed]
        pruned = [result for result in others if result.pruned]
        if finished:
            unfinished = len(others) - len(failed) - len(pruned)
            arms.append(Arm(dict(labels), trials(finished), failed, pruned, unfinished))
        else:
            reason = failed[0].tags.get("error", "failed") if failed else "all pruned" if pruned else "not finished"
            empty[" ".join(label for _, label in labels)] = reason.splitlines()[0][:300]
    return arms, empty


def _varied(arms: Sequence[Arm], shown: Sequence[str]) -> list[str]:
    found: dict[str, None] = {}
    for arm in arms:
        for key in arm.best.runs[0].params:
            values = {trial.runs[0].params.get(key) for trial in arm.trials}
            if len(values) > 1 and key not in shown and not key.startswith(NOT_A_SETTING):
                found[key] = None
    return list(found)


def _value(result: Result, key: str) -> str:
    # A run that failed early has tags alone.
    return result.params.get(key, result.tags.get(key.partition(".")[0], "") if key in NAMES else "")


def _varies(results: Sequence[Result], key: str) -> bool:
    """Whether runs differ in a parameter; for what draws the questions, within one data set."""
    values: dict[str, set[str]] = defaultdict(set)
    for result in results:
        if value := _value(result, key):
            values[_value(result, "dataset.name") if key in DRAWN_BY else ""].add(value)
    return any(len(found) > 1 for found in values.values())


def _labels(result: Result, keys: Sequence[str]) -> tuple[tuple[str, str], ...]:
    values = [(key, _value(result, key)) for key in keys]
    return tuple((k, value if k in NAMES else f"{k.rpartition('.')[2]}={value}") for k, value in values if value)


def _natural(label: str) -> list[Any]:
    """Sorts numbers in a label by their value."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", label)]


def _pairs(arms: Sequence[Arm], baseline: str) -> list[tuple[Arm, Arm]]:
    """Each arm with the one that it is compared with; none where its group lacks the baseline that others have."""
    named = [arm for arm in arms if arm.name == baseline]
    based = any(arm.method == baseline for arm in arms)

    def base(arm: Arm) -> Arm:
        group = [other for other in arms if other.group == arm.group]
        own = [other for other in group if other.method == baseline]
        return (named or own or (group if not based else [arm]))[0]

    pairs = [(arm, base(arm)) for arm in arms]
    if len({arm.method for arm in arms}) == 1:  # one method, in several places: compare these
        pairs = [(arm, arms[0]) for arm in arms]
    return [(arm, other) for arm, other in pairs if arm is not other]


def _contrasts(pairs: Sequence[tuple[Arm, Arm]]) -> list[Contrast]:
    found = []
    for arm, base in pairs:
        if arm.best.digest("validation") != base.best.digest("validation"):
            found.append(Contrast(arm, base, why_not="scored on other questions"))
            continue
        table = base.best.questions
        scores = None if table is None else base.best.scores(table.index)
        own = None if table is None else arm.best.scores(table.index)
        if scores is None or own is None:
            found.append(Contrast(arm, base, why_not="a run has no scores by question (questions.parquet)"))
            continue
        found.append(_contrast(arm, base, own, scores))
    tested = [contrast for contrast in found if contrast.differences]
    adjusted = iter(holm([contrast.differences["f1"].p for contrast in tested]))
    return [replace(contrast, adjusted_p=next(adjusted)) if contrast.differences else contrast for contrast in found]


def _contrast(arm: Arm, base: Arm, own: Sequence[np.ndarray], scores: Sequence[np.ndarray]) -> Contrast:
    """Of scores by question, each of shape (seeds, questions), in the order of SCORES."""
    differences = dict(zip(SCORES, compare(own, scores), strict=True))
    left_out = {}
    for score, a, b in zip(SCORES, own, scores, strict=True):
        if reason := _too_little(a, b, differences[score]):
            left_out[score] = reason
            del differences[score]
    seeds = (len(own[0]), len(scores[0]))
    if "f1" in left_out:
        return Contrast(arm, base, why_not=left_out["f1"], seeds=seeds)
    return Contrast(arm, base, differences, seeds=seeds, left_out=left_out)


def _too_little(first: np.ndarray, second: np.ndarray, difference: Difference) -> str:
    """Why no interval is given for a score: there is nearly nothing to resample. Empty where there is enough."""
    questions = first.shape[1]
    scored = int(((first > 0).any(0) | (second > 0).any(0)).sum())
    if scored < FEWEST_SCORED:
        return f"either method scores above 0 on only {scored} of {questions:,} questions"
    if round(difference.low, 1) == round(difference.high, 1):
        apart = int((first.mean(0) != second.mean(0)).sum())
        return f"the two methods score differently on only {apart} of {questions:,} questions"
    return ""
