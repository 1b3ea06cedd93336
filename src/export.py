"""Export the model of a finished run as a folder that transformers can read without tuneoff.

    python -m src.export run=RUN to=FOLDER                  # an adapter stays an adapter, for its base on the hub
    python -m src.export run=RUN to=FOLDER merged=true      # the adapter is merged into the weights of its base
    python -m src.export run=RUN to=FOLDER format=onnx      # the merged model as ONNX, in fp32, for onnxruntime

A RUN is the beginning of a run's id, a run's name, or `best`. Methods that train some of the parameters are always
exported as a whole model. As a check, the exported model is loaded (a whole model by transformers alone) and answers
questions that the run was scored on; its card reports how many answers are the same, the scores and the speed.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from src.answering import StoredRun, load_run, read_folder
from src.arguments import ModelArguments, read
from src.compose import MISTAKES, fail
from src.config import UserError
from src.console import begin

CARD = "README.md"
UNFINISHED = "unfinished"  # the file that marks a folder whose export has not come to its end


class Arguments(ModelArguments):
    """The keys of src.export."""

    run: str = Field(description="the beginning of a run's id, its name, or best")
    to: Path = Field(description="the folder to write; it must be empty or not exist")
    merged: bool = Field(False, description="true: merge an adapter into the weights of its base")
    format: Literal["transformers", "onnx"] = Field("transformers", description="transformers or onnx")
    questions: int = Field(200, ge=0, description="the number of questions for the check; 0 for no check")


def main() -> None:
    """The command line."""
    try:
        begin()
        given = read(Arguments, sys.argv[1:] or ["--help"], str(__doc__))
        refuse_filled(given.to)
        if given.format == "onnx":
            from src.model import onnx

            onnx.check_installed()
        stored = load_run(given.run, given.tracking(), given.trust_remote_code, given.base)
        rows = scored_questions(stored, given.questions) if given.questions else []
        before = answered(stored, rows) if rows else None  # merging changes the model
        clear(given.to)
        kind = write(stored, given.to, given.merged or given.format == "onnx")
        if given.format == "onnx":
            kind = as_onnx(stored, given.to)
        print(f"{given.to}: {kind}")
        if before is not None:
            shown = section(kind, before, answered(read_alone(stored, given.to), rows))
            with (given.to / CARD).open("a", encoding="utf-8") as file:
                file.write(shown)
            print(shown.strip())
        (given.to / UNFINISHED).unlink()
    except MISTAKES as error:
        fail(error)


def refuse_filled(folder: Path) -> None:
    """
    Raises:
        UserError: the folder holds something that no interrupted export has left there.
    """
    filled = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if filled and not (folder / UNFINISHED).exists():
        raise UserError(f"to={folder} is not empty; give a new folder.")


def clear(folder: Path) -> None:
    """Make the folder, marked as unfinished, without what an interrupted export has left in it.

    Raises:
        UserError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / UNFINISHED).touch()
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != UNFINISHED:
                path.unlink()
    except OSError as error:
        raise UserError(f"to={folder} cannot be written ({error.strerror or error}).") from error


def write(stored: StoredRun, folder: Path, merged: bool) -> str:
    """Write the model of a run, its tokenizer and its card; returns a description of what was written.

    Args:
        stored: the loaded run.
        folder: the folder to write; it is empty or does not exist.
        merged: whether to merge an adapter into the weights of its base.

    Raises:
        UserError: an adapter cannot be merged into its base, or the folder cannot be written.
    """
    from src import serving
    from src.model.stored import ADAPTER, holds_whole_model
    from src.runs.store import connect

    try:
        folder.mkdir(parents=True, exist_ok=True)
        kept = Path(str(connect(stored.tracking, create=False).artifact(stored.id, "model", str(folder))))
        for file in kept.iterdir():
            if file.name not in serving.FILES:
                shutil.move(str(file), folder / file.name)
        shutil.rmtree(kept)
        if holds_whole_model(folder):
            return "the whole model"
        adapter = (folder / ADAPTER).exists()
        if adapter and not merged:
            return "an adapter"
        whole = _merged(stored) if adapter else stored.model
        for file in folder.glob("*.safetensors"):
            file.unlink()
        (folder / ADAPTER).unlink(missing_ok=True)
        whole.save_pretrained(folder)
        _write_card(stored, folder)
    except OSError as error:
        raise UserError(f"to={folder} cannot be written ({error.strerror or error}).") from error
    return "the whole model, with the adapter in its weights" if adapter else "the whole model"


def as_onnx(stored: StoredRun, folder: Path) -> str:
    """Replace the weights of an exported whole model by an ONNX file; returns a description of the folder.

    Raises:
        UserError: torch cannot export the architecture.
    """
    from src.model import onnx

    onnx.write(_whole(stored, folder), folder)
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    _write_card(stored, folder)
    return "the whole model as ONNX"


