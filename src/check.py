"""Check a file of questions before a model is trained on it.

    python -m src.check questions.csv
    python -m src.check questions.csv train_size=200 model=distilbert

It prints how many rows can be used and which cannot, the lengths of the texts in tokens, the split of the questions,
warnings, and the command that trains on the file. Further keys are those of src.train. Nothing is written to the store.
The exit status is 0 if the file can be used for training, and 1, with a sentence, if it cannot.
"""

from __future__ import annotations

import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from src.arguments import HELP_WORDS, UsageError, command, help_text, short_form_rows
from src.compose import MISTAKES, Primary, assignment, completed, fail, from_hydra, register
from src.config import Config
from src.console import begin
from src.problems import validate

if TYPE_CHECKING:
    from src.data.records import Checked
    from src.data.sources import QuestionSets

FEW_GROUPS = 10  # there is a warning if a score is based on fewer articles or passages
UNKNOWN_SHARE = 0.01  # there is a warning if this share of the passages' tokens is unknown


def main() -> None:
    """The command line: a file, and KEY=VALUE as for src.train."""
    try:
        begin()
        arguments = sys.argv[1:] or ["--help"]
        if HELP_WORDS & set(arguments):
            print(help_text(str(__doc__), {"SHORT FORMS": short_form_rows()}))
            return
        register()
        config, overrides = configure(arguments)
        from src.report.terminal import Terminal

        check(config, Terminal().console)
        print("\nThe file can be used for training:")
        for line in next_commands(str(config.dataset.path), overrides):
            print(f"  {line}")
    except MISTAKES as error:
        fail(error)


def configure(arguments: Sequence[str]) -> tuple[Config, list[str]]:
    """The configuration of a run on the given file, and the given overrides.

    Raises:
        UserError: there is no file or more than one, or a value is invalid for any run.
    """
    prefix = "dataset.path="
    files = [a for a in arguments if Path(a).is_file() or ("=" not in a and not a.startswith(("-", "~")))]
    given = [argument for argument in arguments if argument not in files]
    if options := [argument for argument in given if argument.startswith("-")]:
        raise UsageError(f"{' '.join(command('check'))} takes no {options[0]}; leave it out.")
    overrides = completed(given)
    files += [override.removeprefix(prefix).strip("'\"") for override in overrides if override.startswith(prefix)]
    overrides = [override for override in overrides if not override.startswith((prefix, "dataset="))]
    if len(files) != 1:
        raise UsageError(f"{' '.join(command('check'))} takes one file, not {len(files)}.")
    with initialize_config_dir(config_dir=Primary().folder, version_base="1.3"):
        config = from_hydra(compose("config", overrides=["dataset=file", *overrides]), overrides)
    # Set here and not by an override, so that the path may contain any character.
    config.dataset.path, config.dataset.name = files[0], Path(files[0]).stem
    validate(config)
    return config, overrides


def next_commands(file: str, overrides: Sequence[str]) -> list[str]:
    """The commands that train on the file, quoted for a shell: with one method, then with two."""
    given = [assignment("dataset.path", file), *overrides]
    if any(override.startswith("method=") for override in overrides):
        return [shlex.join([*command("train"), *given])]
    once = shlex.join([*command("train"), *given, "method=lora"])
    return [once, f"{shlex.join([*command('train'), '-m', *given, 'method=full,lora'])}  # both, and compare them"]


def check(config: Config, console: Console) -> None:
    """Check the file of a configuration, and print the result.

    Raises:
        UserError: the file cannot be used for training.
    """
    from src.data import sources
    from src.data.records import read_file
    from src.data.split import group

    path = config.dataset.files()["dataset.path"]
    checked = read_file(path)
    contexts = list(dict.fromkeys(record["context"] for record in checked.records))
    titles = {record["title"] for record in checked.records if record["title"]}
    _show(console, _counts(path, checked, len(contexts), len(titles)))

    sets = sources.load(config.dataset)
    from src.model.backbone import load_tokenizer  # imports torch, so only after the file was read

    tokenizer = load_tokenizer(config.model)
    table, unknown = _length_table(config.model.name, tokenizer, checked.records, contexts)
    of = "articles" if titles else "passages"
    sides = {"training": sets.train, "validation": sets.validation}
    if sets.test is not None:
        sides["test"] = sets.test
    groups = {name: len({group(record) for record in side}) for name, side in sides.items()}
    split = ", ".join(f"{len(side):,} for {name} ({groups[name]:,} {of})" for name, side in sides.items())
    _show(console, [("split", split), ("windows", _windows(config, tokenizer, sets))])
    console.print()
    console.print(table, soft_wrap=False)

    warnings = _warnings(config, contexts, unknown, groups, of)
    console.print()
    _show(console, [*(("note", note) for note in sets.notes), *(("WARNING", warning) for warning in warnings)])


