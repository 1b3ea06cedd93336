"""Chooses the answer of a question to train on."""

from __future__ import annotations

from collections import Counter
from typing import Any

from src.data.records import NOT_FOUND


def trainable(record: dict[str, Any]) -> bool:
    """Whether a question can be trained on: it has no answer at all (v2.0), or one with a known position."""
    starts = record["answers"]["answer_start"]
    return not starts or any(start != NOT_FOUND for start in starts)


def training_answer(answers: dict[str, list[Any]], choice: str) -> tuple[str, int] | None:
    """Choose one of several human answers to train on.

    Args:
        answers: the lists `text` and `answer_start` of one question; NOT_FOUND marks an answer without a position.
        choice: `first`; `majority`, the most frequent text (the first of these on a tie); `shortest`.

    Returns:
        Text and start; None if the question is unanswerable, or no answer has a known position.
    """
    placed = [
        (text, start)
        for text, start in zip(answers["text"], answers["answer_start"], strict=True)
        if start != NOT_FOUND
    ]
    if not placed:
        return None
    if choice == "majority":
        counts = Counter(text for text, _ in placed)
        return max(placed, key=lambda answer: counts[answer[0]])
    if choice == "shortest":
        return min(placed, key=lambda answer: len(answer[0]))
    return placed[0]
