"""The runs, time and money that a settled sweep spent on each arm, by phase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from src.report.arms import Result, seed_of
from src.report.prices import run_price, run_seconds, total
from src.report.schedule import PHASES, Schedule


@dataclass(frozen=True)
class Spent:
    """The runs of an arm in one phase, with their time and price."""

    arm: str
    phase: str  # one of `src.report.schedule.PHASES`
    runs: int
    cut_short: int  # of these, the runs that were stopped because they were clearly behind after the first epoch
    failed: int
    seconds: float | None  # None where the time of a run is unknown
    price: float | None  # at hardware.price_per_hour


def spending(runs: Mapping[str, Sequence[Result]], schedule: Schedule) -> list[Spent]:
    """Compute what was spent on each arm in each phase that it has runs in, in the order of arms and phases.

    Args:
        runs: all runs of each arm, by its name, however they ended.
        schedule: whose seeds determine the phases.
    """
    result = []
    for name, all_runs in runs.items():
        members = [run for run in all_runs if run.tags.get("mlflow.parentRunId") == schedule.parent]
        for phase in PHASES:
            if of_phase := [run for run in members if schedule.phase(seed_of(run)) == phase]:
                result.append(_spent(name, phase, of_phase))
    return result


def together(parts: Sequence[Spent], arm: str, phase: str) -> Spent:
    """Add up several parts, under the name of an arm and a phase."""
    return Spent(
        arm,
        phase,
        sum(part.runs for part in parts),
        sum(part.cut_short for part in parts),
        sum(part.failed for part in parts),
        total([part.seconds for part in parts]),
        total([part.price for part in parts]),
    )


def _spent(name: str, phase: str, runs: Sequence[Result]) -> Spent:
    cut, failed = sum(run.pruned for run in runs), sum(run.failed for run in runs)
    seconds, price = total([run_seconds(run) for run in runs]), total([run_price(run) for run in runs])
    return Spent(name, phase, len(runs), cut, failed, seconds, price)
