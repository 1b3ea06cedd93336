"""The report page as a reader sees it: on a screen, on a phone, in the dark and on paper."""

from __future__ import annotations

import functools
import json
import re
import shutil
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe

from src import reporting
from src.report.comparison import compare_runs
from src.report.drawing import PAPER_FONT, PAPER_WIDTH, Part, cost_axis, for_paper, log_axis, rate_text
from src.report.page import question, render
from src.report.plots import plots
from src.runs.results import select
from tests.stored import Store

MANY = ("lora r=4 all-linear", "lora r=16 all-linear", "lora r=64 query-and-value-only", "dora r=16", "ia3 keys-values")
PAPER = 703  # pixels between the margins of an A4 page


def compared(store):
    selection = select(store.tracking)
    return compare_runs(selection.title, selection.results, commands=["python -m src.train -m method=full,lora"])


shared = functools.cache(compared)  # the runs of these stores are all there before they are compared


@functools.cache  # the runs of a store are all there before its page is written
def written(store, name: str = "report.html") -> str:
    found = compared(store)
    file = store.folder / name
    file.write_text(render(found, plots(found)), encoding="utf-8")
    return file.as_uri()


def stored(tmp_path_factory, empty_store):
    return Store(Path(shutil.copy(empty_store, tmp_path_factory.mktemp("page"))).parent)


@pytest.fixture(scope="module")
def two(tmp_path_factory, empty_store):
    store = stored(tmp_path_factory, empty_store)
    store.fair()
    return store


@pytest.fixture(scope="module")
def six(tmp_path_factory, empty_store):
    store = stored(tmp_path_factory, empty_store)
    store.run("full", 3e-4, 0.3)
    for number, method in enumerate(("full", *MANY)):
        costs = {"params/trainable": 40 * 4**number, "memory/peak_train_mb": 400 + 50 * number}
        for seed in (0, 1):
            store.run(method, 1e-4 * (1 + number), 0.5 + 0.03 * number, seed, metrics=costs)
    return store


@pytest.fixture
def opened(browser):
    """Open a page, drawn; it must raise no error and fetch nothing."""
    pages = []

    def open_page(address: str, width: int = 1280, height: int = 900, **how):
        page = browser.new_page(viewport={"width": width, "height": height}, **how)
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.goto(address)
        page.wait_for_selector("body[data-drawn]", timeout=60_000)
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        assert page.errors == []
        page.close()


FIRST = ("h1", ".setup", ".answer", "#overview", "#differences")


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844), (360, 800)])
@pytest.mark.slow
def test_the_first_screen_holds_the_answer_in_order(opened, two, width, height):
    page = opened(written(two), width, height)
    boxes = [page.locator(place).bounding_box() for place in FIRST]
    tops = [box["y"] for box in boxes]
    assert tops == sorted(tops)
    for box in boxes:
        assert box["x"] >= 0 and box["x"] + box["width"] <= width and box["y"] + box["height"] <= height
    assert page.locator("h1").inner_text() == "Full fine-tuning or LoRA?"
    setup = page.locator(".setup").inner_text()
    assert setup == "wiki · minilm · 4,000 training / 300 validation questions · seeds 0, 1"
    assert page.locator("details[open] #runs").count() == 0


@pytest.mark.parametrize("width", [360, 1280, 1920])
@pytest.mark.slow
def test_nothing_is_wider_than_the_screen(opened, six, width):
    page = opened(written(six), width, 800)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for name in page.locator(".plot").evaluate_all("plots => plots.map(plot => plot.id)"):
        assert page.locator(f"#{name} .main-svg").first.bounding_box()["width"] <= width
        legend = page.locator(f"#{name} .legend")
        if legend.count():
            plot = page.locator(f"#{name}").evaluate("plot => plot._fullLayout._size.h")
            assert 0 < legend.bounding_box()["height"] <= plot, name


@pytest.mark.slow
def test_no_text_of_a_figure_is_small(opened, six):
    page = opened(written(six), 360, 800)
    sizes = page.locator(".plot text").evaluate_all(
        "texts => texts.map(text => parseFloat(getComputedStyle(text).fontSize))"
    )
    assert len(sizes) > 100 and min(sizes) >= 11


@pytest.mark.slow
def test_a_redrawn_figure_fits_the_new_width(opened, two):
    page = opened(written(two))
    page.set_viewport_size({"width": 360, "height": 800})
    page.wait_for_function("[...document.querySelectorAll('.main-svg')].every(s => s.clientWidth <= innerWidth)")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def column(page, heading):
    headings = [text.strip() for text in page.locator("#runs thead button").all_text_contents()]
    return page.locator(f"#runs tbody tr:visible td:nth-child({headings.index(heading) + 1})").all_inner_texts()


