"""A settle command: probes its variants, plans, makes the runs that the protocol asks for, and looks at the test set.

`python -m src.settle` starts it; `src.protocol` knows the rules, and `docs/protocol.md` says why they are so.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from src.config import Config, DatasetConfig, UserError
from src.data.sources import load
from src.estimate.cards import limit_mb, read_memory
from src.estimate.probe import NoProbe, Probe, does_not_fit, probe_isolated
from src.grid import Job as Overrides
from src.grid import key_of
from src.metrics import F1, TRAINABLE
from src.protocol.engine import Job, Outcome, Settled, rate_at, settle
from src.protocol.plan import RUNS, ArmPlan, Budget, Plan, make_plan, read_budget, spread_of
from src.report.arms import seed_of
from src.report.comparison import arm_keys, compare_runs, make_arms, pair_up
from src.report.planning import reachable_margin
from src.report.statistics import Difference
from src.report.terminal import Terminal, duration
from src.report.words import count
from src.reporting import schedule_of
from src.runs.identity import hashes
from src.runs.parent import ParentRun
from src.runs.plans import ENDED_AT, Stored, read_plan
from src.runs.records import SPENT, Record, Status
from src.runs.store import Store
from src.runs.tracking import digest_of, flatten, recorded
from src.training.fit import Diverged

# Keys that the protocol sets.
RATE, SEED = "train.learning_rate", "train.seed"
ONE_VALUE = (SEED, "method.learning_rate", "rerun", "sweep.", "tracking.")  # beginnings of keys that cannot vary
OUTCOME = "outcome."  # with a run's hash the tag of the parent that keeps what the protocol has made of the run
EVAL_F1 = "eval/f1"
LONGEST_TAG = 8000  # characters that MLflow keeps of a tag


@dataclass(frozen=True)
class Arm:
    """One of the variants that a settle command compares."""

    name: str
    overrides: Overrides  # that make its configuration
    config: Config  # at its method's own rate
    hash: str  # of that run
    by: tuple[str, ...] = ()  # parameters that tell variants of a method apart
    test: str = ""  # digest of its test questions

    def as_record(self, trainable: int = 0) -> Record:
        """A run of it, as far as it is known beforehand: what a comparison tells arms and baselines by."""
        params, metrics = flatten(recorded(self.config)), {TRAINABLE: float(trainable)}
        nowhere: Any = None
        return Record(self.hash, self.name, Status.FINISHED, 0, 0, params, metrics, {}, {}, nowhere)


def find_arms(jobs: Sequence[tuple[Overrides, Config]], settings: Config) -> list[Arm]:
    """The variants that a settle command compares.

    Args:
        jobs: the overrides and the configuration of each.
        settings: the configuration without what varies.

    Raises:
        UserError: one variant alone, no budget, no test set, or a key that the protocol sets.
    """
    _check_keys([overrides for overrides, _ in jobs])
    if settings.sweep.budget is None:
        raise UserError("budget= is missing: how much may be spent, such as budget=2h, or budget='40 runs'.")
    budget = read_budget(settings.sweep.budget, settings.hardware.price_per_hour)
    arms = [Arm("", overrides, config, hashes(config).present) for overrides, config in jobs]
    arms = list({arm.hash: arm for arm in arms}.values())
    if len(arms) < 2:
        raise UserError("src.settle compares methods, and this is one alone; give two at least: method=full,lora.")
    if budget.unit == RUNS:  # whatever a run takes
        make_plan([ArmPlan(arm.hash, [], 1.0) for arm in arms], budget, 1.0, 0)
    datasets = {str(arm.config.dataset): arm.config.dataset for arm in arms}
    tests = {name: _test_digest(dataset) for name, dataset in datasets.items()}
    arms = named([replace(arm, test=tests[str(arm.config.dataset)]) for arm in arms])
    _check_pairs(arms)
    return arms


def _check_keys(jobs: Sequence[Overrides]) -> None:
    """
    Raises:
        UserError: a key that the protocol sets, or several values where it takes one.
    """
    values: dict[str, set[str]] = {}
    for overrides in jobs:
        for override in overrides:
            values.setdefault(key_of(override), set()).add(override)
    if RATE in values:
        raise UserError(f"{RATE}: src.settle tries learning rates round each method's own; leave it out.")
    for key, given in values.items():
        if len(given) > 1 and key.startswith(ONE_VALUE):
            listed = ", ".join(sorted(given))
            raise UserError(f"src.settle takes one value of {key}, and there are several: {listed}.")


def _test_digest(dataset: DatasetConfig) -> str:
    """
    Raises:
        UserError: there is no test set.
    """
    test = load(dataset).test
    if test is None:
        raise UserError(
            f"src.settle decides on test questions, and dataset={dataset.name} has none here; leave out "
            "dataset.test_size=null, give more articles, or test questions of their own (dataset.test_path)."
        )
    return digest_of(test)


def named(arms: Sequence[Arm]) -> list[Arm]:
    """The variants with the names that a comparison gives them, and the parameters that this takes."""
    records = [arm.as_record() for arm in arms]
    by = _telling_apart(records, dict.fromkeys(key_of(override) for arm in arms for override in arm.overrides))
    each = [make_arms([record], arm_keys(records, by))[0][0] for record in records]
    return [replace(arm, name=group.name, by=by) for arm, group in zip(arms, each, strict=True)]


def _check_pairs(arms: Sequence[Arm]) -> None:
    """
    Raises:
        UserError: variants that a comparison cannot tell apart, or one that would be compared with nothing.
    """
    names = [arm.name for arm in arms]
    if same := {name for name in names if names.count(name) > 1}:
        raise UserError(
            f"Several variants would be called {', '.join(sorted(same))}: they differ in nothing that a comparison "
            "tells methods apart by."
        )
    pairs = _pairs(arms, {})
    alone = [name for name in names if not any(name in pair for pair in pairs)]
    if alone:
        raise UserError(
            f"{', '.join(alone)} would be compared with nothing; give another method (or full) with the same model, "
            "data and parameters."
        )
    tests = {arm.name: arm.test for arm in arms}
    for one, other in pairs:
        if tests[one] != tests[other]:
            raise UserError(f"{one} and {other} have different test questions, so they do not compare.")


def _pairs(arms: Sequence[Arm], trainable: Mapping[str, int]) -> list[tuple[str, str]]:
    """The name of each variant with that of its baseline; by the number of trained parameters where none is full."""
    records = [arm.as_record(trainable.get(arm.name, 0)) for arm in arms]
    grouped, _ = make_arms(records, arm_keys(records, arms[0].by))
    return [(arm.name, base.name) for arm, base in pair_up(grouped, "full")]


def _telling_apart(records: Sequence[Record], keys: Iterable[str]) -> tuple[str, ...]:
    """As many of some parameters as it takes to tell all variants apart, in addition to the method, model and data."""

    def apart(by: Sequence[str]) -> int:
        return len(make_arms(records, arm_keys(records, by))[0])

    by: list[str] = []
    for key in keys:
        if any(key in record.params for record in records) and apart([*by, key]) > apart(by):
            by.append(key)
    return tuple(by)


def stored(store: Store, sweep_hash: str) -> Plan | None:
    """The plan that the same command has made before."""
    plans = (read_plan(parent) for parent in store.runs(f"tags.sweep_hash = '{sweep_hash}'"))
    return next((found.plan for found in plans if found is not None), None)


def make(arms: Sequence[Arm], settings: Config, terminal: Terminal, remote: bool = False) -> Plan:
    """Probe each variant, and fix what the budget holds.

    Args:
        arms: the variants.
        settings: the configuration without what varies.
        terminal: that is told what the probes have measured.
        remote: the runs are made on other machines, so a probe here does not tell what they take. A number of runs is
            planned without one then.

    Raises:
        UserError: a budget below the least protocol, or fewer than two variants that can run here.
    """
    budget = read_budget(str(settings.sweep.budget), settings.hardware.price_per_hour)
    probes: dict[str, Probe | None] = {arm.hash: None for arm in arms}
    out: dict[str, str] = {}
    begun = time.monotonic()
    if not (remote and budget.unit == RUNS):
        terminal.line(f"Probe: a few steps of each of {count(len(arms), 'method')}.")
        for arm in arms:
            probed, reason = _probe(arm, needed=budget.unit != RUNS)
            if probed is None and reason is not None:
                out[arm.name] = reason
            probes[arm.hash] = probed
            terminal.line(f"  {arm.name}: {reason or _of_probe(probed)}")
        terminal.line()
    left = [arm for arm in arms if arm.name not in out]
    if len(left) < 2:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in out.items())
        raise UserError(f"Fewer than two methods can run here, so there is nothing to compare. {reasons}")
    left = named(left)
    _check_pairs(left)
    sizes = [_sizes(dataset) for dataset in {str(arm.config.dataset): arm.config.dataset for arm in left}.values()]
    plan = make_plan(
        _planned(left, probes),
        budget,
        settings.sweep.margin,
        settings.train.seed,
        by=left[0].by,
        out=out,
        spread=max(spread_of(size.validation) for size in sizes),
        probing=round(time.monotonic() - begun, 1),
    )
    comparisons = plan.comparisons * len(plan.looks)
    seeds = len(plan.verdict_seeds)
    reachable = max(
        reachable_margin(size.questions, size.passages, size.articles, seeds, comparisons) for size in sizes
    )
    plan = replace(plan, reachable=reachable, tests=sorted({arm.test for arm in left}))
    if len(plan.as_json()) > LONGEST_TAG:
        raise UserError(f"{count(len(arms), 'method')} are too many for one plan; compare fewer at a time.")
    return plan


def seen_before(store: Store, plan: Plan) -> list[str]:
    """The names of settle commands that have looked at the same test questions, or will."""
    others = [(parent, read_plan(parent)) for parent in store.sweeps()]
    return [parent.name for parent, other in others if other is not None and {*other.plan.tests} & {*plan.tests}]


def _probe(arm: Arm, needed: bool) -> tuple[Probe | None, str | None]:
    """What a variant's runs take; or None and why it takes no part; or neither, where it cannot be probed.

    Args:
        arm: the variant.
        needed: without a probe there is no plan.

    Raises:
        UserError: it cannot run, for another reason than memory.
    """
    outcome = probe_isolated(arm.config)
    if outcome.error == "KeyboardInterrupt":
        raise KeyboardInterrupt
    if does_not_fit(outcome):
        return None, f"it runs out of memory: {outcome.reason}"
    if outcome.error == NoProbe.__name__ and not needed:
        return None, None
    if outcome.reason is not None:
        raise UserError(f"{arm.name} cannot run: {outcome.reason}")
    probe: Probe = outcome.value
    memory, peak = arm.config.hardware.memory, max(probe.peak_train_mb, probe.peak_eval_mb)
    if memory is not None and peak > (limit := limit_mb(read_memory(memory), probe.measured.device)):
        return None, f"it needs {peak:,.0f} MB, more than the {limit:,.0f} MB that memory={memory} leaves to a run"
    return probe, None


def _of_probe(probe: Probe | None) -> str:
    return (
        "not probed"
        if probe is None
        else f"about {duration(probe.run_seconds)} a run, {probe.peak_train_mb:,.0f} MB while training"
    )


def _planned(arms: Sequence[Arm], probes: Mapping[str, Probe | None]) -> list[ArmPlan]:
    """The arms of a plan, each with the one that it is compared with."""
    known = {arm.name: probe for arm in arms if (probe := probes[arm.hash]) is not None}
    index = {arm.name: number for number, arm in enumerate(arms)}
    pairs = _pairs(arms, {name: probe.measured.trainable for name, probe in known.items()})
    base = {name: index[other] for name, other in pairs}
    shared = set.intersection(*(set(arm.overrides) for arm in arms))
    return [
        ArmPlan(
            arm.name,
            [override for override in arm.overrides if override not in shared],
            arm.config.method.learning_rate,
            base.get(arm.name),
            known[arm.name].run_seconds if arm.name in known else 0.0,
            arm.hash,
        )
        for arm in arms
    ]


@dataclass(frozen=True)
class _Sizes:
    validation: int
    questions: int  # of the test set
    passages: int
    articles: int | None


def _sizes(dataset: DatasetConfig) -> _Sizes:
    sets = load(dataset)
    test = sets.test
    assert test is not None
    articles = len(set(test["title"])) if dataset.split == "article" else None
    return _Sizes(len(sets.validation), len(test), len(set(test["context"])), articles)


def plan_line(plan: Plan) -> str:
    """What a plan holds, in a sentence."""
    looks = " and ".join(str(number) for number in plan.looks)
    second = ", a second choosing seed where two are close" if plan.second_seed else ""
    return (
        f"budget {plan.budget.given}: 3 learning rates for each of {len(plan.arms)} methods, up to {plan.extra_rates} "
        f"more at an edge{second}; then {len(plan.verdict_seeds)} fresh seeds, with looks at {looks}"
    )


class Runs:
    """The runs of a settle command: makes them with Hydra's launcher, and knows those that are done."""

    def __init__(
        self,
        parent: ParentRun,
        plan: Plan,
        arms: Sequence[Arm],
        shared: Sequence[str],
        launch: Callable[..., Any],
        compose: Callable[[Sequence[str]], Config],
    ) -> None:
        """
        Args:
            parent: of the runs.
            plan: to be carried out.
            arms: as they were composed now; those of the plan are among them.
            shared: overrides of all runs.
            launch: `launch` of Hydra's launcher.
            compose: makes a configuration of overrides.
        """
        self.parent, self.plan, self.shared = parent, plan, list(shared)
        self.launch, self.compose = launch, compose
        by_hash = {arm.hash: arm for arm in arms}
        self.arms = [by_hash[each.hash] for each in plan.arms]
        self.outcomes = {
            key.removeprefix(OUTCOME): Outcome(**json.loads(text))
            for key, text in parent.tags.items()
            if key.startswith(OUTCOME)
        }
        self.begun = 0
        self.arm_of: dict[str, int] = {}  # by the hash of a run

    def __call__(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Make the runs that are not done yet, those that fail twice; how all of them ended.

        What has come out of a run is kept with the parent, so that the command decides alike when it is typed again,
        whatever has become of the run since.

        Raises:
            UserError: a run that is neither done nor failed.
        """
        overrides = [self._overrides(job) for job in jobs]
        wanted = [hashes(self.compose(each)) for each in overrides]
        self.arm_of |= {each.present: job.arm for each, job in zip(wanted, jobs, strict=True)}
        number = self.begun
        self.begun += len(jobs)
        new = [i for i, each in enumerate(wanted) if each.present not in self.outcomes]
        records = self._records([wanted[i] for i in new])
        for _ in range(2):
            todo = [i for i, record in zip(new, records, strict=True) if record is None or not _is_final(record)]
            for part in _stretches(todo):
                self.launch([overrides[i] for i in part], initial_job_idx=number + part[0])
            if not todo:
                break
            records = self._records([wanted[i] for i in new])
        for i, record in zip(new, records, strict=True):
            if record is None or not (_is_final(record) or record.failed):
                raise UserError(
                    f"The run {' '.join(overrides[i])} is not finished, and the protocol needs it; the same command "
                    "goes on."
                )
            self._keep(wanted[i].present, self._outcome(record))
        return [self.outcomes[each.present] for each in wanted]

    def _keep(self, hash: str, outcome: Outcome) -> None:
        self.outcomes[hash] = outcome
        self.parent.store.tag(self.parent.run_id, {OUTCOME + hash: json.dumps(asdict(outcome))})

    def _overrides(self, job: Job) -> list[str]:
        rate = rate_at(self.plan.arms[job.arm].rate, job.step)
        given = [o for o in self.arms[job.arm].overrides if key_of(o) != "train.seed"]
        more = [f"train.learning_rate={rate:g}", f"train.seed={job.seed}"]
        if job.cut_below is not None:
            more.append(f"sweep.cut_below={job.cut_below:.2f}")
        kept = self.arms[job.arm].config.tracking.keep_model
        if kept == "all" and not any(key_of(o) == "tracking.keep_model" for o in given):
            more.append("tracking.keep_model=best")  # of dozens of runs of a method
        return [*given, *self.shared, *more]

    def _records(self, wanted: Sequence[Any]) -> list[Record | None]:
        """The run of each configuration, a finished one before others; also one that another sweep has made."""
        latest: dict[str, Record] = {}
        for member in self.parent.members():
            key = member.tags.get("config_hash", "")
            if key not in latest or not latest[key].finished:
                latest[key] = member
        known: list[Record | None] = []
        for each in wanted:
            record = latest.get(each.present)
            ended = record is not None and _ended(record)
            if not ended and not self.arms[0].config.rerun and (done := self.parent.store.finished(each)):
                self.parent.include(done)
                record = done
            known.append(record)
        return known

    def _outcome(self, record: Record) -> Outcome:
        curve = record.history(EVAL_F1)
        after = curve.loc[curve["step"] > 0, "value"]
        return Outcome(
            f1=record.metrics[F1] if record.finished else None,
            first_f1=float(after.iloc[0]) if len(after) else None,
            seconds=_seconds(record),
            reused=not _is_own(record, self.parent.run_id),
        )

    def look(self, arms: Sequence[int], seeds: int) -> dict[int, Difference | None]:
        """The differences of some arms with their baselines in F1 on the test questions."""
        looked_at = {str(seed) for seed in (*self.plan.choosing_seeds, *self.plan.verdict_seeds[:seeds])}
        members = [run for run in self.parent.members() if seed_of(run) in looked_at]
        schedule = schedule_of(Stored(self.plan, None if seeds in self.plan.looks else seeds))
        compared = compare_runs("", members, self.plan.by, margin=self.plan.margin, schedule=schedule)
        differences: dict[int, Difference | None] = dict.fromkeys(arms)
        for contrast in compared.contrasts:
            arm = self.arm_of[contrast.arm.best.runs[0].tags["config_hash"]]
            if arm in differences:
                differences[arm] = contrast.differences.get("f1")
        return differences


def _ended(record: Record) -> bool:
    """Whether a run has brought a result: it is finished, or was cut short."""
    return record.finished or record.pruned


def _is_final(record: Record) -> bool:
    """Whether another attempt at a run would end as it has ended."""
    return _ended(record) or (record.failed and record.tags.get("error", "").startswith(Diverged.__name__))


def _is_own(record: Record, parent: str) -> bool:
    """Whether a run was made by this command, and not by a sweep before it."""
    return record.tags.get("mlflow.parentRunId") == parent


def _seconds(record: Record) -> float:
    """The wall time of all attempts at a run."""
    return float(record.tags.get(SPENT, record.metrics.get("time/total_seconds", 0.0)))


def _stretches(numbers: Sequence[int]) -> list[list[int]]:
    """Ascending numbers in stretches without a gap, since a launcher counts its jobs on."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return parts


def carry_out(runs: Runs, terminal: Terminal) -> Settled:
    """Carry out the plan of some runs, and say what is tried and why."""
    plan = runs.plan

    def say(sentence: str) -> None:
        if not sentence.startswith(" "):  # which belongs to the sentence before
            terminal.line()
        terminal.line(sentence)

    settled = settle(plan, runs, runs.look, say)
    last = max((looks[-1].seeds for looks in settled.looks.values() if looks), default=0)
    if settled.out_of_budget:
        runs.parent.store.tag(runs.parent.run_id, {ENDED_AT: str(last)})
    terminal.line()
    terminal.line(_ending(plan, settled))
    return settled


def _ending(plan: Plan, settled: Settled) -> str:
    """What was spent, and that nothing goes on."""
    spent = spent_of(plan.budget, settled.spent)
    return (
        f"The protocol has come to its end; spent: {spent}. Nothing goes on beyond the last look without new test "
        "questions."
    )


def spent_so_far(plan: str, parent: str, members: Sequence[Record]) -> str:
    """What the runs of a parent have spent of the budget of its plan, which is given as it is stored."""
    known = Plan.from_json(plan)
    ended = [run for run in members if _is_own(run, parent) and (_ended(run) or run.failed)]
    spent = float(len(ended)) if known.budget.unit == RUNS else sum(map(_seconds, ended))
    return spent_of(known.budget, spent + known.probing)


def spent_of(budget: Budget, spent: float) -> str:
    """`31 of 40 runs`, `1 h 05 min of 2h`, `2.71 of 5`."""
    if budget.is_money:
        return f"{float(budget.given) * spent / budget.limit:.2f} of {budget.given}"
    return f"{spent:.0f} of {budget.given}" if budget.unit == RUNS else f"{duration(spent)} of {budget.given}"
