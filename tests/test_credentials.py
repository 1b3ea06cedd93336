"""Passwords and tokens in the address of a store: used where they are needed, and shown nowhere."""

from __future__ import annotations

import base64
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf, read_write

from src import compare, credentials, sweep, train
from src.compose import fail, register
from src.config import ROOT, SweepConfig, TrackingConfig, UserError
from src.console import begin
from src.credentials import (
    DATABASES,
    PASSWORD,
    TOKEN,
    USERNAME,
    hidden,
    with_secrets,
    without_secrets,
    without_secrets_in_yaml,
)
from src.runs.commands import ui_command
from src.runs.parent import ParentRun
from src.runs.records import Status
from src.runs.store import connect
from src.runs.tracking import RunLog


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in (USERNAME, PASSWORD, TOKEN, DATABASES):
        monkeypatch.setenv(name, "")  # monkeypatch puts back what there was
    monkeypatch.setattr(credentials, "_warned", set())


@pytest.mark.parametrize(
    ("uri", "clean", "moved"),
    [
        ("http://ada:s3cret@host:5000", "http://host:5000", {USERNAME: "ada", PASSWORD: "s3cret"}),
        ("https://ada:s%40t@host/x", "https://host/x", {USERNAME: "ada", PASSWORD: "s@t"}),
        ("https://ada:s3/c#r?e@t@host/x?y=1", "https://host/x?y=1", {USERNAME: "ada", PASSWORD: "s3/c#r?e@t"}),
        ("http://ada@host", "http://host", {USERNAME: "ada"}),
        ("https://host/x?y=1&access_token=abc", "https://host/x?y=1", {TOKEN: "abc"}),
        ("http://host?password=abc", "http://host", {PASSWORD: "abc"}),
        ("http://host:5000/a@b", "http://host:5000/a@b", {}),
        ("http://host:5000?user=a@b", "http://host:5000?user=a@b", {}),
    ],
)
def test_a_servers_credentials_go_to_mlflows_variables(uri, clean, moved, capsys):
    assert without_secrets(uri) == clean
    assert {name: os.environ[name] for name in (USERNAME, PASSWORD, TOKEN) if os.environ[name]} == moved
    assert capsys.readouterr().err.startswith("Warning: the password in the store's address") == bool(moved)


@pytest.mark.parametrize(
    ("uri", "clean"),
    [
        ("postgresql+psycopg://ada:s3cret@host:5432/db", "postgresql+psycopg://ada:***@host:5432/db"),
        ("mysql://host/db?user=ada&password=s3cret", "mysql://host/db?user=ada&password=***"),
        ("postgresql://ada@host/db", "postgresql://ada@host/db"),
        ("sqlite:////folder/a:b@c.db", "sqlite:////folder/a:b@c.db"),
    ],
)
def test_a_databases_password_is_masked_and_put_back(uri, clean, capsys):
    assert without_secrets(uri) == clean
    assert with_secrets(clean) == uri
    assert without_secrets(clean) == clean, "clean twice"
    assert ("Warning" in capsys.readouterr().err) == (uri != clean)


def test_two_databases_are_told_apart():
    for uri in ("postgresql://ada:one@host/runs", "postgresql://ada:two@host/study"):
        assert with_secrets(without_secrets(uri)) == uri
    assert with_secrets("postgresql://ada:***@host/runs") == "postgresql://ada:one@host/runs"
    assert with_secrets("postgresql://ada:***@elsewhere/runs") is None


def test_a_password_never_reaches_a_configuration():
    assert TrackingConfig(uri="http://ada:s3cret@host").uri == "http://host"
    assert SweepConfig(storage="postgresql://ada:s3cret@host/x").storage == "postgresql://ada:***@host/x"
    assert ui_command(TrackingConfig(uri="postgresql://ada:s3cret@h/x")).endswith(
        "'tracking.uri=postgresql://ada:***@h/x'"
    )


def test_every_command_cleans_its_arguments(monkeypatch, capsys):
    arguments = [
        "-m",
        "tracking.uri='http://ada:s3cret@host'",
        "+tracking={uri: http://ada:s3cret@host, folder: x}",
        "hydra.sweeper.storage=postgresql://ada:s3cret@host/db",
        "question=What is http://ada:s3cret@host?",
    ]
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    begin()
    assert sys.argv[1:] == [
        "-m",
        "tracking.uri='http://host'",
        "+tracking={uri: http://host, folder: x}",
        "hydra.sweeper.storage=postgresql://ada:***@host/db",
        arguments[-1],
    ]
    assert capsys.readouterr().err.count("Warning") == 2, "once for each kind"


