"""A tracking server that stops, fails, is slow, never answers or refuses, while a run trains and when it ends."""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from benchmarks.torture.server import Proxy, Server
from benchmarks.torture.work import (
    PATIENCE,
    SETTINGS,
    Outcome,
    Place,
    Process,
    chosen,
    differences,
    ended_well,
    no_traceback,
    points,
    results,
    runs,
    said_why,
    scratch,
)

OUTAGE_SECONDS = 25.0  # longer than metrics are collected before they are sent
KEPT = "What was trained is kept in "


@dataclass
class Scene:
    """A run that logs to a server."""

    place: Place
    server: Server
    proxy: Proxy
    arguments: list[str]
    seconds: float  # of the undisturbed run
    draw: random.Random

    def start(self) -> Process:
        return self.place.start("train", *self.arguments, f"uri={self.proxy.uri}")

    def again(self) -> tuple[int, str]:
        """The same command, to its end."""
        return self.place.finish("train", *self.arguments, f"uri={self.proxy.uri}")

    def shown(self) -> str:
        return self.place.output.read_text(encoding="utf-8", errors="replace")

    def client(self) -> MlflowClient:
        return MlflowClient(self.server.uri)

    def until(self, process: Process, ready: Callable[[], bool]) -> None:
        """Wait for something that the run does."""
        deadline = time.monotonic() + PATIENCE
        while not ready():
            assert process.poll() is None, f"it ended too early:\n{self.shown()}"
            assert time.monotonic() < deadline, f"it hangs:\n{self.shown()}"
            time.sleep(0.05)

    def until_epoch(self, process: Process, epoch: int) -> None:
        self.until(process, lambda: f"\nepoch {epoch} " in self.shown())

    def until_upload(self, process: Process) -> None:
        """The first file of the model has arrived: the end of the run is being stored."""
        self.until(process, lambda: any((self.server.folder / "artifacts").glob("**/model/*")))

    def fail(self, mode: str) -> None:
        """Let the server be so: stopped, or what the proxy makes of it."""
        if mode == "stopped":
            self.server.down()
        else:
            self.proxy.mode = mode

    def mend(self) -> None:
        self.proxy.mode = "pass"
        if not self.server.answers():
            self.server.up()


Trial = Callable[[Scene, dict[str, Any]], list[str]]


def for_a_while(mode: str) -> Trial:
    """The server fails in the middle of training, and answers again before its end."""

    def trial(scene: Scene, expected: dict[str, Any]) -> list[str]:
        process = scene.start()
        scene.until_epoch(process, 2)
        begun = time.time()
        scene.fail(mode)
        time.sleep(OUTAGE_SECONDS)
        ended = time.time()
        early = process.poll() is not None
        scene.mend()
        lost = ended_well(process.wait(PATIENCE), scene.shown())
        lost += ["it ended before the server answered again"] if early else []
        if not lost:
            lost += differences(results(scene.client()), expected)
            [run] = runs(scene.client())[1]
            times = [point.timestamp / 1000 for point in points(scene.client(), run.info.run_id, "train/loss")]
            lost += [] if any(begun < at < ended for at in times) else ["training stood still"]
        return lost

    return trial


def for_good(mode: str, at_the_end: bool) -> Trial:
    """The server fails and stays away until the run has given up; later it answers again."""

    def trial(scene: Scene, expected: dict[str, Any]) -> list[str]:
        process = scene.start()
        if at_the_end:
            scene.until_upload(process)
        else:
            scene.until_epoch(process, 2)
        scene.fail(mode)
        lost = said_why(process.wait(PATIENCE), scene.shown(), KEPT)
        gave_up = time.time()
        scene.mend()
        lost += ended_well(*scene.again())
        if not lost:
            lost += differences(results(scene.client()), expected)
            [run] = runs(scene.client())[1]
            times = [point.timestamp / 1000 for point in points(scene.client(), run.info.run_id, "train/loss")]
            again = sum(at > gave_up for at in times)
            lost += [f"{again} of {len(times)} steps were trained again"] if again else []
        return lost

    return trial


def slow_throughout(scene: Scene, expected: dict[str, Any]) -> list[str]:
    """Every answer takes seconds."""
    scene.fail("slow")
    process = scene.start()
    lost = ended_well(process.wait(PATIENCE), scene.shown())
    return lost or differences(results(scene.client()), expected)


