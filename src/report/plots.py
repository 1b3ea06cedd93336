"""The figures of a comparison, in plotly. Colours are Okabe and Ito's, which the colour-blind tell apart; each method
has a dash and a marker of its own besides, for print.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from src.report.arms import Arm
from src.report.comparison import Comparison

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D00")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
MARKERS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "triangle-down")
MOST_POINTS = 400  # of a curve: more cannot be told apart
FIRST_WORDS = ("how many", "how much", "how", "what", "which", "who", "when", "where", "why")
ALSO_WHO = ("whom", "whose")


@dataclass(frozen=True)
class Plot:
    """A figure with what is read aloud in its place."""

    name: str
    title: str
    about: str
    figure: go.Figure


def plots(comparison: Comparison) -> list[Plot]:
    """All figures that the runs have something for."""
    if not comparison.arms:
        return []
    made: list[Plot] = []
    for make in (loss_by_step, loss_by_second, score_by_epoch, f1_by_rate, f1_by_size, differences, *PARETO, agreement):
        if (plot := make(comparison)) is not None:
            made.append(plot)
    return made + by_kind(comparison)


def _text(text: str) -> str:
    """Plotly reads names as a kind of HTML."""
    return html.escape(text, quote=False)


def _line(number: int) -> dict[str, Any]:
    return {"color": COLOURS[number % len(COLOURS)], "dash": DASHES[number % len(DASHES)], "width": 2}


def _marker(number: int) -> dict[str, Any]:
    return {"color": COLOURS[number % len(COLOURS)], "symbol": MARKERS[number % len(MARKERS)], "size": 9}


def _figure(x: str, y: str, **layout: Any) -> go.Figure:
    figure = go.Figure()
    figure.update_layout(
        template="plotly_white",
        font={"family": "system-ui, sans-serif", "size": 13, "color": "#1a1a1a"},
        margin={"l": 60, "r": 16, "t": 16, "b": 56},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        xaxis_title=x,
        yaxis_title=y,
        height=380,
        **layout,
    )
    return figure


def _loss(comparison: Comparison, column: str, unit: str, name: str) -> Plot | None:
    figure = _figure(unit, "training loss (nats), smoothed", hovermode="x")
    for number, arm in enumerate(comparison.arms):
        for i, run in enumerate(arm.best.runs):
            curve = run.history("train/loss")
            if curve.empty:
                continue
            curve["value"] = curve["value"].ewm(span=max(1, len(curve) // 50)).mean()
            curve = curve.iloc[np.unique(np.linspace(0, len(curve) - 1, MOST_POINTS).astype(int))]
            figure.add_scatter(
                x=curve[column].round(2).tolist(),
                y=curve["value"].round(4).tolist(),
                mode="lines",
                line=_line(number) | {"width": 2 if i == 0 else 1},
                name=_text(arm.name),
                legendgroup=arm.name,
                showlegend=i == 0,
                hovertemplate=f"{_text(arm.name)}, seed {_text(run.seed)}<br>%{{x}} {unit}<br>loss %{{y:.3f}}"
                "<extra></extra>",
            )
    if not figure.data:
        return None
    where = "steps" if column == "step" else "wall time, evaluations included"
    return Plot(name, f"Training loss over {where}", "One line a seed of each method at its best setting.", figure)


def loss_by_step(comparison: Comparison) -> Plot | None:
    return _loss(comparison, "step", "optimizer steps", "loss_by_step")


def loss_by_second(comparison: Comparison) -> Plot | None:
    return _loss(comparison, "seconds", "seconds", "loss_by_second")


def score_by_epoch(comparison: Comparison) -> Plot | None:
    figure = _figure("epoch (0: untrained)", "F1 and exact match (%)", hovermode="x")
    for number, arm in enumerate(comparison.arms):
        for metric, label in (("eval/f1", "F1"), ("eval/exact_match", "EM")):
            curves = [curve for run in arm.best.runs if not (curve := run.history(metric)).empty]
            if not curves:
                continue
            means = pd.concat(curves).groupby("step")["value"].mean()
            figure.add_scatter(
                x=means.index.tolist(),
                y=means.round(2).tolist(),
                mode="lines+markers",
                line=_line(number) | ({"dash": "dot"} if label == "EM" else {"dash": "solid"}),
                marker=_marker(number),
                name=f"{_text(arm.name)} {label}",
                hovertemplate=f"{_text(arm.name)}<br>epoch %{{x}}<br>{label} %{{y:.1f}}<extra></extra>",
            )
    if not figure.data:
        return None
    figure.update_xaxes(dtick=1)
    about = "Mean over the seeds of each method at its best setting; exact match is dotted."
    return Plot("score_by_epoch", "Exact match and F1 by epoch", about, figure)


def f1_by_rate(comparison: Comparison) -> Plot | None:
    if all(len(arm.rates) == 1 for arm in comparison.arms):
        return None
    figure = _figure("learning rate", "F1 (%)")
    figure.update_xaxes(type="log", exponentformat="power")
    for number, arm in enumerate(comparison.arms):
        best: dict[float, Any] = {}
        for trial in arm.trials:
            f1 = trial.mean("quality/f1")
            if f1 is not None and f1 > best.get(trial.rate, (-1.0,))[0]:
                best[trial.rate] = (f1, trial.deviation("quality/f1") or 0.0, len(trial.runs))
        rates = sorted(best)
        figure.add_scatter(
            x=rates,
            y=[round(best[rate][0], 2) for rate in rates],
            error_y={"type": "data", "array": [round(best[rate][1], 2) for rate in rates], "thickness": 1},
            customdata=[best[rate][2] for rate in rates],
            mode="lines+markers",
            line=_line(number),
            marker=_marker(number),
            name=_text(arm.name),
            hovertemplate=f"{_text(arm.name)}<br>rate %{{x:.2g}}<br>F1 %{{y:.1f}}, runs: %{{customdata}}"
            "<extra></extra>",
        )
    about = "The best of the settings at each rate, mean over seeds; bars are one standard deviation."
    return Plot("f1_by_rate", "F1 against the learning rate", about, figure)


def f1_by_size(comparison: Comparison) -> Plot | None:
    curves: dict[str, dict[int, tuple[float, float]]] = {}
    for arm in comparison.arms:
        line = " ".join(label for key, label in arm.labels.items() if key != "dataset.train_size")
        f1 = arm.best.mean("quality/f1")
        if f1 is not None:
            curves.setdefault(line, {})[arm.best.examples] = (f1, arm.best.deviation("quality/f1") or 0.0)
    if all(len(curve) == 1 for curve in curves.values()):
        return None
    figure = _figure("training questions", "F1 (%)")
    figure.update_xaxes(type="log", tickvals=sorted({size for curve in curves.values() for size in curve}))
    for number, (line, curve) in enumerate(curves.items()):
        sizes = sorted(curve)
        figure.add_scatter(
            x=sizes,
            y=[round(curve[size][0], 2) for size in sizes],
            error_y={"type": "data", "array": [round(curve[size][1], 2) for size in sizes], "thickness": 1},
            mode="lines+markers",
            line=_line(number),
            marker=_marker(number),
            name=_text(line),
            hovertemplate=f"{_text(line)}<br>%{{x:,}} questions<br>F1 %{{y:.1f}}<extra></extra>",
        )
    about = "Each method at the best setting it has at that size, mean over seeds; bars are one standard deviation."
    return Plot("f1_by_size", "F1 against the number of training questions", about, figure)


def differences(comparison: Comparison) -> Plot | None:
    tested = [contrast for contrast in comparison.contrasts if contrast.differences]
    if not tested:
        return None
    figure = _figure("difference (points)", "")
    for number, (score, label) in enumerate((("f1", "F1"), ("exact_match", "exact match"))):
        found = [contrast.differences[score] for contrast in tested]
        figure.add_scatter(
            x=[d.mean for d in found],
            y=[f"{_text(contrast.arm.name)}, {label}" for contrast in tested],
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [d.high - d.mean for d in found],
                "arrayminus": [d.mean - d.low for d in found],
            },
            mode="markers",
            marker=_marker(number),
            name=label,
            hovertemplate="%{y}<br>%{x:+.2f}<extra></extra>",
        )
    figure.add_vline(x=0, line={"color": "#1a1a1a", "width": 1})
    figure.update_layout(height=160 + 50 * len(tested), margin_l=140)
    about = "Means with 95 % intervals. An interval over the line at zero shows no difference."
    return Plot("differences", f"Differences to {comparison.baselines}", about, figure)


def _pareto(metric: str, label: str, name: str) -> Callable[[Comparison], Plot | None]:
    def make(comparison: Comparison) -> Plot | None:
        figure = _figure(label, "F1 (%)")
        figure.update_xaxes(type="log")
        points: list[tuple[float, float]] = []
        for number, arm in enumerate(comparison.arms):
            rows = [
                (cost, f1, trial.rate)
                for trial in arm.trials
                if (cost := trial.mean(metric)) and (f1 := trial.mean("quality/f1")) is not None
            ]
            if not rows:
                continue
            points += [(cost, f1) for cost, f1, _ in rows]
            figure.add_scatter(
                x=[cost for cost, *_ in rows],
                y=[round(f1, 2) for _, f1, _ in rows],
                customdata=[rate for *_, rate in rows],
                mode="markers",
                marker=_marker(number),
                name=_text(arm.name),
                hovertemplate=f"{_text(arm.name)}, rate %{{customdata:.2g}}<br>{label} %{{x:,.4g}}<br>F1 %{{y:.1f}}"
                "<extra></extra>",
            )
        if len(points) < 2:
            return None
        front = pareto_front(points)
        figure.add_scatter(
            x=[cost for cost, _ in front],
            y=[round(f1, 2) for _, f1 in front],
            mode="lines",
            line={"color": "#777777", "width": 1, "shape": "hv"},
            name="nothing better for less",
            hoverinfo="skip",
        )
        about = "One point a setting; on the line is what no other setting beats in F1 at the same cost or less."
        return Plot(name, f"F1 against {label}", about, figure)

    return make


PARETO = [
    _pareto("params/trainable", "trained parameters", "pareto_parameters"),
    _pareto("memory/peak_train_mb", "peak memory (MB)", "pareto_memory"),
    _pareto("time/train_seconds", "training time (s)", "pareto_time"),
    _pareto("storage/checkpoint_mb", "stored size (MB)", "pareto_storage"),
]


def pareto_front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (cost, gain) points that no other has more gain than at the same cost or less, by cost."""
    front: list[tuple[float, float]] = []
    for cost, gain in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or gain > front[-1][1]:
            front.append((cost, gain))
    return front


