"""The metrics of a set of predicted answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from src.evaluation.squad_metric import SquadMetric, exact_match, f1
from src.tasks.base import NO_PLACE, Answer


def score(questions: Sequence[Mapping[str, Any]], answers: Sequence[Answer]) -> dict[str, float]:
    """Compute the metrics of a whole set of questions, each in percent.

    Args:
        questions: with `id` and `answers`, in the schema of src.data.sources.
        answers: one for each question, in the same order.

    Returns:
        `exact_match` and `f1`. Where predictions are spans, also `start_accuracy` and `end_accuracy`: how often the
        predicted span begins or ends at the character where a human answer does, over the questions whose answer has
        a known position. Where some questions are unanswerable, also `has_answer_f1`, `no_answer_f1` (the share
        correctly left unanswered), and `best_f1` with `best_null_threshold`, the threshold that would have scored
        best on this very set.
    """
    metrics: dict[str, float] = SquadMetric(keep_in_memory=True).compute(
        predictions=[{"id": answer.id, "prediction_text": answer.best.text} for answer in answers],
        references=[{"id": question["id"], "answers": question["answers"]} for question in questions],
    )
    starts, ends = [], []
    for question, answer in zip(questions, answers, strict=True):
        gold = question["answers"]
        places = [(s, s + len(t)) for t, s in zip(gold["text"], gold["answer_start"], strict=True) if s >= 0]
        if places:
            starts.append(answer.best.start in {start for start, _ in places})
            ends.append(answer.best.end in {end for _, end in places})
    pointed = any(span.start != NO_PLACE for answer in answers for span in (answer.best, *answer.n_best))
    if starts and pointed:
        metrics |= {"start_accuracy": 100 * float(np.mean(starts)), "end_accuracy": 100 * float(np.mean(ends))}
    if any(not question["answers"]["text"] for question in questions):
        metrics |= _unanswerable_metrics(questions, answers)
    return metrics


def per_question(question: Mapping[str, Any], answer: Answer) -> tuple[float, float]:
    """Return exact match and F1 of one question, each from 0.0 to 1.0."""
    texts = question["answers"]["text"]
    return exact_match(answer.best.text, texts), f1(answer.best.text, texts)


def _unanswerable_metrics(questions: Sequence[Mapping[str, Any]], answers: Sequence[Answer]) -> dict[str, float]:
    has_answer = np.array([bool(question["answers"]["text"]) for question in questions])
    scores = np.array([per_question(*pair)[1] for pair in zip(questions, answers, strict=True)])
    spans = [next((span for span in answer.n_best if span.text), None) for answer in answers]
    texts = [span.text if span else "" for span in spans]
    answered = np.array(
        [f1(text, question["answers"]["text"]) for question, text in zip(questions, texts, strict=True)]
    )
    margin = np.array(
        [answer.null_score - (span.score if span else -np.inf) for answer, span in zip(answers, spans, strict=True)]
    )
    # Raising the threshold past a question's margin answers that question: its F1 changes from that of no answer to
    # that of its best span. One pass over the sorted margins therefore finds the best of all thresholds.
    order = np.argsort(margin, kind="stable")
    no_answer = (~has_answer).astype(float)
    totals = no_answer.sum() + np.concatenate([[0.0], np.cumsum((answered - no_answer)[order])])
    best = int(totals.argmax())
    metrics = {
        "no_answer_f1": 100 * float(scores[~has_answer].mean()),
        "best_f1": 100 * float(totals[best]) / len(questions),
        "best_null_threshold": float(margin[order[best - 1]]) if best else float(margin.min()) - 1.0,
    }
    if has_answer.any():
        metrics["has_answer_f1"] = 100 * float(scores[has_answer].mean())
    return metrics
