"""The stored model of a run: put back on its base, described, and never able to run code that nobody asked for."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import peft
import pytest
import torch
import yaml
from mlflow import MlflowClient
from safetensors.torch import load_file

from src import predict
from src.config import TrackingConfig, UserError
from src.data import sources
from src.model import backbone, place
from src.run import run
from tests.conftest import TINY

SIZES = [override for override in TINY if not override.startswith(("model=", "train.epochs"))]
METHODS = ("full", "lora", "head", "bitfit")


@pytest.fixture(scope="module")
def store(configure, base_folder, empty_store, tmp_path_factory):
    """A run of each method, trained on that folder: (folder, {method: run id})."""
    folder = tmp_path_factory.mktemp("store")
    shutil.copy(empty_store, folder)
    shared = [
        *SIZES,
        f"model.path={base_folder}",
        "train.epochs=1",
        "hardware.precision=fp32",
        f"tracking.folder={folder}",
    ]
    return folder, {method: run(configure(*shared, f"method={method}")).run_id for method in METHODS}


@pytest.fixture
def stored(store):
    """The folder of a run's artifacts, to be changed: it is put back at the end."""
    kept = []

    def folder_of(method: str) -> Path:
        [folder] = (store[0] / "artifacts").glob(f"{store[1][method]}/artifacts")
        shutil.copytree(folder, folder.with_name("kept"))
        kept.append(folder)
        return folder

    yield folder_of
    for folder in kept:
        shutil.rmtree(folder)
        folder.with_name("kept").rename(folder)


def load(store, method, *more, **named):
    return predict.load_run(store[1][method], TrackingConfig(folder=str(store[0])), *more, **named)


def artifacts(store, method) -> Path:
    return store[0] / "artifacts" / store[1][method] / "artifacts"


@pytest.mark.parametrize("method", METHODS)
def test_the_stored_model_answers_as_the_run_did(store, method):
    loaded = load(store, method)
    questions = sources.load(loaded.config.dataset).validation.to_list()
    answers = {answer.id: answer.best.text for answer in loaded.answer(questions)}
    assert answers == json.loads((artifacts(store, method) / "predictions.json").read_text())


def test_only_what_was_trained_is_stored(store):
    weights = {
        method: sorted(file.name for file in (artifacts(store, method) / "model").glob("*.safetensors"))
        for method in METHODS
    }
    assert weights == {
        "full": ["model.safetensors"],
        "lora": ["adapter_model.safetensors"],
        "head": ["trained.safetensors"],
        "bitfit": ["trained.safetensors"],
    }
    head = load_file(artifacts(store, "head") / "model" / "trained.safetensors")
    assert {name: tuple(value.shape) for name, value in head.items()} == {
        "qa_outputs.weight": (2, 32),
        "qa_outputs.bias": (2,),
    }
    client = MlflowClient(f"sqlite:///{store[0] / 'mlflow.db'}")
    size = {method: client.get_run(store[1][method]).data.metrics["storage/checkpoint_mb"] for method in METHODS}
    assert size["head"] < 0.001 < size["bitfit"] < 0.01 < size["lora"] < 0.1 < size["full"]


