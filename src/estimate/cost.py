"""Computes the time of a whole run from the measurements of a probe; this needs arithmetic only, and no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from src.config import TrainConfig

# The time of a run in a sweep for work that the probe does not do: claiming the run, writing its parameters, inputs,
# tables and plots to MLflow's SQLite store, and ending the process. `python -m benchmarks.probe` measures both.
TRACKING_SECONDS = 1.5
TRACKING_SECONDS_A_STEP = 0.003


@dataclass(frozen=True)
class Work:
    """The amount of work in a whole run."""

    steps: int  # optimizer steps
    train_tokens: int  # of all epochs, padding not counted
    evaluations: int  # of the validation set
    validation_windows: int
    extra_windows: int  # of the extra validation sets, which are scored once
    test_windows: int  # scored once too
    checkpoints: int  # at the ends of the epochs
    checkpoint_minutes: float  # the interval at which further checkpoints are written


@dataclass(frozen=True)
class Measured:
    """The measurements of a probe. Seconds are wall time, unless stated otherwise."""

    start_seconds: float  # from the start of the process to the beginning of the probe
    load_seconds: float  # questions, windows (from the cache), weights, method
    train_seconds_per_token: float  # after the warm-up, on the meter's clock
    other_seconds_per_step: float  # the time of a step outside the meter's clock
    warm_up_seconds: float  # the time that the first steps took in addition to that of later steps
    eval_windows_per_second: float
    checkpoint_seconds: float  # to write one
    forgetting_seconds: float
    store_seconds: float  # to write the model
    peak_train_mb: float
    peak_eval_mb: float
    trainable: int = 0  # parameters
    device: str = "cpu"  # cpu | gpu


@dataclass(frozen=True)
class Probe:
    """The time and memory that a run needs. An MB is 10^6 bytes."""

    seconds_per_step: float  # for a step of mean length, after the warm-up
    steps: int  # optimizer steps of a whole run
    eval_windows_per_second: float
    fixed_seconds: float  # the time that does not grow with the steps: starting, loading, checkpoints, storing
    train_seconds: float  # of a whole run
    eval_seconds: float  # of all evaluations of a run, the untrained model's and those of extra sets included
    test_seconds: float
    run_seconds: float  # wall time of a whole run in a sweep, from the start of its process to its end
    peak_train_mb: float  # measured: on a CPU above the resident size before the model was loaded; on a GPU, allocated
    peak_eval_mb: float
    measured: Measured
    work: Work


def work_of(
    train: TrainConfig, steps_per_epoch: int, epoch_tokens: int, validation: int, extra: int, test: int
) -> Work:
    """The work of a run that is not stopped early.

    Args:
        train: the training configuration of the run.
        steps_per_epoch: optimizer steps.
        epoch_tokens: tokens of all training windows.
        validation, extra, test: numbers of windows.
    """
    return Work(
        steps=train.epochs * steps_per_epoch,
        train_tokens=train.epochs * epoch_tokens,
        evaluations=1 + math.ceil(train.epochs / train.eval_every_epochs),  # the untrained model is scored too
        validation_windows=validation,
        extra_windows=extra,
        test_windows=test,
        checkpoints=train.epochs,
        checkpoint_minutes=train.checkpoint_minutes,
    )


def whole_run(measured: Measured, work: Work) -> Probe:
    """Extrapolate the measurements of a probe to a whole run."""
    train_seconds = measured.train_seconds_per_token * work.train_tokens + measured.warm_up_seconds
    speed = measured.eval_windows_per_second
    eval_seconds = (work.evaluations * work.validation_windows + work.extra_windows) / speed
    test_seconds = work.test_windows / speed
    other = (measured.other_seconds_per_step + TRACKING_SECONDS_A_STEP) * work.steps
    working = train_seconds + eval_seconds + test_seconds + other
    timed_checkpoints = int(train_seconds / (60 * work.checkpoint_minutes))
    fixed_seconds = (
        measured.start_seconds
        + measured.load_seconds
        + (work.checkpoints + timed_checkpoints) * measured.checkpoint_seconds
        + measured.forgetting_seconds
        + measured.store_seconds
        + TRACKING_SECONDS
    )
    return Probe(
        seconds_per_step=measured.train_seconds_per_token * work.train_tokens / work.steps,
        steps=work.steps,
        eval_windows_per_second=speed,
        fixed_seconds=fixed_seconds,
        train_seconds=train_seconds,
        eval_seconds=eval_seconds,
        test_seconds=test_seconds,
        run_seconds=working + fixed_seconds,
        peak_train_mb=measured.peak_train_mb,
        peak_eval_mb=measured.peak_eval_mb,
        measured=measured,
        work=work,
    )


def price(seconds: float, price_per_hour: float | None) -> float | None:
    """The price of the machine for some seconds; None if the price of an hour is unknown."""
    return None if price_per_hour is None else price_per_hour * seconds / 3600
