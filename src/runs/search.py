"""A search by Optuna: the study behind each of its arms, told by its runs after every epoch.

All studies lie in a journal file beside the runs, or in a database that several machines reach.
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
    """Where a study is, and from which trial on it prunes (None: never)."""

    study: str
    storage: str
    prune_after: int | None


@dataclass
class Searched:
    """An arm of a search: it has a study of its own, so that it is tuned and pruned by its own runs alone."""

    overrides: list[str]  # of all its runs
    space: dict[str, Any]  # Optuna's distributions, by key
    settings: Settings
    study: optuna.Study
    failed: int = 0  # a rate that is too high fails once more if it is tried once more: not in this attempt

    @property
    def begun(self) -> int:
        """Trials that have had their turn."""
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
    """The study, with what an earlier attempt left unfinished or failed put first.

    The same values make the same run, which then goes on from its checkpoint.
    """
    study = _open(settings)
    # Another seed for each attempt, or the second would propose what the first has tried.
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
    """Trials that need not be run again."""
    return len(study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED)))


def overrides(settings: Settings, trial: optuna.Trial) -> list[str]:
    """What tells a run which trial it is."""
    after = "null" if settings.prune_after is None else settings.prune_after
    texts = {"study": _quoted(settings.study), "storage": _quoted(settings.storage)}
    values = {"trial": trial.number, **texts, "prune_after": after}
    return [f"sweep.{key}={value}" for key, value in values.items()]


def _quoted(text: str) -> str:
    """As Hydra takes a value that may hold any character."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def tell(study: optuna.Study, trial: optuna.Trial, f1: float | None) -> bool:
    """How a trial ended: with its F1, or without one because it was pruned or failed; false where it failed."""
    if f1 is not None:
        study.tell(trial, f1)
        return True
    pruned = PRUNED in study.get_trials(deepcopy=False)[trial.number].user_attrs
    study.tell(trial, state=TrialState.PRUNED if pruned else TrialState.FAIL)
    return pruned


def reporter(sweep: SweepConfig) -> Callable[[int, float], None] | None:
    """What a run calls after each epoch with its F1; None where the run is no trial.

    Raises (the function): Stopped, where the others did better at that epoch.
    """
    if sweep.trial is None:
        return None
    study = _open(Settings(str(sweep.study), str(sweep.storage), sweep.prune_after))
    frozen = study.get_trials(deepcopy=False)[sweep.trial]
    trial = optuna.Trial(study, frozen._trial_id)  # Optuna has no public way to a trial of another process

    def report(epoch: int, f1: float) -> None:
        if epoch == 0:
            return
        trial.report(f1, epoch)
        if trial.should_prune():
            trial.set_user_attr(PRUNED, epoch)
            raise Stopped(f"Pruned after epoch {epoch}: F1 {f1:.1f} is below the median of this method's other trials.")

    return report
