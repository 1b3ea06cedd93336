"""Loads the questions of a run and lets its task make batches of them: it connects data and task."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from datasets import Dataset

from src.config import Config
from src.data import sources
from src.data.sources import QuestionSets
from src.tasks import task_of
from src.tasks.base import Batches


@dataclass(frozen=True)
class RunData:
    """The questions of a run and their batches."""

    sets: QuestionSets
    train: Batches
    validation: Batches
    test: Batches | None  # where there is a test set
    extra: dict[str, Batches]

    @property
    def all(self) -> list[Batches]:
        return [self.train, self.validation, *([] if self.test is None else [self.test]), *self.extra.values()]


def load(config: Config, tokenizer: Any) -> RunData:
    """Load the questions of a run and make its batches; notes on both are in `sets.notes`.

    Raises:
        UserError: a source cannot be read, has fewer questions than requested, or the tokenizer is not suitable.
    """
    sets = sources.load(config.dataset)
    settled = replace(config, dataset=replace(config.dataset, unanswerable=sets.unanswerable))
    task = task_of(config.model)

    def batches(questions: Dataset, training: bool = False) -> Batches:
        made, notes = task.batches(questions, tokenizer, settled, training)
        sets.notes.extend(notes)
        return made

    extra = {name: batches(questions) for name, questions in sets.extra.items()}
    train = batches(sets.train, training=True)
    validation = batches(sets.validation)
    test = None if sets.test is None else batches(sets.test)
    return RunData(sets, train, validation, test, extra)
