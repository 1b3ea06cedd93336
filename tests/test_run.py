"""Whole runs through the real command line: what a run leaves in MLflow, and how it ends when something goes wrong."""

from __future__ import annotations

import json
import math
import os
import shlex
import signal
import sys
import time
from copy import deepcopy
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from transformers import BertConfig, BertForMaskedLM

from src import compare, predict, questions
from src.arguments import read
from src.config import TrackingConfig, UserError
from src.data import sources
from src.evaluation.score import score
from src.evaluator import Evaluator
from src.launch import resume_hint
from src.metrics import EXTRA, EXTRACTIVE, GENERATIVE, GPU, LINUX, METRICS, TESTED, metric
from src.model import backbone
from src.run import run
from src.runs.commands import next_commands, ui_command
from src.runs.identity import hashes
from src.runs.isolation import call
from src.runs.records import short_key
from src.runs.store import connect
from src.runs.tracking import flatten
from src.sweep import train
from tests.conftest import TINY, own_csv, question, squad_json

# What every run logs: curves that one seed repeats to the bit, and all the rest.
MEASURED = ("time", "speed", "memory")
STEPWISE = [entry for entry in METRICS if entry.logged != "end" and entry.group not in MEASURED]
BY_STEP = {entry.key for entry in STEPWISE if entry.only != GENERATIVE}
FINAL = {entry.key for entry in METRICS if entry.only in ("", TESTED, EXTRACTIVE)} - BY_STEP
HERE_ALONE = {entry.key for entry in METRICS if entry.only in (GPU, LINUX)}
ARTIFACTS = {
    *("config.yaml", "predictions.json", "nbest.json", "examples.json"),
    *("loss_curve.svg", "environment.txt", "questions.parquet", "result.json", "model"),
}


def client_of(folder: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")


def runs_of(folder: Path):
    client = client_of(folder)
    [experiment] = [e for e in client.search_experiments() if e.name == "tuneoff"]
    return client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])


def artifact(client, run_id, name, tmp_path):
    return Path(client.download_artifacts(run_id, name, str(tmp_path)))


@pytest.fixture(scope="module")
def finished(fresh_command, configure, server, tmp_path_factory):
    """Two LoRA runs with one seed, the first as a user would start it, and a full one."""
    folder = tmp_path_factory.mktemp("store")
    shown = fresh_command("src.train", *TINY, "method=lora", f"tracking.folder={folder}")
    assert shown.returncode == 0, shown.stderr
    for more in (["method=lora", "rerun=true"], ["method=full"]):
        config = configure(*TINY, *more, f"tracking.folder={folder}")
        assert call(train, config, folder / "output.log").reason is None
    return folder, shown, runs_of(folder)


def test_a_vocabulary_that_lacks_tokens_is_one_sentence(configure, tmp_path):
    config = configure(*TINY, "++model.config.vocab_size=500", f"tracking.folder={tmp_path}")
    with pytest.raises(UserError, match=r"gives token [\d,]+, and the vocabulary of model=tiny has 500: they do not"):
        run(config)
    [ended] = runs_of(tmp_path)
    assert ended.info.status == "FAILED"


def test_a_run_leaves_what_the_readme_promises(finished):
    folder, _, runs = finished
    client = client_of(folder)
    for found in runs:
        assert found.info.status == "FINISHED"
        assert set(found.data.metrics) - HERE_ALONE == BY_STEP | FINAL
        assert {item.path for item in client.list_artifacts(found.info.run_id)} == ARTIFACTS
        tags = found.data.tags
        assert tags["method"] in ("lora", "full")
        assert (tags["model"], tags["dataset"], tags["seed"], tags["device"]) == ("tiny", "sample", "0", "cpu")
        assert len(tags["config_hash"]) == 12
        assert tags["git_commit"]
        assert (
            found.info.run_name
            == f"{tags['method']} lr={float(found.data.params['train.learning_rate']):g} epochs=2 seed=0"
        )
        assert found.data.params["dataset.train_size"] == "64"
        assert found.data.params["hardware.device"] == "auto"
        inputs = {i.tags[0].value: i.dataset for i in found.inputs.dataset_inputs}
        assert {context: json.loads(each.profile)["num_rows"] for context, each in inputs.items()} == {
            "train": 64,
            "validation": 24,
            "test": 16,
        }
        assert found.info.artifact_uri.startswith(f"file://{folder}")
    one, two, full = runs
    assert one.data.tags["config_hash"] == two.data.tags["config_hash"] != full.data.tags["config_hash"]
    digests = [{i.tags[0].value: i.dataset.digest for i in r.inputs.dataset_inputs} for r in runs]
    assert digests[0] == digests[1] == digests[2], "the methods saw different examples"
    assert one.data.params["method.peft.r"] == "16"


