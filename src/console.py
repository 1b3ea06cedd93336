"""Prepares input and output of all commands, and makes printed text harmless."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from typing import Any

from src.arguments import UsageError, written_out
from src.compose import quiet_libraries
from src.credentials import without_secrets_in_arguments
from src.harmless import harmless


def begin() -> None:
    """Make output safe for any terminal, remove passwords from the command line, and silence the libraries.

    Every command calls this first. It replaces short forms in `sys.argv` by their keys: `uri=`, which may contain a
    password, by `tracking.uri=`.

    Raises:
        UsageError: an argument is not text, or a short form is ambiguous.
    """
    tolerate_any_encoding()
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="replace")
    refuse_undecodable(sys.argv[1:])
    sys.argv[1:] = without_secrets_in_arguments(written_out(sys.argv[1:]))
    quiet_libraries()


def refuse_undecodable(arguments: Iterable[str]) -> None:
    """Refuse arguments with bytes that are not text, since no tokenizer and no store accepts them.

    Raises:
        UsageError: an argument contains such bytes.
    """
    for argument in arguments:
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError:
            shown = os.fsencode(argument).decode("utf-8", errors="backslashreplace")
            raise UsageError(
                f"{shown} has bytes that are not {sys.getfilesystemencoding().upper()} text (\\x..); type it again, "
                "or rename the file that it names."
            ) from None


def tolerate_any_encoding(encoding: str | None = None) -> None:
    """Make sure that printing cannot fail and cannot control the terminal (`harmless`).

    A character that the encoding of a terminal or a log does not have is replaced.

    Args:
        encoding: the encoding of the output from now on; None: the present one.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):  # streams that another program has set may lack it
            stream.reconfigure(encoding=encoding, errors="replace")
        if stream is not None and not isinstance(stream, Screen):
            setattr(sys, name, Screen(stream))


PROGRESS = re.compile(r"\r|(?:\x1b\[A)+\Z")  # tqdm's sequences that return to the start of a bar, or to the bar above


class Screen:
    """A text stream that makes its text `harmless`; rich, which needs control characters, uses the stream `behind`."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        meant = PROGRESS.match(text)
        self.stream.write(meant[0] + harmless(text[meant.end() :]) if meant else harmless(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def behind(stream: Any) -> Any:
    """The stream that a `Screen` wraps; any other stream is returned as it is."""
    return stream.stream if isinstance(stream, Screen) else stream
