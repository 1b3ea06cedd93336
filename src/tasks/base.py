"""The interface of a task: how questions become examples, what their loss is, and how predictions become answers.

The training loop, the meter, checkpoints, records and reports only use these classes. Only the task itself knows
whether its examples are windows or prompts.
"""

from __future__ import annotations

import inspect
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from src.config import Config, EvaluationConfig

Questions = Sequence[Mapping[str, Any]]  # in the schema of `src.data.sources`
NO_PLACE = -1
# On a CPU, larger micro-batches are not faster, and the memory for the backward pass grows with them.
CPU_MICRO_BATCH_TOKENS = 1536
# With few distinct lengths, CPU kernels are reused: a third more examples per second with 32 than with 1 or 8.
LENGTH_MULTIPLE = 32


@dataclass(frozen=True)
class Span:
    """A candidate answer. Its text is empty for "no answer", and never white space only."""

    text: str
    start: int  # characters `start` to `end` of the passage; both NO_PLACE if the position is not known
    end: int
    score: float  # by which candidates are ranked; the task defines it
    probability: float


@dataclass(frozen=True)
class Answer:
    """The prediction for one question."""

    id: str
    best: Span
    n_best: tuple[Span, ...]
    null_score: float  # the score of "no answer", the lowest over the question's examples


class Batches(ABC):
    """The examples of a data set, as batches for training and prediction.

    A question about a long passage has several examples.

    Attributes:
        lengths: the number of tokens of each example, shape (examples,).
        terms: the number of loss terms of each example, shape (examples,). The loss of a step is the mean over terms.
        questions: the row of each example's question in the data set, shape (examples,).
        more_in_prediction: the factor by which micro-batches may be larger in prediction, which needs no memory for a
            backward pass.
    """

    more_in_prediction = 1
    lengths: np.ndarray
    terms: np.ndarray
    questions: np.ndarray

    @property
    def highest_token(self) -> int:
        """The highest token id in the examples; 0 if the task does not know it."""
        return 0

    def training(self, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
        """The rows of each batch of an epoch; see `batch_order`."""
        return batch_order(self.lengths, batch_size, seed, epoch)

    def evaluation(self, batch_size: int) -> list[list[int]]:
        """The rows of each batch, the longest first, so that an evaluation that does not fit in memory fails early."""
        order = np.argsort(-self.lengths, kind="stable").tolist()
        return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]

    @abstractmethod
    def loss(self, model: Any, rows: Sequence[int], device: torch.device) -> torch.Tensor:
        """The sum of the loss (nats) over the terms of some examples, as a tensor with gradient."""

    @abstractmethod
    def predict(self, model: Any, rows: Sequence[int], device: torch.device, limits: EvaluationConfig) -> list[Any]:
        """Predict some examples; the results, which `answers` uses, are plain values and numpy arrays on the CPU."""

    @abstractmethod
    def answers(
        self, questions: Questions, predictions: Sequence[Any], limits: EvaluationConfig, may_be_unanswerable: bool
    ) -> list[Answer]:
        """Choose the answer of each question from the predictions of all examples, in the order of the questions.

        Raises:
            UserError: predictions that are not finite numbers.
        """

    @abstractmethod
    def mean_loss(self, predictions: Sequence[Any]) -> float | None:
        """The mean loss over all terms, as in training, in nats; None if no example has a label."""

    @abstractmethod
    def select(self, rows: np.ndarray, questions: np.ndarray) -> Batches:
        """Copy some examples into memory; `questions` holds the new rows of their questions."""


class Task(Protocol):
    """A way in which a model answers questions."""

    @property
    def auto_model(self) -> Any:
        """The transformers class that loads a model with the head for the task."""

    @property
    def cpu_tokens(self) -> int:
        """The number of tokens of a micro-batch on a CPU that suits most models of the task."""

    def batches(self, questions: Any, tokenizer: Any, config: Config, training: bool) -> tuple[Batches, list[str]]:
        """Make batches of questions; returns them with notes for the user.

        Args:
            questions: a data set in the schema of `src.data.sources`.
            tokenizer: of the model.
            config: of the run.
            training: leave out examples without a label.

        Raises:
            UserError: the tokenizer lacks what the task needs.
        """


def batch_order(sizes: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Make batches of examples of similar length in random order: with little padding, but without a curriculum.

    They only depend on lengths, seed and epoch, so that all methods see the same batches.

    Args:
        sizes: the number of tokens of each example, shape (examples,).
        batch_size: the number of examples in a batch; one batch may be smaller.
        seed, epoch: of the random order.

    Returns:
        Lists of rows; each row is in exactly one.
    """
    generator = random.Random(f"{seed} {epoch}")
    order = list(range(len(sizes)))
    generator.shuffle(order)
    # Sort only within pools of 50 batches, so that examples have different neighbours in each epoch.
    pool = batch_size * 50
    batches = []
    for i in range(0, len(order), pool):
        by_length = sorted(order[i : i + pool], key=lambda row: sizes[row])
        batches += [by_length[j : j + batch_size] for j in range(0, len(by_length), batch_size)]
    generator.shuffle(batches)
    return batches


def micro_batches(rows: Sequence[int], lengths: np.ndarray, tokens: int | None) -> list[Sequence[int]]:
    """Split a batch into as few equal parts as possible, each with at most `tokens` tokens.

    Args:
        rows: of the batch.
        lengths: the number of tokens of each example.
        tokens: the limit, counting each example as long as the longest of the batch; None for no limit.
    """
    if tokens is None or not rows:
        return [rows] if rows else []
    examples = max(1, tokens // int(lengths[list(rows)].max()))
    count = math.ceil(len(rows) / examples)
    size = math.ceil(len(rows) / count)
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def padded(length: int) -> int:
    """The length that a batch is padded to, given the length of its longest example."""
    return -(-int(length) // LENGTH_MULTIPLE) * LENGTH_MULTIPLE


def unwrapped(model: Any) -> Any:
    """The transformers model inside the wrappers of DDP and peft."""
    inner = getattr(model, "module", model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


def known_inputs(model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a batch that the architecture accepts as inputs."""
    known = inspect.signature(type(model).forward).parameters
    return {name: values for name, values in batch.items() if name in known}
