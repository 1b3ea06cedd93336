"""The seconds of a run that a probe estimates against those that the run takes in a sweep.

    python -m benchmarks.probe
    python -m benchmarks.probe data=squad.json train_size=300 validation_size=100 test_size=100 threads=1

Each configuration is probed, run, probed again and run again, in turns with the others, so that other work on the
machine falls on all alike. A run is timed as a sweep sees it: from the start of its process to its end. Arguments are
added to every configuration; `repeats=` says how often (2). The last column is what a run takes beside everything that
the probe measures: `TRACKING_SECONDS` of src.estimate.cost is its typical value.
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

from src.compose import Primary, completed, from_hydra, register
from src.config import Config
from src.estimate.cost import TRACKING_SECONDS, Probe
from src.estimate.probe import probe_isolated
from src.runs.isolation import call, start_server
from src.runs.store import connect
from src.sweep import PRELOADED, train

RUNS = (
    ("method=full", "train.epochs=1"),
    ("method=lora", "train.epochs=2"),
    ("method=head", "train.epochs=3"),
    ("method=lora", "train.epochs=3", "train.eval_every_epochs=3"),
)


def configuration(overrides: list[str]) -> Config:
    with initialize_config_dir(config_dir=Primary().folder, version_base="1.3"):
        return from_hydra(compose("config", overrides=overrides), overrides)


def timed_run(config: Config, folder: Path) -> float:
    """Seconds from the start of a run's process to its end."""
    began = time.perf_counter()
    outcome = call(train, replace(config, rerun=True), folder / "output.log")
    seconds = time.perf_counter() - began
    if outcome.reason is not None:
        raise SystemExit(outcome.reason)
    return seconds


def main() -> None:
    register()
    given = [argument for argument in sys.argv[1:] if not argument.startswith("repeats=")]
    repeats = int(next((a.partition("=")[2] for a in sys.argv[1:] if a.startswith("repeats=")), "2"))
    start_server(PRELOADED)
    ratios: dict[tuple[str, ...], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        print(f"{'run':58} {'probe took':>10} {'estimate':>9} {'run':>9} {'ratio':>6} {'tracking':>9}")
        for _ in range(repeats):
            for run in RUNS:
                config = configuration(completed([*run, *given, f"folder={folder}"]))
                connect(config.tracking)  # the tables of the store are made once
                began = time.perf_counter()
                outcome = probe_isolated(config)
                took = time.perf_counter() - began
                if outcome.reason is not None:
                    raise SystemExit(outcome.reason)
                probe: Probe = outcome.value
                seconds = timed_run(config, folder)
                ratios[run].append(probe.run_seconds / seconds)
                beside = seconds - (probe.run_seconds - TRACKING_SECONDS)
                print(
                    f"{' '.join(run):58} {took:10.1f} {probe.run_seconds:9.1f} {seconds:9.1f} {ratios[run][-1]:6.2f} "
                    f"{beside:9.1f}",
                    flush=True,
                )
    print("\nmedian ratio of estimate to run")
    for run, values in ratios.items():
        print(f"{' '.join(run):58} {statistics.median(values):6.2f}")


if __name__ == "__main__":
    main()
