"""Several commands in one folder at the same time."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.torture.work import (
    PATIENCE,
    SETTINGS,
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


def many_runs(place: Place, expected: Results) -> list[str]:
    """So many runs on one SQLite file, begun at the same moment on an empty store."""
    typed = [*SETTINGS, "epochs=1", "method=lora"]
    processes = [begun(place, f"run {seed}", "train", *typed, f"seed={seed}") for seed in range(AT_ONCE)]
    lost: list[str] = []
    for seed, process in enumerate(processes):
        status, text = ends(place, f"run {seed}", process)
        lost += [f"seed {seed}: {each}" for each in ended_well(status, text)]
        lost += [f"seed {seed}: a locked database"] if "database is locked" in text else []
    found = results(place.client())
    steps = {known: [step for step, _ in run["train/loss"]] for known, run in found.items()}
    short = [known for known, each in steps.items() if each != list(range(1, 1 + max(map(len, steps.values()))))]
    lost += [f"{known} lacks losses" for known in short]
    return lost + ([] if len(found) == AT_ONCE else [f"{len(found)} runs instead of {AT_ONCE}"]) + left_over(place)


TRIALS: dict[str, Callable[[Place, Results], list[str]]] = {
    "two sweeps": two_sweeps,
    "the same sweep twice": twice("train", SWEEP, 2),
    "the same settle twice": twice("settle", SETTLE, 0),
    "reports while a sweep writes": report_meanwhile,
    f"{AT_ONCE} runs on an empty SQLite store": many_runs,
}


def concurrency(arguments: argparse.Namespace) -> Iterator[Outcome]:
    """One trial of each."""
    with scratch(arguments.keep) as folder:
        found = [undisturbed(folder / name, typed) for name, typed in (("sweep", SWEEP), ("other", OTHER))]
        expected = {"two sweeps": found[0] | found[1], "reports while a sweep writes": found[0]}
        for number, (name, trial) in enumerate(chosen(TRIALS, arguments.only).items()):
            try:
                lost = trial(Place(folder / f"trial-{number}", new=True), expected.get(name, {}))
            except AssertionError as error:
                lost = [str(error)]
            yield Outcome({"at once": name}, lost)


def undisturbed(folder: Path, typed: list[str]) -> Results:
    """What a sweep leaves that is alone."""
    place = Place(folder)
    status, text = place.finish("train", *typed)
    if status:
        raise SystemExit(f"undisturbed, the sweep failed:\n{text}")
    return results(place.client())
