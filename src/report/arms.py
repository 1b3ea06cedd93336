"""What a comparison is made of: runs by setting (a trial), settings by method (an arm)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from statistics import mean, stdev
from typing import Any, Protocol

import numpy as np
import pandas as pd

from src.config import CHANGES_NO_RESULT, DATA_FILES, UserError
from src.metrics import F1, STEPS, TEST_F1, TRAIN_LOSS, metric

RATE = "train.learning_rate"
SCORES = ("exact_match", "f1")
KIND = "kind"  # of an answer: right, or what is wrong with it
KEYS = ("passage", "article")  # what a question is about, by which questions are resampled
# What keys begin with that may differ between two runs of one setting: what changes no result, and in addition the
# seed, and the places of data files, which a comparison knows by the digests of their questions (`Result.inputs`).
NOT_A_SETTING = (*CHANGES_NO_RESULT, "train.seed", *DATA_FILES)


class Result(Protocol):
    """What a comparison needs to know of a run; `src.runs.records.Record` is one."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def finished(self) -> bool: ...
    @property
    def failed(self) -> bool: ...
    @property
    def pruned(self) -> bool: ...
    @property
    def params(self) -> dict[str, str]: ...
    @property
    def metrics(self) -> dict[str, float]: ...
    @property
    def tags(self) -> dict[str, str]: ...
    @property
    def seed(self) -> str: ...
    @property
    def started(self) -> int: ...
    @property
    def ended(self) -> int | None: ...
    @property
    def inputs(self) -> Mapping[str, tuple[str, int]]: ...
    def history(self, metric: str) -> pd.DataFrame: ...
    def questions(self, columns: Sequence[str] | None = None, split: str = "validation") -> pd.DataFrame | None: ...


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

    def setting(self, varied: Iterable[str]) -> list[str]:
        """`r=16`, for each of some parameters that it has."""
        params = self.runs[0].params
        return [f"{key.rpartition('.')[2]}={params[key]}" for key in varied if key in params]

    def f1(self, seeds: Collection[str] = ()) -> float:
        """Mean over the runs, or over those of some seeds."""
        return mean(run.metrics.get(F1, 0.0) for run in self.runs if not seeds or run.seed in seeds)

    @property
    def examples(self) -> int:
        """Training questions."""
        return int(self.runs[0].inputs.get("train", ("", 0))[1])

    def digest(self, context: str) -> str:
        """Of the data its runs were trained (`train`) or scored on (`validation`, `test`); empty for none."""
        return str(self.runs[0].inputs.get(context, ("", 0))[0])

    @property
    def validation_questions(self) -> int:
        return int(self.runs[0].inputs.get("validation", ("", 0))[1])

    @property
    def steps(self) -> int:
        """Optimizer steps that were made: the mean over the runs, which may have stopped early."""
        made = self.average(STEPS)
        if made is None:  # runs from before it was logged
            made = mean(len(run.history(TRAIN_LOSS)) for run in self.runs)
        return round(made)

    def average(self, key: str) -> float | None:
        """Of a metric over the runs, mean or median as its entry in the table says; None where a run lacks it."""
        values = [run.metrics.get(key) for run in self.runs]
        return None if any(value is None for value in values) else float(metric(key).average(values))

    def score_before_training(self, score: str) -> float | None:
        """A score of SCORES, in percent, before training: mean over the runs, None where one has not measured it."""
        curves = [run.history(f"eval/{score}") for run in self.runs]
        values = [value for curve in curves for value in curve.loc[curve["step"] == 0, "value"]]
        return mean(values) if len(values) == len(curves) else None

    def std(self, key: str) -> float | None:
        """Standard deviation of a metric over the seeds; None for one run."""
        values = [run.metrics[key] for run in self.runs if key in run.metrics]
        return stdev(values) if len(values) > 1 else None

    @property
    def scored_on(self) -> str:
        """The set that verdicts are made on: `test` where the runs have one, else `validation`."""
        return "test" if self.digest("test") else "validation"

    @property
    def f1_key(self) -> str:
        """The metric that holds the F1 of `scored_on`."""
        return TEST_F1 if self.scored_on == "test" else F1

    @cached_property
    def questions(self) -> pd.DataFrame | None:
        """The questions of `scored_on` with their texts, as the first run with a whole file kept them."""
        for run in self.runs:
            with suppress(UserError):  # `damaged` tells
                questions: pd.DataFrame | None = run.questions(split=self.scored_on)
                return questions
        return None

    @property
    def texts(self) -> pd.DataFrame | None:
        """`questions`, unless they were stored or exported without their texts."""
        table = self.questions
        return None if table is None or "question" not in table.columns else table

    @cached_property
    def _read(self) -> dict[str, pd.DataFrame | UserError | None]:
        tables: dict[str, pd.DataFrame | UserError | None] = {}
        for run in self.runs:
            try:
                tables[run.seed] = run.questions((*SCORES, *KEYS, KIND), split=self.scored_on)
            except UserError as error:
                tables[run.seed] = error
        return tables

    @property
    def damaged(self) -> list[str]:
        """What is wrong, with the name of run and file, for each run whose scores by question cannot be read."""
        return [str(table) for table in self._read.values() if isinstance(table, UserError)]

    @cached_property
    def by_seed(self) -> dict[str, pd.DataFrame]:
        """SCORES in percent and KEYS of each question of `scored_on`, sorted by id, for each seed whose file is whole.

        Empty where a run kept none, or where two runs have other questions.
        """
        whole = {seed: table for seed, table in self._read.items() if not isinstance(table, UserError)}
        tables = {seed: table.sort_index() for seed, table in whole.items() if table is not None}
        first = next(iter(tables.values()), None)
        if first is None or len(tables) < len(whole) or any(not t.index.equals(first.index) for t in tables.values()):
            return {}
        return {
            seed: table.assign(**{score: 100.0 * table[score] for score in SCORES}) for seed, table in tables.items()
        }

    def scores(self, ids: pd.Index) -> list[np.ndarray] | None:
        """For each of SCORES, in percent, (runs, questions) in the order of `ids`; None where `by_seed` has others."""
        tables = list(self.by_seed.values())
        if not tables or len(tables[0]) != len(ids) or not ids.isin(tables[0].index).all():
            return None
        return [np.stack([table.loc[ids, score].to_numpy(float) for table in tables]) for score in SCORES]


