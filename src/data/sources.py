"""The questions that a run sees: read, parted, drawn, and what should be known about them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from datasets import Dataset, Features, List, Value

from src.config import DatasetConfig, UserError
from src.data import notes
from src.data.answers import trainable
from src.data.read import read
from src.data.records import Checked
from src.data.split import Records, draw, split

SCHEMA = Features(
    {
        "id": Value("string"),
        "title": Value("string"),
        "context": Value("string"),
        "question": Value("string"),
        "answers": {"text": List(Value("string")), "answer_start": List(Value("int32"))},
    }
)

# Without dataset.unanswerable, "no answer" may be predicted from this share and number of training questions on.
UNANSWERABLE_SHARE = 0.05
UNANSWERABLE_QUESTIONS = 10


@dataclass(frozen=True)
class QuestionSets:
    """What a run trains on and what it is scored on, each in `SCHEMA`."""

    train: Dataset
    validation: Dataset
    extra: dict[str, Dataset] = field(default_factory=dict)
    unanswerable: bool = False  # whether "no answer" may be predicted (SQuAD 2.0); settles dataset.unanswerable
    realigned: int = 0  # answers whose place was corrected, in all sources
    untrainable: int = 0  # questions without an answer that has a place, in all sources
    notes: list[str] = field(default_factory=list)  # one line each, for the person at the terminal


def load(config: DatasetConfig) -> QuestionSets:
    """Load, check, split and draw the questions of a run.

    Raises:
        UserError: a source that cannot be read, or fewer questions than asked for.
    """
    questions = read(config)
    said = ["The sample is generated text: scores on it say nothing about SQuAD."] if config.source == "sample" else []
    said += [note for part in questions.parts for note in notes.of_file(part)]
    train, validation, scored = questions.train.records, questions.validation.records, questions.validation
    if config.split != "given":
        train, validation, more = split(train, config)
        scored, said = questions.train, said + more
    pool, train = train, [record for record in train if trainable(record)]
    unanswerable, train, more = _settle_unanswerable(train, config, questions.train)
    said += more
    if pool and not train:
        raise UserError(
            f"'{config.name}': there is nothing to train on: none of {notes.counted(len(pool), 'training question')} "
            "has an answer that can be located in its passage."
        )
    wanted = 0 if config.split == "given" else config.train_size or 0
    if wanted and (wanted > len(train) or not validation):
        raise UserError(_too_large(config))
    train, validation = draw(train, config, "train_size"), draw(validation, config, "validation_size")
    extra = {}
    for name, part in questions.extra.items():
        extra[name], left_out = _of_other_articles(part, train)
        said.append(
            f"{name}: {len(extra[name]):,} questions to score; {left_out} articles that were trained on are left out."
        )
        if not extra[name]:
            raise UserError(f"dataset.extra_validation.{name}: every article of {part.source} was trained on.")
    if not unanswerable:
        said += _unanswered(validation, scored, "validation")
        said += [note for name, part in questions.extra.items() for note in _unanswered(extra[name], part, name)]
    if config.source != "sample":
        said += _trained_on(train, validation)
    return QuestionSets(
        to_dataset(train),
        to_dataset(validation),
        {name: to_dataset(records) for name, records in extra.items()},
        unanswerable,
        realigned=sum(part.realigned for part in questions.parts),
        untrainable=sum(part.untrainable for part in questions.parts),
        notes=said,
    )


def _subjects(records: Records) -> tuple[set[str], set[str]]:
    """The titles and the passages that questions are about."""
    return {record["title"] for record in records if record["title"]}, {record["context"] for record in records}


def _trained_on(train: Records, validation: Records) -> list[str]:
    """A note where validation questions are about what was trained on."""
    titles, contexts = _subjects(train)
    seen = sum(record["context"] in contexts or record["title"] in titles for record in validation)
    if not seen:
        return []
    return [
        (
            f"{seen:,} of {len(validation):,} validation questions are about articles or passages that were trained "
            "on, which flatters the scores; dataset.split=article keeps them apart."
        )
    ]


def _of_other_articles(extra: Checked, train: Records) -> tuple[Records, int]:
    """The questions of an extra set about other articles and passages than those trained on; how many are not."""
    titles, contexts = _subjects(train)
    kept = [r for r in extra.records if r["title"] not in titles and r["context"] not in contexts]
    return kept, len({record["title"] for record in extra.records} & titles)


def _settle_unanswerable(train: Records, config: DatasetConfig, checked: Checked) -> tuple[bool, Records, list[str]]:
    """Whether "no answer" may be predicted, the questions to train on under that decision, and a note on why."""
    silent = [record for record in train if not record["answers"]["text"]]
    if config.unanswerable is not None:
        settled = config.unanswerable
    else:  # over all questions there are for training, so that it is the same whatever the draw
        share = len(silent) / max(1, len(train))
        many = share >= UNANSWERABLE_SHARE and len(silent) >= UNANSWERABLE_QUESTIONS
        settled = bool(silent) and (checked.declares_unanswerable or many)
    if not silent:
        return settled, train, []
    which = notes.listed([checked.names[record["id"]] for record in silent])
    have = f"{notes.counted(len(train), 'training question')} {notes.agreeing(len(silent), 'has', 'have')} no answer"
    if settled:
        note = (
            f'{len(silent):,} of {have} ({which}). The model may say "no answer", as in SQuAD 2.0; '
            "dataset.unanswerable=false leaves such questions out of training."
        )
        return settled, train, [note]
    note = (
        f"{len(silent):,} of {have} ({which}) and {notes.agreeing(len(silent), 'is', 'are')} left out of training; "
        'dataset.unanswerable=true trains on them and lets the model say "no answer", as in SQuAD 2.0.'
    )
    return settled, [record for record in train if record["answers"]["text"]], [note]


def _unanswered(records: Records, checked: Checked, name: str) -> list[str]:
    """A note where questions cannot be answered rightly, since "no answer" is never predicted."""
    silent = [checked.names[record["id"]] for record in records if not record["answers"]["text"]]
    if not silent:
        return []
    have = f"{notes.counted(len(records), 'question')} {notes.agreeing(len(silent), 'has', 'have')} no answer"
    return [
        (
            f"{name}: {len(silent):,} of {have} ({notes.listed(silent)}) and "
            f"{notes.agreeing(len(silent), 'scores', 'score')} 0, since the model always gives an answer here."
        )
    ]


def _too_large(config: DatasetConfig) -> str:
    """What to say of a `dataset.train_size` that the questions of one file do not allow."""
    usable = len(load(replace(config, train_size=None)).train)
    return (
        f"dataset.train_size={config.train_size} is too large: '{config.name}' has "
        f"{notes.counted(usable, 'question')} to train on, since the others are kept for validation "
        f"(dataset.split={config.split}); give {usable} or fewer, or null for all."
    )


def to_dataset(records: Records) -> Dataset:
    """Records as an Arrow table in `SCHEMA`."""
    return Dataset.from_list(records, features=SCHEMA)
