"""Truncates questions that would leave no room for a passage in the same window."""

from __future__ import annotations

import unicodedata
from typing import Any

from datasets import Dataset

from src.config import ModelConfig
from src.data.notes import listed


def shorten_questions(
    questions: Dataset, tokenizer: Any, model: ModelConfig, reserved: int | None = None
) -> tuple[Dataset, list[str]]:
    """Truncate questions that would leave no room for a passage in the same window.

    Args:
        questions: in the schema of `src.data.sources`.
        tokenizer: a fast tokenizer.
        model: for `max_length` and `doc_stride`, in tokens.
        reserved: tokens of a window that are available to neither question nor passage; None: the special tokens.

    Returns:
        The questions, each of at most max_length - doc_stride - 1 tokens minus the reserved ones, and a note if any was
        truncated.
    """
    if reserved is None:
        reserved = tokenizer.num_special_tokens_to_add(pair=True)
    limit = model.max_length - model.doc_stride - reserved - 1

    def offsets_of(text: str) -> list[tuple[int, int]]:
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return encoded["offset_mapping"]

    texts: list[str] = questions["question"][:]
    shortened: dict[int, str] = {}
    for i, text in enumerate(texts):
        # A token stands for at least one byte after normalisation, which may expand a character (U+FDFA becomes 18).
        if len(unicodedata.normalize("NFKD", text).encode()) < limit:
            continue
        offsets, end = offsets_of(text), len(text)
        while len(offsets) > limit:
            # The shorter text may have more tokens: the limit can fall within a character, or prevent a merge.
            end = min(end - 1, offsets[limit - 1][1])
            shortened[i] = text[:end]
            offsets = offsets_of(shortened[i])
    if not shortened:
        return questions, []
    which = listed([f"id {questions[i]['id']}" for i in shortened])
    note = (
        f"{len(shortened):,} of {len(questions):,} questions are longer than model.max_length - model.doc_stride "
        f"allows ({which}); they are cut to {limit} tokens."
    )
    new_texts = [shortened.get(i, text) for i, text in enumerate(texts)]
    return questions.remove_columns("question").add_column("question", new_texts), [note]
