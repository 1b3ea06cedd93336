"""Ends a run of several processes soon after one of them is lost.

A process that is killed closes its connections, so the next exchange of the others fails at once. A process that is
stopped, or whose machine hangs, keeps them open: the others would wait for it until torch gives up, after half an hour.
So each process counts up a number in torch's key-value store, and watches the numbers of the others.
"""

from __future__ import annotations

import ast
import itertools
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil
from accelerate import PartialState
from torch import distributed

from src.config import UserError

BEAT_SECONDS = 3.0
MISSED_BEATS = 10  # after so many without a change, a process counts as lost
EXIT_SECONDS = 20.0  # what is left for an orderly end after that; then the process exits
LEFT = 10**9  # added to the number of a process that has ended its part of the run
CONTINUES = "The same command continues from the last checkpoint."
_watches = itertools.count()  # the same number in all processes, which enter their runs in the same order


@contextmanager
def all_respond() -> Iterator[None]:
    """End this process with a sentence if another process of the run ends or does not respond for half a minute.

    Raises:
        UserError: another process is lost.
    """
    state = PartialState()
    if state.num_processes == 1:
        yield
        return
    store: Any = distributed.distributed_c10d._get_default_store()
    watch = Watch(store.clone(), state.process_index, state.num_processes)
    try:
        yield
    except RuntimeError as error:
        if not is_lost_connection(error):
            raise
        brief = str(error).strip().splitlines()[0]
        raise UserError(watch.sentence or f"Another process of this run has ended ({brief}). {CONTINUES}") from error
    finally:
        watch.leave()


def is_lost_connection(error: RuntimeError) -> bool:
    """Whether an error says that an exchange between the processes failed; gloo's errors have no class."""
    return isinstance(error, distributed.DistError) or any(name in str(error) for name in ("gloo", "NCCL"))


class Watch:
    """Two threads: one exchanges the numbers; the other ends the run if the numbers of a process stay the same.

    Args:
        store: of the process group; a client that nothing else uses, because a call may block for ever.
        rank, processes: the index of this process and the number of processes.
    """

    def __init__(self, store: Any, rank: int, processes: int) -> None:
        self.store, self.rank, self.prefix = store, rank, f"watch {next(_watches)}"
        self.missed = {peer: 0 for peer in range(processes) if peer != rank}
        self.exchange_missed = 0
        self.over = threading.Event()
        self.sentence = ""
        itself = (socket.gethostname(), os.getpid(), psutil.Process().create_time())
        store.set(f"{self.prefix} process {rank}", repr(itself))
        names = {peer: store.get(f"{self.prefix} process {peer}").decode() for peer in self.missed}
        self.processes = {peer: ast.literal_eval(name) for peer, name in names.items()}
        self.threads = [threading.Thread(target=each, daemon=True) for each in (self._exchange, self._judge)]
        for thread in self.threads:
            thread.start()

    def leave(self) -> None:
        """Stop watching, and let the others know that this process has ended its part."""
        self.over.set()
        self.threads[0].join(BEAT_SECONDS)  # the store may be gone, and then it blocks

    def _exchange(self) -> None:
        seen = dict.fromkeys(self.missed, 0)
        try:
            while not self.over.wait(BEAT_SECONDS):
                self.store.add(self._key(self.rank), 1)
                for peer in list(self.missed):
                    number = self.store.add(self._key(peer), 0)
                    if number >= LEFT:
                        del self.missed[peer]
                    elif number != seen[peer]:
                        seen[peer], self.missed[peer] = number, 0
                self.exchange_missed = 0
            self.store.add(self._key(self.rank), LEFT)
        except RuntimeError:  # the process that holds the store has ended, and the next exchange with it fails
            self.missed.clear()

    def _key(self, peer: int) -> str:
        return f"{self.prefix} number {peer}"

    def _judge(self) -> None:
        # Beats are counted, not seconds: while this process is suspended itself, it counts none.
        while not self.over.wait(BEAT_SECONDS):
            self.exchange_missed += 1
            for peer in list(self.missed):
                self.missed[peer] += 1
            lost = [peer for peer, missed in list(self.missed.items()) if missed > MISSED_BEATS]
            if self.exchange_missed > MISSED_BEATS:  # the store itself does not answer; the first process holds it
                lost = [peer for peer in lost if peer == 0]
            if lost:
                self._end(lost)
                return

    def _end(self, lost: list[int]) -> None:
        """Kill the lost processes of this machine, which lets the exchanges with them fail; exit if nothing does."""
        names = ", ".join(
            f"{peer} (on {self.processes[peer][0]}, process id {self.processes[peer][1]})" for peer in lost
        )
        self.sentence = (
            f"Process {names} of this run did not respond for {MISSED_BEATS * BEAT_SECONDS:.0f} seconds, so the run "
            f"ends. {CONTINUES}"
        )
        for host, pid, begun in (self.processes[peer] for peer in lost):
            with suppress(psutil.Error):
                if host == socket.gethostname() and psutil.Process(pid).create_time() == begun:
                    os.kill(pid, signal.SIGKILL)
        if not self.over.wait(EXIT_SECONDS):
            print(f"Error: {self.sentence}", file=sys.stderr, flush=True)
            os._exit(1)
