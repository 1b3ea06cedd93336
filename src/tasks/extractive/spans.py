"""Turns logits into answers: the best spans over all windows of a question, computed with numpy.

All spans of up to `max_answer_length` tokens are considered, not only pairs of the best starts and ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from src.config import EvaluationConfig, UserError
from src.tasks.base import NO_PLACE, Answer, Span


def answer_questions(
    questions: Sequence[Mapping[str, Any]],
    windows: Any,
    start_logits: Sequence[np.ndarray],
    end_logits: Sequence[np.ndarray],
    config: EvaluationConfig,
    may_be_unanswerable: bool,
) -> list[Answer]:
    """Predict the answer of every question.

    Args:
        questions: with `id` and `context`.
        windows: in `WINDOW_SCHEMA` of `src.tasks.extractive.windows`, numpy format.
        start_logits, end_logits: for each window an array of shape (tokens,).
        config: `max_answer_length` in tokens, `n_best`, `null_threshold`.
        may_be_unanswerable: whether "no answer" is a candidate (SQuAD v2.0).

    Returns:
        One Answer for each question, in their order. A score is the sum of a start and an end logit, and is finite; a
        probability is a softmax over the n best.

    Raises:
        UserError: a logit is NaN, infinite, or so large that the sum of two is not finite.
    """
    candidates, null_scores = _candidates(questions, windows, start_logits, end_logits, config)
    answers = []
    for row, question in enumerate(questions):
        # Windows overlap, so the same characters may be a candidate of two windows.
        spans: dict[tuple[int, int], float] = {}
        for score, start, end in sorted(candidates[row], reverse=True)[: 2 * config.n_best]:
            spans.setdefault((start, end), score)
        ranked = [(score, start, end) for (start, end), score in spans.items()][: config.n_best]
        null_score = float(null_scores[row])
        no_answer = not ranked or (may_be_unanswerable and null_score - ranked[0][0] > config.null_threshold)
        if may_be_unanswerable or not ranked:
            ranked = sorted([*ranked, (null_score, NO_PLACE, NO_PLACE)], reverse=True)
        weights = np.exp(np.array([score for score, _, _ in ranked]) - max(score for score, _, _ in ranked))
        n_best = tuple(
            _span(question["context"], start, end, score, float(weight))
            for (score, start, end), weight in zip(ranked, weights / weights.sum(), strict=True)
        )
        best = next(span for span in n_best if (span.start == NO_PLACE) == no_answer)
        answers.append(Answer(question["id"], best, n_best, null_score))
    return answers


def _candidates(
    questions: Sequence[Mapping[str, Any]],
    windows: Any,
    start_logits: Sequence[np.ndarray],
    end_logits: Sequence[np.ndarray],
    config: EvaluationConfig,
) -> tuple[list[list[tuple[float, int, int]]], np.ndarray]:
    """The best spans of each question's windows as (score, start, end) in characters, and its null score."""
    candidates: list[list[tuple[float, int, int]]] = [[] for _ in questions]
    null_scores = np.full(len(questions), np.inf)
    names = ("question", "context_start", "char_start", "char_end")
    columns = zip(*(windows[name][:] for name in names), strict=True)
    current, visible = -1, np.zeros(1)
    for (row, first, char_start, char_end), starts, ends in zip(columns, start_logits, end_logits, strict=True):
        if row != current:
            current, visible = row, _visible(questions[row]["context"])
        if not np.isfinite(np.abs(starts).max() + np.abs(ends).max()):
            raise UserError(
                f"The model's logits for the question with id {questions[row]['id']} are not finite numbers: its "
                "training has diverged. Lower train.learning_rate, or choose hardware.precision=fp32."
            )
        null_scores[row] = min(null_scores[row], float(starts[0] + ends[0]))
        inside = slice(first, first + len(char_start))
        best = _best_spans(starts[inside], ends[inside], visible[char_start], visible[char_end], config)
        candidates[row] += [(score, int(char_start[i]), int(char_end[j])) for score, i, j in best]
    return candidates, null_scores


def _visible(text: str) -> np.ndarray:
    """The number of characters before each position of a text that are not white space, shape (characters + 1,)."""
    characters = np.frombuffer(text.encode("utf-32-le"), dtype="<U1")
    return np.concatenate([[0], np.cumsum(~np.strings.isspace(characters))])


def _span(context: str, start: int, end: int, score: float, probability: float) -> Span:
    if start == NO_PLACE:
        return Span("", start, end, score, probability)
    # In SentencePiece, the space before a word is part of its token.
    text = context[start:end]
    start, end = start + len(text) - len(text.lstrip()), end - len(text) + len(text.rstrip())
    return Span(context[start:end], start, end, score, probability)


def _best_spans(
    start: np.ndarray, end: np.ndarray, visible_before: np.ndarray, visible_after: np.ndarray, config: EvaluationConfig
) -> list[tuple[float, int, int]]:
    """The best spans of one window that are not white space only, the best first.

    Args:
        start, end: logits, shape (tokens,).
        visible_before, visible_after: see `_visible`, at each token's start and end; shape (tokens,).
        config: `max_answer_length` in tokens, `n_best`.

    Returns:
        (score, first token, last token) of each.
    """
    tokens = len(start)
    if tokens == 0:
        return []
    longest = min(config.max_answer_length, tokens)
    # scores[i, k] is the score of the span from token i to i + k; spans beyond the end of the window get -inf.
    padded = np.concatenate([end, np.full(longest - 1, -np.inf, dtype=end.dtype)])
    scores = start[:, None] + np.lib.stride_tricks.sliding_window_view(padded, longest)
    visible = np.lib.stride_tricks.sliding_window_view(np.pad(visible_after, (0, longest - 1)), longest)
    scores = np.where(visible > visible_before[:, None], scores, -np.inf)
    flat = scores.ravel()
    count = min(config.n_best, flat.size)
    best = np.argpartition(-flat, count - 1)[:count]
    best = best[np.argsort(-flat[best], kind="stable")]
    return [
        (float(flat[at]), int(at // longest), int(at // longest + at % longest)) for at in best if np.isfinite(flat[at])
    ]


def mean_loss(windows: Any, start_logits: Sequence[np.ndarray], end_logits: Sequence[np.ndarray]) -> float | None:
    """The mean of start and end cross entropy over the labelled windows, as in training; in nats.

    None if no window has a label.
    """
    losses = []
    columns = zip(*(windows[name][:] for name in ("start", "end", "labelled")), strict=True)
    for (start, end, labelled), start_row, end_row in zip(columns, start_logits, end_logits, strict=True):
        if labelled:
            losses.append((_cross_entropy(start_row, start) + _cross_entropy(end_row, end)) / 2)
    return float(np.mean(losses)) if losses else None


def _cross_entropy(logits: np.ndarray, label: int) -> float:
    shifted = logits.astype(np.float64) - logits.max()
    return float(np.log(np.exp(shifted).sum()) - shifted[label])
