"""Exported models: folders that transformers reads by itself and that answer as the run did."""

from __future__ import annotations

import re
import shutil
from types import SimpleNamespace

import onnxruntime
import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForQuestionAnswering, AutoTokenizer, PretrainedConfig

from src import export, serving
from src.answering import load_run
from src.config import TrackingConfig, UserError
from src.model import onnx
from src.run import run
from tests.conftest import TINY


@pytest.fixture(scope="module")
def store(configure, empty_store, tmp_path_factory):
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
    ids = {method: run(configure(*shared, f"method={method}")).run_id for method in ("full", "lora", "head")}
    small = ["dataset.train_size=16", "dataset.validation_size=8", "dataset.test_size=null", "method=lora"]
    decoder = run(configure(*shared, "model=tiny_llm", *small, "evaluation.max_answer_length=3"))
    return folder, ids | {"decoder": decoder.run_id}


@pytest.fixture
def exported(store, ended):
    return lambda folder, run, *arguments: ended(export, f"folder={store[0]}", f"run={run}", f"to={folder}", *arguments)


def logits(model, ids):
    with torch.inference_mode():
        out = model.eval()(input_ids=ids)
    return out.start_logits if hasattr(out, "start_logits") else out.logits


@pytest.mark.parametrize(
    ("name", "more", "kind"),
    [
        ("full", [], "the whole model"),
        ("head", [], "the whole model"),
        ("lora", ["merged=true"], "the whole model, with the adapter in its weights"),
        ("decoder", ["merged=true"], "the whole model, with the adapter in its weights"),
    ],
)
@pytest.mark.slow
def test_transformers_alone_reads_the_folder(store, exported, tmp_path, name, more, kind):
    folder = tmp_path / "out"
    status, shown, said = exported(folder, store[1][name], *more)
    assert (status, said) == (0, "")
    assert shown.startswith(f"{folder}: {kind}\n")
    files = {file.name for file in folder.iterdir()}
    assert {"config.json", "model.safetensors", "README.md", "tokenizer.json"} <= files
    assert not files & {"adapter_config.json", "adapter_model.safetensors", "trained.safetensors", "model"}
    auto = AutoModelForCausalLM if name == "decoder" else AutoModelForQuestionAnswering
    model, missing = auto.from_pretrained(folder, output_loading_info=True)
    assert not missing["missing_keys"] and not missing["unexpected_keys"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("Who wrote it? It was written by Ada.", return_tensors="pt")["input_ids"]
    stored = load_run(store[1][name], TrackingConfig(folder=str(store[0])))
    assert torch.allclose(logits(model, ids), logits(stored.model, ids), atol=1e-5)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "library_name: transformers\n" in card and f'{auto.__name__}.from_pretrained("THIS_FOLDER")' in card
    assert "peft import" not in card
    rows = re.findall(
        r"^\| (as the run|this folder).* \| (\d+) of (\d+) \| ([\d.]+) \| ([\d.]+) \|", card, re.MULTILINE
    )
    count = "8" if name == "decoder" else "16"
    assert [row[1:3] for row in rows] == [(count, count)] * 2, "the answers are those of the run"
    assert rows[0][3:] == rows[1][3:]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("lora", ["input_ids", "attention_mask", "token_type_ids"]),
        (
            "decoder",
            ["input_ids", "attention_mask", "position_ids", "past_key_values.0.key", "past_key_values.0.value"],
        ),
    ],
)
def test_an_onnx_file_answers_as_the_run_did(store, exported, tmp_path, name, inputs):
    folder = tmp_path / "out"
    status, shown, said = exported(folder, store[1][name], "format=onnx")
    assert (status, said) == (0, "")
    assert shown.startswith(f"{folder}: the whole model as ONNX\n")
    files = {file.name for file in folder.iterdir()}
    assert {"model.onnx", "config.json", "README.md", "tokenizer.json", "base.json"} <= files
    assert not {file for file in files if "safetensors" in file or "adapter" in file} | files & set(serving.FILES)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    assert [value.name for value in session.get_inputs()][: len(inputs)] == inputs
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert 'InferenceSession("THIS_FOLDER/model.onnx")' in card and "library_name: onnx\n" in card
    count = 8 if name == "decoder" else 16
    assert card.count(f"| {count} of {count} |") == 2


