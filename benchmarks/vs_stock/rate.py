"""How much arithmetic training is, and how fast the machine is at it."""

from __future__ import annotations

import statistics
import time
from typing import Any


def arithmetic(config: Any, method: str, lengths: Any) -> float:
    """Floating-point operations of one epoch over windows of these lengths, in matrix products, padding left out.

    Forward: 2 a weight and token, and 4 a pair of tokens and hidden unit for attention. Backward: as much for the
    inputs' gradient, where anything below trains, and as much for the weights' where they train.
    """
    hidden, layers = config.hidden_size, config.num_hidden_layers
    linear = 2 * layers * (4 * hidden**2 + 2 * hidden * config.intermediate_size)
    first = 2 * 3 * hidden**2  # query, key and value of the lowest layer
    total = 0.0
    for n in lengths:
        attention = 4 * layers * hidden * int(n)
        backward = {
            "full": 2 * linear + 2 * attention,
            "lora": linear - first + 2 * attention,
            "head": 0,
        }[method]
        total += int(n) * (linear + attention + backward)
    return total


def matrix_rate(precision: str) -> float:
    """The machine's best rate of a matrix product, in operations a second, over shapes of these models.

    Args:
        precision: of the product, "fp32" or "bf16"; bf16 is emulated where the CPU does not multiply it.
    """
    import torch

    best = 0.0
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    for m, k, n in ((2048, 384, 1536), (2048, 1536, 384), (2048, 768, 3072), (2048, 2048, 2048)):
        x, w = torch.randn(m, k, dtype=dtype), torch.randn(n, k, dtype=dtype)
        times = []
        for _ in range(30):
            begin = time.perf_counter()
            torch.nn.functional.linear(x, w)
            times.append(time.perf_counter() - begin)
        best = max(best, 2 * m * k * n / statistics.median(times))
    return best
