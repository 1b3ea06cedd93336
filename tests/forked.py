"""Commands in processes that are forked from a server which has imported everything: a fresh interpreter takes seconds.

The command line is the real one: arguments, output, exit status, signals. The runs that a command isolates are forked
from the command instead of from a second server.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from src.config import ROOT
from src.runs import isolation


def forked(module: str, *arguments: str, env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> Any:
    """Run `python -m MODULE ARGUMENTS`; the outcome as `subprocess.run` gives it."""
    with started(module, *arguments, env=env, cwd=cwd) as process:
        shown = process.communicate(timeout=300)
    return subprocess.CompletedProcess([module, *arguments], process.returncode, *shown)


@contextmanager
def started(module: str, *arguments: str, env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> Iterator[Process]:
    """`python -m MODULE ARGUMENTS` under way; it is killed at the end if it still runs."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / "stdout", Path(folder) / "stderr"]
        for output in outputs:
            output.touch()
        environment = dict(os.environ if env is None else env)
        running = isolation.CONTEXT.Process(
            target=_command, args=(module, arguments, [str(output) for output in outputs], environment, str(cwd))
        )
        running.start()
        try:
            yield Process(running, outputs)
        finally:
            running.kill()
            running.join()


class Process:
    """A command under way, with what the tests use of `subprocess.Popen`."""

    def __init__(self, process: Any, outputs: Sequence[Path]) -> None:
        self.process, self.outputs = process, outputs

    @property
    def returncode(self) -> Any:
        return self.process.exitcode

    def poll(self) -> Any:
        """The exit status, or None while it runs."""
        return self.process.exitcode

    def shown(self) -> list[str]:
        """What it has printed so far to stdout and to stderr."""
        return [output.read_text(encoding="utf-8") for output in self.outputs]

    def communicate(self, timeout: float = 60) -> list[str]:
        """Wait for its end; what it has printed to stdout and to stderr."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise TimeoutError(f"still running after {timeout} s: {self.shown()}")
        return self.shown()

    def send_signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.process.kill()


def _command(
    module: str, arguments: tuple[str, ...], outputs: list[str], environment: Mapping[str, str], cwd: str
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for number, output in enumerate(outputs, start=1):
        handle = os.open(output, os.O_WRONLY)
        os.dup2(handle, number)
        os.close(handle)
    isolation.METHOD = "fork"
    isolation.CONTEXT = multiprocessing.get_context("fork")
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
