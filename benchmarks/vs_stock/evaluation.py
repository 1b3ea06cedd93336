"""Evaluation with the same trained weights, by transformers' Trainer and by ours."""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from benchmarks.vs_stock.job import MAX_LENGTH, setting, sizes
from benchmarks.vs_stock.loops import Collator, ours

Logits = tuple[Any, Any]


def evaluate(arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds, F1 and agreement: Trainer.predict, fp32, padded to 384; and ours, in fp32 and in the fast precision."""
    from src.evaluation.score import per_question
    from src.tasks.extractive.spans import answer_questions

    size = sizes(arguments)
    job = setting(arguments, "minilm", "full", size.trained, size.validation)
    job.config.hardware.fast_kernels = False
    used = ours(job, job.train.windows, "full", None, epochs=1)
    # Without accelerate's autocast, so that the stock way is fp32.
    plain = used.runtime.accelerator.unwrap_model(used.model, keep_fp32_wrapper=False)
    questions = job.sets.validation.to_list()
    precisions = dict.fromkeys(("fp32", arguments.precision))
    ways: dict[str, Callable[[], Logits]] = {"stock": by_trainer(job, copy.deepcopy(plain))}
    ways |= {f"ours_{precision}": by_ours(job, copy.deepcopy(plain), precision) for precision in precisions}
    result: dict[str, float] = {"questions": len(questions)}
    expected: list[str] = []
    for name, way in ways.items():
        begin = time.perf_counter()
        logits = way()
        result[f"{name}_seconds"] = time.perf_counter() - begin
        answers = answer_questions(questions, job.validation.windows, *logits, job.config.evaluation, False)
        texts = [answer.best.text for answer in answers]
        expected = expected or texts
        result[f"{name}_same_percent"] = 100 * statistics.mean(a == b for a, b in zip(texts, expected, strict=True))
        scores = [per_question(question, answer)[1] for question, answer in zip(questions, answers, strict=True)]
        result[f"{name}_f1"] = 100 * statistics.mean(scores)
    return result


def by_trainer(job: Any, model: Any) -> Callable[[], Logits]:
    """Prediction by transformers' Trainer: start and end logits of each window."""
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(
        output_dir=tempfile.gettempdir(),
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        per_device_eval_batch_size=8,
    )

    def predict() -> Logits:
        trainer = Trainer(model, arguments, data_collator=Collator(job.tokenizer.pad_token_id, MAX_LENGTH))
        predictions: Any = trainer.predict(job.validation.windows).predictions
        start, end = (
            [row[:n] for row, n in zip(logits, job.validation.lengths, strict=True)] for logits in predictions[:2]
        )
        return start, end

    return predict


def by_ours(job: Any, model: Any, precision: str) -> Callable[[], Logits]:
    """Prediction by `src.training.predict`: start and end logits of each window."""
    from src.model import fast
    from src.training import hardware
    from src.training.predict import predict

    runtime = hardware.start(replace(job.config.hardware, precision=precision, fast_kernels=True))
    fast.speed_up(model, runtime.dtype)
    model = runtime.accelerator.prepare_model(model)

    def ours() -> Logits:
        pairs = predict(runtime, model, job.validation, job.config.evaluation)
        return [start for start, _ in pairs], [end for _, end in pairs]

    return ours
