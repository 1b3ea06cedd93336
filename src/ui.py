"""Open the MLflow UI on the store that runs are logged to, for this machine alone.

    python -m src.ui
    python -m src.ui port=5001 folder=mlruns experiment=tuneoff

With tracking.uri= the UI is the server's own. The address that is printed shows the runs of the experiment, the best F1
first. What the UI's server logs goes to ui.log in the store's folder, or to a temporary one where that is read-only.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pydantic import Field

from src.arguments import ExperimentArguments, read
from src.compose import MISTAKES, fail
from src.console import begin
from src.server import HOST, log_of, refuse_port_in_use, run_server

HOSTS = "MLFLOW_SERVER_ALLOWED_HOSTS"
# The names that a browser on this machine has for it. MLflow's own default also takes 10.* and 192.168.*, which names
# of hosts begin with as well: a page from anywhere could send its visitor's browser to the UI under such a name.
THIS_MACHINE = "localhost,localhost:*,127.0.0.1,127.0.0.1:*"


class Ui(ExperimentArguments):
    """What src.ui takes."""

    port: int = Field(5000, ge=1, le=65535, description="the port of this machine that the UI answers on")


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
        refuse_port_in_use(given.port)
        if store.writable:  # the UI changes it too, where somebody asks it to
            store = connect(tracking)
        page = address(f"http://{HOST}:{given.port}", store)
        # Its workers for evaluations of language models are eight processes that nobody needs here.
        environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", HOSTS: os.environ.get(HOSTS, THIS_MACHINE)}
        arguments = ["ui", "--backend-store-uri", store.uri, "--workers", "1"]
        run_server(arguments, environment, given.port, "MLflow's UI", page, log_of("ui", Path(tracking.folder)))
    except MISTAKES as error:
        fail(error)


if __name__ == "__main__":
    main()
