"""The part of a settled sweep's plan that a report needs: its seeds, looks and budget."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from src.report.words import count, listed

BRACKET, SECOND_SEED, REPEAT = "bracket", "second choosing seed", "repeat"
PHASES = (BRACKET, SECOND_SEED, REPEAT)
RULES = "docs/protocol.md"


@dataclass(frozen=True)
class Schedule:
    """The plan of a settled sweep: seeds to choose rates on, fresh seeds to repeat them, and looks at the test set."""

    looks: tuple[int, ...]  # the numbers of verdict seeds after which the test set is looked at
    shares: int  # the number of looks that share the error rate: those planned before the first run
    choosing_seeds: tuple[str, ...]  # the first for the bracket, the second for two rates that score close
    verdict_seeds: tuple[str, ...]
    comparisons: int  # planned comparisons with a baseline
    margin: float  # points of F1
    budget: str  # as it was typed
    least_chance: float  # an arm stops if the chance of being decided at the last look falls below this
    second_seed: bool = False  # two rates that score close are also run with the second choosing seed
    by: tuple[str, ...] = ()  # parameters that separate arms in addition to the method
    parent: str = ""  # run id of the parent run; runs of other parents were reused and cost nothing here
    out: Mapping[str, str] = field(default_factory=dict)  # arms that could not take part, and why
    probing: float = 0.0  # seconds that the probes took
    reachable: float | None = None  # the margin in points of F1 that test set and seeds were expected to show

    def phase(self, seed: str) -> str:
        """The phase in which a run with this seed was made, one of PHASES."""
        if seed in self.verdict_seeds:
            return REPEAT
        return SECOND_SEED if seed in self.choosing_seeds[1:] else BRACKET

    def look(self, *ran: Collection[str]) -> int:
        """The number of the last look that all given arms have reached; 0 if one has not reached the first.

        Args:
            ran: the seeds that each arm was run with, however the runs ended.
        """
        both = [all(seed in seeds for seeds in ran) for seed in self.verdict_seeds]
        reached = (*both, False).index(False)
        return sum(seeds <= reached for seeds in self.looks)

    def tests(self, comparisons: int) -> int:
        """The number of intervals that share the error rate: the comparisons, planned or made, times the looks."""
        return max(self.comparisons, comparisons) * self.shares

    def adjustment(self, comparisons: int) -> str:
        """What the intervals are adjusted for: `2 comparisons at 2 looks`, `2 looks`; empty for a single interval."""
        number = max(self.comparisons, comparisons)
        parts = [count(number, "comparison")] if number > 1 else []
        return " at ".join([*parts, *([count(self.shares, "look")] if self.shares > 1 else [])])

    def __str__(self) -> str:
        """The protocol in one sentence."""
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
    """The look at the test set that a contrast is based on."""

    number: int  # from 1; 0 before the first one
    of: int
    seeds: int  # verdict seeds of each method so far, including those that failed
    planned: int  # verdict seeds of each method
    chance: float | None  # of being decided at the last look; None if it is decided, or at the last look
    goes_on: bool  # whether the sweep continues to later looks
