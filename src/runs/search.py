"""Hyperparameter search with Optuna: each arm has a study, to which its runs report after every epoch.

The studies are kept in a journal file next to the runs, or in a database that several machines can reach.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.config import SweepConfig, UserError
from src.credentials import DATABASES, with_secrets
from src.runs.tracking import Stopped

try:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import TrialState
except ImportError as error:
    raise UserError("hydra/sweeper=optuna needs Optuna: pip install -e '.[optuna]'.") from error

optuna.logging.set_verbosity(optuna.logging.WARNING)
PRUNED = "pruned"  # attribute of a trial


@dataclass(frozen=True)
class Settings:
    """The name and the storage of a study, and the number of trials before it prunes (None: it never does)."""

    study: str
    storage: str
    prune_after: int | None


@dataclass
class Searched:
    """An arm of a search. Each arm has its own study, so that only its own runs tune and prune it."""

    overrides: list[str]  # of all its runs
    space: dict[str, Any]  # Optuna's distributions, by key
    settings: Settings
    study: optuna.Study
    failed: int = 0  # in this attempt; they are not repeated, since a rate that is too high would fail again

    @property
    def begun(self) -> int:
        """The number of trials that have been run."""
        return count_done(self.study) + self.failed


def journal(folder: str) -> str:
    """The journal file of a store."""
    return str(Path(folder).resolve() / "optuna.journal")


def _open(settings: Settings) -> optuna.Study:
    storage: Any = with_secrets(settings.storage)
    if storage is None:
        raise UserError(f"hydra.sweeper.storage={settings.storage}: put the whole address into {DATABASES}.")
    if "://" not in storage:
        Path(storage).parent.mkdir(parents=True, exist_ok=True)
        storage = JournalStorage(JournalFileBackend(storage))
    after = settings.prune_after
    pruner = optuna.pruners.NopPruner() if after is None else optuna.pruners.MedianPruner(n_startup_trials=after)
    return optuna.create_study(
        study_name=settings.study,
        storage=storage,
        pruner=pruner,
        direction="maximize",
        load_if_exists=True,
    )


def begin(settings: Settings, startup_trials: int, seed: int) -> optuna.Study:
    """Create or resume a study; trials that an earlier attempt left unfinished or failed are repeated first.

    The same values give the same run, which then resumes from its checkpoint.
    """
    study = _open(settings)
    # Each attempt needs its own seed, or it would propose what an earlier one has tried.
    seed += len(study.trials)
    study.sampler = optuna.samplers.TPESampler(n_startup_trials=startup_trials, seed=seed)
    ended = [trial.params for trial in study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))]
    again: list[dict[str, Any]] = []
    for trial in study.get_trials(states=(TrialState.RUNNING, TrialState.FAIL)):
        if trial.state == TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)
        if trial.params and trial.params not in ended and trial.params not in again:
            again.append(trial.params)
            study.enqueue_trial(trial.params, skip_if_exists=False)
    return study


def count_done(study: optuna.Study) -> int:
    """The number of trials that need not be run again."""
    return len(study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED)))


def overrides(settings: Settings, trial: optuna.Trial) -> list[str]:
    """The overrides that tell a run which trial it is."""
    after = "null" if settings.prune_after is None else settings.prune_after
    texts = {"study": _quoted(settings.study), "storage": _quoted(settings.storage)}
    values = {"trial": trial.number, **texts, "prune_after": after}
    return [f"sweep.{key}={value}" for key, value in values.items()]


def _quoted(text: str) -> str:
    """A value quoted for Hydra, whatever characters it holds."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def tell(study: optuna.Study, trial: optuna.Trial, f1: float | None) -> bool:
    """Tell Optuna how a trial ended.

    Args:
        study: of the trial.
        trial: that ended.
        f1: of its run; None if it was pruned or failed.

    Returns:
        Whether it did not fail.
    """
    if f1 is not None:
        study.tell(trial, f1)
        return True
    pruned = PRUNED in study.get_trials(deepcopy=False)[trial.number].user_attrs
    study.tell(trial, state=TrialState.PRUNED if pruned else TrialState.FAIL)
    return pruned


def reporter(sweep: SweepConfig) -> Callable[[int, float], None] | None:
    """The function that a run calls after each epoch with its F1; None if the run is not a trial.

    The function raises Stopped if the other trials did better at that epoch.
    """
    if sweep.trial is None:
        return None
    study = _open(Settings(str(sweep.study), str(sweep.storage), sweep.prune_after))
    frozen = study.get_trials(deepcopy=False)[sweep.trial]
    trial = optuna.Trial(study, frozen._trial_id)  # Optuna has no public API for a trial of another process

    def report(epoch: int, f1: float) -> None:
        if epoch == 0:
            return
        trial.report(f1, epoch)
        if trial.should_prune():
            trial.set_user_attr(PRUNED, epoch)
            raise Stopped(f"Pruned after epoch {epoch}: F1 {f1:.1f} is below the median of this method's other trials.")

    return report
