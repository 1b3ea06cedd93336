"""Several commands in one folder at the same time."""

from __future__ import annotations

import argparse
import os
import pwd
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.torture.server import HOST, free_port
from benchmarks.torture.work import (
    PATIENCE,
    SETTINGS,
    NotTried,
    Outcome,
    Place,
    Process,
    chosen,
    differences,
    ended_well,
    left_over,
    no_traceback,
    results,
    runs,
    scratch,
)

SWEEP = ["-m", *SETTINGS, "epochs=3", "method=full,lora"]
OTHER = ["-m", *SETTINGS, "epochs=3", "method=head,bitfit"]
SETTLE = [*SETTINGS, "epochs=2", "method=full,lora", "budget=12 runs", "margin=8"]
BUSY = "The same sweep is running already"
AT_ONCE = 16
START_SECONDS = 600.0  # of a server
POSTGRES = "/usr/lib/postgresql/*/bin"  # where Debian puts the server's programs, which are not on the PATH

Results = dict[str, Any]


def ends(place: Place, name: str, process: Process) -> tuple[int, str]:
    """Wait for a command that was started with its output in a file of this name."""
    status = process.wait(PATIENCE)
    return status, (place.folder / name).read_text(encoding="utf-8", errors="replace")


def begun(place: Place, name: str, module: str, *arguments: str) -> Process:
    return place.start(module, *arguments, output=place.folder / name)


def two_sweeps(place: Place, expected: Results) -> list[str]:
    """Two sweeps over different runs."""
    first, second = begun(place, "first", "train", *SWEEP), begun(place, "second", "train", *OTHER)
    lost = ended_well(*ends(place, "first", first)) + ended_well(*ends(place, "second", second))
    return lost or differences(results(place.client()), expected) + left_over(place)


def twice(module: str, arguments: list[str], number: int) -> Callable[[Place, Results], list[str]]:
    """The same command twice: one does the work, the other says so, or finds it done; typed again, it is done."""

    def trial(place: Place, expected: Results) -> list[str]:
        both = [begun(place, name, module, *arguments) for name in ("first", "second")]
        lost: list[str] = []
        endings = [ends(place, name, process) for name, process in zip(("first", "second"), both, strict=True)]
        for status, text in endings:
            lost += no_traceback(text)
            lost += [] if status == 0 or (status == 1 and BUSY in text) else [f"exit status {status}: {text[-300:]}"]
        lost += [] if any(status == 0 for status, _ in endings) else ["neither did the work"]
        lost += ended_well(*place.finish(module, *arguments))
        parents, children = runs(place.client())
        lost += [] if len(parents) == 1 else [f"{len(parents)} parents"]
        lost += [] if not number or len(children) == number else [f"{len(children)} runs instead of {number}"]
        results(place.client())  # no configuration twice
        return lost + left_over(place)

    return trial


def report_meanwhile(place: Place, expected: Results) -> list[str]:
    """Reports, one after the other, from the first run of a sweep to its end."""
    process = begun(place, "first", "train", *SWEEP)
    lost: list[str] = []
    reports = 0
    while process.poll() is None:
        if any(place.store.glob("artifacts/*/artifacts/result.json")):
            status, text = place.finish("compare", f"output={place.folder / 'report'}")
            reports += 1
            lost += no_traceback(text)
            lost += [] if status == 0 or "Error: " in text else [f"exit status {status}: {text[-300:]}"]
        time.sleep(0.05)
    lost += [] if reports else ["no report was made in time"]
    return lost + ended_well(*ends(place, "first", process)) + differences(results(place.client()), expected)


def many_runs(place: Place, expected: Results, *typed: str) -> list[str]:
    """So many runs begin at the same moment on an empty store."""
    words = [*SETTINGS, "epochs=1", "method=lora", *typed]
    processes = [begun(place, f"run {seed}", "train", *words, f"seed={seed}") for seed in range(AT_ONCE)]
    lost: list[str] = []
    for seed, process in enumerate(processes):
        status, text = ends(place, f"run {seed}", process)
        lost += [f"seed {seed}: {each}" for each in ended_well(status, text)]
        lost += [f"seed {seed}: a locked database"] if "database is locked" in text else []
    after = results(place.client())
    steps = {name: [step for step, _ in run["train/loss"]] for name, run in after.items()}
    short = [name for name, each in steps.items() if each != list(range(1, 1 + max(map(len, steps.values()))))]
    lost += [f"{name} lacks losses" for name in short]
    return lost + ([] if len(after) == AT_ONCE else [f"{len(after)} runs instead of {AT_ONCE}"]) + left_over(place)


