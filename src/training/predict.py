"""The prediction loop: what a model says to every example."""

from __future__ import annotations

from typing import Any

import torch
from accelerate.utils import gather_object

from src.config import EvaluationConfig
from src.tasks.base import Batches, micro_batches
from src.training.hardware import Runtime


@torch.inference_mode()
def predict(runtime: Runtime, model: torch.nn.Module, batches: Batches, limits: EvaluationConfig) -> list[Any]:
    """The predictions of the task for every example, in their order."""
    accelerator = runtime.accelerator
    model.eval()
    # Without DDP, whose forward is a meeting of all processes: here they have different numbers of batches.
    model = getattr(model, "module", model)
    everything = batches.evaluation(limits.batch_size)
    tokens = runtime.micro_batch_tokens and runtime.micro_batch_tokens * batches.more_in_prediction
    parts = [part for rows in everything for part in micro_batches(rows, batches.lengths, tokens)]
    mine: list[tuple[int, Any]] = []
    for rows in parts[accelerator.process_index :: accelerator.num_processes]:
        mine += zip(rows, batches.predict(model, rows, accelerator.device, limits), strict=True)
    return [prediction for _, prediction in sorted(gather_object(mine), key=lambda item: item[0])]
