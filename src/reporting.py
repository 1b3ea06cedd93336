"""Makes a report from the runs of a store, for `python -m src.compare` and at the end of a sweep.

In Python, without printing or writing anything:

    comparison = compare(TrackingConfig(), sweeps=["NAME"])
    print(comparison.contrasts[0].decision, as_dict(comparison)["recommendation"])
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from plotly.io import write_images

from src.config import TrackingConfig, UserError, nearest, one_line
from src.protocol.engine import LEAST_CHANCE
from src.report import latex, machine, markdown, tables
from src.report.comparison import Comparison, compare_runs
from src.report.drawing import Plot, for_paper
from src.report.page import EXAMPLES, render
from src.report.plots import plots
from src.report.schedule import Schedule
from src.report.terminal import Terminal
from src.report.verdict import protocol, recommendation, spent, verdict
from src.runs.archive import Archive
from src.runs.margins import margin_of
from src.runs.plans import Stored, plan_of
from src.runs.provenance import git_commit, package_version
from src.runs.records import Selection, Source
from src.runs.results import choose
from src.runs.store import Store, connect, store_errors_explained

PAGE, VERDICT = "report.html", "verdict.json"
DEFAULT_FORMATS = ("html", "md", "csv")


def compare(
    tracking: TrackingConfig,
    sweeps: Sequence[str] = (),
    runs: Sequence[str] = (),
    where: str | None = None,
    by: Sequence[str] = (),
    baseline: str = "full",
    margin: float | None = None,
    exported: Path | None = None,
) -> Comparison:
    """Compare runs without printing or writing anything.

    Args:
        tracking: the store.
        sweeps, runs, where: the choice of runs; the newest sweep by default (`src.runs.results.choose`).
        by: parameters that distinguish arms, in addition to the method.
        baseline: the method that the others are compared with.
        margin: points of F1 that a method may lose and still be preferred; None: the margin of the sweep.
        exported: a file of exported runs, which is read instead of a store.

    Raises:
        UserError: there are no such runs, there is no such parameter, or the margin is not above 0.
    """
    with store_errors_explained():
        source = _source(tracking, exported)
        return _compared(source, choose(source, sweeps, runs, where), by, baseline, margin)[0]


def as_dict(comparison: Comparison) -> dict[str, Any]:
    """The content of verdict.json."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return machine.as_dict(comparison, {"made": now, "tuneoff": package_version(), "reported_by": git_commit()})


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
    margin: float | None = None,
) -> Path:
    """Compare runs (`compare`), print the result, and write it to files; returns their folder.

    Raises:
        UserError: as for `compare`, or a format cannot be made.
    """
    with store_errors_explained():
        source = _source(tracking, exported)
        selection = choose(source, sweeps, runs, where)
        comparison, notes = _compared(source, selection, by, baseline, margin)
        chosen = selection.parents or runs
        name = "-".join(id[:12] for id in chosen) or selection.title[:80]
        # A report on the same runs with other options does not overwrite the first.
        view = "-".join(
            [
                "",
                *(key.rpartition(".")[2] for key in by),
                *([baseline] if baseline != "full" else []),
                *([f"margin-{margin:g}"] if margin is not None else []),
            ]
        )
        name, view = (re.sub(r"[^\w-]+", "_", part)[:120] for part in (name, view))
        folder = output or Path(tracking.folder) / "reports" / (name + view)
        kept = not isinstance(source, Store) or source.writable
        written = _write(comparison, folder, formats, examples) if kept or output else []
        if isinstance(source, Store) and kept:
            _keep(connect(tracking), selection, comparison, written, name, view)
    terminal = Terminal()
    for note in notes:
        terminal.note(note)
    show(comparison, terminal)
    page = folder / PAGE
    if written:
        terminal.line(f"Report: {page.resolve().as_uri() if page in written else folder}")
    if not kept:
        terminal.note(
            f"tracking.folder={tracking.folder} can only be read: no report is kept in the store"
            + ("." if output else ", and none is written; output=FOLDER writes one.")
        )
    return folder


def show(comparison: Comparison, terminal: Terminal) -> None:
    """Print the comparison on a terminal, in the order of the page."""
    advice = recommendation(comparison)
    if comparison.arms:
        terminal.line(f"{comparison.title}: {' · '.join(tables.subject(comparison))}")
        terminal.line()
    terminal.finding(advice.headline, ["Next:"] if advice.next_command else [])
    terminal.commands(advice.next_command.splitlines())
    terminal.line()
    if len(comparison.arms) > 1:
        headings, rows = tables.overview(comparison)
        terminal.overview(headings, [[str(cell) for cell in row] for row in rows])
    if comparison.arms:
        terminal.line(protocol(comparison))
        if comparison.schedule is not None:
            terminal.line(str(comparison.schedule))
        terminal.line()
    for finding, *details in verdict(comparison):
        terminal.finding(finding, details)
        terminal.line()
    for warning in comparison.warnings:
        terminal.warning(str(warning))
    if comparison.spent:
        terminal.line()
        terminal.line(f"What was spent: {spent(comparison)}")
        headings, rows = tables.spending(comparison)
        terminal.overview(headings, [[str(cell) for cell in row] for row in rows])
        terminal.line()