@pytest.mark.parametrize("method", METHODS)
def test_what_is_stored_names_no_path_of_this_machine(store, base_folder, method):
    folder = artifacts(store, method) / "model"
    found = {file.name: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert {"README.md", "base.json", "tokenizer.json"} <= found.keys()
    assert [name for name, content in found.items() if str(base_folder.parent).encode() in content] == []
    assert json.loads(found["base.json"]) == {
        "name": "my_base",
        "revision": None,
        "weights": {"model.safetensors": place.sha256_of(base_folder / "model.safetensors")},
        "model_type": "bert",
        "seed": 0,
    }
    if method == "lora":
        assert json.loads(found["adapter_config.json"])["base_model_name_or_path"] == "my_base"


def test_the_card_says_what_the_run_was(store):
    client = MlflowClient(f"sqlite:///{store[0] / 'mlflow.db'}")
    metrics = client.get_run(store[1]["lora"]).data.metrics
    _, front, text = (artifacts(store, "lora") / "model" / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "peft",
        "pipeline_tag": "question-answering",
        "license": "unknown",
        "tags": ["question-answering", "tuneoff", "lora"],
    }
    assert "| base | my_base (bert, sha256 " in text
    assert "| method | lora (peft_type=LORA, r=16, " in text
    assert "| data | sample: 64 training questions (subset random, " in text
    assert "| settings | learning_rate=0.001, epochs=1, batch_size=8, " in text
    interval = r"( \[[\d.]+, [\d.]+\])?"  # of scores that enough questions have got
    scores = f"exact match {metrics['quality/exact_match']:.1f}{interval}, F1 {metrics['quality/f1']:.1f}{interval}"
    tested = f"test exact match {metrics['test/exact_match']:.1f}{interval}, test F1 {metrics['test/f1']:.1f}{interval}"
    assert re.search(rf"\| {scores}, {tested} \|", text)
    assert "| licence | of the base model: unknown; see that of the data as well |" in text
    assert "## Limits" in text and "It always gives an answer, even if the passage contains none." in text
    assert f"python -m src.predict run={store[1]['lora']} " in text


@pytest.mark.parametrize("method", ["full", "lora", "head"])
def test_the_cards_code_loads_the_model(store, base_folder, method):
    """As it stands, but for the two folders that it leaves open."""
    folder = artifacts(store, method) / "model"
    text = (folder / "README.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    names: dict = {}
    exec(code.replace("THIS_FOLDER", str(folder)).replace("'my_base'", repr(str(base_folder))), names)
    expected, inputs = load(store, method), {"input_ids": torch.arange(1, 13)[None]}
    with torch.no_grad():
        torch.testing.assert_close(
            names["model"](**inputs).start_logits, expected.model.eval()(**inputs).start_logits, atol=1e-5, rtol=1e-4
        )


# The base


def test_another_base_than_the_runs_is_refused(store, base_folder, configure, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(base_folder, other)
    backbone.load_model(configure("model=tiny").model, 0.1, 0.0, seed=6).save_pretrained(other)
    for method in ("lora", "head"):
        with pytest.raises(UserError, match=r"was trained on my_base, and .*/other holds other weights"):
            load(store, method, base_path=str(other))


def test_a_base_that_has_moved_is_found_by_its_new_path(store, base_folder, tmp_path):
    moved = tmp_path / "moved"
    shutil.move(base_folder, moved)
    try:
        with pytest.raises(UserError, match="could not be loaded"):
            load(store, "lora")
        loaded = load(store, "lora", base_path=str(moved))
    finally:
        shutil.move(moved, base_folder)
    assert isinstance(loaded.model, peft.PeftModel)


def test_a_path_that_is_given_is_loaded(configure, base_folder, tmp_path):
    """Whatever the group says of its weights: model=tiny has random ones."""
    config = configure("model=tiny", f"model.path={base_folder}").model
    assert (config.pretrained, config.sha256, config.tokenizer, config.config) == (True, None, None, {})
    weights = backbone.load_model(config, 0.1, 0.0, seed=0).state_dict()
    stored = load_file(base_folder / "model.safetensors")
    assert all(torch.equal(weights[name], value) for name, value in stored.items())
    assert configure("model=minilm", f"model.path={base_folder}").model.sha256 is None
    random = configure(
        "model=tiny", f"model.path={base_folder}", "model.pretrained=false", "model.config.hidden_size=16"
    ).model
    assert (random.pretrained, random.config["hidden_size"]) == (False, 16), "what is given explicitly stays"
    assert configure("model=tiny", "model.path=null").model.pretrained is False

    damaged = tmp_path / "damaged"
    shutil.copytree(base_folder, damaged)
    (damaged / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"The weights of .*damaged could not be loaded"):
        run(configure("model=tiny", *SIZES, f"model.path={damaged}", f"tracking.folder={tmp_path}"))


# The command


def test_an_answer_ends_with_the_next_commands(store, tmp_path, ended):
    passage = tmp_path / "passage.txt"
    passage.write_text("It was written by ${Ada}.")
    question = 'question=Who wrote "it" = {this: ???}?'
    arguments = [f"run={store[1]['head']}", question, f"context=@{passage}"]
    status, out, err = ended(predict, f"folder={store[0]}", *arguments)
    assert (status, err) == (0, "")
    *spans, blank, place, end, compare, ui = out.rstrip().splitlines()
    assert 1 < len(spans) <= 5 and spans[0].startswith("> ") and blank == end == ""
    answer = spans[0].partition("%  ")[2]
    assert place == passage.read_text().replace(answer, f">>{answer}<<", 1)
    assert all(span.partition("%  ")[2] in passage.read_text() for span in spans)
    folder = f"tracking.folder={store[0]}"
    assert compare == f"compare runs  python -m src.compare {folder}"
    assert ui == f"see all runs  python -m src.ui {folder}"


@pytest.mark.parametrize(
    ("context", "sentence"),
    [
        ("@nofile.txt", "context=@nofile.txt: the file cannot be read (No such file or directory); check the path."),
        ("@latin.txt", "context=@latin.txt: latin.txt is not UTF-8 text; convert it first."),
        ("@blank.txt", "context=@blank.txt: the file is empty; it must hold the passage."),
    ],
)
def test_a_passage_that_cannot_be_read_is_one_sentence(store, context, sentence, tmp_path, monkeypatch, ended):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    (tmp_path / "blank.txt").write_text(" \n")
    given = ["run=best", "question=Who?", f"context={context}"]
    assert ended(predict, f"folder={store[0]}", *given) == (1, "", f"Error: {sentence}\n")


@pytest.mark.parametrize("key", ["question", "context", "output"])
def test_bytes_that_are_not_text_are_refused(key, ended):
    given = {"question": "Who?", "context": "Ada.", key: "W\u00e9\udcff?"}
    status, shown, said = ended(predict, "run=best", *(f"{name}={value}" for name, value in given.items()))
    assert (status, shown) == (2, "")
    assert said == (
        f"Error: {key}=W\u00e9\\xff? has bytes that are not UTF-8 text (\\x..); type it again, or rename the file "
        "that it names.\n"
    )


# Code


EVIL = """
from pathlib import Path
from transformers import BertConfig, BertForQuestionAnswering
Path({marker!r}).touch()
class EvilConfig(BertConfig):
    model_type = "evil"
class Evil(BertForQuestionAnswering):
    config_class = EvilConfig
"""


def tamper(folder: Path, marker: Path, model_type: str) -> None:
    """Make a stored model that creates `marker` when its code is run."""
    config = json.loads((folder / "config.json").read_text())
    classes = {"AutoConfig": "evil.EvilConfig", "AutoModelForQuestionAnswering": "evil.Evil"}
    config |= {"auto_map": classes, "model_type": model_type}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(EVIL.format(marker=str(marker)))


def say_it_is_trusted(folder: Path) -> None:
    text = (folder / "config.yaml").read_text()
    assert "trust_remote_code: false" in text
    (folder / "config.yaml").write_text(text.replace("trust_remote_code: false", "trust_remote_code: true"))


@pytest.mark.parametrize("model_type", ["bert", "evil"])
def test_a_run_cannot_allow_its_own_code(store, stored, tmp_path, model_type):
    folder, marker = stored("full"), tmp_path / "ran"
    tamper(folder / "model", marker, model_type)
    say_it_is_trusted(folder)
    with pytest.raises(UserError, match="its model contains Python code"):
        load(store, "full")
    assert not marker.exists()
    load(store, "full", trust_remote_code=True)
    assert marker.exists(), "the code would not have run in any case, the test shows nothing"


def test_a_model_that_needs_code_is_refused_without_asking(store, stored, tmp_path, monkeypatch, capsys):
    folder, marker = stored("full"), tmp_path / "ran"
    tamper(folder / "model", marker, "evil")
    monkeypatch.setattr("builtins.input", lambda *args: pytest.fail("it asked"))
    arguments = [f"run={store[1]['full']}", "question=Who?", "context=Ada.", f"tracking.folder={store[0]}"]
    monkeypatch.setattr(sys, "argv", ["src.predict", *arguments])
    with pytest.raises(SystemExit):
        predict.main()
    shown = capsys.readouterr().err
    assert "which is not run unless you trust it and say so" in shown
    assert len(shown.splitlines()) == 1
    assert not marker.exists()
    monkeypatch.setattr(sys, "argv", ["src.predict", *arguments, "trust_remote_code=true"])
    predict.main()
    assert marker.exists()


@pytest.mark.parametrize("name", ["adapter_model.bin", "training_args.bin", "more/pytorch_model.pt"])
def test_pickles_are_refused_by_name(store, stored, name):
    folder = stored("lora") / "model"
    (folder / "adapter_model.safetensors").unlink()
    (folder / name).parent.mkdir(exist_ok=True)
    torch.save({}, folder / name)
    with pytest.raises(UserError, match=f"holds {name}, a kind of file that can run code"):
        load(store, "lora")


def test_an_adapter_imports_nothing(store, stored, tmp_path, monkeypatch):
    (tmp_path / "evil_module.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    file = stored("lora") / "model" / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"auto_mapping": {"parent_library": "evil_module", "base_model_class": "x"}}))
    load(store, "lora")
    file.write_text(json.dumps(config | {"megatron_config": {"a": 1}, "megatron_core": "evil_module"}))
    with pytest.raises(UserError, match="sets megatron_config"):
        load(store, "lora")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("adapter_config.json", b"[]"),
        ("adapter_config.json", b"null"),
        ("adapter_config.json", b"{"),
        ("adapter_config.json", b'{"peft_type": "NONE_SUCH"}'),
        ("adapter_config.json", b'{"peft_type": "LORA", "r": "eight"}'),
        ("adapter_config.json", b"\xff"),
        ("adapter_model.safetensors", b"half"),
        ("adapter_model.safetensors", None),
    ],
)
def test_a_damaged_adapter_is_one_sentence(store, stored, name, content):
    file = stored("lora") / "model" / name
    file.write_bytes(file.read_bytes()[:-100] if content is None else content)
    with pytest.raises(UserError, match=r"weights do not fit the base model or are damaged .*; choose another"):
        load(store, "lora")


def test_a_damaged_tokenizer_of_a_run_is_one_sentence(store, stored):
    (stored("lora") / "model" / "tokenizer.json").write_text("{}")
    with pytest.raises(
        UserError, match=f"The tokenizer of run={store[1]['lora']} could not .* or train this one again"
    ):
        load(store, "lora")


def test_a_damaged_store_is_one_sentence(store, stored):
    folder = stored("head") / "model"
    (folder / "trained.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match="do not fit the base model or are damaged"):
        load(store, "head")
    (folder / "base.json").write_text("{}")
    with pytest.raises(UserError, match=r"base.json of its model is damaged"):
        load(store, "head")
