"""Tokenises questions into windows, with the answers as token positions.

A passage that is longer than a window is cut into windows that overlap by `doc_stride` tokens and together cover it.
Windows are made once: they are cached by the content of everything that they depend on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from datasets import Dataset, Features, List, Value

from src.config import ModelConfig
from src.data.answers import training_answer
from src.data.notes import listed
from src.data.shorten import shorten_questions
from src.tasks.examples import content_key, need_fast, tokenised

WINDOW_SCHEMA = Features(
    {
        "question": Value("int32"),  # row of the question in its data set
        "length": Value("int32"),  # tokens
        "input_ids": List(Value("int32")),
        "token_type_ids": List(Value("int8")),  # empty if the model does not use them
        "context_start": Value("int32"),  # the first context token; context tokens are contiguous
        "char_start": List(Value("int32")),  # the characters of each context token in the passage
        "char_end": List(Value("int32")),
        "start": Value("int32"),  # the gold span, first and last token; both 0 ([CLS]) if it is not in the window
        "end": Value("int32"),
        "exact": Value("bool"),  # false: the answer begins or ends within a token; the span is the smallest around it
        "labelled": Value("bool"),  # false: the answers have no known position, or no token stands for them
    }
)
CACHE_VERSION = 4  # part of the cache key; increase it when a change below results in different windows


def make_windows(questions: Dataset, tokenizer: Any, model: ModelConfig, answer: str) -> tuple[Dataset, list[str]]:
    """Tokenise questions into windows, or take them from the cache.

    Args:
        questions: in the schema of `src.data.sources`.
        tokenizer: a fast tokenizer.
        model: for `max_length` and `doc_stride`, in tokens.
        answer: which of several answers is labelled; see `training_answer`.

    Returns:
        Windows in `WINDOW_SCHEMA`, and notes for the user.

    Raises:
        UserError: the tokenizer gives no offsets.
    """
    need_fast(tokenizer, model)
    questions, notes = shorten_questions(questions, tokenizer, model)
    # Settings of a tokenizer that are not part of its backend; the input names decide on token_type_ids.
    returned = (tokenizer.model_input_names, tokenizer.truncation_side, tokenizer.split_special_tokens)
    facts = (CACHE_VERSION, model.max_length, model.doc_stride, answer, type(tokenizer).__name__, *returned)
    name = f"windows-{content_key(questions, tokenizer, facts)}"
    arguments = {"tokenizer": tokenizer, "model": model, "answer": answer}
    windows, cache_notes = tokenised(questions, _tokenize, arguments, WINDOW_SCHEMA, name)
    return windows, notes + cache_notes + _label_notes(windows, questions, answer)


def labelled_windows(windows: Dataset) -> Dataset:
    """The windows with a label, which can be trained on."""
    labelled = np.flatnonzero(windows["labelled"][:])
    return windows if len(labelled) == len(windows) else windows.select(labelled)


def _label_notes(windows: Dataset, questions: Dataset, answer: str) -> list[str]:
    """Notes on labels that are not exact: answers within a token, and answers that the tokenizer drops."""

    def rows_where(chosen: np.ndarray) -> list[int]:
        return sorted(set(windows["question"][:][chosen].tolist()))

    def which(rows: list[int]) -> str:
        return listed([f"id {questions[row]['id']}" for row in rows])

    notes = []
    if inexact := rows_where(~windows["exact"][:]):
        notes.append(
            f"{len(inexact):,} of {len(questions):,} answers begin or end inside a token ({which(inexact)}); the "
            "smallest span around them is the label."
        )
    unlabelled = rows_where(~windows["labelled"][:])
    if lost := [row for row in unlabelled if training_answer(questions[row]["answers"], answer) is not None]:
        notes.append(
            f"{len(lost):,} of {len(questions):,} answers consist of characters that the tokenizer drops "
            f"({which(lost)}); they are scored but not trained on."
        )
    return notes


def _kept(answer: tuple[str, int], offsets: np.ndarray) -> tuple[int, int] | None:
    """The start and end characters of an answer, without characters at either end that the tokenizer drops.

    Args:
        answer: text and start in the passage.
        offsets: of the passage's tokens, shape (tokens, 2).

    Returns:
        None if no token stands for any part of the answer.
    """
    text, first = answer
    first += len(text) - len(text.lstrip())
    end = first + len(text.strip())
    starts, ends = offsets[:, 0], offsets[:, 1]
    touching = offsets[(ends > first) & (starts < end) & (starts < ends)]
    if not len(touching):
        return None
    return max(first, int(touching[:, 0].min())), min(end, int(touching[:, 1].max()))


def _tokenize(
    batch: dict[str, list[Any]], indices: list[int], tokenizer: Any, model: ModelConfig, answer: str
) -> dict[str, list[Any]]:
    """Tokenise one batch of questions into windows, in WINDOW_SCHEMA."""
    encoded = tokenizer(
        batch["question"],
        batch["context"],
        truncation="only_second",
        max_length=model.max_length,
        stride=model.doc_stride,
        padding=False,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_attention_mask=False,
    )
    rows = encoded["overflow_to_sample_mapping"]
    in_context = [np.array([part == 1 for part in encoded.sequence_ids(w)]) for w in range(len(rows))]
    offsets = [
        np.array(pairs, dtype=np.int32).reshape(-1, 2)[inside]
        for pairs, inside in zip(encoded["offset_mapping"], in_context, strict=True)
    ]
    of_row: dict[int, list[np.ndarray]] = {}
    for row, pairs in zip(rows, offsets, strict=True):
        of_row.setdefault(row, []).append(pairs)
    golds = {row: training_answer(batch["answers"][row], answer) for row in of_row}
    places = {row: gold and _kept(gold, np.concatenate(of_row[row])) for row, gold in golds.items()}

    columns: dict[str, list[Any]] = {name: [] for name in WINDOW_SCHEMA}
    for w, row in enumerate(rows):
        context_start = int(in_context[w].argmax())
        char_start, char_end = offsets[w][:, 0], offsets[w][:, 1]
        place = places[row]
        start = end = 0
        exact = True
        if place is not None and len(offsets[w]):
            first_char, last_char = place
            if char_start[0] <= first_char and last_char <= char_end[-1]:
                # A character may be several tokens (bytes): take the first and the last that overlap the answer.
                first = int(np.searchsorted(char_end, first_char, side="right"))
                last = int(np.searchsorted(char_start, last_char, side="left")) - 1
                start, end = context_start + first, context_start + last
                context = batch["context"][row]
                exact = context[char_start[first] : char_end[last]].strip() == context[first_char:last_char]
        columns["question"].append(indices[row])
        columns["length"].append(len(encoded["input_ids"][w]))
        columns["input_ids"].append(encoded["input_ids"][w])
        columns["token_type_ids"].append(encoded["token_type_ids"][w] if "token_type_ids" in encoded else [])
        columns["context_start"].append(context_start)
        columns["char_start"].append(char_start)
        columns["char_end"].append(char_end)
        columns["start"].append(start)
        columns["end"].append(end)
        columns["exact"].append(exact)
        columns["labelled"].append(place is not None or not batch["answers"][row]["text"])
    return columns
