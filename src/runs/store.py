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
from urllib.parse import urlparse

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from src.arguments import command
from src.config import TrackingConfig, UserError
from src.credentials import DATABASES, hidden, with_secrets
from src.runs.identity import HEARTBEAT_SECONDS, Hashes, alive

EXPERIMENT_TAGS = {
    "mlflow.note.content": "`python -m src.compare` puts the methods side by side; README.md says what each metric is.",
}


class AlreadyRunning(UserError):
    """Another process works on the same run."""


def connect(config: TrackingConfig, create: bool = True) -> tuple[MlflowClient, str]:
    """A client of the tracking store, and the store's URI, without its password.

    Args:
        config: where it is.
        create: make a local store where there is none.

    Raises:
        UserError: a server that does not answer, a folder that cannot be written, or no store and `create` false.
    """
    if config.uri is not None:
        return _connect_to(config.uri), config.uri
    folder = Path(config.folder).resolve()
    if not create and not (folder / "mlflow.db").exists():
        raise UserError(
            f"tracking.folder={config.folder} holds no store (mlflow.db); train something first "
            f"({' '.join(command('train'))}), or name the folder that the runs were logged to."
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


def _connect_to(uri: str) -> MlflowClient:
    whole = with_secrets(uri)
    if whole is None:
        raise UserError(f"tracking.uri={uri}: its password is not known; put the whole address into {DATABASES}.")
    with quick_refusal():
        try:
            client = MlflowClient(whole)
            client.search_experiments(max_results=1)
        except (MlflowException, SQLAlchemyError, ImportError, ValueError) as error:
            reason = " ".join(hidden(str(error)).split())
            raise UserError(
                f"The tracking server tracking.uri={uri} cannot be used ({reason[:200]}); check the "
                "address, or leave tracking.uri out to log under mlruns/."
            ) from None  # the error itself may hold the password
    return client


@contextmanager
def quick_refusal() -> Iterator[None]:
    """Give up on a server within seconds, where MLflow would retry for minutes."""
    quick = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
    before = {key: os.environ.get(key) for key in quick}
    os.environ.update(quick)
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key)
            if value is not None:
                os.environ[key] = value


@contextmanager
def store_errors_explained() -> Iterator[None]:
    """Turn what MLflow raises when its store fails into one sentence."""
    try:
        yield
    except MlflowException as error:
        reason = " ".join(hidden(str(error)).split())[:200]
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


def runs_of(client: MlflowClient, experiment: str, hashes: Hashes) -> list[Run]:
    """All runs of a configuration, the newest first. Those that version 0.1 made get today's hash on the way."""
    if hashes.previous is not None:
        for run in search(client, experiment, f"tags.config_hash = '{hashes.previous}'"):
            client.set_tag(run.info.run_id, "config_hash", hashes.present)
    return search(client, experiment, f"tags.config_hash = '{hashes.present}'")


def finished_run(client: MlflowClient, experiment: str, hashes: Hashes) -> Run | None:
    """The newest FINISHED run of a configuration."""
    return next((run for run in runs_of(client, experiment, hashes) if run.info.status == "FINISHED"), None)


def mark_dead_runs(client: MlflowClient, experiment: str) -> None:
    """Runs whose process is gone without a word (a SIGKILL, a reboot) are KILLED, not RUNNING.

    Runs that other tools have put into the experiment are left alone.
    """
    for run in search(client, experiment, "attributes.status = 'RUNNING'"):
        if "host_id" in run.data.tags and not alive(run.data.tags):
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
    """The line that starts a command, with arguments, and with the keys of a store other than the default."""
    default = TrackingConfig()
    keys = {"tracking.uri": tracking.uri} if tracking.uri else {"tracking.folder": tracking.folder}
    if module == "compare":  # the other commands look through all experiments
        keys["tracking.experiment"] = tracking.experiment
    given = {"tracking.folder": default.folder, "tracking.experiment": default.experiment}
    at = [f"{key}={value}" for key, value in keys.items() if value != given.get(key)]
    return shlex.join([*command(module), *arguments, *at])


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
