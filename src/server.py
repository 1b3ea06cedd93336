"""Runs a server of MLflow until it is interrupted, for `src.ui` and `src.serve`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from src.config import UserError

POLL_SECONDS = 0.2
HOST = "127.0.0.1"  # this machine alone
HOSTS = "MLFLOW_SERVER_ALLOWED_HOSTS"
# The names that a browser on this machine has for it. MLflow's own default also takes 10.* and 192.168.*, which names
# of hosts begin with as well: a page from anywhere could send its visitor's browser to a server under such a name.
THIS_MACHINE = "localhost,localhost:*,127.0.0.1,127.0.0.1:*"


def refuse_port_in_use(port: int) -> None:
    """Check, before anything is started, that no server uses a port of this machine.

    Raises:
        UserError: the port is in use.
    """
    if _answers(port):
        raise UserError(f"port={port} is taken; choose another, such as port={port + 1}.")


def log_of(command: str, folder: Path) -> Path:
    """The file for a server's output: in the store's folder, or in a temporary folder if that one is read-only."""
    readable_alone = folder.exists() and not os.access(folder, os.W_OK)
    return (Path(tempfile.mkdtemp(prefix="tuneoff-")) if readable_alone else folder) / f"{command}.log"


def run_server(
    arguments: Sequence[str], environment: Mapping[str, str], port: int, name: str, address: str, log: Path
) -> None:
    """Run `python ARGUMENTS` until it is interrupted; its address is printed when it answers.

    Args:
        arguments: that start a server, without host and port.
        environment: variables that are set for it.
        port: of this machine.
        name: of what is served, for messages.
        address: the text to print.
        log: a new file, for what the server prints.

    Raises:
        UserError: the server ended by itself.
    """
    command = [sys.executable, *arguments, "--host", HOST, "--port", str(port)]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        # The server gets a new session, so that Ctrl-C reaches only this process, which ends the workers as well.
        server = subprocess.Popen(  # no shell, and a command of ours  # nosec B603
            command, env=os.environ | environment, start_new_session=True, stdout=output, stderr=subprocess.STDOUT
        )
    print(f"{name} starts; its log is {log}", file=sys.stderr)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        while server.poll() is None and not _answers(port):
            time.sleep(POLL_SECONDS)
        if server.poll() is None:
            print(f"{address}  (Ctrl-C ends it)", flush=True)
        status = server.wait()
    except KeyboardInterrupt:
        end_with_children(server)
        return
    raise UserError(f"{name} ended by itself, with exit status {status}; {log} says why.")


def end_with_children(process: subprocess.Popen[bytes]) -> None:
    """End a process and all its descendants, on every system."""
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.terminate()
    process.terminate()
    process.wait()


def _answers(port: int) -> bool:
    """Whether something listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0
