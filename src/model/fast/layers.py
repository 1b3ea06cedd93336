"""Linear layers, LoRA layers, normalisation, GELU and the gated feed-forward of decoders.

- All activations are in the precision of the run. Weights are cast to it once per step, not once per use; those under a
  LoRA adapter are only held in it.
- LoRA is one product with W + s B A, and thin products for the gradients of A and B. peft reads and writes every
  activation several times more.
- Outputs that are cheap to recompute from tensors that are kept anyway (GELU, SwiGLU, normalisation) are not kept for
  the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import ACT2FN, GELUActivation

from src.model.fast.recompute import Mark, Recompute, marked

SILU = (nn.SiLU, type(ACT2FN["silu"]))


class Cast:
    """Casts a parameter to another precision: a frozen one once, a trained one at each call, which is once per step.

    Whether a trained parameter has changed cannot be determined, since torch's fused optimizers do not increase the
    version of the tensors that they change. A decoder uses its weights for every token that it generates, so prediction
    declares that they do not change (`hold`).
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.held = False
        self.kept: Tensor | None = None

    def __call__(self, parameter: Tensor) -> Tensor:
        if parameter.dtype == self.dtype or (parameter.requires_grad and not self.held):
            return parameter.detach().to(self.dtype)
        if self.kept is None:
            with torch.inference_mode(False):  # otherwise a tensor cast in evaluation could not be used in training
                self.kept = parameter.detach().to(self.dtype)
        return self.kept

    def hold(self, parameter: Tensor, held: bool) -> None:
        """Declare that the parameter will not change, or that it may change again."""
        self.held = held
        if parameter.requires_grad:
            self.kept = None


def _input(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Recompute | None, Tensor]:
    """A layer's input in the precision of the products, the object that recomputes it (or None), and its source."""
    recompute, source = marked(x)
    x = x.to(dtype).contiguous()  # for a non-contiguous input, torch would copy the weights for each row
    return x, recompute, x if source is None else source


def _layer_input(ctx: Any, source: Tensor) -> Tensor:
    """The input of a layer in its backward pass, as a matrix."""
    x = source if ctx.recompute is None else ctx.recompute.materialise(source)
    return x.reshape(-1, x.shape[-1])