def test_metrics_are_consistent_with_each_other(finished):
    folder, _, runs = finished
    client = client_of(folder)
    for found in runs:
        metrics = found.data.metrics
        losses = client.get_metric_history(found.info.run_id, "train/loss")
        steps = 2 * -(-64 // 8)  # the sample's passages fit into one window of the tiny model, or one more
        assert len(losses) >= steps
        assert [m.step for m in losses] == list(range(1, len(losses) + 1))
        assert metrics["train/initial_loss"] == losses[0].value
        assert metrics["train/final_loss"] == pytest.approx(sum(m.value for m in losses[-10:]) / 10)
        points = {"step": len(losses), "epoch": 3, "end": 1}
        for key in metrics:
            assert len(client.get_metric_history(found.info.run_id, key)) == points[metric(key).logged], key
        trained = client.get_metric_history(found.info.run_id, "time/trained_seconds")
        assert [m.step for m in trained] == [m.step for m in losses]
        assert [m.value for m in trained] == sorted(m.value for m in trained)
        assert trained[0].value > 0 and trained[-1].value == metrics["time/train_seconds"]
        f1 = client.get_metric_history(found.info.run_id, "eval/f1")
        assert [m.step for m in f1] == [0, 1, 2]
        assert metrics["quality/f1"] == f1[-1].value
        assert metrics["train/reported_epoch"] == 2
        assert metrics["params/trainable"] == sum(metrics[f"params/{part}"] for part in ("adapter", "head", "backbone"))
        assert metrics["params/trainable_percent"] == pytest.approx(
            100 * metrics["params/trainable"] / metrics["params/total"]
        )
        assert metrics["time/train_seconds"] + metrics["time/eval_seconds"] < metrics["time/total_seconds"]
        windows = metrics["speed/eval_examples_per_second"] * metrics["time/eval_seconds"] / 3  # three evaluations
        assert windows == pytest.approx(round(windows)) and 24 <= windows < 48
        assert 0 < metrics["memory/peak_train_mb"] < 2000
    lora, _, full = (r.data.metrics for r in runs)
    assert lora["params/trainable"] == 14_402
    assert full["params/trainable"] == full["params/total"] == lora["params/total"] - lora["params/adapter"]
    assert lora["storage/checkpoint_mb"] < 0.1 < full["storage/checkpoint_mb"]


def test_one_seed_gives_the_same_losses_and_predictions_to_the_bit(finished, tmp_path):
    folder, _, (one, two, full) = finished
    client = client_of(folder)

    def losses(found):
        return [m.value for m in client.get_metric_history(found.info.run_id, "train/loss")]

    def n_best(found):
        return json.loads(artifact(client, found.info.run_id, "nbest.json", tmp_path / found.info.run_id).read_text())

    for found in (one, two, full):
        (tmp_path / found.info.run_id).mkdir()
    assert losses(one) == losses(two) != losses(full)
    assert n_best(one) == n_best(two) != n_best(full)


def test_artifacts_hold_what_their_names_say(finished, tmp_path):
    folder, _, (one, *_) = finished
    client = client_of(folder)
    found = {name: artifact(client, one.info.run_id, name, tmp_path) for name in ARTIFACTS}
    predictions = json.loads(found["predictions.json"].read_text())
    n_best = json.loads(found["nbest.json"].read_text())
    assert len(predictions) == 24
    assert all(len(spans) == 20 for spans in n_best.values())
    assert all(text == n_best[key][0]["text"] for key, text in predictions.items())
    table = json.loads(found["examples.json"].read_text())
    assert len(table["data"]) == 24
    assert table["columns"][:4] == ["id", "question", "predicted", "answers"]
    result = json.loads(found["result.json"].read_text())
    assert result["run_id"] == one.info.run_id
    assert result["metrics"]["quality/f1"] == one.data.metrics["quality/f1"]
    assert "test F1 " in (found["model"] / "README.md").read_text()
    config = yaml.safe_load(found["config.yaml"].read_text())
    assert flatten(config) == dict(one.data.params) | {"dataset.unanswerable": "False"}
    assert found["loss_curve.svg"].read_text().startswith("<?xml")
    assert "torch==" in found["environment.txt"].read_text()
    assert {f.name for f in found["model"].iterdir()} >= {"adapter_model.safetensors", "tokenizer.json"}
    assert not (found["model"] / "model.safetensors").exists()


def test_what_a_person_sees(finished):
    folder, shown, (one, *_) = finished
    lines = shown.stdout.splitlines()
    assert lines[0] == "model   tiny, 1,024,706 parameters"
    assert "14,402 parameters (1.41 %): adapters 14,336, head 66, backbone 0" in lines[2]
    assert any("scores on it say nothing about SQuAD" in line for line in lines)
    assert sum(line.startswith(("before training", "epoch")) for line in lines) == 3
    assert any(line.startswith("step ") and "examples/s" in line and line.endswith(" left") for line in lines)
    assert f"{one.data.metrics['quality/f1']:.1f}" in next(line for line in lines if "F1  " in line and "│" in line)
    assert sum(line.startswith(("right", "wrong")) for line in lines) == 4
    store = f"tracking.folder={folder}"
    assert lines[-4:] == [
        (
            f"ask it        python -m src.predict run={one.info.run_id[:8]} 'question=Who wrote it?' "
            f"'context=It was written by Ada.' {store}"
        ),
        f"compare runs  python -m src.compare {store}",
        f"see all runs  python -m src.ui {store}",
        "",
    ]
    assert "\x1b" not in shown.stdout
    assert shown.stderr == ""


def test_the_scores_by_question_are_those_of_both_sets(finished):
    folder, _, runs = finished
    store = connect(TrackingConfig(folder=str(folder)), create=False)
    for found in runs:
        record = store.record(found.info.run_id)
        for split, group, number in (("validation", "quality", 24), ("test", "test", 16)):
            table = record.questions(split=split)
            assert len(table) == number and table.index.str.startswith(split).all()
            for key in ("exact_match", "f1"):
                assert 100 * table[key].mean() == pytest.approx(record.metrics[f"{group}/{key}"])
            assert list(table["passage"]) == [short_key(text) for text in table["context"]]
            assert list(table["article"]) == [short_key(title) for title in table["title"]]
        assert list(record.questions(["f1"]).index) == list(record.questions().index)


def digests(found):
    return {i.tags[0].value: i.dataset.digest for i in found.inputs.dataset_inputs}


def test_a_run_without_a_test_set_is_what_it_was(finished, configure, tmp_path, capsys):
    """The same training and the same scores; of the test no trace."""
    run(configure(*TINY, "method=full", "dataset.test_size=null", f"tracking.folder={tmp_path}"))
    assert "for test" not in (shown := capsys.readouterr().out) and "Test F1" not in shown
    [found], tested = runs_of(tmp_path), finished[2][2]
    with_test, without = digests(tested), digests(found)
    assert without == {name: with_test[name] for name in ("train", "validation")}
    # Memory is not reported where an earlier test has left some behind in this process.
    logged = {key for key in found.data.metrics.keys() - HERE_ALONE if not key.startswith("memory/")}
    every = [entry for entry in METRICS if entry.only in ("", EXTRACTIVE)]
    always = {entry.key for entry in every if not entry.key.startswith("memory/")}
    assert logged == (BY_STEP | FINAL) & always
    same = {key: value for key, value in found.data.metrics.items() if metric(key).group not in MEASURED}
    assert {key: tested.data.metrics[key] for key in same} == same
    record = connect(TrackingConfig(folder=str(tmp_path))).record(found.info.run_id)
    assert record.questions(split="test") is None and len(record.questions()) == 24


def test_the_test_set_is_scored_once_and_last_by_the_reported_weights(configure, tmp_path, monkeypatch):
    scored, original = [], Evaluator.score

    def score_questions(self, questions, windows):
        side = questions[0]["id"].partition("-")[0]
        scored.append(side)
        if side == "test":
            time.sleep(2)
        return original(self, questions, windows)

    monkeypatch.setattr(Evaluator, "score", score_questions)
    began = time.perf_counter()
    more = ["train.keep=best", "train.early_stopping_patience=1", "train.epochs=4", "train.learning_rate=1e-2"]
    result = run(configure(*TINY, *more, f"tracking.folder={tmp_path}"))
    seconds = time.perf_counter() - began
    assert scored == ["validation"] * (len(scored) - 1) + ["test"]
    metrics = result.metrics
    assert metrics["time/test_seconds"] > 2
    assert metrics["time/total_seconds"] + metrics["time/test_seconds"] < seconds
    assert metrics["time/train_seconds"] + metrics["time/eval_seconds"] < metrics["time/total_seconds"]
    windows = metrics["speed/eval_examples_per_second"] * metrics["time/eval_seconds"] / (len(scored) - 1)
    assert windows == pytest.approx(round(windows)) and 24 <= windows < 48, "the test's windows are counted too"
    monkeypatch.undo()
    stored = predict.load_run(result.run_id, TrackingConfig(folder=str(tmp_path)))
    questions = sources.load(stored.config.dataset).test.to_list()
    assert score(questions, stored.answer(questions))["f1"] == metrics["test/f1"]


@pytest.mark.slow
def test_a_head_on_states_that_were_kept_is_tested_too(configure, tmp_path):
    """The encoder's states are kept for what is seen several times; the test questions are seen once, as tokens."""
    head = ["method=head", "train.hidden_dropout=0", "train.epochs=1", "hardware.precision=fp32"]
    results = [
        run(configure(*TINY, *head, f"train.cache_encoder={kept}", f"tracking.folder={tmp_path}")).metrics
        for kept in ("true", "false")
    ]
    for key in ("test/f1", "test/exact_match", "quality/f1"):
        assert results[0][key] == pytest.approx(results[1][key])
    assert results[0]["test/f1"] > 0


@pytest.mark.parametrize("which", [0, 2])
def test_the_stored_model_gives_the_same_predictions_in_a_new_process(finished, server, which, tmp_path):
    folder, _, runs = finished
    run_id = runs[which].info.run_id
    f1, predictions = call(predictions_of, (run_id, str(folder)), tmp_path / "log").value
    expected = artifact(client_of(folder), run_id, "predictions.json", tmp_path)
    assert predictions == json.loads(expected.read_text())
    assert f1 == runs[which].data.metrics["quality/f1"]


def predictions_of(run_and_folder):
    run_id, folder = run_and_folder
    stored = predict.load_run(run_id, TrackingConfig(folder=folder))
    questions = sources.load(stored.config.dataset).validation.to_list()
    answers = stored.answer(questions)
    return score(questions, answers)["f1"], {answer.id: answer.best.text for answer in answers}


def test_predict_answers_from_the_command_line(finished, command):
    folder, _, (one, *_) = finished
    store = f"tracking.folder={folder}"
    context = "Ada, who wrote: a = b {c}, lived in Paris."
    shown = command("src.predict", f"run={one.info.run_id[:10]}", "question=Who, then?", f"context={context}", store)
    assert shown.returncode == 0, shown.stderr
    answers, place, commands = shown.stdout.split("\n\n", 2)
    assert len(answers.splitlines()) == 5
    assert place.replace(">>", "").replace("<<", "") == context
    assert commands.startswith(f"compare runs  python -m src.compare {store}\n")
    assert shown.stdout.startswith(">")
    assert shown.stdout.splitlines()[0].split("%  ")[1] in context


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run=zzz", "question=Who?", "context=Ada."], (1, "run=zzz: no run has this name or such an id; there")),
        (["run=", "question=Who?", "context=Ada."], (2, "run= is empty")),
        (["run=1", "qestion=Who?"], (1, "'qestion' (did you mean 'question'?)")),
    ],
)
def test_a_mistake_of_predicts_command_line_is_one_sentence(finished, monkeypatch, capsys, arguments, expected):
    monkeypatch.setattr(sys, "argv", ["src.predict", *arguments, f"tracking.folder={finished[0]}"])
    with pytest.raises(SystemExit) as ended:
        predict.main()
    status, sentence = expected
    assert ended.value.code == status
    assert sentence in capsys.readouterr().err


