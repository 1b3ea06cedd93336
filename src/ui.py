"""Open the MLflow UI on the store that runs are logged to, for this machine alone.

    python -m src.ui
    python -m src.ui port=5001 folder=mlruns experiment=tuneoff

With tracking.uri= the UI is the server's own. The address that is printed shows the runs of the experiment, the best F1
first. What the UI's server logs goes to ui.log in the store's folder.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
from pydantic import Field

from src.arguments import ExperimentArguments, read
from src.compose import MISTAKES, fail
from src.config import UserError
from src.console import begin

POLL_SECONDS = 0.2


class Ui(ExperimentArguments):
    """What src.ui takes."""

    port: int = Field(5000, ge=1, le=65535, description="the port of this machine that the UI answers on")


def end_with_children(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it has started, on every system."""
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.terminate()
    process.terminate()
    process.wait()


def main() -> None:
    """The command line."""
    try:
        begin()
        given = read(Ui, sys.argv[1:], str(__doc__))
        from src.runs.store import connect
        from src.runs.view import address

        tracking = given.tracking()
        store = connect(tracking, create=False)
        if not store.uri.startswith("sqlite"):
            print(f"The store is a server; open {address(store.uri, store)}")
            return
        if _answers(given.port):
            raise UserError(f"port={given.port} is taken; choose another, such as port={given.port + 1}.")
        page = address(f"http://127.0.0.1:{given.port}", store)
        serve(store.uri, given.port, page, Path(tracking.folder) / "ui.log")
    except MISTAKES as error:
        fail(error)


def serve(uri: str, port: int, page: str, log: Path) -> None:
    """Run MLflow's UI until it is interrupted; its address is printed when it answers.

    Args:
        uri: of the store.
        port: of this machine.
        page: the address to print.
        log: a new file, for what the server prints.

    Raises:
        UserError: the server ended by itself.
    """
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    # Its workers for evaluations of language models are eight processes that nobody needs here.
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        # A session of its own where there are such: Ctrl-C is for this process, which ends the workers as well.
        server = subprocess.Popen(
            command, env=environment, start_new_session=True, stdout=output, stderr=subprocess.STDOUT
        )
    print(f"MLflow's UI starts; its log is {log}", file=sys.stderr)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        while server.poll() is None and not _answers(port):
            time.sleep(POLL_SECONDS)
        if server.poll() is None:
            print(f"{page}  (Ctrl-C ends it)", flush=True)
        status = server.wait()
    except KeyboardInterrupt:
        end_with_children(server)
        return
    raise UserError(f"The UI ended by itself, with exit status {status}; {log} says why.")


def _answers(port: int) -> bool:
    """Whether something listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    main()
