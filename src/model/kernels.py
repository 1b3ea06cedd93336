"""The same model, computed faster: leaf modules get another `forward`; parameters and names stay.

transformers' models and peft's layers stay what they are, so that every architecture, method and stored file stays
plain. What changes is how a linear layer, a LoRA layer, a normalisation, an activation or a dropout is computed:

- Everything between the layers is in the precision of the run. Weights are cast to it once a step, not once a use;
  those under a LoRA adapter are held in it alone.
- LoRA is one product with W + s B A, and thin products for the gradients of A and B. peft reads and writes every
  activation several times more.
- What is cheap to make again from what is kept anyway (GELU, layer normalisation) is not kept for the backward pass.
- Dropout reads its factors at a random place of a large buffer, since torch draws them one after the other, on one
  core, which takes longer than the products around it.

All of it is exact but for rounding: with fp32 the gradients are those of the plain modules.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import GELUActivation

from src.model import packing
from src.model.attention import PRODUCTS

BUFFER = 1 << 22  # factors of dropout that are drawn at least


Mark = Callable[[Tensor, Callable[[Tensor], Tensor], Tensor], Tensor]


def speed_up(model: nn.Module, dtype: torch.dtype, device: str = "cpu") -> None:
    """Give the modules of `model` their fast `forward`, in place; call it when the method has been applied.

    On a GPU that is LoRA, and windows packed without padding where the architecture allows it: the rest is fast there.

    Args:
        model: still on the CPU; a `peft.PeftModel` or a plain one.
        dtype: of the products, and on a CPU of everything between them; what trains, and its gradients, stay in fp32.
        device: "cpu" or "cuda", where it will run.
    """
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    on_cpu = device == "cpu"
    if not on_cpu and packing.has_kernel(dtype) and packing.can_pack(base):
        packing.pack(base)
    elif on_cpu and base._supports_sdpa:
        base.set_attn_implementation(PRODUCTS)
    if isinstance(model, PeftModel):
        _shrink_frozen(base, dtype)
    factors = Factors()
    # A checkpointed layer gets its input back without our mark on it, and keeps nothing between layers anyway.
    mark = _no_mark if base.is_gradient_checkpointing else _mark
    for module in list(base.modules()):
        if on_cpu or isinstance(module, LoraLinear):
            forward = _fast_forward(module, dtype, factors, mark)
            if forward is not None:
                module.forward = forward


def _fast_forward(module: Any, dtype: torch.dtype, factors: Factors, mark: Mark) -> Callable[..., Tensor] | None:
    if isinstance(module, LoraLinear):
        fused = _is_plain_lora(module) and module.base_layer.weight.dtype == dtype
        return partial(_lora, module, dtype) if fused else None
    if type(module) is nn.Linear:
        return partial(_linear, module, Cast(dtype))
    if type(module) is nn.LayerNorm and module.elementwise_affine:
        return partial(_layer_norm, module, dtype, mark)
    if isinstance(module, nn.GELU | GELUActivation) and _is_exact(module):
        return partial(_gelu, mark)
    if type(module) is nn.Dropout and module.p:
        return partial(_dropout, module, factors)
    return None


def _shrink_frozen(model: Any, dtype: torch.dtype) -> None:
    """Hold in `dtype` alone the frozen weights that are only read in it: no peft checkpoint has them."""
    module: Any
    for module in model.base_model.modules():
        fused = isinstance(module, LoraLinear) and _is_plain_lora(module)
        for name, parameter in (module.base_layer if fused else module).named_parameters(recurse=False):
            if not parameter.requires_grad:
                matrix = name == "weight" and (fused or isinstance(module, nn.Embedding))
                # What stays as it is gets memory of its own, so that the file of the weights is not held in memory.
                parameter.data = parameter.data.to(dtype if matrix else parameter.dtype, copy=True)


class Cast:
    """A parameter in another precision: a frozen one is cast once, a trained one each time.

    Each time is once a step. Whether it has changed since cannot be known: torch's fused optimizers do not raise the
    version of what they change.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.frozen: Tensor | None = None

    def __call__(self, parameter: Tensor) -> Tensor:
        if parameter.dtype == self.dtype or parameter.requires_grad:
            return parameter.detach().to(self.dtype)
        if self.frozen is None:
            with torch.inference_mode(False):  # or what evaluation has cast could not be trained with
                self.frozen = parameter.detach().to(self.dtype)
        return self.frozen


class Remade:
    """What makes a tensor again in the backward pass, once for all the layers that take it there."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function
        self.takers = 0
        self.value: Tensor | None = None

    def take(self, source: Tensor) -> Tensor:
        value = self.function(source) if self.value is None else self.value
        self.takers -= 1
        self.value = value if self.takers else None
        return value


def _mark(out: Tensor, function: Callable[[Tensor], Tensor], source: Tensor) -> Tensor:
    """Say that `out` need not be kept: `function(source)` makes it again."""
    if out.requires_grad:  # then autograd keeps the source anyway, for the function's own gradient
        out.remade = Remade(function), source.detach()  # type: ignore[attr-defined]
    return out


def _no_mark(out: Tensor, function: Callable[[Tensor], Tensor], source: Tensor) -> Tensor:
    return out


def _input(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Remade | None, Tensor]:
    """A layer's input in the precision of the products; what makes it again, if anything does; and from what."""
    remade, source = getattr(x, "remade", (None, None))
    x = x.to(dtype)
    return x, remade, x if source is None else source


