"""Fine-tune one model on extractive question answering with one method, and log what it cost and what it gained.

  python -m src.train method=lora                              # LoRA on the generated sample set
  python -m src.train method=full epochs=2 seed=1              # every parameter, another seed
  python -m src.train data=squad.json train_size=4000 validation_size=1000
  python -m src.train -m method=full,lora learning_rate=1e-4,3e-4,1e-3     # a sweep
  python -m src.train from_run=ID                              # again what a run has done, with any value changed

COMMON KEYS (KEY=VALUE)
  train.learning_rate=1e-3     by default the method's own
  train.epochs=3   train.batch_size=16   train.seed=0   train.keep=best
  dataset.train_size=1000      questions; null for all there are
  dataset.subset=first         the first questions, or `random`
  dataset.split=article        no article on both sides; `random`; `given`
  method.peft.r=64             any value of the method's peft block; a new one as ++method.peft.key=value
  model.path=HUB_NAME          any other model, from the hub or a folder
  model.config.KEY=VALUE       any value of the model's own configuration, as ++model.config.key=value
  rerun=true                   a fresh run, whatever is done already
  tracking.uri=http://HOST:5000   an MLflow server; by default SQLite under mlruns/
  tracking.keep_model=best     store the best model of each method in a sweep; none: none at all

SWEEPS (-m; the same command again does what is left)
  sweep.fail_fast=true         start no more runs after one has failed
  hydra/launcher=joblib        several runs at once; ray, submitit_slurm, submitit_local
  hydra/sweeper=optuna         a search instead of a grid

--cfg job prints the composed configuration with all keys, -m runs every combination. python -m src.compare puts
finished runs side by side, python -m src.ui opens MLflow on them (see README.md).
"""

from __future__ import annotations

import io
import os
import signal
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from src import sweep
from src.arguments import HELP_WORDS, help_text, short_form_rows
from src.compose import MISTAKES, Primary, check_method_keys, completed, fail, from_hydra, groups, register
from src.config import SETTINGS, UserError
from src.console import begin, tolerate_any_encoding
from src.credentials import without_secrets_in_yaml
from src.metrics import F1
from src.problems import validate


def job(composed: DictConfig) -> float | None:
    """What Hydra calls for each run; the F1 is what a sweeper maximises."""
    tolerate_any_encoding()  # a launcher may have started this process
    hydra_config = HydraConfig.get()
    try:
        config = from_hydra(composed, hydra_config.overrides.task)
        validate(config)
        if config.sweep.parent is not None:
            return sweep.run_isolated(config, hydra_config.job.num, hydra_config.runtime.choices["hydra/launcher"])
        sweep.read_data([config])
        if "WORLD_SIZE" in os.environ:  # one of several processes that a launcher has started
            from accelerate import PartialState

            from src.run import run

            result = run(config)
            # A process that ends with its exchange under way may abort, and the launcher would end the others with it.
            PartialState().destroy_process_group()
            return None if result is None else result.metrics[F1]
        return sweep.run_alone(config)
    except MISTAKES as error:
        fail(error)


def how_to_go_on() -> str:
    """What to type after an interruption."""
    if "rerun=true" in sys.argv:
        return "with rerun=true the same command begins anew."
    if "WORLD_SIZE" in os.environ:  # how the launcher was started is not known here
        return "the same command goes on where this one stopped."
    return f"this goes on where it stopped:\n  {sweep.as_typed()}"


def help() -> str:
    """The text of --help: what the module says, the options of every group, and the short forms of keys."""
    shared = yaml.safe_load((SETTINGS / "conf" / "config.yaml").read_text(encoding="utf-8"))
    defaults = [pair for entry in shared["defaults"] if isinstance(entry, dict) for pair in entry.items()]
    rows = [
        (group, ", ".join(f"{name} (default)" if (group, name) in defaults else name for name in names))
        for group, names in groups().items()
    ]
    return help_text(str(__doc__), {"GROUPS (GROUP=OPTION)": rows, "SHORT FORMS": short_form_rows()})


def main() -> None:
    """The command line: a mistake is one sentence, an interruption exit status 130."""
    try:
        begin()
        if HELP_WORDS & set(sys.argv[1:]):
            print(help())
            return
        register()
        os.environ["HYDRA_FULL_ERROR"] = "1"  # hand errors on to `fail`
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        sys.argv[1:] = completed(sys.argv[1:])
        sweeps = bool({"-m", "--multirun"} & set(sys.argv))
        shows = any(argument == "-c" or argument.startswith("--cfg") for argument in sys.argv)
        if sweeps and shows:
            raise UserError("--cfg shows the configuration of one run; leave out -m and what varies.")
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


def _show(primary: Primary) -> None:
    """Print what --cfg asks for, without the passwords that stand in a file."""
    with redirect_stdout(io.StringIO()) as shown:
        _hydra(primary)
    print(without_secrets_in_yaml(shown.getvalue()), end="")


def _hydra(primary: Primary) -> None:
    hydra.main(version_base="1.3", config_path=primary.folder, config_name=primary.name)(job)()


def _run(primary: Primary) -> None:
    try:
        _hydra(primary)
    except KeyboardInterrupt:
        print(f"\nInterrupted; {how_to_go_on()}", file=sys.stderr)
        sweep.end(interrupted=True)
        sys.exit(130)
    except (SystemExit, *MISTAKES):
        sweep.end()
        raise
    sys.exit(sweep.end())


if __name__ == "__main__":
    main()
