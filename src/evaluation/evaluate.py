"""A model and questions in, answers and figures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object

from src.config import EvaluationConfig
from src.data.batches import AnyBatches
from src.evaluation.score import score
from src.evaluation.spans import Answer, answer_questions, mean_loss
from src.training.hardware import Runtime
from src.training.step import logits, micro_batches

Questions = Sequence[Mapping[str, Any]]
Logits = tuple[list[np.ndarray], list[np.ndarray]]  # start and end, one array of shape (tokens of the window,) each


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

    def score(self, questions: Questions, batches: AnyBatches) -> Evaluation:
        """Answer and score a whole set of questions; `batches` are their windows."""
        outputs = predict(self.runtime, self.model, batches, self.config.batch_size)
        answers = self._answers(questions, batches, outputs)
        loss = mean_loss(batches.windows, *outputs)
        return Evaluation(score(questions, answers) | ({} if loss is None else {"loss": loss}), answers)

    def answer(self, questions: Questions, batches: AnyBatches) -> list[Answer]:
        """The answers to questions with `id` and `context`; `batches` are their windows."""
        return self._answers(questions, batches, predict(self.runtime, self.model, batches, self.config.batch_size))

    def _answers(self, questions: Questions, batches: AnyBatches, outputs: Logits) -> list[Answer]:
        return answer_questions(questions, batches.windows, *outputs, self.config, self.unanswerable)


@torch.inference_mode()
def predict(runtime: Runtime, model: torch.nn.Module, batches: AnyBatches, batch_size: int) -> Logits:
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
