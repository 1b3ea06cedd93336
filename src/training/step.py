"""One optimizer step: a batch in micro-batches, their loss, the exchange between processes, the update."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from src.config import TrainConfig
from src.training.hardware import Runtime

LABELS = ("start_positions", "end_positions")
PACKED = "packed"  # the attention of models that pack their windows (`src.model.fast.packing`)


class Batches(Protocol):
    """What the loops need to know of the data; `src.data.batches.Batches` is one."""

    windows: Any  # in `src.data.features.WINDOW_SCHEMA`; None where nothing is predicted from them
    lengths: np.ndarray  # tokens of each window, shape (windows,)

    def training(self, batch_size: int, seed: int, epoch: int) -> list[list[int]]: ...
    def evaluation(self, batch_size: int) -> list[list[int]]: ...
    def collate(self, rows: Sequence[int]) -> dict[str, torch.Tensor]: ...


@dataclass(frozen=True)
class Step:
    """One optimizer step, as it is logged."""

    number: int  # from 1
    of: int
    loss: float  # mean over the windows of the step
    learning_rate: float
    grad_norm: float  # before clipping
    time: float  # seconds since the epoch of the clock


def make_optimizer(model: torch.nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW over what trains; weight decay on matrices alone."""
    decayed: list[torch.nn.Parameter] = []
    # Biases, norms, and the factors of (IA)^3, which change nothing at 1, not at 0.
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
    """One optimizer step over a group of batches; the gradient is that of one batch of all their windows.

    Returns:
        This process's share of the mean loss over the group (its sum over processes is the mean), and the norm of
        the gradient before clipping.
    """
    accelerator = runtime.accelerator
    windows = sum(len(rows) for rows in group)
    total = torch.zeros((), device=accelerator.device)
    mine = [rows[accelerator.process_index :: accelerator.num_processes] for rows in group]
    parts = [part for rows in mine for part in micro_batches(rows, batches.lengths, runtime.micro_batch_tokens)]
    # A process without windows still takes part in the exchange of gradients.
    weight = 1 if parts else 0
    parts = parts or [group[0][:1]]
    for part in parts:
        last = part is parts[-1]
        with nullcontext() if last else accelerator.no_sync(model):  # processes exchange gradients once a step
            batch = {name: values.to(accelerator.device) for name, values in batches.collate(part).items()}
            # Padding is no candidate, or the loss would depend on what else is in the batch.
            padding = batch["attention_mask"] == 0
            start, end = (
                cross_entropy(scores.float().masked_fill(padding, -math.inf), batch[name], reduction="sum")
                for scores, name in zip(logits(model, batch, batches.lengths[list(part)]), LABELS, strict=True)
            )
            loss = (start + end) / 2 / windows * weight
            accelerator.backward(loss * accelerator.num_processes)  # DDP takes the mean over processes
        total += loss.detach()
    norm = accelerator.clip_grad_norm_(model.parameters(), max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total, norm


def micro_batches(rows: Sequence[int], lengths: np.ndarray, tokens: int | None) -> list[Sequence[int]]:
    """A batch in as few equal parts as keep each under `tokens`, all as long as its longest window; None: in one."""
    if tokens is None or not rows:
        return [rows] if rows else []
    windows = max(1, tokens // int(lengths[list(rows)].max()))
    count = math.ceil(len(rows) / windows)
    size = math.ceil(len(rows) / count)
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def logits(
    model: torch.nn.Module, batch: dict[str, torch.Tensor], lengths: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """Start and end logits, each of shape (windows, tokens), of windows with so many tokens each."""
    inner: Any = getattr(model, "module", model)  # DDP's
    base = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    # A model that packs its windows is told where they end: it would have to wait for the device to tell.
    more = {"lengths": lengths} if base.config._attn_implementation == PACKED else {}
    outputs = model(**known_inputs(base, batch), **more)
    return outputs.start_logits, outputs.end_logits


def known_inputs(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What of a batch the architecture knows, labels left out."""
    known = inspect.signature(type(model).forward).parameters
    return {name: values for name, values in batch.items() if name in known and name not in LABELS}
