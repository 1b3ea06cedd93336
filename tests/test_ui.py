"""What MLflow's UI shows: run names, descriptions, and the view that `python -m src.ui` leads to."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir
from mlflow import MlflowClient
from mlflow.server.security_utils import get_allowed_hosts_from_env, is_allowed_host_header

from src import server, sweep, ui
from src.config import ROOT, UserError
from src.report.comparison import compare_runs
from src.report.markdown import LONGEST_NOTE, as_note
from src.runs import store as stores
from src.runs.naming import run_name
from src.runs.records import Status
from src.runs.results import select
from src.runs.view import TAG, address
from tests.stored import Store


@pytest.mark.slow
def test_a_run_is_called_by_what_its_sweep_varies(configure):
    assert run_name(configure("model=tiny", "train.seed=3")) == "lora lr=0.001 epochs=3 seed=3"
    several = "method,model,train.learning_rate,method.peft.r,dataset.train_size,train.weight_decay,hardware,no.such"
    chosen = ["model=tiny", "dataset.train_size=250", "method.peft.r=4", "train.weight_decay=1e-5"]
    assert run_name(configure(*chosen, f"sweep.varied=[{several}]")) == (
        "tiny lora lr=0.001 epochs=3 seed=0 r=4 train_size=250 weight_decay=1e-05 hardware=auto"
    )
    files = ["dataset=file", "dataset.path=/data/new_wiki.json", "model.path=/models/mine", "model.model_type=bert"]
    named = configure(*files, "sweep.varied=[dataset.path,model.path]")
    assert run_name(named) == "mine new_wiki lora lr=0.001 epochs=3 seed=0"


@pytest.mark.slow
def test_a_sweep_tells_its_runs_what_it_varies(server, tmp_path, monkeypatch):
    store = f"tracking.folder={tmp_path}"
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        composed = compose("config", ["experiments=demo", store], return_hydra_config=True)  # it varies the method
        given = ["model=tiny,minilm", "train.seed=range(0,2)", "++train.weight_decay=0,0.1", "train.epochs=1", store]
        composed.hydra.overrides.task = ["experiments=demo", *given]
        monkeypatch.setattr(sweep, "_sweep", None)
        sweep.SweepCallback().on_multirun_start(composed)
    sweep._sweep.parent.end(Status.KILLED, [])
    *kept, parent, varied = composed.hydra.overrides.task
    assert kept == ["experiments=demo", *given] and parent == f"sweep.parent={sweep._sweep.parent.run_id}"
    assert varied == "sweep.varied=[method,model,train.seed,train.weight_decay]"


@pytest.mark.slow
def test_a_description_is_short_and_holds_no_markup(tmp_path):
    store = Store(tmp_path)
    for number in range(40):
        store.run(f"lora_{number}<img src=x>", 1e-3, 0.5, questions=40)
    store.run("full", 1e-4, 0.5, questions=40)
    selection = select(store.tracking)
    note = as_note(compare_runs("many", selection.results))
    assert "lora_0&lt;img" in note and "<" not in note
    assert len(note) < LONGEST_NOTE + 100
    assert note.endswith("Everything else is in the artifacts: report/report.html.\n")


@pytest.mark.slow
def test_the_note_of_two_methods_holds_the_verdict_and_a_row_a_method(tmp_path):
    store = Store(tmp_path)
    store.run("full", 1e-4, 0.6)
    store.run("lora", 1e-3, 0.5)
    lines = as_note(compare_runs("two", select(store.tracking).results)).splitlines()
    assert lines[0].startswith("**Use full fine-tuning (rate 0.0001): ")
    assert lines[2].startswith("**lora is worse than full by more than 1.0 F1: by ")
    heading = lines.index("| method | F1 | difference [95 %] | decision | training (s) | memory (MB) | stored (MB) |")
    assert lines[heading + 2].startswith("| full | ")
    assert lines[heading + 3].startswith("| lora | ") and lines[heading + 3].endswith(
        " | worse by more than 1.0 | 70.0 (0.70x) | 430 (0.54x) | 2.70 (0.03x) |"
    )


@pytest.mark.slow
def test_the_address_leads_to_the_view_of_the_experiment(tmp_path):
    store = Store(tmp_path)
    expected = f"http://host/#/experiments/{store.experiment}/runs?workflowType=machine_learning"
    assert address("http://host", store.store) == expected + "&viewStateShareKey=tuneoff"
    kept = json.loads(store.client.get_experiment(store.experiment).tags[TAG])
    assert (kept["orderByKey"], kept["orderByAsc"]) == ("metrics.`quality/f1`", False)
    assert kept["selectedColumns"][:3] == ["tags.`method`", "metrics.`quality/f1`", "metrics.`quality/exact_match`"]
    sections = {section["uuid"] for section in kept["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in kept["compareRunCharts"]} < sections
    other = replace(store.tracking, experiment="none such")
    assert address("http://host", stores.connect(other, create=False)) == "http://host"


@pytest.mark.slow
def test_a_store_that_cannot_be_written_to_is_left_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MLflow takes what follows sqlite:/// for a path, and makes its folders
    store = Store(tmp_path)
    before = (tmp_path / "mlflow.db").read_bytes()
    uri = f"sqlite:///file:{tmp_path / 'mlflow.db'}?mode=ro&uri=true"
    expected = f"http://host/#/experiments/{store.experiment}/runs?workflowType=machine_learning"
    assert address("http://host", stores.Store(MlflowClient(uri), uri, store.tracking)) == expected
    assert (tmp_path / "mlflow.db").read_bytes() == before


@pytest.mark.slow
def test_the_ui_of_a_server_is_the_servers_own(tmp_path, monkeypatch, capsys):
    store = Store(tmp_path)
    remote = stores.Store(store.client, "http://server:5000", store.tracking)
    monkeypatch.setattr(stores, "connect", lambda *_, **__: remote)
    monkeypatch.setattr("sys.argv", ["ui", "tracking.uri=http://server:5000"])
    ui.main()
    shown = capsys.readouterr().out
    assert shown.startswith(f"The store is a server; open http://server:5000/#/experiments/{store.experiment}/runs?")


@pytest.mark.parametrize("writable", [True, False])
def test_the_ui_writes_where_it_can(tmp_path, monkeypatch, writable):
    store = Store(tmp_path)
    before = (tmp_path / "mlflow.db").read_bytes()
    started = []
    monkeypatch.setattr(ui, "run_server", lambda *arguments: started.append(arguments))
    monkeypatch.setattr(ui, "refuse_port_in_use", lambda port: None)
    if not writable:
        monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    monkeypatch.setattr("sys.argv", ["ui", f"folder={tmp_path}"])
    ui.main()
    [(arguments, _, _, _, page, log)] = started
    assert f"/#/experiments/{store.experiment}/runs" in page
    if writable:
        assert arguments[4] == f"sqlite:///{tmp_path / 'mlflow.db'}"
        assert page.endswith("&viewStateShareKey=tuneoff") and log == tmp_path / "ui.log"
    else:
        assert arguments[4].endswith("/mlflow.db?mode=ro&uri=true")
        assert log.name == "ui.log" and log.parent != tmp_path and log.parent.is_dir()
        assert (tmp_path / "mlflow.db").read_bytes() == before
        log.parent.rmdir()


def test_the_ui_answers_to_the_names_of_this_machine_alone(tmp_path, monkeypatch):
    Store(tmp_path)
    started = []
    monkeypatch.setattr(ui, "run_server", lambda *given: started.append(given))
    monkeypatch.setattr("sys.argv", ["ui", f"folder={tmp_path}", "port=59998"])
    monkeypatch.delenv(ui.HOSTS, raising=False)
    ui.main()
    monkeypatch.setenv(ui.HOSTS, "mine.example")
    ui.main()
    (arguments, ours, port, *_), (_, users, *_) = started
    assert (arguments[2], port, users[ui.HOSTS]) == ("ui", 59998, "mine.example")
    monkeypatch.setenv(ui.HOSTS, ours[ui.HOSTS])
    allowed = get_allowed_hosts_from_env()
    for host in ("localhost:5000", "127.0.0.1:59998", "localhost"):
        assert is_allowed_host_header(allowed, host)
    for host in (
        "evil.example:5000",
        "10.evil.example:5000",
        "192.168.evil.example",
        "localhost.evil.example:5000",
        "",
    ):
        assert not is_allowed_host_header(allowed, host)


def test_a_server_of_ours_is_bound_to_this_machine(tmp_path, monkeypatch):
    started = []

    def popen(command, env, **more):
        started.append((command, env))
        return SimpleNamespace(poll=lambda: 1, wait=lambda: 1)

    monkeypatch.setattr(server.subprocess, "Popen", popen)
    with pytest.raises(UserError, match="ended by itself"):
        server.run_server(["-m", "mlflow", "ui"], {"MADE": "up"}, 59998, "The UI", "http://page", tmp_path / "ui.log")
    [(command, environment)] = started
    assert command[1:] == ["-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", "59998"]
    assert environment["MADE"] == "up"


@pytest.mark.slow
def test_a_ui_that_ends_by_itself_names_its_log(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    log = tmp_path / "new" / "ui.log"
    with pytest.raises(UserError, match=r"The UI ended by itself, with exit status 1; .*ui.log says why"):
        server.run_server(["ui"], {}, 1, "The UI", "http://page", log)
    assert log.read_bytes() == b""
    assert capsys.readouterr().out == ""
