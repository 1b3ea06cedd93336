"""Notes about the data for the user, one line each, with the number and names of the records concerned."""

from __future__ import annotations

from collections.abc import Sequence

from src.data.records import Checked

SHOWN = 3  # records named in a note
LEFT_OUT_SHOWN = 5


def listed(names: Sequence[str], shown: int = SHOWN) -> str:
    """List names without duplicates: `row 3 (id q7), row 9`, or of many `the first are row 3, row 9, row 11`."""
    each = list(dict.fromkeys(names))
    first = each[:shown]
    separator = "; " if any("," in name for name in first) else ", "
    return ("the first are " if len(each) > shown else "") + separator.join(first)


def counted(number: int, noun: str) -> str:
    """A number with a noun: `1 question`, `2,000 questions`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def agreeing(number: int, singular: str, plural: str) -> str:
    """The form of a verb that agrees with a number."""
    return singular if number == 1 else plural


def of_file(checked: Checked) -> list[str]:
    """The notes on the records of a checked file or data set."""
    notes, source = [], checked.source
    total = len(checked.records) + len(checked.left_out)

    def which(ids: Sequence[str]) -> str:
        return listed([checked.names[id] for id in ids])

    if rows := checked.left_out:
        more = f"; and {len(rows) - LEFT_OUT_SHOWN:,} more" if len(rows) > LEFT_OUT_SHOWN else ""
        counting = " (counted from 1, without the header)" if rows[0].startswith("row ") else ""
        were = agreeing(len(rows), "was", "were")
        reasons = "; ".join(rows[:LEFT_OUT_SHOWN])
        notes.append(f"{source}: {len(rows):,} of {total:,} rows {were} left out{counting}: {reasons}{more}.")
    if checked.empty:
        answers = f"{counted(checked.empty_answers, 'empty answer')} next to proper ones"
        were = agreeing(checked.empty_answers, "was", "were")
        notes.append(f"{source}: {answers} {were} left out ({which(checked.empty)}).")
    if checked.realigned_ids:
        answers = f"{counted(checked.realigned, 'answer')} {agreeing(checked.realigned, 'was', 'were')}"
        notes.append(
            f"{source}: {answers} moved to where the text stands, since answer_start pointed elsewhere "
            f"({which(checked.realigned_ids)})."
        )
    if checked.not_found:
        are = agreeing(checked.untrainable, "is", "are")
        notes.append(
            f"{source}: {checked.untrainable:,} of {counted(len(checked.records), 'question')} {are} scored but not "
            f"trained on, since no answer can be located in the passage ({which(checked.not_found)})."
        )
    return notes
