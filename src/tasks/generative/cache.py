"""The key-value cache for decoding, and the grouping of prompts by shared prefixes.

The cache of transformers is copied with every new token and every finished row. Here the memory of a layer is allocated
once: new tokens are appended in place, and the last rows move to the places of rows that are finished.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer


class _Layer(DynamicLayer):
    """Keys and values of one layer, as views of memory of shape (rows, heads, room, head size).

    Args:
        room: the maximum number of tokens of a row.
    """

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.memory: list[Tensor] = []

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **more: Any) -> tuple[Tensor, Tensor]:
        start = self.get_seq_length()
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.memory = [new.new_empty(*new.shape[:2], self.room, new.shape[3]) for new in (key_states, value_states)]
        rows, _, tokens, _ = key_states.shape
        for memory, new in zip(self.memory, (key_states, value_states), strict=True):
            memory[:rows, :, start : start + tokens] = new
        return self._show(rows, start + tokens)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Replace row i by row `indices[i]`; in place if each row stays or comes from behind the new end."""
        rows, tokens = indices.tolist(), self.get_seq_length()
        if all(place == row or row >= len(rows) for place, row in enumerate(rows)):
            for memory in self.memory:
                for place, row in enumerate(rows):
                    if place != row:
                        memory[place, :, :tokens] = memory[row, :, :tokens]
        else:
            old, self.memory = self.memory, []
            for memory in old:
                self.memory.append(memory.new_empty(len(rows), *memory.shape[1:]))
                self.memory[-1][:, :, :tokens] = memory[indices, :, :tokens]
        self._show(len(rows), tokens)

    def _show(self, rows: int, tokens: int) -> tuple[Tensor, Tensor]:
        keys, values = (memory[:rows, :, :tokens] for memory in self.memory)
        self.keys, self.values = keys, values
        return keys, values


def make_cache(model: Any, room: int) -> Cache | None:
    """Make a cache for `room` tokens per row; None for a model that needs its own since not all attention is full."""
    layers = DynamicCache(config=model.config).layers
    if not layers or any(type(layer) is not DynamicLayer for layer in layers):
        return None
    return Cache(layers=[_Layer(room) for _ in layers])


def by_prefix(prompts: Sequence[np.ndarray]) -> list[int]:
    """The rows of prompts in an order that groups shared prefixes; the group with the longest prompt comes first."""
    order = sorted(range(len(prompts)), key=lambda row: prompts[row].tobytes())
    groups, start = [], 0
    for rows, _ in shared_prefixes([prompts[row] for row in order]):
        groups.append(order[start : start + rows])
        start += rows
    groups.sort(key=lambda rows: -max(len(prompts[row]) for row in rows))
    return [row for rows in groups for row in rows]


def shared_prefixes(prompts: Sequence[Sequence[int] | np.ndarray]) -> list[tuple[int, int]]:
    """Group neighbouring prompts that begin with the same tokens, such as questions about one passage.

    Returns:
        For each group the number of its prompts and of the tokens that they share. A prompt joins a group if they then
        share at least half of its tokens, and at least half of what the group shared before. The last token of a prompt
        is never shared, since its logits are needed.
    """
    groups: list[tuple[int, int]] = []
    first: np.ndarray = np.empty(0)
    for each in prompts:
        prompt = np.asarray(each)
        if groups:
            rows, shared = groups[-1]
            length = min(shared, len(prompt) - 1)
            same = first[:length] == prompt[:length]
            common = length if same.all() else int(same.argmin())
            if 2 * common >= max(len(prompt), shared):
                groups[-1] = (rows + 1, common)
                continue
        first = prompt
        groups.append((1, len(prompt) - 1))
    return groups


def compacted(staying: Sequence[int]) -> list[int]:
    """An order of the remaining rows in which only those behind the new end move, into the places of finished rows."""
    stay, end = set(staying), len(staying)
    late = iter([row for row in staying if row >= end])
    return [place if place in stay else next(late) for place in range(end)]


def left_padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Pad rows of tokens on the left; returns tokens and mask (1 for tokens), both of shape (rows, longest)."""
    width = max(len(row) for row in rows)
    tokens = torch.zeros(len(rows), width, dtype=torch.int64)
    mask = torch.zeros_like(tokens)
    for i, row in enumerate(rows):
        tokens[i, width - len(row) :] = torch.as_tensor(row)
        mask[i, width - len(row) :] = 1
    return tokens.to(device), mask.to(device)
