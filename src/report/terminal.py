"""The output of a run on a terminal: header, progress, a line for each epoch, and the result. It needs no torch."""

from __future__ import annotations

import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from src.console import behind
from src.harmless import harmless
from src.metrics import EXAMPLES_PER_SECOND, F1, TRAIN_LOSS, Place, listed, metric, shown
from src.report.words import HARD_SPACE, duration, unbroken

FILE_WIDTH = 200
PROGRESS_SECONDS = 1.0
BEFORE_TRAINING = "before training"
FOLDING = {"method": 12, "decision": 10}  # columns that may be broken between words, with their least width


class _Console(Console):
    """A console that survives a closed pipe (`| head`), and whose texts cannot send control sequences."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=harmless(segment.text))

    def on_broken_pipe(self) -> None:
        """Stop printing; rich itself would end the process."""
        self.quiet = True
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, sys.stdout.fileno())
        os.close(silence)


class Terminal:
    """Output through rich on a terminal, as plain lines to a file or a pipe, and none at all with `quiet`."""

    def __init__(self, quiet: bool = False, progress_file: Path | None = None) -> None:
        """
        Args:
            quiet: show nothing.
            progress_file: `step` writes its line to it, at most once a second, for a process that waits for this one.
        """
        # A file or a pipe has no width.
        width = None if sys.stdout.isatty() else FILE_WIDTH
        self.console = _Console(file=behind(sys.stdout), quiet=quiet, highlight=False, soft_wrap=True, width=width)
        self.progress: Progress | None = None
        self.last_quarter = 0
        self.progress_file = progress_file
        self.progress_written = 0.0
        self.first_step: tuple[int, float] | None = None  # its number, and when it was shown

    def note(self, line: str) -> None:
        """Print a note about the data or the run."""
        self._paragraph("note", "dim", line)

    def warning(self, line: str) -> None:
        """Print a warning about the data or the run."""
        self._paragraph("WARNING", "bold yellow", line)

    def _paragraph(self, word: str, style: str, text: str) -> None:
        """Print a text with a hanging indent after a word."""
        text = self.wrapped(text, len(word) + 1)
        self.console.print(f"[{style}]{word}[/{style}] {escape(text)}")

    def wrapped(self, text: str, hanging: int = 0, first: int | None = None) -> str:
        """Break a text into lines that fit the terminal; without a terminal it stays as it is.

        Args:
            text: one paragraph. Words longer than a line, such as addresses, are not broken.
            hanging: the indent of all lines but the first.
            first: the number of characters before the first line; None means as many as `hanging`.
        """
        if self.console.width >= FILE_WIDTH:
            return text
        lines = textwrap.wrap(
            unbroken(text),
            self.console.width,
            initial_indent=" " * (hanging if first is None else first),
            subsequent_indent=" " * hanging,
            break_long_words=False,
            break_on_hyphens=False,
        )
        return "\n".join(lines)[hanging if first is None else first :].replace(HARD_SPACE, " ")

    def header(self, rows: Mapping[str, str], wrap: bool = False) -> None:
        """Print names and values, one pair on each line.

        Args:
            rows: the pairs.
            wrap: break long values into lines; not for commands, which are copied.
        """
        width = max(len(name) for name in rows)
        for name, value in rows.items():
            text = self.wrapped(value, width + 2) if wrap else value
            self.console.print(f"[bold]{escape(name):<{width}}[/bold]  {escape(text)}")
        self.console.print()

    def step(self, number: int, of: int, loss: float, examples_per_second: float) -> None:
        """Move the progress bar; without a terminal, print a line at each quarter of the training.

        Args:
            number: of the step, from 1.
            of: the number of all steps.
            loss: of the step.
            examples_per_second: 0 during the warm-up, when it is unknown.
        """
        speed = metric(EXAMPLES_PER_SECOND).text(examples_per_second) if examples_per_second else ""
        shown_loss = f"{metric(TRAIN_LOSS).brief} {metric(TRAIN_LOSS).number(loss)}"
        now = time.monotonic()
        first, since = self.first_step = self.first_step or (number, now)
        line = f"step {number}/{of}  {shown_loss}  {speed}".rstrip()
        if first < number < of:
            line += f"  about {duration((now - since) / (number - first) * (of - number))} left"
        if self.progress_file is not None and now - self.progress_written >= PROGRESS_SECONDS:
            self.progress_written = now
            with suppress(OSError):  # such as a full disk: the line is not essential
                self.progress_file.write_text(line, encoding="utf-8")
        if self.console.is_terminal:
            self._move_bar(number, of, f"{shown_loss}  {speed}")
        elif (quarter := 4 * number // of) > self.last_quarter:
            self.last_quarter = quarter
            self.console.print(line)

    def _move_bar(self, number: int, of: int, status: str) -> None:
        if self.progress is None:
            self.progress = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[status]}"),
                TimeRemainingColumn(),
                TextColumn("left"),
                console=self.console,
                transient=True,
            )
            self.progress.add_task("training", total=of, status=status)
            self.progress.start()
        self.progress.update(self.progress.task_ids[0], completed=number, status=status)

    @contextmanager
    def following(self, file: Path) -> Iterator[Callable[[], None] | None]:
        """Show the progress of a run in another process, which that process writes to `file`, on one line.

        Yields:
            A function that reads the file and updates the line, to be called every second; None without a terminal.
        """
        if not self.console.is_terminal:
            yield None
            return
        file.unlink(missing_ok=True)  # of an earlier attempt
        with Live(
            console=self.console, transient=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        ) as live:

            def look() -> None:
                with suppress(OSError):  # the file does not exist yet
                    line = file.read_text(encoding="utf-8")
                    live.update(Text(" " * 8 + line, no_wrap=True, overflow="ellipsis"), refresh=True)

            try:
                yield look
            finally:
                file.unlink(missing_ok=True)

    def epoch(self, number: int, metrics: Mapping[str, float]) -> None:
        """Print one line with the scores after an epoch.

        Args:
            number: of the epoch; 0 before training.
            metrics: those of `eval/*` that are known, by name.
        """
        name = f"epoch {number}" if number else BEFORE_TRAINING
        values = {f"eval/{key}": value for key, value in metrics.items()}
        parts = (f"{entry.brief} [bold]{entry.number(values[entry.key]):>5}[/bold]" for entry in listed(values))
        self.console.print(f"{name:<{len(BEFORE_TRAINING)}}  {'  '.join(parts)}")

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the progress bar."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = None

    def result(self, metrics: Mapping[str, float], title: str) -> None:
        """Print the table of final metrics."""
        table = Table(title=escape(title), title_justify="left", show_header=False)
        for entry in shown(Place.RESULT, metrics):
            table.add_row(escape(entry.label[0].upper() + entry.label[1:]), entry.text(metrics[entry.key]))
        self.console.print()
        self.console.print(table)

    def examples(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Print some questions with the predicted and the true answers."""
        for row in rows:
            mark = "[green]right[/green]" if row["exact_match"] else "[red]wrong[/red]"
            self.console.print(
                f"{mark}  {escape(row['question'])}\n"
                f"       predicted [bold]{escape(row['predicted'] or '(no answer)')}[/bold]"
                f"  true {escape(' | '.join(row['answers']) or '(no answer)')}"
            )
        self.console.print()

    def line(self, text: str = "") -> None:
        """Print a line; if it is too long for the terminal, the rest of it is indented further."""
        indent = len(text) - len(text.lstrip())
        self.console.print(escape(" " * indent + self.wrapped(text.lstrip(), indent + 2, indent)))

    def finding(self, sentence: str, details: Sequence[str]) -> None:
        """Print a finding, and its details below it."""
        self.console.print(f"[bold]{escape(self.wrapped(sentence))}[/bold]")
        for detail in details:
            self.console.print(f"  {escape(self.wrapped(detail, 2))}")

    def commands(self, lines: Sequence[str]) -> None:
        """Print commands to copy, each on one line."""
        for line in lines:
            self.console.print(f"  {escape(line)}")

    def overview(self, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table with one row for each method.

        If it is too wide, brackets move to a second line; if it is still too wide, columns are left out from the right.
        """
        lines = [list(headings), *map(list, rows)]
        if _table_width(lines) > self.console.width:
            lines = [[cell.replace(" (", "\n(").replace(" [", "\n[") for cell in line] for line in lines]
        while _table_width(lines) > self.console.width and len(lines[0]) > 2:
            lines = [line[:-1] for line in lines]
        table = Table(show_edge=False, pad_edge=False)
        for heading in lines[0]:
            folds = heading in FOLDING
            table.add_column(escape(heading), justify="left" if folds else "right", no_wrap=not folds, overflow="fold")
        for line in lines[1:]:
            table.add_row(*map(escape, line))
        self.console.print(table, soft_wrap=False)

    def sweep_table(self, rows: Sequence[tuple[str, str, str, Mapping[str, float]]]) -> None:
        """Print the table of a sweep's runs: name, status, the beginning of the id, and metrics."""
        columns = shown(Place.SUMMARY, (key for *_, metrics in rows for key in metrics))
        filled = [
            (*first, *(entry.number(metrics[entry.key]) if entry.key in metrics else "" for entry in columns))
            for *first, metrics in rows
        ]
        headings = ("run", "status", "run id", *(entry.column for entry in columns))
        self._fitting_table(headings, filled, needed=5, left=3)

    def _fitting_table(
        self, headings: Sequence[str], rows: Sequence[Sequence[str]], needed: int, left: int = 1
    ) -> None:
        """Print a table with as many columns as fit.

        Columns are left out from the right until `needed` are left; then the first column is broken over several lines.
        The first `left` columns are aligned to the left.
        """
        for columns in range(len(headings), min(needed, len(headings)) - 1, -1):
            table = Table()
            for number, heading in enumerate(headings[:columns]):
                side: Any = "left" if number < left else "right"
                table.add_column(heading, justify=side, no_wrap=number > 0, overflow="fold")
            for row in rows:
                table.add_row(*map(escape, row[:columns]))
            if self._width(table) <= self.console.width:
                break
        self.console.print(table)

    def _width(self, table: Table) -> int:
        """The width of the full table."""
        return Measurement.get(self.console, self.console.options.update(max_width=10_000), table).maximum


def _table_width(lines: Sequence[Sequence[str]]) -> int:
    """The least width of a table, given its headings and rows."""
    widths = []
    for heading, *cells in zip(*lines, strict=True):
        longest = max(len(part) for cell in (heading, *cells) for part in cell.split("\n"))
        widths.append(min(longest, FOLDING.get(heading, longest)))
    return sum(widths) + 3 * (len(widths) - 1)


def run_line(metrics: Mapping[str, float]) -> str:
    """The metrics of a run on one line."""
    return "  ".join(entry.named(metrics[entry.key]) for entry in shown(Place.SUMMARY, metrics))


def progress_line(
    done: int,
    failed: int,
    pruned: int,
    planned: int,
    seconds_left: float | None,
    best: Mapping[str, tuple[float, float, int]],
    spent: str = "",
) -> str:
    """The progress of a sweep on one line.

    Args:
        done, failed, pruned, planned: numbers of runs.
        seconds_left: None where it cannot be estimated yet.
        best: for each method the mean F1, learning rate and number of seeds of its best setting.
        spent: the part of a budget that is spent, in words; the planned runs are then a maximum.
    """
    at_most = "at most " if spent else ""
    parts = [f"{done} of {at_most}{planned} done"]
    ended = (failed, "failed"), (pruned, "cut short" if spent else "pruned")
    parts += [f"{number} {what}" for number, what in ended if number]
    if spent:
        parts.append(f"{spent} spent")
    if seconds_left:
        parts.append(f"{at_most}about {duration(seconds_left)} left")
    if best:
        means = (
            f"{method} {metric(F1).number(f1)} (rate {rate:g}, {seeds} seed{'s' if seeds != 1 else ''})"
            for method, (f1, rate, seeds) in sorted(best.items())
        )
        parts.append("best mean F1: " + ", ".join(means))
    return "        " + "; ".join(parts)
