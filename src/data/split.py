"""Splits questions into training, validation and test, and draws subsets of them.

Both depend only on `dataset.*`, so that all methods and training seeds see the same questions.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from src.config import DatasetConfig, UserError
from src.data.notes import counted

Records = list[dict[str, Any]]


@dataclass(frozen=True)
class Sides:
    """The questions of each side before subsets are drawn, and notes on how they were split."""

    train: Records
    validation: Records
    test: Records
    notes: list[str]


def split(records: Records, config: DatasetConfig) -> Sides:
    """Split the questions of one file into training, validation and, if requested, test.

    The validation side is drawn first, so that it is the same with and without a test side. With a test side, no
    passage is on two sides; without one, `dataset.split=random` may put the questions of a passage on both sides.

    Raises:
        UserError: there are too few questions.
    """
    if len(records) == 1:
        raise UserError(
            f"'{config.name}' has one question; at least two are needed, one to train on and one to score. Add "
            "questions, about another passage at best."
        )
    tested = config.test_size is not None and not config.has_own_test
    notes = _check_articles(records, config) if config.split == "article" else []
    place = group if config.split == "article" else passage
    if config.split == "article" or tested:
        held_out, tests = _held_out(records, config, place, tested)
    else:
        held_out, tests = set(), set()
    if tested and not tests:
        notes.append(_no_test({place(record) for record in records}, records, config))
    if config.split == "article" or tests:
        train = [record for record in records if place(record) not in held_out | tests]
        validation = [record for record in records if place(record) in held_out]
    else:
        train, validation = _at_random(records, config)
    test = [record for record in records if place(record) in tests]
    return Sides(train, validation, test, notes + _shifted(len(records), len(validation), bool(tests), config))


def group(record: dict[str, Any]) -> str:
    """The group of a question in a split by article: the title, or the passage if there is no title."""
    return record["title"] or passage(record)


def passage(record: dict[str, Any]) -> str:
    """The passage with normalised white space."""
    return " ".join(record["context"].split())


def _check_articles(records: Records, config: DatasetConfig) -> list[str]:
    """A note if passages are used in place of articles.

    Raises:
        UserError: all questions are about one article or passage.
    """
    untitled = sum(not record["title"] for record in records)
    if len(set(map(group, records))) < 2:
        raise UserError(
            "dataset.split=article needs questions from two articles at least, "
            f"'{config.name}' has one {'passage and no titles' if untitled else 'title'}; choose dataset.split=random."
        )
    if untitled == len(records):
        return [f"{config.name}: split by passage: the file has no titles."]
    if untitled:
        return [
            (
                f"{config.name}: split by article, and by passage where there is no title "
                f"({untitled:,} of {len(records):,} questions)."
            )
        ]
    return []


def _held_out(
    records: Records, config: DatasetConfig, place: Callable[[dict[str, Any]], str], tested: bool
) -> tuple[set[str], set[str]]:
    """The articles or passages of the validation side, and those of the test side if there is one.

    Each side takes the next ones in a shuffled order until it has a fifth of all questions, or more if its size
    requires it. One that would leave too few questions for `dataset.train_size` is skipped.
    """
    sizes = Counter(map(place, records))
    names = sorted(sizes)
    random.Random(f"{config.seed} {'articles' if place is group else 'passages'}").shuffle(names)
    left, sides = len(records), []
    for size in (config.validation_size, *([config.test_size] if tested else [])):
        wanted, taken, count = _wanted(len(records), left, size, config), set(), 0
        for name in names:
            if count < wanted and left - sizes[name] >= (config.train_size or 1):
                taken.add(name)
                count += sizes[name]
                left -= sizes[name]
        names = [name for name in names if name not in taken]
        sides.append(taken)
    return sides[0], sides[1] if tested else set()


def _at_random(records: Records, config: DatasetConfig) -> tuple[Records, Records]:
    wanted = min(_wanted(len(records), len(records), config.validation_size, config), len(records))
    held_out = set(random.Random(f"{config.seed} split").sample(range(len(records)), wanted))
    return (
        [record for i, record in enumerate(records) if i not in held_out],
        [record for i, record in enumerate(records) if i in held_out],
    )


def _wanted(total: int, left: int, size: int | str | None, config: DatasetConfig) -> int:
    """The number of questions for a scored side before a subset is drawn, if `left` of `total` are not taken yet.

    It is a fifth unless a size requires more, so that the sides stay the same for all values of dataset.train_size.
    """
    return max(size if isinstance(size, int) else 1, min(total // 5, left - (config.train_size or 0)))


def _no_test(places: set[str], records: Records, config: DatasetConfig) -> str:
    """A note on why there are too few questions for a test set.

    Raises:
        UserError: a number of test questions was requested.
    """
    titled = config.split == "article" and any(record["title"] for record in records)
    has = counted(len(places), "article" if titled else "passage")
    why = f"'{config.name}' has {has}, too few for three sides"
    if config.train_size is not None:
        why += f" with dataset.train_size={config.train_size}"
    if isinstance(config.test_size, int):
        raise UserError(f"dataset.test_size={config.test_size}: {why}; add questions, or give dataset.test_size=null.")
    return f"No test set: {why}."


def _shifted(total: int, validation: int, tested: bool, config: DatasetConfig) -> list[str]:
    """A note if a large training set makes the scored sides smaller."""
    trained, fifth = config.train_size or 0, total // 5
    sides = ["validation"] if trained > total - fifth else []
    sides += ["test"] if tested and trained > total - validation - fifth else []
    if not sides:
        return []
    return [
        (
            f"dataset.train_size={config.train_size} leaves less than a fifth of {total:,} questions for "
            f"{' and for '.join(sides)}: they are others than with a smaller training set, and the two do not make a "
            "curve."
        )
    ]


def draw(records: Records, config: DatasetConfig, key: str) -> Records:
    """Draw as many questions as `key` (`train_size`, `validation_size` or `test_size`) requests.

    Raises:
        UserError: there are fewer, or none.
    """
    size: int | str | None = getattr(config, key)
    if not records:
        other = "validation_size" if key == "train_size" else "train_size"
        raise UserError(
            f"'{config.name}': dataset.split={config.split} leaves no question for dataset.{key}; "
            f"lower dataset.{other}, or add questions."
        )
    if not isinstance(size, int):
        return records
    if size > len(records):
        everything = "all" if key == "test_size" else "null"
        raise UserError(
            f"dataset.{key}={size} is more than the {counted(len(records), 'question')} that '{config.name}' has "
            f"for it (dataset.split={config.split}); ask for fewer, or {everything} for all."
        )
    if config.subset == "first":
        return records[:size]
    # A prefix of a shuffled order: with the same seed, a smaller subset is part of every larger one.
    order = list(range(len(records)))
    random.Random(f"{config.seed} {key}").shuffle(order)
    return [records[i] for i in sorted(order[:size])]
