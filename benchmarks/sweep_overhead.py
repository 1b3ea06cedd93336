"""What a run of a sweep costs beside training and evaluation.

    python -m benchmarks.sweep_overhead

Runs 12 configurations of the tiny model through the real command line. From what MLflow holds, for the 11 runs that
follow another: the seconds from the end of one to the end of the next, less training and evaluation; and those from the
end of one to the first step of the next, less its evaluation before training. Both still hold the loading of the model.
"""

from __future__ import annotations

import itertools
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from mlflow import MlflowClient

SWEEP = ["model=tiny", "train.epochs=1", "method=full,lora,head", "train.learning_rate=1e-3,1e-2", "train.seed=0,1"]


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        command = [sys.executable, "-m", "src.train", "-m", *SWEEP, f"tracking.folder={folder}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        runs = [run for run in client.search_runs(experiments) if "mlflow.parentRunId" in run.data.tags]
        runs.sort(key=lambda run: run.info.end_time)
        beside, before = [], []
        for one, next_one in itertools.pairwise(runs):
            metrics = next_one.data.metrics
            worked = metrics["time/train_seconds"] + metrics["time/eval_seconds"]
            [first] = [p for p in client.get_metric_history(next_one.info.run_id, "train/loss") if p.step == 1]
            beside.append((next_one.info.end_time - one.info.end_time) / 1000 - worked)
            before.append((first.timestamp - one.info.end_time) / 1000 - metrics["time/eval_seconds"] / 2)
        for name, seconds in (("beside training and evaluation", beside), ("before the first step", before)):
            print(f"{name}: median {statistics.median(seconds):.2f} s a run, at most {max(seconds):.2f} s")


if __name__ == "__main__":
    main()