def _counts(path: Path, checked: Checked, contexts: int, titles: int) -> list[tuple[str, str]]:
    """The numbers of records of each kind, as name and text of the rows to print."""
    from src.data.notes import counted, listed

    records = checked.records
    unanswered = sum(not record["answers"]["text"] for record in records)
    seen: set[tuple[str, str]] = set()
    again = []
    for record in records:
        asked = (record["question"], record["context"])
        if asked in seen:
            again.append(checked.names[record["id"]])
        seen.add(asked)
    rows = [
        ("file", str(path)),
        ("rows", f"{len(records) + len(checked.left_out):,} read, {len(records):,} of them usable"),
        ("answers", f"{counted(len(records) - unanswered - checked.untrainable, 'question')} with one in the passage"),
    ]
    if checked.untrainable:
        rows.append(("", f"{checked.untrainable:,} with none that can be located there: scored, not trained on"))
    if unanswered:
        rows.append(("", f"{unanswered:,} without any"))
    rows.append(("passages", f"{contexts:,}, " + (f"under {counted(titles, 'title')}" if titles else "without titles")))
    if again:
        repeated = f"{counted(len(again), 'question')} asked before about the same passage ({listed(again)})"
        rows.append(("repeated", repeated))
    return rows


def _warnings(config: Config, contexts: Sequence[str], unknown: float, groups: Mapping[str, int], of: str) -> list[str]:
    """Warnings about properties of the file that make its scores low or unreliable."""
    from src.data import language

    warnings = []
    scored = [(name, number) for name, number in groups.items() if name != "training" and number < FEW_GROUPS]
    if scored:
        few = " and the ".join(f"{name} questions are about {number} {of} alone" for name, number in scored)
        warnings.append(
            f"The {few}, and the scores may differ much on others. "
            f"More {of} with fewer questions each make them more reliable."
        )
    if unknown >= UNKNOWN_SHARE:
        warnings.append(
            f"{unknown:.0%} of the passages' tokens are unknown to the tokenizer of {config.model.name}; choose a "
            "model for such text with model.path=."
        )
    if sentence := language.remark(contexts):
        default = " The default model, minilm, was trained on English text." if config.model.name == "minilm" else ""
        warnings.append(f"{sentence}{default} Choose a model of that language with model.path=.")
    return warnings


def _show(console: Console, rows: Sequence[tuple[str, str]]) -> None:
    """Print the name and the text of each row; a long text is wrapped within its column."""
    styles = {"note": "dim", "WARNING": "bold yellow"}
    for name, text in rows:
        lines = textwrap.wrap(text, max(40, console.width - 10), break_long_words=False, break_on_hyphens=False)
        console.print(f"[{styles.get(name, 'bold')}]{name:<8}[/]  " + escape(("\n" + " " * 10).join(lines)))


def _length_table(
    name: str, tokenizer: Any, records: Sequence[dict[str, Any]], contexts: Sequence[str]
) -> tuple[Table, float]:
    """A table of the lengths of the texts in tokens, and the share of unknown tokens in the passages."""
    texts = {
        "question": [record["question"] for record in records],
        "passage": contexts,
        "answer": [text for record in records for text in record["answers"]["text"]],
    }
    table = Table(title=f"Tokens of {escape(name)}", title_justify="left", title_style="bold")
    table.add_column("")
    for heading in ("median", "95th percentile", "longest"):
        table.add_column(heading, justify="right")
    unknown = 0.0
    for kind, some in texts.items():
        encoded = tokenizer(some, add_special_tokens=False, verbose=False)["input_ids"] if some else []
        lengths = [len(ids) for ids in encoded] or [0]
        table.add_row(kind, *(f"{value:,}" for value in np.quantile(lengths, (0.5, 0.95, 1), method="inverted_cdf")))
        if kind == "passage":
            unknown = sum(ids.count(tokenizer.unk_token_id) for ids in encoded) / max(1, sum(lengths))
    return table, unknown


def _windows(config: Config, tokenizer: Any, sets: QuestionSets) -> str:
    """The number of windows of the questions, as a sentence; this adds the notes about labels to those of `sets`."""
    from src.data.notes import counted
    from src.tasks import task_of

    counts = []
    for side in sets.by_context.values():
        batches, notes = task_of(config.model).batches(side, tokenizer, config, training=False)
        sets.notes.extend(notes)
        counts.append(np.bincount(batches.questions, minlength=len(side)))
    each = np.concatenate(counts)
    line = f"{(each == 1).sum():,} of {counted(len(each), 'question')} fit into one of {config.model.max_length} tokens"
    return line + (f", the others take up to {each.max()}" if each.max() > 1 else "")


if __name__ == "__main__":
    main()
