"""A process of its own: what it hands back, what its death does not take along, and many at once on one store."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys

import pytest

from benchmarks.start_together import start_together
from src.config import UserError
from src.runs import isolation
from src.runs.isolation import call
from tests.conftest import TINY


def divide(numbers):
    a, b = numbers
    print("dividing", flush=True)
    return a / b


def refuse(sentence):
    raise UserError(sentence)


def die(how):
    os.kill(os.getpid(), how)


class Panic(BaseException):
    """What a panic in Rust is to Python."""


def panic(text):
    raise Panic(text)


def answer_nobody(_):
    receiver, sender = multiprocessing.Pipe(duplex=False)
    receiver.close()
    isolation._work(divide, (6, 3), None, dict(os.environ), sender)


def test_a_process_of_its_own_hands_back_what_happened(tmp_path, server):
    log = tmp_path / "log" / "output.txt"
    assert call(divide, (6, 3), log).value == 2
    assert log.read_text() == "dividing\n"
    failed = call(divide, (6, 0), log)
    assert (failed.reason, failed.error) == ("ZeroDivisionError: division by zero", "ZeroDivisionError")
    assert "Traceback" in log.read_text()
    assert call(refuse, "Lower it.", log).reason == "Lower it."
    assert call(die, signal.SIGSEGV, log).reason == "The process was killed by SIGSEGV."
    assert "SIGKILL; most often because memory ran out" in str(call(die, signal.SIGKILL, log).reason)
    assert call(answer_nobody, None, log).reason is None, "a caller that has gone is no fault"
    assert call(divide, (1, 2), log).value == 0.5, "the server died with its child"


def test_a_long_error_text_neither_blocks_nor_comes_in_full(tmp_path, server):
    reason = call(refuse, "Lower it. " * 100_000, tmp_path / "output.txt").reason
    assert reason.startswith("Lower it. Lower it.")
    assert len(reason) == isolation.LONGEST_REASON


def test_the_text_of_a_panic_is_carried_too(tmp_path, server):
    failed = call(panic, "index out of bounds", tmp_path / "output.txt")
    assert (failed.reason, failed.error) == ("Panic: index out of bounds", "Panic")


@pytest.mark.slow
def test_runs_that_start_together_on_an_empty_store_lose_nothing(configure, server, tmp_path):
    assert start_together(configure(*TINY, "hardware.threads=1"), tmp_path / "store", count=4) == []


@pytest.mark.skipif(isolation.METHOD != "forkserver", reason="a spawned process has the environment of its parent")
@pytest.mark.parametrize(
    "given, expected", [(None, isolation.ALLOCATOR["GLIBC_TUNABLES"]), ("glibc.malloc.mxfast=0",) * 2]
)
def test_runs_start_with_an_allocator_that_reuses_the_memory_of_tensors(given, expected):
    """The allocator reads its variable when the server, from which runs are forked, is executed."""
    code = (
        "from pathlib import Path; from src.runs.isolation import call, start_server; start_server([]);"
        "print(call(Path.read_bytes, Path('/proc/self/environ')).value)"
    )
    environment = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"}
    environment |= {} if given is None else {"GLIBC_TUNABLES": given}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    first, *others = expected.split(":")  # glibc ends each of them with a zero while it reads them
    assert f"GLIBC_TUNABLES={first}" in done.stdout and all(other in done.stdout for other in others)
