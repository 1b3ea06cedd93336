"""Losses, scores and parameter counts of short runs: the same to the bit between two commits on one machine?

    python -m benchmarks.pinned COMMIT     # the working tree against a commit; exit status 1 where a value differs
    python -m benchmarks.pinned            # print the values of the working tree
    python -m benchmarks.pinned --write    # store them (fp32) in tests/pinned.json, which tests/test_pinned.py reads

The runs go through the real command line: MiniLM full and LoRA, a tiny model with dropout, and a tiny model on two
processes. Each is made in fp32 and in the precision that the machine is fast in.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from mlflow import MlflowClient

from src.config import ROOT

STORED = ROOT / "tests" / "pinned.json"
FP32 = "hardware.precision=fp32"
SMALL = ["hardware=cpu", "hardware.threads=1", "train.epochs=1", "train.batch_size=8"]
SIZES = ["dataset.train_size=64", "dataset.validation_size=32"]
TINY = ["model=tiny", "train.epochs=2", "dataset.validation_size=24"]
RUNS = {
    "minilm_full": [*SMALL, *SIZES, "method=full"],
    "minilm_lora": [*SMALL, *SIZES, "method=lora"],
    "tiny_dropout": [*SMALL, *SIZES, *TINY, "method=full", "train.hidden_dropout=0.2"],
    "tiny_two_processes": [*SMALL, *SIZES, *TINY, "train.hidden_dropout=0", "hardware.processes=null"],
}
LAUNCHER = ["torch.distributed.run", "--nproc_per_node", "2", "-m"]  # of the run on two processes
BY_STEP = ("train/loss", "train/grad_norm", "eval/loss", "eval/f1", "eval/exact_match")
FINAL = ("quality/", "params/", "forgetting/")

Values = dict[str, list[float]]


def collect(folder: Path) -> Values:
    """The values of the only run in the store at `folder`, by metric; those of a step or epoch in their order."""
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    [run] = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    values = {key: [point.value for point in client.get_metric_history(run.info.run_id, key)] for key in BY_STEP}
    values |= {key: [value] for key, value in run.data.metrics.items() if key.startswith(FINAL)}
    return dict(sorted(values.items()))


def execute(checkout: Path, name: str, *more: str) -> Values:
    """Make one of `RUNS` with the code of `checkout`."""
    launcher = LAUNCHER if name == "tiny_two_processes" else []
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", *launcher, "src.train", *RUNS[name], *more, f"tracking.folder={folder}"]
        done = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{name} in {checkout} failed:\n{done.stderr[-2000:]}")
        return collect(Path(folder))


def differing(one: Values, other: Values) -> list[str]:
    """The metrics that are not equal to the bit."""
    return [key for key in one.keys() | other.keys() if one.get(key) != other.get(key)]


def compare(commit: str) -> int:
    """Print a line a run; 1 where one differs."""
    failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        before = Path(temporary) / "before"
        subprocess.run(["git", "worktree", "add", "-q", "--detach", str(before), commit], cwd=ROOT, check=True)
        try:
            for name in RUNS:
                for more in ([FP32], []):
                    one, other = execute(before, name, *more), execute(ROOT, name, *more)
                    differs = differing(one, other)
                    failed |= bool(differs)
                    values = sum(map(len, one.values()))
                    result = f"DIFFERS in {', '.join(sorted(differs))}" if differs else f"{values} values the same"
                    print(f"{name:<20} {more[0] if more else 'hardware.precision=auto':<24} {result}", flush=True)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(before)], cwd=ROOT, check=True)
    return failed


def main() -> None:
    arguments = sys.argv[1:]
    if arguments and not arguments[0].startswith("-"):
        sys.exit(compare(arguments[0]))
    values = {name: execute(ROOT, name, FP32) for name in RUNS}
    text = json.dumps(values, indent=1) + "\n"
    if arguments == ["--write"]:
        STORED.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
