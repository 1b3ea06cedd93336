"""The prediction loop: the logits of every window."""

from __future__ import annotations

import numpy as np
import torch
from accelerate.utils import gather_object

from src.training.hardware import Runtime
from src.training.step import Batches, logits, micro_batches

Logits = tuple[list[np.ndarray], list[np.ndarray]]  # start and end, one array of shape (tokens of the window,) each


@torch.inference_mode()
def predict(runtime: Runtime, model: torch.nn.Module, batches: Batches, batch_size: int) -> Logits:
    """Start and end logits of every window, in fp32, in the windows' order."""
    accelerator, lengths = runtime.accelerator, batches.lengths
    model.eval()
    # Without DDP, whose forward is a meeting of all processes: here they have different numbers of batches.
    model = getattr(model, "module", model)
    mine: list[tuple[int, np.ndarray, np.ndarray]] = []
    everything = batches.evaluation(batch_size)
    parts = [part for rows in everything for part in micro_batches(rows, lengths, runtime.micro_batch_tokens)]
    for rows in parts[accelerator.process_index :: accelerator.num_processes]:
        batch = {name: values.to(accelerator.device) for name, values in batches.collate(rows).items()}
        start, end = (values.float().cpu().numpy() for values in logits(model, batch, lengths[list(rows)]))
        mine += [(row, start[i, : lengths[row]], end[i, : lengths[row]]) for i, row in enumerate(rows)]
    gathered = sorted(gather_object(mine), key=lambda item: item[0])
    return [start for _, start, _ in gathered], [end for _, _, end in gathered]
