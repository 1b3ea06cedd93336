"""The store of all runs: connecting to it, searching it, and marking runs whose process is dead.

It is SQLite under `tracking.folder` unless `tracking.uri` names a server. `python -m src.ui` shows it.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.db import utils as databases
from pyarrow.parquet import read_schema
from requests import RequestException
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from src.arguments import command
from src.config import TrackingConfig, UserError
from src.credentials import DATABASES, hidden, with_secrets, without_secrets_in_values
from src.metrics import logged_as, with_present_keys
from src.runs import REQUESTS
from src.runs.identity import HEARTBEAT_SECONDS, Hashes, alive
from src.runs.records import KIND, QUESTIONS, SWEEP, Input, Record, Status, to_read

EXPERIMENT_TAGS = {
    "mlflow.note.content": "`python -m src.compare` puts the methods side by side; docs/metrics.md explains metrics.",
}
LOCK = "mlflow.db.lock"
INPUT_TRIES = 3
LONGEST_REASON = 200  # characters
# Parts of a database's error that are not the reason, and the place of the reason in the error of a failed request.
NO_REASON = ("(raised as a result of Query-invoked autoflush", "(Background on this error at")
CAUSE = re.compile(r"\(Caused by (\w+)\([\"'](?:HTTPS?Connection\w*\(.*?\): )?(.*)[\"']\)\)", re.DOTALL)
PARAMS_A_BATCH = TAGS_A_BATCH = 100  # MLflow's limits
METRICS_A_BATCH = 1000
databases.MAX_RETRY_COUNT = 3  # an unreachable database fails within seconds; MLflow's default of 10 takes 102 s
STORE_ERRORS = (MlflowException, RequestException)  # the latter if a server refuses a file


class AlreadyRunning(UserError):
    """Another process works on the same run."""


@contextmanager
def requests_of(seconds: int, retries: int) -> Iterator[None]:
    """Set the timeout and the number of retries of requests to a server, unless the user has set them."""
    wanted = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(seconds), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(retries)}
    ours = {key: value for key, value in wanted.items() if os.environ.get(key) == REQUESTS[key]}
    os.environ.update(ours)
    try:
        yield
    finally:
        os.environ.update({key: REQUESTS[key] for key in ours})


def quick_refusal() -> AbstractContextManager[None]:
    """Let requests to a server fail within seconds."""
    return requests_of(seconds=10, retries=1)


def patience() -> AbstractContextManager[None]:
    """Wait longer for a server that forwards a large file before it answers."""
    return requests_of(seconds=600, retries=4)


def reason_of(error: BaseException) -> str:
    """The reason for a store's failure from the error of MLflow or a database, without statements and secrets."""
    text = hidden(str(error)).partition("[SQL:")[0]
    if cause := CAUSE.search(text):
        return f"{cause[1]}: {' '.join(cause[2].split())}"[:LONGEST_REASON]
    lines = [line for line in text.splitlines() if not line.startswith(NO_REASON)]
    return " ".join(" ".join(lines).split())[:LONGEST_REASON]


@contextmanager
def store_errors_explained() -> Iterator[None]:
    """Turn the errors that MLflow raises when its store fails into one sentence."""
    try:
        yield
    except STORE_ERRORS as error:
        raise store_failed(error) from error


def store_failed(error: Exception) -> UserError:
    """The error for a store that fails."""
    return UserError(f"The tracking store failed ({reason_of(error)}); check that it answers and has room.")


class Client(MlflowClient):
    """MLflow's client, which removes secrets from names, tags, and texts that are not data (`.txt`, `.yaml`).

    Parameters and the configuration in a model's folder have no secrets already (`src.runs.tracking.recorded`).
    """

    def create_run(self, *given: Any, **more: Any) -> Run:
        return super().create_run(*given, **without_secrets_in_values(more))

    def update_run(self, *given: Any, **more: Any) -> None:
        super().update_run(*given, **without_secrets_in_values(more))

    def set_tag(self, run_id: str, key: str, value: Any, synchronous: bool | None = None) -> Any:
        return super().set_tag(run_id, key, hidden(str(value)), synchronous)

    def log_batch(
        self,
        run_id: str,
        metrics: Sequence[Metric] = (),
        params: Sequence[Param] = (),
        tags: Sequence[RunTag] = (),
        synchronous: bool | None = None,
    ) -> Any:
        clean = [RunTag(tag.key, hidden(str(tag.value))) for tag in tags]
        return super().log_batch(run_id, metrics, params, clean, synchronous)

    def log_text(self, run_id: str, text: str, artifact_file: str, **more: Any) -> None:
        super().log_text(run_id, text if artifact_file.endswith(".json") else hidden(text), artifact_file, **more)


