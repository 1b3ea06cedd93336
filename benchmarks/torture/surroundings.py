"""Numbers that overflow, the smallest sizes, clocks that jump, other locales, odd paths, no HOME."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.torture.work import (
    SETTINGS,
    Outcome,
    Place,
    chosen,
    differences,
    ended_well,
    left_over,
    results,
    said_why,
    scratch,
)
from src.compose import assignment

RUN = [*SETTINGS, "epochs=3", "method=lora"]
# Read by every Python process of the command: the clock is set back by an hour after some seconds, as often as asked.
JUMP = """
import time
_real, _begun = time.time, time.monotonic()
time.time = lambda: _real() - 3600 * (time.monotonic() - _begun > 5)
"""
QUESTIONS = "".join(
    f'{{"question": "Wer schrieb Band {i}?", "context": "Band {i} schrieb Zoë Ğür {i}.", "answer": "Zoë Ğür {i}"}}\n'
    for i in range(300)
)


@dataclass(frozen=True)
class Trial:
    """A run in other surroundings, and what must come of it: the results of elsewhere, any, or a sentence."""

    given: tuple[str, ...] = ()
    environment: Mapping[str, str | None] = field(default_factory=dict)
    clock: bool = False  # jumps
    questions: str = ""  # the name of a file of questions to train on
    folder: str = ""  # within that of the trial
    same: bool = True
    sentence: str = ""


ODD = "mit Leerzeichen ü 漢 'x' (1)"
LARGE = ("learning_rate=1e38", "train.warmup_ratio=0", "method=full")
TRIALS: dict[str, Trial] = {
    "a loss that is not a number": Trial(LARGE, sentence="The loss is nan at step"),
    "infinite weights": Trial(("+model.config.initializer_range=1e38",), sentence="The loss is "),
    "one question, one epoch": Trial(
        ("train_size=1", "validation_size=1", "test_size=1", "epochs=1", "batch_size=1"), same=False
    ),
    "one step of accumulated gradients, larger than the data": Trial(
        ("train.gradient_accumulation_steps=1000",), same=False
    ),
    "threads=64": Trial(("threads=64",), same=False),
    "a clock that jumps back by an hour": Trial(clock=True),
    "LC_ALL=tr_TR.UTF-8": Trial(environment={"LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8"}),
    "LC_ALL=de_DE.UTF-8": Trial(environment={"LC_ALL": "de_DE.UTF-8", "LANG": "de_DE.UTF-8"}),
    "LC_ALL=C without UTF-8": Trial(environment={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    "a folder with spaces, quotes and other scripts": Trial(folder=ODD),
    "a file of such a name": Trial(questions=f"{ODD}.jsonl", same=False),
    "HOME is not set": Trial(environment={"HOME": None, "HF_HOME": None}),
    "HOME cannot be written": Trial(environment={"HOME": "/proc", "HF_HOME": None}),
}


def surroundings(arguments: argparse.Namespace) -> Iterator[Outcome]:
    """`--times` trials of each."""
    with scratch(arguments.keep) as folder:
        whole = Place(folder / "whole")
        status, text = whole.finish("train", *RUN)
        if status:
            raise SystemExit(f"undisturbed, the run failed:\n{text}")
        expected = results(whole.client())
        for number, (name, trial) in enumerate(chosen(TRIALS, arguments)):
            yield Outcome({"surroundings": name}, tried(trial, folder / f"trial-{number}", expected))


def tried(trial: Trial, folder: Path, expected: dict[str, Any]) -> list[str]:
    """Run it, and say what was lost."""
    place = Place(folder / trial.folder, dict(trial.environment), fresh=True)
    given = {each.partition("=")[0] for each in trial.given}
    words = [*(each for each in RUN if each.partition("=")[0] not in given), *trial.given]
    if trial.clock:
        (folder / "sitecustomize.py").write_text(JUMP, encoding="utf-8")
        place.environment = {"PYTHONPATH": str(folder)}
    if trial.questions:
        (folder / trial.questions).write_text(QUESTIONS, encoding="utf-8")
        words.append(assignment("dataset.path", str(folder / trial.questions)))
    status, text = place.finish("train", *words)
    if trial.sentence:
        return said_why(status, text, trial.sentence)
    lost = ended_well(status, text)
    if lost or not trial.same:
        return lost
    return differences(results(place.client()), expected) + left_over(place)
