"""The figures of a comparison that show questions, in plotly: which method answers which, and by kind of question."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pandas as pd

from src.metrics import F1, metric
from src.report.arms import Arm
from src.report.comparison import Comparison
from src.report.drawing import COLOURS, Part, Plot, error_bars, escaped, marker_style, new_figure, wrapped
from src.report.groups import groups, in_order


def right(arm: Arm, ids: pd.Index) -> np.ndarray | None:
    """Whether more than half of the arm's best runs are an exact match on each question, shape (questions,)."""
    scores = arm.best.scores(ids)
    return None if scores is None else scores[0].mean(0) > 50


def scored_alike(comparison: Comparison) -> list[list[Arm]]:
    """Group the arms by the questions that they are scored on."""
    groups: dict[tuple[str, frozenset[str]], list[Arm]] = defaultdict(list)
    for arm in comparison.arms:
        split = arm.best.scored_on
        groups[split, frozenset(arm.digests(split))].append(arm)
    return list(groups.values())


def agreement(comparison: Comparison) -> Plot | None:
    """Plot how many questions arm and baseline both answer, one of them, or neither; None without such contrasts."""
    names, counts = [], []
    for contrast in comparison.contrasts:
        table = contrast.base.best.questions
        both = [] if table is None else [right(arm, table.index) for arm in (contrast.base, contrast.arm)]
        answered = [answers for answers in both if answers is not None]
        if len(answered) < 2:
            continue
        a, b = answered
        names.append(wrapped(contrast.arm.name, 14))
        counts.append([(a & b).sum(), (~a & b).sum(), (a & ~b).sum(), (~a & ~b).sum()])
    if not names:
        return None
    split = comparison.baseline.best.scored_on
    lines = sum(name.count("<br>") + 1 for name in names)
    figure = new_figure(f"{split} questions", "", height=90 + 26 * len(names) + 16 * lines, barmode="stack")
    labels = ("both right", "the method alone", f"{wrapped(comparison.baselines)} alone", "neither")
    for i, (label, pattern) in enumerate(zip(labels, ("", "/", "\\", ""), strict=True)):
        figure.add_bar(
            y=names,
            x=[int(row[i]) for row in counts],
            orientation="h",
            name=label,
            marker={
                "color": (COLOURS[2], COLOURS[1], COLOURS[0], "#BBBBBB")[i],
                "pattern": {"shape": pattern, "fillmode": "overlay"},
            },
            text=[int(row[i]) for row in counts],
            textangle=0,
            hovertemplate=f"%{{y}}, {label}<br>%{{x:,}} questions<extra></extra>",
        )
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(legend_traceorder="normal", uniformtext={"minsize": 11, "mode": "hide"})
    about = (
        f"Exact match on the {split} questions; with several seeds a question counts as right where more than half of "
        "them are."
    )
    return Plot("agreement", f"Agreement with {comparison.baselines}", about, figure, Part.QUESTIONS)


def by_kind(comparison: Comparison) -> list[Plot]:
    """Plot F1 by question word, answer length and passage length, for each set of questions."""
    sets = scored_alike(comparison)
    made = []
    for number, arms in enumerate(sets):
        shared = [label for label in arms[0].group if all(label in arm.group for arm in arms)]
        of = f", {' '.join(shared)}" if len(sets) > 1 else ""
        looks = [marker_style(comparison.arms.index(arm)) for arm in arms]
        made += _by_kind(arms, looks, f"_{number}" if number else "", of)
    return made


def _by_kind(arms: list[Arm], looks: list[dict[str, Any]], suffix: str, of: str) -> list[Plot]:
    table, split = arms[0].best.texts, arms[0].best.scored_on
    if table is None:
        return []
    answered = zip(arms, looks, [arm.best.scores(table.index) for arm in arms], strict=True)
    scores = [(arm.name, look, each[1].mean(0)) for arm, look, each in answered if each is not None]
    kinds = {
        "by_question": "question word",
        "by_answer": "words in the answer",
        "by_passage": "words in the passage",
    }
    made = []
    for name, label in kinds.items():
        values = groups(table, label)
        counts = pd.Series(values).value_counts()
        order = in_order(label, values)
        height = 60 + len(order) * (16 + 14 * len(scores))
        figure = new_figure(f"{split} {metric(F1).axis}", "", height=height, scattermode="group")
        lows: list[float] = []
        highs: list[float] = []
        for arm, look, f1 in scores:
            kind = pd.Series(f1).groupby(np.array(values))
            means, errors = kind.mean(), kind.std().fillna(0.0) / np.sqrt(kind.count())
            lows.append(float((means - errors).min()))
            highs.append(float((means + errors).max()))
            figure.add_scatter(
                x=[round(float(means[each]), 2) for each in order],
                y=[f"{each} ({counts[each]:,})" for each in order],
                error_x=error_bars([float(errors[each]) for each in order]),
                orientation="h",
                mode="markers",
                name=wrapped(arm),
                marker=look,
                hovertemplate=f"{escaped(arm)}<br>%{{y}}<br>F1 %{{x:.1f}}<extra></extra>",
            )
        figure.update_yaxes(autorange="reversed")
        figure.update_xaxes(range=[max(0.0, min(lows) - 1), min(100.0, max(highs) + 1)] if lows else None)
        about = (
            f"Mean F1 on the {split} questions (their number in brackets) over the seeds at the best setting; bars are "
            "one standard error over questions. Means of small groups are uncertain."
        )
        made.append(Plot(name + suffix, f"F1 by {label}{of}", about, figure, Part.QUESTIONS))
    return made
