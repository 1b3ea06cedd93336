"""What MLflow's UI shows first of an experiment: columns, order and charts, kept as a view that an address names.

The UI reads it from a tag of the experiment, as it does the views that its own *Share* button makes.
"""

from __future__ import annotations

import json
from typing import Any

from mlflow.exceptions import MlflowException

from src.metrics import F1, Metric, Place, at, groups
from src.runs.store import Store

KEY = "tuneoff"
TAG = f"mlflow.sharedViewState.{KEY}"
FIRST = "F1 and its costs"  # the group of the charts that are shown


def view() -> str:
    """The view as MLflow 3 keeps it."""
    # First what the runs are sorted by: a narrow window shows few columns.
    shown = sorted(at(Place.COLUMNS), key=lambda entry: entry.key != F1)
    columns = ["tags.`method`", *(f"metrics.`{entry.key}`" for entry in shown)]
    widths = {"attributes.`Run Name`": 340, **dict.fromkeys(columns, 130)}  # pixels
    charts = [_chart(number, entry) for number, entry in enumerate(at(Place.CHARTS))]
    # The other metrics are folded; the UI puts each into the group that its name begins with.
    sections = [_section(FIRST, True), *(_section(name, False) for name in groups())]
    return json.dumps(
        {
            "orderByKey": f"metrics.`{F1}`",  # only in the order of creation would runs be folded under a sweep's
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
    """A curve of what is logged while a run trains, bars of a gain, and F1 against a cost."""
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
    """Where the UI of a server shows the experiment so; the server's own address where there is no such experiment."""
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
    except MlflowException:  # a store that cannot be written to is looked at as it is
        return place
    return f"{place}&viewStateShareKey={KEY}"
