"""The table of all metrics: their names, formats and averages over seeds, and where they are shown.

    python -m src.metrics                    prints it in Markdown
    python -m src.metrics docs/metrics.md    replaces the table between the two marker comments of a file

A new metric is one line of METRICS. Tables, figures, the verdict and MLflow's view read METRICS when they are made.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Flag, auto
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Literal

EXTRA = "extra"  # the group of the metrics of extra validation sets, `extra/NAME/f1`
BEGIN, END = (
    "<!-- The table of metrics: made by python -m src.metrics docs/metrics.md -->",
    "<!-- End of the metrics -->",
)
# When a metric is logged if not always.
UNANSWERABLE = "with unanswerable questions"
TESTED = "with a test set"
MASKED_LM = "with a checkpoint that holds a masked-language-model head"
EXTRACTIVE, GENERATIVE = "with an extractive model", "with a generative model"
GPU, LINUX = "on a GPU", "on Linux"


class Place(Flag):
    """Where a metric is shown."""

    RESULT = auto()  # the table at the end of a run
    SUMMARY = auto()  # one line or row of a run in a sweep; methods side by side where there is no room for all rows
    SIDE_BY_SIDE = auto()  # the table of methods side by side
    ALL_RUNS = auto()  # the table of all runs on the report page
    CSV = auto()  # table.csv of a sweep's parent run
    VERDICT = auto()  # the costs in the verdict
    PARETO = auto()  # a figure of F1 against this cost
    CARD = auto()  # the scores on the card of a stored model, and of a run that another one reproduces
    COLUMNS = auto()  # MLflow's table of runs
    CHARTS = auto()  # MLflow's charts


NOWHERE = Place(0)
# Units that count tokens or examples, which depend on the model's tokenizer.
OF_ITS_TOKENS = ("nats", "examples/s", "tokens/s")
RESULT, SIDE_BY_SIDE, CHARTS = Place.RESULT, Place.SIDE_BY_SIDE, Place.CHARTS
TABLES = Place.RESULT | Place.SIDE_BY_SIDE | Place.ALL_RUNS | Place.CSV
SCORES = TABLES | Place.SUMMARY | Place.COLUMNS | Place.CARD
# Test scores are not shown where runs are listed to choose from.
TEST_SCORES = Place.RESULT | Place.SIDE_BY_SIDE | Place.CSV | Place.CARD
COSTS = TABLES | Place.VERDICT | Place.PARETO
MAIN_COSTS = COSTS | Place.SUMMARY | Place.CHARTS


@dataclass(frozen=True)
class Metric:
    """A metric, with everything that is needed to show it.

    Attributes:
        key: its name in MLflow, which groups charts by the part before the slash.
        label: its full name.
        about: its description in docs/metrics.md.
        unit: `s`, `MB`, `%` and so on; empty for a number.
        form: the format of a value, without the unit (`,.1f`).
        better: which direction is better; empty if neither is.
        average: how it is averaged over seeds.
        short: its name in narrow tables; empty: the label.
        logged: at every optimizer step, after every epoch (and before the first), or once at the end.
        only: the condition under which it is logged (`on a GPU`); empty: always.
        extra: whether it is also logged for each extra validation set, as `extra/NAME/f1`.
        score: whether it is a share of right answers. Tables omit its `%`, and add the standard deviation over seeds.
        places: where it is shown.
    """

    key: str
    label: str
    about: str
    unit: str = ""
    form: str = ",.0f"
    better: Literal["higher", "lower", ""] = ""
    average: Callable[[Iterable[float]], float] = mean
    short: str = ""
    logged: Literal["step", "epoch", "end"] = "end"
    only: str = ""
    extra: bool = False
    score: bool = False
    places: Place = NOWHERE

    @property
    def group(self) -> str:
        """The part of the key before the slash: `time` of `time/train_seconds`."""
        return self.key.partition("/")[0]

    @property
    def within_model(self) -> bool:
        """Whether values can only be compared between runs of the same model, as losses and speeds."""
        return self.unit in OF_ITS_TOKENS

    @property
    def noun(self) -> str:
        """The label up to its comma: `peak memory` of `peak memory, training`."""
        return self.label.partition(",")[0]

    @property
    def brief(self) -> str:
        """The short name, or the label if there is none."""
        return self.short or self.label

    @property
    def axis(self) -> str:
        """Label and unit: `training time (s)`, `F1 (%)`."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    @property
    def heading(self) -> str:
        """Label and unit in a table: `training time (s)`, `F1`."""
        return self.label if self.score else self.axis

    @property
    def column(self) -> str:
        """Short name and unit in a narrow table: `training (s)`, `F1`."""
        return replace(self, label=self.brief).heading

    def number(self, value: float) -> str:
        """A value without its unit: `3.9`."""
        return format(value, self.form)

    def text(self, value: float) -> str:
        """A value with its unit, `3.9 s`; a score has none, `51.2`."""
        return f"{self.number(value)} {self.unit}" if self.unit and not self.score else self.number(value)

    def named(self, value: float) -> str:
        """The short name with a value and its unit: `training 3.9 s`, `EM 51.2`."""
        return f"{self.brief} {self.text(value)}"

    def member(self, key: str) -> Metric | None:
        """This metric for `key`, which may be that of an extra validation set, whose name is added to the labels.

        None if `key` belongs to another metric.
        """
        if key == self.key:
            return self
        group, _, rest = key.partition("/")
        name, _, figure = rest.partition("/")
        if not (self.extra and name and group == EXTRA and figure == self.key.rpartition("/")[2]):
            return None
        where = f" on {name}"
        places = RESULT if Place.SUMMARY in self.places else NOWHERE
        return replace(self, key=key, label=self.label + where, short=self.brief + where, places=places)


