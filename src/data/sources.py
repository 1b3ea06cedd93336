"""Where questions come from: generated, a hub data set or a file; and which of them a run sees.

The draw depends on `dataset.*` alone, so that every method and every training seed sees the same questions.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from datasets import Dataset, Features, List, Value, load_dataset

from src.config import DatasetConfig, UserError
from src.data import notes, sample
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


# Without dataset.unanswerable, "no answer" may be predicted from this share and number of training questions on.
UNANSWERABLE_SHARE = 0.05
UNANSWERABLE_QUESTIONS = 10


@dataclass
class QuestionSets:
    """What a run trains on and what it is scored on, each in `SCHEMA`."""

    train: Dataset
    validation: Dataset
    extra: dict[str, Dataset] = field(default_factory=dict)
    unanswerable: bool = False  # whether "no answer" may be predicted (SQuAD 2.0); settles dataset.unanswerable
    realigned: int = 0
    untrainable: int = 0
    notes: list[str] = field(default_factory=list)  # one line each, for the person at the terminal


def load(config: DatasetConfig) -> QuestionSets:
    """Load, check, split and draw the questions of a run.

    Raises:
        UserError: a source that cannot be read, or fewer questions than asked for.
    """
    sets = QuestionSets(train=Dataset.from_list([]), validation=Dataset.from_list([]))
    trained, scored = _read(config, sets)
    train, validation = trained.records, scored.records
    if config.split != "given":
        if len(train) == 1:
            raise UserError(
                f"'{config.name}' has one question; at least two are needed, one to train on and one to score. Add "
                "questions, about another passage at best."
            )
        scored = trained
        if config.split == "article":
            train, validation = _split_by_article(train, config, sets.notes)
        else:
            train, validation = _split_at_random(train, config)
        if (config.train_size or 0) > (total := len(trained.records)) - total // 5:
            sets.notes.append(
                f"dataset.train_size={config.train_size} leaves less than a fifth of {total:,} questions for "
                "validation: they are others than with a smaller training set, and the two do not make a curve."
            )
    pool, train = train, [record for record in train if trainable(record)]
    train = _settle_unanswerable(train, config, trained, sets)
    if pool and not train:
        raise UserError(
            f"'{config.name}': there is nothing to train on: none of {notes.counted(len(pool), 'training question')} "
            "has an answer that can be located in its passage."
        )
    if (
        config.split != "given"
        and config.train_size is not None
        and not (config.train_size <= len(train) and validation)
    ):
        raise UserError(_too_large(config))
    train = _draw(train, config, "train_size")
    validation = _draw(validation, config, "validation_size")
    _note_unanswered(validation, scored, "validation", sets)

    trained_titles = {record["title"] for record in train if record["title"]}
    trained_contexts = {record["context"] for record in train}
    seen = sum(r["context"] in trained_contexts or r["title"] in trained_titles for r in validation)
    if seen and config.source != "sample":
        sets.notes.append(
            f"{seen:,} of {len(validation):,} validation questions are about articles or passages that were trained "
            "on, which flatters the scores; dataset.split=article keeps them apart."
        )
    for name in config.extra_validation:
        sets.extra[name] = to_dataset(_extra(name, config, trained_titles, trained_contexts, sets))
    sets.train, sets.validation = to_dataset(train), to_dataset(validation)
    return sets


def _read(config: DatasetConfig, sets: QuestionSets) -> tuple[Checked, Checked]:
    """The questions of the training and of the validation side; the second is empty where one file is to be split."""
    if config.source == "sample":
        sets.notes.append("The sample is generated text: scores on it say nothing about SQuAD.")
        return (
            Checked(sample.generate(config.train_size or 1000, config.seed, side="train")),
            Checked(sample.generate(config.validation_size or 250, config.seed, side="validation")),
        )
    if config.source == "hub":
        train, validation = (_noted(_from_hub(config, side), side, sets) for side in ("train", "validation"))
        return train, validation
    files = config.files()
    trained = _noted(read_file(files["dataset.path"]), files["dataset.path"].name, sets)
    path = files.get("dataset.validation_path")
    return trained, Checked([]) if path is None else _noted(read_file(path), path.name, sets)


def _noted(checked: Checked, source: str, sets: QuestionSets) -> Checked:
    """Add what checking a source brought out to the counts and notes of `sets`."""
    sets.realigned += checked.realigned
    sets.untrainable += checked.untrainable
    sets.notes += notes.of_file(checked, source)
    return checked


def _extra(name: str, config: DatasetConfig, titles: set[str], contexts: set[str], sets: QuestionSets) -> Records:
    """The questions of an extra validation set about other articles and passages than those trained on."""
    path = config.files()[f"dataset.extra_validation.{name}"]
    extra = _noted(read_file(path), path.name, sets)
    kept = [r for r in extra.records if r["title"] not in titles and r["context"] not in contexts]
    left_out = len({record["title"] for record in extra.records} & titles)
    sets.notes.append(
        f"{name}: {len(kept):,} questions to score; {left_out} articles that were trained on are left out."
    )
    if not kept:
        raise UserError(f"dataset.extra_validation.{name}: every article of {path.name} was trained on.")
    _note_unanswered(kept, extra, name, sets)
    return kept


def _settle_unanswerable(train: Records, config: DatasetConfig, checked: Checked, sets: QuestionSets) -> Records:
    """Decide whether "no answer" may be predicted, and say why; the questions to train on under that decision."""
    silent = [record for record in train if not record["answers"]["text"]]
    if config.unanswerable is not None:
        sets.unanswerable = config.unanswerable
    else:  # over all questions there are for training, so that it is the same whatever the draw
        share = len(silent) / max(1, len(train))
        many = share >= UNANSWERABLE_SHARE and len(silent) >= UNANSWERABLE_QUESTIONS
        sets.unanswerable = bool(silent) and (checked.declares_unanswerable or many)
    if not silent:
        return train
    which = notes.listed([checked.names[record["id"]] for record in silent])
    have = f"{notes.counted(len(train), 'training question')} {notes.agreeing(len(silent), 'has', 'have')} no answer"
    if sets.unanswerable:
        sets.notes.append(
            f'{len(silent):,} of {have} ({which}). The model may say "no answer", as in SQuAD 2.0; '
            "dataset.unanswerable=false leaves such questions out of training."
        )
        return train
    sets.notes.append(
        f"{len(silent):,} of {have} ({which}) and {notes.agreeing(len(silent), 'is', 'are')} left out of training; "
        'dataset.unanswerable=true trains on them and lets the model say "no answer", as in SQuAD 2.0.'
    )
    return [record for record in train if record["answers"]["text"]]


def _note_unanswered(records: Records, checked: Checked, name: str, sets: QuestionSets) -> None:
    """Say which questions cannot be answered rightly, where "no answer" is never predicted."""
    silent = [checked.names[record["id"]] for record in records if not record["answers"]["text"]]
    if silent and not sets.unanswerable:
        have = f"{notes.counted(len(records), 'question')} {notes.agreeing(len(silent), 'has', 'have')} no answer"
        sets.notes.append(
            f"{name}: {len(silent):,} of {have} ({notes.listed(silent)}) and "
            f"{notes.agreeing(len(silent), 'scores', 'score')} 0, since the model always gives an answer here."
        )


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


def group(record: dict[str, Any]) -> str:
    """What keeps questions on one side of a split by article: the title, or the passage where there is none.

    Passages that differ in white space alone are one.
    """
    return record["title"] or " ".join(record["context"].split())


def _split_by_article(records: Records, config: DatasetConfig, said: list[str]) -> tuple[Records, Records]:
    """Training and validation questions with no group on both sides; appends to `said` what was grouped by passage."""
    sizes = Counter(group(record) for record in records)
    untitled = sum(not record["title"] for record in records)
    if len(sizes) < 2:
        raise UserError(
            "dataset.split=article needs questions from two articles at least, "
            f"'{config.name}' has one {'passage and no titles' if untitled else 'title'}; choose dataset.split=random."
        )
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
    )


def _split_at_random(records: Records, config: DatasetConfig) -> tuple[Records, Records]:
    wanted = min(_wanted_validation(len(records), config), len(records))
    held_out = set(random.Random(f"{config.seed} split").sample(range(len(records)), wanted))
    return (
        [record for i, record in enumerate(records) if i not in held_out],
        [record for i, record in enumerate(records) if i in held_out],
    )


def _too_large(config: DatasetConfig) -> str:
    """What to say of a `dataset.train_size` that the questions of one file do not allow."""
    usable = len(load(replace(config, train_size=None)).train)
    return (
        f"dataset.train_size={config.train_size} is too large: '{config.name}' has "
        f"{notes.counted(usable, 'question')} to train on, since the others are kept for validation "
        f"(dataset.split={config.split}); give {usable} or fewer, or null for all."
    )


def _draw(records: Records, config: DatasetConfig, key: str) -> Records:
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
            f"dataset.{key}={size} is more than the {notes.counted(len(records), 'question')} that '{config.name}' has "
            f"for it (dataset.split={config.split}); ask for fewer, or null for all."
        )
    if config.subset == "first":
        return records[:size]
    # A prefix of one shuffle: a smaller draw is part of every larger one with the same seed.
    order = list(range(len(records)))
    random.Random(f"{config.seed} {key}").shuffle(order)
    return [records[i] for i in sorted(order[:size])]
