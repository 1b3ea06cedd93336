"""The plan of a settled sweep, which is stored with its parent run before the first run."""

from __future__ import annotations

from typing import NamedTuple

from src.config import UserError
from src.protocol.plan import Plan
from src.runs.records import Selection, Source

PLAN = "plan"  # tag of the parent run: the plan, as JSON
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
    [parent] = [each for each in source.sweeps() if each.id == selection.parents[0]]
    if PLAN not in parent.tags:
        return None
    try:
        plan = Plan.from_json(parent.tags[PLAN])
        if not plan.looks or sorted({*plan.looks}) != plan.looks or not 0 < plan.looks[0] <= len(plan.verdict_seeds):
            raise ValueError(f"looks at {plan.looks}")
        return Stored(plan, int(parent.tags[ENDED_AT]) if ENDED_AT in parent.tags else None)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())[:150]
        raise UserError(
            f"The plan of the sweep {parent.name} (tag `{PLAN}` of run {parent.id[:8]}) cannot be read ({reason}): how "
            "often it looked at the test set is not known. Name its runs to compare them without it (runs=[...])."
        ) from error
