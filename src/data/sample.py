"""A generated set of reading-comprehension questions: `python -m src.train dataset=sample`, the default.

It needs no download and any size can be had, so that every command can be tried at once. A passage tells several
facts about two things of one kind, so that each question has a distractor of the same type. Entities, titles, the
wording of the facts and of the questions are others on each side: training, validation and test.

Scores on it say nothing about SQuAD.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, NamedTuple

import yaml


class Fact(NamedTuple):
    """One thing to know: {x} is the subject, {v} the value; the last wording of each list is the validation side's."""

    kind: str
    statements: list[str]
    questions: list[str]
    test: tuple[str, str]  # the test side's statement and question


_DATA = yaml.safe_load((Path(__file__).parent / "sample.yaml").read_text(encoding="utf-8"))
WORDS: dict[str, list[str]] = _DATA["words"]
TEST_WORDS: dict[str, list[str]] = _DATA["test_words"]
REFERENCES: dict[str, str] = _DATA["references"]
LINKS: list[str] = _DATA["links"]
TOPICS = {name: [Fact(**fact) for fact in facts] for name, facts in _DATA["topics"].items()}


def generate(size: int, seed: int, side: str) -> list[dict[str, Any]]:
    """Questions in the schema of `src.data.sources`, with exact answer positions.

    Args:
        size: how many questions.
        seed: the same size, seed and side give the same questions.
        side: `train`, `validation` or `test`; they share no entity, title or wording.
    """
    generator = random.Random(f"{seed} {side}")
    records: list[dict[str, Any]] = []
    passage = 0
    while len(records) < size:
        title, context, asked = _passage(generator, side)
        # An answer that stands twice, or inside another word or number, would make the question ambiguous.
        if any(context.count(answer) != 1 for _, answer in asked):
            continue
        passage += 1
        for number, (question, answer) in enumerate(asked[: size - len(records)]):
            records.append(
                {
                    "id": f"{side}-{seed}-{passage}-{number}",
                    "title": title,
                    "context": context,
                    "question": question,
                    "answers": {"text": [answer], "answer_start": [context.index(answer)]},
                }
            )
    return records


def _passage(generator: random.Random, side: str) -> tuple[str, str, list[tuple[str, str]]]:
    """Title, text and (question, answer) pairs of one passage about two things of one kind."""
    topic = generator.choice(sorted(TOPICS))
    first = second = _value(generator, side, topic)
    while second == first:
        second = _value(generator, side, topic)
    sentences, asked = [], []
    for subject in (first, second):
        if subject == second:
            sentences.append(generator.choice(LINKS).format(x=subject))
        for i, fact in enumerate(generator.sample(TOPICS[topic], len(TOPICS[topic]))):
            value = _value(generator, side, fact.kind)
            by_name = i == 0 or generator.random() < 0.3
            name = subject if by_name else REFERENCES.get(topic, subject.split()[-1])
            statements, questions = _wordings(fact, side)
            sentences.append(generator.choice(statements).format(x=name, v=value))
            asked.append((generator.choice(questions).format(x=subject), value))
    text = " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences)
    # All of the eight to ten facts are told, half of them are asked for.
    return first, text, generator.sample(asked, len(asked) // 2)


def _wordings(fact: Fact, side: str) -> tuple[list[str], list[str]]:
    """The statements and the questions of a side."""
    if side == "test":
        return [fact.test[0]], [fact.test[1]]
    part = slice(None, -1) if side == "train" else slice(-1, None)
    return fact.statements[part], fact.questions[part]


def _words(name: str, side: str) -> list[str]:
    """The words of a side; of those that are not the test side's, the last quarter is the validation side's."""
    if side == "test":
        return TEST_WORDS[name]
    words = WORDS[name]
    cut = len(words) - len(words) // 4
    return words[:cut] if side == "train" else words[cut:]


def _value(generator: random.Random, side: str, kind: str) -> str:
    """A value or subject of a kind, from the words of one side."""

    def word(name: str) -> str:
        return generator.choice(_words(name, side))

    match kind:
        case "person":
            return f"{word('first')} {word('last_start')}{word('last_end')}"
        case "place":
            return word("place_start") + word("place_end")
        case "title" | "work":
            return f"The {word('adjective')} {word('noun')} of {word('place_start')}{word('place_end')}"
        case "event":
            return (
                f"the {word('place_start')}{word('place_end')} {generator.choice(('Fair', 'Festival', 'Exhibition'))}"
            )
        case "bridge":
            return f"the {word('last_start')}{word('last_end')} Bridge"
        case "year":
            return str(generator.randint(1540, 1999))
        case "count":
            return f"{generator.randint(12, 980)},{generator.randint(0, 9)}00"
        case "area":
            return f"{generator.randint(21, 940)} square kilometres"
        case "length":
            return f"{generator.randint(110, 990)} metres"
        case "date":
            return f"{generator.randint(1, 28)} {word('month')} {generator.randint(1850, 1999)}"
        case _:
            return word(kind)
