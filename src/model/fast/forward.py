"""Replaces the `forward` of a module, and restores that of its class."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn


class _Replacement(partial[Any]):
    """A `forward` that replaces that of the class."""


def replace_forward(module: nn.Module, new: Callable[..., Any], *first: Any) -> None:
    """Let `new(module, *first, ...)` compute `module`, in place of the `forward` of its class.

    It replaces that of an earlier call. `new` can call the original as `type(module).forward(module, ...)`.
    """
    module.forward = _Replacement(new, module, *first)


def restore_forward(module: nn.Module) -> None:
    """Restore the `forward` of a module's class, if `replace_forward` has replaced it."""
    if isinstance(vars(module).get("forward"), _Replacement):
        del module.forward
