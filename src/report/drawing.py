"""Styles and helpers that all figures of a comparison share.

The colours are seven from Okabe and Ito's palette, which colour-blind readers can distinguish, and a grey. All of them
are visible on white and on the dark background of the page. For print, each method also has its own dash and marker.
"""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum
from typing import Any

import plotly.graph_objects as go

from src.harmless import harmless
from src.metrics import Metric

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#767676", "#8C6D00")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
MARKERS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "triangle-down")
SHADE, SOFT, GRID, INK = "rgba(0, 114, 178, 0.12)", "#767676", "#DDDDDD", "#1A1A1A"
MOST_TICKS = 8  # of a logarithmic axis: more are unreadable on a phone
WIDEST_NAME = 34  # characters in a line of a legend, for a phone
HEIGHT = 300  # pixels, without the legend; figures with one row for each arm are as high as their rows
PAPER_HEIGHT = 220
PAPER_WIDTH = 326  # pixels: a column of 3.4 inches at plotly's 96 pixels per inch
PAPER_FONT = 32 / 3  # 8 points
AXIS = {
    "automargin": True,
    "gridcolor": GRID,
    "linecolor": SOFT,
    "zerolinecolor": GRID,
    "title": {"standoff": 8, "font": {"size": 12}},
}
TEMPLATE = go.layout.Template(
    layout={
        "colorway": COLOURS,
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": INK},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "margin": {"l": 40, "r": 12, "t": 12, "b": 40},
        # The legend stands below the plot; the page adds its height to that of the figure.
        "legend": {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0, "tracegroupgap": 0},
        "xaxis": AXIS,
        "yaxis": AXIS,
    }
)


class Part(Enum):
    """The part of the page that a figure stands in; the value is its heading."""

    ANSWER = ""
    RATES = "F1 by learning rate"
    COSTS = "F1 and its costs"
    QUESTIONS = "Questions"
    TRAINING = "Training"


@dataclass(frozen=True)
class Plot:
    """A figure with its title and a description for screen readers."""

    name: str
    title: str
    about: str
    figure: go.Figure
    part: Part


def escaped(text: str) -> str:
    """Escape a name, since plotly interprets names as a kind of HTML."""
    return html.escape(harmless(text), quote=False)


def wrapped(text: str, width: int = WIDEST_NAME) -> str:
    """Escape a name and break it into lines that fit on a phone."""
    return "<br>".join(escaped(line) for line in textwrap.wrap(text, width) or [""])


def at_height(entry: Metric) -> str:
    """Plotly's hover template for a point whose height is the metric: `F1 51.2`."""
    return f"{entry.brief} %{{y:{entry.form}}}"


def line_style(number: int) -> dict[str, Any]:
    return {"color": COLOURS[number % len(COLOURS)], "dash": DASHES[number % len(DASHES)], "width": 2}


def marker_style(number: int) -> dict[str, Any]:
    return {"color": COLOURS[number % len(COLOURS)], "symbol": MARKERS[number % len(MARKERS)], "size": 9}


def error_bars(errors: Collection[float | None]) -> dict[str, Any]:
    """Return plotly's error bars of some lengths; a length that is None has no bar."""
    return {"type": "data", "array": [round(error or 0.0, 4) for error in errors], "thickness": 1, "width": 3}


def new_figure(x: str, y: str, height: int = HEIGHT, **layout: Any) -> go.Figure:
    figure = go.Figure()
    figure.update_layout(template=TEMPLATE, xaxis_title=x, yaxis_title=y, height=height, **layout)
    return figure


def log_axis(values: Collection[float], text: Callable[[float], str]) -> dict[str, Any]:
    """A logarithmic axis with ticks at the values themselves; a value too close to the last tick gets none."""
    first, *others = sorted(set(values))
    ticks = [first]
    for value in others:
        if math.log(value / ticks[-1]) >= math.log(others[-1] / first) / MOST_TICKS:
            ticks.append(value)
    return _log(ticks, text)


def cost_axis(costs: Collection[float]) -> dict[str, Any]:
    """An axis of costs; it is logarithmic, with ticks at round numbers, if they differ by a factor of ten or more."""
    low, high = min(costs), max(costs)
    if low <= 0 or high / low < 10:
        return {"nticks": 6}
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [step * 10.0**power for power in powers for step in steps if low / 2 <= step * 10.0**power <= high * 2]
        if len(ticks) <= MOST_TICKS:
            break
    return _log(ticks, short_number)


def _log(ticks: list[float], text: Callable[[float], str]) -> dict[str, Any]:
    return {"type": "log", "tickvals": ticks, "ticktext": [text(tick) for tick in ticks]}


def rate_text(rate: float) -> str:
    """A learning rate as `3e-4`."""
    factor, power = f"{rate:.1e}".split("e")
    return f"{float(factor):g}e{int(power)}"


def short_number(value: float) -> str:
    """A number as `2.5`, `800`, `20k` or `1.4M`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if letter == 'k' else size):.3g}{letter}"
    return f"{value:g}"


def for_paper(plot: Plot) -> go.Figure:
    """The figure at the width of a paper's column, with text of 8 points."""
    figure = go.Figure(plot.figure)
    names = {trace.name for trace in figure.data if trace.name and trace.showlegend is not False}
    legend = 24 + 18 * len(names) if len(names) > 1 and figure.layout.showlegend is not False else 0
    figure.update_layout(
        width=PAPER_WIDTH,
        height=12 + legend + (PAPER_HEIGHT if figure.layout.height == HEIGHT else figure.layout.height),
        font_size=PAPER_FONT,
        margin={"l": 36, "r": 8, "t": 8, "b": 44},
    )
    figure.update_xaxes(title_font_size=PAPER_FONT)
    figure.update_yaxes(title_font_size=PAPER_FONT)
    figure.update_annotations(font_size=PAPER_FONT)
    figure.update_traces(line_width=1.2, selector={"mode": "lines"})
    figure.update_traces(line_width=1.2, marker_size=6, selector={"mode": "lines+markers"})
    figure.update_traces(marker_size=6, selector={"mode": "markers"})
    return figure
