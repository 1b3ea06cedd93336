"""A comparison in Markdown: report.md, and the note in MLflow's UI."""

from __future__ import annotations

from collections.abc import Sequence

from src.harmless import harmless, in_markdown
from src.report.comparison import Comparison
from src.report.tables import Cell, conditions, overview, side_by_side, spending
from src.report.verdict import protocol, recommendation, spent, verdict

LONGEST_NOTE = 4000  # characters


def as_markdown(comparison: Comparison) -> str:
    """The text of report.md: recommendation, overview, verdict, warnings, and all metrics side by side."""
    table, advice = side_by_side(comparison), recommendation(comparison)
    lines = [f"# {in_markdown(comparison.title)}", ""]
    if comparison.commands:
        lines += [*map(_code, comparison.commands), ""]
    lines += [f"**{in_markdown(advice.headline)}**", ""]
    if advice.next_command:
        lines += ["Next:", "", _code(advice.next_command), ""]
    if comparison.arms:
        lines += [*_table(*overview(comparison)), "", in_markdown(protocol(comparison)), ""]
    if comparison.schedule is not None:
        lines += [in_markdown(str(comparison.schedule)), ""]
    for headline, *details in verdict(comparison):
        lines += [f"**{in_markdown(headline)}** {in_markdown(' '.join(details))}".strip(), ""]
    lines += [f"- **Warning:** {in_markdown(str(warning))}" for warning in comparison.warnings]
    if comparison.warnings:
        lines.append("")
    lines += [f"- {in_markdown(label)}: {in_markdown(value)}" for label, value in conditions(comparison)]
    if comparison.spent:
        lines += ["", f"What was spent: {in_markdown(spent(comparison))}", "", *_table(*spending(comparison))]
    return "\n".join([*lines, "", *_table(["", *table.arms], [[r, *cells] for r, cells in table.rows])]) + "\n"


def as_note(comparison: Comparison) -> str:
    """The note for the narrow column of MLflow's UI: recommendation, verdict, warnings and overview."""
    lines = [f"**{in_markdown(recommendation(comparison).headline)}**", ""]
    for headline, *details in verdict(comparison):
        lines += [f"**{in_markdown(headline)}** {in_markdown(' '.join(details))}".strip(), ""]
    lines += [f"- **Warning:** {in_markdown(str(warning))}" for warning in comparison.warnings]
    if comparison.arms:
        lines += ["", *_table(*overview(comparison))]
    while len("\n".join(lines)) > LONGEST_NOTE:  # whole lines, so that no markup stays open
        lines.pop()
    return "\n".join([*lines, "", "Everything else is in the artifacts: report/report.html."]) + "\n"


def _table(headings: Sequence[str], rows: Sequence[Sequence[Cell | str]]) -> list[str]:
    aligned = "|---|" + "---:|" * (len(headings) - 1)
    return [_row(headings), aligned, *(_row([str(cell) for cell in row]) for row in rows)]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(in_markdown, cells)) + " |"


def _code(text: str) -> str:
    """A block of code: each line of it is indented."""
    return "\n".join(f"    {line}" for line in harmless(text).splitlines())
