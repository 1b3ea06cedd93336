"""Starts Hydra for the commands that make runs, `src.train` and `src.settle`."""

from __future__ import annotations

import io
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from src import sweep
from src.arguments import HELP_WORDS, help_text, short_form_rows
from src.compose import MISTAKES, Primary, check_method_keys, completed, fail, from_hydra, groups, register
from src.config import SETTINGS, UserError
from src.console import begin, tolerate_any_encoding
from src.credentials import without_secrets_in_yaml
from src.metrics import F1
from src.problems import validate


def command_line(text: str, translate: Callable[[Sequence[str]], list[str]] = list) -> None:
    """Run the command line of this process; an error prints one sentence, an interruption gives exit status 130.

    Args:
        text: the beginning of --help, the docstring of the command's module.
        translate: a function that turns the user's arguments into Hydra's.
    """
    try:
        begin()
        if HELP_WORDS & set(sys.argv[1:]):
            print(_help(text))
            return
        register()
        os.environ["HYDRA_FULL_ERROR"] = "1"  # hand errors on to `fail`
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        sys.argv[1:] = completed(translate(sys.argv[1:]))
        sweeps = bool({"-m", "--multirun"} & set(sys.argv))
        shows = any(argument == "-c" or argument.startswith("--cfg") for argument in sys.argv)
        if sweeps and shows:
            raise UserError("--cfg shows the configuration of one run; leave out -m and give single values.")
        with tempfile.TemporaryDirectory(prefix="tuneoff-config-") as temporary:
            primary = Primary()
            if any(argument.startswith("from_run=") for argument in sys.argv):
                from src.runs.origin import begin_from

                primary, sys.argv[1:] = begin_from(sys.argv[1:], Path(temporary))
            if not sweeps:
                check_method_keys(sys.argv[1:], primary)
            if shows:
                _show(primary)
            else:
                _run(primary)
    except MISTAKES as error:
        fail(error)
    except KeyboardInterrupt:  # before anything was begun, or once more while all was put in order
        sys.exit(130)


def job(composed: DictConfig) -> float | None:
    """The function that Hydra calls for each run; returns the F1, which a sweeper maximises."""
    tolerate_any_encoding()  # a launcher may have started this process
    hydra_config = HydraConfig.get()
    try:
        config = from_hydra(composed, hydra_config.overrides.task)
        validate(config)
        if config.sweep.parent is not None:
            if OmegaConf.is_missing(hydra_config.job, "num"):
                raise UserError(
                    f"sweep.parent={config.sweep.parent}: a sweep (-m) sets this key for its runs; leave it out."
                )
            return sweep.run_isolated(config, hydra_config.job.num, hydra_config.runtime.choices["hydra/launcher"])
        sweep.read_data([config])
        if "WORLD_SIZE" in os.environ:  # one of several processes that a launcher has started
            from accelerate import PartialState

            from src.run import run

            result = run(config)
            # A process that ends during communication may abort, and the launcher would then end the others.
            PartialState().destroy_process_group()
            return None if result is None else result.metrics[F1]
        return sweep.run_alone(config)
    except MISTAKES as error:
        fail(error)


def resume_hint() -> str:
    """The command that continues after an interruption."""
    if "rerun=true" in sys.argv:
        return "with rerun=true the same command starts from the beginning."
    if "WORLD_SIZE" in os.environ:  # the command of the launcher is unknown here
        return "the same command continues where this one stopped."
    return f"continue with:\n  {sweep.as_typed()}"


def _help(text: str) -> str:
    """The text of --help: the docstring of the module, the options of every group, and the short forms of keys."""
    shared = yaml.safe_load((SETTINGS / "conf" / "config.yaml").read_text(encoding="utf-8"))
    defaults = [pair for entry in shared["defaults"] if isinstance(entry, dict) for pair in entry.items()]
    rows = [
        (group, ", ".join(f"{name} (default)" if (group, name) in defaults else name for name in names))
        for group, names in groups().items()
    ]
    return help_text(text, {"GROUPS (GROUP=OPTION)": rows, "SHORT FORMS": short_form_rows()})


def _show(primary: Primary) -> None:
    """Print the configuration that --cfg requests, without the passwords in it."""
    with redirect_stdout(io.StringIO()) as shown:
        _hydra(primary)
    print(without_secrets_in_yaml(shown.getvalue()), end="")


def _hydra(primary: Primary) -> None:
    hydra.main(version_base="1.3", config_path=primary.folder, config_name=primary.name)(job)()


def _run(primary: Primary) -> None:
    try:
        _hydra(primary)
    except KeyboardInterrupt:
        print(f"\nInterrupted; {resume_hint()}", file=sys.stderr)
        sweep.end(interrupted=True)
        sys.exit(130)
    except (SystemExit, *MISTAKES):
        sweep.end()
        raise
    sys.exit(sweep.end())
