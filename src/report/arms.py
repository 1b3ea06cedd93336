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
KEYS = ("passage", "article")  # the clusters of questions that are resampled
# Prefixes of the keys in which two runs of one setting may differ: those that change no result, the seed, and the paths
# of data files. A comparison identifies the data by the digests of their questions (`Result.inputs`) instead.
NOT_A_SETTING = (*CHANGES_NO_RESULT, "train.seed", *DATA_FILES)


class Result(Protocol):
    """What a comparison reads from a run; `src.runs.records.Record` implements it."""

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
        """The values of the given parameters, as `r=16`; parameters that the runs do not have are left out."""
        params = self.runs[0].params
        return [f"{key.rpartition('.')[2]}={params[key]}" for key in varied if key in params]

    def f1(self, seeds: Collection[str] = ()) -> float:
        """The mean validation F1 over the runs, or over those with the given seeds."""
        return mean(run.metrics.get(F1, 0.0) for run in self.runs if not seeds or run.seed in seeds)

    @property
    def examples(self) -> int:
        """Training questions."""
        return int(self.runs[0].inputs.get("train", ("", 0))[1])

    def digest(self, context: str) -> str:
        """The digest of the data that the runs were trained (`train`) or scored on (`validation`, `test`).

        It is empty where there are no such data.
        """
        return str(self.runs[0].inputs.get(context, ("", 0))[0])

    @property
    def validation_questions(self) -> int:
        return int(self.runs[0].inputs.get("validation", ("", 0))[1])

    @property
    def steps(self) -> int:
        """The number of optimizer steps: the mean over the runs, since some may have stopped early."""
        made = self.average(STEPS)
        if made is None:  # runs of versions that did not log it
            made = mean(len(run.history(TRAIN_LOSS)) for run in self.runs)
        return round(made)

    def average(self, key: str) -> float | None:
        """The mean or median of a metric over the runs, as its entry in the table says; None where a run lacks it."""
        values = [run.metrics.get(key) for run in self.runs]
        return None if any(value is None for value in values) else float(metric(key).average(values))

    def score_before_training(self, score: str) -> float | None:
        """The mean over the runs of one of SCORES before training, in percent; None where a run did not measure it."""
        curves = [run.history(f"eval/{score}") for run in self.runs]
        values = [value for curve in curves for value in curve.loc[curve["step"] == 0, "value"]]
        return mean(values) if len(values) == len(curves) else None

    def std(self, key: str) -> float | None:
        """Standard deviation of a metric over the seeds; None for one run."""
        values = [run.metrics[key] for run in self.runs if key in run.metrics]
        return stdev(values) if len(values) > 1 else None

    @property
    def scored_on(self) -> str:
        """The set that the verdict is based on: `test` where the runs have one, else `validation`."""
        return "test" if self.digest("test") else "validation"

    @property
    def f1_key(self) -> str:
        """The metric that holds the F1 of `scored_on`."""
        return TEST_F1 if self.scored_on == "test" else F1

    @cached_property
    def questions(self) -> pd.DataFrame | None:
        """The questions of `scored_on` with their texts, from the first run whose file can be read."""
        for run in self.runs:
            with suppress(UserError):  # `damaged` reports it
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
        """An error message for each run whose scores by question cannot be read, with the names of run and file."""
        return [str(table) for table in self._read.values() if isinstance(table, UserError)]

    @cached_property
    def by_seed(self) -> dict[str, pd.DataFrame]:
        """SCORES in percent and KEYS of each question of `scored_on`, by seed; the questions are sorted by id.

        Seeds whose file cannot be read are left out. It is empty where a run kept no scores, or where the runs were
        scored on different questions.
        """
        readable = {seed: table for seed, table in self._read.items() if not isinstance(table, UserError)}
        tables = {seed: table.sort_index() for seed, table in readable.items() if table is not None}
        first = next(iter(tables.values()), None)
        if (
            first is None
            or len(tables) < len(readable)
            or any(not t.index.equals(first.index) for t in tables.values())
        ):
            return {}
        return {
            seed: table.assign(**{score: 100.0 * table[score] for score in SCORES}) for seed, table in tables.items()
        }

    def scores(self, ids: pd.Index) -> list[np.ndarray] | None:
        """For each of SCORES an array in percent, (runs, questions), in the order of `ids`.

        None where `by_seed` does not hold exactly these questions.
        """
        tables = list(self.by_seed.values())
        if not tables or len(tables[0]) != len(ids) or not ids.isin(tables[0].index).all():
            return None
        return [np.stack([table.loc[ids, score].to_numpy(float) for table in tables]) for score in SCORES]


