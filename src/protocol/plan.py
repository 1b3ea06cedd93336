"""What a settle command will do: its arms, and how many rates, seeds and looks its budget holds.

Made once, before the first run, and stored with the parent run. `docs/protocol.md` has the rules.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

from pydantic import TypeAdapter

from src.config import UserError
from src.report.planning import METHOD_STD, NOISE_STD, SEED_STD

FIRST_RATES = 3  # of an arm: its own, and half a decade to each side
FEWEST_SEEDS = 3  # for the verdict
SECOND_SEED_RUNS = 2  # of an arm: its two best rates once more
LEAST_ROUNDS = FIRST_RATES + FEWEST_SEEDS
# The numbers of verdict seeds at which the test set is looked at, by how many are planned. A further look makes every
# interval wider, so that fewer seeds and one look decide more, unless many seeds can be saved by it.
LOOKS = {3: (3,), 4: (4,), 5: (5,), 6: (6,), 7: (7,), 8: (5, 8)}
UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
RUNS, SECONDS = "runs", "seconds"
SLACK = 0.05  # of a budget of time, by which it may be overrun: no run takes exactly as long as a probe has said


class Budget(NamedTuple):
    """How much may be spent: seconds of runs, or a number of runs."""

    limit: float
    unit: str  # RUNS | SECONDS
    given: str  # as it was typed

    @property
    def is_money(self) -> bool:
        """Whether it was given as a sum of money."""
        return self.given.replace(".", "", 1).isdigit()


class Rounds(NamedTuple):
    """How a budget is shared out. A round is one run of every arm."""

    extra_rates: int
    second_seed: bool
    verdict_seeds: int


# By the number of rounds. One more rate comes first, since a bracket that cannot move compares a method at a rate that
# may be wrong; then what `python -m benchmarks.settle_worlds --parts shares` has shown to decide most: seeds.
SHARES = {
    LEAST_ROUNDS: Rounds(0, False, 3),
    7: Rounds(1, False, 3),
    8: Rounds(1, False, 4),
    9: Rounds(1, False, 5),
    10: Rounds(1, False, 6),
    11: Rounds(2, False, 6),
    12: Rounds(2, False, 7),
    13: Rounds(3, False, 7),
    14: Rounds(2, True, 7),
    15: Rounds(2, True, 8),
    16: Rounds(3, True, 8),
}


@dataclass(frozen=True)
class ArmPlan:
    """One of the variants that are compared."""

    name: str
    overrides: list[str]  # that make its configuration, without those that all share
    rate: float  # its own, which the bracket starts from: its method's, as its model scales it
    base: int | None = None  # the index of the arm that it is compared with; None for a baseline
    seconds: float = 0.0  # of one of its runs, as the probe estimates
    hash: str = ""  # of its run at that rate, by which it is known when the same command is typed again


@dataclass(frozen=True)
class Plan:
    """Everything that is settled before the first run."""

    arms: list[ArmPlan]
    budget: Budget
    margin: float  # points of F1
    extra_rates: int  # that the bracket of an arm may take beyond FIRST_RATES
    second_seed: bool  # whether two rates that lie close are run with another choosing seed
    choosing_seeds: list[int]
    verdict_seeds: list[int]
    looks: list[int]  # numbers of verdict seeds at which the test set is looked at
    by: list[str] = field(default_factory=list)  # parameters that tell arms apart in addition to the method
    out: dict[str, str] = field(default_factory=dict)  # arms that cannot take part, and why
    spread: float = 1.0  # points of F1: two rates closer than that on one seed are not told apart
    reachable: float | None = None  # the margin that test set and seeds can show
    tests: list[str] = field(default_factory=list)  # digests of the test questions
    probing: float = 0.0  # seconds that the probes took, which a budget of time pays for

    @property
    def comparisons(self) -> int:
        """Differences that are tested at a look."""
        return sum(arm.base is not None for arm in self.arms)

    @property
    def most_runs(self) -> int:
        """If every part of the plan is used."""
        second = SECOND_SEED_RUNS * self.second_seed
        return len(self.arms) * (FIRST_RATES + self.extra_rates + second + len(self.verdict_seeds))

    def cost(self, arm: int) -> float:
        """Of a run of an arm, in the unit of the budget."""
        return 1.0 if self.budget.unit == RUNS else self.arms[arm].seconds

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """
        Raises:
            ValueError: it is not a plan.
        """
        return TypeAdapter(cls).validate_json(text)


def read_budget(text: str, price_per_hour: float | None) -> Budget:
    """A budget as it is typed: `2h`, `30m`, `1h30m`, `90 s`, `40 runs`, or money where there is a price.

    Raises:
        UserError: none of these.
    """
    words = str(text).strip().lower()
    if runs := re.fullmatch(r"(\d+)\s*runs?", words):
        return Budget(float(runs[1]), RUNS, text)
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(min|[smhd])", words)
    if parts and re.fullmatch(r"(\d+(?:\.\d+)?\s*(min|[smhd])\s*)+", words):
        return Budget(sum(float(number) * UNITS[unit] for number, unit in parts), SECONDS, text)
    if re.fullmatch(r"\d+(\.\d+)?", words):
        if not price_per_hour:
            raise UserError(
                f"budget={text} has no unit: write 2h, 30m or '40 runs'; a sum of money needs price=, of an hour."
            )
        return Budget(float(words) / price_per_hour * 3600, SECONDS, text)
    raise UserError(f"budget={text} cannot be read; write 2h, 30m, '40 runs', or a sum of money with price=.")


def spread_of(questions: int) -> float:
    """Points of F1 within which one seed does not tell two rates apart: the standard deviation of their difference.

    That of two runs at equally good rates, from the typical deviations of `src.report.planning`.

    Args:
        questions: for validation, by which rates are chosen.
    """
    by_question = METHOD_STD**2 + 2 * NOISE_STD**2
    return math.sqrt(2 * SEED_STD**2 + by_question / questions)


def share_out(rounds: int) -> Rounds:
    """Share out what a budget holds between rates, a second choosing seed and verdict seeds; see SHARES.

    Args:
        rounds: runs of every arm, LEAST_ROUNDS at least.
    """
    return SHARES[min(rounds, max(SHARES))]


def make_plan(
    arms: Sequence[ArmPlan],
    budget: Budget,
    margin: float,
    first_seed: int,
    by: Sequence[str] = (),
    out: Mapping[str, str] | None = None,
    spread: float = 1.0,
    probing: float = 0.0,
) -> Plan:
    """Fix the numbers of rates, seeds and looks that a budget holds.

    A budget of time may be overrun by SLACK, so that one that was said to suffice is not refused because the next probe
    says a little more.

    Raises:
        UserError: it does not hold the least protocol.
    """
    if budget.unit == RUNS:
        a_round, limit, probing = float(len(arms)), budget.limit, 0.0
    else:
        a_round, limit = sum(arm.seconds for arm in arms), budget.limit * (1 + SLACK)
    rounds = math.floor((limit - probing) / a_round + 1e-9)
    if rounds < LEAST_ROUNDS:
        raise UserError(too_small(arms, budget, LEAST_ROUNDS * a_round + probing))
    shared = share_out(rounds)
    seeds = [first_seed + index for index in range(2 + shared.verdict_seeds)]
    return Plan(
        arms=list(arms),
        budget=budget,
        margin=margin,
        extra_rates=shared.extra_rates,
        second_seed=shared.second_seed,
        choosing_seeds=seeds[:2],
        verdict_seeds=seeds[2:],
        looks=list(LOOKS[shared.verdict_seeds]),
        by=list(by),
        out=dict(out or {}),
        spread=spread,
        probing=probing,
    )


def too_small(arms: Sequence[ArmPlan], budget: Budget, needed: float) -> str:
    """What to say of a budget that does not hold the least protocol."""
    runs = LEAST_ROUNDS * len(arms)
    if budget.unit == RUNS:
        enough = f"budget='{runs} runs'"
        smaller = "Fewer variants need fewer"
    else:
        needed *= 1 + SLACK
        enough = _typed(needed)
        if budget.is_money:
            enough = f"budget={math.ceil(100 * float(budget.given) * needed / budget.limit) / 100:g}"
        smaller = "A smaller dataset.train_size or train.epochs, fewer variants or a smaller model need less"
    return (
        f"budget={budget.given} is too small: {len(arms)} variants take {runs} runs at least ({FIRST_RATES} learning "
        f"rates on one seed, then {FEWEST_SEEDS} fresh seeds each). {enough} suffices. {smaller}."
    )


def _typed(seconds: float) -> str:
    """A budget of a time that is not shorter, as it can be typed."""
    if seconds < 2 * UNITS["m"]:
        return f"budget={math.ceil(seconds)}s"
    if seconds < 2 * UNITS["h"]:
        return f"budget={math.ceil(seconds / UNITS['m'])}m"
    return f"budget={math.ceil(10 * seconds / UNITS['h']) / 10:g}h"
