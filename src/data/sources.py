"""Where questions come from: generated, a hub data set or a file; and which of them a run sees.

The draw depends on `dataset.*` alone, so that every method and every training seed sees the same questions.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset, Features, List, Value, load_dataset

from src.config import DatasetConfig, UserError
from src.data import sample
from src.data.records import NOT_FOUND, Checked, check, read_file

SCHEMA = Features(
    {
        "id": Value("string"),
        "title": Value("string"),
        "context": Value("string"),
        "question": Value("string"),
        "answers": {"text": List(Value("string")), "answer_start": List(Value("int32"))},
    }
)
Records = list[dict[str, Any]]


@dataclass
class QuestionSets:
    """What a run trains on and what it is scored on, each in `SCHEMA`."""

    train: Dataset
    validation: Dataset
    extra: dict[str, Dataset] = field(default_factory=dict)
    realigned: int = 0
    untrainable: int = 0
    notes: list[str] = field(default_factory=list)  # one line each, for the person at the terminal


def load(config: DatasetConfig) -> QuestionSets:
    """Load, check, split and draw the questions of a run.

    Raises:
        UserError: a source that cannot be read, or fewer questions than asked for.
    """
    sets = QuestionSets(train=Dataset.from_list([]), validation=Dataset.from_list([]))
    files = config.files()

    def checked(found: Checked, source: str) -> Records:
        sets.realigned += found.realigned
        sets.untrainable += found.untrainable
        if found.empty_answers:
            sets.notes.append(f"{source}: {found.empty_answers:,} empty answers beside proper ones are left out.")
        if found.realigned or found.untrainable:
            sets.notes.append(
                f"{source}: {found.realigned:,} answers moved to where their text stands, {found.untrainable:,} of "
                f"{len(found.records):,} questions without a findable answer are kept for evaluation alone."
            )
        return found.records

    if config.source == "sample":
        sets.notes.append("The sample is generated text: scores on it say nothing about SQuAD.")
        train = sample.generate(config.train_size or 1000, config.seed, side="train")
        validation = sample.generate(config.validation_size or 250, config.seed, side="validation")
    elif config.source == "hub":
        train, validation = (checked(_from_hub(config, split), split) for split in ("train", "validation"))
    else:
        train = checked(read_file(files["dataset.path"]), files["dataset.path"].name)
        validation = []
        if (path := files.get("dataset.validation_path")) is not None:
            validation = checked(read_file(path), path.name)

    if config.split == "article":
        train, validation = _split_by_article(train, config)
    elif config.split == "random":
        train, validation = _split_at_random(train, config)
    if config.split != "given" and (config.train_size or 0) > (total := len(train) + len(validation)) - total // 5:
        sets.notes.append(
            f"dataset.train_size={config.train_size} leaves less than a fifth of {total:,} questions for validation: "
            "they are others than with a smaller training set, and the two do not make a curve."
        )
    train = [record for record in train if trainable(record)]
    train = _draw(train, config, "train_size")
    validation = _draw(validation, config, "validation_size")

    trained_titles = {record["title"] for record in train if record["title"]}
    trained_contexts = {record["context"] for record in train}
    seen = sum(r["context"] in trained_contexts or r["title"] in trained_titles for r in validation)
    if seen and config.source != "sample":
        sets.notes.append(
            f"{seen:,} of {len(validation):,} validation questions are about articles or passages that were trained "
            "on, which flatters the scores; dataset.split=article keeps them apart."
        )
    for name in config.extra_validation:
        path = files[f"dataset.extra_validation.{name}"]
        records = checked(read_file(path), path.name)
        kept = [r for r in records if r["title"] not in trained_titles and r["context"] not in trained_contexts]
        left_out = len({record["title"] for record in records} & trained_titles)
        sets.notes.append(
            f"{name}: {len(kept):,} questions to score; {left_out} articles that were trained on are left out."
        )
        if not kept:
            raise UserError(f"dataset.extra_validation.{name}: every article of {path.name} was trained on.")
        sets.extra[name] = to_dataset(kept)
    sets.train, sets.validation = to_dataset(train), to_dataset(validation)
    return sets


def to_dataset(records: Records) -> Dataset:
    """Records as an Arrow table in `SCHEMA`."""
    return Dataset.from_list(records, features=SCHEMA)


def trainable(record: dict[str, Any]) -> bool:
    """Whether there is something to learn from: no answer at all (v2.0), or one whose place is known."""
    starts = record["answers"]["answer_start"]
    return not starts or any(start != NOT_FOUND for start in starts)


def training_answer(answers: dict[str, list[Any]], choice: str) -> tuple[str, int] | None:
    """The (text, start) to train on, of several human answers.

    Args:
        answers: `text` and `answer_start` lists of one question; NOT_FOUND marks an answer without a place.
        choice: `first`; `majority`, the text given most often (the first of these on a tie); `shortest`.

    Returns:
        None where there is none: the question is unanswerable, or no answer has a known place.
    """
    placed = [
        (text, start)
        for text, start in zip(answers["text"], answers["answer_start"], strict=True)
        if start != NOT_FOUND
    ]
    if not placed:
        return None
    if choice == "majority":
        counts = Counter(text for text, _ in placed)
        return max(placed, key=lambda answer: counts[answer[0]])
    if choice == "shortest":
        return min(placed, key=lambda answer: len(answer[0]))
    return placed[0]


def _from_hub(config: DatasetConfig, split: str) -> Checked:
    try:
        dataset = load_dataset(str(config.path), split=split)
    except Exception as error:  # the hub's client raises a dozen unrelated types when it is out of reach
        raise UserError(
            f"dataset={config.name}: {config.path} could not be loaded from the hub "
            f"({type(error).__name__}: {str(error).strip().splitlines()[0]}). Without a hub: dataset=sample, or a "
            "file of your own with dataset=file dataset.path=FILE."
        ) from error
    return check(((f"{split} row {i}", row) for i, row in enumerate(dataset)), str(config.path))


def _wanted_validation(total: int, config: DatasetConfig) -> int:
    """How many of the pooled questions go to the validation side, before it is drawn from.

    A fifth, unless a size asks for more: so the sides stay the same along a curve over dataset.train_size.
    """
    return max(config.validation_size or 1, min(total // 5, total - (config.train_size or 0)))


def _split_by_article(records: Records, config: DatasetConfig) -> tuple[Records, Records]:
    sizes = Counter(record["title"] for record in records)
    if len(sizes) < 2:
        raise UserError(
            f"dataset.split=article needs questions from two articles at least, {config.name} has "
            f"{len(sizes)} title; choose dataset.split=random."
        )
    titles = sorted(sizes)
    random.Random(f"{config.seed} articles").shuffle(titles)
    wanted, held_out, count = _wanted_validation(len(records), config), set(), 0
    for title in titles:
        room = len(records) - count - sizes[title]
        if count < wanted and room >= (config.train_size or 1):
            held_out.add(title)
            count += sizes[title]
    return (
        [record for record in records if record["title"] not in held_out],
        [record for record in records if record["title"] in held_out],
    )


def _split_at_random(records: Records, config: DatasetConfig) -> tuple[Records, Records]:
    wanted = min(_wanted_validation(len(records), config), len(records))
    held_out = set(random.Random(f"{config.seed} split").sample(range(len(records)), wanted))
    return (
        [record for i, record in enumerate(records) if i not in held_out],
        [record for i, record in enumerate(records) if i in held_out],
    )


def _draw(records: Records, config: DatasetConfig, key: str) -> Records:
    size: int | None = getattr(config, key)
    if not records:
        raise UserError(f"{config.name}: dataset.split={config.split} leaves no question for dataset.{key}.")
    if size is None:
        return records
    if size > len(records):
        raise UserError(
            f"dataset.{key}={size} is more than the {len(records):,} questions {config.name} has for it "
            f"(dataset.split={config.split}); ask for fewer, or null for all."
        )
    if config.subset == "first":
        return records[:size]
    # A prefix of one shuffle: a smaller draw is part of every larger one with the same seed.
    order = list(range(len(records)))
    random.Random(f"{config.seed} {key}").shuffle(order)
    return [records[i] for i in sorted(order[:size])]
