"""The figure of a single run: its loss curve, as an SVG that the MLflow UI shows inline and offline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from src.harmless import harmless


def loss_curve(steps: Sequence[Any], evaluations: Sequence[tuple[int, float]], title: str) -> Any:
    """Plot the training loss by step, and the validation loss at each evaluation.

    Args:
        steps: the optimizer steps, with `number` and `loss`.
        evaluations: (step, validation loss) pairs.
        title: the run's name.

    Returns:
        A matplotlib figure without a window.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(
        [step.number for step in steps], [step.loss for step in steps], color="#0072b2", linewidth=1, label="training"
    )
    if evaluations:
        axes.plot(*zip(*evaluations, strict=True), color="#d55e00", marker="o", linewidth=1, label="validation")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("cross entropy (nats)")
    axes.set_title(harmless(title), parse_math=False)
    axes.legend()
    axes.grid(alpha=0.3)
    return figure
