"""Generative question answering as a task."""

from __future__ import annotations

from typing import Any

from transformers import AutoModelForCausalLM

from src.config import Config, UserError
from src.tasks.base import Batches


class Generative:
    """A `src.tasks.base.Task`."""

    auto_model = AutoModelForCausalLM

    def batches(self, questions: Any, tokenizer: Any, config: Config, training: bool) -> tuple[Batches, list[str]]:
        raise UserError(f"model.task={config.model.task} cannot be trained yet.")


TASK = Generative()
