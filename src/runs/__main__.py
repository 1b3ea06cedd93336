"""Export runs from a store to one file, and import them from a file into a store.

    python -m src.runs export runs.zip                                   # the newest sweep
    python -m src.runs export runs.zip 'sweep=[full-rates,lora-rates]'   # or runs=, where=, as for src.compare
    python -m src.runs import runs.zip tracking.uri=http://127.0.0.1:5000

The file holds parameters, metrics with all their values, tags, scores by question and the parent runs of sweeps, but no
models. `python -m src.compare from=runs.zip` compares its runs without a store. Importing a file a second time adds
nothing, and a sweep in the other store skips runs that were imported.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from pydantic import Field

from src.arguments import (
    HELP_WORDS,
    ExperimentArguments,
    RunsArguments,
    UsageError,
    argument_rows,
    command,
    help_text,
    read,
)
from src.compose import MISTAKES, fail
from src.config import nearest
from src.console import begin


class Export(RunsArguments):
    """What `src.runs export` takes."""

    texts: bool = Field(True, description="false leaves out questions, passages, answers and predictions")


class Import(ExperimentArguments):
    """What `src.runs import` takes."""


SCHEMAS: dict[str, type[ExperimentArguments]] = {"export": Export, "import": Import}


def main() -> None:
    """The command line: export or import, a file, and KEY=VALUE."""
    try:
        begin()
        given = sys.argv[1:] or ["--help"]
        if HELP_WORDS & set(given):
            rows = {f"{name.upper()} FILE": argument_rows(schema) for name, schema in SCHEMAS.items()}
            print(help_text(str(__doc__), rows))
            return
        action, *arguments = given
        if action not in SCHEMAS:
            raise UsageError(f"There is no '{action}'{nearest(action, SCHEMAS)}; there are: {', '.join(SCHEMAS)}.")
        files = [word for word in arguments if "=" not in word and not word.startswith("-")]
        values = read(SCHEMAS[action], [word for word in arguments if word not in files], str(__doc__))
        if len(files) != 1:
            raise UsageError(f"{action} needs the name of one file: {shlex.join([*command('runs'), action])} runs.zip")
        if isinstance(values, Export):
            _export(Path(files[0]), values)
        else:
            _import(Path(files[0]), values)
    except MISTAKES as error:
        fail(error)


def _export(to: Path, given: Export) -> None:
    from src.runs.export import export_runs
    from src.runs.results import choose
    from src.runs.store import connect, store_errors_explained

    with store_errors_explained():
        store = connect(given.tracking(), create=False)
        selection = choose(store, given.sweep, given.runs, given.where)
        for note in selection.notes:
            print(note)
        runs, sweeps = export_runs(store, selection, to, given.texts)
    held = f"{_count(runs, 'run')} of {_count(sweeps, 'sweep')}" if sweeps else _count(runs, "run")
    without = "" if given.texts else ", without texts"
    print(f"{to} holds {held}{without}: {to.stat().st_size / 1e6:.2f} MB.")
    print(f"compare them  {shlex.join([*command('compare'), f'from={to}'])}")


def _import(file: Path, given: ExperimentArguments) -> None:
    from src.runs.archive import Archive
    from src.runs.commands import command_line
    from src.runs.imports import import_runs
    from src.runs.store import connect

    archive = Archive(file)  # before a store is made for it
    done = import_runs(archive, connect(given.tracking()))
    there = f" {done.known} of the file's were there already." if done.known else ""
    print(f"Added {_count(done.runs, 'run')} and {_count(done.sweeps, 'sweep')}.{there}")
    print(f"compare them  {command_line('compare', given.tracking())}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"


if __name__ == "__main__":
    main()
