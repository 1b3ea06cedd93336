"""Estimates the difference between two methods and its uncertainty, from scores by question and seed.

Two sources of variance are kept apart. The first is the choice of questions: both methods answer the same ones, so
scores are paired by question, and they are clustered by article or passage, since questions about one text may be
correlated. The second is the seed: its variance is pooled over the runs of both methods, and its degrees of freedom are
the runs beyond the first of each method (Student's t). With one run of each method the variance between seeds is
unknown, and the interval holds for these two runs only. `docs/statistics.md` derives every formula.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import nctdtrinc, poch, stdtr, stdtrit

RESAMPLES = 10_000
CONFIDENCE = 0.95
POWER = 0.80
SEED = 0
FEWEST_SCORED = 10  # with fewer questions that score above 0, no interval is given
AT_ONCE = 1_000_000  # resampling counts that are held in memory at a time


@dataclass(frozen=True)
class Clusters:
    """The passage and the article of each question, as integer codes of shape (questions,)."""

    passages: np.ndarray
    articles: np.ndarray | None = None  # None where the split is not by article

    @property
    def counts(self) -> tuple[int, int | None]:
        """The numbers of passages and of articles."""
        return len(np.unique(self.passages)), None if self.articles is None else len(np.unique(self.articles))

    @property
    def unit(self) -> str:
        """The unit that is assumed to be independent: `article` if the split is by article, otherwise `passage`.

        If there is only one of it, the interval holds for that one only, and the unit is the next smaller one, down to
        `question`.
        """
        passages, articles = self.counts
        return "article" if (articles or 0) > 1 else "passage" if passages > 1 else "question"


@dataclass(frozen=True)
class Difference:
    """The mean of the first method minus that of the second, in the unit of the scores."""

    mean: float
    low: float  # ends of the 95 % interval, adjusted for the number of comparisons
    high: float
    p: float  # of no difference, two-sided
    adjusted_p: float  # below 0.05 if and only if the interval excludes 0
    p_inferior: float  # one-sided: of the first method being worse by the margin or more
    adjusted_p_inferior: float  # below 0.025 if and only if the interval lies above -margin
    minimum_detectable: float  # 80 % power, adjusted for the number of comparisons
    standard_error: float
    degrees_of_freedom: float
    # The two parts of the squared standard error, which determine how many more seeds or questions are needed.
    question_variance: float  # decreases with the number of questions
    seed_variance: float  # decreases with the number of seeds; 0 with one seed, where it is unknown
    noise_variance: float  # the part of question_variance that decreases with seeds as well; 0 with one seed
    question_freedom: float  # degrees of freedom of question_variance

    @property
    def significant(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0

    @property
    def bound(self) -> float:
        """How much worse the first method is at most (95 % confidence); 0 where it is better."""
        return max(0.0, -self.low)


def compare(
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    clusters: Clusters,
    comparisons: int = 1,
    margin: float = 1.0,
    resamples: int = RESAMPLES,
    generator: np.random.Generator | None = None,
) -> list[Difference]:
    """Compare two methods in several scores at once, on the same resampled passages.

    Args:
        first, second: the scores of each method, one array of shape (splits, seeds, questions) for each score, with
            the questions in the same order. There is one split unless settings were cross-fitted
            (`src.report.crossfit`); differences of several splits are combined by their median (Chernozhukov et al.
            2018, "Double/debiased machine learning").
        clusters: of the questions.
        comparisons: the number of comparisons; the intervals hold for all of them together (Bonferroni).
        margin: of non-inferiority, in the unit of the scores.
        resamples: the number of bootstrap resamples of passages; none are drawn if articles are the unit.
        generator: of the resamples; the default is always the same.

    Returns:
        A difference for each score.

    Raises:
        ValueError: the arrays of a method differ in shape.
    """
    runs = np.concatenate([np.stack(first), np.stack(second)], axis=2).astype(float)
    seeds = (first[0].shape[1], second[0].shape[1])
    covariance, freedom = _covariance(runs, clusters, resamples, generator or np.random.default_rng(SEED))
    means = runs.mean(-1)
    mean = means[..., : seeds[0]].mean(-1) - means[..., seeds[0] :].mean(-1)
    contrast = np.repeat([1 / seeds[0], -1 / seeds[1]], seeds)
    question = np.maximum(0.0, np.einsum("r,...rs,s->...", contrast, covariance, contrast))  # rounding may leave -1e-17
    if runs.shape[-1] < 2:
        question = np.full_like(question, np.inf)  # the variance cannot be estimated from one question
    noise, spread = _seed_variances(means, covariance, seeds)
    seed = np.maximum(0.0, spread - noise)  # of the seeds' levels; the noise by question and seed is in `question`
    parts = (mean, question, np.minimum(noise, question), seed, spread)
    return [
        _difference(*split_values, freedom, sum(seeds) - 2, comparisons, margin)
        for split_values in zip(*parts, strict=True)
    ]


def interval(scores: np.ndarray, clusters: Clusters) -> tuple[float, float]:
    """The ends of the 95 % interval of one run's mean score over other questions; it does not cover other seeds.

    Args:
        scores: shape (questions,).
        clusters: of the questions.
    """
    covariance, freedom = _covariance(scores[None, :].astype(float), clusters, RESAMPLES, np.random.default_rng(SEED))
    half = float(reach(freedom, 1) * np.sqrt(covariance[0, 0]))
    return float(scores.mean()) - half, float(scores.mean()) + half


def reach(freedom: Any, comparisons: int) -> Any:
    """Half the width of an interval, in standard errors."""
    return stdtrit(freedom, 1 - (1 - CONFIDENCE) / 2 / comparisons)


def detectable(freedom: Any, comparisons: int) -> Any:
    """The difference that is detected with 80 % power, in true standard errors (noncentral t)."""
    return nctdtrinc(freedom, 1 - POWER, reach(freedom, comparisons))


def blended_freedom(share: Any, question_freedom: Any, seed_freedom: Any) -> Any:
    """Degrees of freedom of a variance that comes partly from the spread of runs and partly from questions.

    They are the weighted harmonic mean of the two, with the shares of the variance as weights. Satterthwaite (1946)
    weights by the squared shares. Since the shares are estimated as well, that gives too many degrees of freedom where
    the spread of a few runs is small by chance.

    Args:
        share: of the variance that comes from the spread of runs, from 0 to 1.
        question_freedom, seed_freedom: the degrees of freedom of the two parts.
    """
    return 1 / ((1 - share) / question_freedom + share / np.maximum(seed_freedom, 1))


def _difference(
    mean: np.ndarray,
    question: np.ndarray,
    noise: np.ndarray,
    seed: np.ndarray,
    spread: np.ndarray,
    question_freedom: float,
    seed_freedom: int,
    comparisons: int,
    margin: float,
) -> Difference:
    """The difference in one score, from the mean difference and the variances of each split."""
    middle = float(np.median(mean))
    variance = float(np.median(question + seed + (mean - middle) ** 2))
    total = question + seed
    share = np.divide(spread, total, out=np.zeros_like(total), where=total > 0).clip(max=1)
    freedom = float(np.median(blended_freedom(share, question_freedom, seed_freedom)))
    error = float(np.sqrt(variance))
    half = float(reach(freedom, comparisons)) * error
    # With few degrees of freedom, the estimated standard error is too small on average, by this factor.
    unbiased = np.sqrt(2 / freedom) * poch(freedom / 2, 0.5)

    def tail(distance: float) -> float:
        """The probability of a mean that lies at least this far above the true one."""
        return float(stdtr(freedom, -distance / error)) if error > 0 else 0.5 if distance == 0 else float(distance < 0)

    p, p_inferior = 2 * tail(abs(middle)), tail(middle + margin)
    seeds_part = float(np.median(seed))
    return Difference(
        mean=middle,
        low=middle - half,
        high=middle + half,
        p=p,
        adjusted_p=min(1.0, comparisons * p),
        p_inferior=p_inferior,
        adjusted_p_inferior=min(1.0, comparisons * p_inferior),
        minimum_detectable=float(detectable(freedom, comparisons) * error / unbiased),
        standard_error=error,
        degrees_of_freedom=freedom,
        question_variance=variance - seeds_part,
        seed_variance=seeds_part,
        noise_variance=float(np.median(noise)),
        question_freedom=question_freedom,
    )


def _covariance(
    runs: np.ndarray, clusters: Clusters, resamples: int, generator: np.random.Generator
) -> tuple[np.ndarray, float]:
    """The covariance of the runs' mean scores over other questions, clustered by `Clusters.unit`.

    Args:
        runs: the scores, shape (..., runs, questions).
        clusters: of the questions.
        resamples, generator: of the bootstrap over passages.

    Returns:
        Covariances of shape (..., runs, runs), and their degrees of freedom.
    """
    unit = clusters.unit
    if unit == "article" and clusters.articles is not None:
        residuals, sizes = _residuals(runs, clusters.articles)
        return _article_covariance(residuals, sizes), satterthwaite(sizes)
    codes = clusters.passages if unit == "passage" else np.arange(runs.shape[-1])
    residuals, sizes = _residuals(runs, codes)
    if len(sizes) == 1:
        return np.zeros((*runs.shape[:-1], runs.shape[-2])), 1.0
    return _bootstrap_covariance(residuals, sizes, resamples, generator), satterthwaite(sizes)


def satterthwaite(sizes: np.ndarray) -> float:
    """Degrees of freedom of the CR2 variance of a mean over clusters: one less than the clusters if sizes are equal.

    Bell & McCaffrey (2002), with independent questions as the working model.

    Args:
        sizes: the number of questions in each cluster.
    """
    share = sizes / sizes.sum()
    leverage = share**2 / (1 - share)
    return float(1 / ((share**2).sum() + leverage.sum() ** 2 - (leverage**2).sum()))


def _residuals(runs: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sum of the deviations from each run's mean in each cluster, (..., runs, clusters), and the cluster sizes."""
    _, inverse, sizes = np.unique(codes, return_inverse=True, return_counts=True)
    deviations = (runs - runs.mean(-1, keepdims=True))[..., np.argsort(inverse, kind="stable")]
    return np.add.reduceat(deviations, np.cumsum(sizes) - sizes, axis=-1), sizes


