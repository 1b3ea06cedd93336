"""The figures of a comparison that show runs, in plotly: differences, learning rates, sizes, costs and curves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from src.metrics import EVAL_EXACT_MATCH, EVAL_F1, F1, TRAIN_LOSS, TRAINED_SECONDS, Metric, Place, at, metric
from src.report.arms import Arm
from src.report.comparison import Comparison
from src.report.drawing import (
    SHADE,
    SOFT,
    Part,
    Plot,
    at_height,
    cost_axis,
    error_bars,
    escaped,
    line_style,
    log_axis,
    marker_style,
    new_figure,
    rate_text,
    short_number,
    wrapped,
)
from src.report.question_plots import agreement, by_kind, scored_alike

MOST_POINTS = 400  # of a curve: more cannot be distinguished
FEWEST_ON_FRONT = 3  # points: a line through two is meaningless


def plots(comparison: Comparison) -> list[Plot]:
    """All figures for which the runs have data, in the order of the page."""
    if not comparison.arms:
        return []
    made = [differences(comparison), f1_by_rate(comparison), f1_by_size(comparison)]
    made += [f1_by_cost(comparison, cost) for cost in at(Place.PARETO)]
    made += [agreement(comparison), *by_kind(comparison)]
    made += [score_by_epoch(comparison), *loss_by_step(comparison), *loss_by_second(comparison)]
    return [plot for plot in made if plot is not None]


def differences(comparison: Comparison) -> Plot | None:
    """Plot the differences in F1 with their intervals, and the margin."""
    tested = {c.arm.name: c.differences["f1"] for c in comparison.contrasts if c.differences}
    if not tested:
        return None
    margin, base = comparison.margin, comparison.baselines
    shown = list(tested.values())
    ends = [-margin, 0.0, *(d.low for d in shown), *(d.high for d in shown)]
    beyond = 0.08 * (max(ends) - min(ends))
    left, right = min(ends) - beyond, max(ends) + beyond
    figure = new_figure(f"difference in F1 from {escaped(base)} (points)", "", height=58 + 36 * len(tested))
    figure.add_vrect(x0=-margin, x1=right, fillcolor=SHADE, line_width=0, layer="below")
    figure.add_vline(x=0, line={"color": SOFT, "width": 1.5})
    figure.add_vline(x=-margin, line={"color": SOFT, "width": 1.5, "dash": "dash"})
    figure.add_scatter(
        x=[d.mean for d in shown],
        y=[escaped(name) for name in tested],
        customdata=[(d.low, d.high) for d in shown],
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [d.high - d.mean for d in shown],
            "arrayminus": [d.mean - d.low for d in shown],
            "thickness": 2,
        },
        mode="markers",
        marker=marker_style(0),
        hovertemplate="%{y}<br>%{x:+.1f} [%{customdata[0]:+.1f}, %{customdata[1]:+.1f}]<extra></extra>",
    )
    for name in tested:  # above its line: there is room at any width
        label = {"text": wrapped(name, 2 * len(name)), "showarrow": False, "yshift": 13}
        figure.add_annotation(x=0, xref="paper", xanchor="left", y=escaped(name), **label)
    figure.update_xaxes(range=[left, right])
    figure.update_yaxes(range=[len(tested) - 0.6, -0.75], showticklabels=False, showgrid=False, automargin=False)
    figure.update_layout(margin={"l": 8, "t": 4}, showlegend=False)
    adjusted = ", adjusted for the number of comparisons" if len(tested) > 1 else ""
    if comparison.schedule is not None and (number := comparison.schedule.adjustment(len(tested))):
        adjusted = f", adjusted for {number}"
    points = "1 point" if margin == 1 else f"{margin:g} points"
    about = (
        f"95 % intervals{adjusted}. Dashed: the margin of {points}. Shaded: at most the margin worse. An interval that "
        "contains zero shows no significant difference."
    )
    return Plot("differences", f"Difference in F1 from {base}", about, figure, Part.ANSWER)


def f1_by_rate(comparison: Comparison) -> Plot | None:
    """Plot the validation F1 against the learning rate; None if each arm tried a single rate."""
    if all(len(arm.rates) == 1 for arm in comparison.arms):
        return None
    figure = new_figure("learning rate", f"validation {metric(F1).axis}")
    tried: set[float] = set()
    for number, arm in enumerate(comparison.arms):
        best: dict[float, Any] = {}
        for trial in arm.trials:
            f1 = trial.average(F1)
            if f1 is not None and f1 > best.get(trial.rate, (-1.0,))[0]:
                best[trial.rate] = (f1, trial.std(F1), len(trial.runs))
        rates = sorted(best)
        tried.update(rate for rate in rates if rate > 0)
        figure.add_scatter(
            x=rates,
            y=[round(best[rate][0], 2) for rate in rates],
            error_y=error_bars([best[rate][1] for rate in rates]),
            customdata=[best[rate][2] for rate in rates],
            mode="lines+markers",
            line=line_style(number),
            marker=marker_style(number),
            name=wrapped(arm.name),
            hovertemplate=f"{escaped(arm.name)}<br>rate %{{x:.2g}}<br>{at_height(metric(F1))}, runs: %{{customdata}}"
            "<extra></extra>",
        )
    if tried:
        figure.update_xaxes(log_axis(tried, rate_text))
    about = (
        "Validation F1, by which rates are chosen: the best of the settings at each rate, mean over seeds; bars are "
        "one standard deviation."
    )
    return Plot("f1_by_rate", "F1 against the learning rate", about, figure, Part.RATES)


def f1_by_size(comparison: Comparison) -> Plot | None:
    """Plot F1 against the number of training questions; None if each arm was trained on a single number."""
    curves: dict[str, dict[int, tuple[float, float | None]]] = {}
    for arm in comparison.arms:
        line = " ".join(label for key, label in arm.labels.items() if key != "dataset.train_size")
        if (score := level(comparison, arm)) is not None and arm.best.examples:
            curves.setdefault(line, {})[arm.best.examples] = score
    if all(len(curve) == 1 for curve in curves.values()):
        return None
    split = scored_on(comparison)
    figure = new_figure("training questions", f"{split} {metric(F1).axis}")
    figure.update_xaxes(log_axis({size for curve in curves.values() for size in curve}, short_number))
    for number, (line, curve) in enumerate(curves.items()):
        sizes = sorted(curve)
        figure.add_scatter(
            x=sizes,
            y=[round(curve[size][0], 2) for size in sizes],
            error_y=error_bars([curve[size][1] for size in sizes]),
            mode="lines+markers",
            line=line_style(number),
            marker=marker_style(number),
            name=wrapped(line),
            hovertemplate=f"{escaped(line)}<br>%{{x:,}} questions<br>{at_height(metric(F1))}<extra></extra>",
        )
    about = (
        f"F1 on the {split} questions of each method at the best setting it has at that size, mean over seeds; bars "
        "are one standard deviation."
    )
    return Plot("f1_by_size", "F1 against the number of training questions", about, figure, Part.RATES)


def f1_by_cost(comparison: Comparison, cost: Metric) -> Plot | None:
    """Plot F1 against a cost, one point for each method, with the Pareto front; None for fewer than two points."""
    split = scored_on(comparison)
    figure = new_figure(cost.axis, f"{split} {metric(F1).axis}")
    points: dict[str, tuple[float, float]] = {}
    for number, arm in enumerate(comparison.arms):
        score, x = level(comparison, arm), arm.best.average(cost.key)
        if score is None or not x or not np.isfinite(x):
            continue
        points[arm.name] = (x, score[0])
        figure.add_scatter(
            x=[x],
            y=[round(score[0], 2)],
            error_x=error_bars([arm.best.std(cost.key)]),
            error_y=error_bars([score[1]]),
            mode="markers",
            marker=marker_style(number),
            name=wrapped(arm.name),
            hovertemplate=f"{escaped(arm.name)}<br>{cost.axis} %{{x:,.4g}}<br>{at_height(metric(F1))}<extra></extra>",
        )
    if len(points) < 2:
        return None
    figure.update_xaxes(cost_axis([x for x, _ in points.values()]))
    about = (
        f"F1 on the {split} questions and the cost of each method at its best setting; bars are one standard deviation "
        "over the seeds."
    )
    for arms in scored_alike(comparison):
        front = pareto_front([points[arm.name] for arm in arms if arm.name in points])
        if len(front) < FEWEST_ON_FRONT:
            continue
        shown = any(trace.name == "Pareto front" for trace in figure.data)
        figure.add_scatter(
            x=[x for x, _ in front],
            y=[round(f1, 2) for _, f1 in front],
            mode="lines",
            line={"color": SOFT, "width": 1, "shape": "hv"},
            name="Pareto front",
            showlegend=not shown,
            hoverinfo="skip",
        )
    return Plot(f"pareto_{cost.key.replace('/', '_')}", f"F1 against {cost.axis}", about, figure, Part.COSTS)


def pareto_front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (cost, gain) points that no other point dominates, sorted by cost."""
    front: list[tuple[float, float]] = []
    for cost, gain in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or gain > front[-1][1]:
            front.append((cost, gain))
    return front


