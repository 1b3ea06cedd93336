"""How far apart two methods are, and how sure that is: a paired bootstrap over the passages, seeds taken in.

What varies is kept apart. Which questions happen to be in the set that is scored: both methods answer the same ones, so
they are drawn with their pairs, and by passage, since questions about one passage may be alike. Which seed a run
happens to have: its spread is estimated over the runs of both methods, and its uncertainty comes from Student's t with
as many degrees of freedom as runs beyond the first of each method. With one run a method the spread between seeds is
unknown, and the interval is for these two runs alone. `docs/statistics.md` derives every formula.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
CONFIDENCE = 0.95
SEED = 0
POWER = 0.842  # standard normal quantile of 80 %


@dataclass(frozen=True)
class Clusters:
    """Which passage and which article each question is about, as integer codes of shape (questions,)."""

    passages: np.ndarray
    articles: np.ndarray | None = None  # None where the split is not by article

    @property
    def counts(self) -> tuple[int, int | None]:
        """The numbers of passages and of articles."""
        return len(np.unique(self.passages)), None if self.articles is None else len(np.unique(self.articles))


@dataclass(frozen=True)
class Difference:
    """The mean of the first method minus that of the second, in the unit of the scores."""

    mean: float
    low: float  # ends of the 95 % interval, adjusted for the number of comparisons
    high: float
    p: float  # of no difference, two-sided
    adjusted_p: float
    p_inferior: float  # one-sided: of the first method being worse by the margin or more
    adjusted_p_inferior: float
    minimum_detectable: float  # 80 % power, adjusted for the number of comparisons
    standard_error: float
    degrees_of_freedom: float
    # What decides how many more seeds or questions are needed: the two parts of standard_error squared.
    question_variance: float  # falls with the number of questions
    seed_variance: float  # falls with the number of seeds; 0 with one seed, where it is not known

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
            everywhere. There is one split unless settings were cross-fitted (`src.report.scored`).
        clusters: of the questions.
        comparisons: among which this is one; intervals hold for all of them together.
        margin: of non-inferiority, in the unit of the scores.
        resamples: how often passages are drawn.
        generator: of the draws; by default always the same.

    Returns:
        A difference for each score.
    """
    generator = generator or np.random.default_rng(SEED)
    tail = (1 - CONFIDENCE) / 2 / comparisons
    results = []
    for a, b in zip((scores[0] for scores in first), (scores[0] for scores in second), strict=True):
        difference = a.mean(0) - b.mean(0)
        means = _bootstrap_means(difference[None], resamples, generator)[0]
        noise = _seed_noise(a, b, resamples, generator)
        replicates = means + noise
        low, high = np.quantile(replicates, [tail, 1 - tail])
        beyond = min((replicates <= 0).sum(), (replicates >= 0).sum())
        p = min(1.0, 2 * (int(beyond) + 1) / (resamples + 1))
        p_inferior = min(1.0, (int((replicates <= -margin).sum()) + 1) / (resamples + 1))
        error = (high - low) / 2 / 1.960
        results.append(
            Difference(
                float(difference.mean()),
                float(low),
                float(high),
                p,
                min(1.0, comparisons * p),
                p_inferior,
                min(1.0, comparisons * p_inferior),
                float((1.960 + POWER) * error),
                float(error),
                float("inf"),
                float(means.var()),
                float(noise.var()),
            )
        )
    return results


def _bootstrap_means(scores: np.ndarray, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """Means of each row of `scores` over questions drawn with replacement, (rows, resamples)."""
    questions = scores.shape[1]
    means = np.empty((len(scores), resamples))
    for i in range(resamples):
        means[:, i] = scores @ np.bincount(generator.integers(questions, size=questions), minlength=questions)
    return means / questions


def _seed_noise(first: np.ndarray, second: np.ndarray, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """What other seeds would add to the difference of the two means."""
    freedom = len(first) + len(second) - 2
    if freedom == 0:
        return np.zeros(resamples)
    # The spread of the runs' means holds what is by question and seed together, which the bootstrap over the questions
    # has already: only what is left of it is the seeds' own.
    spread = sum(float(((runs.mean(1) - runs.mean()) ** 2).sum()) for runs in (first, second)) / freedom
    by_question = 0.0
    for runs in (first, second):
        residual = runs - runs.mean(0) - runs.mean(1, keepdims=True) + runs.mean()
        by_question += float((residual**2).sum()) / (runs.shape[1] - 1)
    own = max(0.0, spread - by_question / freedom / first.shape[1])
    return np.sqrt(own * (1 / len(first) + 1 / len(second))) * generator.standard_t(freedom, resamples)
