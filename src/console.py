"""What every command does before anything else."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

from src.arguments import UsageError, written_out
from src.compose import quiet_libraries
from src.credentials import without_secrets_in_arguments


def begin() -> None:
    """Make output safe for any terminal, take passwords out of the command line, and quieten the libraries.

    Short forms of keys are written out in `sys.argv`: `tracking.uri=` for `uri=`, which may hold a password.

    Raises:
        UsageError: an argument that is not text, or a short form that was hardly meant.
    """
    tolerate_any_encoding()
    refuse_undecodable(sys.argv[1:])
    sys.argv[1:] = without_secrets_in_arguments(written_out(sys.argv[1:]))
    quiet_libraries()


def refuse_undecodable(arguments: Iterable[str]) -> None:
    """Look for bytes that are not text: no tokenizer and no store takes them.

    Raises:
        UsageError: an argument holds some.
    """
    for argument in arguments:
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError:
            shown = os.fsencode(argument).decode("utf-8", errors="backslashreplace")
            raise UsageError(
                f"{shown} holds bytes that are not {sys.getfilesystemencoding().upper()} text (\\x..); type it again, "
                "or rename the file that it names."
            ) from None


def tolerate_any_encoding(encoding: str | None = None) -> None:
    """Replace the characters that a terminal or a log cannot show, rather than fail while a result is printed.

    Args:
        encoding: of the output from here on; None: the one that it has.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a stream that another program has put there may lack it
            stream.reconfigure(encoding=encoding, errors="replace")
