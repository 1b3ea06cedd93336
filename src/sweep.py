"""A sweep makes many runs, each in a separate process, under one parent run.

    python -m src.train -m method=full,lora train.learning_rate=1e-4,1e-3

Hydra's sweepers choose the runs, and its launchers determine where they run. This module plans the sweep (which runs
are done already), isolates its runs, and reports. The same command, given again, makes the runs that are left.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import shlex
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict, read_write

from src.arguments import command
from src.compose import MISTAKES, fail, from_hydra
from src.config import Config, UserError
from src.credentials import hidden, without_secrets
from src.data.records import read_file
from src.grid import Job, grid, key_of
from src.grid import arms as arms_of
from src.metrics import F1
from src.problems import cannot_be_trained, problems

if TYPE_CHECKING:
    from hydra.plugins.launcher import Launcher

    from src.protocol.engine import Settled
    from src.protocol.plan import Plan
    from src.runs.identity import Hashes
    from src.runs.parent import ParentRun
    from src.runs.records import Record
    from src.settling.arms import Arm

PRELOADED = ["hydra.main", "src.warm"]
_sweep: Sweep | None = None  # the sweep of this process


class SweepCallback(Callback):
    """Hydra calls this before the first run of a multirun."""

    def on_multirun_start(self, config: DictConfig, **more: Any) -> None:
        global _sweep
        try:
            if int(os.environ.get("WORLD_SIZE", "1")) > 1:
                raise UserError(
                    "A sweep (-m) cannot be started by torchrun or accelerate launch; start it without them, or start "
                    "single runs with them."
                )
            _refuse_secrets(config.hydra.job.env_set)
            _sweep = Sweep(config)
        except MISTAKES as error:
            fail(error)
        except Exception:  # Hydra would go on without the callback
            traceback.print_exc()
            sys.exit(1)
        with read_write(config.hydra):  # every run gets the id of its parent, under every launcher
            varied = f"sweep.varied=[{','.join(_sweep.varied)}]"
            config.hydra.overrides.task.extend([f"sweep.parent={_sweep.parent.run_id}", varied])
            if config.hydra.sweeper.get("storage"):
                config.hydra.sweeper.storage = without_secrets(config.hydra.sweeper.storage)
        with read_write(config.tracking):  # Hydra writes all this to multirun.yaml
            config.tracking.uri = _sweep.tracking.uri


def _refuse_secrets(variables: Mapping[str, Any]) -> None:
    """Look for passwords and tokens among the variables that Hydra sets for runs: it writes them to files of a sweep.

    Raises:
        UserError: there is one.
    """
    assigned = {name: f"{name.upper()}={value}" for name, value in variables.items()}
    if secret := [name for name, text in assigned.items() if hidden(text) != text]:
        raise UserError(
            f"hydra.job.env_set (or env_copy) holds a secret, {', '.join(secret)}, and Hydra would write it to "
            "multirun.yaml; leave it out, and set the variable before the command: the runs of the sweep inherit it."
        )


@dataclass
class Work:
    """The work of a sweep, before it has a parent run."""

    configs: list[Config]  # of its runs, as far as they are known beforehand
    identity: list[str]  # equal for the same work
    notes: list[str] = field(default_factory=list)
    hashes: list[Hashes] = field(default_factory=list)  # of its runs, if all of them are known
    trials: int = 0  # of a search
    arms: list[Arm] = field(default_factory=list)  # of a settle command
    plan: Plan | None = None  # of a settle command

    @property
    def planned(self) -> int:
        """The largest number of runs."""
        return self.trials or (self.plan.most_runs if self.plan is not None else len(self.hashes))


class Sweep:
    """A sweep with its parent run."""

    def __init__(self, composed: DictConfig) -> None:
        """Plan the sweep, and begin or continue its parent run.

        Raises:
            UserError: a run is impossible, the same sweep is already running, or the budget is too small.
        """
        given = [o for o in composed.hydra.overrides.task if not o.startswith(OF_PARENT)]
        settings = from_hydra(without_hydra(composed), given)
        self.tracking = settings.tracking
        self.work = find_work(composed, given, settings)
        from src.report.terminal import Terminal
        from src.runs.parent import ParentRun

        self.terminal = Terminal()
        varied = " ".join(override for override in given if _varies(override)) or " ".join(given)
        digest = hashlib.sha256("\n".join(self.work.identity).encode()).hexdigest()[:12]
        if self.work.arms:
            launcher = str(composed.hydra.runtime.choices["hydra/launcher"])
            self.work.plan = self._plan(settings, digest, launcher.startswith(REMOTE))
        self.parent = ParentRun.begin(
            settings.tracking,
            settings.sweep.name,
            f"{'settle' if self.work.arms else 'sweep'} {varied}"[:200],
            digest,
            as_typed(),
            self.work.planned,
            fresh=settings.rerun,
            margin=settings.sweep.margin,
            plan=None if self.work.plan is None else self.work.plan.as_json(),
        )
        keys = [o.get_key_element().lstrip("+") for o in _parsed(composed, given) if o.is_sweep_override()]
        keys += [key_of(override) for arm in composed.hydra.sweeper.get("arms") or [] for override in shlex.split(arm)]
        # Groups of Hydra's own have a slash.
        self.varied = [key for key in dict.fromkeys(keys) if re.fullmatch(r"[\w.]+", key)]
        if self.work.hashes:
            wanted = [] if settings.rerun else self.work.hashes
            done = [run for each in wanted if (run := self.parent.store.finished(each)) is not None]
        else:
            done = [run for run in self.parent.members() if run.finished]
        for run in done:
            self.parent.include(run)
        self.parent.started(len(done))
        self.settled: Settled | None = None
        self._show(varied, len(done), settings)

    def _plan(self, settings: Config, digest: str, remote: bool) -> Plan:
        """The plan of a settle command: the stored one, or a new one."""
        from src.runs.store import connect, store_errors_explained
        from src.settling.planning import make, seen_before, stored

        with store_errors_explained():
            store = connect(settings.tracking)
            plan = None if settings.rerun else stored(store, digest)
            if plan is None:
                plan = make(self.work.arms, settings, self.terminal, remote)
                if names := seen_before(store, plan):
                    self.work.notes.append(
                        f"These test questions have been looked at before ({', '.join(names)}): the error of 5 % holds "
                        "for each of these commands by itself and not for all together; new test questions have no "
                        "such history"
                    )
        return plan

    def _show(self, varied: str, done: int, settings: Config) -> None:
        """Print what is about to run."""
        planned, plan = self.work.planned, self.work.plan
        at_most = "" if plan is None else "at most "
        rows = {
            "sweep" if plan is None else "settle": varied,
            "runs": f"{at_most}{planned}, {done} of them done already" if done else f"{at_most}{planned}",
            "margin": margin_line(self.parent.margin, self.work.configs, plan),
            "output": f"{output_folder(settings)}/",
            "parent": self.parent.run_id,
        }
        if plan is not None:
            from src.settling.planning import plan_line

            rows = {"settle": rows.pop("settle"), "plan": plan_line(plan), **rows}
        self.terminal.header(rows, wrap=True)
        notes = [*self.work.notes, *_kept_margin(self.parent.margin, settings.sweep.margin)]
        if plan is not None and settings.sweep.budget != plan.budget.given:
            notes.append(f"The plan was made for budget={plan.budget.given} and stays")
        for note in notes:
            self.terminal.note(f"{note}.")
        for name, reason in plan.out.items() if plan is not None else []:
            self.terminal.warning(f"{name} takes no part: {reason.rstrip('.')}.")

    @property
    def hashes(self) -> list[str]:
        """The hashes of the runs that must be finished at the end, if they are known beforehand."""
        return [each.present for each in self.work.hashes]

    def settle(self, launcher: Launcher, composed: DictConfig, arguments: Sequence[str]) -> None:
        """Carry out the plan of a settle command."""
        from src.settling.runs import Runs, carry_out

        assert self.work.plan is not None
        loader = GlobalHydra.instance().config_loader()

        def compose(overrides: Sequence[str]) -> Config:
            return from_hydra(without_hydra(loader.load_sweep_config(composed, list(overrides))), overrides)

        shared = [o for o in arguments if o.startswith(OF_PARENT)]
        runs = Runs(self.parent, self.work.plan, self.work.arms, shared, launcher.launch, compose)
        self.settled = carry_out(runs, self.terminal)

    def end(self, interrupted: bool = False) -> int:
        """End the parent run and print the table; returns the exit status."""
        from src.reporting import report
        from src.runs.commands import next_commands, ui_command
        from src.runs.keep import drop_worse_models
        from src.runs.records import Status

        members = self.parent.members()
        settles = self.work.plan is not None
        if sentence := drop_worse_models(self.parent.store, self.parent.run_id, members):
            self.terminal.warning(sentence)
        failed = [run for run in members if run.failed]
        finished = {run.tags["config_hash"] for run in members if run.finished}
        missing = len(set(self.hashes) - finished)
        # A learning rate that fails is a result of a settle command. The command fails only if it made no comparison.
        decided = self.settled is not None and any(
            look.difference is not None for looks in self.settled.looks.values() for look in looks
        )
        bad = not decided if settles else bool(failed or missing)
        status = Status.KILLED if interrupted else Status.FAILED if bad else Status.FINISHED
        self.terminal.line()
        self.terminal.sweep_table([(run.name, str(run.status), run.id[:8], run.metrics) for run in members])
        for run in failed:
            tags = run.tags
            self.terminal.warning(f"{run.name} failed: {tags.get('error')} See {tags.get('output')}")
        if missing > len(failed):
            self.terminal.warning(f"{missing - len(failed)} runs are not finished; the same command makes them.")
        try:
            if members and not interrupted and not (settles and self.settled is None):
                report(self.tracking, sweeps=[self.parent.run_id])
        finally:
            self.parent.end(status, members)
        scored = [run for run in members if run.finished]
        if scored:
            best = max(scored, key=lambda run: run.metrics[F1])
            self.terminal.header(next_commands(self.tracking, best.id))
        else:
            self.terminal.header({"see all runs": ui_command(self.tracking)})
        return 130 if interrupted else 0 if status is Status.FINISHED else 1


OF_PARENT = ("sweep.parent=", "sweep.varied=")  # overrides that a sweep gives to all its runs
REMOTE = ("ray", "submitit_slurm")  # launchers that start runs on other machines
SETTLE = ("-m", "hydra/sweeper=settle")  # the arguments that `src.settle` adds


def as_typed() -> str:
    """The command that the user typed, quoted for the shell, without secrets."""
    if SETTLE[1] in sys.argv:
        return hidden(shlex.join([*command("settle"), *(word for word in sys.argv[1:] if word not in SETTLE)]))
    return hidden(shlex.join([*command("train"), *sys.argv[1:]]))


def settle(launcher: Launcher, composed: DictConfig, arguments: Sequence[str]) -> None:
    """Make the runs of the settle command of this process."""
    from src.runs.store import store_errors_explained

    assert _sweep is not None
    with store_errors_explained():
        _sweep.settle(launcher, composed, arguments)


def end(interrupted: bool = False) -> int:
    """End the sweep of this process, if it has one; returns the exit status.

    Raises:
        UserError: the tracking store fails.
    """
    if _sweep is None:
        return 0
    from src.runs.store import store_errors_explained

    with store_errors_explained():
        return _sweep.end(interrupted)


def without_hydra(composed: DictConfig) -> DictConfig:
    """The composed configuration without Hydra's section."""
    job = composed.copy()
    with open_dict(job):
        del job["hydra"]
    return job


