"""The report page: one file that opens from disk, with plotly inside, packed, so that it stays small."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from src.report import tables
from src.report.arms import Arm
from src.report.comparison import Comparison
from src.report.plots import Plot
from src.report.statistics import RESAMPLES
from src.report.verdict import verdict

EXAMPLES = 12  # questions shown for each method


def render(comparison: Comparison, plots: list[Plot], examples: int = EXAMPLES) -> str:
    """The page's HTML; whatever a data set or a run's name holds is text in it.

    Args:
        comparison: what it tells.
        plots: its figures.
        examples: questions shown for each method, with their passages; with 0 the page holds no text of the data set.
    """
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    headings, runs = tables.all_runs(comparison)
    # plotly's own JSON, in which what is no number is null. In a script, `<` alone could end it.
    figures = "{" + ",".join(f"{json.dumps(plot.name)}:{plot.figure.to_json()}" for plot in plots) + "}"
    packed = base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode()
    return environment.get_template("page.html").render(
        comparison=comparison,
        verdict=verdict(comparison),
        conditions=tables.conditions(comparison),
        table=tables.side_by_side(comparison),
        headings=headings,
        runs=runs,
        plots=plots,
        apart=differing_most(comparison, examples),
        wrong=[] if comparison.contrasts or not comparison.arms else wrong_answers(comparison.baseline, examples),
        resamples=RESAMPLES,
        figures=Markup(figures.replace("<", "\\u003c")),
        plotly=Markup(packed),
    )


def wrong_answers(arm: Arm, shown: int = EXAMPLES) -> list[dict[str, Any]]:
    """Questions that the first run of an arm got wholly wrong, taken from all over the set."""
    table = arm.best.texts
    if table is None or shown == 0:
        return []
    wrong = table[table["f1"] == 0]
    chosen = wrong.iloc[:: max(1, -(-len(wrong) // shown))]
    return [{str(key): value for key, value in row.items()} for row in chosen.to_dict("records")]


def differing_most(comparison: Comparison, shown: int = EXAMPLES) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """Arm, baseline and the questions where their F1 are furthest apart, half of them each way."""
    found = []
    for contrast in comparison.contrasts:
        table, answers = contrast.base.best.texts, contrast.arm.best.texts
        own = None if table is None else contrast.arm.best.scores(table.index)
        of_base = None if table is None else contrast.base.best.scores(table.index)
        if table is None or own is None or of_base is None or answers is None:
            continue
        f1, base_f1 = own[1].mean(0), of_base[1].mean(0)
        order = np.argsort(f1 - base_f1, kind="stable")
        fewer = shown // 2
        rows = [
            {
                **{key: table[key].iloc[i] for key in ("question", "context", "answers")},
                "own": f1[i],
                "base": base_f1[i],
                "own_answer": answers["predicted"].loc[table.index[i]],
                "base_answer": table["predicted"].iloc[i],
            }
            for i in [*order[::-1][: shown - fewer], *order[:fewer]]
            if f1[i] != base_f1[i]
        ]
        if rows:
            found.append((contrast.arm.name, contrast.base.name, rows))
    return found
