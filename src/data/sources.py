"""Loads the questions of a run: reads, splits and draws them, and collects notes about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from datasets import Dataset, Features, List, Value

from src.config import DatasetConfig, UserError
from src.data import notes
from src.data.answers import trainable
from src.data.read import Questions, read
from src.data.records import Checked
from src.data.split import Records, Sides, draw, split

SCHEMA = Features(
    {
        "id": Value("string"),
        "title": Value("string"),
        "context": Value("string"),
        "question": Value("string"),
        "answers": {"text": List(Value("string")), "answer_start": List(Value("int32"))},
    }
)

# Unless dataset.unanswerable is set, "no answer" may be predicted if at least this share and this number of training
# questions have no answer.
UNANSWERABLE_SHARE = 0.05
UNANSWERABLE_QUESTIONS = 10


@dataclass(frozen=True)
class QuestionSets:
    """The questions that a run trains on and is scored on, each set in `SCHEMA`."""

    train: Dataset
    validation: Dataset  # settings and epochs are chosen on these
    test: Dataset | None = None  # nothing is chosen on these
    extra: dict[str, Dataset] = field(default_factory=dict)
    unanswerable: bool = False  # whether "no answer" may be predicted (SQuAD 2.0); settles dataset.unanswerable
    realigned: int = 0  # answers whose position was corrected, in all sources
    untrainable: int = 0  # questions none of whose answers has a known position, in all sources
    notes: list[str] = field(default_factory=list)  # one line each, for the user

    @property
    def by_context(self) -> dict[str, Dataset]:
        """The sets of a run without extra ones, by the names under which they are logged."""
        sets = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: questions for name, questions in sets.items() if questions is not None}


def load(config: DatasetConfig) -> QuestionSets:
    """Load, check, split and draw the questions of a run.

    Raises:
        UserError: a source cannot be read, or has fewer questions than requested.
    """
    questions = read(config)
    messages = [note for part in questions.parts for note in notes.of_file(part)]
    if config.source == "sample":
        messages.insert(0, "The sample is generated text: scores on it say nothing about SQuAD.")
    sides = _sides(questions, config)
    train = [record for record in sides.train if trainable(record)]
    unanswerable, train, more = _settle_unanswerable(train, config, questions.train)
    messages += sides.notes + more
    if sides.train and not train:
        raise UserError(
            f"'{config.name}': there is nothing to train on: none of "
            f"{notes.counted(len(sides.train), 'training question')} has an answer that can be located in its passage."
        )
    wanted = 0 if config.split == "given" else config.train_size or 0
    if wanted and (wanted > len(train) or not sides.validation):
        raise UserError(_too_large(config))
    train, validation = draw(train, config, "train_size"), draw(sides.validation, config, "validation_size")
    test = draw(sides.test, config, "test_size") if sides.test else []
    extra, more = _extra(questions.extra, train)
    messages += more
    if not unanswerable:
        scored = {"validation": (validation, questions.validation), "test": (test, questions.test)}
        scored |= {name: (extra[name], part) for name, part in questions.extra.items()}
        for name, (records, part) in scored.items():
            messages += _unanswered(records, part if part.records else questions.train, name)
    if config.source != "sample":
        messages += _trained_on(train, validation, "validation", "dataset.split=article keeps them apart")
        messages += _trained_on(train, test, "test", _separation_advice(config)) + _chosen_by(validation, test)
    return QuestionSets(
        to_dataset(train),
        to_dataset(validation),
        to_dataset(test) if test else None,
        {name: to_dataset(records) for name, records in extra.items()},
        unanswerable,
        realigned=sum(part.realigned for part in questions.parts),
        untrainable=sum(part.untrainable for part in questions.parts),
        notes=messages,
    )


def _sides(questions: Questions, config: DatasetConfig) -> Sides:
    """All questions of each side, as the source provides them or as `split` divides them."""
    test, messages = questions.test.records, []
    if config.test_size is None and config.test_path is not None:
        messages.append(f"No test set: dataset.test_size=null; dataset.test_path={config.test_path} is not read.")
    if config.split != "given":
        sides = split(questions.train.records, config)
        return replace(sides, test=sides.test or test, notes=messages + sides.notes)
    if config.test_size is not None and not test:
        messages.append("No test set: with dataset.split=given it comes from dataset.test_path, and none is given.")
    return Sides(questions.train.records, questions.validation.records, test, messages)


def _extra(parts: Mapping[str, Checked], train: Records) -> tuple[dict[str, Records], list[str]]:
    """The questions of each extra set that can be scored, and notes about them.

    Raises:
        UserError: all articles of a set were trained on.
    """
    extra, messages = {}, []
    for name, part in parts.items():
        extra[name], left_out = _of_other_articles(part, train)
        messages.append(
            f"{name}: {len(extra[name]):,} questions to score; {left_out} articles that were trained on are left out."
        )
        if not extra[name]:
            raise UserError(f"dataset.extra_validation.{name}: every article of {part.source} was trained on.")
    return extra, messages


def _subjects(records: Records) -> tuple[set[str], set[str]]:
    """The titles and the passages that questions are about."""
    return {record["title"] for record in records if record["title"]}, {record["context"] for record in records}


def _trained_on(train: Records, scored: Records, name: str, way_apart: str) -> list[str]:
    """A note if questions of a scored side are about articles or passages that were trained on."""
    titles, contexts = _subjects(train)
    seen = sum(record["context"] in contexts or record["title"] in titles for record in scored)
    if not seen:
        return []
    return [
        (
            f"{seen:,} of {len(scored):,} {name} questions are about articles or passages that were trained "
            f"on, which flatters the scores; {way_apart}."
        )
    ]


def _separation_advice(config: DatasetConfig) -> str:
    """How to separate the test questions from the training questions."""
    if config.test_path is None:
        return "dataset.split=article keeps them apart"
    return f"take these out of {'dataset.path or ' if config.source == 'file' else ''}dataset.test_path"


def _chosen_by(validation: Records, test: Records) -> list[str]:
    """A note if test questions are also validation questions."""
    asked = {(record["context"], record["question"]) for record in validation}
    both = sum((record["context"], record["question"]) in asked for record in test)
    if not both:
        return []
    are = notes.agreeing(both, "is a validation question", "are validation questions")
    return [
        f"{both:,} of {len(test):,} test questions {are} too: settings are chosen by them, which flatters the scores."
    ]


def _of_other_articles(extra: Checked, train: Records) -> tuple[Records, int]:
    """The questions of an extra set about texts not trained on, and the number of articles that were trained on."""
    titles, contexts = _subjects(train)
    kept = [r for r in extra.records if r["title"] not in titles and r["context"] not in contexts]
    return kept, len({record["title"] for record in extra.records} & titles)


def _settle_unanswerable(train: Records, config: DatasetConfig, checked: Checked) -> tuple[bool, Records, list[str]]:
    """Whether "no answer" may be predicted, the questions to train on in that case, and a note with the reason."""
    unanswered = [record for record in train if not record["answers"]["text"]]
    if config.unanswerable is not None:
        settled = config.unanswerable
    else:  # decided on all training questions, so that it does not depend on the draw
        share = len(unanswered) / max(1, len(train))
        many = share >= UNANSWERABLE_SHARE and len(unanswered) >= UNANSWERABLE_QUESTIONS
        settled = bool(unanswered) and (checked.declares_unanswerable or many)
    if not unanswered:
        return settled, train, []
    which = notes.listed([checked.names[record["id"]] for record in unanswered])
    number = len(unanswered)
    have = f"{notes.counted(len(train), 'training question')} {notes.agreeing(number, 'has', 'have')} no answer"
    if settled:
        note = (
            f'{number:,} of {have} ({which}). The model may say "no answer", as in SQuAD 2.0; '
            "dataset.unanswerable=false leaves such questions out of training."
        )
        return settled, train, [note]
    note = (
        f"{number:,} of {have} ({which}) and {notes.agreeing(number, 'is', 'are')} left out of training; "
        'dataset.unanswerable=true trains on them and lets the model say "no answer", as in SQuAD 2.0.'
    )
    return settled, [record for record in train if record["answers"]["text"]], [note]


def _unanswered(records: Records, checked: Checked, name: str) -> list[str]:
    """A note if questions cannot be answered correctly, since "no answer" is never predicted."""
    unanswered = [checked.names[record["id"]] for record in records if not record["answers"]["text"]]
    if not unanswered:
        return []
    have = f"{notes.counted(len(records), 'question')} {notes.agreeing(len(unanswered), 'has', 'have')} no answer"
    return [
        (
            f"{name}: {len(unanswered):,} of {have} ({notes.listed(unanswered)}) and "
            f"{notes.agreeing(len(unanswered), 'scores', 'score')} 0, since the model always gives an answer here."
        )
    ]


def _too_large(config: DatasetConfig) -> str:
    """The error message for a `dataset.train_size` that is larger than the questions of one file allow."""
    sets = load(replace(config, train_size=None))
    usable = len(sets.train)
    kept = "validation" if sets.test is None or config.has_own_test else "validation and test"
    return (
        f"dataset.train_size={config.train_size} is too large: '{config.name}' has "
        f"{notes.counted(usable, 'question')} to train on, since the others are kept for {kept} "
        f"(dataset.split={config.split}); give {usable} or fewer, or null for all."
    )


def to_dataset(records: Records) -> Dataset:
    """Convert records to an Arrow table in `SCHEMA`."""
    return Dataset.from_list(records, features=SCHEMA)
