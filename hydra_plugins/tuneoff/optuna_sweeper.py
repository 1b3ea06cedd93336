"""A sweeper that searches with Optuna: `hydra/sweeper=optuna`. Hydra looks for plug-ins only in packages of this name.

It uses the library of Optuna, because Hydra's released plug-in needs an Optuna below 3 and does not support pruning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from src.credentials import without_secrets
from src.grid import MethodKeys, arms, key_of

if TYPE_CHECKING:
    from src.runs import search


class OptunaSweeper(Sweeper):
    """Asks Optuna for the next values, makes the runs, and tells it their F1; each arm has a separate study."""

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
        parser = OverridesParser.create(config_loader=self.loader)
        given = [f"{key!s}={value}" for key, value in self.params.items()] + arguments
        parsed = parser.parse_overrides(given)
        fixed = [str(o.input_line) for o in parsed if not o.is_sweep_override()]
        chosen = arms(parsed, self.loader)
        groups = {key_of(override) for override in chosen[0]}
        varied = [o for o in parsed if o.is_sweep_override() and key_of(o.get_key_element()) not in groups]
        space = {o.get_key_element(): distribution(o) for o in varied}
        self.methods.check([[*fixed, *(f"{key}=" for key in space), *arm] for arm in chosen])
        searched = [self._begin(fixed, arm, space) for arm in chosen]
        while turns := next_turns([arm.begun for arm in searched], self.n_trials, self.n_jobs):
            self._run([searched[index] for index in turns], sum(arm.begun for arm in searched))

    def _begin(self, fixed: list[str], arm: list[str], space: dict[str, Any]) -> search.Searched:
        """Begin or continue the study of an arm, without the keys that its method does not know."""
        from src.runs import search

        [parent] = [value for key, _, value in (line.partition("=") for line in fixed) if key == "sweep.parent"]
        unknown = self.methods.unknown([*fixed, *arm, *(f"{key}=" for key in space)])
        known = {key: values for key, values in space.items() if f"{key}=" not in unknown}
        storage = self.storage or search.journal(self.folder)
        settings = search.Settings(" ".join([parent, *arm]), storage, self.startup_trials if self.prune else None)
        study = search.begin(settings, self.startup_trials, self.seed)
        return search.Searched([o for o in [*fixed, *arm] if o not in unknown], known, settings, study)

    def _run(self, turns: list[search.Searched], number: int) -> None:
        """Run a trial of each of the arms; the first of them is run `number` of the sweep."""
        from src.runs import search

        trials = [arm.study.ask(arm.space) for arm in turns]
        jobs = [
            [
                *arm.overrides,
                *(f"{key}={value}" for key, value in trial.params.items()),
                *search.overrides(arm.settings, trial),
            ]
            for arm, trial in zip(turns, trials, strict=True)
        ]
        ended = self.launcher.launch(jobs, initial_job_idx=number)
        for arm, trial, job in zip(turns, trials, ended, strict=True):
            arm.failed += not search.tell(arm.study, trial, job.return_value)


def next_turns(begun: Sequence[int], n_trials: int, n_jobs: int) -> list[int]:
    """The arms that get the next trials, up to `n_jobs` of them; arms with the fewest trials come first.

    Args:
        begun: the number of trials that each arm has had.
        n_trials: the number of trials that each arm gets.
        n_jobs: the number of trials that run at the same time.
    """
    had = list(begun)
    turns: list[int] = []
    while len(turns) < n_jobs and min(had) < n_trials:
        turns.append(had.index(min(had)))
        had[turns[-1]] += 1
    return turns


def distribution(override: Override) -> Any:
    """The Optuna distribution for the values of a Hydra sweep.

    `interval(a,b)` is continuous (integers if a and b are integers), `range(a,b,step)` excludes b as in Hydra, and all
    else is categorical. `tag(log, ...)` makes an interval logarithmic.
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