def test_a_run_leaves_its_configuration_as_it_was_given(configure, tmp_path):
    config = configure(*TINY, "train.epochs=1", f"tracking.folder={tmp_path}")
    before = deepcopy(config)
    result = run(config)
    assert config == before
    assert config.dataset.unanswerable is None
    stored = client_of(tmp_path).get_run(result.run_id).data
    assert stored.params["dataset.unanswerable"] == "False", "what the data have settled is on record"
    assert stored.tags["config_hash"] == hashes(before).present


def test_the_same_command_shows_what_is_done(finished, configure, capsys):
    folder, _, runs = finished
    assert train(configure(*TINY, "method=full", f"tracking.folder={folder}")) == runs[2].data.metrics["quality/f1"]
    shown = capsys.readouterr().out
    assert shown.startswith("full lr=0.0001 epochs=2 seed=0 is done already (rerun=true runs it again):")
    assert f"{runs[2].data.metrics['quality/f1']:.1f}" in next(line for line in shown.splitlines() if "F1" in line)
    assert len(runs_of(folder)) == 3


def test_any_other_model_by_its_folder_is_called_after_it(configure, tmp_path, minilm_tokenizer):
    config = configure("model=tiny").model
    backbone.load_model(config, 0.1, 0.0, seed=0).save_pretrained(tmp_path / "my_model")
    minilm_tokenizer.save_pretrained(tmp_path / "my_model")
    sizes = [override for override in TINY if not override.startswith("model=")]
    run(configure(*sizes, f"model.path={tmp_path / 'my_model'}", f"tracking.folder={tmp_path}"))
    [found] = runs_of(tmp_path)
    assert found.data.tags["model"] == "my_model"
    assert found.data.metrics["params/total"] == 1_024_706


