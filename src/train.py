"""Fine-tune one model with one method, and log what it cost and what it gained.

python -m src.train method=lora
python -m src.train method=full dataset=file dataset.path=squad.json dataset.train_size=4000
python -m src.train --help
"""

from __future__ import annotations

import os
import signal
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from src import sweep
from src.compose import MISTAKES, fail, from_hydra, register
from src.config import SETTINGS, UserError, validate
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
            from src.pipeline import run

            result = run(config)
            return None if result is None else result.metrics["quality/f1"]
        return sweep.run_alone(config)
    except MISTAKES as error:
        fail(error)


def main() -> None:
    """The command line: a mistake is one sentence, an interruption exit status 130."""
    begin()
    register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # hand errors on to `fail`
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if {"--cfg", "-c"} & set(sys.argv) and {"-m", "--multirun"} & set(sys.argv):
            raise UserError("--cfg shows the configuration of one run; leave out -m and what varies.")
        try:
            hydra.main(version_base="1.3", config_path=str(SETTINGS / "conf"), config_name="config")(job)()
        except KeyboardInterrupt:
            print("\nInterrupted; the same command goes on where this one stopped.", file=sys.stderr)
            sweep.end(interrupted=True)
            sys.exit(130)
        except (SystemExit, *MISTAKES):
            sweep.end()
            raise
        sys.exit(sweep.end())
    except MISTAKES as error:
        fail(error)


if __name__ == "__main__":
    main()