def test_hydras_own_record_of_a_sweep_is_clean(monkeypatch):
    """Addresses in a file of conf/ or experiments/, which no argument holds; Hydra writes them to multirun.yaml."""
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        overrides = ["hydra/sweeper=optuna", "hydra.mode=MULTIRUN"]
        config = compose("config", overrides, return_hydra_config=True)
    with read_write(config.hydra):
        config.hydra.sweeper.storage = "postgresql://ada:s3cret@host/db"
    config.tracking.uri = "http://ada:s3cret@host"
    tracking = TrackingConfig(uri=config.tracking.uri)
    planned = SimpleNamespace(parent=SimpleNamespace(run_id="1"), varied=[], tracking=tracking)
    monkeypatch.setattr(sweep, "_sweep", None)
    monkeypatch.setattr(sweep, "Sweep", lambda config: planned)
    sweep.SweepCallback().on_multirun_start(config)
    assert config.tracking.uri == "http://host"
    assert config.hydra.sweeper.storage == "postgresql://ada:***@host/db"
    assert "s3cret" not in OmegaConf.to_yaml(config)


@pytest.mark.parametrize(
    ("given", "refused"),
    [
        ("+hydra.job.env_set.my_token=s3cret", "my_token"),
        ("+hydra.job.env_set.PROXY='http://ada:s3cret@host'", "PROXY"),
        ("hydra.job.env_copy=[MY_PASSWORD]", "MY_PASSWORD"),
        ("+hydra.job.env_set.OMP_NUM_THREADS=2", None),
    ],
)
def test_a_sweep_writes_no_secret_of_its_runs_environment(given, refused, monkeypatch, capsys):
    monkeypatch.setenv("MY_PASSWORD", "s3cret")
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", ["hydra.mode=MULTIRUN", given], return_hydra_config=True)
    planned = SimpleNamespace(parent=SimpleNamespace(run_id="1"), varied=[], tracking=TrackingConfig())
    monkeypatch.setattr(sweep, "_sweep", None)
    monkeypatch.setattr(sweep, "Sweep", lambda config: planned)
    if refused is None:
        sweep.SweepCallback().on_multirun_start(config)
        assert sweep._sweep is planned
        return
    with pytest.raises(SystemExit) as ended:
        sweep.SweepCallback().on_multirun_start(config)
    said = capsys.readouterr().err
    assert ended.value.code == 1 and sweep._sweep is None and "s3cret" not in said
    assert said.startswith(
        f"Error: hydra.job.env_set (or env_copy) holds a secret, {refused}, and Hydra would write it"
    )


def test_a_study_is_opened_with_its_password(monkeypatch):
    from src.runs import search

    monkeypatch.setattr(search.optuna, "create_study", lambda storage, **more: storage)
    address = "postgresql://ada:s3cret@host/study"
    settings = search.Settings("study", without_secrets(address), None)
    assert search._open(settings) == address
    assert "s3cret" not in str(settings)
    monkeypatch.setenv(DATABASES, "")
    with pytest.raises(UserError, match="put the whole address into TUNEOFF_DATABASE_URIS"):
        search._open(settings)


def test_the_server_still_gets_the_password():
    seen = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.headers["Authorization"])
            self.send_response(403)
            self.end_headers()
            self.wfile.write(b"no entry for s3cret")

        do_POST = do_GET

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"127.0.0.1:{server.server_port}"
    try:
        with pytest.raises(UserError) as refused:
            connect(TrackingConfig(uri=f"http://ada:s3cret@{address}"))
    finally:
        server.shutdown()
        server.server_close()
    assert set(seen) == {"Basic " + base64.b64encode(b"ada:s3cret").decode()}
    assert f"tracking.uri=http://{address} cannot be used" in str(refused.value)
    assert "no entry for ***" in str(refused.value)


def test_a_library_that_is_not_installed_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["src.compare", "tracking.uri=mysql+nothing://ada:s3cret@host/db"])
    with pytest.raises(SystemExit):
        compare.main()
    shown = capsys.readouterr()
    assert "tracking.uri=mysql+nothing://ada:***@host/db cannot be used" in shown.err
    assert "s3cret" not in shown.out + shown.err


def test_the_short_form_of_an_address_is_cleaned_too(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["command", "uri=http://ada:s3cret@host"])
    begin()
    assert sys.argv[1:] == ["tracking.uri=http://host"]
    assert os.environ[PASSWORD] == "s3cret"


