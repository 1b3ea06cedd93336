"""Open the MLflow UI on the store that runs are logged to, for this machine alone.

    python -m src.ui
    python -m src.ui port=5001 tracking.folder=mlruns tracking.experiment=tuneoff

`port=` is 5000 unless given; with tracking.uri= the UI is the server's own. The address that is printed shows the runs
of the experiment, the best F1 first.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress

import psutil

from src.compose import explain, key_values
from src.config import TrackingConfig, UserError
from src.console import begin

KEYS = ("port", "tracking.folder", "tracking.uri", "tracking.experiment")


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
    begin()
    try:
        given = key_values(sys.argv[1:], KEYS, str(__doc__))
        port = given.get("port", "5000")
        if not port.isdecimal() or not 0 < int(port) < 65536:
            raise UserError(f"port={port} is no port; give a number from 1 to 65535.")
        from src.runs.store import connect
        from src.runs.view import address

        tracking = TrackingConfig(
            folder=given.get("tracking.folder", "mlruns"),
            uri=given.get("tracking.uri"),
            experiment=given.get("tracking.experiment", "tuneoff"),
        )
        store = connect(tracking, create=False)
        if not store.uri.startswith("sqlite"):
            print(f"The store is a server; open {address(store.uri, store)}")
            return
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", int(port))) == 0:
                raise UserError(f"port={port} is taken; choose another, such as port={int(port) + 1}.")
        print(f"{address(f'http://127.0.0.1:{port}', store)}  (Ctrl-C ends it)", flush=True)
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "ui",
            "--backend-store-uri",
            store.uri,
            "--host",
            "127.0.0.1",
            "--port",
            port,
            "--workers",
            "1",
        ]
        # Its workers for evaluations of language models are eight processes that nobody needs here.
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        # A session of its own where there are such: Ctrl-C is for this process, which ends the workers as well.
        ui = subprocess.Popen(command, env=environment, start_new_session=True)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            sys.exit(ui.wait())
        except KeyboardInterrupt:
            end_with_children(ui)
    except (UserError, OSError) as error:
        print(f"Error: {explain(error)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
