"""The figures of a comparison that show questions, in plotly: who answers which, and what kinds are hard."""

from __future__ import annotations

import re
from collections import defaultdict

import numpy as np
import pandas as pd

from src.metrics import F1, metric
from src.report.arms import Arm
from src.report.comparison import Comparison
from src.report.drawing import COLOURS, Plot, at_height, escaped, new_figure

FIRST_WORDS = ("how many", "how much", "how", "what", "which", "who", "when", "where", "why")
ALSO_WHO = ("whom", "whose")


def right(arm: Arm, ids: pd.Index) -> np.ndarray | None:
    """Whether more than half of the arm's best runs answered each question exactly, (questions,)."""
    scores = arm.best.scores(ids)
    return None if scores is None else scores[0].mean(0) > 50


def agreement(comparison: Comparison) -> Plot | None:
    names, counts = [], []
    for contrast in comparison.contrasts:
        table = contrast.base.best.questions
        both = [] if table is None else [right(arm, table.index) for arm in (contrast.base, contrast.arm)]
        found = [answers for answers in both if answers is not None]
        if len(found) < 2:
            continue
        a, b = found
        names.append(escaped(contrast.arm.name))
        counts.append([(a & b).sum(), (~a & b).sum(), (a & ~b).sum(), (~a & ~b).sum()])
    if not names:
        return None
    figure = new_figure("questions", "", barmode="stack")
    labels = ("both right", "the method alone", f"{escaped(comparison.baselines)} alone", "neither")
    for i, (label, pattern) in enumerate(zip(labels, ("", "/", "\\", "."), strict=True)):
        figure.add_bar(
            y=names,
            x=[int(row[i]) for row in counts],
            orientation="h",
            name=label,
            marker={"color": (COLOURS[2], COLOURS[1], COLOURS[0], "#BBBBBB")[i], "pattern": {"shape": pattern}},
            text=[int(row[i]) for row in counts],
            hovertemplate=f"%{{y}}, {label}<br>%{{x:,}} questions<extra></extra>",
        )
    figure.update_layout(height=170 + 45 * len(names), margin_l=110, legend_traceorder="normal")
    about = "Exact match; with several seeds a question counts as right where more than half of them are."
    return Plot("agreement", f"Agreement with {comparison.baselines}", about, figure)


def kind_of_question(question: str) -> str:
    """The question word, wherever it stands; `other` where there is none."""
    text = question.lower()
    found = [(m.start(), word) for word in FIRST_WORDS if (m := re.search(rf"\b{word}\b", text))]
    found += [(m.start(), "who") for word in ALSO_WHO if (m := re.search(rf"\b{word}\b", text))]
    return min(found, key=lambda item: (item[0], -len(item[1])))[1] if found else "other"


def _length(words: int, edges: tuple[int, ...]) -> str:
    low = 1
    for edge in edges:
        if words <= edge:
            return str(edge) if low == edge else f"{low} - {edge}"
        low = edge + 1
    return f"{low} or more"


def by_kind(comparison: Comparison) -> list[Plot]:
    """F1 by question word, by length of the answer and by length of the passage, for each set of questions."""
    scored_alike: dict[frozenset[str], list[Arm]] = defaultdict(list)
    for arm in comparison.arms:
        scored_alike[frozenset(arm.digests("validation"))].append(arm)
    made = []
    for number, arms in enumerate(scored_alike.values()):
        of = f", {' '.join(arms[0].group)}" if len(scored_alike) > 1 else ""
        made += _by_kind(arms, f"_{number}" if number else "", of)
    return made


def _by_kind(arms: list[Arm], suffix: str, of: str) -> list[Plot]:
    table = arms[0].best.texts
    if table is None:
        return []
    scores = {arm.name: own[1].mean(0) for arm in arms if (own := arm.best.scores(table.index)) is not None}
    shortest = [min((len(a.split()) for a in answers), default=0) for answers in table["answers"]]
    kinds = {
        "by_question": ("question word", [kind_of_question(question) for question in table["question"]]),
        "by_answer": ("words in the answer", [_length(n, (1, 2, 4, 8)) if n else "none" for n in shortest]),
        "by_passage": (
            "words in the passage",
            [_length(len(c.split()), (80, 120, 160, 240)) for c in table["context"]],
        ),
    }
    made = []
    for name, (label, values) in kinds.items():
        counts = pd.Series(values).value_counts()
        order = list(counts.index) if name == "by_question" else sorted(counts.index, key=_first_number)
        figure = new_figure(f"{label} (number of questions)", metric(F1).axis, barmode="group")
        for number, (arm, f1) in enumerate(scores.items()):
            means = pd.Series(f1).groupby(np.array(values)).mean()
            figure.add_bar(
                x=[f"{kind} ({counts[kind]:,})" for kind in order],
                y=[round(float(means[kind]), 2) for kind in order],
                name=escaped(arm),
                marker={
                    "color": COLOURS[number % len(COLOURS)],
                    "pattern": {"shape": ("", "/", "\\", "x", ".", "-", "|", "+")[number % 8]},
                },
                hovertemplate=f"{escaped(arm)}<br>%{{x}}<br>{at_height(metric(F1))}<extra></extra>",
            )
        about = "Mean over the seeds at the best setting. Groups of few questions say little."
        made.append(Plot(name + suffix, f"F1 by {label}{of}", about, figure))
    return made


def _first_number(text: str) -> int:
    found = re.match(r"\d+", text)
    return int(found.group()) if found else 0