def _varies(override: str) -> bool:
    try:
        return bool(OverridesParser.create().parse_override(override).is_sweep_override())
    except Exception:  # the sweeper will report the error
        return False


def _parsed(composed: DictConfig, given: Sequence[str]) -> list[Override]:
    """The overrides of the sweeper's configuration, and those that the user gave."""
    loader = GlobalHydra.instance().config_loader()
    params = [f"{key}={value}" for key, value in (composed.hydra.sweeper.get("params") or {}).items()]
    return list(OverridesParser.create(config_loader=loader).parse_overrides([*params, *given]))


def find_work(composed: DictConfig, given: Sequence[str], settings: Config) -> Work:
    """The work of a sweep with the chosen sweeper; this also reads its data and starts the imports of its runs.

    Raises:
        UserError: a run is impossible.
    """
    sweeper = composed.hydra.sweeper
    searches, settles = "n_trials" in sweeper, "arms" in sweeper  # sweepers that decide as they go
    jobs, notes = ([], []) if searches else plan(composed, given)
    configs = [config for _, config in jobs] or [settings]
    read_data(configs)
    if searches:
        import src.runs.search  # noqa: F401  # reports a missing package before anything is begun
    from src.runs.isolation import start_server

    start_server(PRELOADED)  # in parallel with the imports here
    from src.runs.identity import hashes

    if searches:  # so many trials of each method
        number = len(arms_of(_parsed(composed, given), GlobalHydra.instance().config_loader()))
        return Work(configs, [str(sweeper), *sorted(given)], trials=sweeper.n_trials * number)
    distinct = list(dict.fromkeys(hashes(config) for config in configs))
    identity = sorted(each.present for each in distinct)
    if not settles:
        return Work(configs, identity, notes, distinct)
    from src.settling.arms import find_arms

    arms = find_arms(jobs, settings)
    return Work(configs, ["settle", *identity], notes, arms=arms)


