"""Counts the memory of one optimizer step without data, tensor by tensor.

The model runs forward and backward under torch's `FakeTensorMode`, in which tensors have shapes and no memory, through
the same kernels, casts and checkpoints as in training. The activations that are kept for the backward pass are
therefore counted, for any architecture and method, and not estimated layer by layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cross_entropy

from src.estimate.bare import Bare, put_on_cpu
from src.estimate.live import Live
from src.model import fast
from src.model.fast.dropout import DropoutMasks, buffer_length, dropout
from src.model.fast.forward import replace_forward
from src.tasks.generative.batches import logits_at

ANSWER_TOKENS = 8  # of a window that a decoder learns from, including the end token; SQuAD's answers have 5 to 6


@dataclass(frozen=True)
class Work:
    """The input of a step, and the device and the kernels that compute it."""

    on_cpu: bool
    dtype: torch.dtype  # of the matrix products
    fast_kernels: bool
    windows: int  # of a micro-batch
    length: int  # tokens of a window, including padding
    accumulates: bool  # whether a step has several micro-batches, so that gradients exist during the forward pass


@dataclass(frozen=True)
class Footprint:
    """The bytes of a step at its peak."""

    weights: int  # including the copies of frozen weights that are kept in another precision
    gradients: int
    activations: int  # kept for the backward pass
    temporary: int  # all other tensors


def footprint(bare: Bare, work: Work) -> Footprint:
    """Count the memory of a forward and a backward pass; the model of `bare` cannot be used afterwards."""
    with FakeTensorMode():
        put_on_cpu(bare.model)
        _prepare(bare, work)
        with Live() as live:
            return _counted(bare, work, live)


def _prepare(bare: Bare, work: Work) -> None:
    """Give the modules the kernels and the precision that they have in training."""
    masks = _NotDrawn()
    if work.fast_kernels:
        fast.speed_up(bare.model, work.dtype, "cpu" if work.on_cpu else "cuda")
        if not work.on_cpu:  # packing would leave out padding, and there is none here
            fast.plain_attention(bare.model)
    if bare.generates and bare.model is not bare.base:  # the frozen weights of a decoder under adapters are in 16 bits
        for parameter in bare.model.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(work.dtype)
    for module in bare.model.modules():
        if type(module) is nn.Dropout and module.p:
            if not work.on_cpu:
                replace_forward(module, _gpu_dropout)
            elif work.fast_kernels:
                replace_forward(module, dropout, masks)
    bare.model.train()


class _NotDrawn(DropoutMasks):
    """Dropout masks that have a shape only."""

    def mask_like(self, like: Tensor, p: float) -> Tensor:
        key, length = (p, like.dtype), buffer_length(like.numel())
        if key not in self.drawn or len(self.drawn[key]) < length:
            self.drawn[key] = torch.empty(length, dtype=like.dtype)
        return self.drawn[key][: like.numel()].view_as(like)


def _gpu_dropout(module: nn.Dropout, x: Tensor) -> Tensor:
    """Dropout as a GPU computes it: it keeps a byte for each element, while a CPU keeps a factor."""
    out: Tensor = torch.native_dropout(x, module.p, True)[0]
    return out


def _counted(bare: Bare, work: Work, live: Live) -> Footprint:
    for tensor in (*bare.model.parameters(), *bare.model.buffers()):
        live.add(tensor)
    weights = live.bytes
    trained = bare.trained
    if work.accumulates:
        for parameter in trained:
            parameter.grad = torch.empty_like(parameter)
    live.watch_gradients(trained)
    waiting = live.gradients
    before = live.bytes
    loss = _loss(bare, work)
    kept = live.bytes - before
    loss.backward()
    del loss
    # Casts of frozen weights, and dropout masks, are kept from step to step.
    copies = live.bytes - weights - live.gradients
    # The allocator of a CPU keeps the memory that activations have released, and the gradients then reuse it.
    others = live.peak_without_gradients if work.on_cpu else live.peak - live.gradients_at_peak
    gradients = waiting if work.on_cpu else live.gradients_at_peak
    activations = min(kept, others - weights) - copies
    temporary = others - weights - copies - activations
    return Footprint(weights + copies, gradients, activations, temporary)


def _loss(bare: Bare, work: Work) -> Tensor:
    tokens = torch.zeros(work.windows, work.length, dtype=torch.long)
    autocast = torch.autocast("cpu", work.dtype, enabled=work.dtype != torch.float32)
    if bare.generates:
        columns = range(max(0, work.length - ANSWER_TOKENS), work.length)
        places = torch.tensor([(row, column) for row in range(work.windows) for column in columns])
        with autocast, logits_at(bare.model, places):
            logits = bare.model(input_ids=tokens, use_cache=False).logits
        return cross_entropy(logits.float(), torch.zeros(len(places), dtype=torch.long), reduction="sum")
    with autocast:
        outputs = bare.model(input_ids=tokens)
    label = torch.zeros(work.windows, dtype=torch.long)
    start, end = (
        cross_entropy(scores.float(), label, reduction="sum") for scores in (outputs.start_logits, outputs.end_logits)
    )
    return start + end
