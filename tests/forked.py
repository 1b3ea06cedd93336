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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.config import ROOT
from src.runs import isolation


def forked(module: str, *arguments: str, env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> Any:
    """Run `python -m MODULE ARGUMENTS`; the outcome as `subprocess.run` gives it."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = Path(folder) / "stdout", Path(folder) / "stderr"
        environment = dict(os.environ if env is None else env)
        process = isolation.CONTEXT.Process(
            target=_command, args=(module, arguments, [str(output) for output in outputs], environment, str(cwd))
        )
        process.start()
        process.join(300)
        if process.exitcode is None:
            process.kill()
            process.join()
        shown = [output.read_text(encoding="utf-8") for output in outputs]
        return subprocess.CompletedProcess([module, *arguments], process.exitcode, *shown)


def _command(
    module: str, arguments: tuple[str, ...], outputs: list[str], environment: Mapping[str, str], cwd: str
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for number, output in enumerate(outputs, start=1):
        handle = os.open(output, os.O_WRONLY | os.O_CREAT)
        os.dup2(handle, number)
        os.close(handle)
    isolation.METHOD = "fork"
    isolation.CONTEXT = multiprocessing.get_context("fork")
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
