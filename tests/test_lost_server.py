"""A tracking server that goes away while a run trains, never answers, or is not there at all."""

from __future__ import annotations

import importlib
import os
import socket
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from requests import HTTPError
from werkzeug.serving import make_server

from src import runs
from src.config import TrackingConfig, UserError
from src.credentials import DATABASES
from src.run import run
from src.runs import REQUESTS
from src.runs.store import connect, patience, quick_refusal
from src.runs.tracking import RunLog
from tests.conftest import TINY


@pytest.fixture
def silent_server():
    """The address of a server that takes every request and answers none."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_server_that_never_answers_is_given_up(silent_server, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError) as raised:
        connect(TrackingConfig(uri=silent_server))
    reason = "ReadTimeoutError: Read timed out. (read timeout=1)"
    assert str(raised.value) == (
        f"The tracking server tracking.uri={silent_server} cannot be used ({reason}); check the address, or leave "
        "tracking.uri out to log under mlruns/."
    )


def test_how_long_a_server_is_waited_for(monkeypatch):
    def waits():
        return {name: os.environ.get(name) for name in REQUESTS}

    assert 5 * int(REQUESTS["MLFLOW_HTTP_REQUEST_TIMEOUT"]) <= 120  # seconds; the first request and its retries
    for name, value in REQUESTS.items():
        monkeypatch.setenv(name, value)
    with quick_refusal():
        assert waits() == {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
    with patience():
        assert waits() == {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4", "MLFLOW_HTTP_REQUEST_TIMEOUT": "600"}
    assert waits() == REQUESTS
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")  # by the user
    with quick_refusal():
        assert waits() == {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "77"}
    assert waits() == {**REQUESTS, "MLFLOW_HTTP_REQUEST_TIMEOUT": "77"}


def test_the_waits_are_set_unless_the_user_has_set_them(monkeypatch):
    for name in (*REQUESTS, "PGCONNECT_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "7")
    importlib.reload(runs)
    assert {name: os.environ[name] for name in (*REQUESTS, "PGCONNECT_TIMEOUT")} == {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "7",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
        "PGCONNECT_TIMEOUT": "10",
    }


def test_a_database_that_is_not_there_is_given_up(monkeypatch, capfd):
    address = "postgresql+psycopg://ada:s3cret@127.0.0.1:9/db"
    monkeypatch.setenv(DATABASES, address)
    started = time.monotonic()
    with pytest.raises(UserError, match=r"ada:\*\*\*@127.0.0.1:9/db cannot be used \(.*Connection refused.*\);"):
        connect(TrackingConfig(uri=address))
    assert time.monotonic() - started < 30
    shown = capfd.readouterr()
    assert "SQLAlchemy" not in shown.err and "s3cret" not in shown.out + shown.err


def test_a_database_whose_driver_is_not_installed(monkeypatch):
    monkeypatch.setenv(DATABASES, "")
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(UserError) as raised:
        connect(TrackingConfig(uri="postgresql+psycopg://ada:s3cret@127.0.0.1:9/other"))
    assert str(raised.value) == (
        "tracking.uri=postgresql+psycopg://ada:***@127.0.0.1:9/other needs the Python package psycopg, which is not "
        "installed; pip install -e '.[postgresql]'."
    )


def test_a_server_that_does_not_answer_is_asked_more_and_more_seldom(configure, tmp_path, monkeypatch):
    now = [1000.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], time=lambda: now[0])
    monkeypatch.setattr("src.runs.tracking.time", clock)
    asked, answers, said = [], [], []
    log = RunLog(configure(*TINY, f"tracking.folder={tmp_path}"), warn=said.append)

    def log_batch(run_id, metrics):
        asked.append(now[0] - 1000)
        if not answers:
            raise MlflowException("Connection refused")
        answers.append([metric.step for metric in metrics])

    monkeypatch.setattr(log.client, "log_batch", log_batch)
    for step in range(800):
        now[0] += 1
        log.metrics({"train/loss": 1.0}, step)
        if step == 500:
            answers.append("again")
    assert asked[:7] == [11, 32, 73, 154, 315, 476, 637]
    assert asked[7:] == [648 + 11 * i for i in range(len(asked) - 7)] and len(asked) > 20
    assert answers[1] == list(range(637)), "each once and in order"
    assert [sentence.partition(" (")[0].partition(";")[0] for sentence in said] == [
        "The tracking store does not answer",
        "The tracking store answers again",
    ]


def test_a_server_that_does_not_take_a_file_is_told_like_one_that_fails(configure, tmp_path):
    """MLflow raises what requests raises."""
    config = configure(*TINY, f"tracking.folder={tmp_path}")

    def ended_by(checkpoint):
        with RunLog(config) as log:
            if checkpoint:
                (log.checkpoints / "step-00000010").mkdir(parents=True)
            raise HTTPError("401 Client Error: UNAUTHORIZED for url: http://HOST/api")

    with pytest.raises(UserError) as raised:
        ended_by(checkpoint=False)
    reason = "401 Client Error: UNAUTHORIZED for url: http://HOST/api"
    assert str(raised.value) == f"The tracking store failed ({reason}); check that it answers and has room."
    with pytest.raises(UserError, match=r"What was trained is kept in .*checkpoints.*; the same command continues"):
        ended_by(checkpoint=True)


def test_a_server_that_goes_away_while_a_run_begins_is_one_sentence(configure, tmp_path, monkeypatch):
    log = RunLog(configure(*TINY, f"tracking.folder={tmp_path}"))

    def refuse(*given, **more):
        raise MlflowException("Connection refused")

    monkeypatch.setattr(log.client, "log_text", refuse)
    with (
        pytest.raises(UserError, match=r"^The tracking store failed \(Connection refused\); check that"),
        log,
    ):
        pass
    [run] = log.client.search_runs([log.store.experiment])
    assert run.info.status == "FAILED"


class Server:
    """MLflow's application at one address of this machine, up or down."""

    def __init__(self, app):
        self.app = app
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = listener.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.up()

    def up(self):
        self.server = make_server("127.0.0.1", self.port, self.app, threaded=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def down(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def tracking_server(tmp_path, monkeypatch):
    settings = {
        "FILE_STORE": f"sqlite:///{tmp_path / 'mlflow.db'}",
        "REGISTRY_STORE": f"sqlite:///{tmp_path / 'mlflow.db'}",
        "ARTIFACT_ROOT": "mlflow-artifacts:/",
        "ARTIFACT_DESTINATION": str(tmp_path / "artifacts"),
        "SERVE_ARTIFACTS": "true",
    }
    for key, value in settings.items():
        monkeypatch.setenv(f"_MLFLOW_SERVER_{key}", value)
    from mlflow.server import app

    server = Server(app)
    yield server
    server.down()


@pytest.mark.slow
def test_a_lost_server_loses_no_work(tracking_server, configure, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("src.runs.tracking.FLUSH_SECONDS", 0.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    place = [f"tracking.uri={tracking_server.uri}", f"tracking.folder={tmp_path / 'local'}"]
    config = configure(*TINY, "train.epochs=3", *place)

    def on_score(epoch, f1):
        if epoch in (1, 3):
            tracking_server.down()
        if epoch == 2:
            tracking_server.up()

    with pytest.raises(UserError, match=r"What was trained is kept in .*checkpoints.*; the same command continues"):
        run(config, on_score)
    said = capsys.readouterr().out
    assert said.count("The tracking store does not answer") == 2
    assert said.count("The tracking store answers again") == 1
    assert "epoch 2" in said

    tracking_server.up()
    client = MlflowClient(tracking_server.uri)
    [left] = client.search_runs(["1"])
    assert left.info.status == "RUNNING", "nobody could be told that it has ended"
    client.set_tag(
        left.info.run_id, "process_start", "0.0"
    )  # the process of this test is alive; that of the run is not
    result = run(config)
    found = client.get_run(result.run_id)
    assert (found.info.status, found.data.tags["resumed"]) == ("FINISHED", "1")
    assert found.data.metrics["quality/f1"] == result.metrics["quality/f1"]
    steps = int(result.metrics["train/steps"])
    for key, expected in (("train/loss", range(1, steps + 1)), ("eval/f1", range(4)), ("eval/loss", range(4))):
        assert [point.step for point in client.get_metric_history(result.run_id, key)] == list(expected), key
    assert "result.json" in {item.path for item in client.list_artifacts(result.run_id)}