@pytest.mark.slow
def test_onnx_that_is_not_installed_is_asked_for(store, exported, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "PACKAGES", ("onnx", "no_such_package"))
    status, _, said = exported(tmp_path / "out", store[1]["lora"], "format=onnx")
    assert status == 1
    assert said == "Error: format=onnx needs no_such_package, which is not installed; pip install -e '.[onnx]'.\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_architecture_that_cannot_be_exported_is_a_sentence(tmp_path):
    class Counting(torch.nn.Module):
        config = PretrainedConfig(architectures=["CountingForQuestionAnswering"])

        def forward(self, input_ids):
            if input_ids.sum() > 3:  # depends on the data
                return SimpleNamespace(start_logits=input_ids, end_logits=input_ids)
            raise ValueError

    with pytest.raises(UserError, match="format=onnx: torch cannot export"):
        onnx.write(Counting(), tmp_path)


@pytest.mark.slow
def test_an_adapter_stays_one(store, exported, tmp_path):
    folder = tmp_path / "out"
    status, shown, _ = exported(folder, store[1]["lora"])
    assert status == 0 and shown.startswith(f"{folder}: an adapter\n")
    assert shown.count("| 16 of 16 |") == 2, "as the run stored it, and as it is read from the folder"
    assert {file.name for file in folder.glob("*.safetensors")} == {"adapter_model.safetensors"}
    assert peft.PeftConfig.from_pretrained(str(folder)).r == 16
    assert shown.partition("\n")[2].strip() in (folder / "README.md").read_text(encoding="utf-8")
    assert (
        exported(tmp_path / "unchecked", store[1]["lora"], "questions=0")[1]
        == f"{tmp_path / 'unchecked'}: an adapter\n"
    )


def test_what_an_interrupted_export_has_left_is_written_anew(tmp_path):
    folder = tmp_path / "out"
    export.clear(folder)
    (folder / "model.safetensors").write_bytes(b"half of")
    (folder / "model").mkdir()
    export.refuse_filled(folder)
    export.clear(folder)
    assert [path.name for path in folder.iterdir()] == ["unfinished"]
    (folder / "unfinished").unlink()
    (folder / "of the user").touch()
    with pytest.raises(UserError, match="is not empty; give a new folder"):
        export.refuse_filled(folder)
    assert (folder / "of the user").exists()


@pytest.mark.slow
def test_an_interrupted_export_is_typed_again(store, exported, tmp_path, monkeypatch):
    folder = tmp_path / "out"

    def interrupt(*given):
        (folder / "model.safetensors").write_bytes(b"half of")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(export, "write", interrupt)
        with pytest.raises(KeyboardInterrupt):
            exported(folder, store[1]["lora"], "questions=0")
    assert exported(folder, store[1]["lora"], "questions=0") == (0, f"{folder}: an adapter\n", "")
    names = {path.name for path in folder.iterdir()}
    assert "adapter_model.safetensors" in names and not names & {"unfinished", "model.safetensors"}


@pytest.mark.slow
def test_a_mistake_is_one_sentence(store, exported, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    (tmp_path / "file").touch()
    for target, name, sentence in (
        ("there", store[1]["full"], f"to={tmp_path / 'there'} is not empty; give a new folder."),
        ("file", store[1]["full"], f"to={tmp_path / 'file'} is not empty; give a new folder."),
        ("file/out", store[1]["full"], f"to={tmp_path / 'file/out'} cannot be written (Not a directory)."),
        ("out", "nope", "run=nope: no run has this name or such an id"),
    ):
        status, shown, said = exported(tmp_path / target, name)
        assert (status, shown) == (1, "")
        assert said.startswith(f"Error: {sentence}") and said.count("\n") == 1
