"""Scores of an arm by question, as far as possible on questions and seeds on which its setting was not chosen."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import stdev
from typing import Any

import numpy as np
import pandas as pd

from src.report.arms import KEYS, SCORES, Arm
from src.report.crossfit import cross_fitted
from src.report.statistics import Clusters

FEWEST_FRESH = 2  # seeds on which nothing was chosen that are needed to leave the others out


@dataclass(frozen=True)
class Basis:
    """What a difference rests on: which questions, how many of what, and how many seeds of the arm and its baseline."""

    split: str  # test | validation
    cross_fitted: bool  # settings were chosen on one half of the passages and scored on the other
    questions: int
    passages: int
    articles: int | None  # None where the split is not by article
    unit: str  # what is taken to be independent: article, passage, or question where there is one of them alone
    seeds: tuple[int, int]


@dataclass(frozen=True)
class Scored:
    """The scores of an arm that its verdict rests on."""

    split: str  # test | validation
    cross_fitted: bool
    seeds: tuple[str, ...]
    on_choosing_seeds: bool  # some of these seeds are those on which the setting was chosen
    on_choosing_questions: bool  # the questions are those on which the setting was chosen
    ids: pd.Index  # (questions,), sorted
    clusters: Clusters
    values: dict[str, np.ndarray]  # for each of SCORES, in percent, (splits, seeds, questions)

    def of(self, seeds: Collection[str]) -> Scored:
        """The scores of some of these seeds alone."""
        kept = [index for index, seed in enumerate(self.seeds) if seed in seeds]
        values = {score: table[:, kept] for score, table in self.values.items()}
        return replace(self, seeds=tuple(self.seeds[index] for index in kept), values=values)

    def level(self, score: str) -> float:
        """Mean of a score in percent; the median over splits."""
        return float(np.median(self.values[score].mean((1, 2))))

    def std(self, score: str) -> float | None:
        """Standard deviation of a score over the seeds; None for one seed."""
        by_seed = np.median(self.values[score].mean(2), axis=0)
        return stdev(by_seed) if len(by_seed) > 1 else None


def scored(arm: Arm) -> Scored | None:
    """Score an arm at its best setting; None where a run kept no scores by question.

    With a test set, and where one setting alone was run, the scores are those of the best setting. Without one, each
    question has the score of the setting that did best on the other half of the passages (`cross_fitted`), if each seed
    that is scored was run with more than one setting. Seeds on which the setting was chosen are left out where at
    least FEWEST_FRESH others were run.
    """
    best = arm.best
    tables = best.by_seed
    if not tables:
        return None
    fresh = sorted(tables.keys() - arm.choosing_seeds)
    seeds = fresh if len(fresh) >= FEWEST_FRESH else sorted(tables)
    first = tables[seeds[0]]
    clusters = clusters_of(first, by_article=best.runs[0].params.get("dataset.split") == "article")
    crossed = None
    lucky = bool(set(seeds) & arm.choosing_seeds)
    if arm.was_chosen and best.scored_on == "validation" and clusters.counts[0] > 1:
        crossed = _crossed(arm, first.index, clusters, seeds)
        lucky = lucky and (crossed is None or _chosen_by_themselves(arm, seeds))
    values = crossed or [np.stack([_values(tables[seed], score) for seed in seeds])[None] for score in SCORES]
    return Scored(
        best.scored_on,
        crossed is not None,
        tuple(seeds),
        lucky,
        arm.was_chosen and crossed is None and best.scored_on == "validation",
        first.index,
        clusters,
        dict(zip(SCORES, values, strict=True)),
    )


def basis_of(arm: Scored, base: Scored) -> Basis:
    """What the difference of two arms rests on."""
    passages, articles = base.clusters.counts
    crossed = arm.cross_fitted or base.cross_fitted
    seeds = (len(arm.seeds), len(base.seeds))
    return Basis(base.split, crossed, len(base.ids), passages, articles, base.clusters.unit, seeds)


def _crossed(arm: Arm, ids: pd.Index, clusters: Clusters, seeds: Sequence[str]) -> list[np.ndarray] | None:
    """Cross-fitted scores; None where a seed has one setting alone, or a setting no scores on the same questions."""
    if any(sum(seed in trial.seeds for trial in arm.trials) < 2 for seed in seeds):
        return None
    settings = []
    for trial in arm.trials:
        tables = trial.by_seed
        if not tables or any(not table.index.equals(ids) for table in tables.values()):
            return None
        settings.append({s: np.stack([_values(table, score) for score in SCORES]) for s, table in tables.items()})
    return cross_fitted(settings, seeds, clusters.passages)


def _chosen_by_themselves(arm: Arm, seeds: Sequence[str]) -> bool:
    """Whether two settings share one of these seeds and no other: it then helps to choose what it scores."""
    pairs = list(combinations([trial.seeds for trial in arm.trials], 2))
    return any(one & other == {seed} for seed in seeds for one, other in pairs)


def _values(table: pd.DataFrame, score: str) -> Any:
    return table[score].to_numpy(float)


def clusters_of(table: pd.DataFrame, by_article: bool) -> Clusters:
    """The passages and articles of questions.

    Args:
        table: with the columns `passage` and `article`, a row a question.
        by_article: whether the data were split by article.
    """
    passages, articles = (pd.factorize(table[key])[0] for key in KEYS)
    if (passages < 0).any():  # a run that kept no passages: each question stands for itself
        return Clusters(np.arange(len(table)))
    # Where there are no titles, and in runs of version 0.1, which kept none, a passage stands for its article.
    known = by_article and not np.array_equal(passages, articles)
    return Clusters(passages, articles if known else None)
