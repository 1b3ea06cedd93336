"""Compare finished runs: which method wins, how certain this is, and what it costs.

    python -m src.compare                                    # the newest sweep
    python -m src.compare sweep=NAME                         # or 'sweep=[NAME,NAME]': several sweeps as one
    python -m src.compare 'runs=[RUN,RUN,...]'               # a run: the beginning of its id, its name, or best
    python -m src.compare where="params.model.name = 'minilm'"
    python -m src.compare from=FILE                          # exported runs (python -m src.runs), without a store

The result is printed, and written under mlruns/reports/ and to the sweep's parent run in MLflow: a page with figures
(report.html), Markdown, CSV, and verdict.json for programs (docs/verdict.md).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from pydantic import Field

from src.arguments import Listed, RunsArguments, read
from src.compose import MISTAKES, fail
from src.console import begin

Format = Literal["html", "md", "csv", "tex", "png", "svg", "pdf"]


class Compare(RunsArguments):
    """The keys of src.compare."""

    source: Path | None = Field(
        None, alias="from", description="a file of exported runs, instead of the store (python -m src.runs export)"
    )
    by: Listed[str] = Field(
        [],
        description="parameters that distinguish arms, in addition to the method; by default those of a settled sweep",
    )
    baseline: str = Field(
        "full", description="the method that the others are compared with, each within its model and data set"
    )
    margin: float | None = Field(
        None,
        alias="sweep.margin",
        gt=0,
        allow_inf_nan=False,
        description="points of F1 that a cheaper method may lose and still be preferred, instead of the sweep's margin",
    )
    formats: Listed[Format] = Field(
        ["html", "md", "csv"],
        description="also tex, and png, svg, pdf: a file for each figure (pip install kaleido; needs Chrome)",
    )
    examples: int = Field(
        12, ge=0, description="questions that the page shows for each method; with 0 it has no text of the data set"
    )
    output: Path | None = Field(None, description="the folder to write to, instead of mlruns/reports/...")


def main() -> None:
    """The command line."""
    try:
        begin()
        given = read(Compare, sys.argv[1:], str(__doc__))
        from src.report.terminal import Terminal
        from src.reporting import report
        from src.runs.commands import command_line, ui_command

        tracking = given.tracking()
        report(
            tracking,
            given.sweep,
            given.runs,
            given.where,
            given.by,
            given.baseline,
            given.formats,
            given.output,
            given.examples,
            given.source,
            given.margin,
        )
        if given.source is not None:
            return
        question = ("question=Who wrote it?", "context=It was written by Ada.")
        newest = not (given.sweep or given.runs or given.where)  # then `best` is a run of the compared sweep
        ask = {"ask the best": command_line("predict", tracking, "run=best", *question)} if newest else {}
        terminal = Terminal()
        terminal.line()
        terminal.header({**ask, "see all runs": ui_command(tracking)})
    except MISTAKES as error:
        fail(error)


if __name__ == "__main__":
    main()
