"""Fine-tune one model with one method, and log what it cost and what it gained.

python -m src.train method=lora
python -m src.train method=full dataset=file dataset.path=squad.json dataset.train_size=4000
python -m src.train --help
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.config import ROOT, UserError, explain, quiet_libraries, register, validate


def job(composed: DictConfig) -> float | None:
    """What Hydra calls for each run; the F1 is what a sweeper maximises."""
    try:
        config: Any = OmegaConf.to_object(composed)
        given = {override.partition("=")[0].lstrip("+") for override in HydraConfig.get().overrides.task}
        if "model.path" in given and not given & {"model.name", "model"}:
            # Another model than the group's: its name, its hash and its shape are not this one's.
            config.model.name = Path(str(config.model.path)).name
            own: dict[str, Any] = {"sha256": None, "pretrained": True, "tokenizer": None, "config": {}}
            for key, value in own.items():
                if not any(override.startswith(f"model.{key}") for override in given):
                    setattr(config.model, key, value)
        validate(config)
        # Imported here, so that a mistake in the command line is answered before torch is loaded.
        from src.pipeline import run

        result = run(config)
    except (UserError, OmegaConfBaseException, OSError) as error:
        fail(error)
    return None if result is None else result.metrics["quality/f1"]


def fail(error: Exception) -> NoReturn:
    """Say what is wrong in one sentence; exit status 2 for a command line that cannot be read, else 1."""
    print(f"\nError: {explain(error)}", file=sys.stderr)
    sys.exit(2 if isinstance(error, OverrideParseException) else 1)


def main() -> None:
    """The command line: a mistake is one sentence, an interruption exit status 130."""
    register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # hand errors on to `fail`
    quiet_libraries()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        hydra.main(version_base="1.3", config_path=str(ROOT / "conf"), config_name="config")(job)()
    except KeyboardInterrupt:
        print("\nInterrupted; a run that had begun is marked KILLED in MLflow.", file=sys.stderr)
        sys.exit(130)
    except (HydraException, OmegaConfBaseException, OSError) as error:
        fail(error)


if __name__ == "__main__":
    main()