# Ends


def test_a_loss_that_is_no_number_fails_the_run(configure, tmp_path):
    config = configure(*TINY, "train.learning_rate=1e38", "train.warmup_ratio=0", f"tracking.folder={tmp_path}")
    with pytest.raises(UserError, match="The loss is nan at step"):
        run(config)
    [found] = runs_of(tmp_path)
    assert found.info.status == "FAILED"
    assert "The loss is nan" in found.data.tags["error"]


def without_a_reader(config):
    """A run whose output goes to a pipe that nobody reads any more, as after `| head`."""
    reader, writer = os.pipe()
    os.dup2(writer, 1)
    os.close(reader)
    return run(config).run_id


def test_a_run_outlives_the_reader_of_its_output(configure, server, tmp_path):
    outcome = call(without_a_reader, configure(*TINY, "train.epochs=1", f"tracking.folder={tmp_path}"))
    assert outcome.reason is None
    [found] = runs_of(tmp_path)
    assert (found.info.run_id, found.info.status) == (outcome.value, "FINISHED")


def test_divergence_in_the_last_step_fails_the_run(configure, tmp_path):
    """The loss of the only step was that of the weights before it."""
    steps = ["train.epochs=1", "train.batch_size=128", "train.warmup_ratio=0", "train.learning_rate=1e38"]
    with pytest.raises(UserError, match=r"logits for the question with id .* are not finite numbers"):
        run(configure(*TINY, *steps, f"tracking.folder={tmp_path}"))
    [found] = runs_of(tmp_path)
    assert (found.info.status, "quality/f1" in found.data.metrics) == ("FAILED", False)
    assert len(client_of(tmp_path).get_metric_history(found.info.run_id, "train/loss")) == 1


