"""The margin of a comparison, and whether it was named before the runs were made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from src.config import SweepConfig, UserError
from src.runs.parent import MARGIN
from src.runs.records import Record, Selection, Source


class Margin(NamedTuple):
    """A margin in points of F1, whether it was named after the runs were made, and a note on how it was chosen."""

    points: float
    afterwards: bool
    note: str = ""


class _Named(NamedTuple):
    """The margin of a sweep in points of F1, and when the sweep was started, in milliseconds since 1970."""

    points: float
    started: int


def margin_of(source: Source, selection: Selection, given: float | None) -> Margin:
    """The margin that was given, or else the smallest margin that the chosen sweeps have named.

    It counts as named afterwards if a run was made before it was named: outside a sweep, or by a sweep with no margin
    or another one.

    Raises:
        UserError: the given one is not above 0.
    """
    if given is not None and not 0 < given < math.inf:
        raise UserError(f"margin={given:g} must be a number above 0.")
    named = {parent.id: margin for parent in source.sweeps() if (margin := _named(parent)) is not None}
    chosen = sorted({named[id].points for id in selection.parents if id in named})
    points = given if given is not None else chosen[0] if chosen else SweepConfig.margin
    made_under = [_made_under(run, named) for run in selection.results]
    before = [margin for margin in made_under if margin is not None]
    afterwards = not before or len(before) < len(made_under) or min(before) != points
    note = ""
    if given is None and len(chosen) > 1:
        listed = " and ".join(f"{each:g}" for each in chosen)
        note = f"The sweeps have named different margins, {listed} F1; the smallest, {points:g}, is used."
    return Margin(points, afterwards, note)


def _named(parent: Record) -> _Named | None:
    try:
        points = float(parent.tags.get(MARGIN, ""))
    except ValueError:  # none, or one that was edited by hand
        return None
    return _Named(points, parent.started) if 0 < points < math.inf else None


def _made_under(run: Record, named: Mapping[str, _Named]) -> float | None:
    """The margin that was named before a run was made; None if the run is older than its sweep."""
    first = named.get(run.sweeps[0]) if run.sweeps else None
    return None if first is None or run.started < first.started else first.points
