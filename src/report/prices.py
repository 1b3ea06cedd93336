"""The time that runs took, and its price at `hardware.price_per_hour`."""

from __future__ import annotations

from collections.abc import Sequence

from src.report.arms import Arm, Result
from src.report.words import above_zero

SPENT_SECONDS = "spent_seconds"  # tag of a run of a sweep: the seconds of all its attempts


def every_run(arm: Arm) -> list[Result]:
    """All runs of an arm that have ended: finished, failed and pruned ones."""
    return [*(run for trial in arm.trials for run in trial.runs), *arm.failed, *arm.pruned]


def run_seconds(run: Result) -> float | None:
    """The seconds that a run took, as its sweep counted them or else as it measured them itself; None if unknown."""
    seconds = above_zero(run.tags.get(SPENT_SECONDS)) or run.metrics.get("time/total_seconds")
    if seconds is None and "resumed" not in run.tags:  # between attempts it may have waited for days
        seconds = ((run.ended or run.started) - run.started) / 1000
    return None if seconds is None or seconds <= 0 else seconds


def run_price(run: Result) -> float | None:
    """The price of a run at `hardware.price_per_hour`; None where price or time is unknown."""
    price, seconds = above_zero(run.params.get("hardware.price_per_hour")), run_seconds(run)
    return None if price is None or seconds is None else price * seconds / 3600


def price_of_a_run(arm: Arm) -> float | None:
    """The mean price of the runs at the best setting; None where one of them has no price."""
    price = total([run_price(run) for run in arm.best.runs])
    return None if price is None else price / len(arm.best.runs)


def price_of_tuning(arm: Arm) -> float | None:
    """The price of all runs of an arm together; None where one of them has no price."""
    return total([run_price(run) for run in every_run(arm)])


def total(amounts: Sequence[float | None]) -> float | None:
    """The sum of some amounts; None where one of them is unknown."""
    known = [amount for amount in amounts if amount is not None]
    return sum(known) if len(known) == len(amounts) else None
