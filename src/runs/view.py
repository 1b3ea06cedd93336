"""What MLflow's UI shows first of an experiment: columns, order and charts, kept as a view that an address names.

The UI reads it from a tag of the experiment, as it does the views that its own *Share* button makes.
"""

from __future__ import annotations

import json
from typing import Any

from mlflow.exceptions import MlflowException

from src.runs.store import Store

KEY = "tuneoff"
TAG = f"mlflow.sharedViewState.{KEY}"
COLUMNS = (
    "tags.`method`",
    "metrics.`quality/f1`",
    "metrics.`quality/exact_match`",
    "metrics.`time/train_seconds`",
    "metrics.`memory/peak_train_mb`",
)
WIDTHS = {"attributes.`Run Name`": 340, **dict.fromkeys(COLUMNS, 130)}  # pixels
CHARTS: tuple[tuple[str, str], ...] = (  # kind and metric; of a scatter plot what it is drawn over, F1 being its height
    ("BAR", "quality/f1"),
    ("LINE", "train/loss"),
    ("LINE", "eval/f1"),
    ("SCATTER", "time/train_seconds"),
    ("SCATTER", "memory/peak_train_mb"),
    ("SCATTER", "params/trainable"),
)
FIRST = "F1 and its costs"  # the group of these charts
# The groups of the other metrics, folded; the UI puts each metric into the group that its name begins with.
FOLDED = ("quality", "extra", "train", "eval", "time", "speed", "memory", "storage", "params", "forgetting", "data")


def view() -> str:
    """The view as MLflow 3 keeps it."""
    charts = [_chart(number, *chart) for number, chart in enumerate(CHARTS)]
    sections = [_section(FIRST, True), *(_section(name, False) for name in FOLDED)]
    return json.dumps(
        {
            "orderByKey": "metrics.`quality/f1`",  # only in the order of creation would runs be folded under a sweep's
            "orderByAsc": False,
            "selectedColumns": COLUMNS,
            "columnOrder": list(WIDTHS),
            "columnWidths": WIDTHS,
            "compareRunCharts": charts,
            "compareRunSections": sections,
            "isAccordionReordered": True,
            "hideEmptyCharts": True,
            "runsHiddenMode": "FIRST_20_RUNS",
        },
        separators=(",", ":"),
    )


def _chart(number: int, kind: str, metric: str) -> dict[str, Any]:
    chart: dict[str, Any] = {
        "type": kind,
        "uuid": f"{KEY}-{number}",
        "metricSectionId": f"{KEY}-{FIRST}",
        "isGenerated": False,
        "deleted": False,
        "runsCountToCompare": 100,
    }
    if kind == "SCATTER":
        height = {"key": "quality/f1", "type": "METRIC"}
        return chart | {"xaxis": {"key": metric, "type": "METRIC"}, "yaxis": height}
    chart["metricKey"] = metric
    if kind == "LINE":
        chart |= {"selectedMetricKeys": [metric], "xAxisKey": "step", "useGlobalXaxisKey": True}
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
    try:
        if experiment.tags.get(TAG) != view():
            client.set_experiment_tag(experiment.experiment_id, TAG, view())
    except MlflowException:  # a store that cannot be written to is looked at as it is
        return place
    return f"{place}&viewStateShareKey={KEY}"
