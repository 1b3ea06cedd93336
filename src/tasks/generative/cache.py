"""The key-value cache that answers are written with, and prompts that begin with the same tokens.

transformers' own cache is copied whole with every token that is added and with every row that leaves. Here each layer
takes its memory once: tokens are written behind those that are there, and the last rows move to the places of rows that
have left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer


class _Layer(DynamicLayer):
    """Keys and values of one layer, views of memory of shape (rows, heads, room, head size).

    Args:
        room: tokens that a row may have.
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
        """Have row i be what row `indices[i]` was; in place where each row stays or comes from behind the new end."""
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
    """A cache for `room` tokens a row; None for a model with other layers than full attention, which makes its own."""
    layers = DynamicCache(config=model.config).layers
    if not layers or any(type(layer) is not DynamicLayer for layer in layers):
        return None
    return Cache(layers=[_Layer(room) for _ in layers])


def by_prefix(prompts: Sequence[np.ndarray]) -> list[int]:
    """The rows of prompts, those with the same beginning next to each other, the group of the longest prompt first."""
    order = sorted(range(len(prompts)), key=lambda row: prompts[row].tobytes())
    groups, start = [], 0
    for rows, _ in shared_prefixes([prompts[row] for row in order]):
        groups.append(order[start : start + rows])
        start += rows
    groups.sort(key=lambda rows: -max(len(prompts[row]) for row in rows))
    return [row for rows in groups for row in rows]


def shared_prefixes(prompts: Sequence[Sequence[int] | np.ndarray]) -> list[tuple[int, int]]:
    """Groups of neighbours that begin with the same tokens, the questions about one passage among them.

    Returns:
        For each group how many prompts it has, and how many tokens they share. A prompt joins its neighbours where they
        then share at least half of its tokens and half of what they shared before. The last token of a prompt is never
        shared: its logits are needed.
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
    """An order of rows that stay in which few move: those behind the new end, to the places of rows that have left."""
    stay, end = set(staying), len(staying)
    late = iter([row for row in staying if row >= end])
    return [place if place in stay else next(late) for place in range(end)]


def left_padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Tokens and mask (1 for tokens), both (rows, longest)."""
    width = max(len(row) for row in rows)
    tokens = torch.zeros(len(rows), width, dtype=torch.int64)
    mask = torch.zeros_like(tokens)
    for i, row in enumerate(rows):
        tokens[i, width - len(row) :] = torch.as_tensor(row)
        mask[i, width - len(row) :] = 1
    return tokens.to(device), mask.to(device)
