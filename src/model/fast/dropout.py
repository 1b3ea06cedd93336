"""Dropout with masks that are drawn in advance.

torch draws a mask element by element on one core, which takes longer than the matrix products around it. Here a mask is
a slice at a random position of a large buffer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

BUFFER = 1 << 22  # the least number of elements that are drawn


class DropoutMasks:
    """The factors of dropout: 0 with probability p, else 1 / (1 - p), drawn in advance.

    In bf16, 1 / (1 - p) lies between two representable numbers. Both are used, in proportions that make the mean 1.
    """

    def __init__(self) -> None:
        self.drawn: dict[tuple[float, torch.dtype], Tensor] = {}

    def mask_like(self, like: Tensor, p: float) -> Tensor:
        """A mask with the shape and precision of `like`, at a position that torch's generator chooses."""
        count = like.numel()
        # The position only depends on this size, and not on earlier masks, which a resumed run does not know. A longer
        # buffer begins with the shorter one.
        length = buffer_length(count)
        buffer = self.drawn.get((p, like.dtype))
        if buffer is None or len(buffer) < length:
            buffer = self.drawn[p, like.dtype] = draw(length, p, like.dtype)
        start = int(torch.randint(length - count, ()))
        return buffer[start : start + count].view_as(like)


def buffer_length(count: int) -> int:
    """The number of elements that are drawn for a tensor of `count` elements."""
    return max(BUFFER, 1 << (2 * count - 1).bit_length())


def draw(count: int, p: float, dtype: torch.dtype) -> Tensor:
    """Draw `count` independent elements of a mask with probability p, always the same ones; see `DropoutMasks`."""
    generator = torch.Generator().manual_seed(0x6C6F7261)
    uniform = torch.rand(count, generator=generator)
    exact = 1 / (1 - p)
    below = torch.tensor(exact, dtype=dtype)
    if below > exact:
        below = torch.nextafter(below, torch.zeros((), dtype=dtype))
    above = torch.nextafter(below, torch.full((), torch.inf, dtype=dtype))
    share_above = (exact - below.item()) / (above.item() - below.item())
    kept = torch.where(uniform < p + (1 - p) * share_above, above, below)
    return torch.where(uniform < p, torch.zeros((), dtype=dtype), kept)


def dropout(module: nn.Dropout, masks: DropoutMasks, x: Tensor) -> Tensor:
    """`x` with some elements set to 0 in training, as `nn.Dropout` computes it; any shape."""
    return x * masks.mask_like(x, module.p) if module.training else x
