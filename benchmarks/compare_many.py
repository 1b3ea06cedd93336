"""What comparing many runs takes: 200 runs of 10,000 questions each.

python -m benchmarks.compare_many                        # about a minute to make the runs, then the measurement
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from src.config import ROOT
from tests.stored import Store

RUNS, QUESTIONS = 200, 10_000
METHODS = ("full", "lora", "lora_attention", "dora", "head")


def main() -> None:
    """Make the runs, then time the command."""
    words = " ".join(f"word{i}" for i in range(120))
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        for number in range(RUNS):
            method = METHODS[number % len(METHODS)]
            rate, seed = 1e-5 * 2 ** (number // len(METHODS) // 4), number // len(METHODS) % 4
            store.run(method, rate, 0.5, seed, questions=QUESTIONS, context=lambda i: f"{i // 5} {words}")
        begin = time.perf_counter()
        command = [sys.executable, "-m", "src.compare", f"tracking.folder={folder}"]
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - begin
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6
        page = next(Path(folder).glob("reports/*/report.html")).stat().st_size / 1e6
        print(f"{RUNS} runs of {QUESTIONS:,} questions: {seconds:.1f} s, {peak:,.0f} MB, a page of {page:.1f} MB")


if __name__ == "__main__":
    main()
