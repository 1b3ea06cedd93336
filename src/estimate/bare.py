"""Builds a model without weights, from its configuration on torch's meta device, and applies a method to it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from src.config import Config, MethodConfig
from src.model import backbone, method
from src.model.method import ParameterCounts


@dataclass(frozen=True)
class Bare:
    """A model on the meta device: its parameters have shapes and take no memory."""

    model: nn.Module  # `base`, or the peft model around it
    base: PreTrainedModel
    counts: ParameterCounts
    generates: bool  # whether it generates answers token by token

    @property
    def trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]


def build(config: Config) -> Bare:
    """Build the model of a run and apply its method; only a local `config.json` is read.

    Raises:
        UserError: the architecture is not known on this machine, or the method does not fit it.
    """
    with torch.device("meta"):
        base = backbone.shape_only(config.model, config.train.hidden_dropout, config.train.attention_dropout)
        model = method.apply(base, _without_weights(config.method))
    if config.train.gradient_checkpointing:
        backbone.checkpoint_gradients(base)
    return Bare(model, base, method.count(model), config.model.task == "generative")


def _without_weights(config: MethodConfig) -> MethodConfig:
    """The method without the parts that read weights: its adapters get plain initial values, its base is not quantised.

    Adapters that start from the singular vectors of the base read its weights, and so does quantisation to 4 bits.
    """
    config = replace(config, quantize=None)
    if config.peft is None or not method.changes_base(config.peft):
        return config
    return replace(config, peft={**config.peft, "init_lora_weights": True})


def put_on_cpu(model: nn.Module) -> None:
    """Move each parameter and buffer to the CPU, in place; inside `FakeTensorMode` this takes no memory.

    Shared parameters stay shared.
    """
    made: dict[int, Any] = {}

    def put(tensor: torch.Tensor) -> Any:
        if id(tensor) not in made:
            zeros = torch.zeros(tensor.shape, dtype=tensor.dtype, device="cpu")
            trains = tensor.requires_grad
            made[id(tensor)] = nn.Parameter(zeros, trains) if isinstance(tensor, nn.Parameter) else zeros
        return made[id(tensor)]

    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = put(tensor)