def test_a_validation_set_without_a_known_place_has_no_loss(configure, tmp_path, capsys):
    train = squad_json(tmp_path / "train.json", [("A", "Ada wrote it.", [question("1", answers=[("Ada", 0)])])])
    other = squad_json(tmp_path / "other.json", [("B", "Bo wrote it.", [question("2", answers=[("Eve", -1)])])])
    data = [f"dataset.path={train}", f"dataset.validation_path={other}", "dataset.split=given", "train.epochs=1"]
    result = run(configure("model=tiny", *data, f"tracking.folder={tmp_path}"))
    assert client_of(tmp_path).get_metric_history(result.run_id, "eval/loss") == []
    assert not [key for key, value in result.metrics.items() if not math.isfinite(value)]
    assert "nan" not in capsys.readouterr().out


def test_an_unexpected_error_fails_the_run(configure, tmp_path, monkeypatch):
    monkeypatch.setattr("src.run.method.count", lambda model: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(configure(*TINY, f"tracking.folder={tmp_path}"))
    [found] = runs_of(tmp_path)
    assert (found.info.status, found.data.tags["error"]) == ("FAILED", "ZeroDivisionError: division by zero")


def test_keep_best_reports_the_best_epoch(configure, tmp_path):
    result = run(configure(*TINY, "train.keep=best", "train.epochs=4", f"tracking.folder={tmp_path}"))
    [found] = runs_of(tmp_path)
    curve = {m.step: m.value for m in client_of(tmp_path).get_metric_history(found.info.run_id, "eval/f1")}
    assert result.epoch == max((epoch for epoch in curve if epoch), key=lambda e: (curve[e], -e))
    assert found.data.metrics["quality/f1"] == curve[result.epoch]


def test_an_adapter_that_adapts_nothing_is_said_loudly(configure, tmp_path, capsys):
    chosen = ["method.peft.target_modules=[qa_outputs]", "method.peft.r=4"]
    run(configure(*TINY, *chosen, "train.epochs=1", f"tracking.folder={tmp_path}"))
    assert "WARNING" in capsys.readouterr().out
    [found] = runs_of(tmp_path)
    assert "adapts NO layer of the backbone" in found.data.tags["warning"]


def test_unanswerable_questions(configure, tmp_path):
    articles = []
    for i in range(12):
        context = f"The tower of place{i} is old and was built by someone{i}."
        known = question(f"{i}a", "Who built it?", [(f"someone{i}", context.index("someone"))])
        articles.append((f"T{i}", context, [known, question(f"{i}b", "Who sold it?", [], is_impossible=True)]))
    path = squad_json(tmp_path / "v2.json", articles)
    overrides = ["model=tiny", "dataset=file", f"dataset.path={path}", "train.epochs=1", "train.batch_size=4"]
    result = run(configure(*overrides, "evaluation.null_threshold=-100", f"tracking.folder={tmp_path}"))
    assert result.metrics["quality/no_answer_f1"] == 100.0  # a threshold that far down always wins
    assert result.metrics["quality/has_answer_f1"] == 0.0
    assert result.metrics["quality/best_f1"] >= result.metrics["quality/f1"] == 50.0


def test_the_table_of_metrics_holds_what_runs_log_and_nothing_else(configure, finished, tmp_path, minilm_tokenizer):
    """All that a metric may need is here, but for a GPU: a masked-LM head, unanswerable questions, a decoder, ..."""

    def questions(name, titles):
        articles = []
        for title in titles:
            context = f"The tower of {title} is old and was built by someone."
            known = question(f"{title}a", "Who built it?", [("someone", context.index("someone"))])
            articles.append((title, context, [known, question(f"{title}b", "Who sold it?", [], is_impossible=True)]))
        return squad_json(tmp_path / name, articles)

    train = questions("train.json", [f"place{i}" for i in range(12)])
    noisy = questions("noisy.json", [f"town{i}" for i in range(3)])
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertForMaskedLM(BertConfig(vocab_size=len(minilm_tokenizer), **shape)).save_pretrained(tmp_path / "bert")
    minilm_tokenizer.save_pretrained(tmp_path / "bert")
    model = ["model=minilm", f"model.path={tmp_path / 'bert'}", "model.sha256=null", "hardware.precision=fp32"]
    data = ["dataset=file", f"dataset.path={train}", f"++dataset.extra_validation.noisy={noisy}"]
    run(configure(*model, *data, "train.epochs=1", "train.batch_size=4", f"tracking.folder={tmp_path}"))

    sizes = ["dataset.train_size=16", "dataset.validation_size=8", "dataset.test_size=8", "train.epochs=1"]
    run(configure("model=tiny_llm", *sizes, "evaluation.max_answer_length=4", f"tracking.folder={tmp_path / 'llm'}"))

    all_runs = (*runs_of(tmp_path), *runs_of(tmp_path / "llm"), finished[2][0])
    logged = {key for found in all_runs for key in found.data.metrics}
    nameless = []
    for key in logged:
        try:
            assert metric(key).key == key
        except KeyError:
            nameless.append(key)
    assert nameless == [], "these are logged; put them into the table of src/metrics.py"
    expected = {entry.key for entry in METRICS}
    expected |= {f"{EXTRA}/noisy/{entry.key.rpartition('/')[2]}" for entry in METRICS if entry.extra}
    assert expected - logged - HERE_ALONE == set(), "no run logs these; take them out of the table of src/metrics.py"


def test_a_spreadsheet_with_empty_answers_is_not_a_set_of_unanswerable_questions(configure, tmp_path, capsys):
    """From the file to the scores: every prediction is a text, and questions without an answer score 0."""
    path = own_csv(tmp_path / "own.csv", 40, rows=[["Why?", f"Nobody knows {i}.", ""] for i in range(9)])
    overrides = ["model=tiny", "dataset=file", f"dataset.path={path}", "train.epochs=1", "train.batch_size=8"]
    result = run(configure(*overrides, "dataset.test_size=null", f"tracking.folder={tmp_path}"))
    shown = capsys.readouterr().out
    assert "training questions have no answer (the first are row 41, " in shown
    assert "left out of training; dataset.unanswerable=true trains on them" in shown
    client = client_of(tmp_path)
    predictions = json.loads(artifact(client, result.run_id, "predictions.json", tmp_path).read_text())
    assert any(int(row) > 40 for row in predictions)
    assert all(predictions.values())
    assert result.metrics["quality/no_answer_f1"] == 0.0
    config = yaml.safe_load(artifact(client, result.run_id, "config.yaml", tmp_path).read_text())
    assert config["dataset"]["unanswerable"] is False


def test_a_question_without_a_label_is_not_trained_on(configure, tmp_path):
    rows = [["Which?", f"In\u200b\u200b {i}.", "\u200b\u200b"] for i in range(20)]
    path = own_csv(tmp_path / "own.csv", 40, rows=rows)
    config = configure("model=tiny", "dataset=file", f"dataset.path={path}", "dataset.split=random")
    data = questions.load(config, backbone.load_tokenizer(config.model))
    trained = {data.sets.train[int(row)]["id"] for row in data.train.windows["question"][:]}
    assert max(map(int, trained)) <= 40 < max(map(int, data.sets.train["id"]))
    assert data.train.windows["labelled"][:].all()
    assert not data.validation.windows["labelled"][:].all()  # they are scored


def test_noisier_transcripts_are_scored_beside_the_clean_ones(configure, tmp_path):
    def transcript(name, answer):
        articles = [
            (
                f"T{a}",
                f"They say it was {answer}{a} who came.",
                [question(f"{a}-{q}", "Who?", [(f"who{a}", 16)]) for q in range(4)],
            )
            for a in range(8)
        ]
        return squad_json(tmp_path / name, articles)

    for name in ("spoken_test-v1.1_WER44.json", "spoken_test-v1.1_WER54.json"):
        transcript(name, "hoo")
    transcript("spoken_test-v1.1.json", "who")
    sizes = ["dataset.train_size=20", "dataset.validation_size=5", "train.epochs=1", "model=tiny"]
    config = configure("dataset=spoken_squad", f"dataset.root={tmp_path}", f"tracking.folder={tmp_path}", *sizes)
    result = run(config)
    assert {key for key in result.metrics if key.startswith("extra/")} == {
        f"extra/{name}/{figure}" for name in ("wer44", "wer54") for figure in ("exact_match", "f1")
    }
    assert result.metrics["extra/wer44/exact_match"] == 0.0
    assert result.metrics["data/untrainable"] == 64


# Surroundings


def test_a_server_that_does_not_answer_is_said_at_once(configure):
    started = time.monotonic()
    with pytest.raises(UserError, match=r"tracking.uri=http://127.0.0.1:9 cannot be used.*check the address"):
        run(configure(*TINY, "tracking.uri=http://127.0.0.1:9"))
    assert time.monotonic() - started < 30


def test_a_store_that_is_none_is_one_sentence(configure, tmp_path):
    (tmp_path / "mlflow.db").write_text("not a database, just some text that was saved here")
    with pytest.raises(UserError, match=r"mlflow.db cannot be used as MLflow's store"):
        run(configure(*TINY, f"tracking.folder={tmp_path}"))


@pytest.mark.slow
def test_a_store_whose_creation_was_interrupted_is_created_again(tmp_path):
    (tmp_path / "mlflow.db").unlink(missing_ok=True)
    (tmp_path / "mlflow.db.unfinished").write_bytes(b"a part of a database")
    assert connect(TrackingConfig(folder=str(tmp_path))).runs() == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlflow.db", "mlflow.db.lock"]


def test_no_database_is_left_where_its_tables_cannot_be_created(tmp_path, monkeypatch):
    def full(client, **more):
        raise MlflowException("(sqlite3.OperationalError) database or disk is full")

    monkeypatch.setattr(MlflowClient, "search_experiments", full)
    (tmp_path / "mlflow.db").unlink(missing_ok=True)
    with pytest.raises(UserError, match="disk is full"):
        connect(TrackingConfig(folder=str(tmp_path)))
    assert not (tmp_path / "mlflow.db").exists()


def test_a_deleted_experiment_is_one_sentence(finished, configure, tmp_path):
    client = client_of(tmp_path)
    client.delete_experiment(client.create_experiment("gone"))
    with pytest.raises(UserError, match=r"tracking.experiment=gone takes no run"):
        run(configure(*TINY, "tracking.experiment=gone", f"tracking.folder={tmp_path}"))


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a file system that refuses to be written")
def test_a_place_that_cannot_be_written_is_one_sentence(configure, server, tmp_path):
    failed = call(train, configure(*TINY, "tracking.folder=/proc/mlruns"), tmp_path / "log")
    assert str(failed.reason).startswith("/proc/mlruns does not exist; check the path.")
    assert "Traceback" not in (tmp_path / "log").read_text()


def limit_the_size_of_files():
    """Stands for a full disk: it hits when the weights are stored."""
    import resource  # no Windows has it

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_500_000, 2_500_000))


