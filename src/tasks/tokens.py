"""What both tasks need of a tokenizer: that it is a fast one, and a key for what it makes of questions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from datasets import Dataset

from src.config import ModelConfig, UserError


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
