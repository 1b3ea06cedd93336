"""MLflow's scoring server for one model, which answers only requests under given host names; `src.serve` starts it.

It runs as a script outside the package, because a stored model comes with the code that answers, which is called `src`
too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any


def main() -> None:
    """Load the model and answer requests until the process is ended."""
    # Python looks for imports in the folder of the script first, where `data`, `model` and others are modules of ours.
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
    """The application, restricted to requests under some host names; * in a name matches any text.

    Otherwise a web page could make its own host name point to this machine, and the browser of its visitor would let it
    read the answers (DNS rebinding).
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
