"""The results of a run: its final metrics, and a row for each question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from src.data.sources import QuestionSets
from src.data.split import group
from src.evaluation.kinds import kind_of
from src.evaluation.score import per_question
from src.evaluator import Evaluation
from src.model.method import ParameterCounts
from src.report.scored import clusters_of
from src.report.statistics import FEWEST_SCORED, interval
from src.runs.records import TEST, VALIDATION, short_key
from src.tasks.base import Answer
from src.training.meter import Meter
from src.training.step import Step

SECTION = {VALIDATION: "quality", TEST: "test"}  # the prefix of the scores of a set in src/metrics.py
FINAL_LOSS_STEPS = 10  # train/final_loss is the mean over this many last steps


def final_metrics(
    sets: QuestionSets,
    counts: ParameterCounts,
    meter: Meter,
    steps: Sequence[Step],
    validation: Evaluation,
    extra: Mapping[str, Evaluation],
    test: Evaluation | None = None,
) -> dict[str, float]:
    """Compute the final metrics of `src.metrics`, except those that need the stored weights.

    Args:
        sets: the questions of the run.
        counts: its numbers of parameters.
        meter: of its time and memory.
        steps: all optimizer steps.
        validation: the evaluation of the reported epoch.
        extra: the evaluations of extra validation sets, by name.
        test: the evaluation of the same epoch on the test questions.
    """
    last = steps[-FINAL_LOSS_STEPS:]
    metrics = {
        **{f"quality/{key}": value for key, value in validation.metrics.items() if key != "loss"},
        **{f"extra/{name}/{key}": value for name, other in extra.items() for key, value in other.metrics.items()},
        "params/trainable": counts.trainable,
        "params/total": counts.total,
        "params/trainable_percent": counts.trainable_percent,
        "params/adapter": counts.adapter,
        "params/head": counts.head,
        "params/backbone": counts.backbone,
        "time/train_seconds": meter.train.seconds,
        "time/eval_seconds": meter.evaluation.seconds,
        "speed/eval_examples_per_second": meter.evaluation.examples / meter.evaluation.seconds,
        "train/steps": steps[-1].number,
        "train/initial_loss": steps[0].loss,
        "train/final_loss": sum(step.loss for step in last) / len(last),
        "data/realigned": sets.realigned,
        "data/untrainable": sets.untrainable,
    }
    if test is not None:
        metrics |= {"test/exact_match": test.metrics["exact_match"], "test/f1": test.metrics["f1"]}
        metrics["time/test_seconds"] = meter.test.seconds
    # What was not measured is left out: a wrong value is worse than none.
    if meter.train.counted_seconds:
        metrics["speed/examples_per_second"] = meter.train.examples_per_second
        metrics["speed/tokens_per_second"] = meter.train.tokens_per_second
    if meter.train.cpu_wait_seconds:
        metrics["time/cpu_wait_seconds"] = meter.train.cpu_wait_seconds
    if meter.memory_is_own:
        metrics["memory/peak_train_mb"] = meter.train.peak_mb
        metrics["memory/peak_eval_mb"] = meter.evaluation.peak_mb
        if meter.device.type == "cuda":
            metrics["memory/reserved_train_mb"] = meter.train.reserved_mb
    return metrics


def example_rows(questions: Any, answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """Make a row for each question, with prediction, true answers, scores and kind of answer."""
    rows = []
    for question, answer in zip(questions, answers, strict=True):
        exact, f1 = per_question(question, answer)
        rows.append(
            {
                "id": question["id"],
                "question": question["question"],
                "predicted": answer.best.text,
                "answers": list(dict.fromkeys(question["answers"]["text"])),
                "exact_match": exact,
                "f1": f1,
                "kind": kind_of(answer.best.text, question["answers"]["text"], question["context"]).value,
                "context": question["context"],
            }
        )
    return rows


def intervals(rows: pd.DataFrame, by_article: bool) -> dict[str, tuple[float, float]]:
    """Compute the 95 % intervals of a run's scores over other questions, in percent, by the keys of src/metrics.py.

    A score for which fewer than FEWEST_SCORED questions are above 0 has no interval.

    Args:
        rows: of all questions, as `with_places` makes them.
        by_article: whether the data were split by article.
    """
    ends = {}
    for split, table in rows.groupby("split"):
        clusters = clusters_of(table, by_article)
        for score in ("exact_match", "f1"):
            scores = 100 * table[score].to_numpy(float)
            if (scores > 0).sum() < FEWEST_SCORED:
                continue
            low, high = interval(scores, clusters)
            ends[f"{SECTION[str(split)]}/{score}"] = (max(0.0, low), min(100.0, high))
    return ends


def with_places(rows: Sequence[Mapping[str, Any]], questions: Any, split: str) -> list[dict[str, Any]]:
    """Add set, title, article and passage to the rows; article and passage are hashes, which need no texts."""
    return [
        {
            **row,
            "split": split,
            "title": question["title"],
            "article": short_key(group(question)),
            "passage": short_key(question["context"]),
        }
        for row, question in zip(rows, questions, strict=True)
    ]
