"""Questions as tokenised examples: what the tasks share. They are made once and kept in the cache, by their content."""

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
    """Refuse a tokenizer that does not tell which characters a token stands for.

    Raises:
        UserError: it is a slow one.
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
    """The examples of questions, made or taken from the cache.

    Args:
        questions: in the schema of `src.data.sources`.
        tokenise: makes the columns of `schema` from a batch of questions, their rows and `arguments`.
        arguments: of `tokenise`, by name.
        schema: of the examples.
        name: what the cached file is called; it ends in the `content_key` of all that the examples depend on.

    Returns:
        The examples in numpy format, and notes for the person at the terminal.
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
    """Some examples, in memory; `questions` are the rows of their questions from now on."""
    table: pa.Table = examples.with_format("arrow").select(rows)[:]
    place = table.column_names.index("question")
    table = table.set_column(place, table.schema.field("question"), pa.array(questions, pa.int32()))
    return Dataset(table).with_format("numpy")


def highest_token(examples: Dataset, *columns: str) -> int:
    """The highest number in some columns of token ids; 0 where there are none."""
    table: pa.Table = examples.with_format("arrow")[:]
    return max(compute.max(compute.list_flatten(table[column])).as_py() or 0 for column in columns)


def content_key(questions: Dataset, tokenizer: Any, facts: Sequence[Any]) -> str:
    """A name for what a tokenizer makes of questions: other content, another name.

    Args:
        questions: in the schema of `src.data.sources`.
        tokenizer: a fast one.
        facts: whatever else it depends on, as plain values.
    """
    digest = hashlib.sha256()
    digest.update(json.dumps(facts).encode())
    tokenizer.backend_tokenizer.no_truncation()  # whatever the last call left there; each call sets its own
    tokenizer.backend_tokenizer.no_padding()
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    for column in ("question", "context", "answers"):
        for value in questions[column][:]:
            digest.update(json.dumps(value).encode())
    return digest.hexdigest()[:32]
