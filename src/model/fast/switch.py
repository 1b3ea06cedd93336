"""Chooses the modules of a model that are computed fast: `speed_up`, and `plain` to undo it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from torch import nn

from src.model.fast import layers, packing
from src.model.fast.attention import BATCHED_MATMUL
from src.model.fast.dropout import DropoutMasks, dropout
from src.model.fast.forward import replace_forward, restore_forward
from src.model.fast.recompute import Mark, mark, no_mark
from src.model.quantize import is_packed


@dataclass(frozen=True)
class _Before:
    """The state that `speed_up` changes in addition to `forward`: attention, and the precision of frozen weights."""

    attention: str
    precisions: list[tuple[nn.Parameter, torch.dtype]]


def speed_up(model: nn.Module, dtype: torch.dtype, device: str = "cpu") -> None:
    """Give the modules of `model` their fast `forward`, in place; call it after the method has been applied.

    On a GPU only LoRA is replaced, and windows are packed if the architecture allows it, since the rest is fast there.
    It begins with `plain`, so that a second call has no further effect.

    Args:
        model: on the CPU, and not yet prepared by accelerate; a `peft.PeftModel` or a plain model.
        dtype: of the products, and on a CPU of all activations; trained parameters and their gradients stay in fp32.
        device: "cpu" or "cuda", on which the model will run.
    """
    plain(model)
    base = _base(model)
    on_cpu = device == "cpu"
    attention = base.config._attn_implementation
    if not on_cpu and packing.has_kernel(dtype) and packing.can_pack(base):
        packing.pack(base)
    elif on_cpu and base._supports_sdpa:
        base.set_attn_implementation(BATCHED_MATMUL)
    precisions = _shrink_frozen(base, dtype) if isinstance(model, PeftModel) else []
    base.before_speed_up = _Before(attention, precisions)  # stored on the model, so that it is part of copies
    masks = DropoutMasks()
    # A layer under gradient checkpointing gets its input back without our mark, and keeps nothing anyway.
    remember = no_mark if base.is_gradient_checkpointing else mark
    for module in list(base.modules()):
        if on_cpu or isinstance(module, LoraLinear):
            fast = _fast_forward(module, dtype, masks, remember)
            if fast is not None:
                replace_forward(module, *fast)


def plain(model: nn.Module) -> None:
    """Undo `speed_up`, in place: restore the `forward` of all modules and the attention of the model.

    `bypass_encoder` is undone as well. A model that was never sped up stays as it is.

    Frozen weights under LoRA, which `speed_up` may have rounded to 16 bits, are cast back, so that peft computes with
    them as before. The bits that were lost in rounding are not restored.
    """
    for module in model.modules():
        restore_forward(module)
        vars(module).pop("weight_cast", None)
    plain_attention(model)
    base = _base(model)
    before = vars(base).pop("before_speed_up", None)
    for parameter, precision in before.precisions if before else []:
        parameter.data = parameter.data.to(precision)


def plain_attention(model: nn.Module) -> None:
    """Restore the attention that `model` had before `speed_up`, in place; everything else stays fast.

    The model then accepts any batch. Packed attention needs the windows' lengths, which only training and prediction
    pass.
    """
    base = _base(model)
    before = vars(base).get("before_speed_up")
    if before and base.config._attn_implementation != before.attention:
        base.set_attn_implementation(before.attention)


def _base(model: nn.Module) -> Any:
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _fast_forward(module: Any, dtype: torch.dtype, masks: DropoutMasks, remember: Mark) -> tuple[Any, ...] | None:
    """The arguments of `replace_forward` after the module; None if the module keeps the `forward` of its class."""
    if isinstance(module, LoraLinear):
        fused = layers.is_plain_lora(module) and module.base_layer.weight.dtype == dtype
        return (layers.lora, dtype) if fused else None
    if type(module) is nn.Linear:
        cast: Any = layers.Cast(dtype)
        module.weight_cast = cast
        return layers.linear, cast
    if type(module) is nn.LayerNorm and module.elementwise_affine:
        return layers.layer_norm, dtype, remember
    if layers.is_rms_norm(module):
        return layers.rms_norm, dtype, remember
    if layers.is_swiglu(module):
        return layers.swiglu, remember
    if layers.is_exact_gelu(module):
        return layers.gelu, remember
    if type(module) is nn.Dropout and module.p:
        return dropout, masks
    return None


def _shrink_frozen(model: Any, dtype: torch.dtype) -> list[tuple[nn.Parameter, torch.dtype]]:
    """Cast the frozen weights that are only used in `dtype`; no checkpoint of peft contains them.

    These are the matrices under LoRA, the embeddings, and the output matrix of a decoder. A tied output matrix stays
    tied. Weights in 4 bits stay as they are.

    Returns:
        The weights whose precision changed, each with its previous precision.
    """
    shrunk = []
    output = model.get_output_embeddings()
    outside = [output] if type(output) is nn.Linear else []
    module: Any
    for module in [*model.base_model.modules(), *outside]:
        fused = isinstance(module, LoraLinear) and layers.is_plain_lora(module)
        for name, parameter in (module.base_layer if fused else module).named_parameters(recurse=False):
            if not parameter.requires_grad and not is_packed(parameter):
                matrix = name == "weight" and (fused or module is output or isinstance(module, nn.Embedding))
                if matrix and parameter.dtype != dtype:
                    shrunk.append((parameter, parameter.dtype))
                # Weights that stay as they are are copied too, so that the mapped file of the weights can be released.
                parameter.data = parameter.data.to(dtype if matrix else parameter.dtype, copy=True)
    return shrunk
