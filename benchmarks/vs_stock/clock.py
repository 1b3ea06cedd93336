"""Seconds of training steps by part."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from typing import Any

from benchmarks.vs_stock.job import BATCH, WARM_UP


class Clock:
    """Seconds of each step by part, from hooks on the model and the optimizer; the same for every loop."""

    def __init__(self) -> None:
        self.parts: list[dict[str, float]] = [defaultdict(float)]
        self.last = time.perf_counter()

    def watch(self, model: Any) -> None:
        from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

        model.register_forward_pre_hook(lambda *_: self.tick("backward" if "forward" in self.parts[-1] else "data"))
        model.register_forward_hook(lambda *_: self.tick("forward"))
        register_optimizer_step_pre_hook(lambda *_: self.tick("backward"))
        register_optimizer_step_post_hook(lambda *_: self.end())

    def tick(self, part: str) -> None:
        now = time.perf_counter()
        self.parts[-1][part] += now - self.last
        self.last = now

    def end(self) -> None:
        self.tick("optimizer")
        self.parts.append(defaultdict(float))

    def result(self) -> dict[str, float]:
        """Mean milliseconds a step after the warm-up, and examples a second."""
        steps = [step for step in self.parts[WARM_UP:] if "optimizer" in step]
        means = {
            f"{part}_ms": 1000 * statistics.mean(step[part] for step in steps)
            for part in ("data", "forward", "backward", "optimizer")
        }
        return means | {"examples_per_second": 1000 * BATCH / sum(means.values()), "steps": len(steps)}
