"""The parts of the benchmark: each takes turns over its measurements and gives medians."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.vs_stock.job import OURS, sizes
from src.runs.isolation import ALLOCATOR

ROOT = Path(__file__).parents[2]


def child(arguments: argparse.Namespace, *what: str) -> dict[str, Any]:
    """One measurement in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.vs_stock", str(arguments.data), "--one", ":".join(what)]
    command += ["--steps", str(arguments.steps), "--train-size", str(arguments.train_size)]
    command += ["--precision", arguments.precision, *(["--small"] if arguments.small else [])]
    stock = {"stock", "trainer"} & {*what}
    environment = {**os.environ, **({} if stock else ALLOCATOR)}  # ours: as `src.train` starts its runs
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    if done.returncode:
        sys.exit(f"{':'.join(what)} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    print(":".join(what), {k: round(v, 2) if isinstance(v, float) else v for k, v in result.items()}, flush=True)
    return result


def medians(rows: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure over the rows."""
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def training(arguments: argparse.Namespace) -> dict[str, Any]:
    """Speed and peak memory of the variants, which take turns."""
    rows: dict[str, list[dict[str, float]]] = defaultdict(list)
    for model in arguments.models:
        for _ in range(arguments.rounds if model == "minilm" else 1):
            for variant in arguments.variants:
                if model == "minilm" or variant in ("full", "lora"):
                    rows[f"{model} {variant}"].append(child(arguments, "train", model, variant))
    return {name: medians(each) for name, each in rows.items()}


def memory(arguments: argparse.Namespace) -> dict[str, Any]:
    """Memory of our methods by component."""
    variants = [variant for variant in arguments.variants if variant in OURS]
    return {f"{model} {v}": child(arguments, "components", model, v) for model in arguments.models for v in variants}


def scale(arguments: argparse.Namespace) -> dict[str, Any]:
    """LoRA's peak memory over few and over many windows."""
    return {count: child(arguments, "large", count) for count in map(str, sizes(arguments).scale)}


def evaluation(arguments: argparse.Namespace) -> dict[str, Any]:
    """Prediction and scoring with the same weights."""
    return medians([child(arguments, "evaluate") for _ in range(arguments.rounds)])


def tokenising(arguments: argparse.Namespace) -> dict[str, Any]:
    """Cutting questions into windows."""
    return child(arguments, "tokenise", str(sizes(arguments).tokenised))


def start(arguments: argparse.Namespace) -> dict[str, Any]:
    """From the command to the end of the first step: the first time, and the median of `--rounds` more."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [first_step(arguments, Path(folder)) for _ in range(1 + arguments.rounds)]
    return {"first": rows[0]} | {"warm": statistics.median(rows[1:])}


def quality(arguments: argparse.Namespace) -> dict[str, Any]:
    """Scores of the variants after training, seed by seed."""
    rows: dict[str, list[dict[str, float]]] = defaultdict(list)
    for seed in range(arguments.seeds):
        for variant in arguments.variants:
            rows[variant].append(child(arguments, "quality", variant, str(seed)))
    return {
        variant: {key: [row[key] for row in each] for key in ("exact_match", "f1")} for variant, each in rows.items()
    } | {"train_size": arguments.train_size, "validation_size": sizes(arguments).validation}


def first_step(arguments: argparse.Namespace, folder: Path) -> float:
    """Seconds from the command to the end of the first step, with 16 validation questions."""
    from mlflow import MlflowClient

    command = [sys.executable, "-m", "src.train", "method=lora", "rerun=true", "dataset=file"]
    command += [f"dataset.path={arguments.data.resolve()}", "dataset.train_size=64", "dataset.validation_size=16"]
    command.append("dataset.test_size=null")
    command += ["train.epochs=1", "hardware=cpu", f"hardware.precision={arguments.precision}"]
    begin = time.time()
    done = subprocess.run([*command, f"tracking.folder={folder}"], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        sys.exit(f"src.train failed:\n{done.stderr[-3000:]}")
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    [run, *_] = client.search_runs(
        [experiment.experiment_id for experiment in client.search_experiments()], order_by=["start_time DESC"]
    )
    [first] = [point for point in client.get_metric_history(run.info.run_id, "train/loss") if point.step == 1]
    return first.timestamp / 1000 - begin


PARTS = {
    "training": training,
    "memory": memory,
    "scale": scale,
    "evaluation": evaluation,
    "tokenising": tokenising,
    "start": start,
    "quality": quality,
}
