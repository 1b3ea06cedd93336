"""The store of all runs: reached, searched, and kept true about which runs still run.

It is SQLite under `tracking.folder` unless `tracking.uri` names a server. `python -m src.ui` shows it.
"""

from __future__ import annotations

import os
import shlex
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from src.config import TrackingConfig, UserError
from src.runs.identity import HEARTBEAT_SECONDS, alive

EXPERIMENT_TAGS = {
    "mlflow.note.content": "`python -m src.compare` puts the methods side by side; README.md says what each metric is.",
}


class AlreadyRunning(UserError):
    """Another process works on the same run."""


def connect(config: TrackingConfig, create: bool = True) -> tuple[MlflowClient, str]:
    """A client of the tracking store, and the store's URI.

    Args:
        config: where it is.
        create: make a local store where there is none.

    Raises:
        UserError: a server that does not answer, a folder that cannot be written, or no store and `create` false.
    """
    if config.uri is not None:
        with _quick_refusal():
            try:
                client = MlflowClient(config.uri)
                client.search_experiments(max_results=1)
            except MlflowException as error:
                reason = " ".join(str(error).split())
                raise UserError(
                    f"The tracking server tracking.uri={config.uri} cannot be used ({reason[:200]}); check the "
                    "address, or leave tracking.uri out to log under mlruns/."
                ) from error
        return client, config.uri
    folder = Path(config.folder).resolve()
    if not create and not (folder / "mlflow.db").exists():
        raise UserError(
            f"tracking.folder={config.folder} holds no store (mlflow.db); train something first (python -m src.train), "
            "or name the folder that the runs were logged to."
        )
    folder.mkdir(parents=True, exist_ok=True)
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    # Processes that start together must not create the schema at once.
    with FileLock(folder / "mlflow.db.lock"):
        try:
            client = MlflowClient(uri)
            client.search_experiments(max_results=1)
        except (MlflowException, SQLAlchemyError) as error:
            raise UserError(
                f"{folder / 'mlflow.db'} cannot be used as MLflow's store ({str(error).splitlines()[0][:200]}); move "
                "it away, or set tracking.folder."
            ) from error
    return client, uri


@contextmanager
def _quick_refusal() -> Any:
    """MLflow retries for minutes; whether the server is there at all should be known at once."""
    key = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
    before = os.environ.get(key)
    os.environ[key] = "1"
    try:
        yield
    finally:
        os.environ.pop(key)
        if before is not None:
            os.environ[key] = before


@contextmanager
def store_errors_explained() -> Iterator[None]:
    """Turn what MLflow raises when its store fails into one sentence."""
    try:
        yield
    except MlflowException as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"The tracking store failed ({reason}); check that it answers and has room.") from error


def experiment_id(client: MlflowClient, tracking: TrackingConfig) -> str:
    """The id of `tracking.experiment`, made where it does not exist yet."""
    experiment = client.get_experiment_by_name(tracking.experiment)
    if experiment is not None:
        return str(experiment.experiment_id)
    # With a server, where artifacts go is the server's business.
    location = None if tracking.uri else (Path(tracking.folder).resolve() / "artifacts").as_uri()
    try:
        return str(client.create_experiment(tracking.experiment, location, EXPERIMENT_TAGS))
    except MlflowException:
        experiment = client.get_experiment_by_name(tracking.experiment)
        if experiment is None:
            raise
        return str(experiment.experiment_id)  # another process was faster


def search(client: MlflowClient, experiment: str, condition: str) -> list[Run]:
    """All runs of an experiment that meet a condition in MLflow's language, the newest first."""
    found: list[Run] = []
    token = None
    while True:
        page = client.search_runs([experiment], condition, max_results=1000, page_token=token)
        found += page
        if not (token := page.token):
            return found


def finished_run(client: MlflowClient, experiment: str, hash: str) -> Run | None:
    """The newest FINISHED run of a configuration."""
    found = search(client, experiment, f"tags.config_hash = '{hash}' AND attributes.status = 'FINISHED'")
    return found[0] if found else None


def mark_dead_runs(client: MlflowClient, experiment: str) -> None:
    """Runs whose process is gone without a word (a SIGKILL, a reboot) are KILLED, not RUNNING."""
    for run in search(client, experiment, "attributes.status = 'RUNNING'"):
        if not alive(run.data.tags):
            client.set_terminated(run.info.run_id, "KILLED")


def keep_alive(client: MlflowClient, run_id: str, ended: threading.Event) -> None:
    """Tell other machines every minute that this process still works on a run, until it has ended."""

    def beat() -> None:
        while not ended.wait(HEARTBEAT_SECONDS):
            with suppress(MlflowException):
                client.set_tag(run_id, "heartbeat", f"{time.time():.0f}")

    threading.Thread(target=beat, daemon=True).start()


def ui_command(tracking: TrackingConfig) -> str:
    """The line that opens the MLflow UI on a store, or its address where it has one."""
    if tracking.uri and urlparse(tracking.uri).scheme in ("http", "https"):
        return tracking.uri
    return command_line("ui", tracking)


def command_line(module: str, tracking: TrackingConfig, *arguments: str) -> str:
    """`python -m src.MODULE` with arguments, and with the keys of a store other than the default; for the shell."""
    default = TrackingConfig()
    keys = {"tracking.uri": tracking.uri} if tracking.uri else {"tracking.folder": tracking.folder}
    if module == "compare":  # the other commands look through all experiments
        keys["tracking.experiment"] = tracking.experiment
    given = {"tracking.folder": default.folder, "tracking.experiment": default.experiment}
    at = [f"{key}={value}" for key, value in keys.items() if value != given.get(key)]
    return shlex.join(["python", "-m", f"src.{module}", *arguments, *at])


def next_commands(tracking: TrackingConfig, run_id: str) -> dict[str, str]:
    """What can be done with a run that has finished, and the line that does it."""
    example = ("question=Who wrote it?", "context=It was written by Ada.")
    return {
        "ask it": command_line("predict", tracking, f"run={run_id[:8]}", *example),
        "compare runs": command_line("compare", tracking),
        "see all runs": ui_command(tracking),
    }


def joined(names: str, name: str) -> str:
    """`name` added to names with spaces between."""
    return " ".join(dict.fromkeys([*names.split(), name]))
