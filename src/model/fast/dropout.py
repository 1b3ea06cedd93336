"""Dropout whose masks are drawn beforehand.

torch draws a mask element by element, on one core, which takes longer than the matrix products around it. Here masks
are read from a random place of a large buffer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

BUFFER = 1 << 22  # elements that are drawn at least


class DropoutMasks:
    """What dropout multiplies by: 0 with probability p, else 1 / (1 - p), drawn beforehand.

    In bf16 1 / (1 - p) lies between two numbers; both are used, as often as makes the mean 1 exactly.
    """

    def __init__(self) -> None:
        self.drawn: dict[tuple[float, torch.dtype], Tensor] = {}

    def mask_like(self, like: Tensor, p: float) -> Tensor:
        """A mask in the shape and precision of `like`, from a place that torch's generator chooses."""
        count = like.numel()
        # The place depends on this size alone and not on what was taken before, which a resumed run does not know. A
        # longer buffer begins with the shorter one.
        length = buffer_length(count)
        buffer = self.drawn.get((p, like.dtype))
        if buffer is None or len(buffer) < length:
            buffer = self.drawn[p, like.dtype] = draw(length, p, like.dtype)
        start = int(torch.randint(length - count, ()))
        return buffer[start : start + count].view_as(like)


def buffer_length(count: int) -> int:
    """Elements that are drawn for a tensor of `count` elements."""
    return max(BUFFER, 1 << (2 * count - 1).bit_length())


def draw(count: int, p: float, dtype: torch.dtype) -> Tensor:
    """`count` independent elements of a mask with probability p, always the same ones; see `DropoutMasks`."""
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
