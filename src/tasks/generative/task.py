"""Generative question answering as a task."""

from __future__ import annotations

from typing import Any

from transformers import AutoModelForCausalLM

from src.config import Config
from src.tasks.generative.answers import NO_ANSWER
from src.tasks.generative.batches import PromptBatches
from src.tasks.generative.decode import Stops


class Generative:
    """A `src.tasks.base.Task`."""

    auto_model = AutoModelForCausalLM
    cpu_tokens = 512  # a decoder keeps several times as much of each token for the backward pass as a small encoder

    def batches(
        self, questions: Any, tokenizer: Any, config: Config, training: bool
    ) -> tuple[PromptBatches, list[str]]:
        # It needs datasets, which a model does not.
        from src.tasks.generative.prompts import Writer, labelled_prompts, make_prompts

        writer = Writer(tokenizer, config)
        prompts, notes = make_prompts(questions, writer)
        prompts = labelled_prompts(prompts) if training else prompts
        null_answer = writer.answer(NO_ANSWER) if config.dataset.unanswerable else None
        return PromptBatches(prompts, Stops(tokenizer), null_answer), notes


TASK = Generative()
