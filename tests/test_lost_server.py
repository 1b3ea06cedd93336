"""A tracking server that goes away while a run trains: MLflow's own application, stopped and started again."""

from __future__ import annotations

import socket
import threading

import pytest
from mlflow import MlflowClient
from werkzeug.serving import make_server

from src.config import UserError
from src.run import run
from tests.conftest import TINY


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

    with pytest.raises(UserError, match=r"What was trained is kept in .*checkpoints.*; the same command goes on"):
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