def level(comparison: Comparison, arm: Arm) -> tuple[float, float | None] | None:
    """The F1 that the verdict on an arm is based on, with its std over seeds; None where there is none."""
    scores = comparison.scored[arm.name]
    if scores is not None:
        return scores.level("f1"), scores.std("f1")
    f1 = arm.best.average(F1)
    return None if f1 is None or arm.best.scored_on != "validation" else (f1, arm.best.std(F1))


def scored_on(comparison: Comparison) -> str:
    """The set that the arms are scored on: `test`, `validation`, or both if arms differ."""
    return " or ".join(sorted({arm.best.scored_on for arm in comparison.arms}))


def score_by_epoch(comparison: Comparison) -> Plot | None:
    """Plot the validation scores by epoch; None if no run logged any."""
    figure = new_figure("epoch (0: before training)", "validation score (%)", hovermode="x")
    last = 0
    for number, arm in enumerate(comparison.arms):
        for score in (metric(EVAL_F1), metric(EVAL_EXACT_MATCH)):
            curves = [curve for run in arm.best.runs if not (curve := run.history(score.key)).empty]
            if not curves:
                continue
            by_epoch = pd.concat(curves).groupby("step")["value"]
            means = by_epoch.mean()
            last = max(last, int(means.index.max()))
            figure.add_scatter(
                x=means.index.tolist(),
                y=means.round(2).tolist(),
                error_y=error_bars(by_epoch.std().fillna(0.0).tolist()),
                mode="lines+markers",
                line=line_style(number) | {"dash": "solid" if score.key == EVAL_F1 else "dot"},
                marker=marker_style(number),
                name=wrapped(arm.name),
                legendgroup=arm.name,
                showlegend=score.key == EVAL_F1,
                hovertemplate=f"{escaped(arm.name)}<br>epoch %{{x}}<br>{at_height(score)}<extra></extra>",
            )
    if not figure.data:
        return None
    figure.update_xaxes(dtick=1 + last // 8)
    about = (
        "Validation scores of each method at its best setting, mean over seeds; bars are one standard deviation. Solid "
        "lines: F1; dotted lines: exact match."
    )
    return Plot("score_by_epoch", "F1 and exact match by epoch", about, figure, Part.TRAINING)


def _losses(comparison: Comparison, column: str, unit: str, name: str, where: str) -> list[Plot]:
    """One figure for each model, since the losses of different models cannot be compared."""
    made = []
    for number, model in enumerate(comparison.models):
        of = f", {' '.join(model)}" if len(comparison.models) > 1 else ""
        made.append(_loss(comparison, model, column, unit, name + (f"_{number}" if number else ""), where + of))
    return [plot for plot in made if plot is not None]


def _loss(comparison: Comparison, model: tuple[str, ...], column: str, unit: str, name: str, where: str) -> Plot | None:
    figure = new_figure(unit, f"{metric(TRAIN_LOSS).axis}, smoothed", hovermode="x")
    for number, arm in enumerate(comparison.arms):
        if arm.model != model:
            continue
        for i, run in enumerate(arm.best.runs):
            curve = run.history(TRAIN_LOSS)
            if column == "trained":
                seconds = run.history(TRAINED_SECONDS)[["step", "value"]].rename(columns={"value": column})
                curve = curve.merge(seconds, on="step")
                # Steps that an interruption lost keep the time of the attempt that lost them; it must not decrease.
                curve[column] = curve[column].cummax()
            if curve.empty:
                continue
            curve["value"] = curve["value"].ewm(span=max(1, len(curve) // 50)).mean()
            curve = curve.iloc[np.unique(np.linspace(0, len(curve) - 1, MOST_POINTS).astype(int))]
            figure.add_scatter(
                x=curve[column].round(2).tolist(),
                y=curve["value"].round(4).tolist(),
                mode="lines",
                line=line_style(number) | {"width": 2 if i == 0 else 1},
                name=wrapped(arm.name),
                legendgroup=arm.name,
                showlegend=i == 0,
                hovertemplate=f"{escaped(arm.name)}, seed {escaped(run.seed)}<br>%{{x}} {unit}<br>"
                f"{at_height(metric(TRAIN_LOSS))}<extra></extra>",
            )
    if not figure.data:
        return None
    about = "One line per seed of each method at its best setting."
    return Plot(name, f"Training loss over {where}", about, figure, Part.TRAINING)


def loss_by_step(comparison: Comparison) -> list[Plot]:
    """Plot the training loss over optimizer steps."""
    return _losses(comparison, "step", "optimizer steps", "loss_by_step", "steps")


def loss_by_second(comparison: Comparison) -> list[Plot]:
    """Plot the training loss over training time; over wall time if a run did not log its training time."""
    if all(TRAINED_SECONDS in run.metrics for arm in comparison.arms for run in arm.best.runs):
        return _losses(comparison, "trained", "seconds", "loss_by_second", "training time")
    return _losses(comparison, "seconds", "seconds", "loss_by_second", "wall time, evaluations included")
