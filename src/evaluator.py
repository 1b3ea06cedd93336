"""Prediction and scoring together: from a model and questions to answers and metrics."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from src.config import EvaluationConfig
from src.evaluation.score import score
from src.tasks.base import Answer, Batches, Questions
from src.training.hardware import Runtime
from src.training.predict import predict


@dataclass(frozen=True)
class Evaluation:
    """The answers to a set of questions and their metrics, in percent (`loss`, where there is one, in nats)."""

    metrics: dict[str, float]
    answers: list[Answer]


@dataclass(frozen=True)
class Evaluator:
    """Lets a model answer questions, and scores the answers.

    Args:
        runtime: the hardware that the model runs on.
        model: prepared for it.
        config: sizes and limits.
        unanswerable: whether "no answer" may be predicted.
    """

    runtime: Runtime
    model: torch.nn.Module
    config: EvaluationConfig
    unanswerable: bool

    def score(self, questions: Questions, batches: Batches) -> Evaluation:
        """Answer and score a whole set of questions; `batches` holds their examples."""
        predictions = predict(self.runtime, self.model, batches, self.config)
        answers = batches.answers(questions, predictions, self.config, self.unanswerable)
        loss = batches.mean_loss(predictions)
        return Evaluation(score(questions, answers) | ({} if loss is None else {"loss": loss}), answers)

    def answer(self, questions: Questions, batches: Batches) -> list[Answer]:
        """Answer questions that have `id` and `context`; `batches` holds their examples."""
        predictions = predict(self.runtime, self.model, batches, self.config)
        return batches.answers(questions, predictions, self.config, self.unanswerable)
