"""Lets hidden states that were computed in advance (`src.tasks.extractive.cached`) bypass the encoder."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from src.model.fast.forward import replace_forward


def bypass_encoder(model: PreTrainedModel) -> None:
    """Make the encoder return `inputs_embeds` as its output, in place; tokens are still encoded."""
    replace_forward(model.base_model, _forward)


def _forward(encoder: Any, *arguments: Any, inputs_embeds: Any = None, **more: Any) -> Any:
    if inputs_embeds is None:
        return type(encoder).forward(encoder, *arguments, **more)
    return BaseModelOutput(last_hidden_state=inputs_embeds)
