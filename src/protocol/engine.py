"""The protocol: bracket the learning rates, repeat the chosen ones on fresh seeds, and look at the test set as planned.

It uses neither Hydra nor MLflow: the functions that make runs and look at the test set are passed to it. It therefore
decides in the same way for real runs (`src.settling`) and for simulated ones (`benchmarks.settle_worlds`). After an
interruption it starts from the beginning with the outcomes of the runs that are done. `docs/protocol.md` has the rules
and their reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from statistics import mean

from src.protocol.plan import RUNS, SLACK, Plan
from src.report.decision import OPEN, Decision, decide
from src.report.planning import chance_to_decide
from src.report.statistics import Difference

STEP = 10**0.5  # between neighbouring rates: half a decade
LEAST_CHANCE = 0.10  # an arm stops if the chance of being decided at the last look is lower
# A run is cut short after its first epoch if its F1 there is below this share of the best F1 that the arm had, and so
# many points behind it.
CUT_BELOW, CUT_BEHIND = 0.5, 10.0
FEWEST_LOOKED_AT = 3  # verdict seeds that are run even if the budget is used up before
LATEST = 3  # the number of runs of an arm whose mean time is the estimate for the next run


class Phase(Enum):
    """The reason why a run is made."""

    BRACKET = "bracket"
    SECOND_SEED = "second choosing seed"
    REPEAT = "repeat"


@dataclass(frozen=True)
class Job:
    """A run that the protocol requests."""

    arm: int
    step: int  # half decades from the arm's default rate
    seed: int
    phase: Phase
    cut_below: float | None = None  # validation F1 after the first epoch, below which the run is cut short


@dataclass(frozen=True)
class Outcome:
    """The outcome of a job."""

    f1: float | None  # on the validation questions, in percent; None if it failed or was cut short
    first_f1: float | None = None  # after the first epoch
    seconds: float = 0.0  # that it took, however it ended
    reused: bool = False  # whether another sweep made it, so that this one spends nothing on it


@dataclass(frozen=True)
class Look:
    """The result of a look at the test set for one arm."""

    seeds: int
    difference: Difference | None  # None if it cannot be computed
    decision: Decision
    chance: float | None  # of being decided at the last look; None at the last one, or if it is decided
    stops: bool


@dataclass(frozen=True)
class Settled:
    """The result of the protocol."""

    chosen: list[int | None]  # the step of each arm's chosen rate; None if all its rates failed
    tried: list[list[int]]  # the steps of each arm
    looks: dict[int, list[Look]]  # of each arm that has a baseline
    spent: float  # in the unit of the budget
    out_of_budget: bool  # whether fewer seeds than planned were run, because runs took longer than estimated

    def decision(self, arm: int) -> Decision:
        """The decision on an arm at its last look."""
        return self.looks[arm][-1].decision if self.looks.get(arm) else Decision.UNDECIDED


Run = Callable[[Sequence[Job]], Sequence[Outcome]]
# The differences of some arms with their baselines, after that many verdict seeds, adjusted for comparisons and looks.
LookAt = Callable[[Sequence[int], int], Mapping[int, Difference | None]]
Report = Callable[[str], None]


def rate_at(rate: float, step: int) -> float:
    """The learning rate that is a number of half decades from a default rate: 1e-3, then 3e-3, then 1e-2."""
    exact = rate * STEP**step
    return float(f"{exact:.6g}") if step % 2 == 0 else float(f"{exact:.1g}")


def settle(plan: Plan, run: Run, look: LookAt, report: Report) -> Settled:
    """Carry out a plan.

    Args:
        plan: the stored plan.
        run: makes runs or looks up their outcomes; returns them in the order of the jobs.
        look: computes differences on the test questions.
        report: called with sentences about the next step and its reason, and about results.
    """
    return _Protocol(plan, run, look, report).settle()


@dataclass
class _Protocol:
    """The arguments of `settle`, and the state of the protocol."""

    plan: Plan
    run: Run
    look: LookAt
    report: Report
    outcomes: list[dict[int, dict[int, Outcome]]] = field(init=False)  # by arm, step and seed
    chosen: list[int | None] = field(init=False)
    seconds: list[list[float]] = field(init=False)  # of the complete runs of each arm
    looks: dict[int, list[Look]] = field(default_factory=dict)
    spent: float = 0.0
    out_of_budget: bool = False

    def __post_init__(self) -> None:
        self.outcomes = [{} for _ in self.plan.arms]
        self.seconds = [[] for _ in self.plan.arms]
        self.chosen = [None for _ in self.plan.arms]
        self.spent = self.plan.probing

    def settle(self) -> Settled:
        self.bracket()
        self.second_seed()
        self.choose()
        self.repeat()
        tried = [sorted(steps) for steps in self.outcomes]
        return Settled(self.chosen, tried, self.looks, self.spent, self.out_of_budget)

    # Bracket

    def bracket(self) -> None:
        """Try rates half a decade apart around each default rate, and more of them while a best one is at an edge."""
        plan, first, arms = self.plan, self.plan.choosing_seeds[0], range(len(self.plan.arms))
        self.report(f"Bracket: each variant at its default learning rate and half a decade either side, seed {first}.")
        self._make([Job(arm, 0, first, Phase.BRACKET) for arm in arms])
        self._make([self._bracket_job(arm, step) for arm in arms for step in (-1, 1)])
        self._report_rates()
        for _ in range(plan.extra_rates):
            waiting = [arm for arm in arms if self._at_edge(arm)]
            if not waiting:
                break
            if not self._affordable(1 + plan.looks[0]):
                self.report("The time left is needed for the fresh seeds: no more rates are tried.")
                break
            names = ", ".join(plan.arms[arm].name for arm in waiting)
            self.report(f"The best rate of {names} lies at an edge: every variant gets one more rate on its open side.")
            self._make([self._bracket_job(arm, self._open_step(arm)) for arm in arms])
            self._report_rates()

    def _report_rates(self) -> None:
        """Report the F1 of all rates of each arm so far."""
        for arm, plan in enumerate(self.plan.arms):
            scores = [
                f"{rate_at(plan.rate, step):g} {'none' if each.f1 is None else f'{each.f1:.1f}'}"
                for step, each in self._on(arm, self.plan.choosing_seeds[0]).items()
            ]
            self.report(f"  {plan.name}: F1 by rate {', '.join(scores)}")

    def _bracket_job(self, arm: int, step: int) -> Job:
        """A job of the bracket, cut short if its first F1 is clearly behind the best first F1 of the arm."""
        seed = self.plan.choosing_seeds[0]
        firsts = [each.first_f1 for each in self._on(arm, seed).values() if each.first_f1 is not None]
        best = max(firsts, default=0.0)
        cut = min(CUT_BELOW * best, best - CUT_BEHIND)
        return Job(arm, step, seed, Phase.BRACKET, cut if cut > 0 else None)

    def _on(self, arm: int, seed: int) -> dict[int, Outcome]:
        """The outcomes of an arm on a seed, by step."""
        return {step: by_seed[seed] for step, by_seed in sorted(self.outcomes[arm].items()) if seed in by_seed}

    def _ranked(self, arm: int) -> list[int]:
        """The steps that have a score on the first choosing seed, the best first."""
        scores = {step: out.f1 for step, out in self._on(arm, self.plan.choosing_seeds[0]).items()}
        return sorted((step for step, f1 in scores.items() if f1 is not None), key=lambda step: -(scores[step] or 0.0))

    def _at_edge(self, arm: int) -> bool:
        ranked, tried = self._ranked(arm), self.outcomes[arm]
        return not ranked or ranked[0] in (min(tried), max(tried))

    def _open_step(self, arm: int) -> int:
        """The next step on the side where the arm may be better: beyond the edge, or beyond the better neighbour."""
        ranked, tried = self._ranked(arm), self.outcomes[arm]
        if not ranked or ranked[0] == min(tried):
            return min(tried) - 1
        if ranked[0] == max(tried):
            return max(tried) + 1
        above = {step: ranked.index(step) if step in ranked else len(ranked) for step in (ranked[0] - 1, ranked[0] + 1)}
        upwards = above[ranked[0] + 1] < above[ranked[0] - 1]
        return max(tried) + 1 if upwards else min(tried) - 1

    def second_seed(self) -> None:
        """Repeat the two best rates of an arm with a second seed, if one seed cannot distinguish them."""
        plan = self.plan
        first, second = plan.choosing_seeds
        if not plan.second_seed:
            return
        jobs = []
        for arm in range(len(plan.arms)):
            scores = self._on(arm, first)
            close = self._ranked(arm)[:2]
            if len(close) == 2 and abs((scores[close[0]].f1 or 0) - (scores[close[1]].f1 or 0)) < plan.spread:
                jobs += [Job(arm, step, second, Phase.SECOND_SEED) for step in close]
        if not jobs:
            return
        if not self._affordable(2 + plan.looks[0]):
            self.report("The time left is needed for the fresh seeds: no second choosing seed.")
            return
        names = ", ".join(dict.fromkeys(plan.arms[job.arm].name for job in jobs))
        self.report(f"The two best rates of {names} lie within {plan.spread:.1f} F1: both get a second choosing seed.")
        self._make(jobs)

    def choose(self) -> None:
        """Choose the rate of each arm by its mean over the choosing seeds; of repeated rates, one that did not fail."""
        first, second = self.plan.choosing_seeds
        for arm, plan in enumerate(self.plan.arms):
            ranked, once = self._ranked(arm), self._on(arm, first)
            again = {step: out.f1 for step, out in self._on(arm, second).items() if out.f1 is not None}
            if again:
                ranked = sorted(again, key=lambda step: -(once[step].f1 or 0.0) - (again[step] or 0.0))
            self.chosen[arm] = ranked[0] if ranked else None
            if not ranked:
                self.report(f"{plan.name}: every rate that was tried failed; it takes no further part.")
        rates = [
            f"{plan.name} {rate_at(plan.rate, step):g}"
            for plan, step in zip(self.plan.arms, self.chosen, strict=True)
            if step is not None
        ]
        self.report(f"The rates are fixed: {', '.join(rates)}.")

    # Repeat and look

    def repeat(self) -> None:
        """Run fresh seeds at the chosen rates, with all arms in turn, and look at the test set as planned."""
        plan = self.plan
        active = [
            arm
            for arm, each in enumerate(plan.arms)
            if each.base is not None and self.chosen[arm] is not None and self.chosen[each.base] is not None
        ]
        self.looks = {arm: [] for arm in active}
        if not active:
            return
        seeds = plan.verdict_seeds
        self.report(f"Repeat: the chosen rates on {len(seeds)} fresh seeds, {seeds[0]} to {seeds[-1]}, in turns.")
        for number, seed in enumerate(seeds, 1):
            if number > FEWEST_LOOKED_AT and not self._affordable(1, active):
                self.out_of_budget = True
                self.report(f"The budget is used up after {number - 1} fresh seeds.")
                if number - 1 not in plan.looks:
                    self._look(active, number - 1, last=True)
                for arm in active:
                    self.looks[arm][-1] = replace(self.looks[arm][-1], stops=True)
                return
            self._make([Job(arm, self._step(arm), seed, Phase.REPEAT) for arm in self._running(active)])
            if number in plan.looks:
                active = self._look(active, number, last=number == len(seeds))
                if not active:
                    return

    def _step(self, arm: int) -> int:
        step = self.chosen[arm]
        assert step is not None
        return step

    def _running(self, active: Sequence[int]) -> list[int]:
        """The arms that are still being compared, and their baselines."""
        bases = {self.plan.arms[arm].base for arm in active}
        return [arm for arm in range(len(self.plan.arms)) if arm in active or arm in bases]

    def _look(self, active: Sequence[int], seeds: int, last: bool) -> list[int]:
        """Look at the test set; returns the arms that continue."""
        going_on = []
        for arm, difference in self.look(active, seeds).items():
            decision = Decision.UNDECIDED if difference is None else decide(difference, self.plan.margin)
            chance = None
            if difference is not None and decision in OPEN and not last:
                comparisons = self.plan.comparisons * len(self.plan.looks)
                planned = len(self.plan.verdict_seeds)
                chance = chance_to_decide(difference, self.plan.margin, seeds, planned, comparisons)
            stops = last or difference is None or decision not in OPEN or (chance is not None and chance < LEAST_CHANCE)
            self.looks[arm].append(Look(seeds, difference, decision, chance, stops))
            self.report(self._of_look(arm))
            if not stops:
                going_on.append(arm)
        return going_on

    def _of_look(self, arm: int) -> str:
        number, look = len(self.looks[arm]), self.looks[arm][-1]
        base = self.plan.arms[arm].base
        assert base is not None
        against = f"{self.plan.arms[arm].name} against {self.plan.arms[base].name}"
        begin = f"Look {number} of {len(self.plan.looks)}, {look.seeds} seeds: {against}"
        if look.difference is None:
            return f"{begin}: no difference can be computed."
        interval = f"{look.difference.low:+.1f} to {look.difference.high:+.1f} F1"
        ending = "" if look.chance is None else f", {100 * look.chance:.0f} % likely to be decided with all seeds"
        ending += "; it stops here" if look.stops and look.chance is not None else ""
        return f"{begin}: {interval}, {look.decision.value}{ending}."

    # Runs

    def _make(self, jobs: Sequence[Job]) -> None:
        for job, outcome in zip(jobs, self.run(jobs), strict=True):
            self.outcomes[job.arm].setdefault(job.step, {})[job.seed] = outcome
            if not outcome.reused:
                self.spent += 1.0 if self.plan.budget.unit == RUNS else outcome.seconds
            if outcome.f1 is not None:
                self.seconds[job.arm].append(outcome.seconds)

    def _affordable(self, rounds: int, active: Sequence[int] | None = None) -> bool:
        """Whether the budget allows `rounds` more runs of each arm, estimated from the time of its latest runs."""
        arms = range(len(self.plan.arms)) if active is None else self._running(active)
        if self.plan.budget.unit == RUNS:
            return self.spent + rounds * len(arms) <= self.plan.budget.limit
        costs = [mean(self.seconds[arm][-LATEST:] or [self.plan.cost(arm)]) for arm in arms]
        return self.spent + rounds * sum(costs) <= self.plan.budget.limit * (1 + SLACK)
