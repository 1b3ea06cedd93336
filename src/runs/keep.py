"""Which models a store keeps (`tracking.keep_model`: all, the best of each method in a sweep, or none) or registers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from requests import RequestException

from src.config import one_line
from src.metrics import F1
from src.runs.records import Record
from src.runs.store import Store, store_errors_explained
from src.runs.tracking import RunLog

MODEL = "model"  # the artifact folder
KEPT = "model_kept"  # tag: "false" where the model was not kept


@contextmanager
def model_folder(log: RunLog) -> Iterator[Path]:
    """A temporary folder that becomes the run's artifact folder `model`, unless no models are kept."""
    if log.config.tracking.keep_model == "none":
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
        log.tags({KEPT: "false"})
    else:
        with log.folder(MODEL) as folder:
            yield folder


def drop_worse_models(store: Store, sweep: str, members: Sequence[Record]) -> str | None:
    """Delete the models of a sweep's runs that are not the best by F1 for their method, model and data set.

    A run without `tracking.keep_model=best`, or one that also belongs to another sweep, keeps its model.

    Args:
        store: that holds the runs.
        sweep: the run id of the sweep's parent.
        members: the runs of the sweep, the oldest first; of runs with equal F1, the oldest is the best.

    Returns:
        One sentence if the store cannot delete artifacts.
    """
    best: dict[tuple[str, ...], Record] = {}
    finished = [run for run in members if run.finished]
    for run in finished:
        kind = _kind(run)
        if kind not in best or run.metrics[F1] > best[kind].metrics[F1]:
            best[kind] = run
    for run in finished:
        tags = run.tags
        asked = run.params.get("tracking.keep_model") == "best" and tags.get("sweep") == sweep
        if not asked or run is best[_kind(run)] or tags.get(KEPT) == "false":
            continue
        try:
            client = store.client
            place = str(client.get_run(run.id).info.artifact_uri)
            repository = get_artifact_repository(place, tracking_uri=client.tracking_uri)
            repository.delete_artifacts(MODEL)
        except (NotImplementedError, MlflowException, RequestException, OSError) as error:
            reason = one_line(error)
            return f"tracking.keep_model=best: the store does not delete artifacts, all models stay ({reason})."
        store.tag(run.id, {KEPT: "false"})
    return None


@store_errors_explained()
def register_model(store: Store, run_id: str, name: str) -> str:
    """Register the model of a run, unless it is registered already.

    Args:
        store: that holds the run.
        run_id: of the run.
        name: of the registered model, which is created if it does not exist.

    Returns:
        The number of its version.

    Raises:
        UserError: the store fails.
    """
    client = store.client
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    for version in client.search_model_versions(f"name = '{name}'"):
        if version.run_id == run_id:
            return str(version.version)
    source = f"{client.get_run(run_id).info.artifact_uri}/{MODEL}"
    return str(client.create_model_version(name, source, run_id).version)


def _kind(run: Record) -> tuple[str, ...]:
    return tuple(run.tags.get(key, "") for key in ("method", "model", "dataset"))
