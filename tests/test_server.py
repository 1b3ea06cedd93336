"""Many machines, one store: an MLflow server on PostgreSQL, started for real."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mlflow import MlflowClient

from src import compare
from src.config import TrackingConfig, UserError
from src.credentials import DATABASES, PASSWORD, USERNAME
from src.runs.keep import drop_worse_models
from src.runs.store import connect
from tests.test_sweep import SMALL

FILES = {"report.html", "report.md", "side_by_side.csv", "verdict.csv", "verdict.json"}
PROGRAMS = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
INITDB = shutil.which("initdb") or next((str(p / "initdb") for p in PROGRAMS if (p / "initdb").exists()), None)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until(ready, process, what: str) -> None:
    deadline = time.monotonic() + 90
    while not ready():
        assert process.poll() is None, f"{what} ended"
        assert time.monotonic() < deadline, f"{what} does not answer"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def postgres():
    """URI of a database of a PostgreSQL server of its own."""
    if INITDB is None:
        pytest.skip("no PostgreSQL here (Debian: apt-get install postgresql)")
    psycopg = pytest.importorskip("psycopg")
    root = os.geteuid() == 0
    owner = {"user": "postgres", "group": "postgres"} if root else {}  # it refuses to run as root
    with tempfile.TemporaryDirectory() as folder:
        if root:
            shutil.chown(folder, "postgres", "postgres")
        data, port = f"{folder}/data", free_port()
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, **owner}
        subprocess.run([INITDB, "-D", data, "-U", "tuneoff", "-A", "trust", "--no-sync"], check=True, **quiet)
        program = str(Path(INITDB).resolve().with_name("postgres"))
        settings = ["-D", data, "-k", folder, "-h", "127.0.0.1", "-p", str(port), "-F"]
        process = subprocess.Popen([program, *settings], **quiet)
        place = f"tuneoff@127.0.0.1:{port}/postgres"

        def answers() -> bool:
            try:
                psycopg.connect(f"postgresql://{place}").close()
            except psycopg.OperationalError:
                return False
            return True

        try:
            wait_until(answers, process, "PostgreSQL")
            yield f"postgresql+psycopg://{place}"
        finally:
            process.send_signal(signal.SIGINT)  # without waiting until the last client has left
            process.wait(30)


@pytest.fixture(scope="module")
def server_uri(postgres, tmp_path_factory):
    """The README's `mlflow server` on it."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    arguments = ["--backend-store-uri", postgres, "--artifacts-destination", str(folder), "--host", "127.0.0.1"]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *arguments, "--port", str(port), "--workers", "1"],
            stdout=log,
            stderr=log,
            start_new_session=True,  # its workers end with it
        )
    uri = f"http://127.0.0.1:{port}"

    def healthy() -> bool:
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    try:
        wait_until(healthy, process, "mlflow server")
        yield uri
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # at once: what it stored is looked at no more
            process.wait(30)


@pytest.mark.slow
def test_two_machines_share_a_server_on_postgresql(server_uri, command, tmp_path, monkeypatch, capsys):
    """Two folders stand for two machines: each has its own checkpoints and output, and both the same store.

    The password in the address is nowhere afterwards.
    """
    store = f"tracking.uri={server_uri.replace('//', '//ada:s3cret@')}"
    monkeypatch.setenv(USERNAME, "")  # so that they are put back at the end
    monkeypatch.setenv(PASSWORD, "")
    shared = [*SMALL, store]
    with ThreadPoolExecutor(2) as pool:
        machines = [
            pool.submit(command, "src.train", "-m", *shared, f"method={method}", f"tracking.folder={tmp_path / method}")
            for method in ("full", "lora")
        ]
    everything = ""
    for machine in machines:
        done = machine.result()
        shown = done.stderr + done.stdout
        assert done.returncode == 0, shown
        assert shown.startswith("Warning: the password in the store's address is kept out of")
        assert f"set {USERNAME} and {PASSWORD}" in shown
        everything += shown
    client = MlflowClient(server_uri)
    [experiment] = [e for e in client.search_experiments() if e.name == "tuneoff"]
    found = client.search_runs([experiment.experiment_id])
    children = [run for run in found if "mlflow.parentRunId" in run.data.tags]
    assert sorted(run.data.tags["method"] for run in children) == ["full", "lora"]
    assert [run.info.status for run in found] == ["FINISHED"] * 4
    for run in children:
        assert len(client.get_metric_history(run.info.run_id, "train/loss")) == 10
    assert not (tmp_path / "full" / "mlflow.db").exists()

    # A third machine compares them, and the sweeps keep what it found.
    where = "where=params.model.name = 'tiny'"
    monkeypatch.setattr(sys, "argv", ["src.compare", store, where, f"output={tmp_path / 'report'}"])
    compare.main()
    shown = capsys.readouterr()
    assert "of the stored size." in shown.out
    everything += shown.out + shown.err + str([run.to_dictionary() for run in client.search_runs(["0", "1"])])
    assert "14,402 (" in (tmp_path / "report" / "report.md").read_text()
    for parent in (run for run in found if run.data.tags.get("kind") == "sweep"):
        kept = client.list_artifacts(parent.info.run_id, "report")
        assert {Path(file.path).name for file in kept} == FILES
        assert f"tracking.uri={server_uri}" in parent.data.tags["command"]
    artifacts = Path(client.download_artifacts(children[0].info.run_id, "", str(tmp_path / "artifacts")))
    assert f"uri: {server_uri}" in (artifacts / "config.yaml").read_text()
    for run in found:
        (tmp_path / run.info.run_id).mkdir()
        client.download_artifacts(run.info.run_id, "", str(tmp_path / run.info.run_id))
    stored = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(stored) > 40
    assert [path for path in stored if b"s3cret" in path.read_bytes()] == []
    assert "s3cret" not in everything


@pytest.mark.slow
def test_worse_models_are_deleted_from_a_server(server_uri, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    store = connect(TrackingConfig(uri=server_uri, experiment="keep the best"))
    client, experiment = store.client, store.experiment
    runs = []
    for f1 in (50.0, 60.0):
        run = client.create_run(experiment, tags={"method": "full", "sweep": "s"}).info.run_id
        client.log_param(run, "tracking.keep_model", "best")
        client.log_metric(run, "quality/f1", f1)
        client.log_artifact(run, str(tmp_path / "model.safetensors"), "model")
        client.set_terminated(run)
        runs.append(run)
    assert drop_worse_models(store, "s", [store.record(run) for run in runs]) is None
    assert [len(client.list_artifacts(run, "model")) for run in runs] == [0, 1]
    assert [client.get_run(run).data.tags.get("model_kept") for run in runs] == ["false", None]


@pytest.mark.slow
def test_a_databases_password_is_used_and_not_recorded(postgres, server_uri, monkeypatch):
    monkeypatch.setenv(DATABASES, "")
    config = TrackingConfig(uri=postgres.replace("tuneoff@", "tuneoff:s3@cret@"))
    assert config.uri == postgres.replace("tuneoff@", "tuneoff:***@")
    store = connect(config)
    assert store.uri == config.uri
    assert store.client._tracking_client.store.engine.url.password == "s3@cret"
    monkeypatch.setenv(DATABASES, "")
    with pytest.raises(UserError, match="its password is not known; put the whole address into TUNEOFF_DATABASE_URIS"):
        connect(config)
