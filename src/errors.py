"""Show the errors of a run by kind, with examples, and its scores by kind of question; or compare two runs.

    python -m src.errors run=RUN                       # on the test questions, or the validation questions
    python -m src.errors 'runs=[RUN,RUN]'              # the questions that the second run gains or loses
    python -m src.errors run=RUN split=validation format=json

A RUN is the beginning of a run's id, a run's name, or `best`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from src.arguments import Listed, StoreArguments, UsageError, read
from src.compose import MISTAKES, fail
from src.config import UserError
from src.console import begin
from src.harmless import json_text

if TYPE_CHECKING:
    import pandas as pd

    from src.error_analysis import Errors, Exchange
    from src.report.groups import Group
    from src.runs.records import Record

EXTRA = "extra/"  # the metrics of further files (`dataset.extra_validation`): extra/NAME/f1


class Arguments(StoreArguments):
    """The keys of src.errors."""

    run: str | None = Field(None, description="the beginning of a run's id, its name, or best")
    runs: Listed[str] = Field([], description="two runs, to show the questions that the second one gains or loses")
    split: Literal["test", "validation"] | None = Field(
        None, description="which questions: test, the default if the run has a test set, or validation"
    )
    examples: int = Field(2, ge=0, description="the number of questions that are shown for each kind of error")
    form: Literal["table", "json"] = Field("table", alias="format", description="table, or json for programs")


def main() -> None:
    """The command line."""
    try:
        begin()
        given = read(Arguments, sys.argv[1:] or ["--help"], str(__doc__))
        names = given.runs or ([given.run] if given.run else [])
        if len(names) not in (1, 2) or (given.run and given.runs):
            raise UsageError("Give one run, run=RUN, or two, 'runs=[RUN,RUN]'; --help shows an example.")
        show(given, names)
    except MISTAKES as error:
        fail(error)


def show(given: Arguments, names: Sequence[str]) -> None:
    """Print the errors of one run, or the comparison of two.

    Raises:
        UserError: there is no such run, or it has no scores or texts by question.
    """
    from src.error_analysis import errors_of, exchange
    from src.runs.records import TEST, VALIDATION
    from src.runs.results import resolve_run
    from src.runs.store import connect

    records = connect(given.tracking(), create=False).everywhere()
    chosen = [resolve_run(records, name, "run" if given.run else "runs") for name in names]
    for _, note in chosen:
        if note:
            print(note, file=sys.stderr)
    runs = [record for record, _ in chosen]
    tested = all(run.questions(["f1"], TEST) is not None for run in runs)
    split = given.split or (TEST if tested else VALIDATION)
    analyses = [errors_of(_texts(run, split)) for run in runs]
    try:
        between = exchange(*analyses) if len(analyses) == 2 else None
    except ValueError:
        raise UserError(
            f"{runs[0].name} and {runs[1].name} share no {split} question; choose runs on the same data."
        ) from None
    if given.form == "json":
        plain: dict[str, Any] = {"split": split, "runs": [_plain(*each) for each in zip(runs, analyses, strict=True)]}
        if between is not None:
            plain["exchange"] = _plain_exchange(between)
        print(json_text(plain, indent=2))
    else:
        _print(runs, analyses, between, split, given.examples)


def _texts(run: Record, split: str) -> pd.DataFrame:
    """The questions of a run with their texts.

    Raises:
        UserError: the run has no such questions, or no texts.
    """
    table = run.questions(split=split)
    if table is None:
        raise UserError(f"run={run.name} ({run.id[:8]}) has no {split} questions; choose a finished run, or split=.")
    if missing := {"question", "context", "answers", "predicted"} - set(table.columns):
        raise UserError(
            f"run={run.name} ({run.id[:8]}) has no texts ({', '.join(sorted(missing))} are missing): it was exported "
            "with texts=false. Export it again with its texts."
        )
    return table


def _extra(run: Record) -> dict[str, float]:
    """The F1 on further files, by their names."""
    keys = [key for key in run.metrics if key.startswith(EXTRA) and key.endswith("/f1")]
    return {key.removeprefix(EXTRA).removesuffix("/f1"): run.metrics[key] for key in sorted(keys)}


def _plain(run: Record, errors: Errors) -> dict[str, Any]:
    return {
        "id": run.id,
        "name": run.name,
        "questions": len(errors.rows),
        "exact_match": 100 * float(errors.rows["exact_match"].mean()),
        "f1": 100 * float(errors.rows["f1"].mean()),
        "kinds": [vars(group) for group in errors.kinds],
        "by": {label: [vars(group) for group in of] for label, of in errors.by.items()},
        "kind_of": errors.rows["kind"].to_dict(),
        "extra_f1": _extra(run),
    }


def _plain_exchange(between: Exchange) -> dict[str, Any]:
    return {
        "both_right": between.both,
        "first_alone": between.first,
        "second_alone": between.second,
        "neither": between.neither,
        "gained": {id: 100 * float(value) for id, value in between.gained["difference"].items()},
        "lost": {id: 100 * float(value) for id, value in between.lost["difference"].items()},
    }


def _print(
    runs: Sequence[Record], analyses: Sequence[Errors], between: Exchange | None, split: str, examples: int
) -> None:
    from rich.text import Text

    from src.evaluation.kinds import Kind
    from src.report.terminal import Terminal

    terminal = Terminal()
    labels = [f"run {number}" for number in (1, 2)] if len(runs) > 1 else ["run"]
    terminal.header({label: f"{run.name}, {run.id[:8]}" for label, run in zip(labels, runs, strict=True)})
    kinds = [kind.value for kind in Kind]
    _table(terminal, f"{split} answers", kinds, [errors.kinds for errors in analyses], len(analyses[0].rows))
    for label in analyses[0].by:
        names = [group.name for errors in analyses for group in errors.by[label]]
        _table(terminal, label, list(dict.fromkeys(names)), [errors.by[label] for errors in analyses])
    for run in runs:
        for name, f1 in _extra(run).items():
            change = f1 - run.metrics["quality/f1"]
            line = f"{run.name} on {name}: F1 {f1:.1f}, {change:+.1f} against the validation questions"
            terminal.console.print(Text(line))
    if between is not None:
        terminal.header(
            {
                "both right": f"{between.both:,}",
                "run 1 alone": f"{between.first:,}",
                "run 2 alone": f"{between.second:,}",
                "neither": f"{between.neither:,}",
            }
        )
        for title, rows in (("run 2 gains", between.gained), ("run 2 loses", between.lost)):
            _examples(terminal, f"{title} ({len(rows):,} questions)", rows.head(examples))
        return
    for kind in Kind:
        rows = analyses[0].rows
        if kind is not Kind.RIGHT:
            _examples(terminal, kind.value, rows[rows["kind"] == kind.value].head(examples))


def _table(
    terminal: Any, title: str, names: Sequence[str], of_runs: Sequence[Sequence[Group]], total: int | None = None
) -> None:
    """Print the number of questions and the scores of each group, side by side for two runs."""
    from rich.table import Table

    table = Table(title=None)
    table.add_column(title)
    for number in range(1, len(of_runs) + 1):
        run = f" {number}" if len(of_runs) > 1 else ""
        for column in ("questions", *(() if total else ("EM",)), "F1"):
            table.add_column(f"{column}{run}", justify="right")
    for name in names:
        cells = []
        for groups in of_runs:
            group = next((each for each in groups if each.name == name), None)
            if group is None:
                cells += [""] * (2 if total else 3)
                continue
            share = f" ({group.questions / total:.0%})" if total else ""
            cells += [
                f"{group.questions:,}{share}",
                *(() if total else (f"{group.exact_match:.1f}",)),
                f"{group.f1:.1f}",
            ]
        if any(cells):
            table.add_row(name, *cells)
    terminal.console.print(table)


def _examples(terminal: Any, title: str, rows: pd.DataFrame) -> None:
    """Print some questions with their predicted and their true answers."""
    if rows.empty:
        return
    from rich.text import Text

    terminal.line()
    terminal.console.print(Text(title, "bold"))
    for row in rows.to_dict("records"):
        true = " | ".join(row["answers"]) or "(no answer)"
        terminal.console.print(Text(f"  {row['question']}"))
        terminal.console.print(Text(f"    predicted  {row['predicted'] or '(no answer)'}"))
        if "predicted_second" in row:
            terminal.console.print(Text(f"    run 2      {row['predicted_second'] or '(no answer)'}"))
        terminal.console.print(Text(f"    true       {true}"))


if __name__ == "__main__":
    main()