def _write_card(stored: StoredRun, folder: Path) -> None:
    from src.final import intervals
    from src.model import card
    from src.model.base import FILE, Base
    from src.runs.store import connect

    if not (folder / FILE).exists():  # runs of version 0.1 have neither this file nor a card
        return
    base = Base(**json.loads((folder / FILE).read_text(encoding="utf-8")))
    record = connect(stored.tracking, create=False).record(stored.id)
    table = record.questions(split=None)
    ends = {} if table is None else intervals(table, stored.config.dataset.split == "article")
    card.write(folder, stored.config, base, record.metrics, stored.id, ends)


def _merged(stored: StoredRun) -> Any:
    if stored.config.method.quantize is not None:
        raise UserError(
            f"run={stored.name}: its base is held in 4 bits, and merging the adapter would round it again; export the "
            "adapter (merged=false)."
        )
    try:
        return stored.model.merge_and_unload(safe_merge=True)
    except (NotImplementedError, ValueError) as error:  # peft: a method without a merged form; weights not finite
        raise UserError(f"run={stored.name}: its adapter cannot be merged into its base ({error}).") from error


@dataclass(frozen=True)
class Answered:
    """The result of a check: the answers of a model to questions that its run was scored on."""

    questions: int
    same: int  # the number of answers that are identical to those of the run
    exact_match: float  # percent
    f1: float
    seconds: float

    def row(self, name: str) -> str:
        """A row of the card's table."""
        speed = f"{self.questions / self.seconds:.1f}"
        return f"| {name} | {self.same:,} of {self.questions:,} | {self.exact_match:.1f} | {self.f1:.1f} | {speed} |"


def scored_questions(stored: StoredRun, count: int) -> list[dict[str, Any]]:
    """Up to `count` questions that a run was scored on, of its test set, or of its validation set if it has none.

    Raises:
        UserError: the run did not keep their texts.
    """
    from src.runs.records import TEST, VALIDATION
    from src.runs.store import connect

    record = connect(stored.tracking, create=False).record(stored.id)
    table = record.questions(split=TEST)
    table = record.questions(split=VALIDATION) if table is None else table
    if table is None or "context" not in table:
        raise UserError(f"run={stored.name} kept no questions to check with; give questions=0.")
    rows: list[dict[str, Any]] = table.head(count).reset_index().to_dict("records")
    return rows


def answered(stored: StoredRun, rows: Sequence[dict[str, Any]]) -> Answered:
    """Answer questions that the run was scored on, and compare the answers with those of the run.

    Args:
        stored: the model.
        rows: the result of `scored_questions`.
    """
    from src.evaluation.score import score

    begun = time.perf_counter()
    answers = stored.answer([{key: row[key] for key in ("id", "question", "context")} for row in rows])
    seconds = time.perf_counter() - begun
    golds = [list(row["answers"]) for row in rows]  # their places are not needed for the scores
    truth = [
        {"id": row["id"], "answers": {"text": gold, "answer_start": [0] * len(gold)}}
        for row, gold in zip(rows, golds, strict=True)
    ]
    metrics = score(truth, answers)
    same = sum(answer.best.text == row["predicted"] for answer, row in zip(answers, rows, strict=True))
    return Answered(len(rows), same, metrics["exact_match"], metrics["f1"], seconds)


def read_alone(stored: StoredRun, folder: Path) -> StoredRun:
    """The run with the model of an exported folder, which is read by transformers alone or put on the run's base."""
    from transformers import AutoConfig

    from src.model import onnx
    from src.model.stored import ADAPTER

    if (folder / onnx.FILE).exists():
        config = AutoConfig.from_pretrained(folder)  # a folder of ours  # nosec B615
        return replace(stored, model=onnx.OnnxModel(folder, config, stored.runtime.threads))
    if (folder / ADAPTER).exists():
        return replace(stored, model=read_folder(stored.config, folder, stored.name, stored.base_path).model)
    model = stored.runtime.accelerator.prepare_model(_whole(stored, folder), evaluation_mode=True)
    return replace(stored, model=model)


def _whole(stored: StoredRun, folder: Path) -> Any:
    """The whole model in an exported folder, read by transformers alone."""
    from src.tasks import task_of

    auto = task_of(stored.config.model).auto_model
    return auto.from_pretrained(folder, trust_remote_code=stored.config.model.trust_remote_code)


def section(kind: str, before: Answered, after: Answered) -> str:
    """The section of the card on the exported folder."""
    return "\n".join(
        [
            "",
            "## What this folder holds",
            "",
            f"It holds {kind}. Checked on questions that the run was scored on:",
            "",
            "| | answers as the run gave them | exact match | F1 | questions a second |",
            "|---|---:|---:|---:|---:|",
            before.row("as the run stored it"),
            after.row("this folder, which is to be deployed"),
            "",
        ]
    )


if __name__ == "__main__":
    main()
