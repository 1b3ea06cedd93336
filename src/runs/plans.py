"""Reads the plan of a settled sweep, which is stored with its parent run before the first run."""

from __future__ import annotations

from typing import NamedTuple

from src.config import UserError, one_line
from src.protocol.plan import Plan
from src.runs.parent import PLAN
from src.runs.records import Record, Selection, Source

ENDED_AT = "ended_at"  # tag: the number of verdict seeds after which the budget was used up before the last look


class Stored(NamedTuple):
    """A plan, and the number of verdict seeds after which the budget was used up, or None."""

    plan: Plan
    ended_at: int | None


def plan_of(source: Source, selection: Selection) -> Stored | None:
    """The plan of the selected runs; None if they are not the runs of a single sweep, or it has no plan.

    Raises:
        UserError: the plan cannot be read. Without it the number of looks at the test set is unknown.
    """
    if len(selection.parents) != 1:
        return None
    parent = next((each for each in source.sweeps() if each.id == selection.parents[0]), None)
    return None if parent is None else read_plan(parent)


def read_plan(parent: Record) -> Stored | None:
    """The plan of a parent run; None if it has no plan.

    Raises:
        UserError: the plan cannot be read.
    """
    if PLAN not in parent.tags:
        return None
    try:
        plan = Plan.from_json(parent.tags[PLAN])  # untrusted: an export may come from another machine
        looks, seeds = plan.looks, len(plan.verdict_seeds)
        if not (looks and plan.choosing_seeds and sorted({*looks}) == looks and looks[0] > 0 and looks[-1] <= seeds):
            raise ValueError(f"looks at {looks} of {seeds} seeds")
        return Stored(plan, int(parent.tags[ENDED_AT]) if ENDED_AT in parent.tags else None)
    except ValueError as error:  # also pydantic's
        reason = one_line(error, 150)
        raise UserError(
            f"The plan of the sweep {parent.name} (tag `{PLAN}` of run {parent.id[:8]}) cannot be read ({reason}): how "
            "often it looked at the test set is not known. Name its runs to compare them without it (runs=[...])."
        ) from error
