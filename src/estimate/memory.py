"""A stand-in for the memory formula while the probe is developed: it counts weights alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import AutoModelForQuestionAnswering

from src.config import Config
from src.model import backbone, method
from src.model.method import ParameterCounts


@dataclass(frozen=True)
class MemoryEstimate:
    """MB of 10^6 bytes."""

    counts: ParameterCounts
    weights_mb: float
    gradients_mb: float
    optimizer_mb: float
    activations_mb: float
    working_mb: float
    disk_mb: float

    @property
    def total_mb(self) -> float:
        return self.weights_mb + self.gradients_mb + self.optimizer_mb + self.activations_mb + self.working_mb


def estimate(
    config: Config,
    *,
    device: str,
    precision: str,
    processes: int = 1,
    batch_windows: int | None = None,
    length: int | None = None,
) -> MemoryEstimate:
    with torch.device("meta"):
        model = AutoModelForQuestionAnswering.from_config(backbone._architecture(config.model))
    counts = method.count(method.apply(model, config.method))
    windows = batch_windows or config.train.batch_size
    trained = 4 * counts.trainable / 1e6
    activations = 5.0 * windows * (length or config.model.max_length) / 384
    return MemoryEstimate(counts, 4 * counts.total / 1e6, trained, 2 * trained, activations, 0.0, trained)
