"""The machine that a benchmark ran on, in a line."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path


def machine() -> str:
    """Cores, CPU, its bf16 units, threads and versions of packages."""
    import torch

    cpu = next(
        (line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor()
    )
    flags = next((line for line in _cpuinfo() if line.startswith("flags")), "").split()
    units = ", ".join(unit for unit in ("amx_bf16", "avx512_bf16") if unit in flags) or "no bf16 unit"
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "accelerate"))
    return f"{os.cpu_count()} cores, {cpu} ({units}), {torch.get_num_threads()} threads; {packages}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
