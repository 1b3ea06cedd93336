"""Take runs out of a store into one file, and from a file into a store.

    python -m src.runs export runs.zip                                   # the newest sweep
    python -m src.runs export runs.zip 'sweep=[full-rates,lora-rates]'   # or runs=, where=, as for src.compare
    python -m src.runs import runs.zip tracking.uri=http://127.0.0.1:5000

The file holds parameters, metrics with all their values, tags, scores by question and the parent runs of sweeps, but no
models. `python -m src.compare from=runs.zip` compares its runs without a store. Importing a file twice adds nothing
twice, and a sweep in the other store finds the runs done already. More:

    texts=false                  export: leave out questions, passages, answers and predictions
    tracking.folder= tracking.uri= tracking.experiment=      the store, as for src.train
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from src.compose import explain, key_values, listed
from src.config import TrackingConfig, UserError, nearest
from src.console import begin

TRACKING = ("tracking.folder", "tracking.uri", "tracking.experiment")
KEYS = {"export": ("sweep", "runs", "where", "texts", *TRACKING), "import": TRACKING}


def main() -> None:
    """The command line: export or import, a file, and KEY=VALUE."""
    begin()
    try:
        given = sys.argv[1:] or ["--help"]
        if given[0] in ("-h", "--help", "help"):
            print(__doc__)
            return
        action, *arguments = given
        if action not in KEYS:
            raise UserError(f"There is no '{action}'{nearest(action, KEYS)}; there are: {', '.join(KEYS)}.")
        words = [word for word in arguments if "=" not in word and not word.startswith("-")]
        values = key_values([word for word in arguments if word not in words], KEYS[action], str(__doc__))
        if len(words) != 1:
            raise UserError(f"{action} needs the name of one file: python -m src.runs {action} runs.zip")
        tracking = TrackingConfig(
            folder=values.get("tracking.folder", "mlruns"),
            uri=values.get("tracking.uri"),
            experiment=values.get("tracking.experiment", "tuneoff"),
        )
        if action == "export":
            _export(Path(words[0]), tracking, values)
        else:
            _import(Path(words[0]), tracking)
    except (UserError, OSError) as error:
        print(f"Error: {explain(error)}", file=sys.stderr)
        sys.exit(1)


def _export(to: Path, tracking: TrackingConfig, values: dict[str, str]) -> None:
    from src.runs.export import export_runs
    from src.runs.results import choose
    from src.runs.store import connect, store_errors_explained

    texts = values.get("texts", "true")
    if texts not in ("true", "false"):
        raise UserError(f"texts={texts} must be true or false.")
    with store_errors_explained():
        store = connect(tracking, create=False)
        chosen = {key: listed(key, values[key]) for key in ("sweep", "runs") if key in values}
        selection = choose(store, chosen.get("sweep", []), chosen.get("runs", []), values.get("where"))
        for note in selection.notes:
            print(note)
        runs, sweeps = export_runs(store, selection, to, texts == "true")
    held = f"{_count(runs, 'run')} of {_count(sweeps, 'sweep')}" if sweeps else _count(runs, "run")
    without = "" if texts == "true" else ", without texts"
    print(f"{to} holds {held}{without}: {to.stat().st_size / 1e6:.2f} MB.")
    print(f"compare them  {shlex.join(['python', '-m', 'src.compare', f'from={to}'])}")


def _import(file: Path, tracking: TrackingConfig) -> None:
    from src.runs.archive import Archive
    from src.runs.imports import import_runs
    from src.runs.store import command_line, connect

    archive = Archive(file)  # before a store is made for it
    done = import_runs(archive, connect(tracking))
    there = f" {done.known} of the file's were there already." if done.known else ""
    print(f"Added {_count(done.runs, 'run')} and {_count(done.sweeps, 'sweep')}.{there}")
    print(f"compare them  {command_line('compare', tracking)}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"


if __name__ == "__main__":
    main()
