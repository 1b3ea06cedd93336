"""Which questions are trained on and which are scored; drawn by `dataset.*` alone.

So every method and every training seed sees the same questions.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from src.config import DatasetConfig, UserError
from src.data.notes import counted

Records = list[dict[str, Any]]


def split(records: Records, config: DatasetConfig) -> tuple[Records, Records, list[str]]:
    """The training and the validation side of the questions of one file, and notes on how they were parted.

    Raises:
        UserError: there are too few of them.
    """
    if len(records) == 1:
        raise UserError(
            f"'{config.name}' has one question; at least two are needed, one to train on and one to score. Add "
            "questions, about another passage at best."
        )
    train, validation, said = (_by_article if config.split == "article" else _at_random)(records, config)
    if (config.train_size or 0) > len(records) - len(records) // 5:
        said.append(
            f"dataset.train_size={config.train_size} leaves less than a fifth of {len(records):,} questions for "
            "validation: they are others than with a smaller training set, and the two do not make a curve."
        )
    return train, validation, said


def group(record: dict[str, Any]) -> str:
    """What keeps questions on one side of a split by article: the title, or the passage where there is none.

    Passages that differ in white space alone are one.
    """
    return record["title"] or " ".join(record["context"].split())


def _by_article(records: Records, config: DatasetConfig) -> tuple[Records, Records, list[str]]:
    """No group stands on both sides; a note where passages are the groups."""
    sizes = Counter(group(record) for record in records)
    untitled = sum(not record["title"] for record in records)
    if len(sizes) < 2:
        raise UserError(
            "dataset.split=article needs questions from two articles at least, "
            f"'{config.name}' has one {'passage and no titles' if untitled else 'title'}; choose dataset.split=random."
        )
    said = []
    if untitled == len(records):
        said.append(f"{config.name}: split by passage: the file has no titles.")
    elif untitled:
        said.append(
            f"{config.name}: split by article, and by passage where there is no title "
            f"({untitled:,} of {len(records):,} questions)."
        )
    groups = sorted(sizes)
    random.Random(f"{config.seed} articles").shuffle(groups)
    wanted, held_out, count = _wanted_validation(len(records), config), set(), 0
    for name in groups:
        room = len(records) - count - sizes[name]
        if count < wanted and room >= (config.train_size or 1):
            held_out.add(name)
            count += sizes[name]
    return (
        [record for record in records if group(record) not in held_out],
        [record for record in records if group(record) in held_out],
        said,
    )


def _at_random(records: Records, config: DatasetConfig) -> tuple[Records, Records, list[str]]:
    wanted = min(_wanted_validation(len(records), config), len(records))
    held_out = set(random.Random(f"{config.seed} split").sample(range(len(records)), wanted))
    return (
        [record for i, record in enumerate(records) if i not in held_out],
        [record for i, record in enumerate(records) if i in held_out],
        [],
    )


def _wanted_validation(total: int, config: DatasetConfig) -> int:
    """How many of the pooled questions go to the validation side, before it is drawn from.

    A fifth, unless a size asks for more: so the sides stay the same along a curve over dataset.train_size.
    """
    return max(config.validation_size or 1, min(total // 5, total - (config.train_size or 0)))


def draw(records: Records, config: DatasetConfig, key: str) -> Records:
    """As many of the questions as `key` (`train_size` or `validation_size`) asks for.

    Raises:
        UserError: there are fewer, or none.
    """
    size: int | None = getattr(config, key)
    if not records:
        other = "validation_size" if key == "train_size" else "train_size"
        raise UserError(
            f"'{config.name}': dataset.split={config.split} leaves no question for dataset.{key}; "
            f"lower dataset.{other}, or add questions."
        )
    if size is None:
        return records
    if size > len(records):
        raise UserError(
            f"dataset.{key}={size} is more than the {counted(len(records), 'question')} that '{config.name}' has "
            f"for it (dataset.split={config.split}); ask for fewer, or null for all."
        )
    if config.subset == "first":
        return records[:size]
    # A prefix of one shuffle: a smaller draw is part of every larger one with the same seed.
    order = list(range(len(records)))
    random.Random(f"{config.seed} {key}").shuffle(order)
    return [records[i] for i in sorted(order[:size])]
