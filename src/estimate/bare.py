"""A model without weights: built from its configuration on torch's meta device, with a method applied."""

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
    """A model on the meta device: every parameter has its shape and none has memory."""

    model: nn.Module  # `base`, or what peft has put around it
    base: PreTrainedModel
    counts: ParameterCounts
    generates: bool  # its answers, token by token

    @property
    def trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]


def build(config: Config) -> Bare:
    """Build the model of a run and apply its method; nothing is read but a local `config.json`.

    Raises:
        UserError: an architecture that is not known here, or that the method does not fit.
    """
    with torch.device("meta"):
        base = backbone.shape_only(config.model, config.train.hidden_dropout, config.train.attention_dropout)
        model = method.apply(base, _without_weights(config.method))
    if config.train.gradient_checkpointing:
        backbone.checkpoint_gradients(base)
    return Bare(model, base, method.count(model), config.model.task == "generative")


def _without_weights(config: MethodConfig) -> MethodConfig:
    """The method as far as it reads no weights: with plain initial ones, on a base that is not quantised.

    Adapters that begin with the base's singular vectors read its weights, and packing into 4 bits does too.
    """
    config = replace(config, quantize=None)
    if config.peft is None or not method.changes_base(config.peft):
        return config
    return replace(config, peft={**config.peft, "init_lora_weights": True})


def put_on_cpu(model: nn.Module) -> None:
    """Give each parameter and buffer memory on the CPU, in place; inside `FakeTensorMode` that takes none.

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
