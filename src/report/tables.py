"""The side-by-side table: one column a method at its best setting, and its ratio to the baseline in each row."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from src.metrics import EVAL_F1, Metric, Place, metric, shown
from src.report.arms import Arm, Result
from src.report.comparison import Comparison
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
    """Arms side by side: `rows` are (label, a cell an arm), `main` the few for which there is always room."""

    arms: list[str]
    rows: list[tuple[str, list[Cell]]]
    main: list[tuple[str, list[Cell]]]  # under their short labels

    def turned(self) -> tuple[list[str], list[list[str]]]:
        """The main rows as columns: the headings, and the texts of each arm."""
        headings = ["", *(short for short, _ in self.main)]
        return headings, [[arm, *(cells[i].text for _, cells in self.main)] for i, arm in enumerate(self.arms)]


def _measured(entry: Metric, arm: Arm) -> Cell:
    value = arm.best.average(entry.key)
    if value is None:
        return Cell(NOTHING)
    std = arm.best.deviation(entry.key) if entry.score else None
    return Cell(entry.number(value) + (f" ± {entry.number(std)}" if std is not None else ""), value=value)


def _f1_before(arm: Arm) -> Cell:
    value = arm.best.untrained("f1")
    return Cell(NOTHING) if value is None else Cell(metric(EVAL_F1).number(value), value=value)


def _fact(value: Callable[[Arm], float], form: str) -> Callable[[Arm], Cell]:
    return lambda arm: Cell(form.format(value(arm)), value=float(value(arm)))


# What is said of an arm besides its metrics: label, short label and value.
FACTS: list[tuple[str, str, Callable[[Arm], Cell]]] = [
    ("settings tried", "", _fact(lambda arm: arm.settings, "{:,}")),
    ("seeds at the best one", "seeds", _fact(lambda arm: len(arm.best.runs), "{:,}")),
    ("learning rate", "rate", _fact(lambda arm: arm.best.rate, "{:g}")),
    ("epochs", "", _fact(lambda arm: arm.best.epochs, "{:,}")),
    ("optimizer steps", "", _fact(lambda arm: arm.best.steps, "{:,}")),
    ("training questions", "", _fact(lambda arm: arm.best.examples, "{:,}")),
    ("F1 before training", "", _f1_before),
]


def base_columns(comparison: Comparison) -> dict[str, int]:
    """The column of the arm that each arm is compared with; baselines have none."""
    columns = {arm.name: column for column, arm in enumerate(comparison.arms)}
    return {contrast.arm.name: columns[contrast.base.name] for contrast in comparison.contrasts}


def side_by_side(comparison: Comparison) -> Table:
    """The facts of each arm, then its metrics; rows that no arm has a figure for are left out."""
    arms = comparison.arms
    bases = base_columns(comparison)
    made = [(label, short, [cell(arm) for arm in arms]) for label, short, cell in FACTS]
    for entry in shown(Place.SIDE_BY_SIDE, (key for arm in arms for run in arm.best.runs for key in run.metrics)):
        short = entry.column if Place.SUMMARY in entry.places else ""
        made.append((entry.heading, short, [_measured(entry, arm) for arm in arms]))
    rows, main = [], []
    if comparison.varied:
        rows.append(("setting", [Cell(" ".join(arm.best.setting(comparison.varied)) or NOTHING) for arm in arms]))
    for label, short, cells in made:
        if any(cell.value is not None for cell in cells):
            related = [
                _related(cell, cells[bases[arm.name]]) if arm.name in bases else cell
                for arm, cell in zip(arms, cells, strict=True)
            ]
            rows.append((label, related))
            if short:
                main.append((short, related))
    return Table([arm.name for arm in arms], rows, main)


def overview(comparison: Comparison) -> tuple[list[str], list[list[Cell]]]:
    """Headings, and one row a method: F1, its difference with its interval, the decision, and costs with their ratios."""
    f1 = {arm.name: comparison.scored[arm.name] for arm in comparison.arms}
    rows = [[Cell(name), Cell("–" if own is None else f"{own.level('f1'):.1f}")] for name, own in f1.items()]
    return ["method", "F1"], rows


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


def all_runs(comparison: Comparison) -> tuple[list[str], list[list[Cell]]]:
    """Headings, and a row for each finished run."""
    rows = []
    varied = comparison.varied
    runs = [run for arm in comparison.arms for trial in arm.trials for run in trial.runs]
    columns = shown(Place.ALL_RUNS, (key for run in runs for key in run.metrics))
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
                for entry in columns:
                    value = run.metrics.get(entry.key)
                    row.append(Cell(NOTHING) if value is None else Cell(entry.number(value), value=value))
                rows.append(row)
    named = ["setting"] if varied else []
    return ["method", "run id", *named, "rate", "epochs", "seed", *(entry.column for entry in columns)], rows


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
    headings, rows = side_by_side(comparison).turned()
    lines = []
    for finding, *details in verdict(comparison):
        lines += [f"**{_plain(finding)}** {_plain(' '.join(details))}".strip(), ""]
    lines += [f"- **Warning:** {_plain(warning)}" for warning in comparison.warnings]
    lines += ["", _markdown_row(headings), "|---|" + "---:|" * (len(headings) - 1)]
    lines += [_markdown_row(row) for row in rows]
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
