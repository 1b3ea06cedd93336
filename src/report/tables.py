"""The side-by-side table: one column a method at its best setting, and its ratio to the baseline in each row."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from src.report.arms import Arm, Result
from src.report.comparison import Comparison
from src.report.terminal import MAIN_ROWS
from src.report.verdict import ratio, verdict

NOTHING = "–"
LONGEST_NOTE = 4000  # characters


@dataclass(frozen=True)
class Cell:
    """A figure as it is shown, its ratio to the baseline's (empty in the baseline's own column), and its value."""

    text: str
    ratio: str = ""
    value: float | None = None

    def __str__(self) -> str:
        return f"{self.text} ({self.ratio})" if self.ratio else self.text


@dataclass(frozen=True)
class Table:
    """Arms side by side; `rows` are (label, a cell an arm)."""

    arms: list[str]
    rows: list[tuple[str, list[Cell]]]


def _metric(key: str, form: str, with_spread: bool = False) -> Callable[[Arm], Cell]:
    def cell(arm: Arm) -> Cell:
        value = arm.best.average(key)
        if value is None:
            return Cell(NOTHING)
        spread = arm.best.deviation(key) if with_spread else None
        return Cell(form.format(value) + (f" ± {spread:.1f}" if spread is not None else ""), value=value)

    return cell


def _f1_before(arm: Arm) -> Cell:
    value = arm.best.untrained("f1")
    return Cell(NOTHING) if value is None else Cell(f"{value:.1f}", value=value)


def _fact(value: Callable[[Arm], float], form: str) -> Callable[[Arm], Cell]:
    return lambda arm: Cell(form.format(value(arm)), value=float(value(arm)))


ROWS: list[tuple[str, Callable[[Arm], Cell]]] = [
    ("settings tried", _fact(lambda arm: arm.settings, "{:,}")),
    ("seeds at the best one", _fact(lambda arm: len(arm.best.runs), "{:,}")),
    ("learning rate", _fact(lambda arm: arm.best.rate, "{:g}")),
    ("epochs", _fact(lambda arm: arm.best.epochs, "{:,}")),
    ("optimizer steps", _fact(lambda arm: arm.best.steps, "{:,}")),
    ("training questions", _fact(lambda arm: arm.best.examples, "{:,}")),
    ("trained parameters", _metric("params/trainable", "{:,.0f}")),
    ("trained, % of all", _metric("params/trainable_percent", "{:.2f}")),
    ("of these in adapters", _metric("params/adapter", "{:,.0f}")),
    ("of these in the head", _metric("params/head", "{:,.0f}")),
    ("of these in the backbone", _metric("params/backbone", "{:,.0f}")),
    ("training (s)", _metric("time/train_seconds", "{:,.1f}")),
    ("examples/s", _metric("speed/examples_per_second", "{:,.1f}")),
    ("peak memory, training (MB)", _metric("memory/peak_train_mb", "{:,.0f}")),
    ("examples/s, evaluation", _metric("speed/eval_examples_per_second", "{:,.1f}")),
    ("peak memory, evaluation (MB)", _metric("memory/peak_eval_mb", "{:,.0f}")),
    ("stored size (MB)", _metric("storage/checkpoint_mb", "{:,.2f}")),
    ("initial loss", _metric("train/initial_loss", "{:.3f}")),
    ("final loss", _metric("train/final_loss", "{:.3f}")),
    ("F1 before training", _f1_before),
    ("exact match", _metric("quality/exact_match", "{:.1f}", with_spread=True)),
    ("F1", _metric("quality/f1", "{:.1f}", with_spread=True)),
    ("encoder's likeness to before (CKA)", _metric("forgetting/cka", "{:.3f}")),
    ("encoder's likeness to before (cosine)", _metric("forgetting/cosine", "{:.3f}")),
    ("masked-LM loss before", _metric("forgetting/mlm_loss_before", "{:.3f}")),
    ("masked-LM loss after", _metric("forgetting/mlm_loss", "{:.3f}")),
]


def base_columns(comparison: Comparison) -> dict[str, int]:
    """The column of the arm that each arm is compared with; baselines have none."""
    columns = {arm.name: column for column, arm in enumerate(comparison.arms)}
    return {contrast.arm.name: columns[contrast.base.name] for contrast in comparison.contrasts}


def side_by_side(comparison: Comparison) -> Table:
    """Rows that no arm has a figure for are left out."""
    rows = []
    bases = base_columns(comparison)
    if comparison.varied:
        rows.append(
            ("setting", [Cell(" ".join(arm.best.setting(comparison.varied)) or NOTHING) for arm in comparison.arms])
        )
    for label, cell in ROWS:
        cells = [cell(arm) for arm in comparison.arms]
        if any(cell.value is not None for cell in cells):
            related = [
                _related(cell, cells[bases[arm.name]]) if arm.name in bases else cell
                for arm, cell in zip(comparison.arms, cells, strict=True)
            ]
            rows.append((label, related))
    return Table([arm.name for arm in comparison.arms], rows)


def _related(cell: Cell, base: Cell) -> Cell:
    if not cell.value or not base.value:
        return cell
    return Cell(cell.text, ratio(cell.value / base.value), cell.value)


# What the runs were made with.
CONDITIONS: list[tuple[str, Callable[[Result], str]]] = [
    ("data", lambda run: run.params.get("dataset.name", "")),
    ("split", lambda run: run.params.get("dataset.split", "")),
    ("training questions", lambda run: f"{run.inputs.get('train', ('', 0))[1]:,}"),
    ("validation questions", lambda run: f"{run.inputs.get('validation', ('', 0))[1]:,}"),
    ("model", lambda run: run.params.get("model.name", "")),
    ("batch", lambda run: run.params.get("train.batch_size", "")),
    ("hardware", lambda run: run.tags.get("hardware", "")),
    ("machine", lambda run: run.tags.get("host", "")),
    ("code", lambda run: run.tags.get("git_commit", "")[:12]),
]


def conditions(comparison: Comparison) -> list[tuple[str, str]]:
    """Label and value of what the best runs were made with; where they differ, all values."""
    runs = [run for arm in comparison.arms for run in arm.best.runs]
    told = [(label, dict.fromkeys(value for run in runs if (value := tell(run)))) for label, tell in CONDITIONS]
    return [(label, "; ".join(values)) for label, values in told if values]


RUN_COLUMNS: list[tuple[str, str, str]] = [  # heading, metric, format
    ("EM", "quality/exact_match", "{:.1f}"),
    ("F1", "quality/f1", "{:.1f}"),
    ("trained", "params/trainable", "{:,.0f}"),
    ("training (s)", "time/train_seconds", "{:,.1f}"),
    ("examples/s", "speed/examples_per_second", "{:,.1f}"),
    ("memory (MB)", "memory/peak_train_mb", "{:,.0f}"),
    ("stored (MB)", "storage/checkpoint_mb", "{:,.2f}"),
    ("CKA", "forgetting/cka", "{:.3f}"),
]


def all_runs(comparison: Comparison) -> tuple[list[str], list[list[Cell]]]:
    """Headings, and a row for each finished run."""
    rows = []
    varied = comparison.varied
    for arm in comparison.arms:
        for trial in arm.trials:
            for run in trial.runs:
                row = [
                    Cell(arm.name),
                    Cell(run.id[:8]),
                    *([Cell(" ".join(trial.setting(varied)) or NOTHING)] if varied else []),
                ]
                row.append(Cell(f"{trial.rate:g}", value=trial.rate))
                row += [Cell(str(trial.epochs), value=trial.epochs), Cell(run.seed, value=float(run.seed or 0))]
                for _, metric, form in RUN_COLUMNS:
                    value = run.metrics.get(metric)
                    row.append(Cell(NOTHING) if value is None else Cell(form.format(value), value=value))
                rows.append(row)
    named = ["setting"] if varied else []
    return ["method", "run id", *named, "rate", "epochs", "seed", *(heading for heading, *_ in RUN_COLUMNS)], rows


def as_markdown(comparison: Comparison) -> str:
    """Verdict, warnings and table."""
    table = side_by_side(comparison)
    lines = [f"# {_plain(comparison.title)}", ""]
    if comparison.commands:
        lines += [*(f"    {command}" for command in comparison.commands), ""]
    for finding, *details in verdict(comparison):
        lines += [f"**{_plain(finding)}** {_plain(' '.join(details))}".strip(), ""]
    lines += [f"- **Warning:** {_plain(warning)}" for warning in comparison.warnings]
    if comparison.warnings:
        lines.append("")
    lines += [f"- {label}: {_plain(value)}" for label, value in conditions(comparison)]
    lines += ["", _markdown_row(["", *table.arms]), "|---|" + "---:|" * len(table.arms)]
    lines += [_markdown_row([label, *map(str, cells)]) for label, cells in table.rows]
    return "\n".join(lines) + "\n"


def as_note(comparison: Comparison) -> str:
    """Verdict, warnings and the main figures, a row a method, for the narrow column that MLflow's UI shows them in."""
    table = side_by_side(comparison)
    by_label = dict(table.rows)
    shown = {heading: by_label[label] for label, heading in MAIN_ROWS.items() if label in by_label}
    lines = []
    for finding, *details in verdict(comparison):
        lines += [f"**{_plain(finding)}** {_plain(' '.join(details))}".strip(), ""]
    lines += [f"- **Warning:** {_plain(warning)}" for warning in comparison.warnings]
    lines += ["", _markdown_row(["", *shown]), "|---|" + "---:|" * len(shown)]
    lines += [
        _markdown_row([arm, *(cells[column].text for cells in shown.values())]) for column, arm in enumerate(table.arms)
    ]
    while len("\n".join(lines)) > LONGEST_NOTE:  # whole lines, so that nothing is left open
        lines.pop()
    return "\n".join([*lines, "", "Everything else is in the artifacts: report/report.html."]) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_plain(cell).replace("|", "\\|") for cell in cells) + " |"


def _plain(text: str) -> str:
    """One line without markup: names come from people and data sets."""
    return " ".join(text.split()).replace("<", "&lt;")


def as_csv(comparison: Comparison) -> str:
    """The side-by-side table: for each arm a column of values and one of ratios to the baseline."""
    table = side_by_side(comparison)
    text = io.StringIO()
    writer = csv.writer(text)
    bases = [(table.arms.index(arm), base) for arm, base in base_columns(comparison).items()]
    writer.writerow(["", *table.arms, *(f"{table.arms[arm]} / {table.arms[base]}" for arm, base in bases)])
    for label, cells in table.rows:
        values = [cell.value for cell in cells]
        quotients = [a / b if (a := values[arm]) is not None and (b := values[base]) else None for arm, base in bases]
        texts = [cell.text if cell.value is None and cell.text != NOTHING else None for cell in cells]
        shown = [*(text or _exact(value) for text, value in zip(texts, values, strict=True)), *map(_exact, quotients)]
        writer.writerow([label, *shown])
    return text.getvalue()


def _exact(value: float | None) -> str:
    return "" if value is None else repr(value)
