"""Serve the model of a finished run over HTTP, for this machine only.

    python -m src.serve run=RUN port=5001

A RUN is the beginning of a run's id, a run's name, or `best`. The server is that of `mlflow models serve`, with the
packages that are installed here (docs/trained.md says how it runs elsewhere). It logs to serve.log in the folder of
the store.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from pydantic import Field

from src.arguments import StoreArguments, read
from src.compose import MISTAKES, fail
from src.config import UserError
from src.console import begin
from src.credentials import with_secrets
from src.server import HOST, HOSTS, THIS_MACHINE, log_of, refuse_port_in_use, run_server

TIMEOUT = "MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT"
SCRIPT = Path(__file__).with_name("scoring.py")
REQUEST = {"dataframe_records": [{"question": "Who wrote it?", "context": "It was written by Ada."}]}


class Serve(StoreArguments):
    """The keys of src.serve."""

    run: str = Field(description="the beginning of a run's id, its name, or best")
    port: int = Field(5001, ge=1, le=65535, description="the port of the server")
    base: str | None = Field(
        None, alias="model.path", description="the base model of an adapter, if the run had it in another place"
    )


def main() -> None:
    """The command line."""
    try:
        begin()
        given = read(Serve, sys.argv[1:] or ["--help"], str(__doc__))
        refuse_port_in_use(given.port)
        from src.runs.results import resolve_run
        from src.runs.store import connect

        store = connect(given.tracking(), create=False)
        chosen, note = resolve_run(store.everywhere(), given.run)
        if note:
            print(note, file=sys.stderr)
        if store.text(chosen.id, "model/MLmodel") is None:
            raise UserError(
                f"run={given.run} stored no model that MLflow can serve (it is {chosen.status}, or an older version "
                "of this program made it); choose another run, or train it again (rerun=true)."
            )
        environment = {
            "MLFLOW_TRACKING_URI": with_secrets(store.uri) or store.uri,
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        }
        # MLflow's default limit is 60 s, in which a decoder on a CPU answers only some dozens of questions.
        environment[TIMEOUT] = os.environ.get(TIMEOUT, "600")
        base, trained_from = given.base, chosen.params.get("model.path", "")
        if base is None and Path(trained_from).expanduser().is_dir():
            base = trained_from  # the stored model does not contain paths of this machine
        if base is not None:
            environment["MLFLOW_PYFUNC_INFERENCE_CONFIG"] = json.dumps({"base": base})
        hosts = os.environ.get(HOSTS, THIS_MACHINE)
        arguments = [str(SCRIPT), "--model-uri", f"runs:/{chosen.id}/model", "--allowed-hosts", hosts]
        place = f"http://{HOST}:{given.port}/invocations"
        print(f"curl {place} -H 'Content-Type: application/json' -d '{json.dumps(REQUEST)}'")
        run_server(arguments, environment, given.port, chosen.name, place, log_of("serve", Path(given.folder)))
    except MISTAKES as error:
        fail(error)


if __name__ == "__main__":
    main()
