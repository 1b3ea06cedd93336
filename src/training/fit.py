"""The training loop and the prediction loop, on accelerate; the only folder that knows it.

Our own loop because measuring is the product: the clock runs while steps run and at no other time, nothing waits
for the device inside a stretch of steps, and every method walks the same batches.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.nn.functional import cross_entropy
from transformers import get_scheduler

from src.config import TrainConfig, UserError
from src.model.fast import is_packed
from src.training.checkpoint import Checkpoints, Stateful
from src.training.measure import Meter

# Before this many steps are done, kernels are still being chosen and memory is still being asked for:
# they count as training time, and not towards examples a second.
WARM_UP_STEPS = 3
SCHEDULERS = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}
LABELS = ("start_positions", "end_positions")


class Batches(Protocol):
    """What the loops need to know of the data; `src.data.features.Batches` is one."""

    lengths: np.ndarray

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


@dataclass
class Progress:
    """Where training stands. It goes into every checkpoint, beside weights, optimizer and random states."""

    epoch: int = 0  # the last one that was begun; 0 before the first
    groups: int = 0  # of its optimizer steps done
    steps: int = 0  # done in all
    scored: int = 0  # the last epoch that was scored
    best_epoch: int = 0
    best_score: float = -math.inf
    without_gain: int = 0  # evaluations in a row that were no better than the best
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


def fit(
    accelerator: Accelerator,
    model: torch.nn.Module,
    batches: Batches,
    config: TrainConfig,
    meter: Meter,
    evaluate: Callable[[int], float],
    on_steps: Callable[[list[Step]], None],
    checkpoints: Checkpoints,
    more_state: Mapping[str, Stateful] | None = None,
    tokens_per_pass: int | None = None,
) -> int:
    """Train `model` in place, from the last checkpoint if there is one.

    Args:
        accelerator: from `src.training.hardware.start`.
        model: prepared by `accelerator`, with `requires_grad` set on what trains.
        batches: the training windows.
        config: rates, sizes, seeds.
        meter: gets the seconds, the peak memory and the number of windows and tokens.
        evaluate: called with 0 before training and with the number of each epoch to be scored; gives the F1.
        on_steps: called with the steps of each stretch, outside the clock.
        checkpoints: where training is saved, after each epoch and every `checkpoint_minutes`.
        more_state: what else a checkpoint holds, by name.
        tokens_per_pass: see `passes`.

    Returns:
        The epoch whose weights the model holds.

    Raises:
        UserError: the loss is no number any more; the message says at which step.
    """
    optimizer = accelerator.prepare_optimizer(_optimizer(model, config))
    per_epoch = math.ceil(math.ceil(len(batches.lengths) / config.batch_size) / config.gradient_accumulation_steps)
    total = per_epoch * config.epochs
    scheduler = get_scheduler(SCHEDULERS[config.scheduler], optimizer, math.ceil(config.warmup_ratio * total), total)
    # A stretch is what runs between two looks at the device; on a CPU there is nothing to wait for.
    stretch_length = 1 if accelerator.device.type == "cpu" else 10
    progress = Progress()
    parts = {"optimizer": optimizer, "scheduler": scheduler, "progress": progress, "meter": meter}
    checkpoints.register(model, {**parts, **(more_state or {})})
    if not checkpoints.load():
        evaluate(0)
        # Dropout: the same whatever was drawn before, the method's new weights included.
        torch.manual_seed(config.seed)
    patience = config.early_stopping_patience or math.inf
    warm = False

    while progress.scored < config.epochs and progress.without_gain < patience:
        if progress.groups == per_epoch or progress.epoch == 0:
            progress.epoch, progress.groups = progress.epoch + 1, 0
        epoch = progress.epoch
        model.train()
        order = batches.training(config.batch_size, config.seed, epoch)
        groups = [
            order[i : i + config.gradient_accumulation_steps]
            for i in range(0, len(order), config.gradient_accumulation_steps)
        ]
        while progress.groups < per_epoch:
            stretch = groups[progress.groups :][: stretch_length if warm else WARM_UP_STEPS]
            seconds_before = meter.train.seconds
            raw: list[tuple[torch.Tensor, Any, float, float]] = []
            with meter.phase(meter.train):
                for group in stretch:
                    rate = scheduler.get_last_lr()[0]
                    loss, norm = _step(
                        accelerator, model, optimizer, group, batches, config.max_grad_norm, tokens_per_pass
                    )
                    scheduler.step()
                    raw.append((loss, norm, rate, time.time()))
            if warm:
                rows = [row for group in stretch for batch in group for row in batch]
                meter.train.windows += len(rows)
                meter.train.tokens += int(batches.lengths[rows].sum())
                meter.train.counted_seconds += meter.train.seconds - seconds_before
            warm = True
            # Processes decide together whether a checkpoint is due: the sum is above 0 where one of them says so.
            due = torch.tensor(float(checkpoints.due), device=accelerator.device)
            *losses, due = accelerator.reduce(torch.stack([*(loss for loss, *_ in raw), due]), "sum").tolist()
            steps = [
                Step(progress.steps + i, total, loss, rate, float(norm), at)
                for i, (loss, (_, norm, rate, at)) in enumerate(zip(losses, raw, strict=True), start=1)
            ]
            progress.steps += len(steps)
            progress.groups += len(steps)
            on_steps(steps)
            for step in steps:
                if not math.isfinite(step.loss):
                    raise UserError(
                        f"The loss is {step.loss} at step {step.number} of {total} (learning rate "
                        f"{step.learning_rate:.2g}); lower train.learning_rate or use hardware.precision=fp32."
                    )
            if due and progress.groups < per_epoch:
                checkpoints.save(progress.steps)

        if epoch % config.eval_every_epochs == 0 or epoch == config.epochs:
            progress.scored = epoch
            score = evaluate(epoch)
            if score > progress.best_score:
                progress.best_epoch, progress.best_score, progress.without_gain = epoch, score, 0
                if config.keep == "best":
                    progress.best_weights = {
                        name: p.detach().cpu().clone() for name, p in model.named_parameters() if p.requires_grad
                    }
            else:
                progress.without_gain += 1
        checkpoints.save(progress.steps)
    if config.keep == "best" and progress.best_epoch != progress.epoch:
        model.load_state_dict(progress.best_weights, strict=False)
        return progress.best_epoch
    return progress.epoch


def _optimizer(model: torch.nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    decayed: list[torch.nn.Parameter] = []
    spared: list[
        torch.nn.Parameter
    ] = []  # biases, norms, and the factors of (IA)^3, which change nothing at 1, not at 0
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (decayed if parameter.ndim >= 2 and "ia3_l" not in name else spared).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.learning_rate, fused=True)


def _step(
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    group: list[list[int]],
    batches: Batches,
    max_grad_norm: float,
    tokens_per_pass: int | None,
) -> tuple[torch.Tensor, Any]:
    """One optimizer step over a group of batches; the gradient is that of one batch of all their windows.

    Returns:
        This process's share of the mean loss over the group (its sum over processes is the mean), and the norm of
        the gradient before clipping.
    """
    windows = sum(len(rows) for rows in group)
    total = torch.zeros((), device=accelerator.device)
    own = [rows[accelerator.process_index :: accelerator.num_processes] for rows in group]
    parts = [part for rows in own for part in passes(rows, batches.lengths, tokens_per_pass)]
    # A process without windows of its own still takes part in the exchange of gradients.
    weight = 1 if parts else 0
    parts = parts or [group[0][:1]]
    for part in parts:
        last = part is parts[-1]
        with nullcontext() if last else accelerator.no_sync(model):  # processes exchange gradients once a step
            batch = {name: values.to(accelerator.device) for name, values in batches.collate(part).items()}
            # Padding is no candidate, or the loss would depend on what else is in the batch.
            padding = batch["attention_mask"] == 0
            start, end = (
                cross_entropy(logits.float().masked_fill(padding, -math.inf), batch[name], reduction="sum")
                for logits, name in zip(_logits(model, batch, batches.lengths[list(part)]), LABELS, strict=True)
            )
            loss = (start + end) / 2 / windows * weight
            accelerator.backward(loss * accelerator.num_processes)  # DDP takes the mean over processes
        total += loss.detach()
    norm = accelerator.clip_grad_norm_(model.parameters(), max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total, norm


def passes(rows: Sequence[int], lengths: np.ndarray, tokens: int | None) -> list[Sequence[int]]:
    """A batch in as few equal parts as keep each under `tokens`, all as long as its longest window; None: in one."""
    if tokens is None or not rows:
        return [rows] if rows else []
    windows = max(1, tokens // int(lengths[list(rows)].max()))
    count = math.ceil(len(rows) / windows)
    size = math.ceil(len(rows) / count)
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def _logits(
    model: torch.nn.Module, batch: dict[str, torch.Tensor], lengths: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """Start and end logits, each of shape (windows, tokens), of windows with so many tokens each."""
    inner: Any = getattr(model, "module", model)  # DDP's
    base = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    # A model that packs its windows is told where they end: it would have to wait for the device to tell.
    more = {"lengths": lengths} if is_packed(base) else {}
    outputs = model(**known_inputs(base, batch), **more)
    return outputs.start_logits, outputs.end_logits


def known_inputs(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What of a batch the architecture knows, labels left out."""
    known = inspect.signature(type(model).forward).parameters
    return {name: values for name, values in batch.items() if name in known and name not in LABELS}


@torch.inference_mode()
def predict(
    accelerator: Accelerator,
    model: torch.nn.Module,
    batches: Batches,
    batch_size: int,
    tokens_per_pass: int | None = None,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Start and end logits of every window, in fp32, each of shape (tokens of the window,); in the windows' order."""
    model.eval()
    # Without DDP, whose forward is a meeting of all processes: here they have different numbers of batches.
    model = getattr(model, "module", model)
    own: list[tuple[int, np.ndarray, np.ndarray]] = []
    parts = [part for rows in batches.evaluation(batch_size) for part in passes(rows, batches.lengths, tokens_per_pass)]
    for rows in parts[accelerator.process_index :: accelerator.num_processes]:
        batch = {name: values.to(accelerator.device) for name, values in batches.collate(rows).items()}
        start, end = (logits.float().cpu().numpy() for logits in _logits(model, batch, batches.lengths[list(rows)]))
        own += [(row, start[i, : batches.lengths[row]], end[i, : batches.lengths[row]]) for i, row in enumerate(rows)]
    everything = sorted(gather_object(own), key=lambda item: item[0])
    return [start for _, start, _ in everything], [end for _, _, end in everything]