def _taken(ctx: Any, source: Tensor) -> Tensor:
    """The input of a layer in its backward pass, two-dimensional."""
    x = source if ctx.remade is None else ctx.remade.take(source)
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
        remade: Remade | None,
        source: Tensor,
    ) -> Tensor:
        if not weight.requires_grad:
            remade = None
        elif remade is not None:
            remade.takers += 1
        ctx.remade = remade
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
            (flat.t() @ _taken(ctx, source)).to(ctx.dtypes[0]) if dweight else None,
            flat.sum(0, dtype=ctx.dtypes[1]) if dbias else None,
            *[None] * 3,
        )


def _linear(module: nn.Linear, cast: Cast, x: Tensor) -> Tensor:
    x, *how = _input(x, cast.dtype)
    out: Tensor = _Linear.apply(x, module.weight, module.bias, cast(module.weight), *how)
    return out


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
        remade: Remade | None,
        source: Tensor,
    ) -> Tensor:
        a, b = a.to(w.dtype), b.to(w.dtype)
        if remade is not None:
            remade.takers += 1
        ctx.remade = remade
        ctx.save_for_backward(source, w, a, b)
        ctx.s = s
        ctx.bias = None if bias is None else bias.dtype
        # W + s B A takes some percent of the product's time, with as few as 384 tokens; it is not kept.
        return functional.linear(x, torch.addmm(w, b, a, alpha=s), None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        source, w, a, b = ctx.saved_tensors
        x = _taken(ctx, source)
        g = gradients[0].to(w.dtype)
        flat = g.reshape(-1, g.shape[-1])
        da = ((flat @ b).t() @ x).float() * ctx.s
        db = (flat.t() @ (x @ a.t())).float() * ctx.s
        dx = g @ torch.addmm(w, b, a, alpha=ctx.s) if ctx.needs_input_grad[0] else None
        dbias = flat.sum(0, dtype=ctx.bias) if ctx.needs_input_grad[2] else None
        return dx, None, dbias, da, db, *[None] * 3


def _is_plain_lora(module: LoraLinear) -> bool:
    """Whether peft would compute W x + s B A x and nothing else; DoRA, dropout on the adapter and such are peft's."""
    names = list(module.lora_A)
    return (
        len(names) == 1
        and type(module.base_layer) is nn.Linear
        and not module.base_layer.weight.requires_grad
        and names[0] not in module.lora_variant
        and isinstance(module.lora_dropout[names[0]], nn.Identity)
        and module.lora_B[names[0]].bias is None
    )


def _lora(module: Any, dtype: torch.dtype, x: Tensor, *arguments: Any, **more: Any) -> Tensor:
    [name] = module.lora_A
    base = module.base_layer
    if arguments or more or module.disable_adapters or module.merged or name not in module.active_adapters:
        plain: Tensor = type(module).forward(module, x.to(dtype), *arguments, **more)
        return plain
    a, b = module.lora_A[name].weight, module.lora_B[name].weight
    x, *how = _input(x, dtype)
    out: Tensor = _Lora.apply(x, base.weight, base.bias, a, b, module.scaling[name], *how)
    return out


def _layer_norm(module: nn.LayerNorm, dtype: torch.dtype, mark: Mark, x: Tensor) -> Tensor:
    def normalise(x: Tensor) -> Tensor:
        return functional.layer_norm(x, module.normalized_shape, module.weight, module.bias, module.eps)

    x = x.to(dtype)
    return mark(normalise(x), torch.no_grad()(normalise), x)


def _gelu(mark: Mark, x: Tensor) -> Tensor:
    return mark(functional.gelu(x), functional.gelu, x)


def _is_exact(module: Any) -> bool:
    return module.approximate == "none" if isinstance(module, nn.GELU) else module.act is functional.gelu


class Factors:
    """What dropout multiplies with: 0 with probability p, else 1 / (1 - p), drawn beforehand.

    In bf16 1 / (1 - p) lies between two numbers; both are used, as often as makes the mean 1 exactly.
    """

    def __init__(self) -> None:
        self.drawn: dict[tuple[float, torch.dtype], Tensor] = {}

    def take(self, like: Tensor, p: float) -> Tensor:
        """Factors in the shape and precision of `like`, from a place that torch's generator names."""
        count = like.numel()
        # The place depends on this size alone and not on what was taken before, which a resumed run does not know. A
        # longer buffer begins with the shorter one.
        length = max(BUFFER, 1 << (2 * count - 1).bit_length())
        buffer = self.drawn.get((p, like.dtype))
        if buffer is None or len(buffer) < length:
            buffer = self.drawn[p, like.dtype] = draw(length, p, like.dtype)
        start = int(torch.randint(length - count, ()))
        return buffer[start : start + count].view_as(like)


def draw(count: int, p: float, dtype: torch.dtype) -> Tensor:
    """`count` independent factors of dropout with probability p, the first of always the same row; see `Factors`."""
    generator = torch.Generator().manual_seed(0x6C6F7261)
    uniform = torch.rand(count, generator=generator)
    exact = 1 / (1 - p)
    below = torch.tensor(exact, dtype=dtype)
    if below > exact:
        below = torch.nextafter(below, torch.zeros((), dtype=dtype))
    above = torch.nextafter(below, torch.full((), torch.inf, dtype=dtype))
    share_above = (exact - below.item()) / (above.item() - below.item())
    kept = torch.where(uniform < p + (1 - p) * share_above, above, below)
    return torch.where(uniform < p, torch.zeros((), dtype=dtype), kept)


def _dropout(module: nn.Dropout, factors: Factors, x: Tensor) -> Tensor:
    return x * factors.take(x, module.p) if module.training else x
