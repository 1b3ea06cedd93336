"""What every command does before anything else."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable
from typing import Any

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
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="replace")
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
    """Put in order what is printed: no character of it can fail, or steer the terminal (`harmless`).

    A character that a terminal or a log cannot show is replaced, rather than fail while a result is printed.

    Args:
        encoding: of the output from here on; None: the one that it has.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):  # a stream that another program has put there may lack it
            stream.reconfigure(encoding=encoding, errors="replace")
        if stream is not None and not isinstance(stream, Screen):
            setattr(sys, name, Screen(stream))


# Of a data set or a file: control characters but for line breaks and tabs. A colour is one with what belongs to it.
CONTROLS = re.compile(r"\x1b\[[\d;]*m|(?!\r\n)[\x00-\x08\x0b-\x1f\x7f-\x9f]")
PROGRESS = re.compile(r"\r|(?:\x1b\[A)+\Z")  # what tqdm writes to go back to the beginning of a bar, or to one above


def harmless(text: str) -> str:
    """The text without colours, and with other control characters shown as `\\x1b`: it cannot steer a terminal."""
    return CONTROLS.sub(lambda match: f"\\x{ord(match[0]):02x}" if len(match[0]) == 1 else "", text)


class Screen:
    """A text stream that writes what is `harmless`; rich, whose control characters are meant, gets `behind` it."""

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
    """The stream itself, where it is a `Screen`'s."""
    return stream.stream if isinstance(stream, Screen) else stream


def json_text(value: Any, indent: int | None = None) -> str:
    """A value as JSON to be printed: what steers a terminal is escaped, so that a program reads the same value."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)  # which escapes those below the space
    return re.sub(r"[\x7f-\x9f]", lambda match: f"\\u{ord(match[0]):04x}", text)
