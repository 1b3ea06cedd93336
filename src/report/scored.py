"""The scores of an arm by question, if possible on questions and seeds that its setting was not chosen on."""

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

FEWEST_FRESH = 2  # with at least so many seeds that nothing was chosen on, the others are left out


@dataclass(frozen=True)
class Basis:
    """What a difference is based on: the split, the numbers of questions and clusters, and the seeds of both arms."""

    split: str  # test | validation
    cross_fitted: bool  # whether settings were chosen on one half of the passages and scored on the other
    questions: int
    passages: int
    articles: int | None  # None where the split is not by article
    unit: str  # the unit that is assumed to be independent: article, passage or question; see `Clusters.unit`
    seeds: tuple[int, int]  # of the arm and of its baseline


@dataclass(frozen=True)
class Scored:
    """The scores of an arm that the verdict is based on."""

    split: str  # test | validation
    cross_fitted: bool
    seeds: tuple[str, ...]
    on_choosing_seeds: bool  # whether the setting was chosen on some of these seeds
    on_choosing_questions: bool  # whether the setting was chosen on these questions
    ids: pd.Index  # (questions,), sorted
    clusters: Clusters
    values: dict[str, np.ndarray]  # for each of SCORES, in percent, (splits, seeds, questions)

    def of(self, seeds: Collection[str]) -> Scored:
        """The scores of the given seeds only."""
        kept = [index for index, seed in enumerate(self.seeds) if seed in seeds]
        values = {score: table[:, kept] for score, table in self.values.items()}
        return replace(self, seeds=tuple(self.seeds[index] for index in kept), values=values)

    def level(self, score: str) -> float:
        """The mean of a score in percent; of several splits, the median."""
        return float(np.median(self.values[score].mean((1, 2))))

    def std(self, score: str) -> float | None:
        """The standard deviation of a score over the seeds; None for one seed."""
        by_seed = np.median(self.values[score].mean(2), axis=0)
        return stdev(by_seed) if len(by_seed) > 1 else None


def scored(arm: Arm) -> Scored | None:
    """Score an arm at its best setting; None where a run kept no scores by question.

    With a test set, or if only one setting was run, the scores are those of the best setting. Otherwise each question
    gets the score of the setting that did best on the other half of the passages (`cross_fitted`), provided that each
    scored seed was run with more than one setting. Seeds that the setting was chosen on are left out if at least
    FEWEST_FRESH others were run.
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
    """The basis of the difference of two arms."""
    passages, articles = base.clusters.counts
    crossed = arm.cross_fitted or base.cross_fitted
    seeds = (len(arm.seeds), len(base.seeds))
    return Basis(base.split, crossed, len(base.ids), passages, articles, base.clusters.unit, seeds)


def _crossed(arm: Arm, ids: pd.Index, clusters: Clusters, seeds: Sequence[str]) -> list[np.ndarray] | None:
    """Cross-fitted scores; None where a seed has a single setting, or a setting has no scores on these questions."""
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
    """Whether two settings share one of these seeds and no other seed: it then both chooses and scores."""
    pairs = list(combinations([trial.seeds for trial in arm.trials], 2))
    return any(one & other == {seed} for seed in seeds for one, other in pairs)


def _values(table: pd.DataFrame, score: str) -> Any:
    return table[score].to_numpy(float)


def clusters_of(table: pd.DataFrame, by_article: bool) -> Clusters:
    """The passages and articles of questions, as integer codes.

    Args:
        table: one row for each question, with the columns `passage` and `article`.
        by_article: whether the data were split by article.
    """
    passages, articles = (pd.factorize(table[key])[0] for key in KEYS)
    if (passages < 0).any():  # a run that kept no passages: each question is its own cluster
        return Clusters(np.arange(len(table)))
    # Without titles, as in runs of version 0.1, the key of the article is that of the passage.
    known = by_article and not np.array_equal(passages, articles)
    return Clusters(passages, articles if known else None)
