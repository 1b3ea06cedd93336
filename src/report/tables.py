"""The tables of a comparison: the overview, all metrics side by side, all runs, and the conditions of the runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pandas as pd

from src.csv_text import csv_text
from src.metrics import EVAL_F1, TRAINABLE, Metric, Place, metric, shown
from src.report.arms import KIND, Arm, Result
from src.report.comparison import Comparison, Contrast
from src.report.fairness import comparable
from src.report.findings import decimals, f1_of, interval, short
from src.report.prices import every_run, price_of_a_run, price_of_tuning, run_price
from src.report.schedule import PHASES
from src.report.spending import Spent, together
from src.report.words import count, duration, ratio

NOTHING = "–"
ALL_METHODS = "all methods"


@dataclass(frozen=True)
class Cell:
    """A value as it is shown, its ratio to the value of the baseline (empty for the baseline itself), and the value."""

    text: str
    ratio: str = ""
    value: float | None = None

    def __str__(self) -> str:
        return f"{self.text} ({self.ratio})" if self.ratio else self.text


@dataclass(frozen=True)
class Table:
    """A table with one column for each arm; a row has a label and one cell for each arm."""

    arms: list[str]
    rows: list[tuple[str, list[Cell]]]


def _measured(entry: Metric, arm: Arm) -> Cell:
    value = arm.best.average(entry.key)
    if value is None:
        return Cell(NOTHING)
    std = arm.best.std(entry.key) if entry.score else None
    return Cell(entry.number(value) + (f" ± {entry.number(std)}" if std is not None else ""), value=value)


def _f1_before(arm: Arm) -> Cell:
    value = arm.best.score_before_training("f1")
    return Cell(NOTHING) if value is None else Cell(metric(EVAL_F1).number(value), value=value)


def _fact(value: Callable[[Arm], float], form: str) -> Callable[[Arm], Cell]:
    return lambda arm: Cell(form.format(value(arm)), value=float(value(arm)))


# Rows about an arm that are not metrics: label and value.
FACTS: list[tuple[str, Callable[[Arm], Cell]]] = [
    ("settings tried", _fact(lambda arm: arm.settings, "{:,}")),
    ("seeds at the best one", _fact(lambda arm: len(arm.best.runs), "{:,}")),
    ("learning rate", _fact(lambda arm: arm.best.rate, "{:g}")),
    ("epochs", _fact(lambda arm: arm.best.epochs, "{:,}")),
    ("optimizer steps", _fact(lambda arm: arm.best.steps, "{:,}")),
    ("training questions", _fact(lambda arm: arm.best.examples, "{:,}")),
    ("F1 before training", _f1_before),
]


def base_columns(comparison: Comparison) -> dict[str, int]:
    """For each arm that has a baseline, the number of the baseline's column."""
    columns = {arm.name: column for column, arm in enumerate(comparison.arms)}
    return {contrast.arm.name: columns[contrast.base.name] for contrast in comparison.contrasts}


def side_by_side(comparison: Comparison) -> Table:
    """The table of all metrics: scores first, those of the test set before the others, then facts and other metrics."""
    arms = comparison.arms
    entries = shown(Place.SIDE_BY_SIDE, (key for arm in arms for run in arm.best.runs for key in run.metrics))
    scores = sorted((entry for entry in entries if entry.score), key=_first_scores)
    made = [_row(entry, comparison) for entry in scores]
    made += [(label, [cell(arm) for arm in arms]) for label, cell in FACTS]
    for entry in entries:
        if entry.within_model and len(comparison.models) > 1:
            made += [_row(entry, comparison, model) for model in comparison.models]
        elif not entry.score:
            made.append(_row(entry, comparison))
    rows = [(label, cells) for label, cells in made if any(cell.value is not None for cell in cells)]
    if comparison.varied:
        settings = [Cell(" ".join(arm.best.setting(comparison.varied)) or NOTHING) for arm in arms]
        rows.insert(len(scores), ("setting", settings))
    return Table([arm.name for arm in arms], rows)


def kinds_of_answers(comparison: Comparison) -> Table:
    """The share of each kind of answer, in percent, as the mean over seeds; the most frequent kinds come first.

    The table has no rows if a run did not store the kinds.
    """
    shares = []
    for arm in comparison.arms:
        tables = list(arm.best.by_seed.values())
        if not tables or any(table[KIND].isna().any() for table in tables):
            return Table([], [])
        counted = pd.concat([table[KIND].value_counts(normalize=True) for table in tables], axis=1)
        shares.append(100 * counted.fillna(0.0).mean(axis=1))
    together = pd.concat(shares, axis=1).fillna(0.0) if shares else pd.DataFrame()
    order = together.mean(axis=1).sort_values(ascending=False, kind="stable").index
    rows = [(str(kind), [Cell(f"{value:.1f}", value=value) for value in together.loc[kind]]) for kind in order]
    return Table([arm.name for arm in comparison.arms], rows)


