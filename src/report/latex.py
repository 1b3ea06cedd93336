"""A comparison as a LaTeX table (package booktabs), one row for each method."""

from __future__ import annotations

import re

from src.harmless import harmless
from src.report.comparison import Comparison
from src.report.findings import basis_text
from src.report.tables import NOTHING, overview
from src.report.verdict import protocol

ESCAPED = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    NOTHING: "--",
}


def as_latex(comparison: Comparison) -> str:
    """The table, with a caption that states the basis of its differences."""
    headings, rows = overview(comparison)
    lines = [
        "% \\usepackage{booktabs}",
        "\\begin{table}",
        "  \\centering",
        f"  \\caption{{{_escaped(_caption(comparison))}}}",
        f"  \\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}",
        "    \\toprule",
        f"    {' & '.join(map(_escaped, headings))} \\\\",
        "    \\midrule",
        *(f"    {' & '.join(_escaped(str(cell)) for cell in row)} \\\\" for row in rows),
        "    \\bottomrule",
        "  \\end{tabular}",
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _caption(comparison: Comparison) -> str:
    bases = dict.fromkeys(basis_text(contrast.basis) for contrast in comparison.contrasts if contrast.basis is not None)
    rest = f" Differences in F1 are based on {'; '.join(bases)}." if bases else ""
    return f"{comparison.title}. {protocol(comparison)}{rest} Margin {comparison.margin:g} F1; 95 % intervals."


def _escaped(text: str) -> str:
    """Escape text for LaTeX; a hyphen before a number becomes a minus sign."""
    escaped = "".join(ESCAPED.get(character, character) for character in " ".join(harmless(text).split()))
    escaped = re.sub(r"^(?=[\[*])", "{}", escaped)  # or they would be an option of the row before
    return re.sub(r"(?<![\w.])-(?=\d)", "$-$", escaped)
