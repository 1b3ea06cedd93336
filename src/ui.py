"""Open the MLflow UI on the store of the runs, for this machine only.

    python -m src.ui
    python -m src.ui port=5001 folder=mlruns experiment=tuneoff

With tracking.uri= the server has a UI already. The printed address shows the runs of the experiment, the best F1 first.
The UI's server logs to ui.log in the store's folder, or in a temporary folder if that one is read-only.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pydantic import Field

from src.arguments import ExperimentArguments, read
from src.compose import MISTAKES, fail
from src.console import begin
from src.server import HOST, HOSTS, THIS_MACHINE, log_of, refuse_port_in_use, run_server


class Ui(ExperimentArguments):
    """The keys of src.ui."""

    port: int = Field(5000, ge=1, le=65535, description="the port of the UI")


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
        if store.writable:  # users can change the store in the UI
            store = connect(tracking)
        page = address(f"http://{HOST}:{given.port}", store)
        # Its workers for evaluations of language models are eight processes that are not needed here.
        environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", HOSTS: os.environ.get(HOSTS, THIS_MACHINE)}
        arguments = ["-m", "mlflow", "ui", "--backend-store-uri", store.uri, "--workers", "1"]
        run_server(arguments, environment, given.port, "MLflow's UI", page, log_of("ui", Path(tracking.folder)))
    except MISTAKES as error:
        fail(error)


if __name__ == "__main__":
    main()
