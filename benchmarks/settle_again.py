"""Kill a settle command with SIGKILL at random moments, and run it with other launchers: the decision stays the same.

    python -m benchmarks.settle_again                      # five kills, joblib and Ray
    python -m benchmarks.settle_again --kills 20 --launchers joblib

The model is tiny. A command that was killed is typed again until it ends; what it leaves is compared with what an
uninterrupted command leaves: the plan, the curves and scores of all runs, and the verdict. The exit status is 1 if
anything differs.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.kill_sweep import results, runs

SETTINGS = ["model=tiny", "train_size=64", "validation_size=24", "test_size=60", "batch_size=8", "epochs=3"]
# One thread, so that sums are added up in one order whatever else the machine does.
COMMAND = [*SETTINGS, "threads=1", "method=full,lora", "budget=20 runs", "margin=8"]
LAUNCHERS = {
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "ray": ["hydra/launcher=ray", "+hydra.launcher.ray.init={num_cpus:2,include_dashboard:false}"],
}


def command(folder: Path, more: list[str]) -> list[str]:
    return [sys.executable, "-m", "src.settle", *COMMAND, *more, f"tracking.folder={folder}"]


def decided(folder: Path) -> dict[str, Any]:
    """The plan, the results of all runs, and the contrasts of the verdict."""
    _, [parent], _ = runs(folder)
    plan = json.loads(parent.data.tags["plan"])
    for arm in plan["arms"]:
        del arm["seconds"], arm["overrides"]  # measured; as typed
    [verdict] = (folder / "reports").glob("*/verdict.json")
    contrasts = [
        {
            "method": each["method"]["name"],
            **{
                f"{side} {key}": each[side][key]
                for side in ("method", "baseline")
                for key in ("settings", "seeds", "f1")
            },
            **{key: each[key] for key in ("decision", "margin", "f1", "exact_match")},
        }
        for each in json.loads(verdict.read_text())["contrasts"]
    ]
    return {"plan": plan, **results(folder), "contrasts": contrasts}


def finish(folder: Path, more: list[str]) -> dict[str, Any]:
    last = subprocess.run(command(folder, more), capture_output=True, text=True)
    if last.returncode:
        sys.exit(f"the command failed:\n{last.stdout}\n{last.stderr}")
    return decided(folder)


def compare(name: str, found: dict[str, Any], expected: dict[str, Any]) -> None:
    different = [key for key in {**expected, **found} if found.get(key) != expected.get(key)]
    if different:
        listed = "\n".join(f"{key}: {found.get(key)}\n instead of {expected.get(key)}" for key in different)
        sys.exit(f"{name}: DIFFERENT\n{listed}")
    print(f"{name}: the same {len(found) - 2} runs, the same plan, the same verdict", flush=True)


def killed(folder: Path, kills: int, seconds: float, moments: random.Random) -> int:
    """Start the command and kill it, so many times; how often it was killed before it had ended."""
    for number in range(kills):
        process = subprocess.Popen(command(folder, []), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        after = moments.uniform(0.1 * seconds, 0.4 * seconds)
        try:
            process.wait(after)
            return number
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        statuses = Counter(run.info.status for run in runs(folder)[2]) if (folder / "mlflow.db").exists() else {}
        print(f"kill {number + 1} after {after:.1f} s: {dict(statuses)}", flush=True)
    return kills


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--launchers", nargs="*", choices=LAUNCHERS, default=list(LAUNCHERS))
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        whole = Path(temporary) / "whole"
        started = time.monotonic()
        expected = finish(whole, [])
        seconds = time.monotonic() - started
        decisions = ", ".join(f"{each['method']}: {each['decision']}" for each in expected["contrasts"])
        print(f"uninterrupted: {seconds:.1f} s, {len(expected) - 2} runs; {decisions}", flush=True)
        left, rounds, moments = chosen.kills, 0, random.Random(chosen.seed)
        while left:
            rounds += 1
            folder = Path(temporary) / f"killed-{rounds}"
            left -= killed(folder, left, seconds, moments)
            compare(f"killed, round {rounds}", finish(folder, []), expected)
        for name in chosen.launchers:
            compare(name, finish(Path(temporary) / name, LAUNCHERS[name]), expected)


if __name__ == "__main__":
    main()
