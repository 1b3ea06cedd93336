"""Runs a function in a separate process, forked from a server that has already imported the libraries.

Whatever happens to that process (a segmentation fault, the kernel's out-of-memory killer), the caller survives, and its
memory is measured separately. Where the system cannot fork (Windows), or not safely (macOS), a new process is started,
which is slower.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

from src.compose import MISTAKES, explain
from src.console import tolerate_any_encoding


def start_method() -> str:
    """The start method of new processes on this system, as multiprocessing calls it."""
    # macOS's system libraries may crash in a forked process.
    forks = "forkserver" in multiprocessing.get_all_start_methods() and sys.platform != "darwin"
    return "forkserver" if forks else "spawn"


METHOD = start_method()
CONTEXT: Any = multiprocessing.get_context(METHOD)
# glibc's malloc pads each tensor for its alignment and frees the padding that it did not need. These small blocks go
# to caches (tcache, fastbins), where they are not merged with their neighbours. The block of a freed tensor is then
# too small for the next tensor of the same size. Without these caches, MiniLM needs a quarter less memory with full
# fine-tuning, and a third less with LoRA. glibc reads the variable when a process starts.
ALLOCATOR = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0"}
STOP_SECONDS = 60.0  # the time that an interrupted process has to clean up
POLL_SECONDS = 1.0
LONGEST_REASON = 10_000  # characters


@dataclass(frozen=True)
class Outcome:
    """The outcome of a call: the returned `value`, or the `reason` for failure in one sentence and the error's type."""

    value: Any = None
    reason: str | None = None
    error: str = ""


def start_server(modules: list[str]) -> None:
    """Start importing `modules` in the background; all later processes have them imported."""
    # Resources of a killed process are cleaned up, so the warning about them is not needed.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning")
    for name, value in ALLOCATOR.items():
        os.environ.setdefault(name, value)
    if METHOD == "forkserver":
        CONTEXT.set_forkserver_preload(modules)
        from multiprocessing import forkserver

        forkserver.ensure_running()


def call(
    function: Callable[[Any], Any],
    argument: Any,
    output: Path | None = None,
    while_waiting: Callable[[], None] | None = None,
) -> Outcome:
    """Run `function(argument)` in a new process and wait for it.

    Args:
        function: of an importable module; it raises UserError for mistakes that the user can correct.
        argument: a picklable object; the returned value must be picklable, too.
        output: the file that all output is appended to; None: the output of this process.
        while_waiting: called every `POLL_SECONDS` until the process has ended.

    Raises:
        KeyboardInterrupt: this process was interrupted; the other one was ended as well.
    """
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
    receiver, sender = CONTEXT.Pipe(duplex=False)
    # A worker of joblib sets its own start method, which the new process would inherit but does not know.
    multiprocessing.set_start_method(METHOD, force=True)
    process = CONTEXT.Process(target=_work, args=(function, argument, output, dict(os.environ), sender))
    process.start()
    sender.close()
    try:
        # Receive before joining: a process with a large result cannot end before the result is read.
        while not (ready := connection.wait([receiver, process.sentinel], POLL_SECONDS)):
            if while_waiting is not None:
                while_waiting()
        outcome = _receive(receiver) if receiver in ready or receiver.poll() else None
        process.join(STOP_SECONDS)
        process.kill()  # in case it hangs after its result
        process.join()
    except KeyboardInterrupt:
        process.terminate()
        process.join(STOP_SECONDS)
        process.kill()
        process.join()
        raise
    return outcome or Outcome(reason=_death(process.exitcode), error="Death")


def _receive(receiver: Any) -> Outcome | None:
    """The outcome that the process sent; None if it died before it had sent all of it."""
    try:
        outcome: Outcome = receiver.recv()
        return outcome
    except (EOFError, OSError):
        return None


def _death(exit_code: int) -> str:
    if exit_code >= 0:
        return f"The process ended with exit status {exit_code}."
    known = {number.value: number.name for number in signal.Signals}
    name = known.get(-exit_code, f"signal {-exit_code}")
    hint = "; most often because memory ran out" if name == "SIGKILL" else ""
    return f"The process was killed by {name}{hint}."


def _work(
    function: Callable[[Any], Any], argument: Any, output: Path | None, environment: dict[str, str], sender: Any
) -> None:
    """The main function of the new process."""
    os.environ.clear()
    os.environ.update(environment)  # the environment of the server is that of its start
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if output is not None:
        with output.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
    tolerate_any_encoding(None if output is None else "utf-8")
    faulthandler.enable()
    try:
        outcome = Outcome(value=function(argument))
    except KeyboardInterrupt:
        outcome = Outcome(reason="Interrupted.", error="KeyboardInterrupt")
    except MISTAKES as error:
        outcome = Outcome(reason=explain(error)[:LONGEST_REASON], error=type(error).__name__)
        if output is not None:
            print(f"\nError: {outcome.reason}", flush=True)
    # A bug: the traceback goes to the output, and one line to the caller. BaseException, because a panic of a library
    # written in Rust (tokenizers, safetensors) does not derive from Exception.
    except BaseException as error:
        traceback.print_exc()
        name = type(error).__name__
        outcome = Outcome(reason=f"{name}: {' '.join(str(error).split())[:LONGEST_REASON]}", error=name)
    with suppress(BrokenPipeError):  # the caller, interrupted twice, did not wait
        sender.send(outcome)


def _end_with_parent() -> None:
    """End this process when its parent ends, so that it does not continue next to its successor."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)  # immediately, on every system
