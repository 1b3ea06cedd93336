"""How many seeds and questions a decision takes: before the first run, and when a comparison is undecided.

Both ask when "at most the margin worse" would be shown with 80 % power if the methods are equal. `docs/statistics.md`
derives it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtr

from src.report.statistics import Difference, blended_freedom, detectable, reach

# Typical values, in points of F1, from which a study is planned: measured by `python -m benchmarks.correlations` on the
# test questions of full fine-tuning and LoRA (r=16) of MiniLM, two seeds each, on two data sets (docs/statistics.md).
METHOD_STD = 12.0  # by question, of the difference between two methods, whatever the seeds
NOISE_STD = 27.0  # by question, of one run from the mean over seeds
SEED_STD = 0.8  # of one run's level from the mean over seeds
MOST_SEEDS = 1000  # more than that counts as no number of them
MOST_TIMES = 1000  # as many questions as there are


class Needed(NamedTuple):
    """What would decide it, each by itself; None where no number can."""

    seeds: int | None  # more for each method, on the same questions
    questions: int | None  # more, with the same seeds


def more_needed(difference: Difference, margin: float, questions: int, seeds: int, comparisons: int = 1) -> Needed:
    """How many more seeds, or more questions, would show that the first method is at most the margin worse.

    With 80 % power, if the methods are equal. It takes two seeds at least to know what more of them would do.

    Args:
        difference: as computed.
        margin: of non-inferiority, in points of F1.
        questions, seeds: behind the difference; the fewer seeds where the methods differ.
        comparisons: among which the difference is one.
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
    """How likely it is that the planned seeds decide what is open now.

    An undecided comparison is decided when its interval leaves out -margin or 0; one that is worse by an open number of
    points, when it leaves out -margin. The later seeds are taken to be like the present ones: their mean lies about the
    present mean with the variance that seeds and the noise by question give it, and the interval gets as narrow as
    those variances say.

    Args:
        difference: as computed after `seeds` seeds of each method, adjusted for `comparisons`.
        margin: of non-inferiority, in points of F1.
        seeds: of each method so far.
        planned: at the last look.
        comparisons: that the intervals are adjusted for, looks included.

    Returns:
        The chance that the last interval decides more than the present one.
    """
    by_seed = difference.noise_variance + difference.seed_variance
    stays = max(0.0, difference.question_variance - difference.noise_variance)
    last = stays + by_seed * seeds / planned
    freedom = blended_freedom(by_seed * seeds / planned / last, difference.question_freedom, 2 * (planned - 1))
    half = float(reach(freedom, comparisons) * np.sqrt(last))
    # The last mean holds the present one; what is new of it has the variance of the seeds to come.
    moves = float(np.sqrt(by_seed * (planned - seeds) / planned))
    highest = -margin if difference.high < 0 else 0.0  # of an interval that decides that the first method is worse
    up, down = difference.mean - half + margin, highest - difference.mean - half
    if moves == 0:
        return float(up > 0 or down > 0)
    return float(stdtr(2 * (seeds - 1), [up / moves, down / moves]).sum().clip(max=1))


def reachable_margin(
    questions: int, passages: int, articles: int | None = None, seeds: int = 3, comparisons: int = 1
) -> float:
    """The smallest margin, in points of F1, within which equal methods are shown to be with 80 % power.

    From typical deviations, before any run. Articles are taken to be of equal size and questions about one text to be
    no more alike than others; `seeds` of each method, and with one seed it is for two runs alone.

    Args:
        questions, passages, articles: that are scored; articles where the split is by article.
        seeds: of each method.
        comparisons: that are made.
    """
    units = next((count for count in (articles, passages, questions) if count and count > 1), 2)
    if seeds == 1:
        variance = (METHOD_STD**2 + 2 * NOISE_STD**2) / questions
        return float(_reach(variance, 0.0, units - 1, 0, comparisons))
    by_seed = 2 * (NOISE_STD**2 / questions + SEED_STD**2) / seeds
    return float(_reach(METHOD_STD**2 / questions, by_seed, units - 1, 2 * (seeds - 1), comparisons))


def _reach(by_question: Any, by_seed: Any, question_freedom: Any, seed_freedom: Any, comparisons: int) -> Any:
    """The difference that is found with 80 % power, from the parts of a squared standard error that seeds leave alone
    and that fall with them.
    """
    variance = by_question + by_seed
    freedom = blended_freedom(by_seed / variance, question_freedom, seed_freedom)
    return detectable(freedom, comparisons) * np.sqrt(variance)
