"""Measures time, throughput and peak memory of training, evaluation and test, each separately.

A measurement covers a phase from its start to its end, and the device is synchronised at both. GPU memory is what
torch's allocator handed out (`max_memory_allocated`) and held (`max_memory_reserved`); both are reset at the start of a
phase. CPU memory is the peak resident size in the phase minus the resident size before the model was loaded. It leaves
out pages that the system may reclaim at any time: the code of libraries and the file of tokenised examples, of which
more is paged in the larger the data set is and the longer the process runs. An MB is 10^6 bytes.

Linux also counts how long threads that were ready to run waited for a core: this shows a training that other work on
the machine has slowed down.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import psutil
import torch

MB = 1e6
STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
TASKS = Path("/proc/self/task")


RENAMED = {"waited_seconds": "cpu_wait_seconds"}  # in checkpoints of earlier versions


@dataclass
class Usage:
    """What one phase has used so far, summed over all the times that it was entered."""

    seconds: float = 0.0
    peak_mb: float = 0.0
    reserved_mb: float = 0.0  # GPU only
    examples: int = 0  # in training, counted after the warm-up
    tokens: int = 0  # without padding, counted after the warm-up
    counted_seconds: float = 0.0  # in which these examples and tokens were processed
    cpu_wait_seconds: float = 0.0  # summed over all threads; 0 where the system does not count it

    @property
    def examples_per_second(self) -> float:
        """Examples per second after the warm-up; 0 if none were counted."""
        return self.examples / self.counted_seconds if self.counted_seconds else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second after the warm-up, without padding; 0 if none were counted."""
        return self.tokens / self.counted_seconds if self.counted_seconds else 0.0


@dataclass
class Meter:
    """Measures a run. Create it before the model is loaded: it records the memory of the process without a model."""

    device: torch.device
    train: Usage = field(default_factory=Usage)
    evaluation: Usage = field(default_factory=Usage)
    test: Usage = field(default_factory=Usage)  # after training; it counts towards nothing else
    started: float = field(default_factory=time.perf_counter)
    memory_is_own: bool = True  # false: an earlier run in this process has left memory behind
    _runs_in_process: ClassVar[int] = 0
    _last: Usage | None = None

    def __post_init__(self) -> None:
        self.memory_is_own = Meter._runs_in_process == 0
        Meter._runs_in_process += 1
        # The allocator may still keep memory that reading and tokenising the data has freed.
        gc.collect()
        release_freed_memory()
        resident = psutil.Process().memory_info().rss / MB
        self.baseline_mb = 0.0 if self.device.type == "cuda" else resident - _shared_files_mb()

    @property
    def total_seconds(self) -> float:
        """Wall time since the meter was created, plus that of earlier attempts up to their last checkpoint.

        The test is not included, so that runs with and without a test set can be compared.
        """
        return time.perf_counter() - self.started - self.test.seconds

    def state_dict(self) -> dict[str, Any]:
        return {"train": vars(self.train), "evaluation": vars(self.evaluation), "total_seconds": self.total_seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the measurements of an earlier attempt."""
        self.train, self.evaluation = (
            Usage(**{RENAMED.get(name, name): value for name, value in state[phase].items()})
            for phase in ("train", "evaluation")
        )
        self.started -= state["total_seconds"]

    @contextmanager
    def phase(self, usage: Usage) -> Iterator[None]:
        """Add the time and the peak memory of the block to `usage`, also if the block raises an error."""
        if usage is not self._last:  # freed memory of another phase must not count towards this peak
            release_freed_memory()
            self._last = usage
        peak = _GpuPeak(self.device) if self.device.type == "cuda" else _cpu_peak()
        waited = _cpu_wait_seconds()
        start = time.perf_counter()
        try:
            yield
        finally:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            usage.seconds += time.perf_counter() - start
            usage.cpu_wait_seconds += max(0.0, _cpu_wait_seconds() - waited)  # less where a thread has ended
            usage.peak_mb = max(usage.peak_mb, peak.stop() - self.baseline_mb)
            if isinstance(peak, _GpuPeak):
                usage.reserved_mb = max(usage.reserved_mb, torch.cuda.max_memory_reserved(self.device) / MB)


class _GpuPeak:
    def __init__(self, device: torch.device) -> None:
        self.device = device
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)

    def stop(self) -> float:
        return torch.cuda.max_memory_allocated(self.device) / MB


def _cpu_wait_seconds() -> float:
    """Seconds for which threads of this process were ready to run but had no core; 0 where that is not counted."""
    nanoseconds = 0
    for file in TASKS.glob("*/schedstat"):  # three numbers: time on a core, time waiting for one, time slices
        with suppress(OSError, IndexError, ValueError):  # the thread has ended, or the kernel does not count
            nanoseconds += int(file.read_text().split()[1])
    return nanoseconds / 1e9


def release_freed_memory() -> None:
    """Let the C allocator return freed memory to the system; only glibc has a function for that."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _cpu_peak() -> _KernelPeak | _SampledPeak:
    try:
        return _KernelPeak()
    except OSError:  # no /proc (macOS, Windows), or a kernel that does not let us write there
        return _SampledPeak()


class _KernelPeak:
    """The peak that the Linux kernel records; writing 5 to clear_refs resets it to the present size."""

    def __init__(self) -> None:
        """
        Raises:
            OSError: the system does not record the peak.
        """
        CLEAR_REFS.write_text("5")
        if not _status_mb("VmHWM"):
            raise OSError(f"{STATUS} does not contain the peak")

    def stop(self) -> float:
        return _status_mb("VmHWM") - _shared_files_mb()


def _status_mb(name: str) -> float:
    """A size of this process from Linux's status file; 0 if the kernel leaves it out."""
    lines = [line for line in STATUS.read_text().splitlines() if line.startswith(name + ":")]
    return int(lines[0].split()[1]) * 1024 / MB if lines else 0.0


def _shared_files_mb() -> float:
    """Resident size of the mapped libraries and tokenised examples; 0 where the system does not report it.

    Computing it takes about 10 ms, so it is only done when the resident size of all files has changed.
    """
    if not STATUS.exists() or not _status_mb("RssFile"):
        return 0.0
    return _shared_files_mb_at(round(_status_mb("RssFile")))


@functools.lru_cache(maxsize=1)
def _shared_files_mb_at(file_mb: int) -> float:
    shared = (m for m in psutil.Process().memory_maps() if {".so", ".arrow"} & set(Path(m.path).suffixes))
    return sum(mapped.rss for mapped in shared) / MB


class _SampledPeak:
    """The peak on other systems, sampled by a thread every 10 ms; a shorter peak may be missed."""

    def __init__(self) -> None:
        self.process = psutil.Process()
        self.peak = self.process.memory_info().rss
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self) -> None:
        while not self.done.wait(0.01):
            self.peak = max(self.peak, self.process.memory_info().rss)

    def stop(self) -> float:
        self.done.set()
        self.thread.join()
        return max(self.peak, self.process.memory_info().rss) / MB - _shared_files_mb()
