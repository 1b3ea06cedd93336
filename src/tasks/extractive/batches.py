"""Batches of windows: their loss in training, and their logits in prediction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from src.config import EvaluationConfig
from src.tasks.base import Answer, Batches, Questions, known_inputs, padded, unwrapped
from src.tasks.extractive.spans import answer_questions, mean_loss

LABELS = ("start_positions", "end_positions")
PACKED = "packed"  # the attention of models that pack their windows (`src.model.fast.packing`)

Logits = tuple[np.ndarray, np.ndarray]  # start and end, each of shape (tokens of the window,)


class SpanBatches(Batches):
    """The windows of one data set.

    Args:
        windows: in WINDOW_SCHEMA, numpy format.
        pad_token_id: fills `input_ids`.
        max_length: tokens; no batch is padded beyond it.
    """

    def __init__(self, windows: Any, pad_token_id: int, max_length: int) -> None:
        self.windows = windows
        self.lengths = np.asarray(windows["length"][:])
        self.terms = np.ones_like(self.lengths)
        self.questions = np.asarray(windows["question"][:])
        self.pad_token_id = pad_token_id
        self.max_length = max_length

    @property
    def highest_token(self) -> int:
        from src.tasks.examples import highest_token  # needs datasets, which training does not

        return max(self.pad_token_id, highest_token(self.windows, "input_ids"))

    def collate(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """Pad some windows into one batch.

        Returns:
            `input_ids`, `attention_mask` and, where the model knows them, `token_type_ids`, each of shape
            (rows, tokens); `start_positions`, `end_positions` of shape (rows,). All int64.
        """
        chosen = self.windows[list(rows)]
        shape = (len(rows), min(padded(max(chosen["length"])), self.max_length))
        input_ids = np.full(shape, self.pad_token_id, dtype=np.int64)
        attention_mask = np.zeros(shape, dtype=np.int64)
        token_type_ids = np.zeros(shape, dtype=np.int64)
        for i, (tokens, types) in enumerate(zip(chosen["input_ids"], chosen["token_type_ids"], strict=True)):
            input_ids[i, : len(tokens)] = tokens
            attention_mask[i, : len(tokens)] = 1
            token_type_ids[i, : len(types)] = types
        batch = {"input_ids": input_ids, "attention_mask": attention_mask}
        if len(chosen["token_type_ids"][0]):
            batch["token_type_ids"] = token_type_ids
        batch["start_positions"] = chosen["start"].astype(np.int64)
        batch["end_positions"] = chosen["end"].astype(np.int64)
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    def loss(self, model: Any, rows: Sequence[int], device: torch.device) -> torch.Tensor:
        """The mean of start and end cross entropy, summed over windows."""
        batch = {name: values.to(device) for name, values in self.collate(rows).items()}
        # Padding is excluded, or the loss would depend on the other windows of the batch.
        padding = batch["attention_mask"] == 0
        start, end = (
            cross_entropy(scores.float().masked_fill(padding, -math.inf), batch[name], reduction="sum")
            for scores, name in zip(logits(model, batch, self.lengths[list(rows)]), LABELS, strict=True)
        )
        return (start + end) / 2

    def predict(self, model: Any, rows: Sequence[int], device: torch.device, limits: EvaluationConfig) -> list[Logits]:
        """Start and end logits of some windows, in fp32."""
        batch = {name: values.to(device) for name, values in self.collate(rows).items()}
        lengths = self.lengths[list(rows)]
        start, end = (values.float().cpu().numpy() for values in logits(model, batch, lengths))
        return [(start[i, :length], end[i, :length]) for i, length in enumerate(lengths)]

    def answers(
        self, questions: Questions, predictions: Sequence[Logits], limits: EvaluationConfig, may_be_unanswerable: bool
    ) -> list[Answer]:
        return answer_questions(questions, self.windows, *_unzipped(predictions), limits, may_be_unanswerable)

    def mean_loss(self, predictions: Sequence[Logits]) -> float | None:
        return mean_loss(self.windows, *_unzipped(predictions))

    def select(self, rows: np.ndarray, questions: np.ndarray) -> SpanBatches:
        from src.tasks.examples import chosen  # needs datasets, which training does not

        return SpanBatches(chosen(self.windows, rows, questions), self.pad_token_id, self.max_length)


def _unzipped(predictions: Sequence[Logits]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    return [start for start, _ in predictions], [end for _, end in predictions]


def logits(
    model: torch.nn.Module, batch: dict[str, torch.Tensor], lengths: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute start and end logits of shape (windows, tokens); `lengths` holds the number of tokens of each window."""
    base = unwrapped(model)
    # A model that packs its windows gets their lengths from the host, which avoids a synchronisation with the device.
    more = {"lengths": lengths} if base.config._attn_implementation == PACKED else {}
    inputs = {name: values for name, values in batch.items() if name not in LABELS}
    outputs = model(**known_inputs(base, inputs), **more)
    return outputs.start_logits, outputs.end_logits
