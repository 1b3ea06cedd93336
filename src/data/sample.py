"""A generated set of reading-comprehension questions: `python -m src.train dataset=sample`, the default.

It needs no download and any size can be had, so that every command can be tried at once. A passage tells several
facts about two things of one kind, so that each question has a distractor of the same type. Entities, titles, the
wording of the facts and of the questions on the validation side are never seen in training.

Scores on it say nothing about SQuAD.
"""

from __future__ import annotations

import random
from typing import Any, NamedTuple


class Fact(NamedTuple):
    """One thing to know: {x} is the subject, {v} the value; the last wording of each list is the validation side's."""

    kind: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]


# The last quarter of every list belongs to the validation side.
WORDS = {
    "first": [
        "Anna",
        "Boris",
        "Clara",
        "David",
        "Edith",
        "Felix",
        "Greta",
        "Hugo",
        "Irene",
        "Jonas",
        "Karin",
        "Leon",
        "Mira",
        "Nils",
        "Olga",
        "Paul",
        "Rosa",
        "Simon",
        "Tilda",
        "Viktor",
        "Wanda",
        "Xaver",
        "Yara",
        "Zeno",
    ],
    "last_start": [
        "Hal",
        "Bren",
        "Cor",
        "Dun",
        "Esk",
        "Far",
        "Gal",
        "Hol",
        "Ing",
        "Jar",
        "Kel",
        "Lor",
        "Mar",
        "Nor",
        "Ost",
        "Pel",
        "Ros",
        "Sel",
        "Tor",
        "Wal",
    ],
    "last_end": ["berg", "dale", "ner", "sen", "ström", "vik", "well", "wood"],
    "place_start": [
        "Alder",
        "Birch",
        "Cold",
        "Drum",
        "Elm",
        "Fern",
        "Glen",
        "Hazel",
        "Iron",
        "Kings",
        "Lark",
        "Mill",
        "North",
        "Oak",
        "Pine",
        "Red",
    ],
    "place_end": ["bury", "field", "ford", "ham", "haven", "mouth", "ton", "wick"],
    "adjective": [
        "Silent",
        "Broken",
        "Distant",
        "Golden",
        "Hidden",
        "Last",
        "Patient",
        "Burning",
        "Paper",
        "Second",
        "Winter",
        "Glass",
    ],
    "noun": [
        "Harbour",
        "Orchard",
        "Letter",
        "Mirror",
        "River",
        "Garden",
        "Lantern",
        "Voyage",
        "Kingdom",
        "Bridge",
        "Season",
        "Window",
    ],
    "trade": [
        "botanist",
        "carpenter",
        "chemist",
        "composer",
        "geologist",
        "historian",
        "painter",
        "sculptor",
        "surgeon",
        "printer",
        "surveyor",
        "novelist",
    ],
    "material": ["granite", "limestone", "sandstone", "brick", "steel", "timber", "concrete", "iron"],
    "month": [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ],
}