def metric(key: str) -> Metric:
    """The metric with a key.

    Raises:
        KeyError: the table has no such metric.
    """
    for entry in METRICS:
        if (match := entry.member(key)) is not None:
            return match
    raise KeyError(f"{key} is not in the table of src/metrics.py")


def listed(keys: Iterable[str]) -> list[Metric]:
    """The metrics with the given keys; unknown keys are left out.

    They are in the order of the table; those of extra validation sets come last, set by set.
    """
    logged = set(keys)
    members = [match for entry in METRICS for key in logged if (match := entry.member(key)) is not None]
    return sorted(members, key=lambda entry: entry.key.split("/")[1] if entry.group == EXTRA else "")


def with_present_keys(values: Mapping[str, float]) -> dict[str, float]:
    """The metrics of a run by their present keys, where an earlier version may have logged them under others.

    A value that was logged under the present key goes before one under an earlier key.
    """
    renamed = {RENAMED[key]: value for key, value in values.items() if key in RENAMED}
    return renamed | {key: value for key, value in values.items() if key not in RENAMED}


def logged_as(key: str) -> list[str]:
    """The present key of a metric, then those under which earlier versions logged it."""
    return [key, *(earlier for earlier, present in RENAMED.items() if present == key)]


def shown(place: Place, keys: Iterable[str]) -> list[Metric]:
    """The metrics with the given keys that a place shows, in the order of the table."""
    return [entry for entry in listed(keys) if place in entry.places]


def at(place: Place) -> list[Metric]:
    """All metrics that a place shows."""
    return [entry for entry in METRICS if place in entry.places]


def groups() -> list[str]:
    """The groups of all metrics, in the order of the table."""
    return list(dict.fromkeys(group for e in METRICS for group in (e.group, *([EXTRA] if e.extra else []))))


# The keys that the code uses.
EXACT_MATCH, F1 = "quality/exact_match", "quality/f1"
TEST_EXACT_MATCH, TEST_F1 = "test/exact_match", "test/f1"
EVAL_EXACT_MATCH, EVAL_F1, EVAL_LOSS = "eval/exact_match", "eval/f1", "eval/loss"
EVAL_LM_LOSS = "eval/lm_loss"
TRAIN_LOSS, STEPS = "train/loss", "train/steps"
TRAINABLE, TOTAL, ADAPTER, BACKBONE = "params/trainable", "params/total", "params/adapter", "params/backbone"
TRAIN_SECONDS, TRAINED_SECONDS, CPU_WAIT_SECONDS = "time/train_seconds", "time/trained_seconds", "time/cpu_wait_seconds"
EXAMPLES_PER_SECOND = "speed/examples_per_second"
CKA = "forgetting/cka"

# The keys under which earlier versions logged metrics, each with the present key that its runs are read under.
RENAMED = {"time/waited_seconds": CPU_WAIT_SECONDS}

OF_ANSWER = "of the answer: the mean of its start and its end, or over its tokens where it is generated"

_score = partial(Metric, unit="%", form=",.1f", better="higher", score=True)
_quality = partial(_score, extra=True)
_loss = partial(Metric, unit="nats", form=",.3f", better="lower")
_seconds = partial(Metric, unit="s", form=",.1f", better="lower", average=median)
_speed = partial(Metric, unit="examples/s", form=",.1f", better="higher", average=median)
_megabytes = partial(Metric, unit="MB", better="lower")
_parameters = partial(Metric, better="lower")

