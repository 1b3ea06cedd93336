"""Kinds of errors: how a predicted answer relates to the true answer and its position in the passage."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from enum import Enum

from src.evaluation.squad_metric import normalize

# Stop words, which do not indicate what a question is about.
EMPTY_WORDS = frozenset(
    re.findall(
        r"\w+",
        "is are was were be been do does did has have had can could will would of in on at to for from by with as and "
        "or that this it its his her their there what which who whom whose when where why how many much name",
    )
)
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


class Kind(Enum):
    """The kind of an answer; of several kinds that apply, the first one counts."""

    RIGHT = "right"
    INVENTED = "answered, though there is no answer"
    SILENT = "no answer given"
    SPELLING = "spacing, hyphens or possessive"
    LONGER = "right but longer"
    SHORTER = "right but shorter"
    OVERLAPPING = "overlaps the answer"
    SENTENCE = "other words of the same sentence"
    ELSEWHERE = "another sentence"
    NOT_THERE = "not in the passage"


def kind_of(predicted: str, answers: Sequence[str], context: str) -> Kind:
    """Classify a predicted answer.

    Args:
        predicted: the text; empty for "no answer".
        answers: the human answers; empty if the question is unanswerable. If an answer occurs several times in the
            passage, all occurrences count, since the right one is not known.
        context: the passage.
    """
    words, golds = normalize(predicted).split(), [normalize(answer).split() for answer in answers]
    if not answers:
        return Kind.INVENTED if predicted.strip() else Kind.RIGHT
    if words in golds:
        return Kind.RIGHT
    if not words:
        return Kind.SILENT
    if _letters(predicted) in [_letters(answer) for answer in answers]:
        return Kind.SPELLING
    if any(_holds(words, gold) for gold in golds):
        return Kind.LONGER
    if any(_holds(gold, words) for gold in golds):
        return Kind.SHORTER
    here = _places(predicted, context)
    there = [place for answer in answers for place in _places(answer, context)]
    if any(a < d and c < b for a, b in here for c, d in there):
        return Kind.OVERLAPPING
    if not here:
        return Kind.OVERLAPPING if any(_share_words(words, gold) for gold in golds) else Kind.NOT_THERE
    sentences = _sentences(context)
    if _sentences_of(here, sentences) & _sentences_of(there, sentences):
        return Kind.SENTENCE
    return Kind.ELSEWHERE


def _letters(text: str) -> str:
    """The letters and digits of a text, without articles and possessives."""
    text = normalize(re.sub(r"['’]s\b", "", text))
    return "".join(character for character in text if character.isalnum())


def _holds(words: Sequence[str], part: Sequence[str]) -> bool:
    """Whether `words` contains the non-empty sequence `part`."""
    size = len(part)
    return size > 0 and any(words[i : i + size] == part for i in range(len(words) - size + 1))


def _share_words(words: Sequence[str], gold: Sequence[str]) -> bool:
    """Whether the two share at least half of the words of the shorter one, without EMPTY_WORDS."""
    one, other = set(words) - EMPTY_WORDS, set(gold) - EMPTY_WORDS
    return bool(one and other) and 2 * len(one & other) >= min(len(one), len(other))


def _places(text: str, context: str) -> list[tuple[int, int]]:
    """The positions of a text in the passage, as start and end characters, regardless of case.

    Positions within words only count if there are no others: `finite` is not found in `infinite` unless it occurs
    nowhere else.
    """
    if not text:
        return []
    pattern = re.escape(text)
    by_itself = re.finditer(rf"(?<!\w){pattern}(?!\w)", context, re.IGNORECASE)
    return [match.span() for match in by_itself] or [match.span() for match in re.finditer(pattern, context)]


def _sentences(context: str) -> list[int]:
    """The start of each sentence."""
    return [0, *(match.end() for match in SENTENCE_END.finditer(context))]


def _sentences_of(places: Sequence[tuple[int, int]], sentences: Sequence[int]) -> set[int]:
    """The numbers of all sentences that some spans overlap."""
    spans = [(_sentence_at(sentences, start), _sentence_at(sentences, end - 1)) for start, end in places]
    return {number for first, last in spans for number in range(first, last + 1)}


def _sentence_at(sentences: Sequence[int], place: int) -> int:
    return bisect_right(sentences, place) - 1


def shared_words(question: str, answers: Sequence[str], context: str) -> str:
    """The share of the question's words in the answer's sentence, as a range; `none` without a known sentence."""
    asked = set(normalize(question).split()) - EMPTY_WORDS
    places = [start for answer in answers for start, _ in _places(answer, context)]
    if not places or not asked:
        return "none"
    starts = [*_sentences(context), len(context)]
    numbers = {_sentence_at(starts, place) for place in places}
    share = max(len(asked & set(normalize(context[starts[n] : starts[n + 1]]).split())) for n in numbers) / len(asked)
    return "under 1/3" if share < 1 / 3 else "1/3 to 2/3" if share <= 2 / 3 else "over 2/3"