def plan(composed: DictConfig, given: Sequence[str]) -> tuple[list[tuple[Job, Config]], list[str]]:
    """All runs with their overrides, checked before the first begins, and notes on keys that were left out of them."""
    loader = GlobalHydra.instance().config_loader()
    listed = [shlex.split(arm) for arm in composed.hydra.sweeper.get("arms") or []] or [[]]  # each gives a sweep
    sweeps = [_parsed(composed, [*given, *arm]) for arm in listed]
    runs = grid(sweeps, lambda chosen: loader.load_sweep_config(composed, list(chosen)))
    jobs = []
    for overrides in runs.jobs:
        config = from_hydra(without_hydra(loader.load_sweep_config(composed, list(overrides))), overrides)
        if reasons := problems(config) + cannot_be_trained(config):
            raise UserError(f"The sweep cannot begin; in the run {' '.join(overrides)}: " + "\n".join(reasons))
        jobs.append((overrides, config))
    return jobs, runs.notes


def read_data(configs: Sequence[Config]) -> None:
    """Read once every file of questions that the runs need, so that errors are reported before a run begins.

    Raises:
        UserError: a file cannot be read, or holds no usable question.
    """
    for path in dict.fromkeys(file for config in configs for file in config.dataset.files().values()):
        read_file(path)