def on_postgresql(place: Place, expected: Results) -> list[str]:
    """The same on a PostgreSQL server that this trial starts."""
    with postgresql() as address:
        return many_runs(replace(place, uri=address), expected, f"uri={address}")


@contextmanager
def postgresql() -> Iterator[str]:
    """Start a PostgreSQL server, which refuses to run as root; the address of an empty database on it."""
    programs = sorted(Path("/").glob(POSTGRES[1:]))
    if not programs:
        raise NotTried("PostgreSQL is not installed here")
    folder, port = Path(f"/var/tmp/torture-postgresql-{os.getpid()}"), free_port()
    folder.mkdir(mode=0o700)
    user = pwd.getpwnam("postgres") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
    os.chown(folder, user.pw_uid, user.pw_gid)

    def program(name: str, *words: str) -> None:
        command = [str(programs[-1] / name), *words]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, user=user.pw_uid, group=user.pw_gid)

    try:
        program("initdb", "-D", "data", "-A", "trust")
        program(
            "pg_ctl",
            "-D",
            "data",
            "-o",
            f"-p {port} -k {folder} -c listen_addresses={HOST}",
            "-w",
            "-l",
            "log",
            "start",
        )
        try:
            program("createdb", "-h", HOST, "-p", str(port), "torture")
            yield f"postgresql+psycopg://{user.pw_name}@{HOST}:{port}/torture"
        finally:
            program("pg_ctl", "-D", "data", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


def ui_meanwhile(place: Place, expected: Results) -> list[str]:
    """MLflow's pages are open on the database, and ask for runs all the time, while a sweep writes."""
    port = free_port()
    ui = begun(place, "ui", "ui", f"port={port}")
    try:
        answered(port)
        process = begun(place, "first", "train", *SWEEP)
        asked = 0
        while process.poll() is None:
            asked += answered(port)
            time.sleep(0.05)
        lost = [] if asked else ["the pages did not answer"]
        lost += ended_well(*ends(place, "first", process)) + differences(results(place.client()), expected)
    finally:
        os.killpg(ui.pid, signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            ui.wait(60)
    return lost + left_over(place)


def answered(port: int) -> bool:
    """Ask for the runs; waits until the server is there."""
    deadline = time.monotonic() + START_SECONDS
    request = urllib.request.Request(
        f"http://{HOST}:{port}/api/2.0/mlflow/runs/search",
        b'{"experiment_ids": ["0", "1"], "max_results": 100}',
        {"Content-Type": "application/json"},
    )
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return bool(response.status == 200)
        except OSError:
            time.sleep(0.2)
    return False


TRIALS: dict[str, Callable[..., list[str]]] = {
    "two sweeps": two_sweeps,
    "the same sweep twice": twice("train", SWEEP, 2),
    "the same settle twice": twice("settle", SETTLE, 0),
    "reports while a sweep writes": report_meanwhile,
    "the UI is open while a sweep writes": ui_meanwhile,
    f"{AT_ONCE} runs on an empty SQLite store": many_runs,
    f"{AT_ONCE} runs on an empty PostgreSQL store": on_postgresql,
}


def concurrency(arguments: argparse.Namespace) -> Iterator[Outcome]:
    """`--times` trials of each."""
    with scratch(arguments.keep) as folder:
        alone, other = (undisturbed(folder / name, typed) for name, typed in (("sweep", SWEEP), ("other", OTHER)))
        expected = dict.fromkeys(("reports while a sweep writes", "the UI is open while a sweep writes"), alone)
        expected["two sweeps"] = alone | other
        for number, (name, trial) in enumerate(chosen(TRIALS, arguments)):
            try:
                lost = trial(Place(folder / f"trial-{number}", new=True), expected.get(name, {}))
            except AssertionError as error:
                lost = [str(error)]
            except NotTried as reason:
                print(f"{name}: not tried, {reason}", flush=True)
                continue
            yield Outcome({"at once": name}, lost)


def undisturbed(folder: Path, typed: list[str]) -> Results:
    """The results of a sweep that nothing disturbs."""
    place = Place(folder)
    status, text = place.finish("train", *typed)
    if status:
        raise SystemExit(f"undisturbed, the sweep failed:\n{text}")
    return results(place.client())
