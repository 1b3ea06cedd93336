"""Runs put side by side: one arm a method, at its best setting, against full fine-tuning; and what spoils that.

Knows the figures of runs (`src.runs.results`), not how they are shown.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import mean, stdev
from typing import Any, Protocol

import numpy as np
import pandas as pd

from src.report.statistics import Difference, compare, holm

RATE = "train.learning_rate"
SCORES = ("exact_match", "f1")
# What may differ between two runs of one setting: the seed, and what changes no result. Data count by their digests.
NOT_A_SETTING = (
    "train.seed",
    "tracking.",
    "train.checkpoint_minutes",
    "train.keep_checkpoints",
    "dataset.path",
    "dataset.root",
    "dataset.validation_path",
    "dataset.extra_validation",
    "hardware.threads",
)
ARMS_BY = ("dataset.name", "model.name", "method.name")


class Result(Protocol):
    """What a comparison needs to know of a run; `src.runs.results.StoredResult` is one."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def finished(self) -> bool: ...
    @property
    def failed(self) -> bool: ...
    @property
    def params(self) -> dict[str, str]: ...
    @property
    def metrics(self) -> dict[str, float]: ...
    @property
    def tags(self) -> dict[str, str]: ...
    @property
    def seed(self) -> str: ...
    @property
    def inputs(self) -> dict[str, tuple[str, int]]: ...
    def history(self, metric: str) -> pd.DataFrame: ...
    def questions(self, columns: Sequence[str] | None = None) -> pd.DataFrame | None: ...