# --- question by question


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
        names.append(_text(contrast.arm.name))
        counts.append([(a & b).sum(), (~a & b).sum(), (a & ~b).sum(), (~a & ~b).sum()])
    if not names:
        return None
    figure = _figure("questions", "", barmode="stack")
    labels = ("both right", "the method alone", f"{_text(comparison.baselines)} alone", "neither")
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
    """F1 by question word, by length of the answer and by length of the passage."""
    table = comparison.baseline.best.questions
    if table is None:
        return []
    scores = {arm.name: own[1].mean(0) for arm in comparison.arms if (own := arm.best.scores(table.index)) is not None}
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
        figure = _figure(f"{label} (number of questions)", "F1 (%)", barmode="group")
        for number, (arm, f1) in enumerate(scores.items()):
            means = pd.Series(f1).groupby(np.array(values)).mean()
            figure.add_bar(
                x=[f"{kind} ({counts[kind]:,})" for kind in order],
                y=[round(float(means[kind]), 2) for kind in order],
                name=_text(arm),
                marker={
                    "color": COLOURS[number % len(COLOURS)],
                    "pattern": {"shape": ("", "/", "\\", "x", ".", "-", "|", "+")[number % 8]},
                },
                hovertemplate=f"{_text(arm)}<br>%{{x}}<br>F1 %{{y:.1f}}<extra></extra>",
            )
        about = f"Mean over the seeds at the best setting; the questions of {comparison.baseline.name}. "
        about += "Groups of few questions say little."
        made.append(Plot(name, f"F1 by {label}", about, figure))
    return made


def _first_number(text: str) -> int:
    found = re.match(r"\d+", text)
    return int(found.group()) if found else 0
