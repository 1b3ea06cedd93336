"""Measures a few steps of a run, to predict the time and memory of the whole run.

The probe loads data and model as a run does, scores a part of the validation questions, trains a few optimizer steps,
writes a checkpoint and the model into a temporary folder, and measures the forgetting of the model; each of these is
timed. A batch holds windows of similar length, and the lengths of batches differ much. The steps are therefore drawn
evenly from the shortest to the longest, and the time of an epoch is computed from its number of tokens. The probe logs
nothing, and leaves no file but the cached windows, which the run itself will use.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TypeVar

import numpy as np
import psutil
import torch
from datasets import Dataset

from src.config import Config, UserError
from src.estimate.cost import Measured, Probe, whole_run, work_of
from src.evaluator import Evaluator
from src.model import backbone, base, stored
from src.problems import validate
from src.questions import RunData, load
from src.run import build, forgotten, make_ready
from src.runs.isolation import Outcome, call, start_server
from src.sweep import PRELOADED
from src.tasks import task_of
from src.tasks.base import Batches
from src.training import hardware
from src.training.checkpoint import Checkpoints
from src.training.hardware import Runtime
from src.training.meter import Meter, Usage
from src.training.predict import predict
from src.training.step import make_optimizer, optimizer_step

__all__ = ["DoesNotFit", "Probe", "does_not_fit", "peak_isolated", "probe", "probe_isolated"]

WARM_UP_STEPS = 2
STEPS_A_ROUND = 6  # from the shortest batches to the longest
SHIFTS = (0.5, 0.25, 0.75, 0.125, 0.625, 0.375, 0.875)  # the position of each round's step in its sixth of the batches
SCORED_QUESTIONS = (32, 128, 384)  # of the validation set, in increasing evaluations
# After this time, no further round of steps or larger evaluation is started.
ENOUGH_TRAINING_SECONDS, ENOUGH_EVAL_SECONDS = 4.0, 1.0
# Other work on the machine may delay one step or one file. A step that takes STALL times the usual time is left out;
# work that takes longer than DONE_TWICE_SECONDS is repeated, and the shorter time counts.
STALL, DONE_TWICE_SECONDS = 2.0, 2.0
Value = TypeVar("Value")


class NoProbe(UserError):
    """Raised for a valid run that a probe cannot measure."""


class DoesNotFit(UserError):
    """Raised if the memory is full."""


def probe(config: Config) -> Probe:
    """Measure a run in this process, which should not have run anything before.

    Raises:
        DoesNotFit: the memory of the device or of the machine is full.
        UserError: data or model cannot be loaded, or a probe cannot measure the configuration.
    """
    return _measure(config, start_seconds=0.0)


def probe_isolated(config: Config) -> Outcome:
    """Call `probe` in a new process, as a sweep does for its runs; the outcome has the `Probe` or the error.

    `does_not_fit` tells whether a full memory was the reason of the error.
    """
    return _isolated(_probe_here, config)


def peak_isolated(config: Config, batch_windows: int) -> Outcome:
    """Train two steps on the longest windows in a new process; the outcome has the peak memory in MB, or the error."""
    return _isolated(_peak_here, (config, batch_windows))


def does_not_fit(outcome: Outcome) -> bool:
    """Whether a process has ended because the memory of a GPU, or of the machine (it was killed), was full."""
    killed = outcome.error == "Death" and "SIGKILL" in str(outcome.reason)
    return killed or outcome.error in (DoesNotFit.__name__, "MemoryError")


def _isolated(function: Callable[[Any], Any], argument: Any) -> Outcome:
    start_server(PRELOADED)
    return call(function, argument, Path(os.devnull))


def _probe_here(config: Config) -> Probe:
    _first_to_be_killed()
    return _measure(config, start_seconds=time.time() - psutil.Process().create_time())


def _peak_here(argument: tuple[Config, int]) -> float:
    _first_to_be_killed()
    config, batch_windows = argument
    return _explained(lambda: _peak(config, batch_windows))


def _first_to_be_killed() -> None:
    """Make Linux kill this process rather than another one if the machine runs out of memory."""
    with suppress(OSError):  # another system
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _explained(work: Callable[[], Value]) -> Value:
    """Call `work`, and raise DoesNotFit if the memory is full."""
    try:
        with hardware.full_memory_explained():
            return work()
    except UserError as error:
        if isinstance(error.__cause__, torch.OutOfMemoryError):
            raise DoesNotFit(str(error)) from error
        raise
    except RuntimeError as error:  # torch on a CPU
        if "allocate memory" not in str(error):
            raise
        raise DoesNotFit(f"The machine's memory is full ({str(error).splitlines()[0][:200]}).") from error


def _check(config: Config) -> None:
    """Check that a probe can measure a configuration.

    Raises:
        UserError: a value is invalid for any run, or a probe cannot measure it.
    """
    validate(config)
    reasons = {
        "train.cache_encoder=true": config.train.cache_encoder,
        "hardware.compile=true": config.hardware.compile,
        f"hardware.processes={config.hardware.processes}": config.hardware.processes not in (1, None),
    }
    if given := [key for key, is_set in reasons.items() if is_set]:
        raise NoProbe(f"A probe cannot measure a run with {' and '.join(given)}; time one run of it instead.")


class Timed(NamedTuple):
    """An optimizer step."""

    tokens: int  # without padding
    seconds: float  # on the meter's clock
    wall_seconds: float  # including the time that the meter itself takes


class _Job(NamedTuple):
    """A run with all that is needed to measure it."""

    config: Config
    runtime: Runtime
    tokenizer: Any
    data: RunData
    meter: Meter
    bare: Any
    model: Any


def _measure(config: Config, start_seconds: float) -> Probe:
    _check(config)
    return _explained(lambda: _whole(config, start_seconds))


def _whole(config: Config, start_seconds: float) -> Probe:
    job, load_seconds = _load(config)
    eval_windows_per_second = _evaluate(job)
    optimizer = job.runtime.accelerator.prepare_optimizer(make_optimizer(job.model, config.train))
    groups = _groups(job.data.train, config)
    warm_up, steps = _train(job, optimizer, groups)
    with tempfile.TemporaryDirectory(prefix="tuneoff-probe-") as temporary:
        folder = Path(temporary)
        checkpoint_seconds = _seconds(lambda: _write_checkpoint(job, optimizer, Path(tempfile.mkdtemp(dir=folder))))
        start = base.identify(config.model, job.bare.config.model_type, config.train.seed)
        model = job.runtime.accelerator.unwrap_model(job.model)
        (folder / "model").mkdir()
        store_seconds = _seconds(lambda: stored.save(model, folder / "model", start))
    sets = job.data.sets
    forgetting_seconds = _seconds(lambda: forgotten(config, job.runtime, job.tokenizer, sets, job.bare))
    steps = without_stalls(steps)
    per_token = sum(step.seconds for step in steps) / sum(step.tokens for step in steps)
    measured = Measured(
        start_seconds=start_seconds,
        load_seconds=load_seconds,
        train_seconds_per_token=per_token,
        other_seconds_per_step=sum(step.wall_seconds - step.seconds for step in steps) / len(steps),
        warm_up_seconds=max(0.0, sum(step.seconds - per_token * step.tokens for step in warm_up)),
        eval_windows_per_second=eval_windows_per_second,
        checkpoint_seconds=checkpoint_seconds,
        forgetting_seconds=forgetting_seconds,
        store_seconds=store_seconds,
        peak_train_mb=job.meter.train.peak_mb,
        peak_eval_mb=job.meter.evaluation.peak_mb,
        trainable=sum(parameter.numel() for parameter in job.model.parameters() if parameter.requires_grad),
        device="cpu" if job.runtime.on_cpu else "gpu",
    )
    data = job.data
    extra = sum(len(each.lengths) for each in data.extra.values())
    test = 0 if data.test is None else len(data.test.lengths)
    epoch_tokens = int(data.train.lengths.sum())
    return whole_run(
        measured, work_of(config.train, len(groups), epoch_tokens, len(data.validation.lengths), extra, test)
    )


def _load(config: Config) -> tuple[_Job, float]:
    """Load what a run loads; the job, and the seconds that loading takes if the windows are already cached."""
    runtime = hardware.start(config.hardware, config.train.cache_encoder, task_of(config.model).cpu_tokens)
    tokenizer = backbone.load_tokenizer(config.model)
    data = load(config, tokenizer)
    began = time.perf_counter()
    tokenizer = backbone.load_tokenizer(config.model)
    data = load(config, tokenizer)
    meter = Meter(runtime.device)
    bare, model = build(config)
    base.identify(config.model, bare.config.model_type, config.train.seed)
    model = make_ready(config, runtime, bare, model)
    return _Job(config, runtime, tokenizer, data, meter, bare, model), time.perf_counter() - began


def _seconds(work: Callable[[], object]) -> float:
    """The seconds of some work that can be repeated."""
    taken: list[float] = []
    while not taken or (len(taken) < 2 and taken[0] > DONE_TWICE_SECONDS):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return min(taken)


# Evaluation


def _evaluate(job: _Job) -> float:
    """Measure an evaluation: its windows per second, and its peak memory in the meter."""
    config, data, runtime = job.config.evaluation, job.data, job.runtime
    [longest, *_] = data.validation.evaluation(config.batch_size)
    rows = np.sort(longest)
    few = data.validation.select(rows, data.validation.questions[rows])
    with job.meter.phase(Usage()):  # a warm-up, in which kernels are chosen
        predict(runtime, job.model, few, config)
    evaluator = Evaluator(runtime, job.model, config, data.sets.unanswerable)
    usage = job.meter.evaluation
    for wanted in SCORED_QUESTIONS:
        questions, part = part_of(data.sets.validation, data.validation, wanted)
        before = usage.seconds
        with job.meter.phase(usage):
            evaluator.score(questions, part)
        seconds = usage.seconds - before
        if seconds > ENOUGH_EVAL_SECONDS or wanted >= len(data.sets.validation):
            break  # the next evaluation would take too long, or would not have more questions
    speed = len(part.lengths) / seconds
    with job.meter.phase(usage):  # the largest batch may not be among the questions above
        predict(runtime, job.model, few, config)
    return speed


def part_of(questions: Dataset, batches: Batches, wanted: int) -> tuple[list[dict[str, Any]], Batches]:
    """A sample of questions with all their examples, drawn evenly from the longest windows to the shortest."""
    rows = batches.questions
    longest = np.zeros(len(questions), dtype=int)
    np.maximum.at(longest, rows, batches.lengths)
    order = np.argsort(-longest, kind="stable")
    places = np.linspace(0, len(order) - 1, min(wanted, len(order))).astype(int)
    chosen = np.sort(order[places])
    kept = np.flatnonzero(np.isin(rows, chosen))
    return questions.select(chosen).to_list(), batches.select(kept, np.searchsorted(chosen, rows[kept]))


# Training


def _groups(batches: Batches, config: Config) -> list[list[list[int]]]:
    """The batches of each optimizer step of the first epoch, the shortest first."""
    train = config.train
    order, size = batches.training(train.batch_size, train.seed, 1), train.gradient_accumulation_steps
    groups = [order[i : i + size] for i in range(0, len(order), size)]
    return sorted(groups, key=lambda group: _tokens(batches, group))


def _tokens(batches: Batches, group: Sequence[Sequence[int]]) -> int:
    return sum(int(batches.lengths[list(rows)].sum()) for rows in group)


def chosen_steps(steps: int, shift: float) -> list[int]:
    """The indices of a round's steps among those of an epoch, which are sorted by length: one of each sixth."""
    return [int((i + shift) * steps / STEPS_A_ROUND) for i in range(STEPS_A_ROUND)]


