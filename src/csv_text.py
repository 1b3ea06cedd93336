"""Writes tables as CSV text that contains no formulas for a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Any

from src.harmless import harmless

FORMULA = tuple("=+-@\t\r\n＝＋－＠")  # the first characters of a formula: `=cmd|...`


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Rows of values as CSV; a text that would be a formula gets an apostrophe before it, a number does not."""
    text = io.StringIO()
    csv.writer(text).writerows(map(_no_formula, row) for row in rows)
    return text.getvalue()


def _no_formula(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    value = harmless(value)
    if not value.lstrip(" ").startswith(FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value
