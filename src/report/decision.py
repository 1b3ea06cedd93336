"""What an interval and a margin decide."""

from __future__ import annotations

from enum import Enum

from src.report.statistics import Difference


class Decision(Enum):
    """What a comparison of a method with its baseline has shown; `verdict.json` holds the values."""

    BETTER = "better"
    NOT_INFERIOR = "at most the margin worse"
    INFERIOR = "worse by more than the margin"
    WORSE = "worse, by how much is open"
    UNDECIDED = "undecided"


OPEN = (Decision.UNDECIDED, Decision.WORSE)  # what more seeds may still decide


def decide(difference: Difference, margin: float) -> Decision:
    """The decision on a difference in F1, from the ends of its interval.

    Args:
        difference: of the method minus its baseline.
        margin: points of F1 that the method may lose and still be preferred, above 0.
    """
    if difference.low > 0:
        return Decision.BETTER
    if difference.low > -margin:
        return Decision.NOT_INFERIOR
    if difference.high < -margin:
        return Decision.INFERIOR
    return Decision.WORSE if difference.high < 0 else Decision.UNDECIDED
