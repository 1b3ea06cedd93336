"""What a report needs to know of a settled sweep's plan: its seeds, its looks, and its budget."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from src.report.words import count, listed

BRACKET, SECOND_SEED, REPEAT = "bracket", "second choosing seed", "repeat"
PHASES = (BRACKET, SECOND_SEED, REPEAT)
RULES = "docs/protocol.md"


@dataclass(frozen=True)
class Schedule:
    """A settled sweep: rates chosen on some seeds, repeated on fresh ones, and looked at as often as planned."""

    looks: tuple[int, ...]  # numbers of verdict seeds at which the test set was to be looked at
    shares: int  # looks that the error is shared among: as many as were planned before the first run
    choosing_seeds: tuple[str, ...]  # the first for the bracket, the second for two rates that lie close
    verdict_seeds: tuple[str, ...]
    comparisons: int  # arms that were to be compared with a baseline
    margin: float  # points of F1
    budget: str  # as it was typed
    least_chance: float  # of being decided at the last look, below which an arm stops
    second_seed: bool = False  # two rates that lie close are run with the second choosing seed too
    by: tuple[str, ...] = ()  # parameters that tell arms apart in addition to the method
    parent: str = ""  # run id of the parent run; runs of other parents were there already, and cost nothing here
    out: Mapping[str, str] = field(default_factory=dict)  # arms that could not take part, and why
    probing: float = 0.0  # seconds that the probes took
    reachable: float | None = None  # margin, in points of F1, that test set and seeds could be expected to show

    def phase(self, seed: str) -> str:
        """Why a run with a seed was made: one of PHASES."""
        if seed in self.verdict_seeds:
            return REPEAT
        return SECOND_SEED if seed in self.choosing_seeds[1:] else BRACKET

    def look(self, *ran: Collection[str]) -> int:
        """The last look that several arms have come to, from 1; 0 where one has not come to the first.

        Args:
            ran: the seeds that each of them was run with, whichever way the runs ended.
        """
        both = [all(seed in seeds for seeds in ran) for seed in self.verdict_seeds]
        reached = (*both, False).index(False)
        return sum(seeds <= reached for seeds in self.looks)

    def tests(self, comparisons: int) -> int:
        """Among how many intervals the error is shared: the planned comparisons or those made, at each look."""
        return max(self.comparisons, comparisons) * self.shares

    def adjustment(self, comparisons: int) -> str:
        """`2 comparisons at 2 looks`, `2 looks`; empty for a single interval."""
        number = max(self.comparisons, comparisons)
        parts = [count(number, "comparison")] if number > 1 else []
        return " at ".join([*parts, *([count(self.shares, "look")] if self.shares > 1 else [])])

    def __str__(self) -> str:
        """The protocol in a line."""
        first, *second = self.choosing_seeds
        again = f" (two that lie close also on seed {second[0]})" if self.second_seed and second else ""
        one, last = len(self.looks) == 1, self.looks[-1] < len(self.verdict_seeds)
        at = f"one look at {self.looks[0]}" if one else f"looks at {listed([str(look) for look in self.looks])}"
        ended = ", where the budget was used up" if last else ""
        share = "" if self.shares == 1 else "; each look has an equal share of the error"
        return (
            f"Rates half a decade apart on seed {first}{again}, then {count(len(self.verdict_seeds), 'fresh seed')}, "
            f"{at}{ended}{share} ({RULES})."
        )


@dataclass(frozen=True)
class Look:
    """The look at the test set that a contrast rests on."""

    number: int  # from 1; 0 before the first one
    of: int
    seeds: int  # verdict seeds of each method so far, those that failed among them
    planned: int  # verdict seeds of each method
    chance: float | None  # of being decided at the last look; None where it is decided, and at the last look
    goes_on: bool  # the sweep has not ended: later looks are still to come
