"""The comparisons of `experiments/`: every command in a file's head is one that works as it stands."""

from __future__ import annotations

import re

import pytest

import experiments.planted_faults as planted_faults
from src.config import ROOT
from tests.commands import works

OVERLAYS = sorted((ROOT / "experiments").glob("*.yaml"))
SPOKEN = ("train-v1.1", "test-v1.1", "test-v1.1_WER44", "test-v1.1_WER54")
# That the commands name, to be filled in by who runs them.
FILES = ("FILE", "new_wiki_v1.0.json", "spoken_test-v1.1.json", *(f"FOLDER/spoken_{part}.json" for part in SPOKEN))


def commands(overlay):
    """The commands in a file's head: its lines that are indented and begin with `python -m`."""
    return re.findall(r"^#   python -m (.*)$", overlay.read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_every_command_of_a_head_composes(overlay, tmp_path, monkeypatch):
    found = commands(overlay)
    monkeypatch.chdir(tmp_path)
    assert any(f"experiments={overlay.stem}" in command for command in found), "no command that runs this file"
    for command in found:
        works(command, FILES)


def test_a_planted_fault_costs_what_it_must():
    question = {
        "context": "It cost 1,000 Dollars there.",
        "answers": ["1,000 Dollars", "1,000"],
        "start": 8,
        "end": 21,
        "tokens": [(0, 2), (3, 7), (8, 9), (9, 10), (10, 13), (14, 21), (22, 27), (27, 28)],
        "decode": lambda text: text.lower().replace(",", " , "),
    }
    rows = planted_faults.planted([question])
    assert rows["none"] == (100, 100)
    assert rows["last token left out (input_ids[start:end])"] == (100, 100)  # the second human answer
    assert rows["one token too many at the end"] == (0, 80)  # 2 of 3 words
    assert rows["both ends one token late"] == (0, pytest.approx(40))  # ",000 Dollars there" has one word in common
    assert rows["last character left out (context[start:end - 1])"] == (0, pytest.approx(200 / 3))  # "1,000 Dollar"
    assert rows["bare strings"] == (100, 100)
    assert rows["decoded uncased, official rules"] == (0, pytest.approx(40))  # "1 000 dollars" against "1000 dollars"
    assert rows["decoded uncased, bare strings"] == (0, pytest.approx(40))
    assert rows["space before the answer kept, official rules"] == (100, 100)
    assert rows["space before the answer kept, bare strings"] == (0, 100)
