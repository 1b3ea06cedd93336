"""Counts the bytes of all live tensors and their peak, for a computation without data.

Under torch's `FakeTensorMode` tensors have shapes and no memory, and every operation, including those of autograd and
of the optimizer, returns tensors as it would with data. `Live` counts their storages from creation to release.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Live(TorchDispatchMode):
    """Counts the storages that are alive; enter it inside `FakeTensorMode`."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0  # now
        self.gradients = 0  # the part of them that the gradients given to `watch_gradients` take
        self.peak = 0
        self.gradients_at_peak = 0
        self.peak_without_gradients = 0  # the peak of all bytes but those of these gradients
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), more: Any = None) -> Any:
        out = function(*arguments, **(more or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.add(leaf)
        return out

    def add(self, tensor: torch.Tensor) -> None:
        """Count a tensor's storage, once."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known[key] = weakref.ref(storage, self._remover(key, size))
        self.bytes += size
        if self.bytes > self.peak:
            self.peak, self.gradients_at_peak = self.bytes, self.gradients
        self.peak_without_gradients = max(self.peak_without_gradients, self.bytes - self.gradients)

    def _remover(self, key: int, size: int) -> Callable[[Any], None]:
        def remove(_: Any) -> None:
            del self._known[key]
            self.bytes -= size

        return remove

    def watch_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Count the gradients of `parameters`: those that exist, and those that are made from now on."""
        for parameter in parameters:
            if parameter.grad is None:
                parameter.register_post_accumulate_grad_hook(self._made)
            else:
                self._made(parameter)

    def _made(self, parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        self.gradients += parameter.grad.nbytes