def _source(tracking: TrackingConfig, exported: Path | None) -> Store | Archive:
    return connect(tracking, create=False) if exported is None else Archive(exported)


def _compared(
    source: Source, selection: Selection, by: Sequence[str], baseline: str, margin: float | None
) -> tuple[Comparison, list[str]]:
    """The comparison of the chosen runs, and notes on the choice of runs and margin.

    Raises:
        UserError: there is no such parameter or baseline, or the margin is not above 0.
    """
    stored = plan_of(source, selection)
    schedule = None if stored is None else schedule_of(stored, selection.parents[0])
    if schedule is not None:
        by = by or schedule.by
    known = {key for result in selection.results for key in result.params}
    for key in by:
        if key not in known:
            raise UserError(f"by={key}: no run has such a parameter{nearest(key, sorted(known))}.")
    limit = margin_of(source, selection, margin)
    comparison = compare_runs(
        selection.title, selection.results, by, baseline, selection.commands, limit.points, limit.afterwards, schedule
    )
    if baseline != "full" and baseline not in {name for arm in comparison.arms for name in (arm.method, arm.name)}:
        names = ", ".join(arm.name for arm in comparison.arms)
        raise UserError(f"baseline={baseline} is none of the methods compared; there are: {names}.")
    return comparison, [*selection.notes, *filter(None, [limit.note])]


def schedule_of(stored: Stored, parent: str = "") -> Schedule:
    """The data of a plan that the report needs, with the id of its parent run."""
    plan, ended_at = stored
    looks = plan.looks if ended_at is None else [*(look for look in plan.looks if look < ended_at), ended_at]
    return Schedule(
        looks=tuple(looks),
        shares=len(plan.looks),
        choosing_seeds=tuple(map(str, plan.choosing_seeds)),
        verdict_seeds=tuple(map(str, plan.verdict_seeds)),
        comparisons=plan.comparisons,
        margin=plan.margin,
        budget=plan.budget.given,
        least_chance=LEAST_CHANCE,
        second_seed=plan.second_seed,
        by=tuple(plan.by),
        parent=parent,
        out=plan.out,
        probing=plan.probing,
        reachable=plan.reachable,
    )


def _write(comparison: Comparison, folder: Path, formats: Sequence[str], examples: int) -> list[Path]:
    """Write a comparison in each format, and verdict.json; returns the files.

    Raises:
        UserError: images cannot be made.
    """
    figures = plots(comparison) if set(formats) & {"html", "png", "svg", "pdf"} else []
    content = as_dict(comparison)
    texts = {
        "html": {PAGE: lambda: render(comparison, figures, examples)},
        "md": {"report.md": lambda: markdown.as_markdown(comparison)},
        "csv": {
            "side_by_side.csv": lambda: tables.as_csv(comparison),
            "verdict.csv": lambda: machine.as_csv(content),
        },
        "tex": {"verdict.tex": lambda: latex.as_latex(comparison)},
    }
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / VERDICT]
    written[0].write_text(machine.as_json(content), encoding="utf-8")
    for form in formats:
        for file, text in texts.get(form, {}).items():
            (folder / file).write_text(text(), encoding="utf-8")
            written.append(folder / file)
        if form not in texts:
            written += _pictures(figures, folder, form)
    return written


def _keep(
    store: Store, selection: Selection, comparison: Comparison, written: Sequence[Path], name: str, view: str
) -> None:
    """Log the report to the parent runs of its sweeps."""
    alone = len(selection.parents) == 1  # a report on several sweeps does not replace the report of each
    for parent in selection.parents:
        for path in written:  # and no other file of the folder
            store.log_artifact(parent, path, f"report{'' if alone else '-' + name}{view}")
        if alone and not view:
            store.tag(parent, {"mlflow.note.content": markdown.as_note(comparison)})


def _pictures(figures: Sequence[Plot], folder: Path, form: str) -> list[Path]:
    """Write the figures in the width of a paper's column; a PNG has 384 dots per inch. Returns the files."""
    files = [folder / f"{figure.name}.{form}" for figure in figures]
    try:
        shown = [for_paper(figure) for figure in figures]
        sizes = {side: [figure.layout[side] for figure in shown] for side in ("width", "height")}
        write_images(shown, files, scale=4 if form == "png" else 1, **sizes)  # it ignores the sizes of a layout
    except (ImportError, ValueError, RuntimeError) as error:
        raise UserError(
            f"formats={form} needs the package kaleido (pip install kaleido) and a Chrome or Chromium "
            f"({one_line(error)})."
        ) from error
    return files