@dataclass(frozen=True)
class Trial:
    """One setting of an arm, run with one or more seeds."""

    runs: list[Any]

    @property
    def rate(self) -> float:
        return float(self.runs[0].params.get(RATE, "nan"))

    @property
    def epochs(self) -> int:
        return int(self.runs[0].params.get("train.epochs", 0))

    @property
    def seeds(self) -> set[str]:
        return {run.seed for run in self.runs}

    @property
    def examples(self) -> int:
        """Training questions."""
        return int(self.runs[0].inputs.get("train", ("", 0))[1])

    @property
    def steps(self) -> int:
        """Optimizer steps, as far as the parameters tell them."""
        params = self.runs[0].params
        batch = int(params.get("train.batch_size", 1)) * int(params.get("train.gradient_accumulation_steps", 1))
        return self.epochs * -(-self.examples // batch)

    def mean(self, metric: str) -> float | None:
        """Over the runs; None where one of them has not measured it."""
        values = [run.metrics.get(metric) for run in self.runs]
        return None if any(value is None for value in values) else mean(values)

    def deviation(self, metric: str) -> float | None:
        """Standard deviation over the seeds; None for one run."""
        values = [run.metrics[metric] for run in self.runs if metric in run.metrics]
        return stdev(values) if len(values) > 1 else None

    @cached_property
    def questions(self) -> pd.DataFrame | None:
        """The validation questions with their texts, as the first run kept them."""
        found: pd.DataFrame | None = self.runs[0].questions()
        return found

    @cached_property
    def _scored(self) -> list[pd.DataFrame | None]:
        return [run.questions(SCORES) for run in self.runs]

    def scores(self, ids: pd.Index) -> list[np.ndarray] | None:
        """For each of SCORES, in percent, (runs, questions); None where a run kept none or has other questions."""
        tables: list[Any] = self._scored
        if any(table is None or len(table) != len(ids) or not ids.isin(table.index).all() for table in tables):
            return None
        return [100.0 * np.stack([table.loc[ids, score].to_numpy(float) for table in tables]) for score in SCORES]


@dataclass(frozen=True)
class Arm:
    """Everything that was tried of one method (on one data set, with one model: whatever tells arms apart)."""

    labels: dict[str, str]  # what tells it apart, by the parameter's name; as shown
    trials: list[Trial]
    failed: int = 0
    unfinished: int = 0

    @property
    def name(self) -> str:
        return " ".join(self.labels.values())

    @property
    def method(self) -> str:
        """What is said of the method alone: `lora r=16`."""
        return " ".join(label for key, label in self.labels.items() if key.startswith("method."))

    @property
    def group(self) -> tuple[str, ...]:
        """What an arm shares with those it is compared with: its data set, model, and the like."""
        return tuple(label for key, label in self.labels.items() if not key.startswith("method."))

    @cached_property
    def best(self) -> Trial:
        """The setting with the highest mean F1, over the seeds that all settings have, where there are some."""
        common = set.intersection(*(trial.seeds for trial in self.trials))

        def f1(trial: Trial) -> float:
            return mean(r.metrics.get("quality/f1", 0.0) for r in trial.runs if r.seed in common or not common)

        return max(self.trials, key=f1)

    @property
    def rates(self) -> list[float]:
        return sorted({trial.rate for trial in self.trials})


@dataclass(frozen=True)
class Contrast:
    """An arm against its baseline: the differences of its scores, or why there are none."""

    arm: Arm
    base: Arm
    differences: dict[str, Difference] = field(default_factory=dict)
    adjusted_p: float = 1.0  # of F1, for the number of arms compared
    why_not: str = ""


@dataclass(frozen=True)
class Comparison:
    """All arms of some runs, the baselines first among those they are compared with."""

    title: str
    commands: Sequence[str]
    arms: list[Arm]
    empty: dict[str, str]  # arms without a finished run, and why
    contrasts: list[Contrast]
    warnings: list[str]

    @property
    def baseline(self) -> Arm:
        """The first of them."""
        return self.contrasts[0].base if self.contrasts else self.arms[0]

    @property
    def baselines(self) -> str:
        """What they are called together."""
        names = {contrast.base.name for contrast in self.contrasts}
        return names.pop() if len(names) == 1 else f"{self.baseline.method} of the same group"

    @property
    def questions(self) -> int:
        return next((size for arm in self.arms if (size := _validation(arm.best)[1])), 0)


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
    keys = [key for key in (*ARMS_BY, *by) if key in ("method.name", *by) or _varies(results, key)]
    grouped: dict[tuple[tuple[str, str], ...], list[Result]] = defaultdict(list)
    for result in results:
        grouped[_labels(result, keys)].append(result)
    arms, empty = [], {}
    for labels, members in grouped.items():
        finished = [result for result in members if result.finished]
        failed = [result for result in members if result.failed]
        if finished:
            # Ended early because it did worse than others, by an Optuna search: that is a result.
            pruned = [result for result in members if "stopped" in result.tags and not result.finished]
            unfinished = len(members) - len(finished) - len(failed) - len(pruned)
            arms.append(Arm(dict(labels), _trials(finished), len(failed), unfinished))
        else:
            reason = failed[0].tags.get("error", "failed") if failed else "not finished"
            empty[" ".join(label for _, label in labels)] = reason.splitlines()[0][:300]

    based = any(baseline in (arm.method, arm.name) for arm in arms)

    def order(arm: Arm) -> Any:
        group = [_natural(label) for label in arm.group] if based else []
        is_base = baseline in (arm.method, arm.name)
        return arm.name != baseline, group, not is_base, -(arm.best.mean("params/trainable") or 0.0), arm.name

    arms.sort(key=order)
    pairs = _pairs(arms, baseline)
    return Comparison(title, commands, arms, empty, _contrasts(pairs), _warnings(arms, pairs, empty))


def _varies(results: Sequence[Result], key: str) -> bool:
    return len({result.params.get(key) for result in results}) > 1


def _labels(result: Result, keys: Sequence[str]) -> tuple[tuple[str, str], ...]:
    values = [(key, result.params.get(key, "")) for key in keys]
    return tuple((k, value if k in ARMS_BY else f"{k.rpartition('.')[2]}={value}") for k, value in values if value)


def _natural(label: str) -> list[Any]:
    """Sorts numbers in a label by their value."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", label)]


def _pairs(arms: Sequence[Arm], baseline: str) -> list[tuple[Arm, Arm]]:
    """Each arm with the one that it is compared with."""

    def base(arm: Arm) -> Arm:
        named = [other for other in arms if other.name == baseline]
        own = [other for other in arms if other.group == arm.group and other.method == baseline]
        return (named or own or arms[:1])[0]

    pairs = [(arm, base(arm)) for arm in arms]
    if all(arm is other for arm, other in pairs):  # one method, in several places: compare these
        pairs = [(arm, arms[0]) for arm in arms]
    return [(arm, other) for arm, other in pairs if arm is not other]


def _trials(results: Sequence[Result]) -> list[Trial]:
    """Runs by setting; of two with the same seed the newer one."""
    settings: dict[Any, dict[str, Result]] = defaultdict(dict)
    for result in results:
        params = sorted((key, value) for key, value in result.params.items() if not key.startswith(NOT_A_SETTING))
        settings[(*params, *sorted(result.inputs.items()))][result.seed] = result
    trials = [Trial([runs[seed] for seed in sorted(runs)]) for runs in settings.values()]
    return sorted(trials, key=lambda trial: trial.rate)


def _validation(trial: Trial) -> tuple[str, int]:
    digest, size = trial.runs[0].inputs.get("validation", ("", 0))
    return digest, size


def _digests(arm: Arm, context: str) -> set[str]:
    return {run.inputs.get(context, ("", 0))[0] for trial in arm.trials for run in trial.runs}


def _contrasts(pairs: Sequence[tuple[Arm, Arm]]) -> list[Contrast]:
    found = []
    for arm, base in pairs:
        if _digests(arm, "validation") != _digests(base, "validation"):
            found.append(Contrast(arm, base, why_not="scored on other questions"))
            continue
        table = base.best.questions
        scores = None if table is None else base.best.scores(table.index)
        own = None if table is None else arm.best.scores(table.index)
        if scores is None or own is None:
            found.append(Contrast(arm, base, why_not="a run has kept no scores by question (questions.parquet)"))
            continue
        found.append(Contrast(arm, base, dict(zip(SCORES, compare(own, scores), strict=True))))
    tested = [contrast for contrast in found if contrast.differences]
    adjusted = iter(holm([contrast.differences["f1"].p for contrast in tested]))
    return [replace(contrast, adjusted_p=next(adjusted)) if contrast.differences else contrast for contrast in found]


# --- what spoils a comparison


def _warnings(arms: Sequence[Arm], pairs: Sequence[tuple[Arm, Arm]], empty: dict[str, str]) -> list[str]:
    found = [f"{name} has no finished run ({reason})." for name, reason in empty.items()]
    for arm in arms:
        if arm.failed:
            found.append(f"{arm.name}: {count(arm.failed, 'run')} failed; its best setting may be among them.")
        if arm.unfinished:
            found.append(f"{arm.name}: {count(arm.unfinished, 'run')} not finished.")
        found += _rate_warnings(arm)
        best = arm.best.runs[0]
        peft = best.params.get("method.peft", "")
        adapts = bool(best.params.get("method.peft.peft_type")) or peft not in ("", "None")
        if adapts and best.metrics.get("params/adapter", 1.0) + best.metrics.get("params/backbone", 1.0) == 0:
            found.append(
                f"{arm.name} adapts no layer of the backbone: only the {best.metrics['params/trainable']:,.0f} "
                "parameters of the head trained."
            )
    for base in dict.fromkeys(base.name for _, base in pairs):
        compared = [other for other in arms if other.name == base]
        found += _unequal([*compared, *(arm for arm, other in pairs if other.name == base)])
    return found


def _rate_warnings(arm: Arm) -> list[str]:
    rates, best = arm.rates, arm.best.rate
    if len(rates) == 1:
        return []
    where = "lowest" if best == rates[0] else "highest" if best == rates[-1] else ""
    if not where:
        return []
    direction = "lower" if where == "lowest" else "higher"
    return [f"{arm.name}: its best learning rate, {best:g}, is the {where} that was tried; {direction} ones may win."]


def _unequal(arms: Sequence[Arm]) -> list[str]:
    found = []
    for context, consequence in (
        ("train", "they were trained on different questions"),
        ("validation", "they were scored on different questions, and no difference is computed"),
    ):
        digests = {arm.name: _digests(arm, context) for arm in arms}
        if len(set.union(*digests.values())) > 1:
            found.append(f"The {context} data differ ({_by_value(digests)}): {consequence}.")
    for what, value in _budgets():
        values = {arm.name: value(arm) for arm in arms}
        if len(set(values.values())) > 1:
            listed = ", ".join(f"{name} {number:,}" for name, number in values.items())
            found.append(f"The methods had different numbers of {what}: {listed}.")
    for what, key in (("devices", "tag:device"), ("machines", "tag:host"), ("precisions", "hardware.precision")):
        places = {arm.name: {_setting(run, key) for run in arm.best.runs} for arm in arms}
        if len(set.union(*places.values())) > 1:
            found.append(
                f"The runs were made on different {what} ({_by_value(places)}): time and memory are not comparable."
            )
    return found


def _budgets() -> list[tuple[str, Callable[[Arm], int]]]:
    return [
        ("learning rates", lambda arm: len(arm.rates)),
        ("settings tried", lambda arm: len(arm.trials)),
        ("seeds at the best setting", lambda arm: len(arm.best.runs)),
        ("training questions", lambda arm: arm.best.examples),
        ("optimizer steps", lambda arm: arm.best.steps),
    ]


def _setting(run: Result, key: str) -> str:
    return run.tags.get(key.removeprefix("tag:"), "") if key.startswith("tag:") else run.params.get(key, "")


def _by_value(values: dict[str, set[str]]) -> str:
    return "; ".join(f"{name}: {', '.join(sorted(found)) or 'unknown'}" for name, found in values.items())


def count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"
