"""What the protocol of `src.settle` does in simulated worlds, where the truth is known.

    python -m benchmarks.settle_worlds                     # everything, 2,000 worlds a row
    python -m benchmarks.settle_worlds --worlds 200        # a tenth of it
    python -m benchmarks.settle_worlds --parts error near  # some of the tables

Prints Markdown; the same every time. The protocol that runs is the real one (`src.protocol.engine.settle`), and the
differences come from `src.report.statistics.compare`; what is simulated are the runs.

F1 against the learning rate is the curve that full fine-tuning and LoRA (r=16) of MiniLM had on New Wikipedia, laid
over one another at their peaks (`experiments/lora_without_regret.yaml`; 4,000 questions, half decades); so is F1 after
the first epoch, from the runs with 1,000 questions, which are about as long. Rates more than 1.25 decades above the
peak fail. Where the peak lies is drawn for each method: `near` its rate (normal, standard deviation 0.35 decades: on
two data sets and with three numbers of questions the peaks of both methods lay from 0.1 decades below their rates to
0.5 above), `anywhere` within a decade of it, or `far`: within one and a half. A run deviates from the curve by its
seed, on 1,000 validation questions by what these add (`src.report.planning`), and on each test question as in
`benchmarks.coverage`: New Wikipedia's 1,691 test questions of 330 passages in 10 articles, with the correlations that
were measured there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import NamedTuple

import numpy as np
from scipy.interpolate import PchipInterpolator

from benchmarks.coverage import SIZES, Design, clusters_of
from src.protocol.engine import Job, Outcome, Phase, settle
from src.protocol.plan import (
    LEAST_ROUNDS,
    LOOKS,
    RUNS,
    SHARES,
    ArmPlan,
    Budget,
    Plan,
    Rounds,
    make_plan,
    share_out,
    spread_of,
)
from src.report.decision import Decision, decide
from src.report.planning import METHOD_STD, NOISE_STD, chance_to_decide
from src.report.statistics import Difference, compare

WORLDS = 2000
MARGIN = 1.0
VALIDATION = 1000  # questions
PASSAGE, ARTICLE = 0.004, 0.005  # correlations of paired differences (docs/statistics.md)
DECADES = (-2, -1.25, -1, -0.75, -0.5, -0.25, 0, 0.25, 0.5, 0.75, 1, 1.25)  # from the peak
LAST_F1 = (9, 20.4, 42.6, 55.1, 60.9, 65.4, 66.0, 65.7, 59.5, 40.9, 8.5, 8.5)
FIRST_F1 = (9, 10.1, 11.0, 13.7, 15.5, 41.9, 44.4, 47.7, 40.4, 13.4, 8.4, 8.4)  # after the first epoch
LAST, FIRST = PchipInterpolator(DECADES, LAST_F1), PchipInterpolator(DECADES, FIRST_F1)
FAILS = 1.25  # decades above the peak
PEAK = 66.0
STEPS = np.arange(-6, 7)  # half decades from a method's own rate
GRID, GRID_SEEDS = range(-2, 3), 3
MOST_RUNS = "40 runs"  # more than the largest plan of two methods takes
SHOWN = (Decision.BETTER, Decision.NOT_INFERIOR)
OPEN = (Decision.UNDECIDED, Decision.WORSE)
DIFFERENCES = (-3.0, -1.0, 0.0, 1.0)
DEVIATIONS = (0.5, 1.0, 3.0)
FARTHEST = {"anywhere": 1.0, "far": 1.5}  # decades of a peak from its method's rate


@dataclass(frozen=True)
class Kind:
    """Of worlds."""

    deviation: float = 1.0  # of a run's level, by seed, F1
    difference: float = 0.0  # true, of each method from the baseline, F1
    place: str = "near"  # of the peaks: near | anywhere | far
    exactly: bool = False  # the difference is that at the chosen rates, whichever these are, not that of the peaks
    arms: int = 2  # with the baseline
    passage: float = PASSAGE  # correlations
    article: float = ARTICLE
    wider: float = 1.0  # times the measured curve


@cache
def design(passage: float, article: float) -> Design:
    """The test questions."""
    return Design(clusters_of(json.loads(SIZES.read_text())["new_wiki"]), passage, article)


class World:
    """Runs and looks in one world; the first arm is the baseline of all others."""

    def __init__(self, kind: Kind, number: int) -> None:
        self.kind, self.number = kind, number
        self.generator = np.random.default_rng(number)
        draw = self.generator
        if kind.place == "near":
            self.peaks = draw.normal(0, 0.35, kind.arms)  # decades
        else:
            self.peaks = FARTHEST[kind.place] * draw.uniform(-1, 1, kind.arms)
        self.decades = (STEPS / 2 - self.peaks[:, None]) / kind.wider  # (arms, steps)
        inside = self.decades.clip(DECADES[0], DECADES[-1])
        self.heights = PEAK + np.where(np.arange(kind.arms) > 0, kind.difference, 0.0)  # of the peaks
        self.truth, self.first = LAST(inside) + self.heights[:, None] - PEAK, FIRST(inside)
        size = (kind.arms, len(STEPS), 2 + 8)
        self.levels = kind.deviation * draw.standard_normal(size)  # of runs, by seed
        of_method = METHOD_STD * draw.standard_normal(size[:2])[..., None]
        of_run = NOISE_STD * draw.standard_normal(size)
        self.validation = self.levels + (of_method + of_run) / np.sqrt(VALIDATION)
        self.steps = [0] * kind.arms  # of the runs that are scored on the test questions

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """How runs end; a run takes one second, or a third where it is cut short after one of three epochs."""
        outcomes = []
        for job in jobs:
            step = int(job.step - STEPS[0])
            if self.decades[job.arm, step] > FAILS:
                outcomes.append(Outcome(None, None, 0.1))
                continue
            deviation = self.validation[job.arm, step, job.seed]
            first = float(self.first[job.arm, step] + deviation)
            cut = job.cut_below is not None and first < job.cut_below
            f1 = None if cut else float(self.truth[job.arm, step] + deviation)
            outcomes.append(Outcome(f1, first, 1 / 3 if cut else 1.0))
            if job.phase is Phase.REPEAT:
                self.steps[job.arm] = job.step
        return outcomes

    @cached_property
    def by_question(self) -> np.ndarray:
        """What the scores of runs deviate by on the test questions, (arms, seeds, questions)."""
        questions = design(self.kind.passage, self.kind.article)
        noise = NOISE_STD * questions.clustered(self.generator, self.kind.arms, 8)
        noise[1:] += METHOD_STD * questions.clustered(self.generator, self.kind.arms - 1, 1)
        return noise

    def at(self, arm: int, step: int) -> float:
        """The true F1 at a rate."""
        if self.kind.exactly:
            return float(self.heights[arm])
        return float(self.truth[arm, step - STEPS[0]])

    def difference(self, arm: int, steps: Sequence[int], seeds: slice, adjusted: int) -> Difference:
        """Of an arm from the baseline, on the test questions."""
        clusters = design(self.kind.passage, self.kind.article).clusters
        scores = []
        for each in (arm, 0):
            levels = self.at(each, steps[each]) + self.levels[each, steps[each] - STEPS[0], seeds]
            scores.append(self.by_question[each, : len(levels)] + levels[:, None])
        [difference] = compare([scores[0][None]], [scores[1][None]], clusters, adjusted, MARGIN)
        return difference


class Result(NamedTuple):
    """What came out in one world of one method."""

    decisions: tuple[Decision, ...]  # of each arm but the baseline
    runs: float
    seeds: int  # for the verdict
    missed: tuple[float, ...]  # decades from the peak to the chosen rate, of each arm
    lost: float  # F1, mean of the arms: from the peak to the chosen rate
    truth: tuple[float, ...]  # the true differences at the chosen rates
    chance: float | None = None  # of being decided, as computed at the first look


def plan_of(kind: Kind, budget: str = MOST_RUNS, rounds: Rounds | None = None, looks: Sequence[int] = ()) -> Plan:
    """For a number of runs; other shares and looks than `make_plan` gives where they are named."""
    arms = [ArmPlan("base", [], 1e-4)] + [ArmPlan(f"arm {i}", [], 1e-3, 0) for i in range(1, kind.arms)]
    runs = float(budget.split()[0])
    plan = make_plan(arms, Budget(runs, RUNS, budget), MARGIN, 0, spread=spread_of(VALIDATION))
    if rounds is not None:
        extra, second, seeds = rounds
        verdict = list(range(2, 2 + seeds))
        plan = replace(plan, extra_rates=extra, second_seed=second, verdict_seeds=verdict, looks=list(LOOKS[seeds]))
    return replace(plan, looks=list(looks)) if looks else plan


def settled(world: World, plan: Plan) -> Result:
    """By the protocol."""

    def look(active: Sequence[int], seeds: int) -> Mapping[int, Difference]:
        adjusted = plan.comparisons * len(plan.looks)
        return {arm: world.difference(arm, world.steps, slice(2, 2 + seeds), adjusted) for arm in active}

    result = settle(plan, world.run, look, lambda text: None)
    arms = range(1, world.kind.arms)
    decisions = tuple(result.decision(arm) for arm in arms)
    looks = [each for arm in arms for each in result.looks.get(arm, [])]
    steps = [0 if step is None else step for step in result.chosen]
    chance = looks[0].chance if looks else None
    return outcome(world, decisions, result.spent, max((each.seeds for each in looks), default=0), steps, chance)


def by_grid(world: World) -> Result:
    """By five rates with three seeds, which choose and are judged by."""
    steps = []
    for arm in range(world.kind.arms):
        jobs = [Job(arm, step, seed, Phase.BRACKET) for step in GRID for seed in range(GRID_SEEDS)]
        ends = np.array([each.f1 or 0.0 for each in world.run(jobs)]).reshape(len(GRID), GRID_SEEDS)
        steps.append(GRID[int(ends.mean(1).argmax())])
    arms = range(1, world.kind.arms)
    differences = [world.difference(arm, steps, slice(0, GRID_SEEDS), len(arms)) for arm in arms]
    decisions = tuple(decide(each, MARGIN) for each in differences)
    runs = len(GRID) * GRID_SEEDS * world.kind.arms
    return outcome(world, decisions, runs, GRID_SEEDS, steps)


def outcome(
    world: World,
    decisions: tuple[Decision, ...],
    runs: float,
    seeds: int,
    steps: Sequence[int],
    chance: float | None = None,
) -> Result:
    """With what the world alone knows."""
    missed = tuple(float(abs(step / 2 - peak)) for step, peak in zip(steps, world.peaks, strict=True))
    lost = float(np.mean([world.heights[arm] - world.truth[arm, step - STEPS[0]] for arm, step in enumerate(steps)]))
    truth = tuple(world.at(arm, steps[arm]) - world.at(0, steps[0]) for arm in range(1, len(steps)))
    return Result(decisions, runs, seeds, missed, lost, truth, chance)


def simulate(kind: Kind, worlds: int, plan: Plan | None = None) -> list[Result]:
    """What the protocol decides in each of many worlds, or the fixed grid where `plan` is None."""
    return [by_grid(World(kind, n)) if plan is None else settled(World(kind, n), plan) for n in range(worlds)]


class Summary(NamedTuple):
    """Of many worlds; shares in percent."""

    near: float  # of the chosen rates, those within half a decade of the peak
    lost: float  # F1, mean
    runs: float  # mean
    seeds: float  # mean
    decided: float  # other than "undecided"
    strictly: float  # decided, and "worse" by how much
    shown: float  # "better" or "at most the margin worse" of any arm
    falsely: float  # and the true difference at the chosen rates is the margin or more
    decisions: dict[Decision, float]


def summary(results: Sequence[Result]) -> Summary:
    """Of the first arm, and of any arm for what is shown."""
    firsts = [each.decisions[0] for each in results]
    falsely = [
        any(decision in SHOWN and truth <= -MARGIN for decision, truth in zip(each.decisions, each.truth, strict=True))
        for each in results
    ]
    counts = Counter(firsts)
    return Summary(
        percent([miss <= 0.5 + 1e-9 for each in results for miss in each.missed]),
        float(np.mean([each.lost for each in results])),
        float(np.mean([each.runs for each in results])),
        float(np.mean([each.seeds for each in results])),
        percent([one is not Decision.UNDECIDED for one in firsts]),
        percent([one not in OPEN for one in firsts]),
        percent([any(one in SHOWN for one in each.decisions) for each in results]),
        percent(falsely),
        {decision: 100 * counts[decision] / len(results) for decision in Decision},
    )


def percent(true: Sequence[bool]) -> float:
    return 100 * float(np.mean(true))


def table(columns: str, texts: int = 1) -> str:
    """The head of a table, whose first columns are texts."""
    names = columns.split(", ")
    return f"| {' | '.join(names)} |\n|{'---|' * texts}{'---:|' * (len(names) - texts)}"


def row(*cells: object) -> str:
    return f"| {' | '.join(f'{cell:.1f}' if isinstance(cell, float) else str(cell) for cell in cells)} |"


def grid_table(place: str, worlds: int) -> Iterator[str]:
    """The protocol with its largest plan against the fixed grid, in the same worlds."""
    where = "near their rates" if place == "near" else "anywhere within a decade"
    yield (
        f"### The largest plan against a fixed grid: peaks {where}\n\n"
        f"Two methods, margin {MARGIN:g} F1, {worlds:,} worlds a row; "
        "shares in percent. `difference`: true, of the peaks. `near`: chosen rates within half a decade of the peak. "
        "`lost`: F1 from the peak to the chosen rate. `runs`: mean. `falsely`: better or at most the margin worse is "
        "shown, and at the chosen rates the method is worse by the margin or more. `decided`: not undecided. "
        "`strictly`: decided, but not as 'worse by an open number'. `deviation`: standard deviation between seeds, F1. "
        f"The grid runs {len(GRID)} rates on {GRID_SEEDS} seeds ({len(GRID) * GRID_SEEDS * 2} runs); the same seeds "
        "choose the rate and give the verdict.\n\n"
        + table(
            "deviation, difference, near, lost, runs, better, at most the margin worse, worse by more, "
            "worse by an open number, undecided, falsely, **decided**, **strictly**, grid: near, decided, strictly, "
            "falsely",
            0,
        )
    )
    for deviation, difference in itertools.product(DEVIATIONS, DIFFERENCES):
        kind = Kind(deviation, difference, place)
        plan = plan_of(kind)
        pairs = [(settled(world, plan), by_grid(world)) for world in (World(kind, n) for n in range(worlds))]
        protocol, grid = (summary(each) for each in zip(*pairs, strict=True))
        yield row(
            *(f"{deviation:g}", f"{difference:+g}", protocol.near, f"{protocol.lost:.2f}", protocol.runs),
            *protocol.decisions.values(),
            *(protocol.falsely, f"**{protocol.decided:.1f}**", f"**{protocol.strictly:.1f}**"),
            *(grid.near, grid.decided, grid.strictly, grid.falsely),
        )


def error_table(worlds: int) -> Iterator[str]:
    """The error rate where it is largest."""
    yield (
        "### How often non-inferiority is falsely shown\n\nThe true difference at the chosen rates is exactly "
        f"-{MARGIN:g} F1, the margin, whichever rates these are. In percent of {worlds:,} worlds, in which better or "
        "at most the margin worse is shown of any method; nominal at most 2.5.\n\n"
        + table("peaks, deviation, methods, plan, correlation by passage, by article, falsely")
    )
    cells = [(Kind(each, -MARGIN, "anywhere", True), plan) for each in DEVIATIONS for plan in ("12 runs", MOST_RUNS)]
    cells += [(Kind(1.0, -MARGIN, "near", True), MOST_RUNS)]
    cells += [(Kind(1.0, -MARGIN, "near", True, passage=0.1, article=0.01), MOST_RUNS)]
    cells += [(Kind(each, -MARGIN, "near", True, arms=4), "64 runs") for each in (0.5, 1.0)]
    for kind, budget in cells:
        plan = plan_of(kind, budget)
        names = f"{len(plan.verdict_seeds)} seeds, looks {' and '.join(map(str, plan.looks))}"
        result = summary(simulate(kind, worlds, plan))
        yield row(
            *(kind.place, f"{kind.deviation:g}", kind.arms, names, f"{kind.passage:g}", f"{kind.article:g}"),
            f"{result.falsely:.2f}",
        )


def budget_table(worlds: int) -> Iterator[str]:
    """What a budget buys."""
    yield (
        "### What a budget buys\n\nTwo methods, standard deviation between seeds 1 F1, peaks anywhere within a decade, "
        f"{worlds:,} worlds a row. `-3`, `+1`: if that is the true difference of the peaks. `far`: peaks within "
        "one and a half decades.\n\n"
        + table(
            "budget, rates, second choosing seed, verdict seeds, looks, near, lost, far: near, lost, runs, "
            "-3: decided, strictly, +1: decided, strictly"
        )
    )
    for rounds in range(LEAST_ROUNDS, max(SHARES) + 1):
        behind, ahead, far = (Kind(1.0, *rest) for rest in ((-3.0, "anywhere"), (1.0, "anywhere"), (-3.0, "far")))
        plan = plan_of(behind, f"{2 * rounds} runs")
        one, other, third = (summary(simulate(kind, worlds, plan)) for kind in (behind, ahead, far))
        rates = "3" if plan.extra_rates == 0 else f"3 to {3 + plan.extra_rates}"
        yield row(
            *(plan.budget.given, rates, "yes" if plan.second_seed else "no", len(plan.verdict_seeds)),
            *(" and ".join(map(str, plan.looks)), one.near, f"{one.lost:.2f}", third.near, f"{third.lost:.2f}"),
            *((one.runs + other.runs) / 2, one.decided, one.strictly, other.decided, other.strictly),
        )


def looks_table(worlds: int) -> Iterator[str]:
    """When to look."""
    yield (
        f"### When to look\n\nTwo methods, peaks near, deviation 1 F1, {worlds:,} worlds a row: the shares decided at "
        "each true difference of the peaks, and the mean numbers of runs.\n\n"
        + table("verdict seeds, looks, -7: decided, runs, -3: decided, runs, +0: decided, runs, +1: decided, runs")
    )
    for looks in ((5,), (3, 5), (6,), (3, 6), (7,), (4, 7), (8,), (5, 8), (4, 8), (3, 5, 8)):
        cells: list[float] = []
        for difference in (-7.0, -3.0, 0.0, 1.0):
            kind = Kind(1.0, difference)
            result = summary(simulate(kind, worlds, plan_of(kind, rounds=Rounds(2, False, looks[-1]), looks=looks)))
            cells += [result.decided, result.runs]
        yield row(looks[-1], " and ".join(map(str, looks)), *cells)


OPTIONS = (
    *((7, 0, 0), (7, 1, 0), (8, 0, 0), (8, 1, 0), (8, 2, 0), (10, 0, 0), (10, 1, 0), (10, 2, 0), (10, 1, 1)),
    *((12, 1, 0), (12, 2, 0), (12, 1, 1), (13, 3, 0), (13, 2, 0), (14, 2, 1), (14, 3, 0), (15, 2, 1)),
)  # rounds, extra rates, second choosing seed; the rest are verdict seeds


def shares_table(worlds: int) -> Iterator[str]:
    """What a budget is best spent on."""
    yield (
        "### What a budget is best spent on\n\nTwo methods, standard deviation between seeds 1 F1, peaks anywhere "
        f"within a decade, {worlds:,} worlds a row. `right`, `wrong`: decisions whose sign is that of the true "
        "difference of the peaks, and others. In bold what is done.\n\n"
        + table(
            "rounds, extra rates, second choosing seed, verdict seeds, near, lost, -3: right, wrong, +1: right, wrong"
        )
    )
    for rounds, extra, second in OPTIONS:
        shared = Rounds(extra, bool(second), min(8, rounds - 3 - extra - 2 * second))
        cells: list[float] = []
        for difference in (-3.0, 1.0):
            kind = Kind(1.0, difference, "anywhere")
            result = summary(simulate(kind, worlds, plan_of(kind, rounds=shared)))
            worse = result.decisions[Decision.INFERIOR] + result.decisions[Decision.WORSE]
            cells += [worse, result.shown] if difference < 0 else [result.shown, worse]
        name = f"**{rounds}**" if shared == share_out(rounds) else rounds
        yield row(
            name, extra, "yes" if second else "no", shared.verdict_seeds, result.near, f"{result.lost:.2f}", *cells
        )


def chances_table(worlds: int) -> Iterator[str]:
    """Whether the chance of being decided is what it says."""
    yield (
        "### The chance of being decided\n\nAs computed after 5 of 8 seeds where a comparison is still open, and how "
        f"often it is then decided by the 8; {worlds:,} worlds of each true difference (-3, -1, 0, +1). In percent.\n\n"
        + table("deviation, chance, comparisons, mean chance, decided", 0)
    )
    bins = np.array([0, 0.1, 0.25, 0.5, 0.75, 1.01])
    for deviation in DEVIATIONS:
        pairs = []
        for difference, number in itertools.product(DIFFERENCES, range(worlds)):
            world = World(Kind(deviation, difference, exactly=True), number)
            now, last = (world.difference(1, (0, 0), slice(2, 2 + seeds), 2) for seeds in (5, 8))
            before, after = decide(now, MARGIN), decide(last, MARGIN)
            if before in OPEN:
                chance = chance_to_decide(now, MARGIN, 5, 8, 2)
                pairs.append((chance, after not in (Decision.UNDECIDED, before)))
        chances, came = np.array(pairs).T
        for low, high in itertools.pairwise(bins):
            inside = (chances >= low) & (chances < high)
            yield row(
                *(f"{deviation:g}", f"{100 * low:.0f} to {min(100 * high, 100):.0f}", int(inside.sum())),
                *(100 * float(chances[inside].mean()), 100 * float(came[inside].mean())),
            )


FULL = ("near", "anywhere", "error")  # the others compare their rows with one another: half as many worlds suffice
TABLES: dict[str, Callable[[int], Iterator[str]]] = {
    "near": partial(grid_table, "near"),
    "anywhere": partial(grid_table, "anywhere"),
    "error": error_table,
    "budget": budget_table,
    "looks": looks_table,
    "shares": shares_table,
    "chances": chances_table,
}


def main() -> None:
    """Print the tables that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=WORLDS, help="a row")
    parser.add_argument("--parts", nargs="+", choices=TABLES, default=list(TABLES), help="tables to make")
    chosen = parser.parse_args()
    print(f"`{' '.join(['python -m benchmarks.settle_worlds', *sys.argv[1:]])}`\n")
    for part in chosen.parts:
        for line in TABLES[part](chosen.worlds if part in FULL else chosen.worlds // 2):
            print(line, flush=True)
        print()


if __name__ == "__main__":
    main()
