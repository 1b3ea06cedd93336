"""Names and texts of data sets are text in all that is written: they steer no terminal, no browser and no LaTeX."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import yaml
from markdown_it import MarkdownIt

from src.csv_text import csv_text
from src.harmless import harmless, in_markdown, json_text
from src.model import card
from src.model.base import Base
from src.report.comparison import compare_runs
from src.report.figures import loss_curve
from src.report.latex import as_latex
from src.report.machine import as_json
from src.report.markdown import as_markdown, as_note
from src.report.page import render
from src.report.plots import plots
from src.reporting import as_dict
from src.runs.results import select
from src.runs.tracking import RunLog
from tests.stored import Store

STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
TURNED = "a\x1b[2Jb\x9b\u202ec\u2066d\x07"  # clears the screen, and reads from right to left
EVIL = r"lora \input{/etc/passwd}<script>alert(1)</script>_%&#$^~![x](http://e)`|*b*" + TURNED
TAGS = {"h1", "h2", "p", "strong", "pre", "code", "table", "thead", "tbody", "tr", "th", "td", "ul", "li"}  # our markup
SHOWN = EVIL.translate({ord(c): f"\\x{ord(c):02x}" for c in "\x1b\x9b\x07"} | {0x202E: r"\u202e", 0x2066: r"\u2066"})


def rendered(text):
    return MarkdownIt("commonmark").enable("table").render(text)


@pytest.fixture
def comparison(tmp_path):
    store = Store(tmp_path)
    for method in ("full", EVIL):
        store.run(method, 1e-3, 0.5, params={"dataset.name": EVIL, "hardware.name": EVIL}, context=lambda i: EVIL)
    selection = select(store.tracking)
    return replace(compare_runs(EVIL, selection.results), commands=(f"train '{EVIL}\n# {EVIL}'",))


def test_characters_that_steer_are_shown():
    assert harmless(EVIL) == SHOWN
    assert harmless("two\r\nlines\tÄ \u200f שלום 👩‍💻") == "two\r\nlines\tÄ \u200f שלום 👩‍💻"
    assert harmless("\x1b[31mred\x1b[0m") == "red"


@pytest.mark.parametrize(
    "text",
    [
        EVIL,
        "<img src=x>",
        "![a](http://e)",
        "[a][b] <http://e> &lt;b&gt; R&D",
        "*a* **b** _c_ __d__ lora_attention a_b_",
        "`code` ``x``",
        r"\*a\* \ \\",
        "a|b",
        "<!-- a -->",
    ],
)
def test_in_markdown_a_text_is_shown_as_it_is(text):
    shown = re.search("<p>(.*)</p>", rendered(in_markdown(text)))[1]
    assert html.unescape(re.sub("<.*?>", "", shown)) == harmless(text) and not re.search("<[^>]*>", shown)
    cell = rendered(f"| a |\n|---|\n| {in_markdown(text)} |\n").partition("<tbody>")[2]
    assert cell.count("<td>") == 1 and html.unescape(re.sub("<.*?>", "", cell)).strip() == harmless(text)


def test_what_is_no_markup_stays_as_it_is_typed():
    assert in_markdown("lora_attention r=16\n(95 %): R&D, 1.0 < 2.0") == "lora_attention r=16 (95 %): R&D, 1.0 &lt; 2.0"


def test_names_in_a_report_in_markdown(comparison):
    for text in (as_markdown(comparison), as_note(comparison)):
        assert not STEERING.search(text)
        shown = rendered(text)
        assert SHOWN in html.unescape(shown)
        assert set(re.findall(r"<(\w+)", shown)) <= TAGS
    commands = re.findall("<pre><code>(.*?)</code></pre>", rendered(as_markdown(comparison)), re.DOTALL)
    assert html.unescape(commands[0]) == f"train '{SHOWN}\n# {SHOWN}'\n"


def test_names_in_a_report_in_latex(comparison):
    text = as_latex(comparison)
    assert not STEERING.search(text)
    in_latex = SHOWN.split("!")[0].replace("\\", r"\textbackslash ").replace("{", r"\{").replace("}", r"\}")
    in_latex = in_latex.replace("<", r"\textless{}").replace(">", r"\textgreater{}")
    for character in "_%&#$":
        in_latex = in_latex.replace(character, f"\\{character}")
    in_latex = in_latex.replace("^", r"\textasciicircum{}").replace("~", r"\textasciitilde{}")
    assert in_latex.replace(r"\textbackslash ", r"\textbackslash{}") in text
    commands = set(re.findall(r"\\([a-z]+)", text.partition("\n")[2]))
    assert commands == {
        *("begin", "end", "centering", "caption", "toprule", "midrule", "bottomrule"),
        *("textbackslash", "textless", "textgreater", "textasciicircum", "textasciitilde", "textbar"),
    }


def test_a_row_in_latex_that_begins_as_an_option_would(tmp_path):
    """After the end of a row, `[` begins a distance and `*` forbids a page break."""
    store = Store(tmp_path)
    for method in ("full", "[1] lora", "*lora"):
        store.run(method, 1e-3, 0.5)
    rows = as_latex(compare_runs("a", select(store.tracking).results)).splitlines()
    assert {row.strip()[:5] for row in rows if "lora" in row and "&" in row} == {"{}[1]", "{}*lo"}


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.scripts, self.text = 0, ""

    def handle_starttag(self, tag, attributes):
        self.scripts += tag == "script"

    def handle_data(self, data):
        self.text += data


def test_names_and_passages_in_the_page(comparison):
    page = render(comparison, plots(comparison))
    found = Tags()
    found.feed(page)
    assert found.scripts == 3, "the page's own"
    assert SHOWN in found.text and f"# {SHOWN}'" in found.text
    assert not STEERING.search(page)


def test_names_in_files_for_programs_are_the_same_names(comparison, configure, tmp_path):
    written = as_json(as_dict(comparison))
    assert not STEERING.search(written) and EVIL in {m["name"] for m in json.loads(written)["methods"]}
    assert json.loads(json_text(EVIL)) == EVIL and json_text(EVIL).isprintable()
    assert csv_text([[EVIL, "=" + TURNED]]).count(r"a\x1b[2Jb\x9b\u202ec\u2066d\x07") == 2


def test_an_artifact_of_a_run_steers_nothing(configure, tmp_path):
    config = configure("model=tiny", f"tracking.folder={tmp_path}")
    with RunLog(config).begin(config) as log:
        log.json("examples.json", [{"predicted": EVIL}])
        text = (tmp_path / "read").joinpath("examples.json")
        text.parent.mkdir()
        log.client.download_artifacts(log.run_id, "examples.json", str(text.parent))
        assert not STEERING.search(text.read_text()) and json.loads(text.read_text()) == [{"predicted": EVIL}]


def test_a_picture_of_a_run_can_be_opened(tmp_path):
    from xml.etree import ElementTree

    loss_curve([], [], TURNED).savefig(tmp_path / "loss.svg")
    ElementTree.parse(tmp_path / "loss.svg")


def test_names_in_the_card_of_a_model(configure, tmp_path):
    config = configure("model=tiny", "method=lora")
    config.dataset.name = config.model.name = config.method.name = config.model.license = EVIL
    config.method.peft["target_modules"] = [EVIL]
    base = Base(EVIL, EVIL, {}, "bert", 1)
    card.write(tmp_path, config, base, {"params/trainable": 1.0, "params/total": 2.0}, "1", {})
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    values = yaml.safe_load(front)
    assert values["tags"] == ["question-answering", "tuneoff", SHOWN] and values["license"] == SHOWN
    assert not STEERING.search(text)
    shown = rendered(body)
    assert set(re.findall(r"<(\w+)", shown)) <= TAGS
    assert f"<h1>{html.escape(SHOWN, quote=False)}, {html.escape(SHOWN, quote=False)}, on " in shown
