"""Causal attention in training as batched matrix products, for CPUs.

The heads of a group share their keys and values, which are not copied. Queries are processed in blocks, and a block is
only multiplied with the keys up to its end, so that most of the upper triangle is never computed. The backward pass
recomputes the attention weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

BLOCK = 64  # least number of tokens of a block: smaller products do not use the matrix units fully
BLOCKS = 4  # greatest number of blocks; 4 blocks compute 5/8 of all pairs of tokens


class CausalAttention(torch.autograd.Function):
    """softmax(q k^T + mask) v, where a token attends to itself and the tokens before it.

    Shapes: q (windows, heads, tokens, head size), already scaled; k and v (windows, groups, tokens, head size), each
    shared by heads / groups neighbouring heads. The result is (windows, tokens, heads, head size).
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        windows, heads, tokens, size = q.shape
        groups = k.shape[1]
        q, k, v = _by_token(q, groups), k.flatten(0, 1).contiguous(), v.flatten(0, 1).contiguous()
        out = torch.empty_like(q)
        for rows, seen in _blocks(tokens, heads // groups):
            out[:, rows] = torch.bmm(_weights(q[:, rows], k[:, :seen], heads // groups), v[:, :seen])
        ctx.save_for_backward(q, k, v)
        ctx.shape = windows, groups, tokens, heads // groups, size
        return _by_window(out, ctx.shape).reshape(windows, tokens, heads, size)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        q, k, v = ctx.saved_tensors
        windows, groups, tokens, of_group, size = ctx.shape
        g = gradients[0].to(v.dtype).view(windows, tokens, groups, of_group, size)
        g = g.permute(0, 2, 1, 3, 4).reshape(q.shape)
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for rows, seen in _blocks(tokens, of_group):
            weights = _weights(q[:, rows], k[:, :seen], of_group)
            dv[:, :seen].baddbmm_(weights.transpose(1, 2), g[:, rows])
            dweights = torch.bmm(g[:, rows], v[:, :seen].transpose(1, 2))
            dscores = torch._softmax_backward_data(dweights, weights, -1, weights.dtype)
            dq[:, rows] = torch.bmm(dscores, k[:, :seen])
            dk[:, :seen].baddbmm_(dscores.transpose(1, 2), q[:, rows])
        dq = _by_window(dq, ctx.shape).permute(0, 2, 3, 1, 4).reshape(windows, groups * of_group, tokens, size)
        return dq, dk.view(windows, groups, tokens, size), dv.view(windows, groups, tokens, size)


def _by_token(q: Tensor, groups: int) -> Tensor:
    """Reshape q to (windows x groups, tokens x heads of a group, head size): the heads of a token are neighbours."""
    windows, heads, tokens, size = q.shape
    split = q.reshape(windows, groups, heads // groups, tokens, size)
    return split.transpose(2, 3).reshape(windows * groups, -1, size)


def _by_window(x: Tensor, shape: tuple[int, int, int, int, int]) -> Tensor:
    """Reshape the result of `_by_token` to (windows, tokens, groups, heads of a group, head size)."""
    windows, groups, tokens, of_group, size = shape
    return x.view(windows, groups, tokens, of_group, size).permute(0, 2, 1, 3, 4)


def _blocks(tokens: int, of_group: int) -> Iterator[tuple[slice, int]]:
    """The rows of each block of queries in `_by_token`, and the number of tokens that its last query sees."""
    step = max(BLOCK, math.ceil(tokens / BLOCKS))
    for start in range(0, tokens, step):
        end = min(start + step, tokens)
        yield slice(start * of_group, end * of_group), end


def _weights(q: Tensor, k: Tensor, of_group: int) -> Tensor:
    """The attention weights of the last tokens of k, (windows x groups, rows, tokens seen)."""
    scores = torch.bmm(q, k.transpose(1, 2))
    tokens = q.shape[1] // of_group
    later = torch.ones(tokens, tokens, dtype=torch.bool).triu_(1).repeat_interleave(of_group, 0)
    scores[:, :, k.shape[1] - tokens :].masked_fill_(later, -math.inf)
    return torch.softmax(scores, -1, out=scores)
