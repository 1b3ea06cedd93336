"""The runs of a grid: every combination of the varied values once, without the keys that its method does not know.

`hydra_plugins.tuneoff.grid_sweeper` passes them to Hydra's launchers, and `src.sweep` uses them to plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import IntervalSweep, Override
from omegaconf import DictConfig

from src.config import UserError, nearest

Job = list[str]  # the overrides of one run
BLOCK = "method.peft."
Compose = Callable[[Sequence[str]], DictConfig]


@dataclass(frozen=True)
class Grid:
    """The jobs of a sweep, and notes on the keys that were left out of them."""

    jobs: list[Job]
    notes: list[str] = field(default_factory=list)


def grid(sweeps: Iterable[Sequence[Override]], compose: Compose) -> Grid:
    """Every combination of the values that the overrides of a sweep vary; several sweeps are concatenated.

    Args:
        sweeps: the overrides of each sweep, parsed by Hydra.
        compose: a function that composes the configuration for some overrides.

    Raises:
        UserError: no method of the sweep knows a key of `method.peft`.
    """
    jobs: list[Job] = []
    for overrides in sweeps:
        [batch] = BasicSweeper.split_arguments(list(overrides), None)
        jobs += batch
    methods = MethodKeys(compose)
    methods.check(jobs)
    kept: dict[tuple[str, ...], Job] = {}
    dropped: dict[str, dict[str, None]] = {}  # by key, the methods that do not know it
    for job in jobs:
        unknown = methods.unknown(job)
        for override in unknown:
            dropped.setdefault(key_of(override), {})[methods.name(job)] = None
        rest = [override for override in job if override not in unknown]
        kept.setdefault(tuple(rest), rest)
    notes = [
        f"{key} is left out of the runs of {', '.join(names)}, which do not know it" for key, names in dropped.items()
    ]
    if notes and len(kept) < len(jobs):
        notes.append(f"{len(jobs)} combinations are {len(kept)} different runs")
    return Grid(list(kept.values()), notes)


def arms(overrides: Iterable[Override], loader: ConfigLoader) -> list[Job]:
    """The arms of a search, as overrides: every combination of the methods, models and data sets that it varies.

    An arm has one choice for each varied group of the configuration, each varied key of `dataset`, and `model.path`,
    since scores on different questions cannot be compared. If none of these varies, there is one arm without overrides.

    Args:
        overrides: the overrides, parsed by Hydra.
        loader: Hydra's loader, which knows the groups.
    """

    def apart(override: Override) -> bool:
        if not override.is_sweep_override() or isinstance(override.value(), IntervalSweep):
            return False
        key = key_of(override.get_key_element())
        return key.startswith("dataset.") or key == "model.path" or bool(loader.get_group_options(key))

    choices = [
        [f"{o.get_key_element()}={value}" for value in o.sweep_string_iterator()] for o in filter(apart, overrides)
    ]
    return [list(arm) for arm in product(*choices)]


class MethodKeys:
    """Determines which keys of `method.peft` the method of a job knows."""

    def __init__(self, compose: Compose) -> None:
        self.compose = compose
        self.composed: dict[tuple[str, ...], DictConfig] = {}

    def check(self, jobs: Iterable[Job]) -> None:
        """Check that each key is known to the method of at least one job.

        Raises:
            UserError: no method knows a key.
        """
        jobs = list(jobs)
        given = {override: None for job in jobs for override in job if key_of(override).startswith(BLOCK)}
        for key in dict.fromkeys(key_of(override) for override in given):
            users = [job for job in jobs if any(key_of(override) == key for override in job)]
            if all(any(key_of(override) == key for override in self.unknown(job)) for job in users):
                names = list(dict.fromkeys(self.name(job) for job in users))
                known = list(dict.fromkeys(str(name) for job in users for name in self.block(job) or {}))
                raise UserError(unknown_key(key, names, known))

    def unknown(self, job: Job) -> Job:
        """The overrides of a job that its method cannot use."""
        chosen = [override for override in job if key_of(override).startswith(BLOCK)]
        block = self.block(job) if chosen else None
        return [o for o in chosen if block is None or not (o.startswith("+") or _first_key(o) in block)]

    def block(self, job: Job) -> Any:
        """The block `peft` of the method; None if it has none."""
        return self._method(job).peft

    def name(self, job: Job) -> str:
        return str(self._method(job).name)

    def _method(self, job: Job) -> Any:
        # Only overrides that can affect the method are composed, since each composition takes a tenth of a second.
        relevant = [o for o in job if key_of(o) in ("method", "experiments") or key_of(o).startswith("method.")]
        chosen = tuple(override for override in relevant if not key_of(override).startswith(BLOCK))
        if chosen not in self.composed:
            self.composed[chosen] = self.compose(chosen)
        return self.composed[chosen].method


def key_of(override: str) -> str:
    """`train.seed` of `+train.seed=1`."""
    return override.partition("=")[0].lstrip("+~")


def _first_key(override: str) -> str:
    return key_of(override).removeprefix(BLOCK).partition(".")[0]


def unknown_key(key: str, methods: Sequence[str], known: Sequence[str]) -> str:
    """The error message for a key of `method.peft` that its methods do not know."""
    named = f"method={', '.join(methods)}"
    if not known:
        return (
            f"{named} has no block `peft` and cannot use {key}; leave it out, or choose a method of peft (method=lora)."
        )
    name = key.removeprefix(BLOCK)
    return (
        f"{named} has no key {key}{nearest(name, known)}; there are: {', '.join(known)}. To add one, write ++{key}=..."
    )
