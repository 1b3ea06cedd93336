"""A model and questions in, answers and figures out: prediction and scoring, put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from src.config import EvaluationConfig
from src.evaluation.score import score
from src.evaluation.spans import Answer, answer_questions, mean_loss
from src.training.hardware import Runtime
from src.training.predict import Logits, predict
from src.training.step import Batches

Questions = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Evaluation:
    """One scoring of a set of questions: figures in percent (`loss` in nats, where there is one), and the answers."""

    figures: dict[str, float]
    answers: list[Answer]


@dataclass(frozen=True)
class Evaluator:
    """Has a model answer questions, and scores the answers.

    Args:
        runtime: what the model runs on.
        model: prepared for it.
        config: sizes and limits.
        unanswerable: whether "no answer" may be predicted.
    """

    runtime: Runtime
    model: torch.nn.Module
    config: EvaluationConfig
    unanswerable: bool

    def score(self, questions: Questions, batches: Batches) -> Evaluation:
        """Answer and score a whole set of questions; `batches` are their windows."""
        outputs = predict(self.runtime, self.model, batches, self.config.batch_size)
        answers = self._answers(questions, batches, outputs)
        loss = mean_loss(batches.windows, *outputs)
        return Evaluation(score(questions, answers) | ({} if loss is None else {"loss": loss}), answers)

    def answer(self, questions: Questions, batches: Batches) -> list[Answer]:
        """The answers to questions with `id` and `context`; `batches` are their windows."""
        return self._answers(questions, batches, predict(self.runtime, self.model, batches, self.config.batch_size))

    def _answers(self, questions: Questions, batches: Batches, outputs: Logits) -> list[Answer]:
        return answer_questions(questions, batches.windows, *outputs, self.config, self.unanswerable)
