"""Sequence packing for GPUs: the windows of a batch form one row, so that no padding is computed.

Attention is block-diagonal and registered with transformers as the implementation `packed`. It gets the boundaries of
the windows; with `position_ids` only, an encoder would attend across them. Logits are padded again, so that callers see
no difference.
"""

from __future__ import annotations

import inspect
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_outputs import QuestionAnsweringModelOutput

from src.model.fast.forward import replace_forward

PACKED = "packed"


def can_pack(model: PreTrainedModel) -> bool:
    """Whether the architecture accepts the positions within each window and has no attention dropout."""
    dropout = getattr(model.config, "attention_probs_dropout_prob", getattr(model.config, "attention_dropout", 0.0))
    known = inspect.signature(type(model).forward).parameters
    return bool(model._supports_sdpa and "position_ids" in known and _positions(model) is not None and not dropout)


def has_kernel(dtype: torch.dtype) -> bool:
    """Whether this GPU has an attention kernel for packed windows: from Ampere on, in 16 bits."""
    return dtype != torch.float32 and torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)


def _positions(model: PreTrainedModel) -> Any:
    """The table of absolute positions; None if positions are rotary or relative."""
    tables = [m for name, m in model.named_modules() if name.endswith("embeddings.position_embeddings")]
    return tables[0] if tables and not getattr(model.config, "is_decoder", False) else None


def pack(model: PreTrainedModel) -> None:
    """Make a model pack its windows, in place. It then also needs `lengths`, the number of tokens of each window."""
    # RoBERTa's positions start after the index of the padding token.
    padding = getattr(_positions(model), "padding_idx", None)
    model.set_attn_implementation(PACKED)
    replace_forward(model, _forward, 0 if padding is None else padding + 1)


def _forward(
    model: Any,
    first_position: int,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    lengths: np.ndarray | None = None,
    **more: Tensor,
) -> QuestionAnsweringModelOutput:
    plain: Any = partial(type(model).forward, model)
    if model.config._attn_implementation != PACKED:  # `plain_attention` was called meanwhile
        return plain(input_ids=input_ids, attention_mask=attention_mask, **more)
    assert lengths is not None, "a model that packs its windows needs their lengths"
    windows, width = input_ids.shape
    # Computed on the host from the lengths, since reading from the device would synchronise.
    within = np.concatenate([np.arange(n) for n in lengths])
    places = np.repeat(np.arange(windows) * width, lengths) + within

    def there(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(input_ids.device, non_blocking=True)

    flat = there(places)
    bounds = there(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    longest = int(max(lengths))
    packed = {name: values.flatten()[flat][None] for name, values in {"input_ids": input_ids, **more}.items()}
    outputs = plain(
        **packed,
        position_ids=there(within + first_position)[None],
        cu_seq_lens_q=bounds,
        cu_seq_lens_k=bounds,
        max_length_q=longest,
        max_length_k=longest,
    )
    start, end = (
        logits.new_zeros(windows * width).index_copy(0, flat, logits[0]).view(windows, width)
        for logits in (outputs.start_logits, outputs.end_logits)
    )
    return QuestionAnsweringModelOutput(start_logits=start, end_logits=end)


def _attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int = 0,
    **more: Any,
) -> tuple[Tensor, None]:
    """The attention interface of transformers: maps (1, heads, tokens, size) to (1, tokens, heads, size)."""
    assert cu_seq_lens_q is not None, "the architecture does not pass the windows' boundaries to attention"
    q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        from torch.nn.attention.varlen import varlen_attn

        bounds, longest = cu_seq_lens_q, max_length_q
        out: Any = varlen_attn(q, k, v, bounds, bounds, longest, longest, scale=scaling)
        return out[None], None
    # Without a kernel, the same is computed window by window.
    parts = []
    for a, b in pairwise(cu_seq_lens_q.tolist()):
        window = [part[a:b].transpose(0, 1)[None] for part in (q, k, v)]
        parts.append(scaled_dot_product_attention(window[0], window[1], window[2], scale=scaling))
    return torch.cat(parts, dim=2).transpose(1, 2), None


def _no_mask(*arguments: Any, **more: Any) -> None:
    return None


AttentionInterface.register(PACKED, _attend)
AttentionMaskInterface.register(PACKED, _no_mask)