class _Linear(torch.autograd.Function):
    """x W^T + b, where `cast` is W in the precision of x."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        cast: Tensor,
        recompute: Recompute | None,
        source: Tensor,
    ) -> Tensor:
        if not weight.requires_grad:
            recompute = None
        elif recompute is not None:
            recompute.consumers += 1
        ctx.recompute = recompute
        ctx.save_for_backward(source if weight.requires_grad else None, cast)
        ctx.dtypes = weight.dtype, None if bias is None else bias.dtype
        return functional.linear(x, cast, None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        source, cast = ctx.saved_tensors
        g = gradients[0].to(cast.dtype)
        flat = g.reshape(-1, g.shape[-1])
        dx, dweight, dbias = ctx.needs_input_grad[:3]
        return (
            g @ cast if dx else None,
            (flat.t() @ _layer_input(ctx, source)).to(ctx.dtypes[0]) if dweight else None,
            flat.sum(0, dtype=ctx.dtypes[1]) if dbias else None,
            *[None] * 3,
        )


def linear(module: nn.Linear, cast: Cast, x: Tensor) -> Tensor:
    """Apply a linear layer to `x`, (..., inputs), in the precision of `cast`; the result is (..., outputs)."""
    x, *how = _input(x, cast.dtype)
    out: Tensor = _Linear.apply(x, module.weight, module.bias, cast(module.weight), *how)
    return out


def few_tokens(x: Tensor, weight: Tensor) -> bool:
    """Whether thin products of `x`, (..., inputs), with A and B are cheaper than computing W + s B A."""
    outputs, inputs = weight.shape
    return 2 * (x.numel() // inputs) * (inputs + outputs) < inputs * outputs


class _Lora(torch.autograd.Function):
    """x (W + s B A)^T + b, W frozen. Hu et al. 2022, equation 3."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        s: float,
        recompute: Recompute | None,
        source: Tensor,
    ) -> Tensor:
        a, b = a.to(w.dtype), b.to(w.dtype)
        if recompute is not None:
            recompute.consumers += 1
        ctx.recompute = recompute
        ctx.save_for_backward(source, w, a, b)
        ctx.s = s
        ctx.bias = None if bias is None else bias.dtype
        # Computing W + s B A takes a few percent of the product's time, even with only 384 tokens; it is not kept.
        return functional.linear(x, torch.addmm(w, b, a, alpha=s), None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        source, w, a, b = ctx.saved_tensors
        x = _layer_input(ctx, source)
        g = gradients[0].to(w.dtype)
        flat = g.reshape(-1, g.shape[-1])
        da = ((flat @ b).t() @ x).float() * ctx.s
        db = (flat.t() @ (x @ a.t())).float() * ctx.s
        dx = g @ torch.addmm(w, b, a, alpha=ctx.s) if ctx.needs_input_grad[0] else None
        dbias = flat.sum(0, dtype=ctx.bias) if ctx.needs_input_grad[2] else None
        return dx, None, dbias, da, db, *[None] * 3


def is_plain_lora(module: LoraLinear) -> bool:
    """Whether peft would compute just W x + s B A x; peft itself computes DoRA, dropout on the adapter and the like."""
    names = list(module.lora_A)
    return (
        len(names) == 1
        and type(module.base_layer) is nn.Linear
        and not module.base_layer.weight.requires_grad
        and names[0] not in module.lora_variant
        and isinstance(module.lora_dropout[names[0]], nn.Identity)
        and module.lora_B[names[0]].bias is None
    )


def lora(module: Any, dtype: torch.dtype, x: Tensor, *arguments: Any, **more: Any) -> Tensor:
    """Apply a LoRA layer to `x`, (..., inputs), in `dtype`; peft computes it if the adapter is disabled or merged."""
    [name] = module.lora_A
    base = module.base_layer
    if arguments or more or module.disable_adapters or module.merged or name not in module.active_adapters:
        plain: Tensor = type(module).forward(module, x.to(dtype), *arguments, **more)
        return plain
    a, b = module.lora_A[name].weight, module.lora_B[name].weight
    x, *how = _input(x, dtype)
    if not torch.is_grad_enabled() and few_tokens(x, base.weight):
        thin = functional.linear(functional.linear(x, a.to(dtype)), b.to(dtype))
        bias = None if base.bias is None else base.bias.to(dtype)
        return functional.linear(x, base.weight, bias).add_(thin, alpha=module.scaling[name])
    out: Tensor = _Lora.apply(x, base.weight, base.bias, a, b, module.scaling[name], *how)
    return out


def layer_norm(module: nn.LayerNorm, dtype: torch.dtype, mark: Mark, x: Tensor) -> Tensor:
    """Normalise `x`, in `dtype`; the layers that use the result recompute it."""

    def normalise(x: Tensor) -> Tensor:
        return functional.layer_norm(x, module.normalized_shape, module.weight, module.bias, module.eps)

    x = x.to(dtype)
    return mark(normalise(x), torch.no_grad()(normalise), x)


class _RmsNorm(torch.autograd.Function):
    """x / sqrt(mean(x^2) + eps) * w in fp32, returned in another precision. Zhang & Sennrich 2019, equation 4.

    Only x is kept for the backward pass; as separate operations it would be kept three times.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return _rms_normalised(x, weight, eps, dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        g, wide = gradients[0].float(), x.float()
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + ctx.eps)
        normalised = wide * scale
        dweight = (g * normalised).flatten(0, -2).sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None
        if not ctx.needs_input_grad[0]:
            return None, dweight, None, None
        g = g * weight
        dx = (g - normalised * (g * normalised).mean(-1, keepdim=True)) * scale
        return dx.to(x.dtype), dweight, None, None


def _rms_normalised(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    return functional.rms_norm(x.float(), weight.shape, weight.float(), eps).to(dtype)


def rms_norm(module: Any, dtype: torch.dtype, mark: Mark, x: Tensor) -> Tensor:
    """Divide `x` by its root mean square, in `dtype`; the layers that use the result recompute it."""
    weight, eps = module.weight, module.variance_epsilon
    out: Tensor = _RmsNorm.apply(x, weight, eps, dtype)
    return mark(out, lambda source: _rms_normalised(source, weight.detach(), eps, dtype), x)


def is_rms_norm(module: nn.Module) -> bool:
    """Whether `module` normalises like Llama; Gemma's norm, which adds 1 to its weight, calls its epsilon `eps`."""
    return type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon")


class _SwiGlu(torch.autograd.Function):
    """silu(gate) * up: Shazeer 2020, equation 6, without the matrices."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return functional.silu(gate) * up

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        gate, up = ctx.saved_tensors
        g = gradients[0]
        return torch.ops.aten.silu_backward(g * up, gate), g * functional.silu(gate)


def swiglu(module: Any, mark: Mark, x: Tensor) -> Tensor:
    """Apply a gated feed-forward layer to `x`; its last linear layer recomputes its input."""
    gate, up = module.gate_proj(x), module.up_proj(x)
    out: Tensor = _SwiGlu.apply(gate, up)
    kept = up.detach()
    down: Tensor = module.down_proj(mark(out, lambda source: functional.silu(source) * kept, gate))
    return down


def is_swiglu(module: nn.Module) -> bool:
    """Whether `module` computes down(silu(gate(x)) * up(x)) and nothing else."""
    parts = dict(module.named_children())
    return parts.keys() == {"gate_proj", "up_proj", "down_proj", "act_fn"} and type(parts["act_fn"]) in SILU


def gelu(module: nn.Module, mark: Mark, x: Tensor) -> Tensor:
    """The exact GELU of `x`; the layers that use it recompute it."""
    return mark(functional.gelu(x), functional.gelu, x)


def is_exact_gelu(module: nn.Module) -> bool:
    """Whether `module` computes GELU with the error function, not with the tanh approximation."""
    if isinstance(module, nn.GELU):
        return module.approximate == "none"
    return isinstance(module, GELUActivation) and module.act is functional.gelu