@pytest.mark.slow
def test_the_runs_are_sorted_and_filtered(opened, two):
    page = opened(written(two))
    page.locator("#all-runs > summary").click()
    scores = [float(text) for text in column(page, "F1")]
    assert len(scores) == 12 and scores == sorted(scores, reverse=True)
    assert page.locator("#runs th[aria-sort=descending]").inner_text().startswith("F1")
    page.get_by_label("Filter").fill("lora 0.001")
    assert set(column(page, "method")) == {"lora"} and set(column(page, "rate")) == {"0.001"}
    assert page.locator("output").inner_text() == "2 of 12"
    page.get_by_label("Filter").fill("")
    page.get_by_role("button", name="rate").click()
    rates = [float(text) for text in column(page, "rate")]
    assert len(rates) == 12 and rates == sorted(rates)


@pytest.mark.slow
def test_the_next_command_is_copied(opened, two, monkeypatch):
    from src.report import verdict

    command = "python -m src.train -m 'train.seed=range(0,6)' <&>"
    monkeypatch.setattr(verdict, "recommendation", lambda _: verdict.Recommendation("Run more seeds.", command))
    page = opened(written(two, "other.html"), permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy").click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == command


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.slow
def test_the_page_is_accessible_in_either_colour_scheme(opened, two, scheme):
    page = opened(written(two), color_scheme=scheme)
    page.locator("details").evaluate_all("all => all.forEach(details => { details.open = true; })")
    found = Axe().run(page).response["violations"]
    assert [rule["id"] for rule in found if rule["impact"] in ("serious", "critical")] == []


def lightness(colour: str) -> float:
    return sum(int(number) for number in re.findall(r"\d+", colour)[:3]) / 3


@pytest.mark.slow
def test_the_dark_scheme_is_dark_in_the_figures_too(opened, two):
    page = opened(written(two), color_scheme="dark")
    style = "(element, name) => getComputedStyle(element)[name]"
    assert lightness(page.locator("body").evaluate(style, "backgroundColor")) < 40
    svg = page.locator("#f1_by_rate .main-svg").first
    assert svg.evaluate(style, "backgroundColor") == "rgba(0, 0, 0, 0)"
    for text in ("xtick", "legend", "g-xtitle"):
        assert lightness(page.locator(f"#f1_by_rate .{text} text").first.evaluate(style, "fill")) > 200
    page.emulate_media(color_scheme="light")
    assert lightness(page.locator("#f1_by_rate .xtick text").first.evaluate(style, "fill")) < 40


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
@pytest.mark.slow
def test_on_paper_nothing_is_cut_and_all_is_open(opened, six, width, scheme):
    page = opened(written(six), width, 800, color_scheme=scheme)
    count = "document.querySelectorAll('details:not([open])').length"
    page.evaluate(f"addEventListener('beforeprint', () => {{ window.shut = {count}; }})")
    shut = page.locator("details:not([open])").count()
    assert page.pdf(format="A4").startswith(b"%PDF")
    assert page.evaluate("window.shut") == 0 and page.locator("details:not([open])").count() == shut > 0
    page.emulate_media(media="print", color_scheme=scheme)
    page.locator("details").evaluate_all("all => all.forEach(details => { details.open = true; })")
    page.set_viewport_size({"width": PAPER, "height": 1000})
    cut = f"one => one.getBoundingClientRect().right > {PAPER + 1}"
    wide = f"all => all.filter({cut}).map(one => one.outerHTML.slice(0, 80))"
    assert page.locator("table, th, td, figure, .main-svg, pre, code, p, li").evaluate_all(wide) == []
    ground = page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
    assert lightness(ground) == 255


def test_the_page_of_runs_that_all_failed_says_so(opened, tmp_path):
    store = Store(tmp_path)
    for method in ("full", "lora"):
        store.run(method, 1e-4, 0.6, status="FAILED", tags={"error": "UserError: no room"})
    page = opened(written(store))
    assert page.locator("h1").inner_text() == "full or lora?"
    assert "full has no finished run (UserError: no room)." in page.locator(".warnings").inner_text()
    assert page.locator("table, .plot").count() == 0


def test_the_question_is_short(two, six):
    assert question(shared(two)) == "Full fine-tuning or LoRA?"
    assert question(shared(six)) == "Full fine-tuning or one of 5 others?"


def test_one_method_with_several_models_asks_for_the_model(tmp_path):
    store = Store(tmp_path)
    store.run("lora", 1e-3, 0.5)
    assert question(compared(store)) == "LoRA alone"
    store.run("lora", 1e-3, 0.5, params={"model.name": "bert_base"})
    assert question(compared(store)) in ("bert_base or minilm?", "minilm or bert_base?")


def test_the_figures_stand_in_the_order_of_the_page(six):
    made = plots(shared(six))
    parts = [plot.part for plot in made]
    assert parts == sorted(parts, key=list(Part).index)
    assert set(parts) == set(Part)


def test_intervals_are_drawn_beside_the_margin(six):
    found = shared(six)
    [plot] = [plot for plot in plots(found) if plot.name == "differences"]
    [line] = plot.figure.data
    assert list(line.y) == [contrast.arm.name for contrast in found.contrasts]
    first = found.contrasts[0].differences["f1"]
    assert line.x[0] - line.error_x.arrayminus[0] == pytest.approx(first.low)
    assert line.x[0] + line.error_x.array[0] == pytest.approx(first.high)
    shade, zero, margin = plot.figure.layout.shapes
    assert (shade.x0, zero.x0, margin.x0) == (-found.margin, 0, -found.margin)
    assert margin.line.dash == "dash" and "margin of 1 point." in plot.about


@pytest.mark.slow
def test_a_front_has_three_points(two, six):
    def fronts(store):
        return {line.name for plot in plots(compared(store)) if plot.part is Part.COSTS for line in plot.figure.data}

    assert fronts(two) == {"full", "lora"}
    assert "Pareto front" in fronts(six)


def test_each_set_of_questions_has_its_front(tmp_path):
    store = Store(tmp_path)
    for name in ("small", "large"):
        for number, method in enumerate(("ia3", "lora", "full")):
            given = {"params": {"dataset.name": name}, "digests": (f"train-{name}", f"validation-{name}")}
            costs = {"time/train_seconds": 50 + 10 * number}
            store.run(method, 1e-3, 0.4 + 0.1 * number, metrics=costs, questions=60, **given)
    [plot] = [plot for plot in plots(compared(store)) if plot.name == "pareto_time_train_seconds"]
    fronts = [line for line in plot.figure.data if line.name == "Pareto front"]
    assert [(list(line.x), line.showlegend) for line in fronts] == [([50, 60, 70], True), ([50, 60, 70], False)]


def test_points_carry_their_spread(two):
    found = shared(two)
    made = {plot.name: plot.figure for plot in plots(found)}
    best = found.arms[0].best
    assert max(made["f1_by_rate"].data[0].error_y.array) == pytest.approx(best.std("quality/f1"), abs=1e-3)
    [point] = [line for line in made["pareto_time_train_seconds"].data if line.name == "full"]
    scored = found.scored["full"]
    assert point.y[0] == pytest.approx(scored.level("f1"), abs=0.01)
    assert point.error_y.array[0] == pytest.approx(scored.std("f1"), abs=1e-3)


def test_ticks_stand_at_the_rates_that_were_run():
    axis = log_axis([1e-3, 3e-5, 1e-4, 1.02e-4, 3e-4], rate_text)
    assert axis["ticktext"] == ["3e-5", "1e-4", "3e-4", "1e-3"]
    assert log_axis([2e-5], rate_text)["ticktext"] == ["2e-5"]


def test_costs_have_ticks_that_can_be_read():
    assert "tickvals" not in cost_axis([430, 800])
    assert cost_axis([2.7, 90])["ticktext"] == ["2", "5", "10", "20", "50", "100"]
    assert cost_axis([770, 20_000_000])["ticktext"] == ["1000", "10k", "100k", "1M", "10M"]


def test_a_figure_fits_a_papers_column(six):
    made = plots(shared(six))
    for plot in made:
        before = plot.figure.to_json()
        figure = for_paper(plot)
        assert (figure.layout.width, figure.layout.font.size) == (PAPER_WIDTH, PAPER_FONT)
        assert figure.layout.height < 620
        assert plot.figure.to_json() == before


@pytest.mark.parametrize(("form", "scale"), [("png", 4), ("svg", 1), ("pdf", 1)])
def test_pictures_are_written_in_that_size(two, tmp_path, monkeypatch, form, scale):
    written = {}

    def write_images(figures, files, scale, width, height):
        assert height == [figure.layout.height for figure in figures]
        written.update({file.name: (size, scale) for file, size in zip(files, width, strict=True)})

    monkeypatch.setattr(reporting, "write_images", write_images)
    reporting.report(two.tracking, formats=[form], output=tmp_path)
    assert written[f"f1_by_rate.{form}"] == (PAPER_WIDTH, scale) and len(written) == 13


def test_the_conditions_tell_what_the_page_was_made_with(two):
    found = shared(two)
    page = render(found, plots(found))
    assert "digest of the train questions</dt><dd>train-a<" in page
    assert re.search(r"report made</dt><dd>20\d\d-\d\d-\d\d \d\d:\d\d", page)


def test_the_figures_are_json(two):
    found = shared(two)
    page = render(found, plots(found))
    figures = re.search(r'<script id="figures" type="application/json">(.*?)</script>', page, re.S).group(1)
    assert list(json.loads(figures)) == [plot.name for plot in plots(found)]
