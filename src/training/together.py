"""What the processes of one run do by themselves, and how they end together when it fails in one of them.

A process that raises alone leaves the others waiting for it at their next exchange. With one process nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from accelerate import PartialState
from accelerate.utils import gather_object

from src.config import UserError

Value = TypeVar("Value")
MISTAKES = (UserError, OSError)


def together(action: Callable[[], Value], mistakes: tuple[type[Exception], ...] = MISTAKES) -> Value:
    """The value of `action()` in this process, after it has succeeded in every process; all must call it.

    Args:
        action: done in each process, without an exchange between them.
        mistakes: the errors that are expected of it.

    Raises:
        UserError: it failed in another process. Where it failed here its own error is raised.
    """
    state = PartialState()
    if state.num_processes == 1:
        return action()
    failure: Exception | None = None
    try:
        value = action()
    except mistakes as error:
        failure = error
    failed = [text for text in gather_object([failure and f"Process {state.process_index}: {failure}"]) if text]
    if failure is not None:
        raise failure
    if failed:
        raise UserError(failed[0])
    return value


def main_process_first(action: Callable[[], Value]) -> Value:
    """The value of `action()`, called in the main process before the others: they find what it has put into a cache.

    Raises:
        UserError: it failed in another process.
    """
    first = PartialState().is_main_process
    value = together(lambda: action() if first else None)
    others = together(lambda: None if first else action())
    result = value if first else others
    assert result is not None
    return result
