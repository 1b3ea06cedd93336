"""TORTURE.md out of the stored outcomes."""

from __future__ import annotations

from collections import Counter
from typing import Any

TITLES = {
    "kills": "Killed and interrupted",
    "outages": "A tracking server that fails",
    "disk": "Disks and damaged files",
    "concurrency": "Several commands in one folder",
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
    "surroundings": "Survived: the same results as elsewhere to the bit, or a sentence that says what is wrong.",
    "fuzz": "The properties of `tests/test_fuzz.py` and `tests/test_overrides.py` with new random inputs: readers "
    "raise one sentence or read to the letter, every answer's span is found, overrides compose or give one sentence.",
    "soak": "One sweep of tiny runs. Flat: the 95 % interval of the Theil-Sen slope contains 0, or the growth over the "
    "whole time is below 5 % of the median.",
}


def page(results: dict[str, Any]) -> str:
    """The page, in Markdown, of the parts that were run."""
    lines = [
        "# Faults that were tried",
        "",
        "Made by `python -m benchmarks.torture`, whose `--help` lists the parts. Commands are",
    ]
    lines += ["forked from a process that has imported everything, unless `--fresh` is given.", ""]
    for part, title in TITLES.items():
        if part in results:
            found = results[part]
            lines += [f"## {title}", "", SURVIVED[part], "", *tables(found["outcomes"]), "", *lost(found["outcomes"])]
            lines += [f"`{found['command']}`, {found['minutes']} minutes on {found['machine']}.", ""]
    return "\n".join(lines)


def tables(outcomes: list[dict[str, Any]]) -> list[str]:
    """A table for each way in which the trials differ."""
    lines: list[str] = []
    for number, heading in enumerate(outcomes[0]["tried"]):
        lines += [""] if number else []
        lines += [f"| {heading} | tried | survived | lost |", "|---|---:|---:|---:|"]
        tried = Counter(each["tried"][heading] for each in outcomes)
        bad = Counter(each["tried"][heading] for each in outcomes if each["lost"])
        lines += [f"| {name} | {count} | {count - bad[name]} | {bad[name]} |" for name, count in sorted(tried.items())]
    return lines


def lost(outcomes: list[dict[str, Any]]) -> list[str]:
    """What was lost, a line a trial."""
    rows = [f"- {', '.join(each['tried'].values())}: {'; '.join(each['lost'])}" for each in outcomes if each["lost"]]
    return ["Lost:", "", *rows, ""] if rows else []
