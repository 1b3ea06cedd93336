"""The hardware of a run: device, precision, threads, kernels and micro-batches, which are determined once."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from src.config import HardwareConfig, UserError
from src.tasks.base import CPU_MICRO_BATCH_TOKENS

ACCELERATE_NAMES = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h


@dataclass(frozen=True)
class Runtime:
    """The hardware settings of a run, as `start` determined them from `hardware.*`."""

    accelerator: Accelerator
    precision: str  # of the matrix products: fp32 | bf16 | fp16
    threads: int  # of the CPU
    micro_batch_tokens: int | None  # tokens per forward pass, including padding; None: the whole batch at once
    fast_kernels: bool  # whether to use the kernels of `src.model.fast`
    compile: bool  # whether to use torch.compile

    @property
    def device(self) -> torch.device:
        device: torch.device = self.accelerator.device
        return device

    @property
    def on_cpu(self) -> bool:
        return self.device.type == "cpu"

    @property
    def is_main_process(self) -> bool:
        """Whether this is the first process of the launcher, which logs and reports."""
        return bool(self.accelerator.is_main_process)

    @property
    def dtype(self) -> torch.dtype:
        """The data type of the matrix products."""
        return DTYPES[self.precision]

    def __str__(self) -> str:
        """A description such as `CPU, 2 threads, bf16`, with the number of processes if there are several."""
        if self.device.type == "cuda":
            device = torch.cuda.get_device_name(self.device)
        else:
            device = f"CPU, {self.threads} thread{'s' if self.threads != 1 else ''}"
        count = self.accelerator.num_processes
        return f"{device}, {self.precision}" + (f", {count} processes" if count > 1 else "")


def start(config: HardwareConfig, encoder_runs_once: bool = False, cpu_tokens: int = CPU_MICRO_BATCH_TOKENS) -> Runtime:
    """Choose device and precision, set the number of threads, and join the other processes of a launcher.

    Args:
        config: the requested hardware.
        encoder_runs_once: the encoder's output is cached (`train.cache_encoder`), which our GPU kernels do not support.
        cpu_tokens: tokens of a micro-batch on a CPU, unless `hardware.tokens_per_pass` is set.

    Raises:
        UserError: there is no GPU, the device lacks the precision, or the launcher started a different number of
            processes.
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
    _set_threads(config.threads, started)
    if use_cpu:
        _keep_freed_memory()
        # oneDNN caches a primitive of half a MB for each shape and kind of product. With a dozen sequence lengths, they
        # would take more memory than the adapters.
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")
    AcceleratorState._reset_state()  # runs in the same process may differ in precision
    accelerator = Accelerator(cpu=use_cpu, mixed_precision=ACCELERATE_NAMES[precision])
    on_cpu = accelerator.device.type == "cpu"
    return Runtime(
        accelerator,
        precision,
        threads=torch.get_num_threads(),
        micro_batch_tokens=config.tokens_per_pass or (cpu_tokens if on_cpu else None),
        fast_kernels=config.fast_kernels and not config.compile and (on_cpu or not encoder_runs_once),
        compile=config.compile,
    )


def _set_threads(wanted: int | None, processes: int) -> None:
    """Set the number of torch's threads: as requested, or the number of physical cores per process."""
    # Hyper-threads share the units that matrix products use. joblib and ray set OMP_NUM_THREADS to this run's share of
    # the machine; torchrun always sets it to 1.
    share = os.environ.get("OMP_NUM_THREADS", "") if processes == 1 else ""
    cores = psutil.cpu_count(logical=False) or torch.get_num_threads()
    threads = wanted or (int(share) if share.isdigit() and int(share) else max(1, cores // processes))
    torch.set_num_threads(min(threads, len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else threads)


def _keep_freed_memory() -> None:
    """Let the C allocator keep freed memory, since the next step allocates the same amount again.

    Returning large blocks to the system and getting zero-filled pages back takes a fifth of a step's time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _fast_precision(use_cpu: bool) -> str:
    """bf16 if the hardware has instructions for it, which torch does not require; otherwise fp16 or fp32."""
    if not use_cpu:
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    # These functions are private and only apply to x86, so a build of torch may lack them.
    checks = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return "bf16" if any(supported is not None and supported() for supported in checks) else "fp32"


@contextmanager
def full_memory_explained() -> Iterator[None]:
    """Turn torch's out-of-memory error into one that says what to change."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        capacity = re.search(r"total capacity of (\d+(?:\.\d+)? [GM]iB)", str(error))
        size = f" of {capacity[1]}" if capacity else ""  # `src.report.findings` reads it
        raise UserError(
            f"The GPU's memory{size} is full ({str(error).partition('. ')[0]}); lower train.batch_size (and raise "
            "train.gradient_accumulation_steps by as much), evaluation.batch_size or model.max_length."
        ) from error
