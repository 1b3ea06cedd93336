"""What it takes to decide: the seeds and questions that are missing, and the margin that is within reach."""

from __future__ import annotations

import math
from statistics import NormalDist

from src.report.statistics import POWER, Difference

# Standard deviations of a difference in F1 between two methods, in points: of one question, and of one seed each.
QUESTION_DEVIATION, SEED_DEVIATION = 35.0, 0.7


def more_needed(
    difference: Difference, margin: float, questions: int, seeds: int, comparisons: int
) -> tuple[int | None, int | None]:
    """How many more seeds of each method, or else how many more questions, show the margin if the methods are equal.

    Seeds are None where no number of them is enough on these questions.
    """
    allowed = (margin / _standard_errors(comparisons)) ** 2
    for_seeds = allowed - difference.question_variance
    more_seeds = max(1, math.ceil(seeds * difference.seed_variance / for_seeds) - seeds) if for_seeds > 0 else None
    for_questions = max(allowed - difference.seed_variance, allowed / 10)
    return more_seeds, max(1, math.ceil(questions * difference.question_variance / for_questions) - questions)


def reachable_margin(questions: int, passages: int, articles: int | None, seeds: int, comparisons: int) -> float:
    """The smallest margin that so many questions and seeds can be expected to show, in points of F1."""
    variance = QUESTION_DEVIATION**2 / questions + 2 * SEED_DEVIATION**2 / seeds
    return _standard_errors(comparisons) * math.sqrt(variance)


def _standard_errors(comparisons: int) -> float:
    return NormalDist().inv_cdf(1 - 0.025 / comparisons) + POWER
