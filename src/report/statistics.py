"""How far apart two methods are, and how sure that is: paired, by passage or article, seeds taken in.

What varies is kept apart. Which questions happen to be in the set that is scored: both methods answer the same ones, so
they vary with their pairs, and by article or passage, since questions about one text may be alike. Which seed a run
happens to have: its spread is estimated over the runs of both methods, and its uncertainty comes from Student's t with
as many degrees of freedom as runs beyond the first of each method. With one run a method the spread between seeds is
unknown, and the interval is for these two runs alone. `docs/statistics.md` derives every formula.
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
FEWEST_SCORED = 10  # questions with a score above 0, below which there is nothing to resample
AT_ONCE = 1_000_000  # drawn counts that are held in memory at a time


@dataclass(frozen=True)
class Clusters:
    """Which passage and which article each question is about, as integer codes of shape (questions,)."""

    passages: np.ndarray
    articles: np.ndarray | None = None  # None where the split is not by article

    @property
    def counts(self) -> tuple[int, int | None]:
        """The numbers of passages and of articles."""
        return len(np.unique(self.passages)), None if self.articles is None else len(np.unique(self.articles))

    @property
    def unit(self) -> str:
        """What is taken to be independent: `article` where the split is by article, otherwise `passage`.

        Where there is only one, the interval is for it alone, and the unit is the next smaller one, down to `question`.
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
    adjusted_p: float  # below 0.05 exactly where the interval leaves out 0
    p_inferior: float  # one-sided: of the first method being worse by the margin or more
    adjusted_p_inferior: float  # below 0.025 exactly where the interval lies above -margin
    minimum_detectable: float  # 80 % power, adjusted for the number of comparisons
    standard_error: float
    degrees_of_freedom: float
    # What decides how many more seeds or questions are needed: the two parts of standard_error squared.
    question_variance: float  # falls with the number of questions
    seed_variance: float  # falls with the number of seeds; 0 with one seed, where it is not known
    noise_variance: float  # the part of question_variance that falls with seeds too; 0 with one seed
    question_freedom: float  # degrees of freedom of question_variance

    @property
    def significant(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0

    @property
    def bound(self) -> float:
        """How much worse the first method is at most (95 %); 0 where it is better."""
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
        first, second: the scores of a method, each of shape (splits, seeds, questions); the questions in one order
            everywhere. There is one split unless settings were cross-fitted (`src.report.crossfit`), whose differences
            are taken together by their median (Chernozhukov et al. 2018, "Double/debiased machine learning").
        clusters: of the questions.
        comparisons: among which this is one; intervals hold for all of them together (Bonferroni).
        margin: of non-inferiority, in the unit of the scores.
        resamples: how often passages are drawn; nothing is drawn where articles are the unit.
        generator: of the draws; by default always the same.

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
        question = np.full_like(question, np.inf)  # one question tells nothing of others
    noise, spread = _seed_variances(means, covariance, seeds)
    seed = np.maximum(0.0, spread - noise)  # the seeds' own: what is by question and seed is in `question`
    parts = (mean, question, np.minimum(noise, question), seed, spread)
    return [
        _difference(*split_values, freedom, sum(seeds) - 2, comparisons, margin)
        for split_values in zip(*parts, strict=True)
    ]


def interval(scores: np.ndarray, clusters: Clusters) -> tuple[float, float]:
    """The ends of the 95 % interval of the mean score of one run, over other questions; nothing is said of other seeds.

    Args:
        scores: shape (questions,).
        clusters: of the questions.
    """
    covariance, freedom = _covariance(scores[None, :].astype(float), clusters, RESAMPLES, np.random.default_rng(SEED))
    half = float(reach(freedom, 1) * np.sqrt(covariance[0, 0]))
    return float(scores.mean()) - half, float(scores.mean()) + half


def reach(freedom: Any, comparisons: int) -> Any:
    """How many standard errors an interval reaches to each side."""
    return stdtrit(freedom, 1 - (1 - CONFIDENCE) / 2 / comparisons)


def detectable(freedom: Any, comparisons: int) -> Any:
    """How many true standard errors a difference must be large to be found with 80 % power (noncentral t)."""
    return nctdtrinc(freedom, 1 - POWER, reach(freedom, comparisons))


def blended_freedom(share: Any, question_freedom: Any, seed_freedom: Any) -> Any:
    """Degrees of freedom of a variance of which a share comes from the spread of runs, and the rest from questions.

    The mean of the two reciprocals, weighted by the shares. Satterthwaite (1946) weights by their squares; since the
    shares are estimated too, that is too many where the spread of a few runs is small by chance.
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
    """Of one score, from the mean difference and the variances in each split."""
    middle = float(np.median(mean))
    variance = float(np.median(question + seed + (mean - middle) ** 2))
    total = question + seed
    share = np.divide(spread, total, out=np.zeros_like(total), where=total > 0).clip(max=1)
    freedom = float(np.median(blended_freedom(share, question_freedom, seed_freedom)))
    error = float(np.sqrt(variance))
    half = float(reach(freedom, comparisons)) * error
    # A standard error from few degrees of freedom is too small on average, by this factor.
    unbiased = np.sqrt(2 / freedom) * poch(freedom / 2, 0.5)

    def tail(distance: float) -> float:
        """The chance of a mean at least so far above the truth."""
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
    """How the mean scores of runs (..., runs, questions) would vary together over other questions; see `Clusters.unit`.

    Returns:
        Covariances (..., runs, runs) and their degrees of freedom.
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
    """Degrees of freedom of the CR2 variance of a mean over clusters of some sizes: one less than clusters if equal.

    Bell & McCaffrey (2002), with independent questions as the working model.
    """
    share = sizes / sizes.sum()
    leverage = share**2 / (1 - share)
    return float(1 / ((share**2).sum() + leverage.sum() ** 2 - (leverage**2).sum()))


def _residuals(runs: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums by cluster of the deviations from each run's mean (..., runs, clusters), and the clusters' sizes."""
    _, inverse, sizes = np.unique(codes, return_inverse=True, return_counts=True)
    deviations = (runs - runs.mean(-1, keepdims=True))[..., np.argsort(inverse, kind="stable")]
    return np.add.reduceat(deviations, np.cumsum(sizes) - sizes, axis=-1), sizes


def _article_covariance(residuals: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The CR2 estimator for a mean: each cluster counts for more, the more it has pulled the mean to itself.

    Bell & McCaffrey (2002); Pustejovsky & Tipton (2018). For a regression on an intercept alone the adjustment matrix
    comes down to a factor of 1 / sqrt(1 - share of the questions).
    """
    questions = sizes.sum()
    return (residuals / (1 - sizes / questions)) @ np.swapaxes(residuals, -1, -2) / questions**2


def _bootstrap_covariance(
    residuals: np.ndarray, sizes: np.ndarray, resamples: int, generator: np.random.Generator
) -> np.ndarray:
    """Over resampled passages, the same for all runs, of their means over questions: a ratio of two sums (Efron)."""
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
    """What runs with other seeds add to the variance of the difference of means (..., runs), estimated in two ways.

    Returns:
        From how they differ question by question, by `covariance`; and from the spread of their means within a method,
        which holds the seeds' own levels as well.
    """
    freedom = sum(seeds) - 2
    if freedom == 0:
        return np.zeros(means.shape[:-1]), np.zeros(means.shape[:-1])
    centring = np.eye(sum(seeds))
    centring[: seeds[0], : seeds[0]] -= 1 / seeds[0]
    centring[seeds[0] :, seeds[0] :] -= 1 / seeds[1]
    scale = (1 / seeds[0] + 1 / seeds[1]) / freedom
    return np.einsum("rs,...rs->...", centring, covariance) * scale, ((means @ centring) ** 2).sum(-1) * scale
