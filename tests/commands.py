"""Commands as docs and experiments write them: whether each would work as it stands."""

from __future__ import annotations

import importlib
import shlex
from pathlib import Path

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

import experiments.planted_faults as planted_faults
from src import compare, errors, export, plan, predict, serve, ui
from src.arguments import keys_of, read
from src.compose import completed, register
from src.config import ROOT
from src.runs.__main__ import SCHEMAS as ACTIONS
from src.settle import hydra_arguments
from src.sweep import plan as plan_sweep

SCHEMAS = {
    "src.compare": compare.Compare,
    "src.errors": errors.Arguments,
    "src.export": export.Arguments,
    "src.predict": predict.Predict,
    "src.serve": serve.Serve,
    "src.ui": ui.Ui,
    "experiments.planted_faults": planted_faults.PlantedFaults,
}
RUNS = {"src.train", "src.settle", "src.plan", "src.check"}  # these take the keys of a run


def works(command: str, files: tuple[str, ...]) -> None:
    """Read what follows `python -m` as the command itself would; nothing is run.

    Args:
        command: module and arguments; a comment may follow.
        files: that it names, which are made here, empty.

    Raises:
        Exception: as the command does where it cannot be read.
    """
    for file in files:
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).touch()
    module, *arguments = shlex.split(command, comments=True)
    if module in SCHEMAS:
        assert read(SCHEMAS[module], arguments, "").model_fields_set or not arguments
    elif module == "src.runs":
        action, *arguments = arguments
        read(ACTIONS[action], [each for each in arguments if "=" in each], "")
    elif module in RUNS:
        own = keys_of(plan.PlanArguments) if module == "src.plan" else {}
        composes([each for each in arguments if each.partition("=")[0] not in own], module)
    else:
        assert importlib.util.find_spec(module), f"there is no module {module}"


def composes(arguments: list[str], module: str) -> None:
    """Compose the runs that the arguments name."""
    if any(argument.startswith("from_run=") for argument in arguments):
        return  # the configuration is that of a run that is not there
    if module == "src.check":
        arguments = [each if "=" in each else f"dataset.path={each}" for each in arguments]
    register()
    overrides = completed(hydra_arguments(arguments) if module == "src.settle" else arguments)
    overrides = [override for override in overrides if override != "-m"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        composed = loader.load_configuration("config", overrides, run_mode=RunMode.MULTIRUN)
        # What a search tries is not known beforehand.
        assert "hydra/sweeper=optuna" in overrides or plan_sweep(composed, overrides)[0]
