"""Tokenises questions for all tasks. Examples are made once and cached by their content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute
from datasets import Dataset, Features

from src.config import ModelConfig, UserError
from src.data.cache import cached


def need_fast(tokenizer: Any, model: ModelConfig) -> None:
    """Refuse a slow tokenizer, which does not provide character offsets of tokens.

    Raises:
        UserError: the tokenizer is slow.
    """
    if not tokenizer.is_fast:
        raise UserError(
            f"The tokenizer of {model.path or model.tokenizer} is a slow one ({type(tokenizer).__name__}) and gives no "
            "character offsets; answers cannot be located without them. Use a model with a tokenizer.json."
        )


def tokenised(
    questions: Dataset,
    tokenise: Callable[..., dict[str, list[Any]]],
    arguments: Mapping[str, Any],
    schema: Features,
    name: str,
) -> tuple[Dataset, list[str]]:
    """Tokenise questions, or take their examples from the cache.

    Args:
        questions: in the schema of `src.data.sources`.
        tokenise: makes the columns of `schema` from a batch of questions, their rows and `arguments`.
        arguments: of `tokenise`, by name.
        schema: of the examples.
        name: of the cached file; it ends with the `content_key` of everything that the examples depend on.

    Returns:
        The examples in numpy format, and notes for the user.
    """

    def write(file: Path) -> None:
        questions.map(
            tokenise,
            batched=True,
            with_indices=True,
            remove_columns=questions.column_names,
            features=schema,
            fn_kwargs=dict(arguments),
            cache_file_name=str(file),
            new_fingerprint=name.rpartition("-")[2],
            desc=None,
        )

    examples, notes = cached(f"{name}.arrow", write)
    return examples.with_format("numpy"), notes


def chosen(examples: Dataset, rows: np.ndarray, questions: np.ndarray) -> Dataset:
    """Copy some examples into memory; `questions` holds the new rows of their questions."""
    table: pa.Table = examples.with_format("arrow").select(rows)[:]
    place = table.column_names.index("question")
    table = table.set_column(place, table.schema.field("question"), pa.array(questions, pa.int32()))
    return Dataset(table).with_format("numpy")


def highest_token(examples: Dataset, *columns: str) -> int:
    """The highest id in some columns of token ids; 0 if they are empty."""
    table: pa.Table = examples.with_format("arrow")[:]
    return max(compute.max(compute.list_flatten(table[column])).as_py() or 0 for column in columns)


def content_key(questions: Dataset, tokenizer: Any, facts: Sequence[Any]) -> str:
    """A hash of everything that determines how a tokenizer encodes some questions.

    Args:
        questions: in the schema of `src.data.sources`.
        tokenizer: a fast tokenizer.
        facts: other values that the result depends on.
    """
    digest = hashlib.sha256()
    digest.update(json.dumps(facts).encode())
    tokenizer.backend_tokenizer.no_truncation()  # reset the state of the last call; each call sets its own
    tokenizer.backend_tokenizer.no_padding()
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    for column in ("question", "context", "answers"):
        for value in questions[column][:]:
            digest.update(json.dumps(value).encode())
    return digest.hexdigest()[:32]
