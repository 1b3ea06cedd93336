"""What runs cost at `hardware.price_per_hour`."""

from __future__ import annotations

from collections.abc import Sequence

from src.report.arms import Arm, Result
from src.report.words import above_zero


def every_run(arm: Arm) -> list[Result]:
    """All runs of an arm that have come to an end: finished, failed and pruned ones."""
    return [*(run for trial in arm.trials for run in trial.runs), *arm.failed, *arm.pruned]


def run_price(run: Result) -> float | None:
    """What a run cost at `hardware.price_per_hour`; None where the price or the time is not known."""
    price = above_zero(run.params.get("hardware.price_per_hour"))
    seconds = run.metrics.get("time/total_seconds")
    if seconds is None and "resumed" not in run.tags:  # between attempts it may have waited for days
        seconds = ((run.ended or run.started) - run.started) / 1000
    return None if price is None or seconds is None or seconds <= 0 else price * seconds / 3600


def price_of_a_run(arm: Arm) -> float | None:
    """The mean over the seeds of the best setting; None where one of them has no price."""
    total = _total([run_price(run) for run in arm.best.runs])
    return None if total is None else total / len(arm.best.runs)


def price_of_tuning(arm: Arm) -> float | None:
    """The sum over all runs of an arm; None where one of them has no price."""
    return _total([run_price(run) for run in every_run(arm)])


def _total(prices: Sequence[float | None]) -> float | None:
    known = [price for price in prices if price is not None]
    return sum(known) if len(known) == len(prices) else None
