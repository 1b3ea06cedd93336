"""One of the two processes of a run is killed or stopped."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil

from benchmarks.torture.kills import outlived
from benchmarks.torture.work import (
    PATIENCE,
    ROOT,
    SETTINGS,
    Outcome,
    Place,
    chosen,
    differences,
    ended_well,
    left_over,
    no_traceback,
    results,
    scratch,
)

RUN = [*SETTINGS, "epochs=40", "method=lora", "hardware.processes=2", "train.checkpoint_minutes=1e-9"]
END_SECONDS = 60.0
# torchrun ends the other processes by SIGTERM, waits half a minute for them, and reports the first failure.
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
TRIALS = {
    f"the {place} process {what}": (rank, number)
    for place, rank in (("first", 0), ("second", 1))
    for what, number in (("is killed, as for lack of memory", signal.SIGKILL), ("is stopped", signal.SIGSTOP))
}


def processes(arguments: argparse.Namespace) -> Iterator[Outcome]:
    """`--times` trials of each."""
    with scratch(arguments.keep) as folder:
        whole = Place(folder / "whole")
        process = start(whole)
        if process.wait(PATIENCE):
            raise SystemExit(f"undisturbed, the run failed:\n{whole.output.read_text()}")
        expected = results(whole.client())
        for trial, (name, (rank, number)) in enumerate(chosen(TRIALS, arguments)):
            place = Place(folder / f"trial-{trial}")
            lost = disturbed(place, rank, number)
            place.output.rename(place.folder / "first.txt")
            lost += ended_well(start(place).wait(PATIENCE), place.output.read_text())
            yield Outcome({"fault": name}, lost or differences(results(place.client()), expected) + left_over(place))


def start(place: Place) -> subprocess.Popen[bytes]:
    """`torchrun ... -m src.train` in this place."""
    words = [sys.executable, *TORCHRUN, *place.words("train", *RUN)[1:]]
    with place.output.open("ab") as output:
        return subprocess.Popen(
            words, cwd=ROOT, env=place.surroundings, stdout=output, stderr=output, start_new_session=True
        )


def disturbed(place: Place, rank: int, number: int) -> list[str]:
    """Send a signal to one process after its first checkpoint; what is wrong with the end of the command."""
    launcher = start(place)
    while launcher.poll() is None and not any(place.store.glob("checkpoints/*/step-*")):
        time.sleep(0.05)
    [process] = [child for child in psutil.Process(launcher.pid).children() if child.environ().get("RANK") == str(rank)]
    process.send_signal(number)
    try:
        launcher.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(launcher.pid, signal.SIGKILL)
        return [f"it had not ended after {END_SECONDS:.0f} seconds"]
    text = place.output.read_text()
    ours = text.partition("torch/distributed/elastic")[0]  # torchrun's traceback of itself comes after it
    return no_traceback(ours) + ([] if "same command continues" in text else ["no sentence"]) + outlived(launcher)
