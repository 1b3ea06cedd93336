"""Warnings about a comparison: each has a code for programs and a sentence for people."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from src.metrics import ADAPTER, BACKBONE, CPU_WAIT_SECONDS, F1, TRAIN_SECONDS, TRAINABLE, metric
from src.report.arms import Arm
from src.report.scored import Scored
from src.report.words import count, listed

SHARING = ("joblib", "ray", "submitit_local")  # launchers that may run several runs at once on one machine
# The share of time spent waiting for a core that is worth a warning: a thread that waits holds up the others.
MOST_WAITING = 0.05
# Training counts as learning if it gained at least this share of the F1 that was missing (to 100) before it.
LEARNED = 0.1
MACHINE_BOUND = ("time/", "speed/", "memory/")  # metrics that can only be compared on the same kind of machine
# The codes of all caveats, the most important first; docs/verdict.md explains each.
CODES = (
    *("scores_damaged", "test_data_differ", "validation_data_differ", "training_data_differ", "no_baseline"),
    "models_scored_apart",
    *("arm_without_result", "learned_nothing", "generated_questions", "chosen_on_scored_questions"),
    *("scored_on_choosing_seed", "no_test_set", "margin_afterwards", "best_rate_at_edge", "runs_failed"),
    *("runs_unfinished", "fewer_seeds_may_be_better", "unequal_learning_rates", "unequal_settings", "unequal_seeds"),
    *("unequal_training_questions", "unequal_steps", "nothing_adapted", "several_commits", "uncommitted_changes"),
    *("one_article", "no_shared_seed", "one_question_per_passage"),
    *("hardware_differs", "machines_differ", "shared_machine", "threads_waited"),
)
# Budgets that methods should have had in equal amounts: code, name in the sentence, and value.
BUDGETS: tuple[tuple[str, str, Callable[[Arm], int]], ...] = (
    ("unequal_learning_rates", "learning rates", lambda arm: len(arm.rates)),
    ("unequal_settings", "settings tried", lambda arm: arm.settings),
    ("unequal_seeds", "seeds at the best setting", lambda arm: len(arm.best.runs)),
    ("unequal_training_questions", "training questions", lambda arm: arm.best.examples),
    ("unequal_steps", "optimizer steps", lambda arm: arm.best.steps),
)


class Caveat(NamedTuple):
    """A reason to doubt a comparison: a code for programs, a sentence for people."""

    code: str
    text: str

    def __str__(self) -> str:
        return self.text


def caveats(
    arms: Sequence[Arm],
    pairs: Sequence[tuple[Arm, Arm]],
    empty: Mapping[str, str],
    scores: Mapping[str, Scored | None],
    margin_afterwards: bool,
    settled: bool = False,
) -> list[Caveat]:
    """Collect all reasons to doubt a comparison.

    Args:
        arms: all arms.
        pairs: each arm with its baseline.
        empty: arms without a finished run, and why.
        scores: the scores that the verdict is based on, by the name of the arm.
        margin_afterwards: whether the margin was chosen after the runs had been made.
        settled: whether a settled sweep made the runs. By rules that were fixed beforehand, it gives the chosen setting
            more seeds than the others, and an arm that is decided early fewer seeds than the others.
    """
    result = [
        Caveat("arm_without_result", f"{name or 'What failed first'} has no finished run ({reason.rstrip('.')}).")
        for name, reason in empty.items()
    ]
    if margin_afterwards:
        result.append(Caveat("margin_afterwards", "The margin was named after the runs were made."))
    any_learned = any(learned(arm) for arm in arms)
    for arm in arms:
        result += _of_runs(arm, settled) + _of_rates(arm) + ([] if settled else _fewer_seeds(arm))
        if not learned(arm) and any_learned:  # if no arm has learned, the verdict begins with that
            sentence = (
                f"{arm.name} has learned next to nothing ({before_and_after(arm)}): train it longer, at a higher rate "
                "or on more questions before comparing it."
            )
            result.append(Caveat("learned_nothing", sentence))
    result += _of_choices(arms, scores, settled) + _of_questions(arms, scores) + _of_code(arms) + _of_machines(arms)
    if all(arm.model == base.model for arm, base in pairs):  # models that form pairs are compared below
        result += _between_models(arms)
    for base in dict.fromkeys(base.name for _, base in pairs):
        compared = [other for other in arms if other.name == base]
        unequal = _unequal([*compared, *(arm for arm, other in pairs if other.name == base)])
        result += [caveat for caveat in unequal if not (settled and caveat.code == "unequal_seeds")]
    for arm, base_arm in pairs:
        if not arm.best.seeds & base_arm.best.seeds:
            sentence = f"{arm.name} and {base_arm.name} share no seed; the analysis does not need paired seeds."
            result.append(Caveat("no_shared_seed", sentence))
    return result


def by_importance(result: Sequence[Caveat]) -> list[Caveat]:
    """The caveats in the order of CODES."""
    return sorted(result, key=lambda caveat: CODES.index(caveat.code))


def _of_runs(arm: Arm, settled: bool) -> list[Caveat]:
    """Warn of runs that failed, are unfinished or cannot be read, and of methods that adapt no layer."""
    result = []
    if arm.failed:
        failed = count(len(arm.failed), "run")
        meaning = "its best setting may be among them"
        if settled:
            meaning = "a rate that fails counts as the worst, and a fresh seed that fails is left out of the comparison"
        result.append(Caveat("runs_failed", f"{arm.name}: {failed} failed; {meaning}."))
    if arm.unfinished:
        result.append(Caveat("runs_unfinished", f"{arm.name}: {count(arm.unfinished, 'run')} not finished."))
    for sentence in arm.best.damaged:
        result.append(
            Caveat("scores_damaged", f"{sentence}: the differences and figures by question leave that run out.")
        )
    best = arm.best.runs[0]
    adapts = best.params.get("method.trainable") != "['head']"
    if adapts and best.metrics.get(ADAPTER, 1.0) + best.metrics.get(BACKBONE, 1.0) == 0:
        heads = metric(TRAINABLE).number(best.metrics[TRAINABLE])
        sentence = f"{arm.name} adapts no layer of the backbone: only the {heads} parameters of the head trained."
        result.append(Caveat("nothing_adapted", sentence))
    return result


def _of_choices(arms: Sequence[Arm], scores: Mapping[str, Scored | None], settled: bool) -> list[Caveat]:
    """Warn of scores on questions or seeds that were also used to choose a setting or an epoch."""
    result = []
    known = {arm.name: each for arm in arms if (each := scores.get(arm.name)) is not None}
    if names := [name for name, each in known.items() if each.on_choosing_questions]:
        sentence = (
            f"No test set: {listed(names)} scored on the questions that the best setting was chosen on, which "
            "flatters the result; set dataset.test_size."
        )
        result.append(Caveat("chosen_on_scored_questions", sentence))
    if names := [name for name, each in known.items() if each.on_choosing_seeds]:
        advice = "the fresh seeds are still to be run" if settled else "run the best settings with two more seeds"
        sentence = (
            f"The best setting of {listed(names)} was chosen on seeds that are scored, which flatters the result; "
            f"{advice}."
        )
        result.append(Caveat("scored_on_choosing_seed", sentence))
    if names := [arm.name for arm in arms if arm.best.scored_on == "validation" and _chooses_epoch(arm)]:
        sentence = (
            f"No test set: the epoch of {listed(names)} was chosen on the validation questions that are scored "
            "(train.keep=best or early stopping), which flatters the result; set dataset.test_size."
        )
        result.append(Caveat("no_test_set", sentence))
    return result


def _chooses_epoch(arm: Arm) -> bool:
    params = arm.best.runs[0].params
    return params.get("train.keep") == "best" or params.get("train.early_stopping_patience", "None") != "None"


def _of_questions(arms: Sequence[Arm], scores: Mapping[str, Scored | None]) -> list[Caveat]:
    """Warn of generated questions, and of questions about too few texts."""
    result = []
    if any(arm.best.runs[0].params.get("dataset.source") == "sample" for arm in arms):
        sentence = "The questions are generated: the result does not transfer to real ones."
        result.append(Caveat("generated_questions", sentence))
    counts = {(each.split, len(each.ids), *each.clusters.counts) for each in scores.values() if each is not None}
    for split, questions, passages, articles in sorted(counts, key=str):
        if articles == 1:
            sentence = f"All {questions:,} {split} questions are about one article: the result may differ for others."
            result.append(Caveat("one_article", sentence))
        if passages == questions:
            sentence = (
                f"Each {split} question has its own passage, or its passage is not known: the interval assumes "
                "independent questions."
            )
            result.append(Caveat("one_question_per_passage", sentence))
    return result


def _of_code(arms: Sequence[Arm]) -> list[Caveat]:
    """Warn of runs of different versions of the code, and of code with uncommitted changes."""
    tags = [run.tags.get("git_commit", "") for arm in arms for run in arm.best.runs]
    commits = sorted({commit for tag in tags for commit in tag.split(", ") if commit})
    result = []
    if len({commit.removesuffix("-dirty") for commit in commits}) > 1:
        names = ", ".join(commit.removesuffix("-dirty")[:12] for commit in commits)
        sentence = f"The runs were made by different versions of the code ({names}), which may change the result."
        result.append(Caveat("several_commits", sentence))
    if any(commit.endswith("-dirty") for commit in commits):
        sentence = "Some runs were made by code with uncommitted changes, which may differ from run to run."
        result.append(Caveat("uncommitted_changes", sentence))
    return result


def _of_machines(arms: Sequence[Arm]) -> list[Caveat]:
    """Warn of runs that shared their machine."""
    result = []
    if sharing := [arm.name for arm in arms if any(run.tags.get("launcher") in SHARING for run in arm.best.runs)]:
        sentence = f"Runs of {listed(sharing)} may have shared their machine: their times are not reliable."
        result.append(Caveat("shared_machine", sentence))
    if waiting := {arm.name: part for arm in arms if (part := _cpu_wait_share(arm)) > MOST_WAITING}:
        shares = ", ".join(f"{name} up to {100 * part:.0f} %" for name, part in waiting.items())
        sentence = (
            f"The threads of training runs waited for a core part of the time ({shares}), since other work used the "
            "machine: times and speeds are not reliable."
        )
        result.append(Caveat("threads_waited", sentence))
    return result


def comparable(key: str, arm: Arm, base: Arm) -> bool:
    """Whether a metric of two arms can be compared.

    Memory needs the same hardware, time the same machine, and speed in addition the same model.
    """
    if metric(key).within_model and arm.model != base.model:
        return False
    if not key.startswith(MACHINE_BOUND):
        return True
    tags = ("hardware",) if key.startswith("memory/") else ("hardware", "host")
    places = {tuple(run.tags.get(tag) for tag in tags) for each in (arm, base) for run in each.best.runs}
    return len(places) == 1


def learned(arm: Arm) -> bool:
    """Whether the best setting gained at least the share LEARNED of the missing F1; true where it is not known."""
    before, after = arm.best.score_before_training("f1"), arm.best.average(F1)
    return before is None or after is None or after - before >= LEARNED * (100 - before)


def before_and_after(arm: Arm) -> str:
    """The F1 of an arm after and before training: `F1 9.9, 5.1 before training`."""
    before, after = arm.best.score_before_training("f1"), arm.best.average(F1)
    return f"{metric(F1).named(after or 0.0)}, {metric(F1).text(before or 0.0)} before training"


def _cpu_wait_share(arm: Arm) -> float:
    """The share of its threads' time, from 0 to 1, that a run spent waiting for cores: the largest at the best setting.

    The metric is the sum over all threads, so it is divided by threads times seconds.
    """
    shares = [0.0]
    for run in arm.best.runs:
        threads = re.search(r"(\d+) threads?\b", run.tags.get("hardware", ""))
        available = run.metrics.get(TRAIN_SECONDS, math.inf) * (int(threads[1]) if threads else 1)
        shares.append(run.metrics.get(CPU_WAIT_SECONDS, 0.0) / available)
    return min(1.0, max(shares))  # a process may have more threads than the tag says


def _of_rates(arm: Arm) -> list[Caveat]:
    """Warn of a best learning rate at the edge of those tried."""
    rates, best = arm.rates, arm.best.rate
    where = "lowest" if best == rates[0] else "highest" if best == rates[-1] else ""
    if len(rates) == 1 or not where:
        return []
    direction = "lower" if where == "lowest" else "higher"
    sentence = (
        f"{arm.name}: its best learning rate, {best:g}, is the {where} one tried; a {direction} one may be better."
    )
    return [Caveat("best_rate_at_edge", sentence)]


def _fewer_seeds(arm: Arm) -> list[Caveat]:
    """Warn of a setting that scores higher than the chosen one, on fewer seeds."""
    best = arm.best
    above = [trial for trial in arm.trials if len(trial.runs) < len(best.runs) and trial.f1() > best.f1()]
    if not above:
        return []
    other = max(above, key=lambda trial: trial.f1())
    seen = f"{metric(F1).named(other.f1())} on {count(len(other.runs), 'seed')}"
    chosen = metric(F1).text(best.f1())
    sentence = f"{arm.name}: rate {other.rate:g} has {seen}, above the chosen setting's {chosen}; add seeds."
    return [Caveat("fewer_seeds_may_be_better", sentence)]


def _unequal(arms: Sequence[Arm]) -> list[Caveat]:
    """Warn of data, budgets and machines that differ between a baseline and the arms compared with it.

    Args:
        arms: the baseline first.
    """
    result = []
    scored_on = arms[0].best.scored_on
    for context, code in (("train", "training"), ("validation", "validation"), ("test", "test")):
        digests = {arm.name: arm.digests(context) for arm in arms}
        if len(set.union(*digests.values())) > 1:
            apart = len({arm.best.digest(context) for arm in arms}) > 1
            subject = "they were" if apart else "settings that were not chosen were"
            done = "trained" if context == "train" else "scored"
            refused = ", and no difference is computed" if apart and context == scored_on else ""
            sentence = f"The {code} data differ ({_by_value(digests)}): {subject} {done} on other questions{refused}."
            result.append(Caveat(f"{code}_data_differ", sentence))
    for code, what, value in BUDGETS:
        # Models with different tokenizers cut the same passages into different numbers of examples.
        members = [arm for arm in arms if code != "unequal_steps" or arm.model == arms[0].model]
        values = {arm.name: value(arm) for arm in members}
        if len(set(values.values())) > 1:
            numbers = ", ".join(f"{name} {number:,}" for name, number in values.items())
            result.append(Caveat(code, f"The methods had different numbers of {what}: {numbers}."))
    for code, what, tag, spoilt in (
        ("hardware_differs", "hardware", "hardware", "time and memory are"),
        ("machines_differ", "machines", "host", "time is"),
    ):
        places = {arm.name: {run.tags.get(tag, "") for run in arm.best.runs} for arm in arms}
        if len(set.union(*places.values())) > 1:
            sentence = f"The runs were made on different {what} ({_by_value(places)}): {spoilt} not comparable."
            result.append(Caveat(code, sentence))
    return result


def _between_models(arms: Sequence[Arm]) -> list[Caveat]:
    """Warn of models that were scored on different questions of the same data set."""
    result = []
    for place in dict.fromkeys(arm.data for arm in arms):
        digests: dict[str, set[str]] = {}
        for arm in arms:
            if arm.data == place:
                split = arm.best.scored_on
                digests.setdefault(" ".join(arm.model), set()).add(f"{split} {arm.best.digest(split)}")
        if len(set.union(*digests.values())) > 1 and len(digests) > 1:
            sentence = (
                f"The models were scored on different questions ({_by_value(digests)}): their F1 cannot be compared."
            )
            result.append(Caveat("models_scored_apart", sentence))
    return result


def _by_value(values: Mapping[str, set[str]]) -> str:
    return "; ".join(
        f"{name}: {', '.join(each or 'none' for each in sorted(texts)) or 'unknown'}" for name, texts in values.items()
    )
