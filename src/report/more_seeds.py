"""The commands that repeat the best settings with new seeds."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from src.report.arms import RATE, Arm
from src.report.comparison import Comparison

STORE = ("tracking.", "folder=", "uri=", "experiment=")


def more_seeds(comparison: Comparison, arms: Sequence[Arm], number: int) -> str:
    """The commands, one on each line: the best setting of each arm with `number` new seeds, then a comparison of all.

    The result is empty where the runs were not made by a single known sweep, or where that sweep varied the data or
    models that its command does not list by name.
    """
    commands = {command for command in comparison.commands if command}
    if len(commands) != 1 or any("dataset.name" in arm.labels for arm in arms):
        return ""
    words = shlex.split(commands.pop())
    start = next((index + 1 for index, word in enumerate(words) if word in ("train", "src.train")), None)
    if start is None:
        return ""
    if any(_model(arm, words) is None for arm in arms):
        return ""
    known = [int(seed) for arm in comparison.arms for trial in arm.trials for seed in trial.seeds if seed.isdigit()]
    first = max(known, default=-1) + 1
    seeds = f"train.seed={','.join(str(first + index) for index in range(number))}"
    lines, names = [], []
    for arm in arms:
        chosen = [*(_model(arm, words) or []), *_chosen(arm, comparison)]
        names.append(re.sub(r"[^\w.]+", "-", f"more {arm.name}"))
        replaced = {*(setting.partition("=")[0] for setting in chosen), "train.seed", "sweep.name", "sweep.margin"}
        kept = [word for word in words[start:] if _key(word) not in replaced and not _of_sweeper(word)]
        flags = [] if {"-m", "--multirun"} & set(kept) else ["-m"]
        margin = f"sweep.margin={comparison.margin:g}"
        lines.append(shlex.join([*words[:start], *flags, *kept, *chosen, seeds, margin, f"sweep.name={names[-1]}"]))
    sweeps = dict.fromkeys(run.tags.get("sweep", "").partition(" ")[0][:12] for arm in arms for run in arm.best.runs)
    store = [word for word in words[start:] if word.startswith(STORE)]
    compare = [*words[: start - 1], words[start - 1].replace("train", "compare")]
    listed = ",".join([*filter(None, sweeps), *names])
    return "\n".join([*lines, shlex.join([*compare, f"sweep=[{listed}]", *store])])


def _model(arm: Arm, words: Sequence[str]) -> list[str] | None:
    """The override that chooses the model of an arm, if the models vary; None where the command does not name it."""
    name = arm.labels.get("model.name")
    if name is None:
        return []
    listed = {_key(word): word.partition("=")[2].split(",") for word in words}
    return next(([f"{key}={name}"] for key in ("model", "model.name") if name in listed.get(key, [])), None)


def _chosen(arm: Arm, comparison: Comparison) -> list[str]:
    """The overrides that make the best setting of an arm."""
    params = arm.best.runs[0].params
    varied = [key for key in arm.labels if key not in ("method.name", "model.name")]
    epochs = ["train.epochs"] if len({trial.epochs for trial in arm.trials}) > 1 else []
    keys = dict.fromkeys([RATE, *varied, *comparison.varied, *epochs])
    return [f"method={params['method.name']}", *(f"{key}={_value(params[key])}" for key in keys if key in params)]


def _value(text: str) -> str:
    return "null" if text == "None" else text


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+~")


def _of_sweeper(word: str) -> bool:
    """Whether a word configures the sweeper, which a grid of seeds does not need."""
    return _key(word).startswith(("hydra/sweeper", "hydra.sweeper"))
