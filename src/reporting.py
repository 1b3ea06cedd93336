"""Runs of the store in, a report out. Used by `python -m src.compare`, and by a sweep at its end."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from plotly.io import write_images

from src.config import TrackingConfig, UserError, nearest
from src.report import tables
from src.report.comparison import Comparison, compare_runs
from src.report.drawing import Plot, for_paper
from src.report.page import EXAMPLES, render
from src.report.plots import plots
from src.report.terminal import Terminal
from src.report.verdict import verdict
from src.runs.archive import Archive
from src.runs.records import Selection
from src.runs.results import choose
from src.runs.store import Store, connect, store_errors_explained

PAGE = "report.html"
DEFAULT_FORMATS = ("html", "md", "csv")


def report(
    tracking: TrackingConfig,
    sweeps: Sequence[str] = (),
    runs: Sequence[str] = (),
    where: str | None = None,
    by: Sequence[str] = (),
    baseline: str = "full",
    formats: Sequence[str] = DEFAULT_FORMATS,
    output: Path | None = None,
    examples: int = EXAMPLES,
    exported: Path | None = None,
) -> Path:
    """Compare runs, show the result, and write it; the folder it lies in.

    With `exported`, a file of runs, they are read from there and no store is touched.

    Raises:
        UserError: no such runs, no such parameter, or a format that cannot be made.
    """
    with store_errors_explained():
        source = connect(tracking, create=False) if exported is None else Archive(exported)
        selection = choose(source, sweeps, runs, where)
        comparison = _compared(selection, by, baseline)
        chosen = selection.parents or runs
        name = "-".join(id[:12] for id in chosen)[:120] or re.sub(r"\W+", "_", selection.title)[:80]
        # Another way to look at the same runs takes nothing away from the first.
        view = "-".join(["", *(key.rpartition(".")[2] for key in by), *([baseline] if baseline != "full" else [])])
        view = re.sub(r"[^\w-]+", "_", view)
        folder = output or Path(tracking.folder) / "reports" / (name + view)
        written = _write(comparison, folder, formats, examples)
        if isinstance(source, Store):
            _keep(source, selection, comparison, written, name, view)
    terminal = Terminal()
    for note in selection.notes:
        terminal.note(note)
    if len(comparison.arms) > 1:
        terminal.comparison(tables.side_by_side(comparison))
    for warning in comparison.warnings:
        terminal.warning(warning)
    for finding, *details in verdict(comparison):
        terminal.finding(finding, details)
    page = folder / PAGE
    terminal.line(f"Report: {page.resolve().as_uri() if page in written else folder}")
    return folder


def _compared(selection: Selection, by: Sequence[str], baseline: str) -> Comparison:
    """The comparison of the chosen runs.

    Raises:
        UserError: no such parameter, or no such baseline.
    """
    known = {key for result in selection.results for key in result.params}
    for key in by:
        if key not in known:
            raise UserError(f"by={key}: no run has such a parameter{nearest(key, sorted(known))}.")
    comparison = compare_runs(selection.title, selection.results, by, baseline, selection.commands)
    if baseline != "full" and baseline not in {name for arm in comparison.arms for name in (arm.method, arm.name)}:
        names = ", ".join(arm.name for arm in comparison.arms)
        raise UserError(f"baseline={baseline} is none of the methods compared; there are: {names}.")
    return comparison


def _write(comparison: Comparison, folder: Path, formats: Sequence[str], examples: int) -> list[Path]:
    """Write a comparison in each format; the files.

    Raises:
        UserError: pictures cannot be made.
    """
    figures = plots(comparison) if set(formats) & {"html", "png", "svg", "pdf"} else []
    texts = {
        "html": (PAGE, lambda: render(comparison, figures, examples)),
        "md": ("report.md", lambda: tables.as_markdown(comparison)),
        "csv": ("side_by_side.csv", lambda: tables.as_csv(comparison)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for form in formats:
        if form in texts:
            file, text = texts[form]
            (folder / file).write_text(text(), encoding="utf-8")
            written.append(folder / file)
        else:
            written += _pictures(figures, folder, form)
    return written


def _keep(
    store: Store, selection: Selection, comparison: Comparison, written: Sequence[Path], name: str, view: str
) -> None:
    """Log the report to the parent runs of its sweeps."""
    alone = len(selection.parents) == 1  # what several sweeps say together does not replace what each says
    for parent in selection.parents:
        for path in written:  # and nothing else that lies in the folder, which may be any
            store.log_artifact(parent, path, f"report{'' if alone else '-' + name}{view}")
        if alone and not view:
            store.tag(parent, {"mlflow.note.content": tables.as_note(comparison)})


def _pictures(figures: Sequence[Plot], folder: Path, form: str) -> list[Path]:
    """The figures in a size that fits a paper's column; a PNG has 384 dots to an inch."""
    files = [folder / f"{figure.name}.{form}" for figure in figures]
    try:
        write_images([for_paper(figure) for figure in figures], files, scale=4 if form == "png" else 1)
    except (ImportError, ValueError, RuntimeError) as error:
        raise UserError(
            f"formats={form} needs the package kaleido (pip install kaleido) and a Chrome or Chromium "
            f"({' '.join(str(error).split())[:200]})."
        ) from error
    return files
