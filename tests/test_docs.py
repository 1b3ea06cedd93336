"""README and docs are true: their commands can be read, their links lead somewhere, and their quotations are exact."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from urllib.parse import unquote

import pytest

from src.config import ROOT
from tests.commands import works

PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("experiments/*.md"), *ROOT.glob("benchmarks/*.md")]
)
FILES = ("questions.csv", "questions.json", "questions.jsonl", "passage.txt", "runs.zip", "FILE", "DATA.json",
         "new_wiki_v1.0.json", "spoken_test-v1.1.json", "FOLDER/spoken_train-v1.1.json", "FOLDER/spoken_test-v1.1.json",
         "FOLDER/spoken_test-v1.1_WER44.json", "FOLDER/spoken_test-v1.1_WER54.json")  # fmt: skip
README_LINES = 180


def blocks(text):
    """The code blocks of Markdown, each with the name of its language."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def commands(page):
    """What follows `-m` in every line of a page's code blocks that starts a module of ours."""
    lines = "\n".join(text for kind, text in blocks(page.read_text(encoding="utf-8")) if kind in ("", "bash"))
    return re.findall(r"-m ((?:src|benchmarks|experiments)\b.*)$", lines, flags=re.MULTILINE)


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.stem)
def test_every_command_of_a_page_can_be_read(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in commands(page):
        works(command, FILES)


def anchors(page):
    """The anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_within_the_project_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def test_the_readme_is_read_in_one_go():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < README_LINES
    assert len(commands(ROOT / "README.md")) > 10


# The tutorial

UNLIKE = re.compile(r"\d+\.\d+|\b[0-9a-f]{8}\b|\d+(?= MB)")  # what differs from machine to machine: scores, times, ids


def lines(text):
    """The lines of a text without what differs from machine to machine, and with single spaces."""
    return [" ".join(UNLIKE.sub("#", line).split()) for line in text.splitlines()]


def run(line, folder, command):
    """What a line of the tutorial prints."""
    python, *arguments = shlex.split(line)
    assert python == "python"
    if arguments[0] == "-m":
        done = command(*arguments[1:], cwd=folder)
    else:
        done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_tutorial_prints_what_it_says(tmp_path, command):
    """Its commands in their order, in a folder of their own; `...` stands for what is left out."""
    page = (ROOT / "docs" / "getting_started.md").read_text(encoding="utf-8")
    printed, compared = iter(()), 0
    for kind, text in blocks(page.partition("\n## ")[2]):
        if kind == "python":
            (tmp_path / "make_questions.py").write_text(text, encoding="utf-8")
        elif kind == "bash":
            printed = iter(lines("".join(run(line, tmp_path, command) for line in text.splitlines())))
        else:
            for line in lines(text):
                wanted = ".*".join(map(re.escape, line.split("...")))
                assert line == "..." or any(re.fullmatch(wanted, other) for other in printed), f"not printed: {line}"
                compared += line != "..."
    assert compared > 30


# The site


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, and the addresses that each of its pages leads to."""
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    mkdocs = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    built = subprocess.run(mkdocs, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    pages = [page for page in folder.rglob("*.html") if page.parent.name != "reports"]
    links = {page: re.findall(r'(?:href|src)="([^"]+)"', page.read_text(encoding="utf-8")) for page in pages}
    return folder, links


def test_every_page_is_in_the_site(site):
    folder, _ = site
    for page in PAGES:
        name = "index" if page.stem == "README" else page.stem
        assert (folder / page.parent.relative_to(ROOT) / f"{name}.html").exists(), page


def test_the_site_needs_no_other_place(site):
    """Every address of a page is a file of the site, or a link for the reader to follow."""
    _, links = site
    assert sum(map(len, links.values())) > 1000
    for page, addresses in links.items():
        text = page.read_text(encoding="utf-8")
        assert not re.search(r'(?:src|<link [^>]*href)="https?:', text), page.name
        if page.name == "404.html":  # its addresses begin at the root of a server
            continue
        for address in addresses:
            path = unquote(address.partition("#")[0])
            assert not path or re.match(r"https?:|mailto:", path) or (page.parent / path).exists(), f"{page}: {address}"


def test_no_list_of_the_site_is_a_paragraph(site):
    """Markdown in Python wants an empty line before a list; GitHub's does not."""
    _, links = site
    for page in links:
        for paragraph in re.findall(r"<p>(.*?)</p>", page.read_text(encoding="utf-8"), flags=re.DOTALL):
            assert not re.search(r"^(?:- |\d+\. |\|)", paragraph, flags=re.MULTILINE), f"{page.name}: {paragraph[:80]}"


# Quotations


def literal(node):
    """The text of a string or of a sum of strings, with ... for what is not constant; None for other nodes."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(literal(part) if isinstance(part, ast.Constant) else "..." for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = literal(node.left), literal(node.right)
        return None if parts == (None, None) else "".join("..." if part is None else part for part in parts)
    return None


def test_every_error_of_the_troubleshooting_page_is_one_of_the_program():
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^- `([^`]*)`", page, flags=re.MULTILINE)
    assert len(quoted) == page.count("\n- ") > 50
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in (ROOT / "src").rglob("*.py")]
    known = {text for tree in trees for node in ast.walk(tree) if (text := literal(node))}
    assert [sentence for sentence in quoted if not any(sentence.strip() in text for text in known)] == []
    assert [sentence for sentence in quoted if len(re.sub(r"\W", "", sentence)) < 8] == [], "these say too little"
