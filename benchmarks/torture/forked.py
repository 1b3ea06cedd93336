"""Commands in processes that are forked from this one, which has imported everything: an interpreter takes seconds.

Arguments, output, exit status, signals and process groups are those of `python -m MODULE ARGUMENTS`; the runs that a
command isolates are forked from the command, not from a server.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

FORK: Any = multiprocessing.get_context("fork")


class Forked:
    """A command under way, with what is used of `subprocess.Popen`."""

    def __init__(self, words: Sequence[str], folder: Path, environment: Mapping[str, str], output: Path) -> None:
        self.process = FORK.Process(target=_command, args=(words, folder, environment, output))
        self.process.start()
        self.pid = int(self.process.pid)

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        code: int | None = self.process.exitcode
        return code

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises:
            TimeoutExpired: it still runs.
        """
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired("the command", timeout or 0)
        return int(self.process.exitcode)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.process.kill()


def apart(function: Callable[..., Any], *given: Any) -> Any:
    """Call a function in a separate process, because an open database must not be forked into a command."""
    with FORK.Pool(1) as pool:
        return pool.apply(function, given)


def preload() -> None:
    """Import what the commands do."""
    import hydra.main  # noqa: F401
    import mlflow  # noqa: F401

    import src.warm  # noqa: F401


def _command(words: Sequence[str], folder: Path, environment: Mapping[str, str], output: Path) -> None:
    import datasets

    from src.runs import isolation

    os.setpgrp()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    tempfile.tempdir = None  # read again from the environment
    datasets.config.HF_DATASETS_CACHE = Path(environment["HF_HOME"]) / "datasets"
    handle = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for number in (1, 2):
        os.dup2(handle, number)
    kept = sys.stdout, sys.stderr  # not to be closed with their last reference
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    isolation.METHOD, isolation.CONTEXT = "fork", FORK
    sys.argv = list(words)
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    del kept
