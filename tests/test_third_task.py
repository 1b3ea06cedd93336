"""A task that the project does not have, made from the protocol alone: it trains, is scored, stored and compared."""

from __future__ import annotations

import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForSequenceClassification

from src.run import run
from src.runs.store import connect
from src.tasks import TASKS
from src.tasks.base import Answer, Batches, Span, known_inputs, unwrapped
from tests.conftest import TINY


class Sentences(Batches):
    """Each sentence of a passage with the question, and whether the answer stands in it."""

    def __init__(self, examples):
        self.examples = examples  # (row of the question, tokens, label, first character, sentence)
        self.questions = np.array([row for row, *_ in examples])
        self.lengths = np.array([len(tokens) for _, tokens, *_ in examples])
        self.terms = np.ones(len(examples), dtype=int)

    def logits(self, model, rows, device):
        tokens = [torch.tensor(self.examples[row][1]) for row in rows]
        mask = [torch.ones_like(each) for each in tokens]
        batch = {"input_ids": tokens, "attention_mask": mask}
        padded = {name: pad_sequence(values, batch_first=True).to(device) for name, values in batch.items()}
        return model(**known_inputs(unwrapped(model), padded)).logits.float()

    def loss(self, model, rows, device):
        labels = torch.tensor([self.examples[row][2] for row in rows], device=device)
        return cross_entropy(self.logits(model, rows, device), labels, reduction="sum")

    def predict(self, model, rows, device, limits):
        return self.logits(model, rows, device).log_softmax(-1).cpu().tolist()

    def answers(self, questions, predictions, limits, may_be_unanswerable):
        spans = [[] for _ in questions]
        for (row, _, _, first, text), (_, yes) in zip(self.examples, predictions, strict=True):
            spans[row].append(Span(text, first, first + len(text), yes, float(np.exp(yes))))
        best = [sorted(each, key=lambda span: -span.score) for each in spans]
        return [Answer(q["id"], each[0], tuple(each), 0.0) for q, each in zip(questions, best, strict=True)]

    def mean_loss(self, predictions):
        pairs = zip(self.examples, predictions, strict=True)
        return -float(np.mean([scores[label] for (_, _, label, *_), scores in pairs]))

    def select(self, rows, questions):
        return Sentences([(row, *self.examples[i][1:]) for i, row in zip(rows, questions, strict=True)])


class WholeSentence:
    auto_model = AutoModelForSequenceClassification
    cpu_tokens = 1024

    def batches(self, questions, tokenizer, config, training):
        examples = []
        for row, question in enumerate(questions):
            place = question["answers"]["answer_start"][0]
            for sentence in re.finditer(r"[^.]+\.?", question["context"]):
                tokens = tokenizer(question["question"], sentence[0])["input_ids"]
                label = int(sentence.start() <= place < sentence.end())
                examples.append((row, tokens, label, sentence.start(), sentence[0].strip()))
        return Sentences(examples), []


@pytest.mark.parametrize("method", [pytest.param("full", marks=pytest.mark.slow), "lora"])
def test_a_task_made_from_the_protocol_trains_and_is_scored(configure, tmp_path, monkeypatch, method):
    monkeypatch.setitem(sys.modules, "tests.whole_sentence", SimpleNamespace(TASK=WholeSentence()))
    monkeypatch.setitem(TASKS, "sentence", "tests.whole_sentence")
    chosen = ["model.task=sentence", f"method={method}", "train.learning_rate=3e-3", "train.epochs=4"]
    result = run(configure(*TINY, *chosen, f"tracking.folder={tmp_path}"))
    assert result.metrics["train/final_loss"] < 0.9 * result.metrics["train/initial_loss"]
    assert result.metrics["params/head"] == 32 * 2 + 2
    record = connect(configure(f"tracking.folder={tmp_path}").tracking).record(result.run_id)
    rows = record.questions()
    assert len(rows) == 24
    assert all(row.predicted in row.context for row in rows.itertuples())
    assert rows["f1"].mean() * 100 == pytest.approx(result.metrics["quality/f1"])
    assert record.questions(split="test")["f1"].mean() * 100 == pytest.approx(result.metrics["test/f1"])
