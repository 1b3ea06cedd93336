"""Attention as batched matrix products, for CPUs: registered with transformers as the implementation `batched_matmul`.

torch's CPU attention works block by block and does not use most of the machine's throughput for matrix products,
especially in the backward pass. Here each product runs over all heads at once. This is used on a CPU without attention
dropout, for encoders with full attention (no relative-position variant), and for decoders in training, whose windows
are padded on the right. All other cases use torch's `sdpa`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, bidirectional_mask_function, sdpa_mask

from src.model.fast.causal import CausalAttention

BATCHED_MATMUL = "batched_matmul"
# The attention weights of windows of up to this length are kept for the backward pass. Those of longer windows are
# recomputed, since they would determine the peak memory: with heads of size 32 or 64 they are larger than everything
# else that a layer keeps.
KEPT_UP_TO = 256
CHUNK = 1 << 22  # elements of the attention weights that are processed at once; about the size of the caches

Padding = Sequence[slice | Tensor]  # for each window, the columns of its padding


class _FullAttention(torch.autograd.Function):
    """softmax(q k^T + mask) v, where q is already scaled; q, k, v have shape (windows, heads, tokens, head size)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, padding: Padding) -> Tensor:
        out = torch.empty_like(q)
        keep = q.shape[2] <= KEPT_UP_TO and any(ctx.needs_input_grad)
        kept = []
        for chunk in _chunks(q):
            weights = _weights(q[chunk], k[chunk], padding[chunk])
            torch.bmm(weights, v[chunk].flatten(0, 1), out=out[chunk].view(-1, *q.shape[2:]))
            if keep:
                kept.append(weights)
        ctx.padding = padding
        ctx.save_for_backward(q, k, v, *kept)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        q, k, v, *kept = ctx.saved_tensors
        gradient = gradients[0].to(v.dtype)
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        shape = (-1, *q.shape[2:])
        for i, chunk in enumerate(_chunks(q)):
            weights = kept[i] if kept else _weights(q[chunk], k[chunk], ctx.padding[chunk])
            g = gradient[chunk].reshape(shape)
            torch.bmm(weights.transpose(1, 2), g, out=dv[chunk].view(shape))
            dweights = torch.bmm(g, v[chunk].view(shape).transpose(1, 2))
            dscores = torch._softmax_backward_data(dweights, weights, -1, weights.dtype)
            torch.bmm(dscores, k[chunk].view(shape), out=dq[chunk].view(shape))
            torch.bmm(dscores.transpose(1, 2), q[chunk].view(shape), out=dk[chunk].view(shape))
        return dq, dk, dv, None


def _padding(mask: Tensor) -> Padding:
    """The columns of each window that the mask, (windows, tokens), hides; a slice if they are at the end."""
    hidden = mask == 0
    at_end = (hidden[:, 1:] | ~hidden[:, :-1]).all(1).tolist()
    return [
        slice(int(mask.shape[1] - row.sum()), None) if tail else row.nonzero().flatten()
        for row, tail in zip(hidden, at_end, strict=True)
    ]


def _chunks(q: Tensor) -> list[slice]:
    """Split the windows into chunks of at least one window."""
    windows, heads, tokens, _ = q.shape
    step = max(1, CHUNK // (heads * tokens * tokens))
    return [slice(i, i + step) for i in range(0, windows, step)]


def _weights(q: Tensor, k: Tensor, padding: Padding) -> Tensor:
    """The attention weights of some windows, (windows x heads, tokens, tokens)."""
    scores = torch.bmm(q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2))
    heads = q.shape[1]
    for window, columns in enumerate(padding):  # few columns, so this is cheap
        scores[window * heads : (window + 1) * heads, :, columns] = -math.inf
    weights = torch.softmax(scores, -1, out=scores)
    for window, columns in enumerate(padding):
        if isinstance(columns, slice) and columns == slice(
            0, None
        ):  # padding alone: as in torch's attention, no token attends to any
            weights[window * heads : (window + 1) * heads] = 0
    return weights


def _attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """The attention interface of transformers: (windows, heads, tokens, size) to (windows, tokens, heads, size)."""
    windows, _, tokens, size = query.shape
    scale = size**-0.5 if scaling is None else scaling
    if is_causal_training(module, query, key, value, attention_mask, dropout, more):
        together: Tensor = CausalAttention.apply(query * scale, key, value)
        return together, None
    full = attention_mask.ndim == 2 if attention_mask is not None else not getattr(module, "is_causal", True)
    if not full or dropout or query.device.type != "cpu" or not (key.shape == value.shape == query.shape):
        if attention_mask is not None and attention_mask.ndim == 2:
            attention_mask = attention_mask[:, None, None, :].expand(-1, -1, tokens, -1)
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
    q, k, v = (part.contiguous() for part in (query * scale, key, value))
    padding = [slice(0, 0)] * windows if attention_mask is None else _padding(attention_mask)
    mixed: Tensor = _FullAttention.apply(q, k, v, padding)
    return mixed.transpose(1, 2), None


def is_causal_training(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float,
    more: Mapping[str, Any],
) -> bool:
    """Whether this is plain causal attention of a decoder in training, without a cache."""
    given = more.get("is_causal")
    causal = getattr(module, "is_causal", True) if given is None else given
    special = any(more.get(name) is not None for name in ("softcap", "position_bias", "s_aux"))
    return bool(
        attention_mask is None
        and causal
        and not dropout
        and not special
        and (module.training or torch.is_grad_enabled())
        and query.device.type == "cpu"
        and key.shape == value.shape
        and query.shape[2:] == key.shape[2:]
    )


def _mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: Callable[..., Any],
    attention_mask: Tensor | None = None,
    use_vmap: bool = False,
    **more: Any,
) -> Tensor | None:
    """The mask interface of transformers: returns the padding mask, (windows, tokens), if it is the whole mask."""
    if mask_function is bidirectional_mask_function and q_length == kv_length and not use_vmap:
        return attention_mask if attention_mask is None or not attention_mask.all() else None
    return sdpa_mask(
        batch_size=batch_size,
        q_length=q_length,
        kv_length=kv_length,
        mask_function=mask_function,
        attention_mask=attention_mask,
        use_vmap=use_vmap,
        **more,
    )


AttentionInterface.register(BATCHED_MATMUL, _attend)
AttentionMaskInterface.register(BATCHED_MATMUL, _mask)
