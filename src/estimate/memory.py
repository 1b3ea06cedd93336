"""Estimates the peak memory of a run from its configuration alone, without weights, downloads or a GPU.

docs/memory.md derives the numbers, and compares them with measured peaks and published tables.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from src.config import Config
from src.estimate.bare import Bare, build
from src.estimate.step import Work, footprint
from src.model import method
from src.model.method import ParameterCounts
from src.tasks import task_of
from src.training.hardware import DTYPES

MB = 1e6
FP32 = 4  # bytes; trained parameters, their gradients and Adam's moments are in fp32
# Dettmers et al. 2023: 4 bits a weight, and with double quantisation 0.127 bits for the constants.
NF4 = (4 + 0.127) / 8  # bytes
# The workspace that cuBLAS takes from torch's allocator on Hopper GPUs and newer ones; on older ones it is 8 MB.
CUBLAS_WORKSPACE = 32 * 1024**2
# Two parts of the resident size on a CPU: the memory of a process other than tensors, and the unused bytes in the heap
# of the C allocator for each byte of activations and temporary tensors. Fitted to measured runs (docs/memory.md).
CPU_PROCESS = 50e6  # bytes
CPU_HOLES, CPU_HOLES_OF_SEVERAL = 0.35, 0.85  # with one micro-batch in a step; with several of different lengths


@dataclass(frozen=True)
class MemoryEstimate:
    """The memory of one process when it peaks. Sizes are in MB of 10^6 bytes."""

    counts: ParameterCounts
    weights_mb: float
    gradients_mb: float
    optimizer_mb: float  # Adam's two moments
    activations_mb: float  # kept for the backward pass
    working_mb: float  # temporary buffers, dropout masks, exchange between processes, fragmentation of the heap
    disk_mb: float  # the size of the stored model: the adapter and the head, or all trained parameters

    @property
    def total_mb(self) -> float:
        """The sum of the parts in memory; it predicts `memory/peak_train_mb`."""
        return self.weights_mb + self.gradients_mb + self.optimizer_mb + self.activations_mb + self.working_mb


def estimate(
    config: Config,
    *,
    device: str,
    precision: str,
    processes: int = 1,
    batch_windows: int | None = None,
    length: int | None = None,
) -> MemoryEstimate:
    """Predict the peak memory of training.

    Args:
        config: the configuration of the run.
        device: "cpu" or "gpu".
        precision: of the matrix products: "fp32", "bf16" or "fp16".
        processes: the number of processes that share the batch; each holds the whole model.
        batch_windows: windows of a batch over all processes; None: `train.batch_size`.
        length: tokens of a window, including padding; None: `model.max_length`.

    Raises:
        UserError: the architecture is not known on this machine, or the method does not fit it.
    """
    bare = build(config)
    trained = FP32 * bare.counts.trainable
    quantised = _quantised_layers(bare) if config.method.quantize else []
    work = _work(config, device, precision, processes, batch_windows, length)
    step = footprint(bare, work)
    gradients, activations, working = step.gradients, step.activations, float(step.temporary)
    if work.on_cpu:
        working += (CPU_HOLES_OF_SEVERAL if work.accumulates else CPU_HOLES) * (activations + working)
    if trained > gradients + activations + working:  # the peak is at the update, which needs all gradients only
        gradients, activations, working = trained, 0, 0.0
    working += CPU_PROCESS if work.on_cpu else CUBLAS_WORKSPACE
    if processes > 1:
        working += trained  # the buckets in which gradients are exchanged
    width = work.dtype.itemsize
    return MemoryEstimate(
        counts=bare.counts,
        weights_mb=(step.weights - sum((width - NF4) * size for size in quantised)) / MB,
        gradients_mb=gradients / MB,
        optimizer_mb=2 * trained / MB,
        activations_mb=activations / MB,
        working_mb=(working + width * max(quantised, default=0)) / MB,  # one layer at a time is dequantised
        disk_mb=_stored(config, bare.counts) / MB,
    )


def _work(
    config: Config, device: str, precision: str, processes: int, batch_windows: int | None, length: int | None
) -> Work:
    """The micro-batch of one forward pass, as `src.training.step` divides a batch."""
    length = length or config.model.max_length
    windows = math.ceil((batch_windows or config.train.batch_size) / processes)
    tokens = config.hardware.tokens_per_pass or (task_of(config.model).cpu_tokens if device == "cpu" else None)
    micro_batches = 1 if tokens is None else math.ceil(windows / max(1, tokens // length))
    return Work(
        on_cpu=device == "cpu",
        dtype=DTYPES[precision],
        fast_kernels=config.hardware.fast_kernels and not config.hardware.compile,
        windows=math.ceil(windows / micro_batches),
        length=length,
        accumulates=micro_batches * config.train.gradient_accumulation_steps > 1,
    )


def _quantised_layers(bare: Bare) -> list[int]:
    """Sizes of the matrices that bitsandbytes would quantise: all linear layers but the head and the output matrix."""
    output = bare.base.get_output_embeddings()
    head = method.head_parameters(bare.base)
    sizes = []
    for name, module in bare.base.named_modules():
        below_adapter = isinstance(module, BaseTunerLayer)
        layer = module.get_base_layer() if below_adapter else module
        adapters = ("lora_", "base_layer", "modules_to_save", "original_module")
        if not isinstance(layer, nn.Linear) or layer is output or any(part in name for part in adapters):
            continue
        if f"{name}.weight" not in head:
            sizes.append(layer.weight.numel())
    return sizes


def _stored(config: Config, counts: ParameterCounts) -> int:
    """Bytes on disk; an adapter that changes its base is stored with twice its rank (`src.model.stored.save`)."""
    twice = config.method.peft is not None and method.changes_base(config.method.peft)
    return FP32 * (counts.trainable + (counts.adapter if twice else 0))
