"""An encoder whose output was computed beforehand (`src.tasks.extractive.encoded`) hands it on."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from src.model.fast.forward import replace_forward


def take_encoded(model: PreTrainedModel) -> None:
    """Let the encoder hand on, as its output, what comes as `inputs_embeds`; tokens it encodes as before."""
    replace_forward(model.base_model, _forward)


def _forward(encoder: Any, *arguments: Any, inputs_embeds: Any = None, **more: Any) -> Any:
    if inputs_embeds is None:
        return type(encoder).forward(encoder, *arguments, **more)
    return BaseModelOutput(last_hidden_state=inputs_embeds)
