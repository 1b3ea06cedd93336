"""Fine-tune one model with one method, and log what it cost and what it gained.

python -m src.train method=lora
python -m src.train method=full dataset=file dataset.path=squad.json dataset.train_size=4000
python -m src.train from_run=ID      # again what a run has done; any value can be overridden
python -m src.train --help
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from src import sweep
from src.compose import MISTAKES, Primary, check_method_keys, completed, fail, from_hydra, register
from src.config import UserError, validate
from src.console import begin, tolerate_any_encoding


def job(composed: DictConfig) -> float | None:
    """What Hydra calls for each run; the F1 is what a sweeper maximises."""
    tolerate_any_encoding()  # a launcher may have started this process
    hydra_config = HydraConfig.get()
    try:
        config = from_hydra(composed, hydra_config.overrides.task)
        validate(config)
        if config.sweep.parent is not None:
            return sweep.run_isolated(config, hydra_config.job.num, hydra_config.runtime.choices["hydra/launcher"])
        if "WORLD_SIZE" in os.environ:  # one of several processes that a launcher has started
            from src.run import run

            result = run(config)
            return None if result is None else result.metrics["quality/f1"]
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


def main() -> None:
    """The command line: a mistake is one sentence, an interruption exit status 130."""
    begin()
    register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # hand errors on to `fail`
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sweeps = bool({"-m", "--multirun"} & set(sys.argv))
        if sweeps and {"--cfg", "-c"} & set(sys.argv):
            raise UserError("--cfg shows the configuration of one run; leave out -m and what varies.")
        sys.argv[1:] = completed(sys.argv[1:])
        with tempfile.TemporaryDirectory(prefix="tuneoff-config-") as temporary:
            primary = Primary()
            if any(argument.startswith("from_run=") for argument in sys.argv):
                from src.runs.origin import begin_from

                primary, sys.argv[1:] = begin_from(sys.argv[1:], Path(temporary))
            if not sweeps:
                check_method_keys(sys.argv[1:], primary)
            _run(primary)
    except MISTAKES as error:
        fail(error)


def _run(primary: Primary) -> None:
    try:
        hydra.main(version_base="1.3", config_path=primary.folder, config_name=primary.name)(job)()
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