TOPICS: dict[str, tuple[Fact, ...]] = {
    "person": (
        Fact(
            "year",
            ("{x} was born in {v}.", "Born in {v}, {x} grew up as the youngest of four children.", "The birth of {x} is recorded for {v}."),
            ("When was {x} born?", "In what year was {x} born?", "What is the birth year of {x}?", "Which year saw the birth of {x}?"),
        ),
        Fact(
            "place",
            ("{x} spent most of the working years in {v}.", "For three decades {x} lived in {v}.", "Home, for {x}, was {v}."),
            ("Where did {x} live?", "In which town did {x} live?", "What town was home to {x}?", "Which place did {x} call home?"),
        ),
        Fact(
            "trade",
            ("{x} was trained as a {v}.", "By profession, {x} was a {v}.", "Records of the time call {x} a {v}."),
            ("What was the profession of {x}?", "What did {x} work as?", "What was {x} by trade?", "Which occupation did {x} have?"),
        ),
        Fact(
            "person",
            ("{x} studied under {v}.", "The teacher of {x} was {v}.", "{x} learned everything from {v}."),
            ("Who taught {x}?", "Under whom did {x} study?", "Who was the teacher of {x}?", "From whom did {x} learn?"),
        ),
        Fact(
            "title",
            ("{x} is best known for the book {v}.", "The book {v} made {x} famous.", "Readers remember {x} for the book {v}."),
            ("What book is {x} known for?", "Which book made {x} famous?", "What is the best-known book of {x}?", "For which book is {x} remembered?"),
        ),
    ),
    "place": (
        Fact(
            "count",
            ("{x} has {v} inhabitants.", "At the last census, {x} counted {v} people.", "Some {v} people live in {x} today."),
            ("How many people live in {x}?", "What is the population of {x}?", "How many inhabitants does {x} have?", "How large is the population of {x}?"),
        ),
        Fact(
            "year",
            ("{x} was founded in {v}.", "The oldest charter of {x} dates from {v}.", "{x} received its town rights in {v}."),
            ("When was {x} founded?", "In what year was {x} founded?", "From what year does the charter of {x} date?", "Which year marks the beginning of {x} as a town?"),
        ),
        Fact(
            "person",
            ("The mayor of {x} is {v}.", "Since the last election, {x} has been led by {v}.", "{v} heads the town council of {x}."),
            ("Who is the mayor of {x}?", "Who leads {x}?", "Who was elected mayor of {x}?", "Who heads the council of {x}?"),
        ),
        Fact(
            "area",
            ("{x} covers an area of {v}.", "The territory of {x} measures {v}.", "Within its borders, {x} takes up {v}."),
            ("What area does {x} cover?", "How large is the territory of {x}?", "What is the area of {x}?", "How much land does {x} take up?"),
        ),
    ),
    "work": (
        Fact(
            "person",
            ("{x} was written by {v}.", "The author of {x} is {v}.", "{v} wrote {x} in a single winter."),
            ("Who wrote {x}?", "Who is the author of {x}?", "By whom was {x} written?", "Which author is behind {x}?"),
        ),
        Fact(
            "year",
            ("{x} first appeared in {v}.", "The first edition of {x} came out in {v}.", "Readers could buy {x} from {v} on."),
            ("When was {x} published?", "In what year did {x} appear?", "When did the first edition of {x} come out?", "Since which year has {x} been in print?"),
        ),
        Fact(
            "place",
            ("The story of {x} is set in {v}.", "{x} takes place in {v}.", "All of {x} happens within the walls of {v}."),
            ("Where is {x} set?", "Where does {x} take place?", "In which town is the story of {x} set?", "Which town is the scene of {x}?"),
        ),
        Fact(
            "count",
            ("{x} sold {v} copies.", "Of {x}, {v} copies were printed.", "Bookshops passed on {v} copies of {x}."),
            ("How many copies of {x} were sold?", "How often was {x} sold?", "How many copies did {x} sell?", "What number of copies did {x} reach?"),
        ),
    ),
    "event": (
        Fact(
            "place",
            ("{x} was held in {v}.", "{v} was the host of {x}.", "Visitors came to {v} for {x}."),
            ("Where was {x} held?", "Which town hosted {x}?", "In what town did {x} take place?", "Where did visitors go for {x}?"),
        ),
        Fact(
            "date",
            ("{x} opened on {v}.", "The doors of {x} were opened on {v}.", "{x} began on {v}."),
            ("When did {x} open?", "On what day did {x} open?", "What was the opening day of {x}?", "On which date did {x} begin?"),
        ),
        Fact(
            "person",
            ("{x} was organised by {v}.", "{v} directed {x}.", "The idea for {x} came from {v}."),
            ("Who organised {x}?", "Who directed {x}?", "By whom was {x} organised?", "Whose idea was {x}?"),
        ),
        Fact(
            "count",
            ("{x} drew {v} visitors.", "In all, {v} people attended {x}.", "The tickets of {x} went to {v} guests."),
            ("How many visitors did {x} draw?", "How many people attended {x}?", "What was the attendance of {x}?", "How many guests came to {x}?"),
        ),
    ),
    "bridge": (
        Fact(
            "length",
            ("{x} is {v} long.", "The total length of {x} is {v}.", "From bank to bank, {x} measures {v}."),
            ("How long is {x}?", "What is the length of {x}?", "What does {x} measure in length?", "What distance does {x} span?"),
        ),
        Fact(
            "year",
            ("{x} was completed in {v}.", "Work on {x} ended in {v}.", "Traffic has crossed {x} since {v}."),
            ("When was {x} completed?", "In what year was {x} finished?", "When did work on {x} end?", "Since which year has {x} been in use?"),
        ),
        Fact(
            "person",
            ("{x} was designed by {v}.", "The designer of {x} was {v}.", "The plans for {x} were drawn by {v}."),
            ("Who designed {x}?", "Who was the designer of {x}?", "By whom was {x} designed?", "Who drew the plans for {x}?"),
        ),
        Fact(
            "material",
            ("{x} is built of {v}.", "The piers of {x} consist of {v}.", "For {x}, the builders chose {v}."),
            ("What is {x} built of?", "What do the piers of {x} consist of?", "Which material was used for {x}?", "What did the builders of {x} choose?"),
        ),
    ),
}  # fmt: skip

# How a passage goes on about its subject; a person is called by the last name.
REFERENCES = {"place": "the town", "work": "the book", "event": "the event", "bridge": "the bridge"}

LINKS = (
    "Things are different with {x}.",
    "{x} is often compared with it.",
    "The other case is {x}.",
    "Then there is {x}.",
)


def generate(size: int, seed: int, side: str) -> list[dict[str, Any]]:
    """Questions in the schema of `src.data.sources`, with exact answer positions.

    Args:
        size: how many questions.
        seed: the same size, seed and side give the same questions.
        side: `train` or `validation`; they share no entity, title or wording.
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
            told_as = subject if by_name else REFERENCES.get(topic, subject.split()[-1])
            sentences.append(generator.choice(_of_side(fact.statements, side, 1)).format(x=told_as, v=value))
            asked.append((generator.choice(_of_side(fact.questions, side, 1)).format(x=subject), value))
    text = " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences)
    # All of the eight to ten facts are told, half of them are asked for.
    return first, text, generator.sample(asked, len(asked) // 2)


def _of_side(items: Any, side: str, held_out: int | None = None) -> Any:
    """The part of a list that belongs to a side; `held_out`: how many are the validation side's (a quarter)."""
    cut = len(items) - (held_out or len(items) // 4)
    return items[:cut] if side == "train" else items[cut:]


def _value(generator: random.Random, side: str, kind: str) -> str:
    """A value or subject of a kind, from the words of one side."""

    def word(name: str) -> str:
        return generator.choice(_of_side(WORDS[name], side))

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
