"""MLflow's scoring server for one model, for requests under some names of this machine alone; `src.serve` starts it.

It runs as a script, outside the package: a stored model brings along the code that answers, which is called `src` too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any


def main() -> None:
    """Load the model and answer, until it is ended."""
    # Where Python looks first for what a script imports: in this folder, where `data`, `model` and the like are ours.
    here = Path(__file__).resolve().parent
    sys.path[:] = [path for path in sys.path if not path or Path(path).resolve() != here]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model-uri", required=True)
    parser.add_argument("--allowed-hosts", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    import uvicorn
    from mlflow.pyfunc import scoring_server

    app = scoring_server.init(scoring_server.load_model_with_mlflow_config(given.model_uri))
    uvicorn.run(under(given.allowed_hosts.split(","), app), host=given.host, port=given.port)


def under(names: Sequence[str], app: Any) -> Any:
    """The application for requests under some names alone, in which * stands for anything.

    A web page can have a name of its own lead to this machine, and would then be let by the visitor's browser to read
    what is answered here.
    """
    from starlette.responses import PlainTextResponse

    async def checked(scope: Any, receive: Any, send: Any) -> None:
        host = dict(scope.get("headers", ())).get(b"host", b"").decode("latin-1").lower()
        if scope["type"] == "lifespan" or any(fnmatchcase(host, name.strip()) for name in names):
            await app(scope, receive, send)
        else:
            await PlainTextResponse("Requests under this name are not answered.", 403)(scope, receive, send)

    return checked


if __name__ == "__main__":
    main()