def from_the_start(mode: str) -> Trial:
    """Nothing is begun, and one sentence says why."""

    def trial(scene: Scene, expected: dict[str, Any]) -> list[str]:
        scene.fail(mode)
        process = scene.start()
        lost = said_why(process.wait(PATIENCE), scene.shown(), f"tracking.uri={scene.proxy.uri} cannot be used (")
        scene.mend()
        lost += ended_well(*scene.again())
        return lost or differences(results(scene.client()), expected)

    return trial


def in_a_sweep(scene: Scene, expected: dict[str, Any]) -> list[str]:
    """The server stops in the first of two runs, and stays away until the sweep has given up."""
    scene.arguments = ["-m", *scene.arguments, "seed=0,1"]
    process = scene.start()
    scene.until(process, lambda: any(scene.place.store.glob("checkpoints/*/step-*")))
    scene.fail("stopped")
    status = process.wait(PATIENCE)
    lost = ([] if status == 1 else [f"exit status {status} instead of 1"]) + no_traceback(scene.shown())
    scene.mend()
    lost += ended_well(*scene.again())
    if not lost:
        after = results(scene.client())
        lost += [] if len(after) == 2 else [f"{len(after)} runs instead of 2"]
        lost += differences({name: after[name] for name in expected if name in after}, expected)
        parents, children = runs(scene.client())
        statuses = {run.info.status for run in parents + children}
        lost += [] if statuses == {"FINISHED"} else [f"statuses {statuses}"]
    return lost


def at_random(scene: Scene, expected: dict[str, Any]) -> list[str]:
    """The server fails in any way, at any moment, for up to a minute; a run that gave up is started again."""
    process = scene.start()
    time.sleep(scene.draw.uniform(0, 1.2) * scene.seconds)
    scene.fail(scene.draw.choice(["stopped", "500", "never", "401", "slow"]))
    time.sleep(scene.draw.uniform(1, 60))
    scene.mend()
    status = process.wait(PATIENCE)
    lost = no_traceback(scene.shown())
    if status == 1 and "Error: " in scene.shown():
        status, text = scene.again()
        lost += ended_well(status, text)
    elif status:
        lost.append(f"exit status {status} without a sentence")
    return lost or differences(results(scene.client()), expected)


TRIALS: dict[str, Trial] = {
    "stopped and started again in mid-run": for_a_while("stopped"),
    "answers 500 for a while in mid-run": for_a_while("500"),
    "never answers for a while in mid-run": for_a_while("never"),
    "answers 401 for a while in mid-run": for_a_while("401"),
    "answers after two seconds each time": slow_throughout,
    "stopped in mid-run, back after the run has given up": for_good("stopped", at_the_end=False),
    "stopped while the model is sent, back later": for_good("stopped", at_the_end=True),
    "answers 401 while the model is sent": for_good("401", at_the_end=True),
    "not there when the run begins": from_the_start("stopped"),
    "answers 401 when the run begins": from_the_start("401"),
    "stopped in the first run of a sweep, back later": in_a_sweep,
    "fails at a random moment, in a random way, for up to a minute": at_random,
}


@contextmanager
def scene(folder: Path, arguments: list[str], seconds: float, draw: random.Random) -> Iterator[Scene]:
    """A server with an empty store, behind a proxy."""
    server = Server(folder / "server")
    proxy = Proxy(server.port)
    try:
        server.up()
        yield Scene(Place(folder), server, proxy, arguments, seconds, draw)
    finally:
        proxy.shutdown()
        proxy.server_close()
        server.down()


def outages(arguments: argparse.Namespace) -> Iterator[Outcome]:
    """`--times` trials of each outage."""
    draw = random.Random(arguments.seed)
    with scratch(arguments.keep) as folder:
        given = [*SETTINGS, f"epochs={arguments.epochs}", "method=lora"]
        whole = Place(folder / "whole")
        begun = time.monotonic()
        status, text = whole.finish("train", *given)
        if status:
            raise SystemExit(f"undisturbed, the run failed:\n{text}")
        seconds = time.monotonic() - begun
        expected = results(whole.client())
        for number, (name, trial) in enumerate(chosen(TRIALS, arguments)):
            with scene(folder / f"trial-{number}", list(given), seconds, draw) as staged:
                try:
                    lost = trial(staged, expected)
                except AssertionError as error:
                    lost = [" / ".join(str(error).splitlines()[-3:])]
            yield Outcome({"the server": name}, lost)
