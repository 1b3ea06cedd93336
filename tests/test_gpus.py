"""Runs that start at once on a machine with several GPUs: each has one of its own. The GPUs are imagined."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import torch

from src import sweep
from src.config import ROOT
from src.training.gpus import VISIBLE, free_gpu, visible_gpus

# Takes a GPU, says which, and keeps it until a line comes in.
HOLD = """
import os, sys
from pathlib import Path
from src.training.gpus import free_gpu
with free_gpu(Path(sys.argv[1]), sys.argv[2:]):
    print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
    input()
"""


@pytest.fixture
def holding(tmp_path):
    """Start a process that holds one of the GPUs 3 and GPU-a/b."""
    processes = []

    def start():
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path), "3", "GPU-a/b"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_each_process_has_a_gpu_of_its_own_and_frees_it_however_it_ends(holding):
    first, second = holding(), holding()
    taken = {process.stdout.readline().strip(): process for process in (first, second)}
    assert set(taken) == {"3", "GPU-a/b"}
    third, fourth = holding(), holding()  # they wait
    taken["3"].send_signal(signal.SIGKILL)
    taken["GPU-a/b"].communicate("\n")
    assert {process.stdout.readline().strip() for process in (third, fourth)} == {"3", "GPU-a/b"}


@pytest.fixture
def seen(monkeypatch, configure, tmp_path):
    """CUDA_VISIBLE_DEVICES of a run of joblib's: seen(number of GPUs, its value before, overrides)."""

    def of(count, before=None, *overrides):
        monkeypatch.delenv(VISIBLE, raising=False)
        if before is not None:
            monkeypatch.setenv(VISIBLE, before)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(sweep, "train", lambda config: os.environ.get(VISIBLE))
        found = sweep.train_on_a_free_gpu(configure("model=tiny", f"tracking.folder={tmp_path}", *overrides))
        assert os.environ.get(VISIBLE) == before, "it is put back"
        return found

    return of


def test_a_run_sees_one_gpu_of_those_that_are_given(seen, tmp_path):
    assert seen(2) == "0"
    with free_gpu(tmp_path, ["0", "1"]):
        assert seen(2, "0,1") == "1"
    assert seen(2, "GPU-x, GPU-y") == "GPU-x"


def test_with_one_gpu_or_none_nothing_changes(seen, tmp_path):
    assert seen(0) is None
    assert seen(1) is None
    assert seen(1, "5") == "5"
    assert seen(4, None, "hardware=cpu") is None
    assert not (tmp_path / "gpus").exists()
    assert visible_gpus() == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("launcher", "expected"), [("joblib", sweep.train_on_a_free_gpu), ("basic", sweep.train), ("ray", sweep.train)]
)
def test_joblib_alone_is_given_gpus(configure, tmp_path, monkeypatch, launcher, expected):
    """ray and SLURM give each run its own GPUs, and Hydra's basic launcher starts one run at a time."""
    from src.runs import isolation
    from src.runs.parent import ParentRun

    called = []

    def call(function, config, output, while_waiting):
        called.append(function)
        return isolation.Outcome(reason="The process was killed by SIGKILL.", error="Death")

    monkeypatch.setattr(isolation, "call", call)
    monkeypatch.setattr(isolation, "start_server", lambda modules: None)
    config = configure("model=tiny", f"tracking.folder={tmp_path}")
    parent = ParentRun.begin(config.tracking, None, "sweep", "identity", "command", planned=1, fresh=False)
    parent.started(0)
    config.sweep.parent = parent.run_id
    assert sweep.run_isolated(config, 0, launcher) is None
    assert called == [expected]
