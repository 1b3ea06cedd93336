"""Kill a sweep with SIGKILL at random moments, and check that the same command finishes it as if nothing had happened.

    python -m benchmarks.kill_sweep            # 20 kills of 2 x 2 x 2 sweeps; exit status 1 if anything differs
    python -m benchmarks.kill_sweep 5 --seed 1

Prints when each kill came and what it left. A sweep that reaches its end is checked, and the next one is begun: 8
FINISHED children, none RUNNING, none twice, one parent, every curve with one point a step, and all results equal to
those of a sweep that nobody killed.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

SETTINGS = ["model=tiny", "dataset.train_size=64", "dataset.validation_size=24", "train.batch_size=8", "train.epochs=3"]
# One thread, so that sums are added up in one order whatever else the machine does.
GRID = ["hardware.threads=1", "method=full,lora", "train.learning_rate=1e-3,1e-2", "train.seed=0,1"]
CURVES = ("train/loss", "train/learning_rate", "train/grad_norm", "eval/exact_match", "eval/f1", "eval/loss")
MEASURED = ("time/", "speed/", "memory/")


def command(folder: Path) -> list[str]:
    return [sys.executable, "-m", "src.train", "-m", *SETTINGS, *GRID, f"tracking.folder={folder}"]


def runs(folder: Path) -> tuple[MlflowClient, list[Any], list[Any]]:
    """Client, parents and children of a store."""
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(experiments, max_results=1000)
    parents = [run for run in found if run.data.tags.get("kind") == "sweep"]
    return client, parents, [run for run in found if run not in parents]


def results(folder: Path) -> dict[str, Any]:
    """Curves and final metrics by configuration, without what a clock or the system measured."""
    client, parents, children = runs(folder)
    assert [run.info.status for run in parents] == ["FINISHED"], parents
    found = {}
    for run in children:
        hash = run.data.tags["config_hash"]
        assert hash not in found, f"{hash} is there twice"
        curves = {k: sorted((p.step, p.value) for p in client.get_metric_history(run.info.run_id, k)) for k in CURVES}
        final = {k: v for k, v in run.data.metrics.items() if not k.startswith(MEASURED) and k not in CURVES}
        found[hash] = {"status": run.info.status, **curves, **final}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kills", type=int, nargs="?", default=20)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    moments = random.Random(chosen.seed)
    with tempfile.TemporaryDirectory() as temporary:
        whole = Path(temporary) / "whole"
        started = time.monotonic()
        subprocess.run(command(whole), check=True, capture_output=True)
        seconds = time.monotonic() - started
        expected = results(whole)
        print(f"uninterrupted: {seconds:.1f} s, {len(expected)} runs", flush=True)
        kills = rounds = 0
        while kills < chosen.kills:
            rounds += 1
            folder = Path(temporary) / f"killed-{rounds}"
            while kills < chosen.kills:
                process = subprocess.Popen(command(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                after = moments.uniform(0.2 * seconds, 0.6 * seconds)
                try:
                    process.wait(after)
                    break  # it had no more to do
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                kills += 1
                statuses: Counter[str] = Counter()
                if (folder / "mlflow.db").exists():
                    statuses.update(run.info.status for run in runs(folder)[2])
                print(f"kill {kills:2}, sweep {rounds}: after {after:4.1f} s, {dict(statuses)}", flush=True)
            check(folder, expected)


def check(folder: Path, expected: dict[str, Any]) -> None:
    """Finish the sweep by its own command, and compare."""
    last = subprocess.run(command(folder), capture_output=True, text=True)
    if last.returncode:
        sys.exit(f"the last command failed:\n{last.stdout}\n{last.stderr}")
    found = results(folder)
    different = [
        f"{hash} {key}: {found.get(hash, {}).get(key)} instead of {value}"
        for hash, metrics in expected.items()
        for key, value in metrics.items()
        if found.get(hash, {}).get(key) != value
    ]
    if different or set(found) != set(expected):
        sys.exit("DIFFERENT:\n" + "\n".join(different))
    resumed = sum("resumed" in run.data.tags for run in runs(folder)[2])
    print(f"finished by the same command: {len(found)} runs, {resumed} resumed from a checkpoint, results identical")


if __name__ == "__main__":
    main()
