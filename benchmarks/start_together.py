"""Start 8 runs at once on an empty store, 10 times over: no lost run, no lost metric, no race for the schema.

python -m benchmarks.start_together            # 10 rounds; exit status 1 if anything is missing
python -m benchmarks.start_together 2
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from mlflow import MlflowClient
from omegaconf import OmegaConf

from src.compose import register
from src.config import ROOT, Config, TrackingConfig
from src.runs.isolation import call, start_server
from src.sweep import PRELOADED, train

RUNS = 8
SETTINGS = ["model=tiny", "dataset.train_size=64", "dataset.validation_size=24", "train.epochs=2", "train.batch_size=8"]
SETTINGS += ["hardware.threads=1"]  # eight runs share the machine


def start_together(config: Config, folder: Path, count: int = RUNS) -> list[str]:
    """Run `count` seeds of `config` at the same time; everything that is missing from the store afterwards."""
    configs = [
        replace(config, train=replace(config.train, seed=seed), tracking=TrackingConfig(folder=str(folder)))
        for seed in range(count)
    ]
    with ThreadPoolExecutor(count) as threads:  # each only waits for its process
        logs = [folder.with_name(f"{folder.name}-{seed}.log") for seed in range(count)]
        outcomes = list(threads.map(lambda c, log: call(train, c, log), configs, logs))
    problems = [f"seed {seed}: {o.reason}" for seed, o in enumerate(outcomes) if o.reason is not None]
    problems += [f"{log} names a locked database" for log in logs if "database is locked" in log.read_text()]
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    statuses = Counter(run.info.status for run in runs)
    if statuses != {"FINISHED": count}:
        problems.append(f"runs: {dict(statuses)}")
    for run in runs:
        points = {key: len(client.get_metric_history(run.info.run_id, key)) for key in run.data.metrics}
        steps = points.get("train/loss", 0)
        expected = {key: steps if key.startswith("train/") else 3 if key.startswith("eval/") else 1 for key in points}
        expected["time/trained_seconds"] = steps
        expected |= dict.fromkeys(("train/steps", "train/initial_loss", "train/final_loss", "train/reported_epoch"), 1)
        if steps != 20 or points != expected:
            problems.append(f"{run.info.run_name}: points {points}")
    return problems


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    register()
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        config: Any = OmegaConf.to_object(compose(config_name="config", overrides=SETTINGS))
    start_server(PRELOADED)
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        for number in range(1, rounds + 1):
            started = time.monotonic()
            problems += start_together(config, Path(temporary) / f"round-{number}")
            print(f"round {number}: {time.monotonic() - started:.1f} s", *problems, sep="\n  ", flush=True)
    if problems:
        sys.exit(1)
    print(f"{rounds * RUNS} runs FINISHED, every metric with all its points")


if __name__ == "__main__":
    main()
