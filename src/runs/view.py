"""The view of an experiment that MLflow's UI opens with: columns, order and charts.

It is stored in a tag of the experiment, like the views that the UI's *Share* button makes, and the address names it.
"""

from __future__ import annotations

import json
from typing import Any

from mlflow.exceptions import MlflowException

from src.metrics import F1, Metric, Place, at, groups
from src.runs.store import Store

KEY = "tuneoff"
TAG = f"mlflow.sharedViewState.{KEY}"
FIRST = "F1 and its costs"  # the group of charts that is expanded


def view() -> str:
    """The view as MLflow 3 stores it."""
    # The column that runs are sorted by comes first, since a narrow window shows few columns.
    shown = sorted(at(Place.COLUMNS), key=lambda entry: entry.key != F1)
    columns = ["tags.`method`", *(f"metrics.`{entry.key}`" for entry in shown)]
    widths = {"attributes.`Run Name`": 340, **dict.fromkeys(columns, 130)}  # pixels
    charts = [_chart(number, entry) for number, entry in enumerate(at(Place.CHARTS))]
    # The groups of the other metrics are collapsed; the UI assigns a metric to a group by the prefix of its name.
    sections = [_section(FIRST, True), *(_section(name, False) for name in groups())]
    return json.dumps(
        {
            "orderByKey": f"metrics.`{F1}`",  # runs are nested under their sweep only in the order of creation
            "orderByAsc": False,
            "selectedColumns": columns,
            "columnOrder": list(widths),
            "columnWidths": widths,
            "compareRunCharts": charts,
            "compareRunSections": sections,
            "isAccordionReordered": True,
            "hideEmptyCharts": True,
            "runsHiddenMode": "FIRST_20_RUNS",
        },
        separators=(",", ":"),
    )


def _chart(number: int, entry: Metric) -> dict[str, Any]:
    """The chart of a metric: a curve if it is logged during training, bars for a gain, F1 against it for a cost."""
    kind = "LINE" if entry.logged != "end" else "SCATTER" if entry.better == "lower" else "BAR"
    chart: dict[str, Any] = {
        "type": kind,
        "uuid": f"{KEY}-{number}",
        "metricSectionId": f"{KEY}-{FIRST}",
        "isGenerated": False,
        "deleted": False,
        "runsCountToCompare": 100,
    }
    if kind == "SCATTER":
        height = {"key": F1, "type": "METRIC"}
        return chart | {"xaxis": {"key": entry.key, "type": "METRIC"}, "yaxis": height}
    chart["metricKey"] = entry.key
    if kind == "LINE":
        chart |= {"selectedMetricKeys": [entry.key], "xAxisKey": "step", "useGlobalXaxisKey": True}
        chart |= {
            "lineSmoothness": 0,
            "useGlobalLineSmoothing": True,
            "scaleType": "linear",
            "xAxisScaleType": "linear",
        }
        chart |= {"yAxisKey": "metric", "yAxisExpressions": [], "range": {}, "ignoreOutliers": False}
    return chart


def _section(name: str, display: bool) -> dict[str, Any]:
    return {"uuid": f"{KEY}-{name}", "name": name, "display": display, "isReordered": True, "deleted": False}


def address(server: str, store: Store) -> str:
    """The address of the experiment with this view in a server's UI; without such an experiment, the server's."""
    client = store.client
    experiment = client.get_experiment_by_name(store.tracking.experiment)
    if experiment is None:
        return server
    place = f"{server}/#/experiments/{experiment.experiment_id}/runs?workflowType=machine_learning"
    if not store.writable:
        return place
    try:
        if experiment.tags.get(TAG) != view():
            client.set_experiment_tag(experiment.experiment_id, TAG, view())
    except MlflowException:  # the store cannot be written to: show it without the view
        return place
    return f"{place}&viewStateShareKey={KEY}"
