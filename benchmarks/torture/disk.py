"""Disks that are full or only read, folders that vanish, files that are cut short."""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.torture.work import (
    PATIENCE,
    ROOT,
    SETTINGS,
    NotTried,
    Outcome,
    Place,
    chosen,
    differences,
    ended_well,
    left_over,
    no_traceback,
    results,
    said_why,
    scratch,
)

RUN = [*SETTINGS, "epochs=4", "method=lora"]
SWEEP = ["-m", *SETTINGS, "epochs=3", "method=full,lora"]
Trial = Callable[[Place, dict[str, Any]], list[str]]


def settled(place: Place, expected: dict[str, Any], arguments: list[str] = RUN) -> list[str]:
    """What is wrong after the same command was typed once more."""
    lost = ended_well(*place.finish("train", *arguments))
    return lost or differences(results(place.client()), expected) + left_over(place)


def gave_up(status: int, text: str) -> list[str]:
    """What is wrong with the end of a command that could not do its work: it must say so in a sentence."""
    return ([] if status == 1 and "Error: " in text else [f"exit status {status}, no sentence"]) + no_traceback(text)


def mount(folder: Path, size: str) -> bool:
    """Put a small file system over a folder; false where that is not allowed."""
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    return done.returncode == 0


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def full(size: str) -> Trial:
    """A disk that is too small; then one with room."""

    def trial(place: Place, expected: dict[str, Any]) -> list[str]:
        if not mount(place.store, size):
            raise NotTried("mounting a small disk is not allowed here")
        try:
            lost = gave_up(*place.finish("train", *RUN))
            remount(place.store, "size=64m")
            return lost + settled(place, expected)
        finally:
            subprocess.run(["umount", "--lazy", str(place.store)], check=True)  # this process has the database open

    return trial


def only_read(place: Place, expected: dict[str, Any]) -> list[str]:
    """A disk that nothing can be written to; then one that takes it."""
    if not mount(place.store, "64m"):
        raise NotTried("mounting a disk is not allowed here")
    try:
        remount(place.store, "ro")
        lost = gave_up(*place.finish("train", *RUN))
        remount(place.store, "rw")
        return lost + settled(place, expected)
    finally:
        subprocess.run(["umount", "--lazy", str(place.store)], check=True)  # this process has the database open


def small_files(place: Place, expected: dict[str, Any]) -> list[str]:
    """A limit on the size of files that no checkpoint and no model fits in: what a quota does."""
    command = ["bash", "-c", 'ulimit -f 300; exec "$@"', "bash", *place.words("train", *RUN)]
    done = subprocess.run(command, cwd=ROOT, env=place.surroundings, capture_output=True, text=True, timeout=PATIENCE)
    return gave_up(done.returncode, done.stdout + done.stderr) + settled(place, expected)


def vanished(place: Place, expected: dict[str, Any]) -> list[str]:
    """The store is deleted between the first and the second run of a sweep."""
    process = place.start("train", *SWEEP)
    while process.poll() is None and not any(place.store.glob("artifacts/*/artifacts/result.json")):
        time.sleep(0.01)
    shutil.rmtree(place.store, ignore_errors=True)
    with suppress(FileNotFoundError):
        shutil.rmtree(place.store)
    status = process.wait(PATIENCE)
    text = place.output.read_text(encoding="utf-8", errors="replace")
    lost = ([] if status in (0, 1) else [f"exit status {status}"]) + no_traceback(text)
    return lost + settled(place, expected, SWEEP)


def killed_with_a_checkpoint(place: Place) -> Path:
    """Begin a run and kill it; its last checkpoint."""
    process = place.start("train", *RUN, "train.checkpoint_minutes=1e-9")
    while process.poll() is None and len(list(place.store.glob("checkpoints/*/step-*"))) == 0:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.wait(PATIENCE)
    return max(place.store.glob("checkpoints/*/step-*"))


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def checkpoint_cut_short(name: str) -> Trial:
    def trial(place: Place, expected: dict[str, Any]) -> list[str]:
        folder = killed_with_a_checkpoint(place)
        cut_short(folder / name)
        lost = said_why(*place.finish("train", *RUN), f"The checkpoint {folder} cannot be read")
        shutil.rmtree(folder)  # as it says
        return lost + settled(place, expected)

    return trial


def cache_cut_short(place: Place, expected: dict[str, Any]) -> list[str]:
    """The windows in the cache; they are made again."""
    lost = ended_well(*place.finish("train", *RUN))
    cached = [path for path in (place.folder / "cache").rglob("tuneoff/*") if path.is_file()]
    lost += [] if cached else ["nothing is cached"]
    for file in cached:
        cut_short(file)
    status, text = place.finish("train", *RUN, "rerun=true")
    lost += ended_well(status, text)
    return lost + ([] if "is damaged; it is made again" in text else ["it did not say that the cache is damaged"])


def database_cut_short(place: Place, expected: dict[str, Any]) -> list[str]:
    """The store's database; the command says which file to move away."""
    lost = ended_well(*place.finish("train", *RUN))
    database = place.store / "mlflow.db"
    cut_short(database)
    lost += said_why(*place.finish("train", *RUN), f"{database} cannot be used as MLflow's store")
    lost += said_why(*place.finish("compare"), f"{database} cannot be read as MLflow's store")
    database.rename(database.with_suffix(".damaged"))  # as it says
    return lost + settled(place, expected)


NEW = ("full", "files", "only")  # these begin with an empty folder
TRIALS: dict[str, tuple[Trial, list[str]]] = {
    "full (64 kB) when a run begins": (full("64k"), RUN),
    "full (2 MB) while a run goes on": (full("2m"), RUN),
    "files limited to 300 kB": (small_files, RUN),
    "only read": (only_read, RUN),
    "the store is deleted in mid-sweep": (vanished, SWEEP),
    "weights of a checkpoint cut short": (checkpoint_cut_short("trained.safetensors"), RUN),
    "state of a checkpoint cut short": (checkpoint_cut_short("state.pt"), RUN),
    "cached windows cut short": (cache_cut_short, RUN),
    "database cut short": (database_cut_short, RUN),
}


def disk(arguments: argparse.Namespace) -> Iterator[Outcome]:
    """`--times` trials of each fault; those that need a mount are left out where none is allowed."""
    with scratch(arguments.keep) as folder:
        expected = {}
        for name, typed in {"run": RUN, "sweep": SWEEP}.items():
            whole = Place(folder / f"whole-{name}")
            status, text = whole.finish("train", *typed)
            if status:
                raise SystemExit(f"undisturbed, the command failed:\n{text}")
            expected[tuple(typed)] = results(whole.client())
        for number, (name, (trial, typed)) in enumerate(chosen(TRIALS, arguments)):
            try:
                lost = trial(Place(folder / f"trial-{number}", new=name.startswith(NEW)), expected[tuple(typed)])
            except NotTried as reason:
                print(f"{name}: not tried, {reason}", flush=True)
                continue
            yield Outcome({"fault": name}, lost)