def _article_covariance(residuals: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The CR2 estimator for a mean, which gives a cluster more weight the more it influences the mean.

    Bell & McCaffrey (2002); Pustejovsky & Tipton (2018). For a regression on an intercept alone the adjustment matrix
    comes down to a factor of 1 / sqrt(1 - share of the questions).
    """
    questions = sizes.sum()
    return (residuals / (1 - sizes / questions)) @ np.swapaxes(residuals, -1, -2) / questions**2


def _bootstrap_covariance(
    residuals: np.ndarray, sizes: np.ndarray, resamples: int, generator: np.random.Generator
) -> np.ndarray:
    """The bootstrap covariance of the runs' mean scores, with the same resampled passages for all runs (Efron)."""
    passages = len(sizes)
    total, products = np.zeros(residuals.shape[:-1]), np.zeros((*residuals.shape[:-1], residuals.shape[-2]))
    at_once = max(1, AT_ONCE // passages)
    for begin in range(0, resamples, at_once):
        size = min(at_once, resamples - begin)
        counts = generator.multinomial(passages, np.full(passages, 1 / passages), size=size).astype(float)
        deviations = residuals @ counts.T / (counts @ sizes)
        total += deviations.sum(-1)
        products += deviations @ np.swapaxes(deviations, -1, -2)
    centre = total / resamples
    covariance: np.ndarray = products / resamples - centre[..., :, None] * centre[..., None, :]
    return covariance * passages / (passages - 1)


def _seed_variances(means: np.ndarray, covariance: np.ndarray, seeds: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The part of the variance of the difference that comes from the choice of seeds, estimated in two ways.

    Args:
        means: of the runs, shape (..., runs).
        covariance: of these means, from `_covariance`.
        seeds: the number of runs of each method.

    Returns:
        The estimate from the noise by question, and the one from the spread of the runs' means within a method. The
        latter also contains the variance of the seeds' levels.
    """
    freedom = sum(seeds) - 2
    if freedom == 0:
        return np.zeros(means.shape[:-1]), np.zeros(means.shape[:-1])
    centring = np.eye(sum(seeds))
    centring[: seeds[0], : seeds[0]] -= 1 / seeds[0]
    centring[seeds[0] :, seeds[0] :] -= 1 / seeds[1]
    scale = (1 / seeds[0] + 1 / seeds[1]) / freedom
    return np.einsum("rs,...rs->...", centring, covariance) * scale, ((means @ centring) ** 2).sum(-1) * scale
