"""The protocol of `src.settle`, rule by rule, on runs that are scripted or simulated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace

import pytest

from benchmarks.settle_worlds import MARGIN, Kind, World, plan_of, simulate, summary
from src.config import UserError
from src.protocol.engine import Job, Outcome, Phase, Settled, rate_at, settle
from src.protocol.plan import (
    LEAST_ROUNDS,
    LOOKS,
    RUNS,
    SECONDS,
    SHARES,
    ArmPlan,
    Budget,
    Plan,
    make_plan,
    read_budget,
    share_out,
    spread_of,
)
from src.report.decision import Decision, decide
from src.report.statistics import Difference

PEAKED = {-4: 5.0, -3: 10.0, -2: 30.0, -1: 50.0, 0: 60.0, 1: 52.0, 2: 20.0, 3: 9.0, 4: 8.0}


def difference(low: float, high: float, **parts: float) -> Difference:
    """From -2 to 2 it is open, and more seeds will not decide it unless `parts` say so."""
    values = {field.name: 0.0 for field in fields(Difference)}
    usual = {"question_variance": 1.0, "question_freedom": 100.0, "mean": (low + high) / 2, "low": low, "high": high}
    return Difference(**{**values, **usual, **parts})


OPEN = difference(-2.0, 2.0)
HOPEFUL = difference(-1.2, 1.8, question_variance=0.2, noise_variance=0.18, seed_variance=0.2)
SHOWN, INFERIOR = difference(-0.5, 1.5), difference(-4.0, -2.0)


class Study:
    """Scripted runs: F1 by step for each arm (None fails), and what looks show; keeps what was asked for."""

    def __init__(
        self, *scores: Mapping[int, float | None], looks: Callable[[int, int], Difference | None] | None = None
    ):
        self.scores, self.looks = scores, looks or (lambda arm, seeds: OPEN)
        self.again: dict[tuple[int, int], float | None] = {}  # F1 on the second choosing seed
        self.firsts: dict[tuple[int, int], float] = {}
        self.seconds: Callable[[Job], float] = lambda job: 1.0
        self.jobs: list[Job] = []
        self.looked: list[tuple[list[int], int]] = []
        self.told: list[str] = []

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        self.jobs += jobs
        return [self.outcome(job) for job in jobs]

    def outcome(self, job: Job) -> Outcome:
        f1 = self.scores[job.arm].get(job.step)
        if job.phase is Phase.SECOND_SEED:
            f1 = self.again.get((job.arm, job.step), f1)
        first = self.firsts.get((job.arm, job.step), f1)
        if job.cut_below is not None and first is not None and first < job.cut_below:
            return Outcome(None, first, self.seconds(job) / 3)
        return Outcome(f1, first, self.seconds(job))

    def look(self, arms: Sequence[int], seeds: int) -> dict[int, Difference | None]:
        self.looked.append((list(arms), seeds))
        return {arm: self.looks(arm, seeds) for arm in arms}

    def settle(self, plan: Plan) -> Settled:
        return settle(plan, self.run, self.look, self.told.append)

    def steps(self, arm: int, phase: Phase = Phase.BRACKET) -> list[int]:
        return [job.step for job in self.jobs if job.arm == arm and job.phase is phase]

    def seeds(self, arm: int) -> list[int]:
        return [job.seed for job in self.jobs if job.arm == arm and job.phase is Phase.REPEAT]


def plan_with(arms: int = 2, budget: str = "100 runs", **changed: object) -> Plan:
    """The first arm is the baseline; a run takes 1 s."""
    each = [ArmPlan("full", [], 1e-4, None, 1.0)]
    each += [ArmPlan(f"lora {i}", [f"method.peft.r={i}"], 1e-3, 0, 1.0) for i in range(1, arms)]
    return replace(make_plan(each, read_budget(budget, None), MARGIN, 7), **changed)  # type: ignore[arg-type]


# Plan


@pytest.mark.parametrize(
    ("text", "price", "limit", "unit"),
    [
        ("2h", None, 7200, SECONDS),
        ("30m", None, 1800, SECONDS),
        ("30 min", None, 1800, SECONDS),
        ("1h30m", None, 5400, SECONDS),
        ("1h 30m", 3.0, 5400, SECONDS),
        ("1.5H", None, 5400, SECONDS),
        ("90 s", None, 90, SECONDS),
        ("1d", None, 86400, SECONDS),
        ("40 runs", None, 40, RUNS),
        ("1 run", 2.0, 1, RUNS),
        ("5", 2.5, 7200, SECONDS),
    ],
)
def test_budgets_are_read(text: str, price: float | None, limit: float, unit: str):
    assert read_budget(text, price) == Budget(limit, unit, text)


@pytest.mark.parametrize("text", ["", "soon", "2x", "h", "-2h", "2h or so", "40.5 runs", "many runs"])
def test_other_budgets_are_refused(text: str):
    with pytest.raises(UserError, match="cannot be read; write 2h"):
        read_budget(text, 1.0)


@pytest.mark.parametrize("price", [None, 0.0])
def test_money_needs_a_price(price: float | None):
    with pytest.raises(UserError, match="needs price="):
        read_budget("5", price)


@pytest.mark.parametrize("seconds", [2.5, 4.0, 33.4, 151.1, 700.0, 5000.0])
def test_the_time_that_is_said_to_suffice_suffices_and_is_not_much_more(seconds: float):
    arms = [ArmPlan(name, [], 1e-3, base, seconds) for name, base in (("full", None), ("lora", 0), ("head", 0))]
    with pytest.raises(UserError, match="3 variants need at least 18 runs") as refused:
        make_plan(arms, read_budget("1s", None), MARGIN, 0)
    enough = str(refused.value).partition("budget=")[2].partition("budget=")[2].partition(" suffices")[0]
    budget = read_budget(enough, None)
    assert 18 * seconds <= budget.limit <= 18 * seconds * 1.05 * 1.1
    plan = make_plan(arms, budget, MARGIN, 0)
    assert (plan.extra_rates, plan.second_seed, len(plan.verdict_seeds), plan.most_runs) == (0, False, 3, 18)
    slower = [replace(arm, seconds=1.09 * seconds) for arm in arms]
    assert make_plan(slower, budget, MARGIN, 0).most_runs == 18, "another probe may say a tenth more"


def test_a_sum_of_money_that_suffices_is_a_sum_of_money():
    arms = [ArmPlan("full", [], 1e-3, None, 300.0), ArmPlan("lora", [], 1e-3, 0, 300.0)]
    with pytest.raises(UserError, match=r"budget=1 is too small.* budget=2\.1 suffices"):
        make_plan(arms, read_budget("1", 2.0), MARGIN, 0)
    assert make_plan(arms, read_budget("2.1", 2.0), MARGIN, 0).most_runs == 12


def test_a_budget_of_time_pays_for_the_probes():
    arms = [ArmPlan("full", [], 1e-3, None, 10.0), ArmPlan("lora", [], 1e-3, 0, 10.0)]
    assert make_plan(arms, read_budget("140s", None), MARGIN, 0, probing=20.0).most_runs == 12
    assert make_plan(arms, read_budget("140s", None), MARGIN, 0).most_runs == 14
    with pytest.raises(UserError, match=r"budget=3m suffices"):
        make_plan(arms, read_budget("120s", None), MARGIN, 0, probing=40.0)
    assert make_plan(arms, read_budget("12 runs", None), MARGIN, 0, probing=20.0).probing == 0


def test_too_few_runs_are_refused_with_the_number_that_suffices():
    with pytest.raises(UserError, match=r"budget='12 runs' suffices\. Fewer variants need fewer\."):
        plan_with(budget="11 runs")
    assert plan_with(budget="12 runs").most_runs == 12


def test_a_budget_is_shared_out_up_to_its_last_round():
    assert list(SHARES) == list(range(LEAST_ROUNDS, 17))
    for rounds in range(LEAST_ROUNDS, 21):
        shared = share_out(rounds)
        used = 3 + shared.extra_rates + 2 * shared.second_seed + shared.verdict_seeds
        assert used == min(rounds, 16)
        assert 3 <= shared.verdict_seeds <= 8
        assert shared.verdict_seeds >= share_out(max(rounds - 1, LEAST_ROUNDS)).verdict_seeds
        assert plan_with(budget=f"{2 * rounds} runs").most_runs == 2 * used


def test_looks_are_few_and_the_last_is_at_the_end():
    for seeds, looks in LOOKS.items():
        assert 1 <= len(looks) <= 3 and looks[0] >= 3 and looks[-1] == seeds and sorted(set(looks)) == list(looks)


def test_seeds_are_fresh():
    plan = plan_with()
    assert plan.choosing_seeds == [7, 8]
    assert plan.verdict_seeds == list(range(9, 17))


def test_a_plan_is_stored_and_read():
    plan = plan_with(3, by=["method.peft.r"], out={"dora": "out of memory"}, spread=1.4, reachable=2.1)
    assert Plan.from_json(plan.as_json()) == plan
    assert Plan.from_json(plan.as_json()).budget.unit == RUNS


def test_rates_are_round_numbers_half_a_decade_apart():
    assert [rate_at(1e-3, step) for step in (-2, -1, 0, 1, 2)] == [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]
    assert [rate_at(2e-4, step) for step in (-1, 0, 1)] == [6e-5, 2e-4, 6e-4]


def test_the_spread_falls_with_the_number_of_validation_questions():
    # The variances of two runs' levels (0.8) and of 1,000 questions (12 and 27), by which they differ.
    assert spread_of(1000) == pytest.approx((2 * 0.64 + (144 + 2 * 729) / 1000) ** 0.5)
    assert spread_of(100) > 2 * spread_of(1000)


# Bracket


def test_three_rates_suffice_where_the_best_is_in_the_middle():
    study = Study(PEAKED, PEAKED)
    settled = study.settle(plan_with())
    assert study.steps(0) == study.steps(1) == [0, -1, 1]
    assert settled.chosen == [0, 0] and settled.tried == [[-1, 0, 1], [-1, 0, 1]]
    assert {job.seed for job in study.jobs if job.phase is Phase.BRACKET} == {7}


def test_a_bracket_moves_while_the_best_is_at_an_edge_and_all_arms_get_as_many_rates():
    higher = {step + 2: f1 for step, f1 in PEAKED.items()}
    study = Study(PEAKED, higher, PEAKED)
    settled = study.settle(plan_with(3, "200 runs"))
    assert study.steps(1) == [0, -1, 1, 2, 3]
    # The others have the better neighbour above: their extra rates lie there.
    assert study.steps(0) == study.steps(2) == [0, -1, 1, 2, 3]
    assert settled.chosen == [0, 2, 0]
    assert any("The best rate of lora 1 lies at an edge" in told for told in study.told)


def test_an_extra_rate_lies_on_the_side_of_the_better_neighbour():
    lower = {step - 2: f1 for step, f1 in PEAKED.items()}
    downwards = {**PEAKED, -1: 55.0}
    study = Study(PEAKED, lower, downwards)
    study.settle(plan_with(3, "200 runs"))
    assert study.steps(1) == [0, -1, 1, -2, -3]
    assert study.steps(0) == [0, -1, 1, 2, 3]
    assert study.steps(2) == [0, -1, 1, -2, -3]


def test_no_more_rates_than_planned():
    rising = {step: 50.0 + step for step in range(-6, 7)}
    for extra in range(4):
        study = Study(rising, PEAKED)
        settled = study.settle(plan_with(extra_rates=extra))
        assert len(settled.tried[0]) == len(settled.tried[1]) == 3 + extra
        assert settled.chosen[0] == 1 + extra


def test_a_rate_that_fails_bounds_the_bracket():
    study = Study(PEAKED, {-1: 50.0, 0: 60.0, 1: None})
    assert study.settle(plan_with()).chosen == [0, 0]
    assert study.steps(1) == [0, -1, 1]
    above = Study(PEAKED, {-2: 40.0, -1: 50.0, 0: None, 1: None})
    assert above.settle(plan_with()).chosen == [0, -1]
    assert above.steps(1) == [0, -1, 1, -2]


def test_an_arm_whose_rates_all_failed_goes_lower_and_then_takes_no_further_part():
    study = Study(PEAKED, {}, PEAKED)
    settled = study.settle(plan_with(3, "200 runs"))
    assert study.steps(1) == [0, -1, 1, -2, -3, -4]
    assert len(study.steps(0)) == 6
    assert settled.chosen == [0, None, 0]
    assert study.seeds(1) == [] and list(settled.looks) == [2]
    assert settled.decision(1) is Decision.UNDECIDED
    assert any(told.startswith("lora 1: every rate that was tried failed") for told in study.told)


def test_without_a_baseline_there_is_nothing_to_repeat():
    study = Study({}, PEAKED)
    settled = study.settle(plan_with())
    assert settled.looks == {} and study.looked == []
    assert {job.phase for job in study.jobs} == {Phase.BRACKET}


def test_rates_that_are_far_behind_after_the_first_epoch_are_cut_short():
    higher = {step + 1: f1 for step, f1 in PEAKED.items()}
    study = Study(PEAKED, higher)
    # After its first epoch full has 40 at its own rate, 8 at the higher one.
    study.firsts = {(0, 0): 40.0, (0, -1): 30.0, (0, 1): 8.0, (1, 0): 15.0, (1, 1): 30.0, (1, -1): 6.0}
    settled = study.settle(plan_with())
    cuts = {(job.arm, job.step): job.cut_below for job in study.jobs if job.phase is Phase.BRACKET}
    assert cuts[0, 0] is None and cuts[1, 0] is None  # nothing to compare with
    assert cuts[0, 1] == cuts[0, -1] == 20.0  # half of 40
    assert cuts[1, 1] == cuts[1, -1] == 5.0  # 10 behind 15
    assert cuts[1, 2] == 15.0 and cuts[0, -2] == 20.0  # half of the best so far
    assert settled.chosen == [0, 1]
    assert all(job.cut_below is None for job in study.jobs if job.phase is not Phase.BRACKET)


# Second choosing seed


def test_a_second_seed_decides_between_two_close_rates_alone():
    study = Study({**PEAKED, 1: 59.5}, PEAKED)
    study.again = {(0, 0): 58.0, (0, 1): 59.0}
    settled = study.settle(plan_with(spread=1.0))
    assert study.steps(0, Phase.SECOND_SEED) == [0, 1] and study.steps(1, Phase.SECOND_SEED) == []
    assert {job.seed for job in study.jobs if job.phase is Phase.SECOND_SEED} == {8}
    assert settled.chosen == [1, 0]  # 59.25 against 59.0


def test_the_first_seed_counts_as_much_as_the_second():
    study = Study({**PEAKED, 1: 59.5}, PEAKED)
    study.again = {(0, 0): 58.0, (0, 1): 58.4}
    assert study.settle(plan_with(spread=1.0)).chosen == [0, 0]


def test_no_second_seed_where_it_is_not_planned_or_rates_are_apart():
    for changed in ({"second_seed": False, "spread": 1.0}, {"second_seed": True, "spread": 0.4}):
        study = Study({**PEAKED, 1: 59.5}, PEAKED)
        assert study.settle(plan_with(**changed)).chosen == [0, 0]
        assert study.steps(0, Phase.SECOND_SEED) == []


def test_a_rate_that_fails_on_the_second_seed_is_not_chosen():
    study = Study({**PEAKED, 1: 59.5}, PEAKED)
    study.again = {(0, 0): None, (0, 1): 40.0}
    assert study.settle(plan_with(spread=1.0)).chosen == [1, 0]
    study.again = {(0, 0): None, (0, 1): None}
    assert study.settle(plan_with(spread=1.0)).chosen == [0, 0]


# Repeat and look


def test_fresh_seeds_in_turns_and_looks_as_planned():
    study = Study(PEAKED, PEAKED, looks=lambda arm, seeds: HOPEFUL)
    settled = study.settle(plan_with())
    repeats = [(job.arm, job.seed) for job in study.jobs if job.phase is Phase.REPEAT]
    assert repeats == [(arm, seed) for seed in range(9, 17) for arm in (0, 1)]
    assert study.looked == [([1], 5), ([1], 8)]
    first, last = settled.looks[1]
    assert first.chance is not None and 0.1 < first.chance < 1 and not first.stops
    assert last.chance is None and last.stops and last.seeds == 8
    assert settled.decision(1) is Decision.UNDECIDED
    assert settled.spent == len(study.jobs) == 22 and not settled.out_of_budget


@pytest.mark.parametrize("shown", [SHOWN, INFERIOR, difference(0.1, 2.0)])
def test_a_decided_arm_stops_and_its_baseline_goes_on_for_the_others(shown: Difference):
    study = Study(PEAKED, PEAKED, PEAKED, looks=lambda arm, seeds: shown if arm == 1 else HOPEFUL)
    settled = study.settle(plan_with(3))
    assert study.looked == [([1, 2], 5), ([2], 8)]
    assert study.seeds(1) == [9, 10, 11, 12, 13]
    assert study.seeds(0) == study.seeds(2) == list(range(9, 17))
    assert settled.looks[1][-1].stops and settled.looks[1][-1].decision is not Decision.UNDECIDED
    assert len(settled.looks[2]) == 2


def test_all_stop_where_all_are_decided():
    study = Study(PEAKED, PEAKED, PEAKED, looks=lambda arm, seeds: SHOWN)
    settled = study.settle(plan_with(3))
    assert study.looked == [([1, 2], 5)]
    assert settled.decision(1) is settled.decision(2) is Decision.NOT_INFERIOR


def test_an_arm_stops_where_more_seeds_will_hardly_decide_it():
    study = Study(PEAKED, PEAKED)
    settled = study.settle(plan_with())
    [look] = settled.looks[1]
    assert look.chance is not None and look.chance < 0.1 and look.stops and look.decision is Decision.UNDECIDED
    assert study.seeds(0) == study.seeds(1) == [9, 10, 11, 12, 13]
    assert study.told[-1].endswith("likely to be decided with all seeds; it stops here.")


def test_an_arm_that_is_worse_goes_on_while_it_may_be_shown_by_how_much():
    parts = {"question_variance": 0.3, "noise_variance": 0.28, "seed_variance": 0.2}
    study = Study(PEAKED, PEAKED, looks=lambda arm, seeds: difference(-4.0, -0.4, **parts))
    first, last = study.settle(plan_with()).looks[1]
    assert first.decision is last.decision is Decision.WORSE and first.chance > 0.1 and not first.stops


def test_an_arm_without_a_difference_stops():
    study = Study(PEAKED, PEAKED, looks=lambda arm, seeds: None)
    [look] = study.settle(plan_with()).looks[1]
    assert look.stops and look.difference is None and look.decision is Decision.UNDECIDED
    assert study.told[-1] == "Look 1 of 2, 5 seeds: lora 1 against full: no difference can be computed."


# Time


def slower(factor: float, phase: Phase | None = None) -> Callable[[Job], float]:
    return lambda job: factor if phase in (None, job.phase) else 1.0


def test_runs_that_take_longer_leave_fewer_seeds_and_one_look_at_them():
    study = Study(PEAKED, PEAKED, looks=lambda arm, seeds: HOPEFUL)
    study.seconds = slower(2.0, Phase.REPEAT)
    settled = study.settle(plan_with(budget="32s"))
    # 6 s for the bracket, then 4 s a round: 6 rounds end after 30 s, 7 would be more than 5 % over.
    assert study.looked == [([1], 5), ([1], 6)]
    assert settled.out_of_budget and settled.looks[1][-1].seeds == 6
    assert settled.looks[1][-1].stops and settled.looks[1][-1].chance is None
    assert settled.spent == 30.0


def test_a_budget_that_ends_at_a_planned_look_has_no_other_one():
    study = Study(PEAKED, PEAKED, looks=lambda arm, seeds: HOPEFUL)
    study.seconds = slower(2.6, Phase.REPEAT)
    settled = study.settle(plan_with(budget="32s"))
    assert study.looked == [([1], 5)]
    assert settled.out_of_budget and settled.looks[1][-1].stops


def test_three_seeds_are_looked_at_even_if_the_budget_is_used_up():
    study = Study({step: 50.0 + step for step in range(-6, 7)}, PEAKED)
    study.seconds = slower(3.0)
    settled = study.settle(plan_with(budget="32s"))
    assert study.steps(0) == [0, -1, 1]  # no more rates, though the best lies at an edge
    assert study.looked == [([1], 3)] and settled.out_of_budget
    assert "The time left is needed for the fresh seeds: no more rates are tried." in study.told


def test_no_second_choosing_seed_where_time_is_short():
    study = Study({**PEAKED, 1: 59.5}, PEAKED)
    study.seconds = slower(2.0)
    study.settle(plan_with(budget="32s", spread=1.0))
    assert study.steps(0, Phase.SECOND_SEED) == []
    assert "The time left is needed for the fresh seeds: no second choosing seed." in study.told


def test_quick_runs_do_not_change_the_plan():
    study = Study(PEAKED, PEAKED, looks=lambda arm, seeds: HOPEFUL)
    study.seconds = slower(0.1)
    settled = study.settle(plan_with(budget="32s"))
    assert settled.looks[1][-1].seeds == 8 and settled.spent == pytest.approx(2.2)


def test_a_run_that_is_cut_short_costs_the_time_that_it_took():
    study = Study(PEAKED, PEAKED)
    study.firsts = {(0, 1): 8.0}
    assert study.settle(plan_with(budget="32s")).spent == pytest.approx(6 - 2 / 3 + 10)


# Interruptions


class Killed(Exception):
    """The process ends here."""


class Store:
    """Runs of a simulated world, whose outcomes outlive the process."""

    def __init__(self, world: World) -> None:
        self.world, self.done, self.left = world, {}, 10**6

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        for job in jobs:
            if job not in self.done:
                if self.left == 0:
                    raise Killed
                self.left -= 1
                [outcome] = self.world.run([job])
                seconds = 1.0 + (7 * job.arm + 5 * job.step + 3 * job.seed) % 10 / 10
                self.done[job] = replace(outcome, seconds=seconds)
        return [self.done[job] for job in jobs]


@pytest.mark.parametrize("budget", [Budget(40.0, RUNS, "40 runs"), Budget(38.0, SECONDS, "38s")])
@pytest.mark.parametrize("number", [28, 51])
def test_interrupted_anywhere_it_ends_in_the_same_way(budget: Budget, number: int):
    kind = Kind(1.0, 0.0, "anywhere")
    plan = replace(plan_of(kind), budget=budget)

    def carried_out(store: Store, plan: Plan) -> Settled:
        def look(active: Sequence[int], seeds: int) -> dict[int, Difference]:
            world, chosen = store.world, [0, 0]
            for job in store.done:
                if job.phase is Phase.REPEAT:
                    chosen[job.arm] = job.step
            return {arm: world.difference(arm, chosen, slice(2, 2 + seeds), 2) for arm in active}

        return settle(plan, store.run, look, lambda text: None)

    whole = Store(World(kind, number))
    expected = carried_out(whole, plan)
    assert [look.seeds for look in expected.looks[1]] == [5, 8 if budget.unit == RUNS else 7]
    assert {job.phase for job in whole.done} == set(Phase)
    for runs in range(len(whole.done)):
        store = Store(World(kind, number))
        store.left = runs
        with pytest.raises(Killed):
            carried_out(store, plan)
        assert len(store.done) == runs
        store.left = 10**6
        assert carried_out(store, Plan.from_json(plan.as_json())) == expected
        assert store.done == whole.done


# Simulated worlds; `python -m benchmarks.settle_worlds` has more of them


@pytest.mark.slow
def test_non_inferiority_is_rarely_shown_where_the_loss_is_the_margin():
    kind = Kind(1.0, -MARGIN, "anywhere", exactly=True)
    assert summary(simulate(kind, 500, plan_of(kind))).falsely <= 3.5
    several = replace(kind, arms=4)
    assert summary(simulate(several, 150, plan_of(several, "64 runs"))).falsely <= 3.5


@pytest.mark.parametrize("place", ["near", "anywhere"])
def test_rates_are_near_the_best_and_more_is_decided_than_by_a_grid_of_more_runs(place: str):
    kind = Kind(1.0, -3.0, place)
    settled, grid = summary(simulate(kind, 300, plan_of(kind))), summary(simulate(kind, 300))
    assert settled.near >= 95 and settled.decided >= 80
    assert settled.runs < grid.runs == 30
    assert settled.decided > grid.decided + 10 and settled.strictly > grid.strictly + 10


def test_a_larger_budget_decides_more():
    kind = Kind(1.0, -3.0)
    shares = [
        summary(simulate(kind, 200, plan_of(kind, budget))).decided for budget in ("12 runs", "16 runs", "24 runs")
    ]
    assert shares == sorted(shares) and shares[0] + 10 < shares[-1]


# What an interval decides


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.1, 3.0, Decision.BETTER),
        (0.0, 3.0, Decision.NOT_INFERIOR),
        (-0.9, -0.1, Decision.NOT_INFERIOR),
        (-1.0, 0.5, Decision.UNDECIDED),
        (-3.0, 0.0, Decision.UNDECIDED),
        (-3.0, -0.1, Decision.WORSE),
        (-3.0, -1.0, Decision.WORSE),
        (-3.0, -1.1, Decision.INFERIOR),
    ],
)
def test_an_end_that_lies_on_a_border_decides_nothing(low, high, expected):
    assert decide(difference(low, high), margin=1.0) is expected