class Store:
    """All runs of one MLflow experiment. Its failures are raised as UserError with one sentence.

    Only src/runs uses `client`, to log runs.
    """

    def __init__(
        self, client: MlflowClient, uri: str, tracking: TrackingConfig, create: bool = True, writable: bool = True
    ) -> None:
        """
        Args:
            client: MLflow's; if `create` is false, that of a local store can only read.
            uri: the store's address, without its password.
            tracking: the configuration of the store and the name of the experiment.
            create: whether to create a missing experiment.
            writable: whether `connect` gives a client that can write.
        """
        self.client, self.uri, self.tracking, self.create, self.writable = client, uri, tracking, create, writable

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.tracking.experiment

    @property
    def selection(self) -> None:
        """None: a store has no stored selection."""
        return None

    @cached_property
    def experiment(self) -> str:
        """The id of `tracking.experiment`, which is created if it does not exist.

        Raises:
            UserError: it does not exist and this store is only read, or MLflow does not accept its name.
        """
        name = self.tracking.experiment
        experiment = self.client.get_experiment_by_name(name) if name else None
        if experiment is not None:
            return str(experiment.experiment_id)
        if not self.create:
            names = [str(e.name) for e in self.client.search_experiments()]
            raise UserError(f"There is no experiment {name} in the store; there are: {', '.join(names)}.")
        # A server decides itself where artifacts go.
        location = None if self.tracking.uri else (Path(self.tracking.folder).resolve() / "artifacts").as_uri()
        try:
            return str(self.client.create_experiment(name, location, EXPERIMENT_TAGS))
        except MlflowException as error:
            if error.error_code == "INVALID_PARAMETER_VALUE":
                raise UserError(
                    f"tracking.experiment={name} cannot be a name in MLflow ({reason_of(error)})."
                ) from error
            experiment = self.client.get_experiment_by_name(name)
            if experiment is None:
                raise
            return str(experiment.experiment_id)  # another process was faster

    @store_errors_explained()
    def runs(self, condition: str = "") -> list[Record]:
        """All runs and parent runs that meet a condition in MLflow's language, the newest first.

        Raises:
            UserError: the condition cannot be read.
        """
        try:
            return self._search(self.experiment, condition)
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            reason = str(error).splitlines()[0]
            raise UserError(f"where={condition} is not a condition that MLflow understands ({reason}).") from error

    @store_errors_explained()
    def everywhere(self) -> list[Record]:
        """All runs and parent runs of all experiments, the newest first."""
        experiments = [str(experiment.experiment_id) for experiment in self.client.search_experiments()]
        records = [record for experiment in experiments for record in self._search(experiment, "")]
        return sorted(records, key=lambda record: record.started, reverse=True)

    def sweeps(self) -> list[Record]:
        """The parent runs of all sweeps, the newest first."""
        return self.runs(f"tags.{KIND} = '{SWEEP}'")

    def members(self, sweep: str) -> list[Record]:
        """The runs of a sweep, by the id of its parent run, the oldest first."""
        return self.runs(f"tags.sweep LIKE '%{sweep}%'")[::-1]

    def of_hash(self, hashes: Hashes) -> list[Record]:
        """All runs of a configuration, the newest first. The hashes of runs of version 0.1 are updated."""
        if hashes.previous is not None:
            for record in self.runs(f"tags.config_hash = '{hashes.previous}'"):
                self.tag(record.id, {"config_hash": hashes.present})
        return self.runs(f"tags.config_hash = '{hashes.present}'")

    def finished(self, hashes: Hashes) -> Record | None:
        """The newest FINISHED run of a configuration."""
        return next((record for record in self.of_hash(hashes) if record.finished), None)

    @store_errors_explained()
    def record(self, run_id: str) -> Record:
        """The run with an id."""
        return self._record(self.client.get_run(run_id))

    @store_errors_explained()
    def is_parent(self, run_id: str) -> bool:
        """Whether an id belongs to the parent run of a sweep, in any experiment."""
        try:
            return self._record(self.client.get_run(run_id)).tags.get(KIND) == SWEEP
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            return False

    @store_errors_explained()
    def experiment_of(self, run_id: str) -> str:
        """The name of the experiment that a run is in."""
        experiment = self.client.get_run(run_id).info.experiment_id
        return str(self.client.get_experiment(experiment).name)

    def _search(self, experiment: str, condition: str) -> list[Record]:
        records: list[Record] = []
        token = None
        while True:
            page = self.client.search_runs([experiment], condition, max_results=1000, page_token=token)
            records += [self._record(run) for run in page]
            if not (token := page.token):
                return records

    def _record(self, run: Run) -> Record:
        """Convert MLflow's run to a record; only this function knows its structure."""
        info, tags = run.info, dict(run.data.tags)
        status = Status.RUNNING if info.status == "SCHEDULED" else Status(info.status)
        inputs = {}
        for item in run.inputs.dataset_inputs if run.inputs else []:
            context = next((tag.value for tag in item.tags if tag.key == "mlflow.data.context"), "")
            rows = json.loads(item.dataset.profile or "{}").get("num_rows", 0)
            inputs[context] = Input(str(item.dataset.digest), int(rows))
        return Record(
            id=str(info.run_id),
            name=str(info.run_name),
            status=Status.PRUNED if status is Status.KILLED and "stopped" in tags else status,
            started=info.start_time,
            ended=info.end_time,
            params=dict(run.data.params),
            metrics=with_present_keys(run.data.metrics),
            tags=tags,
            inputs=inputs,
            source=self,
        )

    @store_errors_explained()
    def points(self, run_id: str, metric: str) -> pd.DataFrame:
        """Columns `step`, `timestamp` (milliseconds since 1970) and `value`: one metric of a run, sorted by step."""
        histories = (self.client.get_metric_history(run_id, key) for key in logged_as(metric))
        points = sorted(next(filter(None, histories), []), key=lambda point: point.step)
        rows = [(point.step, point.timestamp, point.value) for point in points]
        return pd.DataFrame(rows, columns=["step", "timestamp", "value"])

    def questions(self, run_id: str, columns: Sequence[str] | None = None) -> pd.DataFrame | None:
        """The scores by question of a run, with the given columns as far as it has them; None if it kept no scores."""
        with tempfile.TemporaryDirectory() as temporary:
            file = self.artifact(run_id, QUESTIONS, temporary)
            if file is None:
                return None
            return pd.read_parquet(file, columns=to_read(read_schema(file).names, columns))

    def artifact(self, run_id: str, name: str, folder: str) -> Path | None:
        """Copy an artifact, or a folder of artifacts, into a folder; None if the run has none of that name."""
        try:
            return Path(self.client.download_artifacts(run_id, name, folder))
        except (MlflowException, OSError):
            return None

    def text(self, run_id: str, name: str) -> str | None:
        """The text of an artifact; None if the run has none of that name."""
        with tempfile.TemporaryDirectory() as temporary:
            file = self.artifact(run_id, name, temporary)
            return None if file is None else file.read_text(encoding="utf-8")

    @store_errors_explained()
    def log_artifact(self, run_id: str, file: Path, folder: str | None = None) -> None:
        """Add a file to the artifacts of a run."""
        self.client.log_artifact(run_id, str(file), folder)

    def log_table(self, run_id: str, name: str, table: pd.DataFrame) -> None:
        """Add a table to the artifacts of a run, as a compressed Parquet file.

        Raises:
            MlflowException: the store does not accept it.
        """
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary) / name
            table.to_parquet(file, compression="zstd", index=False)
            self.client.log_artifact(run_id, str(file))

    @store_errors_explained()
    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run; up to 100 of them are set in one transaction."""
        listed = [RunTag(key, value) for key, value in tags.items()]
        for i in range(0, len(listed), TAGS_A_BATCH):
            self.client.log_batch(run_id, tags=listed[i : i + TAGS_A_BATCH])

    def log_inputs(self, run_id: str, name: str, inputs: Mapping[str, Input]) -> None:
        """Log the sets of questions of a run, by context (train, validation); `name` is that of the data set.

        Raises:
            MlflowException: the store does not accept them.
        """
        logged = [
            DatasetInput(
                Dataset(
                    name,
                    digest,
                    "local",
                    json.dumps({"uri": name}),
                    profile=json.dumps({"num_rows": rows}),
                ),
                [InputTag("mlflow.data.context", context)],
            )
            for context, (digest, rows) in inputs.items()
        ]
        for tries_left in reversed(range(INPUT_TRIES)):
            try:
                self.client.log_inputs(run_id, logged)
                break
            except MlflowException:  # two runs that log the same new data set at once: the store refuses one of them
                if not tries_left:
                    raise

    def mark_dead_runs(self) -> None:
        """Mark RUNNING runs as KILLED if their process ended without logging it (SIGKILL, a reboot).

        Runs that other tools put into the experiment are not changed.
        """
        for record in self.runs("attributes.status = 'RUNNING'"):
            if "host_id" in record.tags and not alive(record.tags):
                self.client.set_terminated(record.id, "KILLED")

    def keep_alive(self, run_id: str, ended: threading.Event) -> None:
        """Send a heartbeat of a run every minute, which other machines read, until the run has ended."""

        def beat() -> None:
            while not ended.wait(HEARTBEAT_SECONDS):
                with suppress(MlflowException):
                    self.client.set_tag(run_id, "heartbeat", f"{time.time():.0f}")

        threading.Thread(target=beat, daemon=True).start()


def connect(config: TrackingConfig, create: bool = True) -> Store:
    """Connect to the store that a configuration names.

    Args:
        config: of the store.
        create: create a missing local store or experiment; false: a local store is only read.

    Raises:
        UserError: the server does not answer, the folder cannot be written, or there is no store and `create` is false.
    """
    if config.uri is not None:
        return Store(_client_of(config.uri), config.uri, config, create)
    folder = Path(config.folder).resolve()
    database = folder / "mlflow.db"
    uri = f"sqlite:///{database}"
    if not create:
        if not database.exists():
            raise UserError(
                f"tracking.folder={config.folder} holds no store (mlflow.db); train something first "
                f"({' '.join(command('train'))}), or name the folder that the runs were logged to."
            )
        writable = os.access(database, os.W_OK) and os.access(folder, os.W_OK)  # SQLite also writes a journal file
        read_only = _read_only(database)
        return Store(_reader_of(database, writable), uri if writable else read_only, config, create, writable)
    folder.mkdir(parents=True, exist_ok=True)
    # Processes that start together must not create the schema at the same time.
    with FileLock(folder / LOCK):
        try:
            if not database.exists():
                _create(database)
            client = Client(uri)
            client.search_experiments(max_results=1)
        except (MlflowException, SQLAlchemyError, OSError) as error:
            raise UserError(
                f"{database} cannot be used as MLflow's store ({reason_of(error)}); check that its "
                "folder is writable and has room, move the file away, or set tracking.folder."
            ) from error
    return Store(client, uri, config, create)


def _create(database: Path) -> None:
    """Create the tables in another file, which becomes the database when it is complete.

    If MLflow is interrupted while it creates its tables, it cannot use the file any more.
    """
    unfinished = database.with_name("mlflow.db.unfinished")
    for left in database.parent.glob(f"{unfinished.name}*"):  # with SQLite's journal
        left.unlink()
    client = MlflowClient(f"sqlite:///{unfinished}")
    client.search_experiments(max_results=1)
    client._tracking_client.store.engine.dispose()  # close the file
    unfinished.rename(database)


def _read_only(database: Path) -> str:
    """The address with which SQLite opens a file read-only, so that MLflow cannot change its schema either."""
    # Without `+pysqlite`, MLflow takes the rest of the address for a path and creates its folders.
    opened = URL.create("sqlite+pysqlite", database=database.as_uri(), query={"mode": "ro", "uri": "true"})
    return opened.render_as_string()


def _reader_of(database: Path, writable: bool) -> MlflowClient:
    """A client that only reads.

    Raises:
        UserError: the file is not a store of this version of MLflow, or cannot be read.
    """
    with FileLock(database.with_name(LOCK)) if writable else nullcontext():  # wait until a new store is complete
        try:
            # This fails at once, where MLflow would retry for minutes, and rolls back what a killed process half wrote.
            mode = "rw" if writable else "ro"
            with closing(sqlite3.connect(f"{database.as_uri()}?mode={mode}", uri=True)) as opened:
                opened.execute("SELECT version_num FROM alembic_version")
            client = MlflowClient(_read_only(database))
            client.search_experiments(max_results=1)
        except (MlflowException, SQLAlchemyError, sqlite3.Error) as error:
            reason = str(error).splitlines()[0][:200]
            if "readonly database" in reason or "out-of-date" in reason:  # MLflow would create or migrate its tables
                raise UserError(
                    f"{database} is not of the installed version of MLflow, and this command only reads: copy the "
                    f"file, then run `mlflow db upgrade sqlite:///{database}`."
                ) from error
            raise UserError(
                f"{database} cannot be read as MLflow's store ({reason}); check the file and who may read it, or set "
                "tracking.folder."
            ) from error
    return client


def _client_of(uri: str) -> MlflowClient:
    full_uri = with_secrets(uri)
    if full_uri is None:
        raise UserError(f"tracking.uri={uri}: its password is not known; put the whole address into {DATABASES}.")
    try:
        with quick_refusal():
            client = Client(full_uri)
            client.search_experiments(max_results=1)
    except ImportError as error:
        extra = "pip install -e '.[postgresql]'" if error.name == "psycopg" else "install it"
        raise UserError(
            f"tracking.uri={uri} needs the Python package {error.name}, which is not installed; {extra}."
        ) from None
    except (MlflowException, SQLAlchemyError, ValueError) as error:
        raise UserError(
            f"The tracking server tracking.uri={uri} cannot be used ({reason_of(error)}); check the address, or leave "
            "tracking.uri out to log under mlruns/."
        ) from None  # the error itself may hold the password
    return client


def joined(names: str, name: str) -> str:
    """Add `name` to names that are separated by spaces."""
    return " ".join(dict.fromkeys([*names.split(), name]))
