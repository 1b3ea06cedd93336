"""Helpers for wording that the parts of a report share."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

HARD_SPACE = "\u00a0"


def count(number: int, what: str) -> str:
    """A number with a noun: `1 run`, `2 runs`, `1,660 test questions`."""
    return f"{number:,} {what}{'s' if number != 1 else ''}"


def listed(parts: Sequence[str]) -> str:
    """An enumeration: `a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def share(value: float) -> str:
    """A ratio in a sentence: `2.9 % of`, `41 % of`, `120 % of`, `3.1 times`."""
    if value >= 2:
        return f"{value:.1f} times"
    return f"{100 * value:.0f} % of" if value >= 0.095 else f"{100 * value:.2g} % of"


def ratio(value: float) -> str:
    """A ratio in a table: `0.71x`, `0.029x`, `12x`; empty where it is 1.00."""
    text = f"{value:.2g}x" if value < 0.1 else f"{value:.2f}x" if value < 10 else f"{value:.0f}x"
    return "" if text == "1.00x" else text


def duration(seconds: float) -> str:
    """A duration: `40 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"


def above_zero(text: str | None) -> float | None:
    """The number in a parameter or a tag; None if there is none above 0."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 < value < math.inf else None


def unbroken(text: str) -> str:
    """The text with non-breaking spaces between numbers and their units."""
    return re.sub(r"(?<=\d) (?=%|(?:F1|MB|GiB|s|min)\b)", HARD_SPACE, text)