@dataclass(frozen=True)
class Arm:
    """All settings of one method that were tried, on one data set and with one model."""

    labels: dict[str, str]  # the parameters that distinguish it from other arms, by name, as they are shown
    trials: list[Trial]
    failed: list[Result] = field(default_factory=list)
    pruned: list[Result] = field(default_factory=list)  # stopped early because they scored worse than others
    unfinished: int = 0
    fresh: frozenset[str] = frozenset()  # seeds that were reserved for the chosen setting, if any

    @property
    def name(self) -> str:
        return " ".join(self.labels.values())

    @property
    def method(self) -> str:
        """The labels of the method alone: `lora r=16`."""
        return " ".join(label for key, label in self.labels.items() if key.startswith("method."))

    @property
    def group(self) -> tuple[str, ...]:
        """The labels that an arm shares with the arms it is compared with, such as its data set and model."""
        return tuple(label for key, label in self.labels.items() if not key.startswith("method."))

    @property
    def model(self) -> tuple[str, ...]:
        """The labels of the model; empty where all arms have the same model."""
        return tuple(label for key, label in self.labels.items() if key.startswith("model."))

    @property
    def data(self) -> tuple[str, ...]:
        """The labels of the data: all that are neither of the model nor of the method."""
        return tuple(label for key, label in self.labels.items() if not key.startswith(("model.", "method.")))

    @cached_property
    def best(self) -> Trial:
        """The setting that wins most pairwise comparisons by mean validation F1.

        Two settings are compared on the seeds that both have, or on all their seeds where they share none. A further
        seed of a third setting therefore does not change how two settings compare. Where seeds were reserved for the
        chosen setting, it is the one that was run with them.
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
        """The seeds on which the best setting was chosen. A seed that is lucky is lucky on every question."""
        if self.fresh:
            return self.best.seeds - self.fresh
        others = [trial.seeds for trial in self.trials if trial is not self.best]
        others += [{run.seed} for run in self.pruned]
        return self.best.seeds & set().union(*others)

    @property
    def ran(self) -> set[str]:
        """The seeds of its best setting and of its failed runs."""
        return self.best.seeds | {seed_of(run) for run in self.failed}

    @property
    def rates(self) -> list[float]:
        """All learning rates that were tried, including those of failed and pruned runs, in ascending order."""
        ended = [run.params.get(RATE) for run in (*self.failed, *self.pruned)]
        return sorted({trial.rate for trial in self.trials} | {float(rate) for rate in ended if rate is not None})

    @property
    def settings(self) -> int:
        """The number of settings that were tried, including those that failed or were pruned."""
        runs = [*(trial.runs[0] for trial in self.trials), *self.failed, *self.pruned]
        return len({setting(run) for run in runs if RATE in run.params})

    def digests(self, context: str) -> set[str]:
        """The digests of all data that its runs were trained (`train`) or scored (`validation`, `test`) on."""
        return {trial.digest(context) for trial in self.trials}


def seed_of(result: Result) -> str:
    """The seed of a run, also of one that failed before its parameters were logged."""
    return result.seed or result.tags.get("seed", "")


def setting(result: Result) -> tuple[tuple[str, str], ...]:
    """The parameters that make up a setting. One that is null counts as one that an older version did not have."""
    given = {key: value for key, value in result.params.items() if value != "None"}
    return tuple(sorted((key, value) for key, value in given.items() if not key.startswith(NOT_A_SETTING)))


def trials(results: Sequence[Result]) -> list[Trial]:
    """Group finished runs by setting, sorted by learning rate.

    Args:
        results: the oldest first; of two runs with the same setting and seed, the newer one counts.
    """
    settings: dict[Any, dict[str, Result]] = defaultdict(dict)
    for result in results:
        settings[(setting(result), *sorted(result.inputs.items()))][result.seed] = result
    made = [Trial([runs[seed] for seed in sorted(runs)]) for runs in settings.values()]
    return sorted(made, key=lambda trial: trial.rate)
