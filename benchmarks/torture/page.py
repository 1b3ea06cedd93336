"""TORTURE.md out of the stored outcomes."""

from __future__ import annotations

from collections import Counter
from typing import Any

TITLES = {
    "kills": "Killed and interrupted",
    "outages": "A tracking server that fails",
    "disk": "Disks and damaged files",
    "concurrency": "Several commands in one folder",
    "processes": "Several processes of one run",
    "surroundings": "Numbers, clocks, locales, paths",
    "fuzz": "Generated inputs",
    "soak": "A long sweep",
}
SURVIVED = {
    "kills": "A command was disturbed and then started again. Survived: it ends with exit status 0; curves, final "
    "metrics, verdict and exported files equal those of an undisturbed command to the bit; no run stays RUNNING, and "
    "no process of it is left; no checkpoint and no half-written file stays in the store or the cache; nothing that a "
    "checkpoint held was trained again. The system's temporary folder does not count. All tables show the same trials.",
    "outages": "A run logs to `mlflow server` on SQLite. Survived: training goes on, each metric arrives once and in "
    "order, and the results equal those of a run on a local store to the bit; where the server stays away, the run "
    "ends with a sentence that says where its work is kept, and the same command brings it to the server later without "
    "training again.",
    "disk": "Survived: the command recovers, or says in a sentence what to do; after that the same command ends as an "
    "undisturbed one does.",
    "concurrency": "Survived: every command ends with its results, or says that another one does the same work.",
    "processes": "`torchrun` starts two processes of one run. Survived: within a minute after the fault the command "
    "ends with a sentence; the same command then continues, and its results equal those of an undisturbed command to "
    "the bit.",
    "surroundings": "Survived: the same results as elsewhere to the bit, or a sentence that says what is wrong.",
    "fuzz": "The properties of `tests/test_fuzz.py`, `tests/test_fuzz_tasks.py` and `tests/test_overrides.py` with new "
    "random inputs: readers raise one sentence or read to the letter, windows and prompts cover every character, every "
    "answer's span is labelled, answers are parts of their passages, scores lie between 0 and 100, overrides compose "
    "or give one sentence.",
    "soak": "One sweep of tiny runs. Flat: the 95 % interval of the Theil-Sen slope contains 0, or the growth over the "
    "whole time is below 5 % of the median.",
}


def page(parts: dict[str, list[dict[str, Any]]]) -> str:
    """The page, in Markdown, of the parts that were run; each has one entry for each of its commands."""
    lines = [
        "# Faults that were tried",
        "",
        "Made by `python -m benchmarks.torture`, whose `--help` lists the parts. Commands are",
    ]
    lines += ["forked from a process that has imported everything, unless `--fresh` is given.", ""]
    for part, title in TITLES.items():
        if part in parts:
            trials = [trial for entry in parts[part] for trial in entry["trials"]]
            lines += [f"## {title}", "", SURVIVED[part], "", *tables(trials), "", *lost(trials)]
            lines += [
                f"`{entry['command']}`: {len(entry['trials'])} trials in {entry['minutes']} minutes, commit "
                f"{entry['commit']}, {entry['machine']}.\n"
                for entry in parts[part]
            ]
    return "\n".join(lines)


def tables(trials: list[dict[str, Any]]) -> list[str]:
    """A table for each way in which the trials differ."""
    lines: list[str] = []
    for number, heading in enumerate(trials[0]["tried"]):
        lines += [""] if number else []
        lines += [f"| {heading} | tried | survived | lost |", "|---|---:|---:|---:|"]
        tried = Counter(trial["tried"][heading] for trial in trials)
        failed = Counter(trial["tried"][heading] for trial in trials if trial["lost"])
        lines += [f"| {name} | {n} | {n - failed[name]} | {failed[name]} |" for name, n in sorted(tried.items())]
    return lines


def lost(trials: list[dict[str, Any]]) -> list[str]:
    """What was lost, a line a trial."""
    rows = [f"- {', '.join(trial['tried'].values())}: {'; '.join(trial['lost'])}" for trial in trials if trial["lost"]]
    return ["Lost:", "", *rows, ""] if rows else []
