"""Short runs still give the losses, scores and parameter counts of tests/pinned.json (`benchmarks/pinned.py`).

The tolerances hold across kinds of CPU, whose products round differently. Between two commits on one machine the values
are the same to the bit, which `python -m benchmarks.pinned COMMIT` shows.
With MiniLM it also trains everything, which takes longer than a test may.
"""

from __future__ import annotations

import json

import pytest

from benchmarks.pinned import FP32, LAUNCHER, RUNS, STORED, collect
from src.runs.isolation import call
from src.sweep import train

PINNED = json.loads(STORED.read_text(encoding="utf-8"))


def assert_pinned(values, pinned):
    assert values.keys() == pinned.keys()
    for key, expected in pinned.items():
        if key.startswith("params/"):
            assert values[key] == expected, key
        elif "loss" in key or "grad_norm" in key or "forgetting" in key:
            assert values[key] == pytest.approx(expected, rel=2e-3, abs=2e-3), key
        else:  # of 24 or 32 questions one may be answered otherwise
            assert values[key] == pytest.approx(expected, abs=4.2), key


@pytest.mark.parametrize("name", [pytest.param("minilm_lora", marks=pytest.mark.slow), "tiny_dropout"])
def test_a_short_run_gives_the_pinned_values(name, configure, server, tmp_path):
    outcome = call(train, configure(*RUNS[name], FP32, f"tracking.folder={tmp_path}"), tmp_path / "output.log")
    assert outcome.reason is None
    assert_pinned(collect(tmp_path), PINNED[name])


@pytest.mark.slow
def test_two_processes_give_the_pinned_values_and_those_of_one(configure, command, server, tmp_path):
    several, alone = tmp_path / "several", tmp_path / "alone"
    run = [*RUNS["tiny_two_processes"], FP32]
    shown = command(*LAUNCHER, "src.train", *run, f"tracking.folder={several}")
    assert shown.returncode == 0, shown.stderr
    assert call(train, configure(*run, f"tracking.folder={alone}"), tmp_path / "output.log").reason is None
    values = collect(several)
    assert_pinned(values, PINNED["tiny_two_processes"])
    assert values["train/loss"] == pytest.approx(collect(alone)["train/loss"], abs=1e-4)