def margin_line(margin: float | None, configs: Sequence[Config], plan: Plan | None = None) -> str:
    """The margin of a sweep, and the margin that its questions and seeds can be expected to show.

    The latter is left out if it is unknown: for one method, for a search, or if the data cannot be loaded.
    """
    named = "none was named" if margin is None else f"{margin:g} F1 (sweep.margin)"
    if plan is not None:
        fresh = f"{len(plan.verdict_seeds)} fresh seeds"
        return f"{named}; the test set and {fresh} can show a margin of about {plan.reachable or math.nan:.1f} F1"
    kinds = Counter((config.model.name, config.method.name) for config in configs)
    models, methods = ({kind[part] for kind in kinds} for part in (0, 1))
    if len(methods) < 2:
        return named
    from src.data.sources import load
    from src.report.planning import reachable_margin
    from src.report.words import count

    dataset = configs[0].dataset
    try:
        sets = load(dataset)
    except UserError:  # the runs will report it
        return named
    split = "validation" if sets.test is None else "test"
    questions = getattr(sets, split)
    seeds = min(
        len({config.train.seed for config in configs if (config.model.name, config.method.name) == kind})
        for kind in kinds
    )
    articles = len(set(questions["title"])) if dataset.split == "article" else None
    reachable = reachable_margin(
        len(questions), len(set(questions["context"])), articles, seeds, comparisons=len(kinds) - len(models)
    )
    on = f"this {split} set ({count(len(questions), 'question')}) and {count(seeds, 'seed')}"
    return f"{named}; {on} can show a margin of about {reachable:.1f} F1"


