"""Answer questions with the stored model of a finished run, or of several.

    python -m src.predict run=RUN question="Who wrote it?" context="It was written by Ada."
    python -m src.predict run=RUN question="..." context=@passage.txt     # or context=-: the passage on standard input
    python -m src.predict run=RUN                                         # asks for passages and questions
    python -m src.predict run=RUN input=questions.jsonl output=answers.jsonl
    python -m src.predict 'runs=[RUN,RUN]' ensemble=true question="..." context="..."

A RUN is the beginning of a run's id, a run's name, or `best`: the finished run with the highest F1 of the newest
sweep that has one, or of all runs if there is no sweep. Each line of a file of questions is a JSON object with
`question`, `context` and, optionally, `id`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from src.answering import SHOWN, STANDARD, StoredRun, load_run, place_of, together
from src.arguments import Listed, ModelArguments, UsageError, read
from src.compose import MISTAKES, fail
from src.config import UserError
from src.console import begin

EXCERPT = 300  # characters of a passage that are shown on each side of an answer


class Predict(ModelArguments):
    """The keys of src.predict."""

    run: str | None = Field(None, description="the beginning of a run's id, its name, or best")
    runs: Listed[str] = Field([], description="several of them, side by side")
    ensemble: bool = Field(False, description="true: the runs answer together, by their mean probabilities")
    question: str | None = Field(None, description="any text; without it and context= you are asked for both")
    context: str | None = Field(None, description="the passage that holds the answer, @FILE, or - for standard input")
    questions: str | None = Field(
        None, alias="input", description="a file of questions in JSON Lines, or - for standard input"
    )
    answers: str = Field(STANDARD, alias="output", description="the file that their answers are written to")


def main() -> None:
    """The command line; values are used as they are, so that a question may contain any character."""
    try:
        begin()
        given = read(Predict, sys.argv[1:] or ["--help"], str(__doc__))
        names = _names(given)
        context = None if given.context is None else _passage(given.context)
        if given.questions is not None:
            from src.question_file import answer_file

            _check_files(given)
            sys.exit(answer_file(_loaded(given, names), given.questions, given.answers, given.ensemble))
        if given.question is None:
            _ask(_loaded(given, names), given.ensemble)
        else:
            runs = _loaded(given, names)
            _answer(runs, given.question, str(context), given.ensemble)
            _next_commands(runs[0])
    except MISTAKES as error:
        fail(error)


def _names(given: Predict) -> list[str]:
    """The names of the runs that answer.

    Raises:
        UsageError: arguments are missing, or contradict each other.
    """
    if (given.run is None) == (not given.runs):
        raise UsageError("Give either run= or runs=; --help shows an example.")
    if given.questions is not None and (given.question or given.context):
        raise UsageError("input= provides questions and passages; leave question= and context= out.")
    if given.questions is None and (given.question is None) != (given.context is None):
        missing = "question" if given.question is None else "context"
        raise UsageError(f"{missing}= must be given too; or leave both out, and you are asked for them.")
    if given.ensemble and len(given.runs) < 2:
        raise UsageError("ensemble=true needs several runs: 'runs=[RUN,RUN]'.")
    return given.runs or [str(given.run)]


def _check_files(given: Predict) -> None:
    """Check, before a model is loaded, that the file of questions exists and the file of answers does not.

    Raises:
        UserError: there is no file of questions, or the file of answers exists.
    """
    if given.questions != STANDARD and not Path(str(given.questions)).is_file():
        raise UserError(f"input={given.questions}: there is no such file; give one, or - for standard input.")
    if given.answers != STANDARD and Path(given.answers).exists():
        raise UserError(f"output={given.answers}: this file exists; give another name.")


def _loaded(given: Predict, names: Sequence[str]) -> list[StoredRun]:
    return [load_run(name, given.tracking(), given.trust_remote_code, given.base) for name in names]


def _answer(runs: Sequence[StoredRun], question: str, context: str, ensemble: bool) -> None:
    """Print the answers of the runs."""
    from rich.markup import escape

    from src.report.terminal import Terminal

    terminal = Terminal()
    answers = [run.answer([{"id": "0", "question": question, "context": context}])[0] for run in runs]
    for run, answer in zip(runs, answers, strict=True):
        if len(runs) > 1:
            terminal.console.print(f"[bold]{escape(run.name)}[/bold]  {run.id[:8]}")
        _show(terminal, answer.best, answer.n_best, context)
    if ensemble:
        candidates = together(answers)
        terminal.console.print("[bold]ensemble[/bold]")
        _show(terminal, candidates[0], candidates, context)


def _show(terminal: Any, best: Any, candidates: Sequence[Any], context: str) -> None:
    """Print the candidates with the best one marked, and its place in the passage."""
    from rich.text import Text

    for span in candidates[:SHOWN]:
        mark = ">" if span == best else " "
        terminal.console.print(Text(f"{mark} {span.probability:6.1%}  {span.text or '(no answer)'}"))
    place = place_of(best, context)
    if place is not None:
        terminal.line()
        terminal.console.print(excerpt(context, *place, marked=terminal.console.is_terminal))
    terminal.line()


def excerpt(context: str, start: int, end: int, marked: bool) -> Any:
    """The part of a passage around an answer: its paragraph, or an excerpt of a long paragraph.

    Args:
        context: the passage.
        start, end: the place of the answer, in characters.
        marked: true: mark the answer by colour; false: by >> and <<.

    Returns:
        A rich Text, which gives the range of characters if it is not the whole passage.
    """
    from rich.text import Text

    first = context.rfind("\n", 0, start) + 1
    last = context.find("\n", end)
    last = len(context) if last < 0 else last
    if start - first > EXCERPT:
        first = context.rfind(" ", 0, start - EXCERPT) + 1 or start - EXCERPT
    if last - end > EXCERPT:
        last = context.find(" ", end + EXCERPT)
        last = end + EXCERPT if last < 0 else last
    answer = Text(context[start:end], "bold green") if marked else Text(f">>{context[start:end]}<<")
    text = Text.assemble(context[first:start], answer, context[end:last])
    if (first, last) != (0, len(context)):
        text.append(f"\n(characters {first:,} to {last:,} of {len(context):,})", "dim")
    return text


def _ask(runs: Sequence[StoredRun], ensemble: bool) -> None:
    """Ask for passages and questions until the input ends; an empty question asks for another passage."""
    from src.report.terminal import Terminal

    terminal = Terminal()
    terminal.note("An empty question asks for another passage; Ctrl-D ends.")
    context = ""
    while True:
        try:
            if not context.strip():
                text = terminal.console.input("passage (or @FILE): ")
                context = _passage(text) if text.strip() else ""
                continue
            question = terminal.console.input("question: ")
        except EOFError:
            terminal.line()
            return
        except UserError as error:
            print(f"Error: {error}", file=sys.stderr)
            continue
        if question.strip():
            _answer(runs, question, context, ensemble)
        else:
            context = ""


def _next_commands(run: StoredRun) -> None:
    from src.report.terminal import Terminal
    from src.runs.commands import command_line, ui_command

    store = run.tracking
    Terminal().header({"compare runs": command_line("compare", store), "see all runs": ui_command(store)})


def _passage(context: str) -> str:
    """The passage that `context=` gives: the value itself, the text of a file (`@FILE`), or standard input (`-`).

    Raises:
        UserError: the passage cannot be read, is not UTF-8 text or is empty.
    """
    if context == STANDARD:
        name, read_all = "standard input", sys.stdin.buffer.read
    elif context.startswith("@"):
        name, read_all = context[1:], Path(context[1:]).read_bytes
    else:
        return context
    try:
        text = read_all().decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"context={context}: {name} is not UTF-8 text; convert it first.") from None
    except OSError as error:
        raise UserError(f"context={context}: the file cannot be read ({error.strerror}); check the path.") from None
    if not text.strip():
        kind = "standard input" if context == STANDARD else "the file"
        raise UserError(f"context={context}: {kind} is empty; it must hold the passage.")
    return text


if __name__ == "__main__":
    main()
