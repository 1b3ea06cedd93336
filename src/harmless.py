"""Escapes texts and names of data sets and users for the terminal, Markdown and JSON."""

from __future__ import annotations

import json
import re
from typing import Any

# Colour sequences, control characters other than line breaks and tabs, and characters that change the direction of
# writing, with which a name can be made to look like another.
TURNING = "\u202a-\u202e\u2066-\u2069"
CONTROLS = re.compile(rf"\x1b\[[\d;]*m|(?!\r\n)[\x00-\x08\x0b-\x1f\x7f-\x9f{TURNING}]")
# Markup of Markdown: code, emphasis, links, pictures, cells of a table, HTML and its character references.
MARKUP = re.compile(r"[\\`*|]|\](?=[(\[:])|(?<![^\W_])_|_(?![^\W_])|<|&(?=#?\w+;)")
OF_HTML = {"<": "&lt;", "&": "&amp;"}


def harmless(text: str) -> str:
    """The text without colours, and with other control characters as `\\x1b`, so that it cannot control a terminal."""
    return CONTROLS.sub(lambda match: _shown(match[0]) if len(match[0]) == 1 else "", text)


def _shown(character: str) -> str:
    return f"\\x{ord(character):02x}" if ord(character) < 256 else f"\\u{ord(character):04x}"


def in_markdown(text: str) -> str:
    """The text as one line of Markdown that displays it unchanged."""
    line = " ".join(harmless(text).split())
    return MARKUP.sub(lambda match: OF_HTML.get(match[0], f"\\{match[0]}"), line)


def json_text(value: Any, **options: Any) -> str:
    """A value as JSON: control characters are escaped, so that a program still reads the same value.

    Args:
        value: of JSON's types.
        options: `indent` and others of json.dumps.
    """
    text = json.dumps(value, ensure_ascii=False, **options)  # this escapes the characters below the space
    return re.sub(rf"[\x7f-\x9f{TURNING}]", lambda match: f"\\u{ord(match[0]):04x}", text)
