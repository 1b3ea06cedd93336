"""The plan of a settled sweep, which is stored with its parent run before the first run."""

from __future__ import annotations

from typing import NamedTuple

from src.config import UserError, one_line
from src.protocol.plan import Plan
from src.runs.parent import PLAN
from src.runs.records import Record, Selection, Source

ENDED_AT = "ended_at"  # tag: verdict seeds after which the budget was used up, where that was before the last look


class Stored(NamedTuple):
    """A plan, and after how many verdict seeds the budget was used up; None where it was not."""

    plan: Plan
    ended_at: int | None


def plan_of(source: Source, selection: Selection) -> Stored | None:
    """The plan of the chosen runs: where they are those of one sweep, and it has a plan.

    Raises:
        UserError: the plan cannot be read. Without it nobody knows how often the test set was looked at.
    """
    if len(selection.parents) != 1:
        return None
    parent = next((each for each in source.sweeps() if each.id == selection.parents[0]), None)
    return None if parent is None else read_plan(parent)


def read_plan(parent: Record) -> Stored | None:
    """The plan of a parent run; None where it has none.

    Raises:
        UserError: the plan cannot be read.
    """
    if PLAN not in parent.tags:
        return None
    try:
        plan = Plan.from_json(parent.tags[PLAN])  # which may come from another machine, in an export
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
