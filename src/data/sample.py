"""Generates a data set of reading-comprehension questions: `python -m src.train dataset=sample`, the default.

It needs no download and can have any size, so that every command can be tried immediately. A passage states several
facts about two things of the same kind, so that each question has a distractor of the same type. Training, validation
and test use different entities, titles, and wordings of facts and questions.

Scores on the sample do not transfer to SQuAD.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, NamedTuple

import yaml


class Fact(NamedTuple):
    """Templates for a fact, with subject {x} and value {v}; the last one of each list is used for validation."""

    kind: str
    statements: list[str]
    questions: list[str]
    test: tuple[str, str]  # statement and question of the test side


_DATA = yaml.safe_load((Path(__file__).parent / "sample.yaml").read_text(encoding="utf-8"))
WORDS: dict[str, list[str]] = _DATA["words"]
TEST_WORDS: dict[str, list[str]] = _DATA["test_words"]
REFERENCES: dict[str, str] = _DATA["references"]
LINKS: list[str] = _DATA["links"]
TOPICS = {name: [Fact(**fact) for fact in facts] for name, facts in _DATA["topics"].items()}


def generate(size: int, seed: int, side: str) -> list[dict[str, Any]]:
    """Generate questions in the schema of `src.data.sources`, with exact answer positions.

    Args:
        size: the number of questions.
        seed: the same size, seed and side give the same questions.
        side: `train`, `validation` or `test`; they share no entity, title or wording.
    """
    generator = random.Random(f"{seed} {side}")
    records: list[dict[str, Any]] = []
    passage = 0
    while len(records) < size:
        title, context, asked = _passage(generator, side)
        # An answer that occurs twice, or within another word or number, would make the question ambiguous.
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
    # The passage states all eight to ten facts; there are questions about half of them.
    return first, text, generator.sample(asked, len(asked) // 2)


def _wordings(fact: Fact, side: str) -> tuple[list[str], list[str]]:
    """The statements and the questions of a side."""
    if side == "test":
        return [fact.test[0]], [fact.test[1]]
    part = slice(None, -1) if side == "train" else slice(-1, None)
    return fact.statements[part], fact.questions[part]


def _words(name: str, side: str) -> list[str]:
    """The words of a side. The test side has its own; of the others, the last quarter is for validation."""
    if side == "test":
        return TEST_WORDS[name]
    words = WORDS[name]
    cut = len(words) - len(words) // 4
    return words[:cut] if side == "train" else words[cut:]


def _value(generator: random.Random, side: str, kind: str) -> str:
    """A random value or subject of a kind, from the words of one side."""

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
