"""What a task is: how questions become examples, what is learnt from them, and how predictions become answers.

The training loop, the meter, checkpoints, records and reports know a task by these classes alone. What an example is
made of, a window or a prompt, only the task knows.
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
# On a CPU more at once is no faster, and what is kept for the backward pass grows with it.
CPU_MICRO_BATCH_TOKENS = 1536
# Few distinct lengths let the CPU's kernels be reused: a third more examples a second with 32 than with 1 or 8.
LENGTH_MULTIPLE = 32


@dataclass(frozen=True)
class Span:
    """A candidate answer. Its text is empty for "no answer", and never spaces alone."""

    text: str
    start: int  # characters `start` to `end` of the passage; both NO_PLACE where it has none there
    end: int
    score: float  # by which candidates compete; the task says what it is
    probability: float


@dataclass(frozen=True)
class Answer:
    """What is predicted for one question."""

    id: str
    best: Span
    n_best: tuple[Span, ...]
    null_score: float  # of "no answer": the lowest over the question's examples


class Batches(ABC):
    """The examples of one data set, as the batches that training and prediction run on.

    A long passage makes several examples of one question.

    Attributes:
        lengths: tokens of each example, shape (examples,).
        terms: how many terms each example adds to the loss, shape (examples,): a step's loss is the mean over terms.
        questions: row of each example's question in its data set, shape (examples,).
        more_in_prediction: how many times the tokens of a micro-batch go through the model at once in prediction, where
            nothing is kept for a backward pass.
    """

    more_in_prediction = 1
    lengths: np.ndarray
    terms: np.ndarray
    questions: np.ndarray

    @property
    def highest_token(self) -> int:
        """The highest id of a token in the examples; 0 where the task does not say."""
        return 0

    def training(self, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
        """The rows of each batch of an epoch; see `batch_order`."""
        return batch_order(self.lengths, batch_size, seed, epoch)

    def evaluation(self, batch_size: int) -> list[list[int]]:
        """The rows of each batch, longest first: an evaluation that does not fit in memory fails at once."""
        order = np.argsort(-self.lengths, kind="stable").tolist()
        return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]

    @abstractmethod
    def loss(self, model: Any, rows: Sequence[int], device: torch.device) -> torch.Tensor:
        """The sum of the loss (nats) over the terms of some examples, with its graph."""

    @abstractmethod
    def predict(self, model: Any, rows: Sequence[int], device: torch.device, limits: EvaluationConfig) -> list[Any]:
        """What `answers` needs to know of each of some examples; plain values and numpy arrays, on the CPU."""

    @abstractmethod
    def answers(
        self, questions: Questions, predictions: Sequence[Any], limits: EvaluationConfig, may_be_unanswerable: bool
    ) -> list[Answer]:
        """One answer a question, in their order, from the predictions of all examples.

        Raises:
            UserError: predictions that are not finite numbers.
        """

    @abstractmethod
    def mean_loss(self, predictions: Sequence[Any]) -> float | None:
        """The loss over all terms, as in training, in nats; None where nothing is known to learn from."""

    @abstractmethod
    def select(self, rows: np.ndarray, questions: np.ndarray) -> Batches:
        """Some examples, in memory; `questions` are the rows of their questions from now on."""


class Task(Protocol):
    """How a model answers questions."""

    @property
    def auto_model(self) -> Any:
        """The class of transformers that loads a model with the head that the task needs."""

    @property
    def cpu_tokens(self) -> int:
        """Tokens of a micro-batch on a CPU, for most models of the task."""

    def batches(self, questions: Any, tokenizer: Any, config: Config, training: bool) -> tuple[Batches, list[str]]:
        """Questions as batches, and notes for the person at the terminal.

        Args:
            questions: a data set in the schema of `src.data.sources`.
            tokenizer: of the model.
            config: of the run.
            training: leave out the examples that nothing can be learnt from.

        Raises:
            UserError: the tokenizer lacks what the task needs.
        """


def batch_order(sizes: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Batches of examples of like length, in random order: little padding, and no curriculum from short to long.

    Depends on the lengths, the seed and the epoch alone, so that every method sees the same batches.

    Args:
        sizes: tokens of each example, shape (examples,).
        batch_size: examples a batch; the last one may be smaller.

    Returns:
        Lists of rows; each row stands in exactly one.
    """
    generator = random.Random(f"{seed} {epoch}")
    order = list(range(len(sizes)))
    generator.shuffle(order)
    # Sorted within pools of 50 batches, so that an example meets other neighbours in every epoch.
    pool = batch_size * 50
    batches = []
    for i in range(0, len(order), pool):
        by_length = sorted(order[i : i + pool], key=lambda row: sizes[row])
        batches += [by_length[j : j + batch_size] for j in range(0, len(by_length), batch_size)]
    generator.shuffle(batches)
    return batches


def micro_batches(rows: Sequence[int], lengths: np.ndarray, tokens: int | None) -> list[Sequence[int]]:
    """A batch in as few equal parts as keep each under `tokens`, all as long as its longest example; None: in one."""
    if tokens is None or not rows:
        return [rows] if rows else []
    examples = max(1, tokens // int(lengths[list(rows)].max()))
    count = math.ceil(len(rows) / examples)
    size = math.ceil(len(rows) / count)
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def padded(length: int) -> int:
    """The tokens that a batch is padded to whose longest example has so many."""
    return -(-int(length) // LENGTH_MULTIPLE) * LENGTH_MULTIPLE


def unwrapped(model: Any) -> Any:
    """The model of transformers that DDP and peft have put their modules around."""
    inner = getattr(model, "module", model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


def known_inputs(model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What of a batch the architecture knows."""
    known = inspect.signature(type(model).forward).parameters
    return {name: values for name, values in batch.items() if name in known}
