"""Run a settle command with other launchers: the same plan, runs and verdict.

    python -m benchmarks.settle_again                      # joblib and Ray
    python -m benchmarks.settle_again --launchers joblib

The model is tiny. The exit status is 1 if anything differs. `benchmarks.torture kills` disturbs such a command.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.torture.kills import decided
from benchmarks.torture.work import SETTINGS, Place, differences

COMMAND = [*SETTINGS, "epochs=3", "method=full,lora", "budget=20 runs", "margin=8"]
LAUNCHERS = {
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "ray": ["hydra/launcher=ray", "+hydra.launcher.ray.init={num_cpus:2,include_dashboard:false}"],
}


def finish(folder: Path, more: list[str]) -> dict[str, Any]:
    """What the command leaves."""
    place = Place(folder, {"TMPDIR": None})  # the names of Ray's sockets must be short
    status, text = place.finish("settle", *COMMAND, *more)
    if status:
        sys.exit(f"the command failed:\n{text}")
    return decided(place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--launchers", nargs="*", choices=LAUNCHERS, default=list(LAUNCHERS))
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        expected = finish(Path(temporary) / "basic", [])
        print(f"one run after the other: {len(expected) - 2} runs", flush=True)
        for name in chosen.launchers:
            different = differences(finish(Path(temporary) / name, LAUNCHERS[name]), expected)
            if different:
                sys.exit("\n".join([f"{name}: DIFFERENT", *different]))
            print(f"{name}: the same plan, runs and verdict", flush=True)


if __name__ == "__main__":
    main()
