"""The table of metrics: what stands in it, that docs/metrics.md holds it, and that all that shows metrics reads it."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from io import StringIO
from pathlib import Path
from statistics import mean, median
from types import SimpleNamespace

import pytest
from rich.console import Console

from src import metrics
from src.config import ROOT
from src.metrics import EXACT_MATCH, F1, METRICS, Metric, Place, between_markers, listed, markdown, metric, shown
from src.model import card
from src.report.comparison import compare_runs
from src.report.markdown import as_markdown, as_note
from src.report.plots import plots
from src.report.tables import all_runs, as_csv, overview, side_by_side
from src.report.terminal import Terminal, run_line
from src.report.verdict import verdict
from src.runs import origin
from src.runs.parent import ParentRun
from src.runs.records import Status
from src.runs.results import select
from src.runs.view import view
from tests.stored import Store


def test_the_documentation_holds_the_table():
    _, table, _ = between_markers((ROOT / "docs" / "metrics.md").read_text(encoding="utf-8"))
    assert table.strip() == markdown(), "docs/metrics.md is behind; run: python -m src.metrics docs/metrics.md"


def test_the_command_writes_the_table_between_the_markers(tmp_path, monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["metrics", *map(str, arguments)])
        metrics.main()
        return capsys.readouterr().out

    assert call() == markdown() + "\n"
    file = tmp_path / "README.md"
    file.write_text(f"above\n{metrics.BEGIN}\nold\n{metrics.END}\nbelow\n", encoding="utf-8")
    assert call(file) == ""
    written = file.read_text(encoding="utf-8")
    assert written == f"above\n{metrics.BEGIN}\n{markdown()}\n{metrics.END}\nbelow\n"
    call(file)
    assert file.read_text(encoding="utf-8") == written


@pytest.mark.parametrize(
    ("content", "expected"),
    [(None, "No such file or directory."), ("no markers", f"it lacks the marker comments; put {metrics.BEGIN} above")],
)
def test_a_file_that_cannot_take_the_table_is_one_sentence(tmp_path, monkeypatch, capsys, content, expected):
    file = tmp_path / "README.md"
    if content is not None:
        file.write_text(content)
    monkeypatch.setattr(sys, "argv", ["metrics", str(file)])
    with pytest.raises(SystemExit) as ended:
        metrics.main()
    assert ended.value.code == 1
    shown = capsys.readouterr().err
    assert shown.startswith(f"Error: {file}: {expected}") and shown.count("\n") == 1
    assert content is None or file.read_text() == content


def test_the_table_stands_on_the_standard_library_alone():
    script = "import sys; import src.metrics; print(*{name.split('.')[0] for name in sys.modules}, sep='\\n')"
    loaded = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    names = set(loaded.stdout.split()) - sys.stdlib_module_names
    assert "src" in names and not names & {"torch", "mlflow", "hydra", "rich", "plotly", "numpy", "pandas"}


def test_the_table_is_consistent():
    keys = [entry.key for entry in METRICS]
    assert len(set(keys)) == len(keys)
    assert len({entry.label for entry in METRICS}) == len(keys), "two metrics have one label"
    figures = [entry.key.rpartition("/")[2] for entry in METRICS if entry.extra]
    assert len(set(figures)) == len(figures), "two metrics of an extra validation set have one key"
    for entry in METRICS:
        assert entry.number(1234.5) and entry.about and "|" not in entry.axis + entry.about
        assert entry.average is (median if entry.group in ("time", "speed") else mean)
        if Place.PARETO in entry.places or Place.VERDICT in entry.places:
            assert entry.better == "lower", f"{entry.key} is shown as a cost"
        if Place.SUMMARY in entry.places:
            assert Place.SIDE_BY_SIDE in entry.places, f"{entry.key}: side by side shows the summary's rows"


def test_a_metric_of_an_extra_set_carries_its_name():
    noisy = metric("extra/noisy-2.1/f1")
    assert (noisy.label, noisy.brief, noisy.text(51.25), noisy.places) == (
        "F1 on noisy-2.1",
        "F1 on noisy-2.1",
        "51.2",
        Place.RESULT,
    )
    assert metric("extra/noisy/loss").heading == "validation loss on noisy (nats)"
    for unknown in (
        "extra/f1",
        "extra//f1x",
        "extra/noisy/trainable",
        "quality/other",
        "other/noisy/f1",
        "extra/a/b/f1",
        "f1",
        "",
    ):
        with pytest.raises(KeyError, match=r"is not in the table of src/metrics\.py"):
            metric(unknown)
    keys = ["extra/b/f1", "time/train_seconds", F1, "who/knows", "loss", "extra/a/f1", EXACT_MATCH, F1]
    keys.append("extra/a/exact_match")
    assert [entry.key for entry in listed(keys)] == [
        EXACT_MATCH,
        F1,
        "time/train_seconds",
        "extra/a/exact_match",
        "extra/a/f1",
        "extra/b/f1",
    ]
    assert [entry.key for entry in shown(Place.CARD, keys)] == [EXACT_MATCH, F1]


def test_values_are_written_with_and_without_their_unit():
    time = metric("time/train_seconds")
    assert (time.axis, time.heading, time.column) == ("training time (s)", "training time (s)", "training (s)")
    assert (time.number(1234.56), time.text(1234.56), time.named(3.94)) == ("1,234.6", "1,234.6 s", "training 3.9 s")
    exact = metric(EXACT_MATCH)
    assert (exact.axis, exact.heading, exact.column) == ("exact match (%)", "exact match", "EM")
    assert (exact.text(8), exact.named(8)) == ("8.0", "EM 8.0")
    memory = metric("memory/peak_train_mb")
    assert (memory.heading, memory.noun) == ("peak memory, training (MB)", "peak memory")


PRICE = Metric(
    "price/dollars",
    "price, machine",
    "what the machine cost for this long",
    unit="$",
    form=",.3f",
    better="lower",
    average=median,
    short="price",
    places=~Place(0),
)
PRICES = {"full": (1.0, 2.0, 9.0), "lora": (0.5, 0.8, 90.0)}  # the medians are 2 and 0.8, the means 4 and 30.4


@pytest.fixture
def priced(tmp_path, monkeypatch):
    """Runs of two methods in three seeds that have logged a new metric, which the table has as its last."""
    monkeypatch.setattr(metrics, "METRICS", (*METRICS, PRICE))
    store = Store(tmp_path)
    for method, prices in PRICES.items():
        for seed, price in enumerate(prices):
            store.run(method, 1e-3, 0.5, seed, metrics={PRICE.key: price})
    return store


def test_a_new_metric_is_in_the_report_without_any_other_change(priced):
    selection = select(priced.tracking)
    comparison = compare_runs(selection.title, selection.results)
    table = side_by_side(comparison)
    assert [str(cell) for cell in dict(table.rows)["price, machine ($)"]] == ["2.000", "0.800 (0.40x)"]
    assert ["price, machine ($)", "2.0", "0.8", "0.4"] in list(csv.reader(StringIO(as_csv(comparison))))
    assert "| price, machine ($) | 2.000 | 0.800 (0.40x) |" in as_markdown(comparison).splitlines()
    headings, rows = overview(comparison)
    assert (headings[-1], [str(row[-1]) for row in rows]) == ("price ($)", ["2.000", "0.800 (0.40x)"])
    assert " stored (MB) | price ($) |" in as_note(comparison)
    headings, runs = all_runs(comparison)
    assert headings[-1] == "price ($)"
    assert [row[-1].text for row in runs] == ["1.000", "2.000", "9.000", "0.500", "0.800", "90.000"]
    assert any(
        sentence.endswith("the stored size and 40 % of the price.")
        for _, *details in verdict(comparison)
        for sentence in details
    )
    [figure] = [plot for plot in plots(comparison) if plot.name == "pareto_price_dollars"]
    assert figure.title == "F1 against price, machine ($)"
    assert [list(points.x) for points in figure.figure.data[:2]] == [[2.0], [0.8]]


def test_a_new_metric_is_in_what_a_run_shows_and_keeps_without_any_other_change(priced, configure, tmp_path):
    figures = {PRICE.key: 1234.5678, "params/trainable": 770, "params/total": 20_000}
    terminal = Terminal()
    terminal.console = Console(width=200, file=StringIO())
    terminal.result(figures, "a run")
    terminal.sweep_table([("a run", "FINISHED", "0123abcd", figures)])
    lines = terminal.console.file.getvalue().splitlines()
    assert [line.split("│")[1:3] for line in lines if "Price" in line] == [[" Price, machine     ", " 1,234.568 $ "]]
    heading, row = (line for line in lines if "run id" in line or "0123abcd" in line)
    assert heading.split("┃")[-2].strip() == "price ($)" and row.split("│")[-2].strip() == "1,234.568"
    assert run_line(figures) == "trained 770  price 1,234.568 $"
    base = SimpleNamespace(revision=None, weights={}, name="base", model_type="bert", on_the_hub=False)
    card.write(tmp_path, configure(), base, figures, "0123", {})
    assert " | price, machine 1,234.568 $ |" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_a_new_metric_is_in_mlflow_and_readme_without_any_other_change(priced, tmp_path):
    kept = json.loads(view())
    assert kept["selectedColumns"][-1] == kept["columnOrder"][-1] == "metrics.`price/dollars`"
    chart = kept["compareRunCharts"][-1]
    assert (chart["type"], chart["xaxis"]["key"], chart["yaxis"]["key"]) == ("SCATTER", PRICE.key, F1)
    assert kept["compareRunSections"][-1]["name"] == "price"
    results = select(priced.tracking).results
    parent = ParentRun.begin(priced.tracking, "a sweep", "", "identity", "command", planned=7, fresh=False)
    for result in results:
        parent.include(result)
    unfinished = priced.run("head", 1e-3, 0.5, status="FAILED")
    parent.include(priced.record(unfinished))
    parent.end(Status.FAILED, parent.members())
    with Path(priced.client.download_artifacts(parent.run_id, "table.csv", str(tmp_path))).open() as file:
        rows = {row["run id"]: row for row in csv.DictReader(file)}
    assert {id: row["price, machine ($)"] for id, row in rows.items()} == {
        **{result.id: repr(result.metrics[PRICE.key]) for result in results},
        unfinished: "",
    }
    assert rows[results[0].id]["F1"] == repr(results[0].metrics[F1])
    assert origin.scores(priced.store, results[0].id).endswith(", price 1.000 $")
    assert markdown().splitlines()[-1] == (
        "| `price/dollars` | price, machine ($) | end | lower | median | what the machine cost for this long |"
    )


def test_a_gain_is_charted_in_bars_and_a_curve_in_lines(monkeypatch):
    joules = Metric("energy/joules", "energy", "what it took", "J", better="higher", places=Place.CHARTS)
    power = Metric("energy/watts", "power", "now", "W", better="lower", logged="step", places=Place.CHARTS)
    monkeypatch.setattr(metrics, "METRICS", (*METRICS, joules, power))
    charts = [(chart["type"], chart.get("metricKey")) for chart in json.loads(view())["compareRunCharts"]]
    assert charts[-2:] == [("BAR", "energy/joules"), ("LINE", "energy/watts")]


def test_the_score_of_an_epoch_is_shown_by_the_table(monkeypatch, capsys):
    recall = Metric("eval/recall", "validation recall", "of words", "%", ",.1f", short="R", logged="epoch", score=True)
    monkeypatch.setattr(metrics, "METRICS", (*METRICS, recall))
    Terminal().epoch(3, {"exact_match": 42.04, "f1": 48.7, "loss": 1.3184, "recall": 7.0})
    assert capsys.readouterr().out == "epoch 3          EM  42.0  F1  48.7  loss 1.318  R   7.0\n"
