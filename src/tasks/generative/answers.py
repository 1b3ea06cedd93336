"""Turns predictions into answers: the best of the texts that the model generated for the windows of a question."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from src.config import EvaluationConfig, UserError
from src.tasks.base import NO_PLACE, Answer, Questions, Span
from src.tasks.generative.decode import Candidate, Prediction

NO_ANSWER = "unanswerable"  # the text that the model generates if the passage contains no answer
NOTHING = Candidate("", 0.0, 1)  # the null answer if nothing was generated and "no answer" was not scored


def answer_questions(
    questions: Questions,
    rows: np.ndarray,
    predictions: Sequence[Prediction],
    limits: EvaluationConfig,
    may_be_unanswerable: bool,
) -> list[Answer]:
    """Choose the answer of every question.

    Args:
        questions: with `id`.
        rows: the question of each prediction, shape (predictions,).
        predictions: of every prompt.
        limits: `n_best`, `null_threshold`.
        may_be_unanswerable: whether "no answer" is a candidate (SQuAD v2.0).

    Returns:
        One Answer for each question, in their order. The candidates are the texts generated for the question's windows
        by greedy decoding. A score is the mean log-probability of the tokens, a probability that of the whole text.

    Raises:
        UserError: a score is not a finite number.
    """
    of_question: list[list[Prediction]] = [[] for _ in questions]
    for row, prediction in zip(rows.tolist(), predictions, strict=True):
        of_question[row].append(prediction)
    answers = []
    for question, written in zip(questions, of_question, strict=True):
        if not all(math.isfinite(prediction.written.score) for prediction in written):
            raise UserError(
                f"The model's logits for the question with id {question['id']} are not finite numbers: its training "
                "has diverged. Lower train.learning_rate, or choose hardware.precision=fp32."
            )
        answers.append(_choose(question["id"], written, limits, may_be_unanswerable))
    return answers


def _choose(id: str, predictions: Sequence[Prediction], limits: EvaluationConfig, may_be_unanswerable: bool) -> Answer:
    """Choose the best of the texts that were generated for the windows of a question."""
    texts: dict[str, Candidate] = {}
    for each in sorted((prediction.written for prediction in predictions), key=lambda written: -written.score):
        if each.text and not (may_be_unanswerable and each.text.lower().strip(".") == NO_ANSWER):
            texts.setdefault(each.text, each)
    spans = [_span(each) for each in texts.values()][: limits.n_best]
    # As for spans, the lowest null score counts: a window with the answer has a low one.
    null_answers = [prediction.null_answer for prediction in predictions if prediction.null_answer is not None]
    null_span = _span(min(null_answers or [NOTHING], key=lambda candidate: candidate.score))
    no_answer = not spans or (may_be_unanswerable and null_span.score - spans[0].score > limits.null_threshold)
    n_best = [*spans, null_span] if may_be_unanswerable or not spans else spans
    best = null_span if no_answer else spans[0]
    return Answer(id, best, tuple(sorted(n_best, key=lambda span: -span.score)), null_span.score)


def _span(each: Candidate) -> Span:
    return Span(each.text, NO_PLACE, NO_PLACE, each.score, math.exp(each.log_probability))
