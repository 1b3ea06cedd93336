"""What runs took, and what that cost at `hardware.price_per_hour`."""

from __future__ import annotations

from collections.abc import Sequence

from src.report.arms import Arm, Result
from src.report.words import above_zero

SPENT_SECONDS = "spent_seconds"  # tag of a sweep's run: what all its attempts took


def every_run(arm: Arm) -> list[Result]:
    """All runs of an arm that have come to an end: finished, failed and pruned ones."""
    return [*(run for trial in arm.trials for run in trial.runs), *arm.failed, *arm.pruned]


def run_seconds(run: Result) -> float | None:
    """The seconds that a run took, as a settled sweep has counted them or as it has measured them itself.

    None where they are not known.
    """
    seconds = above_zero(run.tags.get(SPENT_SECONDS)) or run.metrics.get("time/total_seconds")
    if seconds is None and "resumed" not in run.tags:  # between attempts it may have waited for days
        seconds = ((run.ended or run.started) - run.started) / 1000
    return None if seconds is None or seconds <= 0 else seconds


def run_price(run: Result) -> float | None:
    """What a run cost at `hardware.price_per_hour`; None where the price or the time is not known."""
    price, seconds = above_zero(run.params.get("hardware.price_per_hour")), run_seconds(run)
    return None if price is None or seconds is None else price * seconds / 3600


def price_of_a_run(arm: Arm) -> float | None:
    """The mean over the seeds of the best setting; None where one of them has no price."""
    price = total([run_price(run) for run in arm.best.runs])
    return None if price is None else price / len(arm.best.runs)


def price_of_tuning(arm: Arm) -> float | None:
    """The sum over all runs of an arm; None where one of them has no price."""
    return total([run_price(run) for run in every_run(arm)])


def total(amounts: Sequence[float | None]) -> float | None:
    """Their sum; None where one of them is not known."""
    known = [amount for amount in amounts if amount is not None]
    return sum(known) if len(known) == len(amounts) else None
