"""Actions that each process of a run does by itself, with errors that all processes raise together.

If only one process raised an error, the others would wait for it at their next exchange. With one process nothing
changes.
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
    """Return `action()` of this process after it has succeeded in all processes, which must all call this function.

    Args:
        action: to do in each process, without an exchange between them.
        mistakes: the errors that it is expected to raise.

    Raises:
        UserError: it failed in another process. If it failed in this one, the original error is raised.
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
    """Return `action()`, which the main process calls before the others, so that they can use what it cached.

    Raises:
        UserError: it failed in another process.
    """
    first = PartialState().is_main_process
    value = together(lambda: action() if first else None)
    others = together(lambda: None if first else action())
    result = value if first else others
    assert result is not None
    return result
