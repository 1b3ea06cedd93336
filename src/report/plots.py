"""The figures of a comparison that show runs, in plotly: curves, rates, sizes, differences, costs."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pandas as pd

from src.metrics import EVAL_EXACT_MATCH, EVAL_F1, F1, TRAIN_LOSS, TRAINED_SECONDS, Metric, Place, at, metric
from src.report.comparison import Comparison
from src.report.drawing import Plot, at_height, escaped, line_style, marker_style, new_figure
from src.report.question_plots import agreement, by_kind

MOST_POINTS = 400  # of a curve: more cannot be told apart


def plots(comparison: Comparison) -> list[Plot]:
    """All figures that the runs have something for."""
    if not comparison.arms:
        return []
    of_runs = (loss_by_step, loss_by_second, score_by_epoch, f1_by_rate, f1_by_size, differences)
    made = [make(comparison) for make in of_runs]
    made += [f1_by_cost(comparison, cost) for cost in at(Place.PARETO)]
    made += [agreement(comparison), *by_kind(comparison)]
    return [plot for plot in made if plot is not None]


def _loss(comparison: Comparison, column: str, unit: str, name: str, where: str) -> Plot | None:
    figure = new_figure(unit, f"{metric(TRAIN_LOSS).axis}, smoothed", hovermode="x")
    for number, arm in enumerate(comparison.arms):
        for i, run in enumerate(arm.best.runs):
            curve = run.history(TRAIN_LOSS)
            if column == "trained":
                seconds = run.history(TRAINED_SECONDS)[["step", "value"]].rename(columns={"value": column})
                curve = curve.merge(seconds, on="step")
                # What an interruption lost was measured by the attempt that lost it.
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
                name=escaped(arm.name),
                legendgroup=arm.name,
                showlegend=i == 0,
                hovertemplate=f"{escaped(arm.name)}, seed {escaped(run.seed)}<br>%{{x}} {unit}<br>"
                f"{at_height(metric(TRAIN_LOSS))}<extra></extra>",
            )
    if not figure.data:
        return None
    return Plot(name, f"Training loss over {where}", "One line a seed of each method at its best setting.", figure)


def loss_by_step(comparison: Comparison) -> Plot | None:
    return _loss(comparison, "step", "optimizer steps", "loss_by_step", "steps")


def loss_by_second(comparison: Comparison) -> Plot | None:
    """Over the seconds of training; of runs that have not logged them over the clock, with all interruptions."""
    if all(TRAINED_SECONDS in run.metrics for arm in comparison.arms for run in arm.best.runs):
        return _loss(comparison, "trained", "seconds", "loss_by_second", "training time")
    return _loss(comparison, "seconds", "seconds", "loss_by_second", "wall time, evaluations included")


def score_by_epoch(comparison: Comparison) -> Plot | None:
    figure = new_figure("epoch (0: untrained)", "F1 and exact match (%)", hovermode="x")
    for number, arm in enumerate(comparison.arms):
        for score in (metric(EVAL_F1), metric(EVAL_EXACT_MATCH)):
            curves = [curve for run in arm.best.runs if not (curve := run.history(score.key)).empty]
            if not curves:
                continue
            means = pd.concat(curves).groupby("step")["value"].mean()
            figure.add_scatter(
                x=means.index.tolist(),
                y=means.round(2).tolist(),
                mode="lines+markers",
                line=line_style(number) | {"dash": "solid" if score.key == EVAL_F1 else "dot"},
                marker=marker_style(number),
                name=f"{escaped(arm.name)} {score.brief}",
                hovertemplate=f"{escaped(arm.name)}<br>epoch %{{x}}<br>{at_height(score)}<extra></extra>",
            )
    if not figure.data:
        return None
    figure.update_xaxes(dtick=1)
    about = "Mean over the seeds of each method at its best setting; exact match is dotted."
    return Plot("score_by_epoch", "Exact match and F1 by epoch", about, figure)


def f1_by_rate(comparison: Comparison) -> Plot | None:
    if all(len(arm.rates) == 1 for arm in comparison.arms):
        return None
    figure = new_figure("learning rate", metric(F1).axis)
    figure.update_xaxes(type="log", exponentformat="power")
    for number, arm in enumerate(comparison.arms):
        best: dict[float, Any] = {}
        for trial in arm.trials:
            f1 = trial.average(F1)
            if f1 is not None and f1 > best.get(trial.rate, (-1.0,))[0]:
                best[trial.rate] = (f1, trial.deviation(F1) or 0.0, len(trial.runs))
        rates = sorted(best)
        figure.add_scatter(
            x=rates,
            y=[round(best[rate][0], 2) for rate in rates],
            error_y={"type": "data", "array": [round(best[rate][1], 2) for rate in rates], "thickness": 1},
            customdata=[best[rate][2] for rate in rates],
            mode="lines+markers",
            line=line_style(number),
            marker=marker_style(number),
            name=escaped(arm.name),
            hovertemplate=f"{escaped(arm.name)}<br>rate %{{x:.2g}}<br>{at_height(metric(F1))}, runs: %{{customdata}}"
            "<extra></extra>",
        )
    about = "The best of the settings at each rate, mean over seeds; bars are one standard deviation."
    return Plot("f1_by_rate", "F1 against the learning rate", about, figure)


def f1_by_size(comparison: Comparison) -> Plot | None:
    curves: dict[str, dict[int, tuple[float, float]]] = {}
    for arm in comparison.arms:
        line = " ".join(label for key, label in arm.labels.items() if key != "dataset.train_size")
        f1 = arm.best.average(F1)
        if f1 is not None:
            curves.setdefault(line, {})[arm.best.examples] = (f1, arm.best.deviation(F1) or 0.0)
    if all(len(curve) == 1 for curve in curves.values()):
        return None
    figure = new_figure("training questions", metric(F1).axis)
    figure.update_xaxes(type="log", tickvals=sorted({size for curve in curves.values() for size in curve}))
    for number, (line, curve) in enumerate(curves.items()):
        sizes = sorted(curve)
        figure.add_scatter(
            x=sizes,
            y=[round(curve[size][0], 2) for size in sizes],
            error_y={"type": "data", "array": [round(curve[size][1], 2) for size in sizes], "thickness": 1},
            mode="lines+markers",
            line=line_style(number),
            marker=marker_style(number),
            name=escaped(line),
            hovertemplate=f"{escaped(line)}<br>%{{x:,}} questions<br>{at_height(metric(F1))}<extra></extra>",
        )
    about = "Each method at the best setting it has at that size, mean over seeds; bars are one standard deviation."
    return Plot("f1_by_size", "F1 against the number of training questions", about, figure)


def differences(comparison: Comparison) -> Plot | None:
    tested = [contrast for contrast in comparison.contrasts if contrast.differences]
    if not tested:
        return None
    figure = new_figure("difference (points)", "")
    for number, (score, label) in enumerate((("f1", "F1"), ("exact_match", "exact match"))):
        shown = [contrast for contrast in tested if score in contrast.differences]
        found = [contrast.differences[score] for contrast in shown]
        figure.add_scatter(
            x=[d.mean for d in found],
            y=[f"{escaped(contrast.arm.name)}, {label}" for contrast in shown],
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [d.high - d.mean for d in found],
                "arrayminus": [d.mean - d.low for d in found],
            },
            mode="markers",
            marker=marker_style(number),
            name=label,
            hovertemplate="%{y}<br>%{x:+.2f}<extra></extra>",
        )
    figure.add_vline(x=0, line={"color": "#1a1a1a", "width": 1})
    figure.update_layout(height=160 + 50 * len(tested), margin_l=140)
    about = "Means with 95 % intervals, each for itself. An interval over the line at zero shows no difference."
    return Plot("differences", f"Differences to {comparison.baselines}", about, figure)


def f1_by_cost(comparison: Comparison, cost: Metric) -> Plot | None:
    """F1 against a cost, a point a setting, with the Pareto front."""
    figure = new_figure(cost.axis, metric(F1).axis)
    figure.update_xaxes(type="log")
    points: dict[frozenset[str], list[tuple[float, float]]] = defaultdict(list)  # by what they were scored on
    for number, arm in enumerate(comparison.arms):
        rows = [
            (x, f1, trial.rate)
            for trial in arm.trials
            if (x := trial.average(cost.key)) and (f1 := trial.average(F1)) is not None
        ]
        if not rows:
            continue
        points[frozenset(arm.digests("validation"))] += [(x, f1) for x, f1, _ in rows]
        figure.add_scatter(
            x=[x for x, *_ in rows],
            y=[round(f1, 2) for _, f1, _ in rows],
            customdata=[rate for *_, rate in rows],
            mode="markers",
            marker=marker_style(number),
            name=escaped(arm.name),
            hovertemplate=f"{escaped(arm.name)}, rate %{{customdata:.2g}}<br>{cost.axis} %{{x:,.4g}}<br>"
            f"{at_height(metric(F1))}<extra></extra>",
        )
    if sum(map(len, points.values())) < 2:
        return None
    for number, found in enumerate(points.values()):
        front = pareto_front(found)
        figure.add_scatter(
            x=[x for x, _ in front],
            y=[round(f1, 2) for _, f1 in front],
            mode="lines",
            line={"color": "#777777", "width": 1, "shape": "hv"},
            name="nothing better for less",
            legendgroup="front",
            showlegend=number == 0,
            hoverinfo="skip",
        )
    about = "One point a setting; on the line is what no other setting beats in F1 at the same cost or less."
    if len(points) > 1:
        about += " One line for each set of validation questions."
    return Plot(f"pareto_{cost.key.replace('/', '_')}", f"F1 against {cost.axis}", about, figure)


def pareto_front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (cost, gain) points that no other has more gain than at the same cost or less, by cost."""
    front: list[tuple[float, float]] = []
    for cost, gain in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or gain > front[-1][1]:
            front.append((cost, gain))
    return front