@pytest.mark.parametrize(
    ("address", "clean"),
    [("http://ada:s3cret@host", "http://host"), ("postgresql://ada:it's {s3cret}@h/x", "postgresql://ada:***@h/x")],
)
def test_a_configuration_is_shown_without_the_password_of_a_file(address, clean, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "experiments"
    folder.mkdir()
    overlay = {"tracking": {"uri": address}, "train": {"epochs": 7}}
    (folder / "mine.yaml").write_text("# @package _global_\n" + yaml.safe_dump(overlay))
    shown = []
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    for added in ([], ["experiments=mine"]):
        arguments = ["--cfg", "job", f"hydra.searchpath=[file://{tmp_path}]", "seed=3", *added]
        monkeypatch.setattr(sys, "argv", ["train", *arguments])
        train.main()
        shown.append(capsys.readouterr())
    plain, with_address = (yaml.safe_load(text.out) for text in shown)
    assert (plain["tracking"]["uri"], plain["train"]["epochs"], plain["train"]["seed"]) == (None, 3, 3)
    assert with_address == {
        **plain,
        "tracking": {**plain["tracking"], "uri": clean},
        "train": {**plain["train"], "epochs": 7},
    }
    assert "s3cret" not in "".join(text.out + text.err for text in shown)
    assert shown[0].err == ""


def test_a_configuration_without_a_secret_is_shown_to_the_letter():
    text = "a: 1  # one\nb:\n- http://host:5000\n- 1e-3\n"
    assert without_secrets_in_yaml(text) == text
    assert without_secrets_in_yaml("a: [x, {b: 'http://ada:s3cret@h'}]") == "a:\n- x\n- b: http://h\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("pip --index-url https://ada:s3cret@host/simple", "pip --index-url https://ada:***@host/simple"),
        ("git+https://ghp_abcdef0123@github.com/x", "git+https://***@github.com/x"),
        ("git+https://ada:s3cret@github.com/x", "git+https://ada:***@github.com/x"),
        ("at https://host/a@b and http://host:5000/a@b", "at https://host/a@b and http://host:5000/a@b"),
        ("hydra.job.env_set.HF_TOKEN=hf_abc more", "hydra.job.env_set.HF_TOKEN=*** more"),
        ("{HF_TOKEN: hf_abc, AWS_SECRET_ACCESS_KEY: 'x'}", "{HF_TOKEN: ***, AWS_SECRET_ACCESS_KEY: '***'}"),
        ("pad_token=x tokenizer: y MAX_TOKENIZER=z", "pad_token=x tokenizer: y MAX_TOKENIZER=z"),
        ("the value of HF_TOKEN is a-long-secret-token", "the value of HF_TOKEN is ***"),
        ("a short one", "a short one"),
    ],
)
def test_secrets_in_any_text_are_hidden(text, shown, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "a-long-secret-token")
    monkeypatch.setenv("OTHER_TOKEN", "short")
    monkeypatch.setenv("TOKENIZER_MODE", "the value of")  # no secret by its name
    assert hidden(text) == shown


def test_no_secret_is_in_what_a_run_leaves(tmp_path, configure, monkeypatch, capfd):
    """Of the environment, of a package index, of the command line and of errors: not in the database, not in a file."""
    secrets = ["a-long-secret-token", "ind3x", "l0ng-db-pass", "arg-token", "t4g-secret"]
    monkeypatch.setenv("HF_TOKEN", secrets[0])
    monkeypatch.setenv("PIP_INDEX_URL", f"https://ada:{secrets[1]}@host/simple")
    monkeypatch.setenv("DB_PASSWORD", secrets[2])
    monkeypatch.setattr(sys, "argv", ["train", f"hydra.job.env_set.MY_TOKEN={secrets[3]}", "seed=1"])
    config = configure("model=tiny", f"tracking.folder={tmp_path}", "train.epochs=1")
    config.dataset.root = f"https://ada:{secrets[1]}@host/data"
    config.model.config["note"] = f"made with {secrets[0]}"
    with pytest.raises(RuntimeError), RunLog(config).begin(config) as log:
        log.tags({"more": f"https://ada:{secrets[4]}@host"})
        raise RuntimeError(f"password {secrets[2]} refused at https://ada:{secrets[1]}@host/simple")
    name = f"varies HF_TOKEN={secrets[0]}"
    parent = ParentRun.begin(config.tracking, name, name, "hash", sweep.as_typed(), 1, fresh=False)
    parent.end(Status.FAILED, [])
    with pytest.raises(SystemExit):
        fail(UserError(f"no entry with {secrets[0]}"))
    kept = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert {file.name for file in kept} >= {"mlflow.db", "environment.txt", "command.txt"}
    for secret in secrets:
        assert [file for file, content in kept.items() if secret.encode() in content] == []
    tags = log.store.record(log.run_id).tags
    assert tags["error"] == "RuntimeError: password *** refused at https://ada:***@host/simple"
    assert tags["command"] == "hydra.job.env_set.MY_TOKEN=*** seed=1"
    assert log.store.record(log.run_id).params["model.config.note"] == "made with ***"
    shown = capfd.readouterr()
    assert shown.err.endswith("Error: no entry with ***\n")


def test_texts_of_libraries_are_hidden():
    without_secrets("postgresql://ada:s%40cret@host/db")
    assert hidden("at postgresql://ada:s%40cret@host/db: s@cret") == "at postgresql://ada:***@host/db: ***"
