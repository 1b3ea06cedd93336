"""The training loop, built on accelerate.

It is our own because of the measurements: the clock runs only during optimizer steps, nothing waits for the device
within a logging interval, and every method sees the same batches.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from transformers import get_scheduler

from src.config import TrainConfig, UserError
from src.tasks.base import Batches
from src.training.checkpoint import Checkpoints
from src.training.hardware import Runtime
from src.training.meter import Meter
from src.training.step import Step, make_optimizer, optimizer_step

# During the first steps kernels are chosen and memory is allocated. They count as training time, but not for the number
# of examples per second.
WARM_UP_STEPS = 3
# The number of steps in a logging interval, after which a GPU is synchronised; a CPU has nothing to wait for.
CPU_INTERVAL, GPU_INTERVAL = 1, 10
SCHEDULERS = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}

Group = list[list[int]]  # the batches of one optimizer step


class Callbacks(Protocol):
    """The callbacks of the loop, which are called while the clock is stopped."""

    def on_steps(self, steps: list[Step]) -> None:
        """Called after each logging interval, with its steps."""

    def on_epoch(self, epoch: int) -> float:
        """Score the model and return its F1. Called with 0 before training, then after each epoch to be scored."""


RENAMED = {"without_gain": "evals_without_improvement"}  # in checkpoints of earlier versions


@dataclass
class Progress:
    """The progress of training, which is part of every checkpoint."""

    epoch: int = 0  # the last one that was started; 0 before the first
    groups: int = 0  # optimizer steps done in this epoch
    steps: int = 0  # optimizer steps done in total
    scored: int = 0  # the last epoch that was scored
    best_epoch: int = 0
    best_score: float = -math.inf
    evals_without_improvement: int = 0  # in a row
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update({RENAMED.get(name, name): value for name, value in state.items()})


class Diverged(UserError):
    """The loss is no longer finite. Another attempt at the same run would fail in the same way."""


def fit(
    runtime: Runtime,
    model: torch.nn.Module,
    batches: Batches,
    config: TrainConfig,
    meter: Meter,
    checkpoints: Checkpoints,
    callbacks: Callbacks,
) -> int:
    """Train `model` in place, from the last checkpoint if there is one.

    Args:
        runtime: from `src.training.hardware.start`.
        model: prepared by the accelerator, with `requires_grad` set on the parameters to train.
        batches: the training examples.
        config: of the training.
        meter: measures seconds, peak memory, and the numbers of examples and tokens.
        checkpoints: training is saved after each epoch and every `checkpoint_minutes`.
        callbacks: called during training.

    Returns:
        The epoch whose weights the model holds.

    Raises:
        Diverged: the loss is no longer finite; the message names the step.
    """
    loop = _Loop(runtime, model, batches, config, meter, checkpoints, callbacks)
    loop.begin()
    while not loop.is_over:
        loop.train_epoch()
        loop.score_epoch()
        checkpoints.save(loop.progress.steps)
    return loop.restore_best() if config.keep == "best" else loop.progress.epoch


@dataclass
class _Loop:
    """The arguments of `fit`, the state of the loop and its stages."""

    runtime: Runtime
    model: torch.nn.Module
    batches: Batches
    config: TrainConfig
    meter: Meter
    checkpoints: Checkpoints
    callbacks: Callbacks
    progress: Progress = field(default_factory=Progress)
    warm: bool = False  # whether the first steps, which are slower, are done

    def __post_init__(self) -> None:
        config = self.config
        batches_per_epoch = math.ceil(len(self.batches.lengths) / config.batch_size)
        self.steps_per_epoch = math.ceil(batches_per_epoch / config.gradient_accumulation_steps)
        self.total = self.steps_per_epoch * config.epochs
        warm_up = math.ceil(config.warmup_ratio * self.total)
        self.optimizer = self.runtime.accelerator.prepare_optimizer(make_optimizer(self.model, config))
        self.scheduler = get_scheduler(SCHEDULERS[config.scheduler], self.optimizer, warm_up, self.total)

    def begin(self) -> None:
        """Resume from a checkpoint, or score the model before training."""
        parts = {"optimizer": self.optimizer, "scheduler": self.scheduler, "progress": self.progress}
        self.checkpoints.register(self.model, {**parts, "meter": self.meter})
        if not self.checkpoints.load():
            self.callbacks.on_epoch(0)
            # Dropout must not depend on what was drawn before, such as the new weights of the method.
            torch.manual_seed(self.config.seed)

    @property
    def is_over(self) -> bool:
        patience = self.config.early_stopping_patience or math.inf
        return self.progress.scored >= self.config.epochs or self.progress.evals_without_improvement >= patience

    def train_epoch(self) -> None:
        """Train an epoch, or the rest of one."""
        progress, size = self.progress, self.config.gradient_accumulation_steps
        if progress.groups == self.steps_per_epoch or progress.epoch == 0:
            progress.epoch, progress.groups = progress.epoch + 1, 0
        self.model.train()
        order = self.batches.training(self.config.batch_size, self.config.seed, progress.epoch)
        groups = [order[i : i + size] for i in range(0, len(order), size)]
        interval = CPU_INTERVAL if self.runtime.on_cpu else GPU_INTERVAL
        while progress.groups < self.steps_per_epoch:
            steps, due = self._train(groups[progress.groups :][: interval if self.warm else WARM_UP_STEPS])
            self.warm = True
            progress.steps += len(steps)
            progress.groups += len(steps)
            self.callbacks.on_steps(steps)
            for step in steps:
                if not math.isfinite(step.loss):
                    raise Diverged(
                        f"The loss is {step.loss} at step {step.number} of {self.total} (learning rate "
                        f"{step.learning_rate:.2g}); lower train.learning_rate or use hardware.precision=fp32."
                    )
            if due and progress.groups < self.steps_per_epoch:
                self.checkpoints.save(progress.steps)

    def _train(self, groups: list[Group]) -> tuple[list[Step], bool]:
        """Train on some groups while the clock runs; returns their steps, and whether a checkpoint is due."""
        meter, accelerator = self.meter, self.runtime.accelerator
        seconds_before = meter.train.seconds
        raw: list[tuple[torch.Tensor, Any, float, float]] = []
        with meter.phase(meter.train):
            for group in groups:
                rate = self.scheduler.get_last_lr()[0]
                loss, norm = optimizer_step(
                    self.runtime, self.model, self.optimizer, group, self.batches, self.config.max_grad_norm
                )
                self.scheduler.step()
                raw.append((loss, norm, rate, time.time()))
        if self.warm:
            rows = [row for group in groups for batch in group for row in batch]
            meter.train.examples += len(rows)
            meter.train.tokens += int(self.batches.lengths[rows].sum())
            meter.train.counted_seconds += meter.train.seconds - seconds_before
        # A checkpoint is due if any process says so: the sum is then above 0.
        due = torch.tensor(float(self.checkpoints.due), device=accelerator.device)
        *losses, due = accelerator.reduce(torch.stack([*(loss for loss, *_ in raw), due]), "sum").tolist()
        first = self.progress.steps + 1
        steps = [
            Step(first + i, self.total, loss, rate, float(norm), at)
            for i, (loss, (_, norm, rate, at)) in enumerate(zip(losses, raw, strict=True))
        ]
        return steps, bool(due)

    def score_epoch(self) -> None:
        """Score the model, if the epoch is to be scored."""
        progress, config, epoch = self.progress, self.config, self.progress.epoch
        if epoch % config.eval_every_epochs and epoch != config.epochs:
            return
        progress.scored = epoch
        score = self.callbacks.on_epoch(epoch)
        if score > progress.best_score:
            progress.best_epoch, progress.best_score, progress.evals_without_improvement = epoch, score, 0
            if config.keep == "best":
                progress.best_weights = {
                    name: p.detach().cpu().clone() for name, p in self.model.named_parameters() if p.requires_grad
                }
        else:
            progress.evals_without_improvement += 1

    def restore_best(self) -> int:
        """Restore the weights of the best epoch; returns its number."""
        if self.progress.best_epoch != self.progress.epoch:
            self.model.load_state_dict(self.progress.best_weights, strict=False)
        return self.progress.best_epoch
