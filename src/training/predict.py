"""The prediction loop: the predictions of a model for all examples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import gather_object

from src.config import EvaluationConfig
from src.tasks.base import Batches, micro_batches
from src.training.hardware import Runtime


@contextmanager
def weights_held(model: torch.nn.Module) -> Iterator[None]:
    """Declare that no weight changes inside, so that modules that cast theirs (`src.model.fast`) do so once."""
    casting: list[Any] = [module for module in model.modules() if hasattr(module, "weight_cast")]
    for module in casting:
        module.weight_cast.hold(module.weight, True)
    try:
        yield
    finally:
        for module in casting:
            module.weight_cast.hold(module.weight, False)


@torch.inference_mode()
def predict(runtime: Runtime, model: torch.nn.Module, batches: Batches, limits: EvaluationConfig) -> list[Any]:
    """Predict all examples of some batches; returns the task's predictions in the order of the examples."""
    accelerator = runtime.accelerator
    model.eval()
    # Without DDP, whose forward synchronises all processes: here they have different numbers of batches.
    model = getattr(model, "module", model)
    everything = batches.evaluation(limits.batch_size)
    tokens = runtime.micro_batch_tokens and runtime.micro_batch_tokens * batches.more_in_prediction
    parts = [part for rows in everything for part in micro_batches(rows, batches.lengths, tokens)]
    mine: list[tuple[int, Any]] = []
    with weights_held(model):
        for rows in parts[accelerator.process_index :: accelerator.num_processes]:
            mine += zip(rows, batches.predict(model, rows, accelerator.device, limits), strict=True)
    return [prediction for _, prediction in sorted(gather_object(mine), key=lambda item: item[0])]
