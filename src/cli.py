"""The command `tuneoff`: `tuneoff train ...` is `python -m src.train ...`, and so on for the others."""

from __future__ import annotations

import importlib
import sys

from src.arguments import HELP_WORDS
from src.config import nearest
from src.console import tolerate_any_encoding

COMMANDS = {
    "plan": "say what a run will take before it is trained: memory, time, price",
    "settle": "decide between methods within a budget",
    "train": "fine-tune a model with one method, or many of them (-m)",
    "compare": "put finished runs side by side and say which method wins",
    "predict": "answer questions with the model of a finished run",
    "export": "write the model of a finished run as a folder that transformers reads by itself",
    "serve": "answer questions over HTTP with the model of a finished run",
    "errors": "say where a run errs, and what one run gains on another",
    "ui": "open the MLflow UI",
    "runs": "take runs out of a store into a file, and into another store",
    "check": "check the questions of a data set before training on them",
}
PACKAGES = ("runs",)  # commands that are a folder of src/
HELP = "\n".join(
    [
        "Full fine-tuning or LoRA, here, at my budget?",
        "",
        *(f"    tuneoff {name:9} {what}" for name, what in COMMANDS.items()),
        "",
        "tuneoff COMMAND --help says more; tuneoff --version prints the version.",
    ]
)


def main() -> None:
    """The command line; each command is imported only when it is asked for."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in HELP_WORDS:
        print(HELP)
    elif name == "--version":
        from src.runs.provenance import package_version

        print(f"tuneoff {package_version()}")
    elif name in COMMANDS:
        sys.argv = [f"tuneoff {name}", *arguments]  # the commands read their arguments there, as Hydra does
        module = f"src.{name}.__main__" if name in PACKAGES else f"src.{name}"
        importlib.import_module(module).main()
    else:
        tolerate_any_encoding()
        print(
            f"Error: There is no command '{name}'{nearest(name, COMMANDS)}; there are: {', '.join(COMMANDS)}.",
            file=sys.stderr,
        )
        sys.exit(2)


if __name__ == "__main__":
    main()
