"""Hydra's way to Optuna: `hydra/sweeper=optuna`. Hydra looks for plug-ins in packages of this name and nowhere else.

Built on Optuna's own library, because Hydra's released plug-in needs an Optuna below 3 and knows no pruning.
"""

from __future__ import annotations

from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from src.credentials import without_secrets
from src.grid import BLOCK, MethodKeys, key_of


class OptunaSweeper(Sweeper):
    """Asks Optuna for the values of the next runs, has them run, and tells it their F1."""

    def __init__(
        self,
        n_trials: int,
        n_jobs: int,
        startup_trials: int,
        prune: bool,
        seed: int,
        storage: str | None,
        params: DictConfig,
    ) -> None:
        self.n_trials, self.n_jobs, self.startup_trials = n_trials, n_jobs, startup_trials
        self.prune, self.seed, self.params = prune, seed, params
        self.storage = storage and without_secrets(storage)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.loader = hydra_context.config_loader
        self.methods = MethodKeys(lambda chosen: self.loader.load_sweep_config(config, list(chosen)))
        self.folder = str(config.hydra.sweep.dir)
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        from src.runs import search

        parser = OverridesParser.create(config_loader=self.loader)
        given = [f"{key!s}={value}" for key, value in self.params.items()] + arguments
        parsed = parser.parse_overrides(given)
        fixed = [str(o.input_line) for o in parsed if not o.is_sweep_override()]
        space = {o.get_key_element(): distribution(o) for o in parsed if o.is_sweep_override()}
        self.methods.check(self._candidates(parsed, fixed))
        [name] = [value for key, _, value in (line.partition("=") for line in fixed) if key == "sweep.parent"]
        storage = self.storage or search.journal(self.folder)
        settings = search.Settings(name, storage, self.startup_trials if self.prune else None)
        study = search.begin(settings, self.startup_trials, self.seed)
        failed = 0  # a rate that is too high fails once more if it is tried once more: not in this attempt
        while (begun := search.count_done(study) + failed) < self.n_trials:
            trials = [study.ask(space) for _ in range(min(self.n_jobs, self.n_trials - begun))]
            jobs = [
                [*fixed, *(f"{key}={value}" for key, value in trial.params.items()), *search.overrides(settings, trial)]
                for trial in trials
            ]
            jobs = [[o for o in job if o not in self.methods.unknown(job)] for job in jobs]
            for trial, job in zip(trials, self.launcher.launch(jobs, initial_job_idx=begun), strict=True):
                failed += not search.tell(study, trial, job.return_value)

    @staticmethod
    def _candidates(parsed: list[Override], fixed: list[str]) -> list[list[str]]:
        """A job for each method of the search, with every key of `method.peft` that varies."""
        varied = [o for o in parsed if o.is_sweep_override()]
        keys = [f"{o.get_key_element()}=" for o in varied if key_of(o.get_key_element()).startswith(BLOCK)]
        methods = [str(c) for o in varied if o.get_key_element() == "method" for c in o.sweep_string_iterator()]
        chosen = [[f"method={name}"] for name in methods] or [[]]
        return [[*fixed, *keys, *method] for method in chosen]


def distribution(override: Override) -> Any:
    """What a Hydra sweep ranges over, in Optuna's terms.

    `interval(a,b)` is continuous (whole numbers where both are), `range(a,b,step)` leaves b out as in Hydra, anything
    else is a choice. `tag(log, ...)` makes an interval logarithmic.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    if isinstance(value, IntervalSweep):
        start, end = value.start, value.end
        assert start is not None and end is not None
        if isinstance(start, int) and isinstance(end, int):
            return IntDistribution(start, end, log="log" in value.tags)
        return FloatDistribution(start, end, log="log" in value.tags)
    if isinstance(value, RangeSweep) and all(isinstance(x, int) for x in (value.start, value.stop, value.step)):
        values = list(value.range())
        return IntDistribution(min(values), max(values), step=abs(int(value.step)))
    return CategoricalDistribution(list(override.sweep_string_iterator()))
