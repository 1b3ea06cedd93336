"""Makes the runs of a settle command as the protocol requests them, and stores their outcomes.

`src.protocol` has the rules, and `docs/protocol.md` explains them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from src.config import Config, UserError
from src.grid import key_of
from src.metrics import F1
from src.protocol.engine import Job, Outcome, Settled, rate_at, settle
from src.protocol.plan import RUNS, Budget, Plan
from src.report.arms import seed_of
from src.report.comparison import compare_runs
from src.report.statistics import Difference
from src.report.terminal import Terminal, duration
from src.reporting import schedule_of
from src.runs.identity import Hashes, hashes
from src.runs.parent import ParentRun
from src.runs.plans import ENDED_AT, Stored
from src.runs.records import SPENT, Record
from src.settling.arms import RATE, SEED, Arm
from src.training.fit import Diverged

OUTCOME = "outcome."  # with the hash of a run: the tag of the parent that stores the outcome of the run
EVAL_F1 = "eval/f1"


class Runs:
    """The runs of a settle command: it makes them with Hydra's launcher, and reuses those that are done."""

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
            parent: the parent run.
            plan: to carry out.
            arms: the variants of this command, which include those of the plan.
            shared: overrides of all runs.
            launch: the method `launch` of Hydra's launcher.
            compose: makes a configuration from overrides.
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
        """Make the runs that are not done yet, and repeat those that fail once; returns the outcomes of all.

        The outcome of a run is stored with the parent, so that the same command makes the same decisions again, even if
        the run has changed since.

        Raises:
            UserError: a run is neither done nor failed.
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
            for part in _without_gaps(todo):
                self.launch([overrides[i] for i in part], initial_job_idx=number + part[0])
            if not todo:
                break
            records = self._records([wanted[i] for i in new])
        for i, record in zip(new, records, strict=True):
            if record is None or not (_is_final(record) or record.failed):
                raise UserError(
                    f"The run {' '.join(overrides[i])} is not finished, and the protocol needs it; the same command "
                    "continues."
                )
            self._keep(wanted[i].present, self._outcome(record))
        return [self.outcomes[each.present] for each in wanted]

    def _keep(self, hash: str, outcome: Outcome) -> None:
        self.outcomes[hash] = outcome
        self.parent.store.tag(self.parent.run_id, {OUTCOME + hash: json.dumps(asdict(outcome))})

    def _overrides(self, job: Job) -> list[str]:
        rate = rate_at(self.plan.arms[job.arm].rate, job.step)
        given = [o for o in self.arms[job.arm].overrides if key_of(o) != SEED]
        more = [f"{RATE}={rate:g}", f"{SEED}={job.seed}"]
        if job.cut_below is not None:
            more.append(f"sweep.cut_below={job.cut_below:.2f}")
        tracking = self.arms[job.arm].config.tracking
        asked = tracking.register is not None or any(key_of(o) == "tracking.keep_model" for o in given)
        if tracking.keep_model == "all" and not asked:
            more.append("tracking.keep_model=best")  # a method may have dozens of runs
        return [*given, *self.shared, *more]

    def _records(self, wanted: Sequence[Hashes]) -> list[Record | None]:
        """The run of each configuration, preferably a finished one, which may belong to another sweep."""
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
        """Compute the differences in F1 of some arms and their baselines on the test questions.

        Args:
            arms: the numbers of the arms.
            seeds: the number of verdict seeds to use.

        Returns:
            The difference of each arm; None where it cannot be computed.
        """
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
    """Whether a run has a result: it is finished, or was cut short."""
    return record.finished or record.pruned


def _is_final(record: Record) -> bool:
    """Whether another attempt at a run would end in the same way."""
    return _ended(record) or (record.failed and record.tags.get("error", "").startswith(Diverged.__name__))


def _is_own(record: Record, parent: str) -> bool:
    """Whether a run was made by this command, and not by an earlier sweep."""
    return record.tags.get("mlflow.parentRunId") == parent


def _seconds(record: Record) -> float:
    """The wall time of all attempts at a run."""
    return float(record.tags.get(SPENT, record.metrics.get("time/total_seconds", 0.0)))


def _without_gaps(numbers: Sequence[int]) -> list[list[int]]:
    """Split ascending numbers into ranges without gaps, since a launcher numbers its jobs consecutively."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return parts


def carry_out(runs: Runs, terminal: Terminal) -> Settled:
    """Carry out the plan of some runs, and report each step with its reason."""
    plan = runs.plan

    def say(sentence: str) -> None:
        if not sentence.startswith(" "):  # an indented sentence belongs to the one before
            terminal.line()
        terminal.line(sentence)

    settled = settle(plan, runs, runs.look, say)
    if settled.out_of_budget:
        last = max((looks[-1].seeds for looks in settled.looks.values() if looks), default=0)
        runs.parent.store.tag(runs.parent.run_id, {ENDED_AT: str(last)})
    terminal.line()
    terminal.line(
        f"The protocol is complete; spent: {spent_of(plan.budget, settled.spent)}. After the last look, more runs need "
        "new test questions."
    )
    return settled


def spent_so_far(plan: Plan, parent: str, members: Sequence[Record]) -> str:
    """What the runs of a parent have spent of the plan's budget."""
    ended = [run for run in members if _is_own(run, parent) and (_ended(run) or run.failed)]
    spent = float(len(ended)) if plan.budget.unit == RUNS else sum(map(_seconds, ended))
    return spent_of(plan.budget, spent + plan.probing)


def spent_of(budget: Budget, spent: float) -> str:
    """The spent part of a budget: `31 of 40 runs`, `1 h 05 min of 2h`, `2.71 of 5`."""
    if budget.is_money:
        return f"{float(budget.given) * spent / budget.limit:.2f} of {budget.given}"
    return f"{spent:.0f} of {budget.given}" if budget.unit == RUNS else f"{duration(spent)} of {budget.given}"
