"""The errors of loading a model: one sentence that says what failed, why, and what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

from src.config import UserError
from src.hub import hub_problem

LONGEST_REASON = 200  # characters
FILES = "config.json, model.safetensors and tokenizer.json"
COPY = f"copy its files again: {FILES}"


@contextmanager
def explained(what: str, place: str | None = None, values: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Turn the errors of a call of transformers into one sentence.

    Args:
        what: the object that is loaded or made, for the message.
        place: that it is loaded from.
        values: of `model.config`, with which it is made.
    """
    try:
        yield
    except Exception as error:  # transformers raises various types for damaged files and unsuitable values
        if not values or isinstance(error, OSError) or "trust_remote_code" in str(error):
            raise not_loaded(what, error, place) from error
        given = ", ".join(f"model.config.{key}={value}" for key, value in values.items())
        raise UserError(f"{what} cannot be made with {given} ({_reason(error)}).") from error


def not_loaded(what: str, error: Exception, place: str | None = None) -> UserError:
    """The error for a model that cannot be loaded from `place`, given the error of a library."""
    if "trust_remote_code" in str(error):
        return UserError(
            f"{what} could not be loaded: they need code that comes with them, which is not run unless you trust it "
            "and say so (model.trust_remote_code=true for src.train, trust_remote_code=true for src.predict)."
        )
    if refused := _refused(error):
        return UserError(f"{what} could not be loaded: {refused}, or choose another model.")
    problem = hub_problem(place) if place and isinstance(error, OSError) else None
    reason = _reason(error) if problem is None else f"it is not in the cache, and {problem}"
    failed = f"{what} could not be loaded ({reason}). "
    if place and Path(place).is_dir():
        return UserError(f"{failed}{_damage(Path(place))}; {COPY}.")
    return UserError(f"{failed}Without a hub: model=minilm, or model.path=FOLDER with {FILES}.")


def _damage(folder: Path) -> str:
    """Which file in a model's folder is damaged, as far as it can be determined."""
    for file in sorted(folder.glob("*.json")):
        try:
            valid = isinstance(json.loads(file.read_text(encoding="utf-8")), dict)
        except (OSError, ValueError, RecursionError):
            valid = False
        if not valid:
            return f"{file.name} is not a JSON object"
    return "A file of the folder is missing or damaged"


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:LONGEST_REASON]}{'...' if len(text) > LONGEST_REASON else ''}"


def _refused(error: BaseException | None) -> str | None:
    """What to do if the hub refused access to a model; None for another error."""
    log_in = "log in with `hf auth login`"
    while error is not None:
        status = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response else None
        if isinstance(error, GatedRepoError) or status == 403:
            return f"its authors ask for consent; accept the licence on its page at {constants.ENDPOINT} and {log_in}"
        if status == 401:
            return f"{constants.ENDPOINT} has no such model, or it is private; check the name, {log_in}"
        error = error.__cause__ or error.__context__
    return None