# The metrics in display order. The table is not formatted by ruff, so that it stays readable.
# fmt: off
METRICS: tuple[Metric, ...] = (
    _quality(
        EXACT_MATCH, "exact match", "predictions that equal a human answer, by SQuAD's rules", short="EM",
        places=SCORES
    ),
    _quality(F1, "F1", "F1 of the words, with the closest human answer, by SQuAD's rules", places=SCORES | CHARTS),
    _quality(
        "quality/start_accuracy", "start accuracy", "predictions that begin where an answer does", only=EXTRACTIVE,
        places=RESULT
    ),
    _quality(
        "quality/end_accuracy", "end accuracy", "predictions that end where an answer does", only=EXTRACTIVE,
        places=RESULT
    ),
    _quality("quality/has_answer_f1", "F1, answerable", "F1 over the questions with an answer", only=UNANSWERABLE),
    _quality("quality/no_answer_f1", "F1, unanswerable", "questions rightly left unanswered", only=UNANSWERABLE),
    _quality("quality/best_f1", "F1, best threshold", "F1 at `best_null_threshold`", only=UNANSWERABLE),
    Metric(
        "quality/best_null_threshold", "best threshold",
        "threshold for leaving a question unanswered that scores best on these questions", form=",.2f",
        only=UNANSWERABLE, extra=True
    ),
    _score(
        TEST_EXACT_MATCH, "test exact match",
        "as `quality/exact_match`, on the test questions, which no choice is based on",
        short="test EM", only=TESTED, places=TEST_SCORES
    ),
    _score(
        TEST_F1, "test F1", "as `quality/f1`, on the test questions, which no choice is based on", only=TESTED,
        places=TEST_SCORES
    ),
    _score(
        EVAL_EXACT_MATCH, "validation exact match", "as `quality/exact_match`; epoch 0 is before training",
        short="EM", logged="epoch"
    ),
    _score(
        EVAL_F1, "validation F1", "as `quality/f1`; epoch 0 is before training", short="F1", logged="epoch",
        places=CHARTS
    ),
    _loss(
        EVAL_LOSS, "validation loss", f"cross entropy {OF_ANSWER}", short="loss", logged="epoch", extra=True
    ),
    _loss(
        EVAL_LM_LOSS, "LM loss", "mean loss per token of up to 48 passages that no training question is about",
        short="LM loss", logged="epoch", only=GENERATIVE
    ),
    _loss(
        TRAIN_LOSS, "training loss", f"cross entropy {OF_ANSWER}", short="loss", logged="step", places=CHARTS
    ),
    Metric("train/learning_rate", "learning rate", "learning rate of the step", form="g", logged="step"),
    Metric("train/grad_norm", "gradient norm", "norm of the gradient before clipping", form=",.3f", logged="step"),
    Metric(STEPS, "optimizer steps", "number of optimizer steps"),
    Metric(
        "train/reported_epoch", "reported epoch",
        "epoch of the scores and the stored weights: the last, or the best with `train.keep=best`"
    ),
    _parameters(TRAINABLE, "trained parameters", "number of parameters that train", short="trained", places=MAIN_COSTS),
    _parameters(
        "params/trainable_percent", "trained parameters, share", "share of all parameters", unit="%", form=",.2f",
        places=RESULT | SIDE_BY_SIDE
    ),
    _parameters(ADAPTER, "trained parameters, adapters", "number in adapters", places=SIDE_BY_SIDE),
    _parameters("params/head", "trained parameters, head", "number in the head", places=SIDE_BY_SIDE),
    _parameters(BACKBONE, "trained parameters, backbone", "number in the backbone", places=SIDE_BY_SIDE),
    Metric(TOTAL, "all parameters", "number of parameters, trained or not"),
    _seconds(
        TRAIN_SECONDS, "training time", "training steps alone, without evaluation, loading or logging",
        short="training", places=MAIN_COSTS | Place.COLUMNS
    ),
    _seconds("time/eval_seconds", "evaluation time", "prediction and selection of answers, over all evaluations"),
    _seconds("time/total_seconds", "total time", "from loading the model to storing it, without the test"),
    _seconds(
        "time/test_seconds", "test time", "prediction and selection of answers to the test questions", only=TESTED
    ),
    _seconds(
        CPU_WAIT_SECONDS, "time waiting for a core, training",
        "time that threads of the training steps were ready to run but had no core, summed over all threads",
        only=LINUX
    ),
    _seconds(
        TRAINED_SECONDS, "training time so far", "training time up to this step, without time lost in interruptions",
        logged="step"
    ),
    _speed(
        EXAMPLES_PER_SECOND, "training speed",
        "examples (windows of passages, or prompts) per second, after up to three warm-up steps", short="speed",
        places=RESULT | SIDE_BY_SIDE | Place.ALL_RUNS
    ),
    _speed("speed/tokens_per_second", "training speed, tokens", "tokens per second, without padding", unit="tokens/s"),
    _speed(
        "speed/eval_examples_per_second", "evaluation speed",
        "examples per second of prediction, selection of answers and scoring, over all evaluations",
        places=SIDE_BY_SIDE
    ),
    _megabytes(
        "memory/peak_train_mb", "peak memory, training",
        "GPU: what torch allocated, from just before the first step on. CPU: peak resident size minus that before the "
        "model was loaded, without the code of libraries and the mapped file of examples",
        short="memory", places=MAIN_COSTS | Place.COLUMNS
    ),
    _megabytes("memory/peak_eval_mb", "peak memory, evaluation", "the same during evaluation", places=SIDE_BY_SIDE),
    _megabytes(
        "memory/reserved_train_mb", "reserved memory, training", "memory that torch held, whether in use or not",
        only=GPU
    ),
    _megabytes(
        "storage/checkpoint_mb", "stored size", "size of the stored weights", form=",.2f", short="stored",
        places=COSTS
    ),
    _loss("train/initial_loss", "initial training loss", "loss of the first step", places=RESULT | SIDE_BY_SIDE),
    _loss("train/final_loss", "final training loss", "mean over the last ten steps", places=RESULT | SIDE_BY_SIDE),
    Metric(
        CKA, "hidden-state similarity, CKA",
        "linear CKA of the last hidden states with those before training (1: unchanged), on up to 48 validation "
        "passages that no training question is about",
        form=",.3f", short="CKA", places=SIDE_BY_SIDE | Place.ALL_RUNS
    ),
    Metric(
        "forgetting/cosine", "hidden-state similarity, cosine", "mean cosine similarity of the same states",
        form=",.3f", places=SIDE_BY_SIDE
    ),
    _loss(
        "forgetting/mlm_loss_before", "masked-LM loss, before", "loss on these passages before training",
        only=MASKED_LM, places=SIDE_BY_SIDE
    ),
    _loss(
        "forgetting/mlm_loss", "masked-LM loss, after", "loss on these passages after training", only=MASKED_LM,
        places=SIDE_BY_SIDE
    ),
    _loss(
        "forgetting/lm_loss_before", "LM loss, before", "mean loss per token of these passages before training",
        only=GENERATIVE, places=SIDE_BY_SIDE
    ),
    _loss(
        "forgetting/lm_loss", "LM loss, after", "mean loss per token of these passages after training", only=GENERATIVE,
        places=SIDE_BY_SIDE
    ),
    Metric("data/realigned", "realigned answers", "answers whose position was corrected, in all files that were read"),
    Metric("data/untrainable", "untrainable questions", "questions that cannot be trained on, in the same files"),
)
# fmt: on