def _kept_margin(kept: float | None, given: float) -> list[str]:
    """A note if a sweep that continues keeps a margin other than the one that is given now."""
    if kept is None:
        return [f"The sweep was begun without a margin; sweep.margin={given:g} is ignored"]
    if kept != given:
        return [f"The sweep keeps the margin that it began with, {kept:g} F1; sweep.margin={given:g} is ignored"]
    return []


def output_folder(config: Config) -> Path:
    """The folder for the output of a sweep's runs."""
    return Path(config.tracking.folder) / "output"


def run_alone(config: Config) -> float:
    """Make a single run in a process like those of a sweep, so that it is measured in the same way.

    Raises:
        UserError: the run failed.
        KeyboardInterrupt: the run was interrupted.
    """
    from src.runs.isolation import call, start_server

    start_server(PRELOADED)
    outcome = call(train, config)
    if outcome.error == "KeyboardInterrupt":
        raise KeyboardInterrupt
    if outcome.error == "Death":
        from src.runs.tracking import RunLog

        RunLog(config).record_failure(str(outcome.reason))
    if outcome.reason is not None:
        raise UserError(outcome.reason)
    return float(outcome.value)


def run_isolated(config: Config, number: int, launcher: str) -> float | None:
    """Make one run of a sweep unless it is done already; returns its F1, or None if it has no F1.

    Args:
        config: the configuration of the run.
        number: the number of the run in the sweep, from 0.
        launcher: the name of the chosen launcher.

    Raises:
        UserError: the tracking store fails.
    """
    from src.runs.store import store_errors_explained

    with store_errors_explained():
        return _run_isolated(config, number, launcher)


def _run_isolated(config: Config, number: int, launcher: str) -> float | None:
    from src.report.terminal import Terminal, run_line
    from src.runs.isolation import call, start_server
    from src.runs.keep import drop_worse_models
    from src.runs.naming import run_name
    from src.runs.parent import ParentRun
    from src.runs.records import SPENT
    from src.runs.tracking import RunLog

    start_server(PRELOADED)
    parent = ParentRun.of(config.tracking, str(config.sweep.parent))
    terminal = Terminal()
    title = f"[{number + 1}/{parent.tags['planned']}] {run_name(config)}"
    log = RunLog(config)
    done = log.finished()
    if done is not None:
        parent.include(done)  # another sweep may have made it since this one was planned
        terminal.line(f"{title}  done already  {run_line(done.metrics)}")
        return done.metrics[F1]
    if config.sweep.fail_fast and any(run.failed for run in parent.members()):
        terminal.line(f"{title}  not begun: sweep.fail_fast=true")
        return None
    output = output_folder(config) / f"{log.hashes.present}.log"
    terminal.line(f"{title}  runs, see {output}")
    work: Callable[[Config], float] = train_on_a_free_gpu if launcher == "joblib" else train
    alone = launcher == "basic"  # the lines of several runs at once would overwrite each other
    begun = time.time()

    def members_and_this() -> tuple[list[Record], Record]:
        """Record the time that this run has spent; returns all runs of the sweep, and this one."""
        members = parent.members()
        [*_, this] = [run for run in members if run.tags["config_hash"] == log.hashes.present]
        spent = float(this.tags.get(SPENT, 0)) + time.time() - begun
        parent.store.tag(this.id, {"output": str(output), "launcher": launcher, SPENT: f"{spent:.1f}"})
        return members, this

    with terminal.following(output.with_suffix(".progress")) if alone else nullcontext() as look:
        if look is not None:
            work = partial(train, progress_file=output.with_suffix(".progress"))
        try:
            outcome = call(work, config, output, look)
        except KeyboardInterrupt:
            with suppress(ValueError):  # the run had not begun
                members_and_this()
            raise
    if outcome.error == "AlreadyRunning":
        terminal.line(f"{title}  left alone: {outcome.reason}")
        return None
    if outcome.reason is not None:
        log.record_failure(outcome.reason)
    members, this_run = members_and_this()
    drop_worse_models(parent.store, parent.run_id, members)
    ending = run_line(this_run.metrics) if outcome.reason is None else f"{this_run.status.in_mlflow}: {outcome.reason}"
    terminal.line(f"{title}  {ending}")
    terminal.line(_progress(parent, members, config.sweep.varied))
    return outcome.value


