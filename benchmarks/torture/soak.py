"""A sweep of tiny runs that goes on for a while: does the process that lives long grow, and do queries get slower?"""

from __future__ import annotations

import argparse
import math
import signal
import statistics
import time
from collections.abc import Iterator

import numpy as np
import psutil
from scipy.stats import theilslopes

from benchmarks.torture.work import PATIENCE, SETTINGS, Outcome, Place, runs, scratch

RUN = ["-m", *SETTINGS, "epochs=1", "method=lora"]
RUNS_A_MINUTE = 60  # more than it can make
EVERY_SECONDS = 2.0
GROWTH = 0.05  # of the median, over the whole time
WARM_UP = 0.2  # the share of the time that is left out


def soak(arguments: argparse.Namespace) -> Iterator[Outcome]:
    """Samples of memory, open files, threads and a query's seconds; each is one trial."""
    samples: dict[str, list[float]] = {"MB of memory": [], "open files": [], "threads": [], "ms of a query": []}
    times: list[float] = []
    with scratch(arguments.keep) as folder:
        place = Place(folder / "soak")
        process = place.start("train", *RUN, f"seed=range(0,{math.ceil(RUNS_A_MINUTE * arguments.minutes)})")
        watched, begun = psutil.Process(process.pid), time.monotonic()
        while time.monotonic() - begun < 60 * arguments.minutes and process.poll() is None:
            time.sleep(EVERY_SECONDS)
            if not any(place.store.glob("artifacts/*/artifacts/result.json")):
                continue  # the first run is on its way
            times.append(time.monotonic() - begun)
            samples["MB of memory"].append(watched.memory_info().rss / 1e6)
            samples["open files"].append(watched.num_fds())
            samples["threads"].append(watched.num_threads())
            asked = time.perf_counter()
            client = place.client()
            client.search_runs(["1"], "tags.method = 'lora'", max_results=10)
            samples["ms of a query"].append(1000 * (time.perf_counter() - asked))
        early = process.poll()
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE)
        finished = sum(run.info.status == "FINISHED" for run in runs(place.client())[1])
    if early is not None:
        yield Outcome({"of the sweep's process": "its end"}, [f"it ended early, with exit status {early}"])
    for name, values in samples.items():
        median = statistics.median(values)
        title = f"{name} over {finished} runs (median {median:.4g}, {growth(times, values):+.2g} over the time)"
        yield Outcome({"of the sweep's process": title}, [] if flat(times, values) else ["it grows"])


def settled(times: list[float], values: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """The samples after the warm-up."""
    first = int(WARM_UP * len(values))
    return np.array(times[first:]), np.array(values[first:])


def growth(times: list[float], values: list[float]) -> float:
    """By the Theil-Sen slope, over the time that was sampled."""
    x, y = settled(times, values)
    return float(theilslopes(y, x).slope * (x[-1] - x[0]))


def flat(times: list[float], values: list[float]) -> bool:
    """Whether nothing grows: the slope's 95 % interval contains 0, or the growth is small."""
    x, y = settled(times, values)
    slope = theilslopes(y, x)
    small = growth(times, values) < GROWTH * float(np.median(y))
    return bool(slope.low_slope <= 0 or small)
