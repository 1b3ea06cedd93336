"""Power analysis: the seeds and questions that a decision needs, before the first run and for an undecided comparison.

The question is always when "at most the margin worse" would be shown with 80 % power if the methods are equal.
`docs/statistics.md` derives the formulas.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtr

from src.report.statistics import Difference, blended_freedom, detectable, reach

# Typical standard deviations in points of F1, for planning a study. `python -m benchmarks.correlations` measured them
# on the test questions of two data sets, with full fine-tuning and LoRA (r=16) of MiniLM and two seeds each
# (docs/statistics.md).
METHOD_STD = 12.0  # over questions, of the difference between two methods without the noise of their seeds
NOISE_STD = 27.0  # over questions, of a run's score minus the mean over seeds
SEED_STD = 0.8  # over seeds, of a run's mean score
MOST_SEEDS = 1000  # if more would be needed, no number of seeds is reported
MOST_TIMES = 1000  # likewise for the factor by which the questions would have to grow


class Needed(NamedTuple):
    """How many more seeds alone, or questions alone, would decide a comparison; None where no number would."""

    seeds: int | None  # further seeds of each method, on the same questions
    questions: int | None  # further questions, with the same seeds


def more_needed(difference: Difference, margin: float, questions: int, seeds: int, comparisons: int = 1) -> Needed:
    """Compute how many more seeds, or questions, would show that the first method is at most the margin worse.

    The power is 80 %, under the assumption that the methods are equal. The effect of more seeds can only be estimated
    from at least two.

    Args:
        difference: the present difference.
        margin: of non-inferiority, in points of F1.
        questions, seeds: that the difference was computed from; of different numbers of seeds, the smaller.
        comparisons: the number of comparisons that the intervals are adjusted for.
    """
    question, noise, seed = difference.question_variance, difference.noise_variance, difference.seed_variance
    more = np.arange(seeds + 1, MOST_SEEDS + 1)
    by_seed = (noise + seed) * seeds / more
    reached = _reach(question - noise, by_seed, difference.question_freedom, 2 * (more - 1), comparisons)
    enough = more[reached <= margin]
    times = np.geomspace(1.01, MOST_TIMES, 700)  # in steps of one percent
    by_seed = difference.noise_variance / times + difference.seed_variance
    reached = _reach(
        (difference.question_variance - difference.noise_variance) / times,
        by_seed,
        difference.question_freedom * times,
        2 * (seeds - 1),
        comparisons,
    )
    larger = times[reached <= margin]
    return Needed(
        int(enough[0]) - seeds if len(enough) else None,
        max(1, round(questions * (larger[0] - 1))) if len(larger) else None,
    )


def chance_to_decide(difference: Difference, margin: float, seeds: int, planned: int, comparisons: int = 1) -> float:
    """Compute the probability that the planned seeds decide a comparison that is still open (conditional power).

    An undecided comparison is decided when its interval excludes -margin or 0; one that is worse by an unknown number
    of points, when its interval excludes -margin. Later seeds are assumed to be like the present ones: their mean is
    distributed around the present mean, with the variance of seeds and of the noise by question, and the interval
    narrows accordingly.

    Args:
        difference: after `seeds` seeds of each method, adjusted for `comparisons`.
        margin: of non-inferiority, in points of F1.
        seeds: the number of seeds of each method so far.
        planned: the number of seeds at the last look.
        comparisons: the number of comparisons that the intervals are adjusted for, times the looks.

    Returns:
        The probability that the last interval decides more than the present one.
    """
    by_seed = difference.noise_variance + difference.seed_variance
    stays = max(0.0, difference.question_variance - difference.noise_variance)
    last = stays + by_seed * seeds / planned
    freedom = blended_freedom(by_seed * seeds / planned / last, difference.question_freedom, 2 * (planned - 1))
    half = float(reach(freedom, comparisons) * np.sqrt(last))
    # The last mean contains the present one; the rest of it has the variance of the seeds to come.
    moves = float(np.sqrt(by_seed * (planned - seeds) / planned))
    highest = -margin if difference.high < 0 else 0.0  # the upper end below which the first method is decided worse
    up, down = difference.mean - half + margin, highest - difference.mean - half
    if moves == 0:
        return float(up > 0 or down > 0)
    return float(stdtr(2 * (seeds - 1), [up / moves, down / moves]).sum().clip(max=1))


def reachable_margin(
    questions: int, passages: int, articles: int | None = None, seeds: int = 3, comparisons: int = 1
) -> float:
    """Compute the smallest margin, in points of F1, within which equal methods are shown to be with 80 % power.

    It uses the typical standard deviations above, before any run. Articles are assumed to be of equal size, and
    questions about one text to be independent. With one seed, the margin holds for two single runs only.

    Args:
        questions, passages, articles: the numbers that are scored; articles only if the split is by article.
        seeds: the number of seeds of each method.
        comparisons: the number of comparisons.
    """
    units = next((count for count in (articles, passages, questions) if count and count > 1), 2)
    if seeds == 1:
        variance = (METHOD_STD**2 + 2 * NOISE_STD**2) / questions
        return float(_reach(variance, 0.0, units - 1, 0, comparisons))
    by_seed = 2 * (NOISE_STD**2 / questions + SEED_STD**2) / seeds
    return float(_reach(METHOD_STD**2 / questions, by_seed, units - 1, 2 * (seeds - 1), comparisons))


def _reach(by_question: Any, by_seed: Any, question_freedom: Any, seed_freedom: Any, comparisons: int) -> Any:
    """The difference that is detected with 80 % power.

    Args:
        by_question: the part of the squared standard error that does not depend on the number of seeds.
        by_seed: the part that falls with the number of seeds.
        question_freedom, seed_freedom: the degrees of freedom of the two parts.
        comparisons: the number of comparisons.
    """
    variance = by_question + by_seed
    freedom = blended_freedom(by_seed / variance, question_freedom, seed_freedom)
    return detectable(freedom, comparisons) * np.sqrt(variance)