def _progress(parent: ParentRun, members: Sequence[Record], varied: Sequence[str] = ()) -> str:
    """The progress of the sweep, whichever process makes its runs; `varied` are the keys that it varies."""
    from src.report.comparison import arm_keys, make_arms
    from src.report.terminal import progress_line
    from src.runs.naming import MODELS
    from src.runs.plans import read_plan
    from src.runs.records import Status

    record = parent.store.record(parent.run_id)
    tags = record.tags
    planned, before = int(tags["planned"]), int(tags["done_before"])
    counts = Counter(run.status for run in members)
    finished, failed, pruned = counts[Status.FINISHED], counts[Status.FAILED], counts[Status.PRUNED]
    ended = finished + failed + pruned
    elapsed = time.time() - float(tags["attempt_started"])
    left = elapsed / (ended - before) * (planned - ended) if ended > before else None
    stored = read_plan(record)
    by = [*(["model.name"] if {*varied} & {*MODELS} else []), *([] if stored is None else stored.plan.by)]
    arms, _ = make_arms(members, arm_keys(members, by))
    best = {arm.name: (arm.best.f1(), arm.best.rate, len(arm.best.runs)) for arm in arms}
    spent = ""
    if stored is not None:
        from src.settling.runs import spent_so_far

        spent = spent_so_far(stored.plan, parent.run_id, members)
    return progress_line(finished, failed, pruned, planned, left, best, spent)


def train_on_a_free_gpu(config: Config) -> float:
    """`train` on a free GPU, for a launcher such as joblib that starts several runs at once without assigning GPUs."""
    from src.training.gpus import free_gpu, visible_gpus

    with free_gpu(Path(config.tracking.folder), [] if config.hardware.device == "cpu" else visible_gpus()):
        return train(config)


def train(config: Config, progress_file: Path | None = None) -> float:
    """Train in a separate process, and write the progress to a file; returns the F1 of the run."""
    from src.run import run

    on_score = None
    if config.sweep.trial is not None:
        from src.runs.search import reporter

        on_score = reporter(config.sweep)
    elif config.sweep.cut_below is not None:
        on_score = partial(cut_short, config)
    result = run(config, on_score, progress_file)
    assert result is not None  # one process a run
    return result.metrics[F1]


def cut_short(config: Config, epoch: int, f1: float) -> None:
    """Stop a run if its F1 after the first epoch is clearly behind that of another rate of its method.

    Raises:
        Stopped: the run must stop.
    """
    from src.runs.tracking import Stopped

    train, least = config.train, config.sweep.cut_below
    if least is not None and f1 < least and epoch == train.eval_every_epochs < train.epochs:
        raise Stopped(f"Cut short after epoch {epoch}: F1 {f1:.1f} is below {least:.1f}, clearly behind another rate.")
