"""The plan of a settle command: its arms, and how many rates, seeds and looks its budget allows.

A plan is made once, before the first run, and is stored with the parent run. `docs/protocol.md` has the rules.
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

FIRST_RATES = 3  # of an arm: its default rate, and half a decade to each side
FEWEST_SEEDS = 3  # for the verdict
SECOND_SEED_RUNS = 2  # of an arm: its two best rates once more
LEAST_ROUNDS = FIRST_RATES + FEWEST_SEEDS
# The numbers of verdict seeds at which the test set is looked at, by how many are planned. A further look makes all
# intervals wider: one look at fewer seeds decides more comparisons, unless the early look can save many seeds.
LOOKS = {3: (3,), 4: (4,), 5: (5,), 6: (6,), 7: (7,), 8: (5, 8)}
UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
RUNS, SECONDS = "runs", "seconds"
SLACK = 0.05  # the share by which a budget of time may be exceeded: a probe cannot predict the time of a run exactly


class Budget(NamedTuple):
    """How much may be spent: seconds of runs, or a number of runs."""

    limit: float
    unit: str  # RUNS | SECONDS
    given: str  # as the user typed it

    @property
    def is_money(self) -> bool:
        """Whether it was given as a sum of money."""
        return self.given.replace(".", "", 1).isdigit()


class Rounds(NamedTuple):
    """How a budget is divided. A round is one run of every arm."""

    extra_rates: int
    second_seed: bool
    verdict_seeds: int


# By the number of rounds. An extra rate comes first, since a bracket that cannot move may compare a method at a wrong
# rate. Seeds come next: in `python -m benchmarks.settle_worlds --parts shares` they decided the most comparisons.
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
    overrides: list[str]  # that give its configuration, without those that all arms share
    rate: float  # its default rate, where the bracket starts: that of the method, scaled for the model
    base: int | None = None  # the index of the arm that it is compared with; None for a baseline
    seconds: float = 0.0  # of one run, estimated by a probe
    hash: str = ""  # of its run at that rate; it identifies the arm when the same command is given again


@dataclass(frozen=True)
class Plan:
    """All decisions that are made before the first run."""

    arms: list[ArmPlan]
    budget: Budget
    margin: float  # points of F1
    extra_rates: int  # that the bracket of an arm may try in addition to FIRST_RATES
    second_seed: bool  # whether two rates with similar scores are repeated with a second choosing seed
    choosing_seeds: list[int]
    verdict_seeds: list[int]
    looks: list[int]  # numbers of verdict seeds at which the test set is looked at
    by: list[str] = field(default_factory=list)  # parameters that distinguish the arms, in addition to the method
    out: dict[str, str] = field(default_factory=dict)  # arms that cannot take part, and the reasons
    spread: float = 1.0  # points of F1: one seed does not distinguish two rates that differ by less
    reachable: float | None = None  # the margin that the test set and the seeds can show
    tests: list[str] = field(default_factory=list)  # digests of the test questions
    probing: float = 0.0  # seconds that the probes took; they are part of a budget of time

    @property
    def comparisons(self) -> int:
        """The number of differences that are tested at a look."""
        return sum(arm.base is not None for arm in self.arms)

    @property
    def most_runs(self) -> int:
        """The number of runs if every part of the plan is used."""
        second = SECOND_SEED_RUNS * self.second_seed
        return len(self.arms) * (FIRST_RATES + self.extra_rates + second + len(self.verdict_seeds))

    def cost(self, arm: int) -> float:
        """The cost of a run of an arm, in the unit of the budget."""
        return 1.0 if self.budget.unit == RUNS else self.arms[arm].seconds

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan that `as_json` has written.

        Raises:
            ValueError: the text is not a plan.
        """
        return TypeAdapter(cls).validate_json(text)


def read_budget(text: str, price_per_hour: float | None) -> Budget:
    """Read a budget: `2h`, `30m`, `1h30m`, `90 s`, `40 runs`, or a sum of money if the price is known.

    Raises:
        UserError: the text is none of these.
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
                f"budget={text} has no unit: write 2h, 30m or '40 runs'; a sum of money needs price=, the price of "
                "an hour."
            )
        return Budget(float(words) / price_per_hour * 3600, SECONDS, text)
    raise UserError(f"budget={text} cannot be read; write 2h, 30m, '40 runs', or a sum of money with price=.")


def spread_of(questions: int) -> float:
    """The points of F1 within which one seed does not distinguish two rates.

    This is the standard deviation of the difference between two runs at equally good rates, computed from the typical
    standard deviations of `src.report.planning`.

    Args:
        questions: the number of validation questions, by which rates are chosen.
    """
    by_question = METHOD_STD**2 + 2 * NOISE_STD**2
    return math.sqrt(2 * SEED_STD**2 + by_question / questions)


def share_out(rounds: int) -> Rounds:
    """Divide a budget between rates, a second choosing seed and verdict seeds; see SHARES.

    Args:
        rounds: runs of every arm, at least LEAST_ROUNDS.
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
    """Determine how many rates, seeds and looks a budget allows.

    A budget of time may be exceeded by SLACK, so that a budget that an error message has suggested is not refused
    because the next probe measures a slightly longer time.

    Raises:
        UserError: the budget is too small for the shortest protocol.
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
    """The error message for a budget that is too small for the shortest protocol."""
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
        f"budget={budget.given} is too small: {len(arms)} variants need at least {runs} runs ({FIRST_RATES} learning "
        f"rates on one seed, then {FEWEST_SEEDS} fresh seeds each). {enough} suffices. {smaller}."
    )


def _typed(seconds: float) -> str:
    """A budget that covers a time, rounded up, as the user can type it."""
    if seconds < 2 * UNITS["m"]:
        return f"budget={math.ceil(seconds)}s"
    if seconds < 2 * UNITS["h"]:
        return f"budget={math.ceil(seconds / UNITS['m'])}m"
    return f"budget={math.ceil(10 * seconds / UNITS['h']) / 10:g}h"
