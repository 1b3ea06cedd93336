"""Other systems than Linux: what they lack is taken away here, and everything goes on another way."""

from __future__ import annotations

import ctypes
import mmap
import multiprocessing
import operator
import os
import platform
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import psutil
import pytest
import torch

from src import server
from src.config import HardwareConfig
from src.runs import identity, isolation, provenance
from src.training import checkpoint, hardware
from src.training import meter as measuring


@pytest.fixture
def no_proc(monkeypatch):
    """As on macOS and Windows."""
    for name in ("STATUS", "CLEAR_REFS", "TASKS"):
        monkeypatch.setattr(measuring, name, Path("/nowhere") / name)


@pytest.fixture
def no_glibc(monkeypatch):
    """As on Windows, where CDLL(None) is a TypeError."""

    def refuse(name):
        raise TypeError(f"bad argument type: {name}")

    monkeypatch.setattr(ctypes, "CDLL", refuse)


def test_memory_and_time_are_measured_without_proc_and_glibc(no_proc, no_glibc):
    meter = measuring.Meter(torch.device("cpu"))
    # Not from the allocator, which may have as much to spare.
    with meter.phase(meter.train), mmap.mmap(-1, 150_000_000) as block:
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
        time.sleep(0.1)  # ten samples
    assert isinstance(measuring._cpu_peak(), measuring._SampledPeak)
    assert meter.train.peak_mb > 140
    assert meter.train.seconds > 0
    assert meter.train.cpu_wait_seconds == 0
    assert measuring._shared_files_mb() == 0


def test_a_kernel_that_tells_less_than_linux(monkeypatch, tmp_path):
    """gVisor, say: /proc is there, and lacks the peak and the files."""
    (tmp_path / "status").write_text("Name:\tpython\nVmRSS:\t  1000 kB\n")
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "schedstat").write_text("")
    monkeypatch.setattr(measuring, "STATUS", tmp_path / "status")
    monkeypatch.setattr(measuring, "CLEAR_REFS", tmp_path / "clear_refs")
    monkeypatch.setattr(measuring, "TASKS", tmp_path)
    assert isinstance(measuring._cpu_peak(), measuring._SampledPeak)
    assert measuring._shared_files_mb() == 0
    assert measuring._cpu_wait_seconds() == 0


def test_sampled_memory_is_counted_from_the_same_baseline(monkeypatch):
    """Where the kernel lets nobody reset its peak, shared files are left out on both sides."""
    monkeypatch.setattr(measuring, "_shared_files_mb", lambda: 1000.0)
    resident = psutil.Process().memory_info().rss / measuring.MB
    assert measuring._SampledPeak().stop() == pytest.approx(resident - 1000, abs=20)


def test_threads_and_precision_on_a_system_that_tells_nothing(monkeypatch, no_glibc):
    threads = torch.get_num_threads()
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: None)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name)
    try:
        runtime = hardware.start(HardwareConfig(name="cpu", device="cpu", threads=3))
        assert str(runtime) == "CPU, 3 threads, fp32"
    finally:
        torch.set_num_threads(threads)


def test_a_checkpoint_reaches_a_disk_whose_folders_cannot_be_opened(monkeypatch, tmp_path):
    """As on Windows, where a file that is open for reading cannot be flushed either."""
    folder = tmp_path / "step-1"
    folder.mkdir()
    (folder / "trained.safetensors").write_bytes(b"weights")
    flushed, flush, opened = [], os.fsync, os.open

    def fsync(handle):
        os.write(handle, b"")  # an error where the file may not be written
        flushed.append(handle)
        flush(handle)

    def open_file(path, *args, **kwargs):
        if Path(path).is_dir():
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **kwargs)

    monkeypatch.delattr(os, "O_DIRECTORY")
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "open", open_file)
    checkpoint._to_disk(folder)
    assert len(flushed) == 1
    assert (folder / "trained.safetensors").read_bytes() == b"weights"


@pytest.mark.parametrize(
    ("system", "methods", "expected"),
    [
        ("linux", ["fork", "spawn", "forkserver"], "forkserver"),
        ("darwin", ["spawn", "fork", "forkserver"], "spawn"),
        ("win32", ["spawn"], "spawn"),
    ],
)
def test_how_processes_are_started(monkeypatch, system, methods, expected):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: methods)
    assert isolation.start_method() == expected


def test_a_process_is_started_where_none_can_be_forked(monkeypatch, tmp_path):
    before = multiprocessing.get_start_method(allow_none=True)
    monkeypatch.setattr(isolation, "METHOD", "spawn")
    monkeypatch.setattr(isolation, "CONTEXT", multiprocessing.get_context("spawn"))
    try:
        isolation.start_server(["torch"])  # there is none, and nothing is imported
        assert isolation.call(operator.neg, 3, tmp_path / "log").value == -3
    finally:
        multiprocessing.set_start_method(before, force=True)


def test_a_process_ends_with_its_parent_without_sigkill(monkeypatch):
    receiver, sender = multiprocessing.Pipe(duplex=False)
    sender.close()  # the parent is gone
    ended = []
    monkeypatch.delattr(signal, "SIGKILL")
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: types.SimpleNamespace(sentinel=receiver))
    monkeypatch.setattr(os, "_exit", ended.append)
    isolation._end_with_parent()
    assert ended == [1]


def test_a_death_by_an_unknown_signal_is_told():
    assert isolation._death(-99) == "The process was killed by signal 99."
    assert isolation._death(3221225477) == "The process ended with exit status 3221225477."


def test_a_process_that_may_not_be_looked_at_is_alive(monkeypatch):
    def refuse(self):
        raise psutil.AccessDenied(self.pid)

    tags = identity.process_tags()
    monkeypatch.setattr(psutil.Process, "status", refuse)
    assert identity.alive(tags)


def test_the_ui_ends_with_its_workers_without_process_groups(monkeypatch):
    monkeypatch.delattr(os, "killpg")
    worker = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    process = subprocess.Popen([sys.executable, "-c", worker], stdin=subprocess.PIPE)
    while not (children := psutil.Process(process.pid).children()):
        assert process.poll() is None
    server.end_with_children(process)
    psutil.wait_procs(children, timeout=30)
    assert process.poll() is not None
    assert not any(child.is_running() for child in children)


def test_the_processor_has_a_name_without_proc(monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda self: False)
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert provenance._processor() == "arm64"
