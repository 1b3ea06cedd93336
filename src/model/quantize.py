"""Quantises a base to 4 bits: NF4 with double quantisation by bitsandbytes, as in QLoRA (Dettmers et al. 2023).

The weights are read in fp32, as for every other method, and packed layer by layer. Any folder, package or random model
can therefore be quantised, its hash is checked as usual, and no library has to support the architecture. In return, a
model takes its fp32 size in host memory while it is loaded. Only linear layers of the backbone are packed; embeddings,
norms, the output matrix of a decoder and the question-answering head of an encoder stay as they are.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from src.config import UserError


def hold_in_4_bits(model: PreTrainedModel) -> None:
    """Pack the linear layers of the backbone in place, which freezes them.

    Args:
        model: as it was loaded, on the CPU.

    Raises:
        UserError: bitsandbytes is not installed, or the model has no such layers.
    """
    layers = packable(model)
    if not layers:
        raise UserError(
            f"method.quantize=nf4: {type(model).__name__} has no torch.nn.Linear layer in its backbone that "
            "bitsandbytes could hold in 4 bits; choose method=lora."
        )
    for name, layer in layers.items():
        model.set_submodule(name, _packed(layer))
    vars(model)["is_loaded_in_4bit"] = True  # tells peft to use adapters for such layers


def packable(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """The layers that `hold_in_4_bits` packs, by name: those of the backbone, without a decoder's output matrix."""
    prefix = f"{model.base_model_prefix}."
    output = model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if type(module) is nn.Linear and name.startswith(prefix) and module is not output
    }


def _packed(layer: nn.Linear) -> Any:
    bitsandbytes = _bitsandbytes()
    packed: Any = bitsandbytes.Linear4bit(
        layer.in_features, layer.out_features, bias=False, quant_type="nf4", compress_statistics=True, device="meta"
    )
    packed.weight = bitsandbytes.Params4bit(
        layer.weight.data, quant_type="nf4", compress_statistics=True, module=packed
    ).to("cpu")
    if layer.bias is not None:
        packed.bias = nn.Parameter(layer.bias.data, requires_grad=False)
    # On CPUs with AVX-512 bf16, the first prediction would repack the weights for good, without support for gradients.
    packed.support_avx512bf16_for_cpu = False
    packed.train(layer.training)
    return packed


def compute_in(model: nn.Module, dtype: torch.dtype) -> None:
    """Let packed layers compute in `dtype`, in place, whatever the type of their inputs."""
    for module in model.modules():
        if is_packed(getattr(module, "weight", None)):
            layer: Any = module
            layer.compute_dtype, layer.compute_type_is_set = dtype, True
            layer.weight.quant_state.dtype = dtype  # the type into which the backward pass unpacks


def is_packed(parameter: Any) -> bool:
    """Whether a parameter is packed, with two weights in each byte."""
    return getattr(parameter, "quant_state", None) is not None


def numel(parameter: nn.Parameter) -> int:
    """The number of weights in a parameter; for a packed one, before packing."""
    packed: Any = parameter
    return math.prod(packed.quant_state.shape) if is_packed(parameter) else parameter.numel()


def _bitsandbytes() -> Any:
    try:
        from bitsandbytes import nn as layers
    except ImportError as error:
        raise UserError(
            f"method.quantize=nf4 needs bitsandbytes, which cannot be imported here ({error}): "
            "pip install -e '.[qlora]'."
        ) from error
    return layers
