"""The report page: a single HTML file that works offline. It contains plotly, compressed to keep the file small."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from src.harmless import harmless
from src.metrics import F1, metric
from src.report import tables, verdict
from src.report.arms import Arm
from src.report.comparison import Comparison
from src.report.drawing import Part, Plot
from src.report.plots import scored_on
from src.report.words import unbroken

EXAMPLES = 12  # questions shown for each method
FIRST_WARNINGS = 2  # warnings on the first screen
LONGEST_TITLE = 48  # characters: two lines on a phone


def render(comparison: Comparison, plots: list[Plot], examples: int = EXAMPLES) -> str:
    """Render the page as HTML. Names of runs and texts of the data set are escaped.

    Args:
        comparison: to show.
        plots: the figures.
        examples: questions shown for each method, with their passages; with 0 the page holds no text of the data set.
    """
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, finalize=_harmless)
    # plotly's JSON writes NaN as null. Within a script element, `<` must be escaped.
    figures = "{" + ",".join(f"{json.dumps(plot.name)}:{plot.figure.to_json()}" for plot in plots) + "}"
    recommendation = verdict.recommendation(comparison)
    packed = base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode()
    return environment.get_template("page.html").render(
        comparison=comparison,
        question=question(comparison),
        setup=tables.subject(comparison),
        headline=unbroken(recommendation.headline),
        next_command=recommendation.next_command,
        overview=tables.overview(comparison),
        warnings=[unbroken(warning.text) for warning in comparison.warnings],
        first=FIRST_WARNINGS,
        verdict=[[unbroken(sentence) for sentence in finding] for finding in verdict.verdict(comparison)],
        conditions=[*tables.conditions(comparison), *made_with(comparison)],
        table=tables.side_by_side(comparison),
        kinds=tables.kinds_of_answers(comparison),
        runs=_best_first(*tables.all_runs(comparison)),
        parts={part: list(members) for part, members in groupby(plots, key=lambda plot: plot.part)},
        Part=Part,
        split=scored_on(comparison) if comparison.arms else "",
        apart=differing_most(comparison, examples),
        wrong=[] if comparison.contrasts or not comparison.arms else wrong_answers(comparison.baseline, examples),
        protocol=verdict.protocol(comparison),
        spent=verdict.spent(comparison),
        spending=tables.spending(comparison),
        unit=next((contrast.basis.unit for contrast in comparison.contrasts if contrast.basis is not None), ""),
        figures=Markup(figures.replace("<", "\\u003c")),  # JSON in which no tag can end  # nosec B704
        plotly=Markup(packed),  # base64  # nosec B704
    )


def _harmless(value: Any) -> Any:
    """A value for the page; text gets no characters that change the direction of writing, Markup stays as it is."""
    return harmless(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def question(comparison: Comparison) -> str:
    """The question that the page answers: `Full fine-tuning or LoRA?`."""
    methods = list(dict.fromkeys(verdict.method_name(arm) for arm in comparison.arms)) or list(comparison.empty)
    if len(methods) < 2:
        # With one method, the data sets or models are compared.
        methods = list(dict.fromkeys(" ".join(arm.group) for arm in comparison.arms if arm.group)) or methods
    if len(methods) < 2:
        return f"{methods[0]} alone" if methods else comparison.title
    first, *others = methods
    asked = f"{', '.join(methods[:-1])} or {methods[-1]}?"
    if len(asked) > LONGEST_TITLE and len(others) > 1:
        asked = f"{first} or one of {len(others)} others?"
    return asked[0].upper() + asked[1:] if first in verdict.DISPLAYED.values() else asked


def made_with(comparison: Comparison) -> list[tuple[str, str]]:
    """Rows with the sweep, the digests of the data, and the date and version of the report."""
    runs = [run for arm in comparison.arms for run in arm.best.runs]
    digests = {
        f"digest of the {context} questions": _listed(run.inputs[context][0] for run in runs if context in run.inputs)
        for context in ("train", "validation", "test")
    }
    try:
        maker = f", by tuneoff {version('tuneoff')}"
    except PackageNotFoundError:
        maker = ""
    made = f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}{maker}"
    return [("sweep", comparison.title), *((k, v) for k, v in digests.items() if v), ("report made", made)]


def _listed(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(value for value in values if value))


def _best_first(headings: list[str], rows: list[list[tables.Cell]]) -> tuple[list[str], list[list[tables.Cell]], int]:
    """The runs sorted by F1, the best first, and the column of F1 (counted from 1; 0 where no run has it)."""
    name = metric(F1).column
    if name not in headings:
        return headings, rows, 0
    column = headings.index(name)

    def f1(row: list[tables.Cell]) -> float:
        value = row[column].value
        return -1.0 if value is None else value

    return headings, sorted(rows, key=f1, reverse=True), column + 1


def wrong_answers(arm: Arm, shown: int = EXAMPLES) -> list[dict[str, Any]]:
    """Questions on which the first run of an arm scored 0, spread evenly over the set."""
    table = arm.best.texts
    if table is None or shown == 0:
        return []
    wrong = table[table["f1"] == 0]
    chosen = wrong.iloc[:: max(1, -(-len(wrong) // shown))]
    return [{str(key): value for key, value in row.items()} for row in chosen.to_dict("records")]


def differing_most(comparison: Comparison, shown: int = EXAMPLES) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """For each contrast the names of arm and baseline, and the questions on which their F1 differ most.

    Half of the questions are in favour of the arm, the other half in favour of the baseline.
    """
    pairs = []
    for contrast in comparison.contrasts:
        table, answers = contrast.base.best.texts, contrast.arm.best.texts
        of_arm = None if table is None else contrast.arm.best.scores(table.index)
        of_base = None if table is None else contrast.base.best.scores(table.index)
        if table is None or of_arm is None or of_base is None or answers is None:
            continue
        f1, base_f1 = of_arm[1].mean(0), of_base[1].mean(0)
        order = np.argsort(f1 - base_f1, kind="stable")
        fewer = shown // 2
        rows = [
            {
                **{key: table[key].iloc[i] for key in ("question", "context", "answers")},
                "f1": f1[i],
                "base_f1": base_f1[i],
                "answer": answers["predicted"].loc[table.index[i]],
                "base_answer": table["predicted"].iloc[i],
            }
            for i in [*order[::-1][: shown - fewer], *order[:fewer]]
            if f1[i] != base_f1[i]
        ]
        if rows:
            pairs.append((contrast.arm.name, contrast.base.name, rows))
    return pairs
