"""Faults of every kind, tried on real commands of tiny models: what was tried, what survived, what was lost.

    python -m benchmarks.torture kills --count 200      # signals at any moment of a run, a sweep, a settle, an export
    python -m benchmarks.torture outages                # an MLflow server that stops, fails, is slow or refuses
    python -m benchmarks.torture outages --only 401     # those of a name, here those that refuse the credentials
    python -m benchmarks.torture outages --only 'at a random moment' --times 10
    python -m benchmarks.torture disk                   # full, read-only, deleted, truncated
    python -m benchmarks.torture concurrency --times 5  # several commands in one folder at once
    python -m benchmarks.torture processes              # one of the two processes of a run is killed or stopped
    python -m benchmarks.torture surroundings           # numbers that overflow, clocks, locales, paths, HOME
    python -m benchmarks.torture fuzz --examples 2000   # generated files, questions and overrides
    python -m benchmarks.torture soak --minutes 60      # memory, open files, threads and queries of a long sweep

Each part writes its table into the page as it goes (benchmarks/TORTURE.md, or --output FOLDER). The trials of several
commands of a part, such as kills with several seeds, add up; a command that is repeated replaces its earlier trials.
The exit status is 1 if anything was lost.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from benchmarks.machine import machine
from benchmarks.torture.concurrency import concurrency
from benchmarks.torture.disk import disk
from benchmarks.torture.forked import preload
from benchmarks.torture.fuzz import fuzz
from benchmarks.torture.kills import JOBS, kills
from benchmarks.torture.outages import outages
from benchmarks.torture.page import page
from benchmarks.torture.processes import processes
from benchmarks.torture.soak import soak
from benchmarks.torture.surroundings import surroundings
from benchmarks.torture.work import ROOT, Outcome, Place

PARTS: dict[str, Callable[[argparse.Namespace], Iterator[Outcome]]] = {
    "kills": kills,
    "outages": outages,
    "disk": disk,
    "concurrency": concurrency,
    "processes": processes,
    "surroundings": surroundings,
    "fuzz": fuzz,
    "soak": soak,
}


def main() -> None:
    """The command line."""
    arguments = parser().parse_args()
    Place.always_fresh = arguments.fresh
    if not arguments.fresh:
        preload()
    begun = time.monotonic()
    trials: list[dict[str, Any]] = []
    about = {"command": shown_command(), "commit": commit(), "machine": machine()}
    for outcome in PARTS[arguments.part](arguments):
        trials.append({"tried": dict(outcome.tried), "lost": list(outcome.lost)})
        print(", ".join(outcome.tried.values()), "->", "; ".join(outcome.lost) or "survived", flush=True)
        minutes = round((time.monotonic() - begun) / 60, 1)
        add(arguments.output, arguments.part, {**about, "minutes": minutes, "trials": trials})
    sys.exit(1 if any(trial["lost"] for trial in trials) else 0)


def add(folder: Path, part: str, entry: dict[str, Any]) -> None:
    """Store the trials of a command in place of the same command's earlier ones, and write the page."""
    store = folder / "torture.json"
    with FileLock(store.with_suffix(".lock")):
        parts = json.loads(store.read_text(encoding="utf-8")) if store.exists() else {}
        entries = {each["command"]: each for each in parts.get(part, [])} | {entry["command"]: entry}
        parts[part] = list(entries.values())
        store.write_text(json.dumps(parts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (folder / "TORTURE.md").write_text(page(parts), encoding="utf-8")


def commit() -> str:
    """The commit of the checkout, abbreviated."""
    command = ["git", "rev-parse", "--short=10", "HEAD"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip() or "unknown"


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(
        "python -m benchmarks.torture", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--output", type=Path, default=Path(__file__).parents[1], help="folder of the page")
    shared.add_argument("--keep", type=Path, help="folder for the trials; those that lost something stay in it")
    shared.add_argument("--fresh", action="store_true", help="an interpreter for each command, instead of forking")
    shared.add_argument("--seed", type=int, default=0, help="of what is drawn")
    subparsers = options.add_subparsers(dest="part", required=True)
    parts = {name: subparsers.add_parser(name, parents=[shared]) for name in PARTS}
    parts["kills"].add_argument("--count", type=int, default=20)
    parts["kills"].add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    for name in ("outages", "disk", "concurrency", "processes", "surroundings"):
        parts[name].add_argument("--only", nargs="+", default=[""], help="trials whose names contain one of these")
        parts[name].add_argument("--times", type=int, default=1, help="how often each trial is made")
    parts["outages"].add_argument("--epochs", type=int, default=60, help="of the run, which must outlast the outage")
    parts["fuzz"].add_argument("--examples", type=int, default=1000, help="of each property")
    parts["soak"].add_argument("--minutes", type=float, default=10)
    return options


def shown_command() -> str:
    """The command as it was given, without this machine's folders."""
    words = sys.argv[1:]
    places = {at + more for at, word in enumerate(words) if word in ("--output", "--keep") for more in (0, 1)}
    return shlex.join(["python", "-m", "benchmarks.torture", *(w for at, w in enumerate(words) if at not in places)])


if __name__ == "__main__":
    main()