@dataclass(frozen=True)
class Arm:
    """Everything that was tried of one method (on one data set, with one model: whatever tells arms apart)."""

    labels: dict[str, str]  # what tells it apart, by the parameter's name; as shown
    trials: list[Trial]
    failed: list[Result] = field(default_factory=list)
    pruned: list[Result] = field(default_factory=list)  # ended early because they did worse than others: a result
    unfinished: int = 0
    fresh: frozenset[str] = frozenset()  # seeds that were kept for the chosen setting beforehand, if any

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

    @property
    def model(self) -> tuple[str, ...]:
        """What is said of the model; empty where all arms have the same one."""
        return tuple(label for key, label in self.labels.items() if key.startswith("model."))

    @property
    def data(self) -> tuple[str, ...]:
        """What is said of the data: all that tells neither models nor methods apart."""
        return tuple(label for key, label in self.labels.items() if not key.startswith(("model.", "method.")))

    @cached_property
    def best(self) -> Trial:
        """The setting that beats most others in mean F1, two at a time over the seeds that both have (over all their
        seeds where they share none): so that one seed more or less of a third changes nothing between two.

        Where seeds were kept for the chosen setting, it is the one that was run with them.
        """

        def wins(trial: Trial) -> int:
            return sum(
                trial.f1(trial.seeds & other.seeds) > other.f1(trial.seeds & other.seeds) for other in self.trials
            )

        repeated = [trial for trial in self.trials if trial.seeds & self.fresh]
        return max(repeated or self.trials, key=lambda trial: (wins(trial), trial.f1()))

    @property
    def was_chosen(self) -> bool:
        """Whether the best setting is one of several."""
        return len(self.trials) > 1 or bool(self.pruned)

    @property
    def choosing_seeds(self) -> set[str]:
        """The seeds on which the best setting was compared with another: a lucky one is lucky on every question."""
        if self.fresh:
            return self.best.seeds - self.fresh
        others = [trial.seeds for trial in self.trials if trial is not self.best]
        others += [{run.seed} for run in self.pruned]
        return self.best.seeds & set().union(*others)

    @property
    def ran(self) -> set[str]:
        """The seeds that its best setting was run with, and those of failed runs."""
        return self.best.seeds | {seed_of(run) for run in self.failed}

    @property
    def rates(self) -> list[float]:
        """All that were tried, also those that failed or were pruned."""
        ended = [run.params.get(RATE) for run in (*self.failed, *self.pruned)]
        return sorted({trial.rate for trial in self.trials} | {float(rate) for rate in ended if rate is not None})

    @property
    def settings(self) -> int:
        """How many were tried, also those that failed or were pruned."""
        runs = [*(trial.runs[0] for trial in self.trials), *self.failed, *self.pruned]
        return len({setting(run) for run in runs if RATE in run.params})

    def digests(self, context: str) -> set[str]:
        """Of the data sets its runs were trained (`train`) or scored (`validation`, `test`) on."""
        return {trial.digest(context) for trial in self.trials}


def seed_of(result: Result) -> str:
    """Also of a run that failed before its parameters were logged."""
    return result.seed or result.tags.get("seed", "")


def setting(result: Result) -> tuple[tuple[str, str], ...]:
    """The parameters that make up a setting; one that is null is as one that an older version did not have."""
    given = {key: value for key, value in result.params.items() if value != "None"}
    return tuple(sorted((key, value) for key, value in given.items() if not key.startswith(NOT_A_SETTING)))


def trials(results: Sequence[Result]) -> list[Trial]:
    """Finished runs, the oldest first, by setting; of two with the same seed the newer one."""
    settings: dict[Any, dict[str, Result]] = defaultdict(dict)
    for result in results:
        settings[(setting(result), *sorted(result.inputs.items()))][result.seed] = result
    made = [Trial([runs[seed] for seed in sorted(runs)]) for runs in settings.values()]
    return sorted(made, key=lambda trial: trial.rate)
