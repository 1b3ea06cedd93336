"""The command `tuneoff`: `tuneoff train ...` is `python -m src.train ...`, and so on for the others."""

from __future__ import annotations

import importlib
import sys

from src.arguments import HELP_WORDS
from src.config import nearest
from src.console import tolerate_any_encoding

COMMANDS = {
    "plan": "estimate memory, time and price of a run before it is trained",
    "settle": "decide between methods within a budget",
    "train": "fine-tune a model with one method, or many of them (-m)",
    "compare": "compare finished runs and report which method wins",
    "predict": "answer questions with the model of a finished run",
    "export": "write the model of a finished run as a folder that transformers can read",
    "serve": "answer questions over HTTP with the model of a finished run",
    "errors": "show the errors of a run, and the questions that a second run gains or loses",
    "ui": "open the MLflow UI",
    "runs": "export runs from a store to a file, and import them into another store",
    "check": "check the questions of a data set before training on them",
}
PACKAGES = ("runs",)  # commands that are packages of src/
HELP = "\n".join(
    [
        "Full fine-tuning or LoRA, here, at my budget?",
        "",
        *(f"    tuneoff {name:9} {what}" for name, what in COMMANDS.items()),
        "",
        "tuneoff COMMAND --help describes a command; tuneoff --version prints the version.",
    ]
)


def main() -> None:
    """The command line; only the module of the given command is imported."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in HELP_WORDS:
        print(HELP)
    elif name == "--version":
        from src.runs.provenance import package_version

        print(f"tuneoff {package_version()}")
    elif name in COMMANDS:
        sys.argv = [f"tuneoff {name}", *arguments]  # the commands, and Hydra, read their arguments from there
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
