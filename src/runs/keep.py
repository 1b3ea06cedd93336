"""Which models a store keeps (`tracking.keep_model`): all, the best of each method in a sweep, or none."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from requests import RequestException

from src.runs.tracking import RunLog

MODEL = "model"  # the artifact folder
KEPT = "model_kept"  # tag: "false" where the model was not kept


@contextmanager
def model_folder(log: RunLog) -> Iterator[Path]:
    """A temporary folder that becomes the run's artifact folder `model`, unless none is kept."""
    if log.config.tracking.keep_model == "none":
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
        log.tags({KEPT: "false"})
    else:
        with log.folder(MODEL) as folder:
            yield folder


def drop_worse_models(client: MlflowClient, sweep: str, members: Sequence[Run]) -> str | None:
    """Delete the models of the runs of a sweep that are not the best of their method, model and data set, by F1.

    A run that did not ask for it (`tracking.keep_model=best`), or is part of another sweep as well, keeps its model.

    Args:
        client: of the store.
        sweep: run id of its parent.
        members: its runs, the oldest first; of equal ones the oldest is the best.

    Returns:
        One sentence where the store deletes nothing.
    """
    best: dict[tuple[str, ...], Run] = {}
    finished = [run for run in members if run.info.status == "FINISHED"]
    for run in finished:
        kind = _kind(run)
        if kind not in best or run.data.metrics["quality/f1"] > best[kind].data.metrics["quality/f1"]:
            best[kind] = run
    for run in finished:
        tags = run.data.tags
        asked = run.data.params.get("tracking.keep_model") == "best" and tags.get("sweep") == sweep
        if not asked or run is best[_kind(run)] or tags.get(KEPT) == "false":
            continue
        try:
            repository = get_artifact_repository(str(run.info.artifact_uri), tracking_uri=client.tracking_uri)
            repository.delete_artifacts(MODEL)
        except (NotImplementedError, MlflowException, RequestException, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            return f"tracking.keep_model=best: the store does not delete artifacts, all models stay ({reason})."
        client.set_tag(run.info.run_id, KEPT, "false")
    return None


def _kind(run: Run) -> tuple[str, ...]:
    return tuple(run.data.tags.get(key, "") for key in ("method", "model", "dataset"))
