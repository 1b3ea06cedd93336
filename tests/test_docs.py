"""README and docs are true: their commands can be read, and their links lead somewhere."""

from __future__ import annotations

import re

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


def commands(page):
    """What follows `-m` in every line of a page's code blocks that starts a module of ours."""
    blocks = re.findall(r"^```(?:bash)?\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"-m ((?:src|benchmarks|experiments)\b.*)$", "\n".join(blocks), flags=re.MULTILINE)


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