def without_stalls(steps: Sequence[Timed]) -> list[Timed]:
    """The steps without those whose time per token is STALL times the median or more."""
    usual = median(step.seconds / step.tokens for step in steps)
    return [step for step in steps if step.seconds / step.tokens < STALL * usual]


def _train(
    job: _Job, optimizer: torch.optim.Optimizer, groups: list[list[list[int]]]
) -> tuple[list[Timed], list[Timed]]:
    """Train the warm-up steps, then rounds of steps of all lengths until ENOUGH_TRAINING_SECONDS have passed."""
    job.model.train()
    # The longest comes first: its peak memory is that of the run.
    first = [groups[int(place * (len(groups) - 1))] for place in np.linspace(1, 0, WARM_UP_STEPS)]
    warm_up = [_step(job, optimizer, group) for group in first]
    measured: list[Timed] = []
    for shift in SHIFTS:
        measured += [_step(job, optimizer, groups[place]) for place in chosen_steps(len(groups), shift)]
        if sum(step.seconds for step in measured) > ENOUGH_TRAINING_SECONDS:
            break
    return warm_up, measured


def _step(job: _Job, optimizer: torch.optim.Optimizer, group: list[list[int]]) -> Timed:
    usage, began = job.meter.train, time.perf_counter()
    before = usage.seconds
    with job.meter.phase(usage):
        optimizer_step(job.runtime, job.model, optimizer, group, job.data.train, job.config.train.max_grad_norm)
    seconds = usage.seconds - before
    return Timed(_tokens(job.data.train, group), seconds, time.perf_counter() - began)


def _write_checkpoint(job: _Job, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    def refuse(sentence: str) -> None:
        raise UserError(sentence)

    train = job.config.train
    checkpoints = Checkpoints(job.runtime.accelerator, folder, train.checkpoint_minutes, keep=False, warn=refuse)
    checkpoints.register(job.model, {"optimizer": optimizer, "meter": job.meter})
    checkpoints.save(1)


def _peak(config: Config, batch_windows: int) -> float:
    """The peak memory in MB of steps with a batch of the longest windows."""
    _check(config)
    job, _ = _load(config)
    lengths = job.data.train.lengths
    rows = np.resize(np.argsort(-lengths, kind="stable"), batch_windows).tolist()
    optimizer = job.runtime.accelerator.prepare_optimizer(make_optimizer(job.model, config.train))
    job.model.train()
    for _ in range(2):  # the optimizer's moments exist from the second step on
        _step(job, optimizer, [rows])
    return job.meter.train.peak_mb
