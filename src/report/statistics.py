"""How far apart two methods are, and how sure that is: a paired bootstrap over the questions, seeds taken in.

What varies is kept apart. Which questions happen to be in the validation set: both methods answer the same ones, so
questions are drawn with their pairs. Which seed a run happens to have: its spread is estimated over the runs of both
methods, and its uncertainty comes from Student's t with as many degrees of freedom as runs beyond the first of each
method. With one run a method the spread between seeds is unknown, and the interval is about these two runs alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
CONFIDENCE = 0.95
SEED = 0
# Standard errors from zero at which a two-sided test at 5 % finds a difference four times out of five.
FOUND_FOUR_IN_FIVE = 1.960 + 0.842


@dataclass(frozen=True)
class Difference:
    """The mean of the first method minus that of the second, in the unit of the scores."""

    mean: float
    low: float  # ends of the 95 % interval
    high: float
    p: float  # of no difference, two-sided
    unseen: float  # a true difference of this size is found four times out of five, a smaller one less often

    @property
    def shown(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


def compare(
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    resamples: int = RESAMPLES,
    generator: np.random.Generator | None = None,
) -> list[Difference]:
    """Compare two methods in several scores at once, on the same resampled questions.

    Args:
        first, second: the scores of a method, each of shape (seeds, questions); the questions in one order everywhere.
        resamples: how often questions are drawn.
        generator: of the draws; by default always the same.

    Returns:
        A difference for each score.
    """
    generator = generator or np.random.default_rng(SEED)
    differences = np.stack([a.mean(0) - b.mean(0) for a, b in zip(first, second, strict=True)])
    draws = _bootstrap_means(differences, resamples, generator)
    found = []
    for a, b, difference, means in zip(first, second, differences, draws, strict=True):
        replicates = means + _seed_noise(a, b, resamples, generator)
        low, high = np.quantile(replicates, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        beyond = min((replicates <= 0).sum(), (replicates >= 0).sum())
        p = min(1.0, 2 * (int(beyond) + 1) / (resamples + 1))
        # Half the interval rather than the deviation: Student's t with few degrees of freedom has none.
        unseen = FOUND_FOUR_IN_FIVE * (high - low) / 2 / 1.960
        found.append(Difference(float(difference.mean()), float(low), float(high), p, float(unseen)))
    return found


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


def holm(p: Sequence[float]) -> list[float]:
    """The p-values adjusted for their number (Holm 1979), in the order given."""
    order = np.argsort(p)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(np.asarray(p)[order] * (len(p) - np.arange(len(p)))))
    return [float(value) for value in adjusted]
