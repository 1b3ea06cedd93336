"""The decision that follows from a confidence interval and a margin."""

from __future__ import annotations

from enum import Enum

from src.report.statistics import Difference


class Decision(Enum):
    """The result of comparing a method with its baseline; `verdict.json` holds the values."""

    BETTER = "better"
    NOT_INFERIOR = "at most the margin worse"
    INFERIOR = "worse by more than the margin"
    WORSE = "worse, by how much is open"
    UNDECIDED = "undecided"


OPEN = (Decision.UNDECIDED, Decision.WORSE)  # decisions that more seeds may still change


def decide(difference: Difference, margin: float) -> Decision:
    """Decide on a difference in F1 by the ends of its interval.

    Args:
        difference: the method minus its baseline.
        margin: points of F1 that the method may lose and still be preferred, above 0.
    """
    if difference.low > 0:
        return Decision.BETTER
    if difference.low > -margin:
        return Decision.NOT_INFERIOR
    if difference.high < -margin:
        return Decision.INFERIOR
    return Decision.WORSE if difference.high < 0 else Decision.UNDECIDED
