"""What every command does before anything else."""

from __future__ import annotations

import sys

from src.arguments import written_out
from src.compose import quiet_libraries
from src.credentials import without_secrets_in_arguments


def begin() -> None:
    """Make output safe for any terminal, take passwords out of the command line, and quieten the libraries.

    Short forms of keys are written out in `sys.argv`: `tracking.uri=` for `uri=`, which may hold a password.

    Raises:
        UsageError: a short form that was hardly meant.
    """
    tolerate_any_encoding()
    sys.argv[1:] = without_secrets_in_arguments(written_out(sys.argv[1:]))
    quiet_libraries()


def tolerate_any_encoding(encoding: str | None = None) -> None:
    """Replace the characters that a terminal or a log cannot show, rather than fail while a result is printed.

    Args:
        encoding: of the output from here on; None: the one that it has.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a stream that another program has put there may lack it
            stream.reconfigure(encoding=encoding, errors="replace")
