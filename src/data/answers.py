"""Which of a question's answers is trained on."""

from __future__ import annotations

from collections import Counter
from typing import Any

from src.data.records import NOT_FOUND


def trainable(record: dict[str, Any]) -> bool:
    """Whether there is something to learn from: no answer at all (v2.0), or one whose place is known."""
    starts = record["answers"]["answer_start"]
    return not starts or any(start != NOT_FOUND for start in starts)


def training_answer(answers: dict[str, list[Any]], choice: str) -> tuple[str, int] | None:
    """The (text, start) to train on, of several human answers.

    Args:
        answers: `text` and `answer_start` lists of one question; NOT_FOUND marks an answer without a place.
        choice: `first`; `majority`, the text given most often (the first of these on a tie); `shortest`.

    Returns:
        None where there is none: the question is unanswerable, or no answer has a known place.
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
