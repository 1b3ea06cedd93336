"""Outputs that the backward pass recomputes, so that the forward pass need not keep them.

A GELU or a layer normalisation marks its output with a function that recomputes it. The linear layers that use this
output keep the input of the function, which autograd keeps anyway, instead of the output.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Mark = Callable[[Tensor, Callable[[Tensor], Tensor], Tensor], Tensor]


class Recompute:
    """Recomputes a tensor in the backward pass, once for all the layers that used it."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function
        self.consumers = 0
        self.value: Tensor | None = None

    def materialise(self, source: Tensor) -> Tensor:
        """Compute the tensor from `source`; it is freed after its last consumer has used it."""
        value = self.function(source) if self.value is None else self.value
        self.consumers -= 1
        self.value = value if self.consumers else None
        return value


def mark(out: Tensor, function: Callable[[Tensor], Tensor], source: Tensor) -> Tensor:
    """Mark `out` as a tensor that need not be kept, since `function(source)` recomputes it.

    The mark is an attribute of the tensor, because the modules of transformers between the layers only pass tensors. A
    table with tensors as weak keys would need more code, and a tensor may outlive its Python object.
    """
    if out.requires_grad:  # autograd then keeps the source anyway, for the gradient of the function
        out.recompute = Recompute(function), source.detach()  # type: ignore[attr-defined]
    return out


def no_mark(out: Tensor, function: Callable[[Tensor], Tensor], source: Tensor) -> Tensor:
    """Return `out` unmarked; the arguments are those of `mark`."""
    return out


def marked(x: Tensor) -> tuple[Recompute | None, Tensor | None]:
    """The mark of `x`: the object that recomputes it, and its source; both are None without a mark."""
    pair: tuple[Recompute | None, Tensor | None] = getattr(x, "recompute", (None, None))
    return pair
