"""Extractive question answering as a task."""

from __future__ import annotations

from typing import Any

from transformers import AutoModelForQuestionAnswering

from src.config import Config
from src.tasks.base import CPU_MICRO_BATCH_TOKENS
from src.tasks.extractive.batches import SpanBatches


class Extractive:
    """A `src.tasks.base.Task`."""

    auto_model = AutoModelForQuestionAnswering
    cpu_tokens = CPU_MICRO_BATCH_TOKENS

    def batches(self, questions: Any, tokenizer: Any, config: Config, training: bool) -> tuple[SpanBatches, list[str]]:
        from src.tasks.extractive.windows import (  # needs datasets, which a model does not
            labelled_windows,
            make_windows,
        )

        windows, notes = make_windows(questions, tokenizer, config.model, config.dataset.answer)
        windows = labelled_windows(windows) if training else windows
        return SpanBatches(windows, tokenizer.pad_token_id, config.model.max_length), notes


TASK = Extractive()
