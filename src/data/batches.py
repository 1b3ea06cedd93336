"""Windows as batches of like length, and all that a run trains and is scored on."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from src.config import DatasetConfig, ModelConfig
from src.data import sources
from src.data.features import labelled_windows, make_windows
from src.data.sources import QuestionSets

# Few distinct lengths let the CPU's kernels be reused: a third more examples a second with 32 than with 1 or 8.
LENGTH_MULTIPLE = 32


@dataclass(frozen=True)
class RunData:
    """The questions of a run and their batches."""

    sets: QuestionSets
    train: Any  # `Batches`, or the same windows as hidden states (`src.training.encoded.EncodedBatches`)
    validation: Any
    test: Batches | None  # where there is a test set
    extra: dict[str, Batches]


def load(dataset: DatasetConfig, model: ModelConfig, tokenizer: Any) -> RunData:
    """Load the questions of a run and cut them into windows; notes on both are in `sets.notes`.

    Raises:
        UserError: a source that cannot be read, fewer questions than asked for, or a tokenizer without offsets.
    """
    sets = sources.load(dataset)

    def windows_of(questions: Dataset) -> Dataset:
        windows, notes = make_windows(questions, tokenizer, model, dataset.answer)
        sets.notes.extend(notes)
        return windows

    def batches(windows: Dataset) -> Batches:
        return Batches(windows, tokenizer.pad_token_id, model.max_length)

    extra = {name: batches(windows_of(questions)) for name, questions in sets.extra.items()}
    train = batches(labelled_windows(windows_of(sets.train)))
    validation = batches(windows_of(sets.validation))
    test = None if sets.test is None else batches(windows_of(sets.test))
    return RunData(sets, train, validation, test, extra)


def batch_order(sizes: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Batches of windows of like length, in random order: little padding, and no curriculum from short to long.

    Depends on the lengths, the seed and the epoch alone, so that every method sees the same batches.

    Args:
        sizes: tokens of each window, shape (windows,).
        batch_size: windows a batch; the last one may be smaller.

    Returns:
        Lists of window rows; each row stands in exactly one.
    """
    generator = random.Random(f"{seed} {epoch}")
    order = list(range(len(sizes)))
    generator.shuffle(order)
    # Sorted within stretches of 50 batches, so that a window meets other neighbours in every epoch.
    stretch = batch_size * 50
    batches = []
    for i in range(0, len(order), stretch):
        by_length = sorted(order[i : i + stretch], key=lambda row: sizes[row])
        batches += [by_length[j : j + batch_size] for j in range(0, len(by_length), batch_size)]
    generator.shuffle(batches)
    return batches


class Batches:
    """The windows of one data set, as the batches that training and prediction run on.

    Args:
        windows: in WINDOW_SCHEMA, numpy format.
        pad_token_id: fills `input_ids`.
        max_length: tokens; no batch is padded beyond it.
    """

    def __init__(self, windows: Dataset, pad_token_id: int, max_length: int) -> None:
        self.windows = windows
        self.lengths = np.asarray(windows["length"][:])
        self.pad_token_id = pad_token_id
        self.max_length = max_length

    def training(self, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
        """The rows of each batch of an epoch; see `batch_order`."""
        return batch_order(self.lengths, batch_size, seed, epoch)

    def evaluation(self, batch_size: int) -> list[list[int]]:
        """The rows of each batch, longest first: an evaluation that does not fit in memory fails at once."""
        order = np.argsort(-self.lengths, kind="stable").tolist()
        return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]

    def collate(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """Pad some windows into one batch.

        Returns:
            `input_ids`, `attention_mask` and, where the model knows them, `token_type_ids`, each of shape
            (rows, tokens); `start_positions`, `end_positions` of shape (rows,). All int64.
        """
        chosen = self.windows[list(rows)]
        width = -(-max(chosen["length"]) // LENGTH_MULTIPLE) * LENGTH_MULTIPLE
        shape = (len(rows), min(int(width), self.max_length))
        input_ids = np.full(shape, self.pad_token_id, dtype=np.int64)
        attention_mask = np.zeros(shape, dtype=np.int64)
        token_type_ids = np.zeros(shape, dtype=np.int64)
        for i, (tokens, types) in enumerate(zip(chosen["input_ids"], chosen["token_type_ids"], strict=True)):
            input_ids[i, : len(tokens)] = tokens
            attention_mask[i, : len(tokens)] = 1
            token_type_ids[i, : len(types)] = types
        batch = {"input_ids": input_ids, "attention_mask": attention_mask}
        if len(chosen["token_type_ids"][0]):
            batch["token_type_ids"] = token_type_ids
        batch["start_positions"] = chosen["start"].astype(np.int64)
        batch["end_positions"] = chosen["end"].astype(np.int64)
        return {name: torch.from_numpy(values) for name, values in batch.items()}
