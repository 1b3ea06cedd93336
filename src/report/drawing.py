"""What all figures of a comparison share.

Colours are Okabe and Ito's, which the colour-blind tell apart; for print each method has a dash and a marker besides.
"""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from src.metrics import Metric

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D00")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
MARKERS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "triangle-down")


@dataclass(frozen=True)
class Plot:
    """A figure with what is read aloud in its place."""

    name: str
    title: str
    about: str
    figure: go.Figure


def escaped(text: str) -> str:
    """Plotly reads names as a kind of HTML."""
    return html.escape(text, quote=False)


def at_height(entry: Metric) -> str:
    """The text of plotly's label at a point whose height is the metric: `F1 51.2`."""
    return f"{entry.brief} %{{y:{entry.form}}}"


def line_style(number: int) -> dict[str, Any]:
    return {"color": COLOURS[number % len(COLOURS)], "dash": DASHES[number % len(DASHES)], "width": 2}


def marker_style(number: int) -> dict[str, Any]:
    return {"color": COLOURS[number % len(COLOURS)], "symbol": MARKERS[number % len(MARKERS)], "size": 9}


def new_figure(x: str, y: str, **layout: Any) -> go.Figure:
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
