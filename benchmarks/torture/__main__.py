"""Faults of every kind, tried on real commands of tiny models: what was tried, what survived, what was lost.

    python -m benchmarks.torture kills --count 200      # signals at any moment of a run, a sweep, a settle, an export
    python -m benchmarks.torture outages                # an MLflow server that stops, fails, is slow or refuses
    python -m benchmarks.torture outages --only 401     # those of a name, here those that refuse the credentials
    python -m benchmarks.torture disk                   # full, read-only, deleted, truncated
    python -m benchmarks.torture concurrency            # several commands in one folder at once
    python -m benchmarks.torture surroundings           # numbers that overflow, clocks, locales, paths, HOME
    python -m benchmarks.torture fuzz --examples 2000   # generated files, questions and overrides
    python -m benchmarks.torture soak --minutes 60      # memory, open files, threads and queries of a long sweep

Each part writes its table into the page as it goes (benchmarks/TORTURE.md, or --output FOLDER). The exit status is 1 if
anything was lost.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.machine import machine
from benchmarks.torture.concurrency import concurrency
from benchmarks.torture.disk import disk
from benchmarks.torture.forked import preload
from benchmarks.torture.fuzz import fuzz
from benchmarks.torture.kills import JOBS, kills
from benchmarks.torture.outages import outages
from benchmarks.torture.page import page
from benchmarks.torture.soak import soak
from benchmarks.torture.surroundings import surroundings
from benchmarks.torture.work import Outcome, Place

PARTS: dict[str, Callable[[argparse.Namespace], Iterator[Outcome]]] = {
    "kills": kills,
    "outages": outages,
    "disk": disk,
    "concurrency": concurrency,
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
    store = arguments.output / "torture.json"
    begun = time.monotonic()
    outcomes: list[Outcome] = []
    about = {"machine": machine(), "command": shown_command()}
    for outcome in PARTS[arguments.part](arguments):
        outcomes.append(outcome)
        print(", ".join(outcome.tried.values()), "->", "; ".join(outcome.lost) or "survived", flush=True)
        results = json.loads(store.read_text()) if store.exists() else {}
        rows = [{"tried": dict(each.tried), "lost": list(each.lost)} for each in outcomes]
        results[arguments.part] = {**about, "minutes": round((time.monotonic() - begun) / 60, 1), "outcomes": rows}
        store.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (arguments.output / "TORTURE.md").write_text(page(results), encoding="utf-8")
    sys.exit(1 if any(outcome.lost for outcome in outcomes) else 0)


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = argparse.ArgumentParser(
        "python -m benchmarks.torture", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--output", type=Path, default=Path(__file__).parents[1], help="folder of the page")
    shared.add_argument("--keep", type=Path, help="folder for the trials; those that lost something stay in it")
    shared.add_argument("--fresh", action="store_true", help="an interpreter for each command, instead of forking")
    shared.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parts = found.add_subparsers(dest="part", required=True)
    options = {name: parts.add_parser(name, parents=[shared]) for name in PARTS}
    options["kills"].add_argument("--count", type=int, default=20)
    options["kills"].add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    for name in ("outages", "disk", "concurrency", "surroundings"):
        options[name].add_argument("--only", nargs="+", default=[""], help="trials whose names contain one of these")
    options["outages"].add_argument("--epochs", type=int, default=60, help="of the run, which must outlast the outage")
    options["fuzz"].add_argument("--examples", type=int, default=1000, help="of each property")
    options["soak"].add_argument("--minutes", type=float, default=10)
    return found


def shown_command() -> str:
    """The command as it was given, without the places of this machine."""
    words = sys.argv[1:]
    places = {at + more for at, word in enumerate(words) if word in ("--output", "--keep") for more in (0, 1)}
    return shlex.join(["python", "-m", "benchmarks.torture", *(w for at, w in enumerate(words) if at not in places)])


if __name__ == "__main__":
    main()
