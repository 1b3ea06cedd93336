"""Which device, precision and number of threads a run uses, as accelerate's Accelerator."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from src.config import HardwareConfig, TrainConfig, UserError

ACCELERATE_NAMES = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
# On a CPU more at once is no faster, and what is kept for the backward pass grows with it.
CPU_TOKENS_PER_PASS = 1536
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h


def start(config: HardwareConfig) -> Accelerator:
    """Choose device and precision, set the threads, join the other processes of a launcher.

    Raises:
        UserError: a GPU that is not there, a precision the device lacks, or another number of processes than started.
    """
    gpu = torch.cuda.is_available()
    if config.device == "gpu" and not gpu:
        raise UserError(
            f"hardware={config.name} needs a GPU and torch sees none here; use hardware=auto or hardware=cpu."
        )
    use_cpu = config.device == "cpu" or not gpu
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if config.processes is not None and config.processes != started:
        raise UserError(
            f"hardware.processes={config.processes}, but the launcher started {started}: use `accelerate launch "
            f"--num_processes {config.processes} -m src.train ...`, or hardware.processes=null to take what there is."
        )
    precision = config.precision if config.precision != "auto" else _fast_precision(use_cpu)
    if precision == "fp16" and use_cpu:
        raise UserError("hardware.precision=fp16 needs a GPU; on a CPU use bf16 or fp32.")
    # Hyper-threads share the units that matrix products keep busy. joblib and ray say by OMP_NUM_THREADS what share of
    # the machine is this run's; torchrun sets it to 1 for want of anything better.
    share = os.environ.get("OMP_NUM_THREADS", "") if started == 1 else ""
    cores = psutil.cpu_count(logical=False) or torch.get_num_threads()
    threads = config.threads or (int(share) if share.isdigit() and int(share) else max(1, cores // started))
    torch.set_num_threads(min(threads, len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else threads)
    if use_cpu:
        _keep_freed_memory()
        # One a shape and kind of product, half a MB each: with a dozen lengths they would be more than the adapters.
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")
    AcceleratorState._reset_state()  # runs of one process may differ in precision
    return Accelerator(cpu=use_cpu, mixed_precision=ACCELERATE_NAMES[precision])


def _keep_freed_memory() -> None:
    """Let the C allocator keep what is freed, since the next step asks for the same again.

    Giving large blocks back and getting them page by page, filled with zeros, takes a fifth of a step's time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _fast_precision(use_cpu: bool) -> str:
    """bf16 where the hardware multiplies it, which is not everywhere torch accepts it."""
    if not use_cpu:
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    # Private to torch, and of no use on other processors than x86: a build may lack them.
    asked = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return "bf16" if any(supported is not None and supported() for supported in asked) else "fp32"


def precision(accelerator: Accelerator) -> torch.dtype:
    """Of the products."""
    return {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[accelerator.mixed_precision]


def tokens_per_pass(config: HardwareConfig, accelerator: Accelerator) -> int | None:
    """Tokens that go through the model at once, padding counted; None: as many as a batch has."""
    return config.tokens_per_pass or (CPU_TOKENS_PER_PASS if accelerator.device.type == "cpu" else None)


def uses_fast_kernels(config: HardwareConfig, train: TrainConfig, accelerator: Accelerator) -> bool:
    """Whether `src.model.fast` computes the model: not for torch.compile, nor where a GPU runs the encoder once."""
    plain = config.compile or (train.cache_encoder and accelerator.device.type != "cpu")
    return config.fast_kernels and not plain


@contextmanager
def full_memory_explained() -> Iterator[None]:
    """Turn torch's message about a full GPU into one that says what to change."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"The GPU's memory is full ({str(error).partition('. ')[0]}); lower train.batch_size (and raise "
            "train.gradient_accumulation_steps by as much), evaluation.batch_size or model.max_length."
        ) from error


def describe(accelerator: Accelerator) -> str:
    """Device, precision, threads and processes in a few words."""
    precision = {v: k for k, v in ACCELERATE_NAMES.items()}[accelerator.mixed_precision]
    if accelerator.device.type == "cuda":
        device = torch.cuda.get_device_name(accelerator.device)
    else:
        threads = torch.get_num_threads()
        device = f"CPU, {threads} thread{'s' if threads != 1 else ''}"
    processes = f", {accelerator.num_processes} processes" if accelerator.num_processes > 1 else ""
    return f"{device}, {precision}{processes}"