def markdown() -> str:
    """The table of docs/metrics.md, one row for each metric."""
    lines = ["| metric | shown as | logged | better | over seeds | what it is |", "|---|---|---|---|---|---|"]
    for entry in METRICS:
        needs = f" ({entry.only})" if entry.only else ""
        key = f"`{entry.key}`"
        if entry.extra:
            key += f", `{EXTRA}/NAME/{entry.key.rpartition('/')[2]}`"
        cells = [key, entry.axis, entry.logged, entry.better, entry.average.__name__, entry.about + needs]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def between_markers(text: str) -> tuple[str, str, str]:
    """Split a Markdown file into the text before, between and after the marker comments.

    Raises:
        ValueError: a marker is missing.
    """
    before, begin, rest = text.partition(BEGIN)
    table, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"it lacks the marker comments; put {BEGIN} above the table and {END} below it")
    return before, table, after


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Print the table of all metrics in Markdown.")
    parser.add_argument("file", type=Path, nargs="?", help="write the table between the marker comments of this file")
    file = parser.parse_args().file
    if file is None:
        print(markdown())
        return
    try:
        before, _, after = between_markers(file.read_text(encoding="utf-8"))
        file.write_text(f"{before}{BEGIN}\n{markdown()}\n{END}{after}", encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        print(f"Error: {file}: {reason}.", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
