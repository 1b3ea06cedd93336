"""The names of runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from src.config import Config

NAMED = ("method", "train.learning_rate", "method.learning_rate", "train.epochs", "train.seed")
MODELS, DATASETS = ("model", "model.name", "model.path"), ("dataset", "dataset.name", "dataset.path")


def run_name(config: Config) -> str:
    """The name of a run in the UI: method, rate, epochs and seed, and what else its sweep varies."""
    train, varied = config.train, config.sweep.varied
    parts = [config.model.name] if {*varied} & {*MODELS} else []
    parts += [config.dataset.name] if {*varied} & {*DATASETS} else []
    parts += [config.method.name, f"lr={train.learning_rate:g}", f"epochs={train.epochs}", f"seed={train.seed}"]
    for key in varied:
        if key not in (*NAMED, *MODELS, *DATASETS) and (value := _value(config, key)) is not None:
            parts.append(f"{key.rpartition('.')[2]}={value}")
    return " ".join(parts)


def _value(config: Config, key: str) -> str | None:
    """The value of a key of the configuration, or the name of a group's option; None if there is no such key."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else getattr(value, part, None)
    value = getattr(value, "name", value)
    return None if value is None else f"{value:g}" if isinstance(value, float) else str(value)[:40]
