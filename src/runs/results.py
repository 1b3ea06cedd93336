"""What finished runs left in MLflow, read back: the source of every comparison. Nothing but the store is read."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from src.config import TrackingConfig, UserError, nearest
from src.runs.store import connect, search

QUESTIONS = "questions.parquet"
NAMED = 8  # runs that a message names


@dataclass(frozen=True)
class StoredResult:
    """One run of the store; what is larger than a line is read when it is asked for."""

    client: MlflowClient
    run: Run

    @property
    def id(self) -> str:
        return str(self.run.info.run_id)

    @property
    def name(self) -> str:
        return str(self.run.info.run_name)

    @property
    def finished(self) -> bool:
        return bool(self.run.info.status == "FINISHED")

    @property
    def failed(self) -> bool:
        return bool(self.run.info.status == "FAILED")

    @property
    def params(self) -> dict[str, str]:
        found: dict[str, str] = self.run.data.params
        return found

    @property
    def metrics(self) -> dict[str, float]:
        found: dict[str, float] = self.run.data.metrics
        return found

    @property
    def tags(self) -> dict[str, str]:
        found: dict[str, str] = self.run.data.tags
        return found

    @property
    def seed(self) -> str:
        return self.params.get("train.seed", "")

    @cached_property
    def inputs(self) -> dict[str, tuple[str, int]]:
        """Digest and number of questions of the data sets, by context (train, validation)."""
        found = {}
        for item in self.run.inputs.dataset_inputs if self.run.inputs else []:
            context = next((tag.value for tag in item.tags if tag.key == "mlflow.data.context"), "")
            rows = json.loads(item.dataset.profile or "{}").get("num_rows", 0)
            found[context] = (str(item.dataset.digest), int(rows))
        return found

    def history(self, metric: str) -> pd.DataFrame:
        """Columns `step`, `seconds` (since the first value) and `value`, in the order of the steps."""
        points = sorted(self.client.get_metric_history(self.id, metric), key=lambda point: point.step)
        begin = points[0].timestamp if points else 0
        rows = [(point.step, (point.timestamp - begin) / 1000, point.value) for point in points]
        return pd.DataFrame(rows, columns=["step", "seconds", "value"])

    def questions(self, columns: Sequence[str] | None = None) -> pd.DataFrame | None:
        """Each validation question with its scores (0 to 1) and texts, by `id`; None where the run kept none.

        Raises:
            UserError: the file is damaged.
        """
        with tempfile.TemporaryDirectory() as temporary:
            try:
                file = self.client.download_artifacts(self.id, QUESTIONS, temporary)
            except (MlflowException, OSError):
                return None
            try:
                return pd.read_parquet(file, columns=None if columns is None else ["id", *columns]).set_index("id")
            except (OSError, ValueError, KeyError) as error:  # what pyarrow and pandas make of a damaged file
                reason = " ".join(str(error).split())[:150]
                raise UserError(f"{QUESTIONS} of run {self.id[:8]} ({self.name}) cannot be read ({reason})") from error


@dataclass(frozen=True)
class Selection:
    """The runs to compare: what they are called together, and the parent runs of the sweeps they make up, if any."""

    client: MlflowClient
    title: str
    results: list[StoredResult]
    parents: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # on how names of runs were understood


def select(
    tracking: TrackingConfig, sweeps: Sequence[str] = (), runs: Sequence[str] = (), where: str | None = None
) -> Selection:
    """The runs of the newest sweep, of those named in `sweeps`, those of `runs`, or those that meet `where`.

    Args:
        tracking: the store and the experiment.
        sweeps: names of sweeps, or the first characters of their ids.
        runs: each as `resolve_run` takes it.
        where: a condition in MLflow's language, such as `params.model.name = 'minilm'`.

    Raises:
        UserError: nothing there, or more than one of the three ways to choose.
    """
    if sum(map(bool, (sweeps, runs, where))) > 1:
        raise UserError("sweep=, runs= and where= each choose runs by themselves; give one of them.")
    client, _ = connect(tracking, create=False)
    experiment = client.get_experiment_by_name(tracking.experiment)
    if experiment is None:
        names = [str(e.name) for e in client.search_experiments()]
        raise UserError(f"There is no experiment {tracking.experiment} in the store; there are: {', '.join(names)}.")
    number = str(experiment.experiment_id)

    def found(condition: str) -> list[StoredResult]:
        try:
            everything = search(client, number, condition)
        except MlflowException as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"where={condition} is no condition that MLflow understands ({reason}).") from error
        return [StoredResult(client, run) for run in everything if run.data.tags.get("kind") != "sweep"][::-1]

    if runs:
        resolved = [resolve_run(client, [number], text, "runs") for text in runs]
        once = {run.info.run_id: StoredResult(client, run) for run, _ in resolved}
        chosen = sorted(once.values(), key=lambda result: result.run.info.start_time)
        title = f"{len(chosen)} chosen run{'s' if len(chosen) > 1 else ''}"
        return Selection(client, title, chosen, notes=[note for _, note in resolved if note])
    if where is not None:
        if not (chosen := found(where)):
            raise UserError(f"where={where}: no run meets it.")
        return Selection(client, where, chosen)
    parents = search(client, number, "tags.kind = 'sweep'")
    if sweeps:
        names = sorted({str(parent.info.run_name) for parent in parents})
        chosen_sweeps = []
        for sweep in sweeps:
            same = [p for p in parents if p.info.run_name == sweep or p.info.run_id.startswith(sweep)]
            if not same:
                raise UserError(f"sweep={sweep}: there is no such sweep; there are: {', '.join(names) or 'none'}.")
            chosen_sweeps.append(same[0])
        return of_sweeps(client, chosen_sweeps)
    if parents:
        return of_sweeps(client, parents[:1])
    if not (everything := found("")):
        raise UserError(f"The experiment {tracking.experiment} holds no run; train some first (src.train).")
    return Selection(client, f"all runs of {tracking.experiment}", everything)


def resolve_run(
    client: MlflowClient, experiments: Sequence[str] | None, text: str, key: str = "run"
) -> tuple[Run, str]:
    """The run that `text` stands for, and a note on the choice where there was one (else empty).

    Args:
        client: of the store.
        experiments: ids of those to look in; None: all.
        text: the beginning of a run's id; a run's name, of which the newest FINISHED one is meant; or `best`, the
            FINISHED run with the highest F1 on the validation questions: of the newest sweep, or of all runs where
            there is no sweep.
        key: of the command line, for messages.

    Raises:
        UserError: no such run, several ids that begin so, or none that is finished.
    """
    if experiments is None:
        experiments = [str(experiment.experiment_id) for experiment in client.search_experiments()]
    everything = [run for experiment in experiments for run in search(client, experiment, "")]
    everything.sort(key=lambda run: run.info.start_time, reverse=True)
    runs = [run for run in everything if run.data.tags.get("kind") != "sweep"]
    finished = [run for run in runs if run.info.status == "FINISHED"]
    if text == "best":
        return _best([run for run in everything if run.data.tags.get("kind") == "sweep"], finished, key)
    begins = [run for run in runs if run.info.run_id.startswith(text)]
    if len(begins) == 1:
        return begins[0], ""
    if begins:
        listed = ", ".join(f"{run.info.run_id[:8]}... ({run.info.run_name})" for run in begins[:NAMED])
        raise UserError(f"{key}={text}: {len(begins)} runs have an id that begins so ({listed}); give more of it.")
    called = [run for run in runs if run.info.run_name == text]
    whole = [run for run in finished if run.info.run_name == text]
    if len(whole) == 1:
        return whole[0], ""
    if whole:
        ids = f"{whole[0].info.run_id[:8]} (the others: {', '.join(run.info.run_id[:8] for run in whole[1:])})"
        return whole[0], f"{len(whole)} finished runs are called {text}; the newest one is taken, {ids}."
    if called:
        raise UserError(f"{key}={text}: that run is {called[0].info.status}; choose a FINISHED one.")
    names = list(dict.fromkeys(str(run.info.run_name) for run in finished))
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    there_are = f"there are: {', '.join(names[:NAMED])}{more}" if names else "no run has finished yet"
    raise UserError(f"{key}={text}: no run has an id that begins so, or this name{nearest(text, names)}; {there_are}.")


def _best(parents: Sequence[Run], finished: Sequence[Run], key: str) -> tuple[Run, str]:
    """The finished run of the first parent, or of all, with the highest F1; both the newest first."""
    name = str(parents[0].info.run_name).removeprefix("sweep ") if parents else ""  # as unnamed ones begin
    where = f"the sweep {name}" if parents else "the store"
    if parents:
        finished = [run for run in finished if parents[0].info.run_id in run.data.tags.get("sweep", "").split()]
    scored = [run for run in finished if "quality/f1" in run.data.metrics]
    if not scored:
        raise UserError(f"{key}=best: no run of {where} has finished yet.")
    best = max(scored, key=lambda run: run.data.metrics["quality/f1"])
    f1 = best.data.metrics["quality/f1"]
    return best, f"The best run of {where} is {best.info.run_name}, {best.info.run_id[:8]} (F1 {f1:.1f})."


def of_sweeps(client: MlflowClient, parents: Sequence[Run]) -> Selection:
    """The runs of some sweeps, each once."""
    members = {
        run.info.run_id: StoredResult(client, run)
        for parent in parents
        for run in search(client, parent.info.experiment_id, f"tags.sweep LIKE '%{parent.info.run_id}%'")[::-1]
    }
    return Selection(
        client,
        " + ".join(str(parent.info.run_name) for parent in parents),
        sorted(members.values(), key=lambda result: result.run.info.start_time),
        [parent.info.run_id for parent in parents],
        [parent.data.tags.get("command", "") for parent in parents],
    )
