"""Imports exported runs into a store, each run once."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from src.runs.archive import Archive
from src.runs.records import QUESTIONS, Record, Status
from src.runs.store import METRICS_A_BATCH, PARAMS_A_BATCH, Store, store_errors_explained

ORIGIN = "imported_from"  # tag: the id of a run in the store where it was made
UNDER_WAY = "import_under_way"  # tag of a run whose import is not complete
ID_TAGS = ("sweep", "mlflow.parentRunId", "superseded_by", "reproduces")  # tags that hold ids of runs


@dataclass(frozen=True)
class Imported:
    """The numbers of runs and parent runs that were added, and of those that the store already held."""

    runs: int
    sweeps: int
    known: int


def import_runs(archive: Archive, store: Store) -> Imported:
    """Import the runs of a file that the store does not hold yet, under new ids.

    A run is identified by its id in the store where it was made (tag `imported_from`), however often it is exported. It
    keeps its name, status, times, parameters, metrics and tags; ids of other runs in tags are replaced by the ids of
    this store. A run that was RUNNING when it was exported becomes KILLED. For a run that the store already holds, only
    the tags with ids of other runs are updated. Runs that an interrupted import could not remove lack the tags by
    which a run is recognised, and the next import removes them.

    Raises:
        UserError: the store fails, or the file is damaged.
    """
    folder = Path(store.tracking.folder)
    folder.mkdir(parents=True, exist_ok=True)
    with store_errors_explained(), FileLock(folder.resolve() / "import.lock"):
        for record in store.runs(f"tags.{UNDER_WAY} = 'true'"):
            if ORIGIN not in record.tags:
                store.client.delete_run(record.id)
        there = {origin(record): record for record in store.runs()}
        records = list(archive.records.values())
        new = [record for record in records if origin(record) not in there]
        ids = {known: record.id for known, record in there.items()}
        made: list[str] = []
        try:
            for record in new:
                made.append(_create(store, record))
                _fill(store, archive, record, made[-1])
                ids[origin(record)] = made[-1]
        except BaseException:  # also an interruption: no part of a file stays
            for run_id in made:
                with suppress(MlflowException):
                    store.client.delete_run(run_id)
            raise
        ids |= {record.id: ids[origin(record)] for record in records}
        for record in new:  # last, and all tags of a run at once: without them it is not recognised as a run
            store.tag(ids[record.id], {**_mapped(record.tags, ids), ORIGIN: origin(record)})
            store.client.delete_tag(ids[record.id], UNDER_WAY)
        for record in records:
            if origin(record) in there:
                _update(store, record, there[origin(record)], ids)
    sweeps = sum(record.is_sweep for record in new)
    return Imported(len(new) - sweeps, sweeps, len(records) - len(new))


def origin(record: Record) -> str:
    """The id of a run in the store where it was made."""
    return record.tags.get(ORIGIN, record.id)


def _create(store: Store, record: Record) -> str:
    tags = {UNDER_WAY: "true"}
    created = store.client.create_run(store.experiment, start_time=record.started, tags=tags, run_name=record.name)
    return str(created.info.run_id)


def _fill(store: Store, archive: Archive, record: Record, run_id: str) -> None:
    """Import everything of a run but its tags."""
    params = [Param(key, value) for key, value in record.params.items()]
    for i in range(0, len(params), PARAMS_A_BATCH):
        store.client.log_batch(run_id, params=params[i : i + PARAMS_A_BATCH])
    rows = archive.points_of(record.id)[["key", "value", "timestamp", "step"]].itertuples(index=False, name=None)
    metrics = [Metric(*row) for row in rows]
    for i in range(0, len(metrics), METRICS_A_BATCH):
        store.client.log_batch(run_id, metrics=metrics[i : i + METRICS_A_BATCH])
    if record.inputs:
        store.log_inputs(run_id, record.params.get("dataset.name", record.tags.get("dataset", "")), record.inputs)
    for name, text in archive.files(record.id).items():
        store.client.log_text(run_id, text, name)
    questions = record.questions(split=None)
    if questions is not None:
        store.log_table(run_id, QUESTIONS, questions.reset_index())
    status = Status.KILLED if record.status is Status.RUNNING else record.status
    ended = record.started if record.ended is None else record.ended
    store.client.set_terminated(run_id, status.in_mlflow, ended)


def _mapped(tags: Mapping[str, str], ids: Mapping[str, str]) -> dict[str, str]:
    """The tags with known ids replaced by the ids of this store."""
    named = {key: " ".join(ids.get(each, each) for each in tags[key].split()) for key in ID_TAGS if key in tags}
    return {**tags, **named}


def _update(store: Store, record: Record, present: Record, ids: Mapping[str, str]) -> None:
    """Update the tags of a present run: a later file may contain another sweep that the run belongs to."""
    now, given = _links(present, ids), _links(record, ids)
    if "sweep" in given:
        now["sweep"] = " ".join(dict.fromkeys(f"{now.get('sweep', '')} {given['sweep']}".split()))
    changed = {key: value for key, value in now.items() if present.tags.get(key) != value}
    if changed:
        store.tag(present.id, changed)


def _links(record: Record, ids: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in _mapped(record.tags, ids).items() if key in ID_TAGS}
