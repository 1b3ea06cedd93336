"""The memory that a run may use on the usual GPUs and on the local device, and the largest batch that fits."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from src.config import HardwareConfig, UserError

CARDS_GB = (8, 16, 24, 48, 80)
MOST_WINDOWS = 4096  # the largest batch that is tried
# The rest of a GPU's memory holds the CUDA context (0.3 to 0.6 GB) and memory that torch's allocator reserves unused.
USABLE_SHARE = 0.9
PROCESS_MB = 600  # of RAM that Python, torch and the data take; the formula and the meter do not include it
UNITS_MB = {"mb": 1.0, "mib": 2**20 / 1e6, "gb": 1e3, "gib": 2**30 / 1e6, "tb": 1e6, "tib": 2**40 / 1e6}


@dataclass(frozen=True)
class Device:
    """The device that a run would use on this machine. An MB is 10^6 bytes."""

    name: str
    kind: str  # cpu | gpu
    precision: str  # of the matrix products: fp32 | bf16 | fp16
    memory_mb: float  # its total memory
    limit_mb: float  # the memory that weights, gradients, optimizer and activations may take
    micro_batch_tokens: int | None  # see src.training.hardware.Runtime


def read_memory(text: str) -> float:
    """Read an amount of memory, in MB of 10^6 bytes: `24GB` (24 x 10^9 bytes), `24GiB`, `16000MB`.

    Raises:
        UserError: the text is none of these.
    """
    parts = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", str(text).strip().lower())
    if parts is None or (parts[2] and parts[2] not in UNITS_MB) or float(parts[1]) == 0:
        raise UserError(f"hardware.memory={text} cannot be read; write 24GB, 24GiB or 16000MB.")
    if not parts[2]:
        raise UserError(f"hardware.memory={text} has no unit; write {parts[1]}GB or {parts[1]}MB.")
    return float(parts[1]) * UNITS_MB[parts[2]]


def limit_mb(memory: float, kind: str) -> float:
    """The part of a memory that a run may take, in MB, as the meter and the formula count it.

    Args:
        memory: MB of 10^6 bytes.
        kind: the kind of device, cpu or gpu.
    """
    return max(0.0, memory - PROCESS_MB) if kind == "cpu" else USABLE_SHARE * memory


def card_limit_mb(size_gb: float) -> float:
    """The MB that a run may allocate on a card of `size_gb` GB (10^9 bytes)."""
    return limit_mb(size_gb * 1e3, "gpu")


def local_device(config: HardwareConfig) -> Device:
    """The device that a run on this machine would use.

    Raises:
        UserError: hardware.memory cannot be read, or there is no GPU.
    """
    import psutil
    import torch

    from src.training import hardware

    wanted = None if config.memory is None else read_memory(config.memory)
    runtime = hardware.start(replace(config, processes=None))
    device = runtime.device
    if runtime.on_cpu:
        memory = psutil.virtual_memory()
        has, limit = memory.total / 1e6, limit_mb(wanted or memory.available / 1e6, "cpu")
    else:
        has = torch.cuda.get_device_properties(device).total_memory / 1e6
        limit = limit_mb(wanted or has, "gpu")
    return Device(
        name=str(runtime).rpartition(", ")[0],
        kind="cpu" if runtime.on_cpu else "gpu",
        precision=runtime.precision,
        memory_mb=has,
        limit_mb=limit,
        micro_batch_tokens=runtime.micro_batch_tokens,
    )


def largest(fits: Callable[[int], bool], most: int, start: int = 1) -> int:
    """The largest number up to `most` that fits; 0 if not even 1 fits.

    If a number fits, every smaller number is assumed to fit. The number is doubled from `start` until it does not fit,
    or halved until it fits; then follows a binary search.

    Args:
        fits: called at most once for each number.
        most: the largest number that is tried.
        start: the first number that is tried.
    """
    good, bad, number = 0, most + 1, min(start, most)
    while bad - good > 1:
        if fits(number):
            good = number
        else:
            bad = number
        if bad > most:
            number = min(2 * good, most)
        elif good == 0:
            number = bad // 2
        else:
            number = (good + bad) // 2
    return good


def largest_by_size(size: Callable[[int], float], limit: float, most: int) -> int:
    """The largest number up to `most` whose size is within the limit; 0 if not even the size of 1 is.

    The search interpolates linearly, and halves the interval in every third step. It therefore needs few sizes if they
    grow almost in proportion to the number, as memory does with the batch size.

    Args:
        size: a function that never decreases.
    """
    if size(1) > limit:
        return 0
    if size(most) <= limit:
        return most
    good, bad, turn = 1, most, 0
    while bad - good > 1:
        share = 0.5 if turn % 3 == 2 else (limit - size(good)) / (size(bad) - size(good))
        number = min(max(good + int(share * (bad - good)), good + 1), bad - 1)
        if size(number) <= limit:
            good = number
        else:
            bad = number
        turn += 1
    return good
