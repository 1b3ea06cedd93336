"""What spoils a comparison, each fault in a sentence."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from src.metrics import ADAPTER, BACKBONE, F1, TRAIN_SECONDS, TRAINABLE, WAITED_SECONDS, metric
from src.report.arms import Arm

SHARING = ("joblib", "ray", "submitit_local")  # launchers that run several at once on one machine
# Share of its time that a run's threads waited for a core, above which it is said: one that waits holds up the others.
WAITED = 0.05
# Share of the F1 that the untrained model lacked (to 100) that training must have gained to count as learning.
LEARNED = 0.1


class Caveat(NamedTuple):
    """A reason to doubt a comparison: a code for programs, a sentence for people."""

    code: str
    text: str


def warnings(arms: Sequence[Arm], pairs: Sequence[tuple[Arm, Arm]], empty: dict[str, str]) -> list[str]:
    """Everything that makes a reader doubt the comparison; none for a clean one.

    Args:
        arms: all of them.
        pairs: each arm with its baseline.
        empty: arms without a finished run, and why.
    """
    found = [
        f"{name or 'What failed first'} has no finished run ({reason.rstrip('.')})." for name, reason in empty.items()
    ]
    if any(arm.best.runs[0].params.get("dataset.source") == "sample" for arm in arms):
        found.append("The questions are generated: what wins on them says nothing about real ones.")
    anybody = any(learned(arm) for arm in arms)
    for arm in arms:
        if arm.failed:
            failed = count(len(arm.failed), "run")
            found.append(f"{arm.name}: {failed} failed; its best setting may be among them.")
        if arm.unfinished:
            found.append(f"{arm.name}: {count(arm.unfinished, 'run')} not finished.")
        found += [
            f"{sentence}: no difference and no figure by question holds that run." for sentence in arm.best.damaged
        ]
        found += _rate_warnings(arm) + _fewer_seeds(arm)
        best = arm.best.runs[0]
        if not learned(arm) and anybody:  # where nobody has, the verdict begins with it
            found.append(
                f"{arm.name} has learned next to nothing ({before_and_after(arm)}): train it longer, at a higher rate "
                "or on more questions before comparing it."
            )
        adapts = best.params.get("method.trainable") != "['head']"
        if adapts and best.metrics.get(ADAPTER, 1.0) + best.metrics.get(BACKBONE, 1.0) == 0:
            heads = metric(TRAINABLE).number(best.metrics[TRAINABLE])
            found.append(
                f"{arm.name} adapts no layer of the backbone: only the {heads} parameters of the head trained."
            )
    sharing = [arm.name for arm in arms if any(run.tags.get("launcher") in SHARING for run in arm.best.runs)]
    if sharing:
        found.append(f"Runs of {', '.join(sharing)} may have shared their machine with others: their times say little.")
    waited = {arm.name: share for arm in arms if (share := _waited(arm)) > WAITED}
    if waited:
        listed = ", ".join(f"{name} up to {100 * share:.0f} %" for name, share in waited.items())
        found.append(
            f"The threads of training runs waited for cores that other work had, part of their time ({listed}): "
            "times and speeds are not reliable."
        )
    for base in dict.fromkeys(base.name for _, base in pairs):
        compared = [other for other in arms if other.name == base]
        found += _unequal([*compared, *(arm for arm, other in pairs if other.name == base)])
    return found


def learned(arm: Arm) -> bool:
    """Whether training gained the share LEARNED of the missing F1 at the best setting; true where it is not known."""
    before, after = arm.best.untrained("f1"), arm.best.average(F1)
    return before is None or after is None or after - before >= LEARNED * (100 - before)


def before_and_after(arm: Arm) -> str:
    """`F1 9.9, 5.1 before training`."""
    before, after = arm.best.untrained("f1"), arm.best.average(F1)
    return f"{metric(F1).named(after or 0.0)}, {metric(F1).text(before or 0.0)} before training"


def _waited(arm: Arm) -> float:
    """The largest share, from 0 to 1, of the time of its threads for which a run at the best setting waited for cores.

    The seconds that were waited are those of all threads added up, so they are divided by threads times seconds.
    """
    shares = [0.0]
    for run in arm.best.runs:
        threads = re.search(r"(\d+) threads?\b", run.tags.get("hardware", ""))
        available = run.metrics.get(TRAIN_SECONDS, math.inf) * (int(threads[1]) if threads else 1)
        shares.append(run.metrics.get(WAITED_SECONDS, 0.0) / available)
    return min(1.0, max(shares))  # a process also has threads that are not counted there


def _rate_warnings(arm: Arm) -> list[str]:
    rates, best = arm.rates, arm.best.rate
    if len(rates) == 1:
        return []
    where = "lowest" if best == rates[0] else "highest" if best == rates[-1] else ""
    if not where:
        return []
    direction = "lower" if where == "lowest" else "higher"
    return [f"{arm.name}: its best learning rate, {best:g}, is the {where} that was tried; {direction} ones may win."]


def _fewer_seeds(arm: Arm) -> list[str]:
    best = arm.best
    above = [trial for trial in arm.trials if len(trial.runs) < len(best.runs) and trial.f1() > best.f1()]
    if not above:
        return []
    other = max(above, key=lambda trial: trial.f1())
    seen = f"{metric(F1).named(other.f1())} in {count(len(other.runs), 'seed')}"
    chosen = metric(F1).text(best.f1())
    return [f"{arm.name}: rate {other.rate:g} has {seen}, above the chosen setting's {chosen}; give it as many."]


def _unequal(arms: Sequence[Arm]) -> list[str]:
    found = []
    for context, done in (("train", "trained"), ("validation", "scored")):
        digests = {arm.name: arm.digests(context) for arm in arms}
        if len(set.union(*digests.values())) > 1:
            apart = len({arm.best.digest(context) for arm in arms}) > 1
            consequence = "they were" if apart else "settings that were not chosen were"
            refused = ", and no difference is computed" if apart and context == "validation" else ""
            found.append(
                f"The {context} data differ ({_by_value(digests)}): {consequence} {done} on other questions{refused}."
            )
    for what, value in _budgets():
        values = {arm.name: value(arm) for arm in arms}
        if len(set(values.values())) > 1:
            listed = ", ".join(f"{name} {number:,}" for name, number in values.items())
            found.append(f"The methods had different numbers of {what}: {listed}.")
    for what, tag in (("hardware", "hardware"), ("machines", "host")):
        places = {arm.name: {run.tags.get(tag, "") for run in arm.best.runs} for arm in arms}
        if len(set.union(*places.values())) > 1:
            found.append(
                f"The runs were made on different {what} ({_by_value(places)}): time and memory are not comparable."
            )
    return found


def _budgets() -> list[tuple[str, Callable[[Arm], int]]]:
    return [
        ("learning rates", lambda arm: len(arm.rates)),
        ("settings tried", lambda arm: arm.settings),
        ("seeds at the best setting", lambda arm: len(arm.best.runs)),
        ("training questions", lambda arm: arm.best.examples),
        ("optimizer steps", lambda arm: arm.best.steps),
    ]


def _by_value(values: dict[str, set[str]]) -> str:
    return "; ".join(f"{name}: {', '.join(sorted(found)) or 'unknown'}" for name, found in values.items())


def count(number: int, what: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number} {what}{'s' if number != 1 else ''}"
