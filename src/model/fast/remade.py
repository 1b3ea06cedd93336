"""Outputs that are made again in the backward pass instead of being kept for it.

A GELU or a layer normalisation marks its output with what makes it again; the linear layers that take this output keep
what it is made from, which autograd keeps anyway, and not the output.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Mark = Callable[[Tensor, Callable[[Tensor], Tensor], Tensor], Tensor]


class Remade:
    """What makes a tensor again in the backward pass, once for all the layers that take it there."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function
        self.takers = 0
        self.value: Tensor | None = None

    def take(self, source: Tensor) -> Tensor:
        """The tensor, made from `source`; it is let go when the last layer has taken it."""
        value = self.function(source) if self.value is None else self.value
        self.takers -= 1
        self.value = value if self.takers else None
        return value


def mark(out: Tensor, function: Callable[[Tensor], Tensor], source: Tensor) -> Tensor:
    """Say that `out` need not be kept: `function(source)` makes it again.

    An attribute of the tensor, since transformers' modules stand between the layers and hand on tensors alone; a table
    with tensors as weak keys would do the same with more code, and a tensor may outlive its Python object.
    """
    if out.requires_grad:  # then autograd keeps the source anyway, for the function's own gradient
        out.remade = Remade(function), source.detach()  # type: ignore[attr-defined]
    return out


def no_mark(out: Tensor, function: Callable[[Tensor], Tensor], source: Tensor) -> Tensor:
    """Leave `out` as it is; takes what `mark` takes."""
    return out


def marked(x: Tensor) -> tuple[Remade | None, Tensor | None]:
    """What `mark` said of `x`: what makes it again, and from what; None for both where it said nothing."""
    remade: tuple[Remade | None, Tensor | None] = getattr(x, "remade", (None, None))
    return remade