def _first_scores(entry: Metric) -> tuple[bool, bool]:
    """A sort key that puts the test set before the validation set, and F1 before exact match."""
    return entry.group != "test", not entry.key.endswith("/f1")


def _row(entry: Metric, comparison: Comparison, model: tuple[str, ...] | None = None) -> tuple[str, list[Cell]]:
    """Label and cells of a metric; if a model is given, only its arms have a value."""
    bases = {contrast.arm.name: contrast.base for contrast in comparison.contrasts}
    cells = [
        _cell(entry, arm, bases.get(arm.name)) if model in (None, arm.model) else Cell(NOTHING)
        for arm in comparison.arms
    ]
    return entry.heading + (f", {' '.join(model)}" if model else ""), cells


def _cell(entry: Metric, arm: Arm, base: Arm | None) -> Cell:
    """The value of a metric, with its ratio to the baseline if it is a cost that can be compared."""
    cell = _measured(entry, arm)
    is_cost = entry.better and not entry.score and entry.unit != "nats"
    if base is None or not is_cost or not comparable(entry.key, arm, base):
        return cell
    return _related(cell, _measured(entry, base))


def overview(comparison: Comparison) -> tuple[list[str], list[list[Cell]]]:
    """Headings, and one row for each method: F1, difference with interval, decision, and costs with ratios."""
    arms = comparison.arms
    contrasts = {contrast.arm.name: contrast for contrast in comparison.contrasts}
    costs = shown(Place.VERDICT, (key for arm in arms for run in arm.best.runs for key in run.metrics))
    costs = [entry for entry in costs if entry.key != TRAINABLE]
    priced = any(run_price(run) is not None for arm in arms for run in every_run(arm))
    rows = []
    for arm in arms:
        contrast = contrasts.get(arm.name)
        row = [Cell(arm.name), _f1_cell(arm, comparison), *_difference_cells(contrast, comparison)]
        base = None if contrast is None else contrast.base
        row += [_cell(entry, arm, base) for entry in costs]
        if priced:
            for price in (price_of_a_run, price_of_tuning):
                cell = _price(price(arm))
                row.append(cell if base is None else _related(cell, _price(price(base))))
        rows.append(row)
    more = ["price of a run", "price of tuning"] if priced else []
    return ["method", "F1", "difference [95 %]", "decision", *(entry.column for entry in costs), *more], rows


def _f1_cell(arm: Arm, comparison: Comparison) -> Cell:
    """The F1 that the verdict is based on, ± its standard deviation over seeds."""
    scores = comparison.scored[arm.name]
    value, std = f1_of(arm, comparison), None if scores is None else scores.std("f1")
    return Cell(f"{value:.1f}" + (f" ± {std:.1f}" if std is not None else ""), value=value)


def _difference_cells(contrast: Contrast | None, comparison: Comparison) -> list[Cell]:
    """The cells for the difference to the baseline and for the decision."""
    if contrast is None:
        return [Cell(NOTHING), Cell("baseline" if comparison.contrasts else NOTHING)]
    if not contrast.differences:
        return [Cell(NOTHING), Cell(short(contrast, comparison.margin))]
    f1 = contrast.differences["f1"]
    text = interval(f1, decimals(f1, comparison.margin))
    return [Cell(text, value=f1.mean), Cell(short(contrast, comparison.margin))]


def _price(value: float | None) -> Cell:
    return Cell(NOTHING) if value is None else Cell(f"{value:,.2f}" if value >= 0.1 else f"{value:.2g}", value=value)


def _related(cell: Cell, base: Cell) -> Cell:
    if not cell.value or not base.value:
        return cell
    return Cell(cell.text, ratio(cell.value / base.value), cell.value)


