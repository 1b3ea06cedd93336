"""The seconds of a run that a probe estimates against those that the run takes in a sweep.

    python -m benchmarks.probe
    python -m benchmarks.probe data=squad.json train_size=300 validation_size=100 test_size=100
    python -m benchmarks.probe clock=cpu threads=1

Each configuration is probed and run in turns with the others, so that other work on the machine falls on all alike. A
run is timed as a sweep sees it: from the start of its process to its end. On a machine that is busy with other work
the wall clock measures that work: `clock=cpu` takes the CPU seconds of both processes instead, of which one thread
uses one a second where it has a core to itself. Other arguments are added to every configuration; `repeats=` says how
often (2). The last column is what a run takes in addition to what the probe measures; TRACKING_SECONDS and
TRACKING_SECONDS_A_STEP of src.estimate.cost stand for it.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from hydra import compose, initialize_config_dir

from src.compose import Primary, completed, from_hydra, quiet_libraries, register
from src.config import Config
from src.estimate import probe as measuring
from src.estimate.cost import TRACKING_SECONDS, TRACKING_SECONDS_A_STEP, Probe
from src.runs.isolation import Outcome, call, start_server
from src.runs.store import connect
from src.sweep import PRELOADED, train

RUNS: tuple[tuple[str, ...], ...] = (
    ("method=full", "train.epochs=1"),
    ("method=lora", "train.epochs=2"),
    ("method=head", "train.epochs=3"),
    ("method=lora", "train.epochs=3", "train.eval_every_epochs=3"),
)


def configuration(overrides: list[str]) -> Config:
    with initialize_config_dir(config_dir=Primary().folder, version_base="1.3"):
        return from_hydra(compose("config", overrides=overrides), overrides)


def probe_by_cpu(config: Config) -> Probe:
    """A probe whose seconds are those of the CPU; the process ends after it."""
    time.perf_counter = time.process_time
    return measuring.probe(config)


def train_by_cpu(config: Config) -> float:
    """The CPU seconds that a run takes, in a new process."""
    train(config)
    return time.process_time()


def probed(config: Config, clock: str) -> Probe:
    outcome = call(probe_by_cpu, config) if clock == "cpu" else measuring.probe_isolated(config)
    return whole(outcome).value


def run_seconds(config: Config, clock: str, folder: Path) -> float:
    """Seconds of a run from the start of its process to its end."""
    began = time.perf_counter()
    outcome = call(train_by_cpu if clock == "cpu" else train, replace(config, rerun=True), folder / "output.log")
    seconds = time.perf_counter() - began
    return float(whole(outcome).value) if clock == "cpu" else seconds


def whole(outcome: Outcome) -> Outcome:
    if outcome.reason is not None:
        raise SystemExit(outcome.reason)
    return outcome


def main() -> None:
    register()
    quiet_libraries()
    own = {"repeats": "2", "clock": "wall"}
    own |= {key: value for key, _, value in (argument.partition("=") for argument in sys.argv[1:]) if key in own}
    given = [argument for argument in sys.argv[1:] if argument.partition("=")[0] not in own]
    start_server(PRELOADED)
    ratios: dict[tuple[str, ...], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        print(f"{'run':52} {'probe took':>10} {'estimate':>9} {'run':>9} {'ratio':>6} {'other':>7}")
        for _ in range(int(own["repeats"])):
            for run in RUNS:
                config = configuration(completed([*run, *given, f"folder={folder}"]))
                connect(config.tracking)  # the tables of the store are made once
                began = time.perf_counter()
                probe = probed(config, own["clock"])
                took = time.perf_counter() - began
                seconds = run_seconds(config, own["clock"], folder)
                ratios[run].append(probe.run_seconds / seconds)
                tracking = TRACKING_SECONDS + TRACKING_SECONDS_A_STEP * probe.steps
                print(
                    f"{' '.join(run):52} {took:10.1f} {probe.run_seconds:9.1f} {seconds:9.1f} {ratios[run][-1]:6.2f} "
                    f"{seconds - probe.run_seconds + tracking:7.1f}",
                    flush=True,
                )
    print("\nmedian ratio of estimate to run")
    for run, values in ratios.items():
        print(f"{' '.join(run):52} {statistics.median(values):6.2f}")


if __name__ == "__main__":
    main()