def on_a_full_disk(config):
    limit_the_size_of_files()
    train(config)


def test_a_disk_that_fills_up_takes_no_result_away(configure, server, tmp_path):
    failed = call(on_a_full_disk, configure(*TINY, "method=full", f"tracking.folder={tmp_path}"), tmp_path / "log")
    shown = (tmp_path / "log").read_text()
    assert f"\nError: {failed.reason}" in shown, "a fault of the program, by its traceback, or no failure at all"
    assert "Exact match" in shown, "the result was not shown"
    [found] = runs_of(tmp_path)
    assert found.info.status == "FAILED"


def test_the_ui_command_names_the_store():
    assert ui_command(TrackingConfig()) == "python -m src.ui"
    assert ui_command(TrackingConfig(folder="elsewhere")) == "python -m src.ui tracking.folder=elsewhere"
    assert ui_command(TrackingConfig(uri="sqlite:///x.db")) == "python -m src.ui tracking.uri=sqlite:///x.db"
    assert ui_command(TrackingConfig(uri="http://host:5000")) == "http://host:5000"


@pytest.mark.parametrize(
    ("tracking", "expected"),
    [
        (TrackingConfig(), ""),
        (TrackingConfig(folder="my runs"), " 'tracking.folder=my runs'"),
        (TrackingConfig(folder="elsewhere", experiment="rates & seeds"), " tracking.folder=elsewhere"),
        (TrackingConfig(uri="http://host:5000?a=1&b=2"), " 'tracking.uri=http://host:5000?a=1&b=2'"),
    ],
)
def test_the_next_commands_can_be_pasted(tracking, expected):
    commands = next_commands(tracking, "0123456789abcdef")
    assert commands["ask it"].startswith("python -m src.predict run=01234567 'question=") and (
        commands["ask it"].endswith("by Ada.'" + expected)
    )
    experiment = " 'tracking.experiment=rates & seeds'" if tracking.experiment != "tuneoff" else ""
    assert commands["compare runs"] == "python -m src.compare" + expected + experiment
    given = read(compare.Compare, shlex.split(commands["compare runs"])[3:], "")
    assert given.experiment == tracking.experiment


def test_an_interruption_names_the_command_that_goes_on(monkeypatch):
    typed = ["-m", "method=full,lora", "dataset.path=my file.json", "train.learning_rate=tag(log,interval(1e-5,1e-2))"]
    monkeypatch.setattr(sys, "argv", ["/somewhere/src/train.py", *typed])
    sentence, command = resume_hint().splitlines()
    assert sentence == "continue with:"
    assert shlex.split(command) == ["python", "-m", "src.train", *typed]
    monkeypatch.setattr(sys, "argv", ["train.py", *typed, "rerun=true"])
    assert resume_hint() == "with rerun=true the same command starts from the beginning."
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert resume_hint() == "the same command continues where this one stopped."
