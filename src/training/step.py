"""One optimizer step: micro-batches, their loss, the exchange of gradients between processes, and the update."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from src.config import TrainConfig
from src.tasks.base import Batches, micro_batches
from src.training.hardware import Runtime


@dataclass(frozen=True)
class Step:
    """One optimizer step, as it is logged."""

    number: int  # from 1
    of: int
    loss: float  # mean over the terms of the step
    learning_rate: float
    grad_norm: float  # before clipping
    time: float  # seconds since 1970


def make_optimizer(model: torch.nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW over the parameters that train, with weight decay on matrices only."""
    decayed: list[torch.nn.Parameter] = []
    # Biases, norms, and the factors of (IA)^3, whose neutral value is 1 and not 0.
    spared: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (decayed if parameter.ndim >= 2 and "ia3_l" not in name else spared).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.learning_rate, fused=True)


def optimizer_step(
    runtime: Runtime,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    group: list[list[int]],
    batches: Batches,
    max_grad_norm: float,
) -> tuple[torch.Tensor, Any]:
    """Make one optimizer step over a group of batches, with the gradient of a single batch of all their examples.

    Args:
        runtime: the hardware.
        model: to train.
        optimizer: of the model.
        group: the rows of each batch.
        batches: the examples.
        max_grad_norm: to which the norm of the gradient is clipped.

    Returns:
        This process's share of the mean loss over the group (its sum over processes is the mean), and the norm of
        the gradient before clipping.
    """
    accelerator = runtime.accelerator
    terms = sum(int(batches.terms[rows].sum()) for rows in group)
    total = torch.zeros((), device=accelerator.device)
    mine = [rows[accelerator.process_index :: accelerator.num_processes] for rows in group]
    parts = [part for rows in mine for part in micro_batches(rows, batches.lengths, runtime.micro_batch_tokens)]
    # A process without examples still takes part in the exchange of gradients.
    weight = 1 if parts else 0
    parts = parts or [group[0][:1]]
    for part in parts:
        last = part is parts[-1]
        with nullcontext() if last else accelerator.no_sync(model):  # processes exchange gradients once a step
            loss = batches.loss(model, part, accelerator.device) / terms * weight
            accelerator.backward(loss * accelerator.num_processes)  # DDP takes the mean over processes
        total += loss.detach()
    norm = accelerator.clip_grad_norm_(model.parameters(), max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total, norm