def spending(comparison: Comparison) -> tuple[list[str], list[list[Cell]]]:
    """Headings, and one row for each method with what a settled sweep spent on it in each phase.

    The last row is the sum over all methods. Both lists are empty for runs of other sweeps.
    """
    spent = comparison.spent
    if not spent:
        return [], []
    phases = [phase for phase in PHASES if any(part.phase == phase for part in spent)]
    priced = any(part.price is not None for part in spent)
    rows = []
    for name in (*dict.fromkeys(part.arm for part in spent), ALL_METHODS):
        parts = [part for part in spent if name in (part.arm, ALL_METHODS)]
        by_phase = [_spent_cell([part for part in parts if part.phase == phase]) for phase in phases]
        row = [Cell(name), *by_phase, _spent_cell(parts)]
        rows.append([*row, _price(together(parts, name, "").price)] if priced else row)
    return ["method", *phases, "together", *(["price"] if priced else [])], rows


def _spent_cell(parts: list[Spent]) -> Cell:
    """A cell such as `4 runs, 12 min (1 cut short)`."""
    if not parts:
        return Cell(NOTHING)
    spent = together(parts, "", "")
    text = count(spent.runs, "run") + ("" if spent.seconds is None else f", {duration(spent.seconds)}")
    notable = [
        f"{number} {what}" for number, what in ((spent.cut_short, "cut short"), (spent.failed, "failed")) if number
    ]
    return Cell(text + (f" ({', '.join(notable)})" if notable else ""), value=spent.seconds)


# The conditions of the runs: label and value.
CONDITIONS: list[tuple[str, Callable[[Result], str]]] = [
    ("data", lambda run: run.params.get("dataset.name", "")),
    ("split", lambda run: run.params.get("dataset.split", "")),
    ("training questions", lambda run: f"{run.inputs.get('train', ('', 0))[1]:,}"),
    ("validation questions", lambda run: f"{run.inputs.get('validation', ('', 0))[1]:,}"),
    ("test questions", lambda run: f"{run.inputs['test'][1]:,}" if "test" in run.inputs else ""),
    ("model", lambda run: run.params.get("model.name", "")),
    ("batch", lambda run: run.params.get("train.batch_size", "")),
    ("hardware", lambda run: run.tags.get("hardware", "")),
    ("machine", lambda run: run.tags.get("host", "")),
    ("versions", lambda run: run.tags.get("versions", "")),
    ("code", lambda run: run.tags.get("git_commit", "")[:12]),
]


def conditions(comparison: Comparison) -> list[tuple[str, str]]:
    """Label and value of each condition of the runs at the best settings; all values where they differ."""
    runs = [run for arm in comparison.arms for run in arm.best.runs]
    known = [(label, dict.fromkeys(value for run in runs if (value := read(run)))) for label, read in CONDITIONS]
    return [(label, "; ".join(values)) for label, values in known if values]


def all_runs(comparison: Comparison) -> tuple[list[str], list[list[Cell]]]:
    """Headings, and one row for each finished run."""
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


def subject(comparison: Comparison) -> list[str]:
    """The subject of the comparison: data, model, sizes and seeds."""
    runs = [run for arm in comparison.arms for run in arm.best.runs]
    parts = [_listed(run.params.get(key, "") for run in runs) for key in ("dataset.name", "model.name")]
    sizes = [
        f"{_range(counts)} {name}"
        for context, name in (("train", "training"), ("validation", "validation"), ("test", "test"))
        if (counts := {run.inputs[context][1] for run in runs if context in run.inputs})
    ]
    if sizes:
        parts.append(f"{' / '.join(sizes)} questions")
    seeds = sorted({run.seed for run in runs if run.seed}, key=lambda seed: (len(seed), seed))
    if seeds:
        parts.append(
            f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}" if len(seeds) < 7 else f"{len(seeds)} seeds"
        )
    return [each for each in parts if each]


def _listed(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(value for value in values if value))


def _range(counts: set[int]) -> str:
    return f"{min(counts):,}" if len(counts) == 1 else f"{min(counts):,} to {max(counts):,}"


def as_csv(comparison: Comparison) -> str:
    """The side-by-side table as CSV: for each arm a column of values, and for each pair a column of ratios."""
    table = side_by_side(comparison)
    bases = [(table.arms.index(arm), base) for arm, base in base_columns(comparison).items()]
    rows = [["", *table.arms, *(f"{table.arms[arm]} / {table.arms[base]}" for arm, base in bases)]]
    for label, cells in table.rows:
        values = [cell.value for cell in cells]
        quotients = [a / b if (a := values[arm]) is not None and (b := values[base]) else None for arm, base in bases]
        texts = [cell.text if cell.value is None and cell.text != NOTHING else None for cell in cells]
        shown = [*(text or _exact(value) for text, value in zip(texts, values, strict=True)), *map(_exact, quotients)]
        rows.append([label, *shown])
    return csv_text(rows)


def _exact(value: float | None) -> str:
    return "" if value is None else repr(value)
