"""Signals, or a closed pipe, at any moment of a command; then the same command once more, to its end."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.torture.forked import apart
from benchmarks.torture.work import (
    SETTINGS,
    Outcome,
    Place,
    Process,
    differences,
    ended_well,
    left_over,
    points,
    results,
    runs,
    scratch,
)
from src.export import UNFINISHED

SIGNALS = {
    "SIGKILL": [signal.SIGKILL],
    "SIGTERM": [signal.SIGTERM],
    "SIGINT": [signal.SIGINT],
    "SIGINT twice": [signal.SIGINT, signal.SIGINT],
    "SIGHUP (a closed terminal)": [signal.SIGHUP],
    "a closed pipe": [],  # whoever reads what the command prints ends
}
TARGETS = ("the command", "a child", "the group")
POLL_SECONDS = 0.003
ANY = "any"
TWO_DAYS = 48 * 3600
STOP_SECONDS = 180.0  # what an interrupted command has to end


@dataclass
class Job:
    """A command, the moments that are looked for in it (as patterns of files), and what must come of it."""

    module: str
    arguments: list[str]
    moments: dict[str, str]
    outcome: Callable[[Place], dict[str, Any]]
    weight: int
    seconds: float = 0.0  # of the undisturbed command
    expected: dict[str, Any] = field(default_factory=dict)

    @property
    def command(self) -> str:
        return f"src.{self.module}{' -m' if '-m' in self.arguments else ''}"


def finished(place: Place) -> dict[str, Any]:
    """The results of all runs, of a store whose parents have FINISHED."""
    parents, _ = runs(place.client())
    assert all(run.info.status == "FINISHED" for run in parents), [run.info.status for run in parents]
    return results(place.client())


def decided(place: Place) -> dict[str, Any]:
    """The results of all runs of a settle command, its plan and its verdict."""
    [parent], _ = runs(place.client())
    plan = json.loads(parent.data.tags["plan"])
    for arm in plan["arms"]:
        del arm["seconds"], arm["overrides"]  # measured; as typed
    [verdict] = place.store.glob("reports/*/verdict.json")
    contrasts = {}
    for each in json.loads(verdict.read_text())["contrasts"]:
        sides = {side: [each[side][key] for key in ("settings", "seeds", "f1")] for side in ("method", "baseline")}
        said = {key: each[key] for key in ("decision", "margin", "f1", "exact_match")}
        contrasts[each["method"]["name"]] = {**sides, **said}
    return {"plan": plan, "verdict": contrasts, **finished(place)}


def exported(place: Place) -> dict[str, Any]:
    """What an exported folder holds; its card names the speed."""
    files = [path for path in (place.folder / "exported").rglob("*") if path.is_file() and path.name != "README.md"]
    exported = [path.name for path in place.folder.iterdir() if path.name.startswith("exported")]
    return {
        "files": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
        "folders": {"exported": sorted(exported)},
    }


CHECKPOINT, UPLOAD = "store/checkpoints/*/unfinished", "store/artifacts/*/artifacts/model"
MOMENTS = {ANY: "", "start": "store/runs.lock", "checkpoint": CHECKPOINT, "upload": UPLOAD}
# A checkpoint after every few steps, so that many a moment is one of writing.
OFTEN = "train.checkpoint_minutes=1e-9"
JOBS = {
    "run": Job(
        "train",
        [*SETTINGS, "epochs=4", "method=lora", OFTEN],
        {**MOMENTS, "end": "store/artifacts/*/artifacts/result.json"},
        finished,
        weight=4,
    ),
    "sweep": Job(
        "train",
        ["-m", *SETTINGS, "epochs=3", "method=full,lora"],
        {**MOMENTS, "end": "store/reports"},
        finished,
        weight=3,
    ),
    "settle": Job(
        "settle",
        [*SETTINGS, "epochs=2", "method=full,lora", "budget=12 runs", "margin=8"],
        {**MOMENTS, "end": "store/reports"},
        decided,
        weight=1,
    ),
    "export": Job(
        "export",
        ["run=best", "merged=true"],
        {ANY: "", "start": "exported*/*", "end": "exported*/README.md"},
        exported,
        weight=2,
    ),
}


def kills(arguments: argparse.Namespace) -> Iterator[Outcome]:
    """`--count` trials; each has a command, a signal, a target and a moment, drawn from `--seed`."""
    draw = random.Random(arguments.seed)
    with scratch(arguments.keep) as folder:
        chosen = [JOBS[name] for name in arguments.jobs]
        for name in dict.fromkeys([*(["run"] if "export" in arguments.jobs else []), *arguments.jobs]):
            undisturbed(JOBS[name], place_of(JOBS[name], folder, f"whole-{name}"))
        done = 0
        while done < arguments.count:
            job = draw.choices(chosen, [job.weight for job in chosen])[0]
            name, moment = draw.choice(list(SIGNALS)), draw.choice(list(job.moments))
            target = draw.choice(TARGETS) if SIGNALS[name] else "the command"
            place = place_of(job, folder, f"trial-{done}", new=moment in (ANY, "start"))
            lost = trial(job, place, SIGNALS[name], target, moment, draw)
            if not lost or not arguments.keep:
                shutil.rmtree(place.folder)
            if lost is None:
                continue  # it had ended before the moment came
            done += 1
            yield Outcome({"command": job.command, "signal": name, "sent to": target, "moment": moment}, lost)


def place_of(job: Job, folder: Path, name: str, new: bool = False) -> Place:
    """Where a command runs; an export reads the store of the undisturbed run."""
    return Place(folder / name, at=folder / "whole-run" / "store" if job.module == "export" else None, new=new)


def typed(job: Job, place: Place) -> list[str]:
    """The arguments of a job."""
    return [*job.arguments, *([f"to={place.folder / 'exported'}"] if job.module == "export" else [])]


def undisturbed(job: Job, place: Place) -> None:
    """Run a command without any fault, for what must come of it."""
    begun = time.monotonic()
    status, text = place.finish(job.module, *typed(job, place))
    job.seconds = time.monotonic() - begun
    if status:
        raise SystemExit(f"undisturbed, {job.command} failed:\n{text}")
    job.expected = apart(job.outcome, place)
    print(f"undisturbed: {job.command} takes {job.seconds:.1f} s", flush=True)


def trial(
    job: Job, place: Place, numbers: Sequence[int], target: str, moment: str, draw: random.Random
) -> list[str] | None:
    """Disturb a command, start it again, and say what was lost; None where it had ended before."""
    pipe, reader = place.folder / "pipe", None
    if not numbers:
        os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    process = place.start(job.module, *typed(job, place), output=None if reader is None else pipe)
    after = draw.uniform(0.05, 0.95) * job.seconds if moment == ANY else draw.uniform(0, 0.05)
    if not reached(process, place, job.moments[moment], after):
        return None
    for number in numbers:
        send(process, number, target, draw)
        time.sleep(draw.uniform(0, 0.5) if len(numbers) > 1 else 0)
    if reader is not None:
        os.close(reader)
    lost = []
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        lost.append(f"it had not ended {STOP_SECONDS:.0f} s after the signal")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    lost += outlived(process)
    stopped = time.time()
    before = {} if job.module == "export" else apart(kept, place)
    for left in (place.folder / "cache").rglob("unfinished-*"):
        os.utime(left, (stopped - TWO_DAYS, stopped - TWO_DAYS))  # younger ones may be another process's
    if not whole_export(place):
        lost += ended_well(*place.finish(job.module, *typed(job, place)))
    if not lost:
        try:
            lost += differences(apart(job.outcome, place), job.expected)
        except (AssertionError, ValueError) as error:
            lost.append(str(error))
        lost += [] if job.module == "export" else apart(left_over, place) + apart(done_again, place, before, stopped)
    return lost


def whole_export(place: Place) -> bool:
    """Whether an export had ended before the fault: it does not write to a folder that is filled."""
    folder = place.folder / "exported"
    return folder.exists() and any(folder.iterdir()) and not (folder / UNFINISHED).exists()


def reached(process: Process, place: Place, pattern: str, after: float) -> bool:
    """Wait until a file of a pattern is there, and so many seconds; whether the command is still under way then."""
    while pattern and process.poll() is None and not any(place.folder.glob(pattern)):
        time.sleep(POLL_SECONDS)
    deadline = time.monotonic() + after
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return process.poll() is None


def send(process: Process, number: int, target: str, draw: random.Random) -> None:
    """Send a signal to the command, to one of its descendants (to itself where there is none), or to all of them."""
    with suppress(ProcessLookupError, psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True) if target == "a child" else []
        if target == "the group":
            os.killpg(process.pid, number)
        else:
            os.kill(draw.choice(children).pid if children else process.pid, number)


def outlived(process: Process) -> list[str]:
    """What is wrong where a process of a command still runs ten seconds after its end."""
    deadline = time.monotonic() + 10
    while left := members(process.pid):
        if time.monotonic() > deadline:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            return [f"{len(left)} processes of the command outlived it by ten seconds"]
        time.sleep(0.02)
    return []


def members(group: int) -> list[int]:
    """The processes of a process group that still run."""
    pids = []
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                pids.append(process.pid)
    return pids


def kept(place: Place) -> dict[str, tuple[str, int]]:
    """By run: its status after the fault, and the step of its last whole checkpoint."""
    if not has_tables(place.store / "mlflow.db"):
        return {}
    _, children = runs(place.client())
    steps = {run.info.run_id: 0 for run in children}
    for checkpoint in place.store.glob("checkpoints/*/step-*"):
        steps[checkpoint.parent.name] = max(steps.get(checkpoint.parent.name, 0), int(checkpoint.name[5:]))
    return {run.info.run_id: (run.info.status, steps[run.info.run_id]) for run in children}


def has_tables(database: Path) -> bool:
    """Whether a database is whole; MLflow's client would make what is missing, and the command is to do that."""
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as opened:
            return bool(opened.execute("SELECT version_num FROM alembic_version").fetchall())
    except sqlite3.Error:
        return False


def done_again(place: Place, before: dict[str, tuple[str, int]], stopped: float) -> list[str]:
    """What was computed once more although a checkpoint, or a finished run, held it.

    A step that was trained after the command was started again has a later time than the fault.
    """
    _, children = runs(place.client())
    now = {run.info.run_id: run for run in children}
    sentences = []
    for run_id, (status, step) in before.items():
        if (status == "FINISHED" or step) and run_id not in now:
            sentences.append(f"run {run_id[:8]} ({status}, checkpoint at step {step}) was begun anew")
        elif run_id in now:
            times = [p.timestamp / 1000 for p in points(place.client(), run_id, "train/loss") if p.step <= step]
            again = sum(at > stopped for at in times)
            if again:
                sentences.append(f"{again} of the {step} steps of run {run_id[:8]} were trained again")
            if step and status != "FINISHED" and "resumed" not in now[run_id].data.tags:
                sentences.append(f"run {run_id[:8]} did not go on from its checkpoint at step {step}")
    return sentences
