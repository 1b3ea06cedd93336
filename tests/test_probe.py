"""The probe of a run, and the times computed from it: the arithmetic by hand, the probe on the tiny model."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from src.config import TrainConfig, UserError
from src.estimate import probe as measuring
from src.estimate.cards import card_limit_mb, largest, largest_by_size, read_memory
from src.estimate.cost import TRACKING_SECONDS, TRACKING_SECONDS_A_STEP, Measured, price, whole_run, work_of
from src.estimate.probe import (
    DoesNotFit,
    Timed,
    chosen_steps,
    does_not_fit,
    part_of,
    peak_isolated,
    probe_isolated,
    without_stalls,
)
from src.model.backbone import load_tokenizer
from src.questions import load
from src.runs.isolation import Outcome, call
from tests.conftest import TINY

MEASURED = Measured(
    start_seconds=0.2,
    load_seconds=2.0,
    train_seconds_per_token=0.001,
    other_seconds_per_step=0.01,
    warm_up_seconds=0.5,
    eval_windows_per_second=10.0,
    checkpoint_seconds=0.4,
    forgetting_seconds=1.0,
    store_seconds=0.3,
    peak_train_mb=500.0,
    peak_eval_mb=100.0,
)


def work(**train):
    return work_of(TrainConfig(**train), steps_per_epoch=10, epoch_tokens=1000, validation=20, extra=10, test=5)


def test_a_whole_run_by_hand():
    found = whole_run(MEASURED, work(epochs=3, eval_every_epochs=2))
    assert (found.steps, found.work.evaluations) == (30, 3)  # the untrained model, epochs 2 and 3
    assert found.seconds_per_step == pytest.approx(0.1)
    assert found.train_seconds == pytest.approx(3000 * 0.001 + 0.5)
    assert found.eval_seconds == pytest.approx((3 * 20 + 10) / 10)
    assert found.test_seconds == pytest.approx(0.5)
    assert found.fixed_seconds == pytest.approx(0.2 + 2.0 + 3 * 0.4 + 1.0 + 0.3 + TRACKING_SECONDS)
    beside = 30 * (0.01 + TRACKING_SECONDS_A_STEP)
    assert found.run_seconds == pytest.approx(3.5 + 7.0 + 0.5 + beside + found.fixed_seconds)
    assert (found.peak_train_mb, found.peak_eval_mb) == (500.0, 100.0)


@pytest.mark.parametrize(("epochs", "every", "evaluations"), [(1, 1, 2), (3, 1, 4), (4, 2, 3), (5, 2, 4), (2, 9, 2)])
def test_evaluations_of_a_run(epochs, every, evaluations):
    """As `src.training.fit` makes them: before training, after each epoch that is due, and after the last."""
    assert work(epochs=epochs, eval_every_epochs=every).evaluations == evaluations


def test_long_runs_write_checkpoints_between_epochs():
    slow = replace(MEASURED, train_seconds_per_token=2.0, warm_up_seconds=0.0)  # 2,000 s an epoch
    often, seldom = (whole_run(slow, work(epochs=1, checkpoint_minutes=minutes)) for minutes in (10.0, 100.0))
    assert often.fixed_seconds - seldom.fixed_seconds == pytest.approx(3 * 0.4)


def test_price():
    assert price(1800, 0.5) == 0.25
    assert price(1800, None) is None


@pytest.mark.parametrize("limit", [0, 1, 5, 16, 37, 99, 100, 1000])
@pytest.mark.parametrize("start", [1, 16, 100, 500])
def test_the_largest_that_fits(limit, start):
    asked = []

    def fits(number):
        asked.append(number)
        return number <= limit

    assert largest(fits, 100, start) == min(limit, 100)
    assert len(asked) == len(set(asked)) <= 2 * 7 + 2
    assert all(1 <= number <= 100 for number in asked)


@pytest.mark.parametrize("limit", [0, 60, 75, 100, 101, 999, 1e6])
@pytest.mark.parametrize(
    "size",
    [
        lambda number: 50 + 10 * number,
        lambda number: max(70, 3.5 * number),
        lambda number: 20 * ((number + 1) // 2),
        lambda number: number**2,
    ],
)
def test_the_largest_by_its_size(size, limit):
    asked = set()

    def counted(number):
        asked.add(number)
        return size(number)

    expected = max((number for number in range(1, 4097) if size(number) <= limit), default=0)
    assert largest_by_size(counted, limit, 4096) == expected
    assert len(asked) <= 3 * 12 + 2  # every third halves the interval
    if size(3) - size(2) == size(2) - size(1) == 10:
        assert len(asked) <= 4  # in proportion: the ends, the number and the next one


@pytest.mark.parametrize(
    ("text", "mb"),
    [("24GB", 24_000), ("24 gb", 24_000), ("24GiB", 25_769.803776), ("16000MB", 16_000), ("1.5TB", 1.5e6)],
)
def test_memory_as_it_is_typed(text, mb):
    assert read_memory(text) == pytest.approx(mb)


@pytest.mark.parametrize("text", ["", "lots", "24XB", "-3GB", "0GB", "GB"])
def test_memory_that_cannot_be_read(text):
    with pytest.raises(UserError, match=r"^hardware.memory=.* cannot be read; write 24GB, 24GiB or 16000MB.$"):
        read_memory(text)


def test_memory_without_a_unit():
    with pytest.raises(UserError, match=r"^hardware.memory=24 has no unit; write 24GB or 24MB.$"):
        read_memory("24")
    assert card_limit_mb(24) == pytest.approx(21_600)


def test_steps_are_drawn_from_the_whole_range_of_lengths():
    assert chosen_steps(60, 0.5) == [5, 15, 25, 35, 45, 55]
    assert chosen_steps(3, 0.5) == [0, 0, 1, 1, 2, 2]  # fewer steps than are asked for
    assert chosen_steps(1, 0.875) == [0] * 6
    everything = sorted(place for shift in (0.25, 0.75) for place in chosen_steps(12, shift))
    assert everything == list(range(12))


@pytest.fixture(scope="module")
def tiny(configure):
    return configure(*TINY, "hardware.threads=1")


@pytest.fixture(scope="module")
def tiny_data(tiny):
    return load(tiny, load_tokenizer(tiny.model))


def test_a_part_has_all_windows_of_its_questions(tiny_data):
    questions, whole = tiny_data.sets.validation, tiny_data.validation
    some, part = part_of(questions, whole, 8)
    assert len(some) == 8
    rows = np.asarray(part.windows["question"][:])
    assert sorted(set(rows.tolist())) == list(range(8))
    of = np.asarray(whole.windows["question"][:])
    ids = questions["id"][:]
    for number, question in enumerate(some):
        assert (rows == number).sum() == (of == ids.index(question["id"])).sum()
    assert part.lengths.max() == whole.lengths.max()
    assert set(part.collate([0])) == set(whole.collate([0]))
    everything = part_of(questions, whole, 10_000)
    assert everything[0] == questions.to_list()
    assert everything[1].lengths.tolist() == whole.lengths.tolist()


@pytest.mark.slow
def test_a_probe_counts_the_work_and_leaves_nothing(tiny, tiny_data, server, tmp_path):
    outcome = probe_isolated(replace(tiny, tracking=replace(tiny.tracking, folder=str(tmp_path / "runs"))))
    assert outcome.reason is None
    found = outcome.value
    steps = -(-len(tiny_data.train.lengths) // tiny.train.batch_size)
    assert found.steps == found.work.steps == 2 * steps
    assert found.work.train_tokens == 2 * tiny_data.train.lengths.sum()
    assert (found.work.evaluations, found.work.checkpoints) == (3, 2)
    assert found.work.validation_windows == len(tiny_data.validation.lengths)
    assert found.work.test_windows == len(tiny_data.test.lengths)
    assert found == whole_run(found.measured, found.work)
    assert all(value > 0 for name, value in vars(found.measured).items() if name not in ("warm_up_seconds", "device"))
    assert not (tmp_path / "runs").exists()


def test_a_step_with_a_batch_of_any_size(tiny, server):
    """Also of more windows than there are."""
    outcome = peak_isolated(tiny, 200)
    assert outcome.reason is None
    assert outcome.value > 1


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["hardware.compile=true"], "hardware.compile=true"),
        (["hardware.processes=2"], "hardware.processes=2"),
        (
            ["method=head", "train.cache_encoder=true", "train.hidden_dropout=0", "hardware.compile=true"],
            "train.cache_encoder=true and hardware.compile=true",
        ),
    ],
)
def test_what_a_probe_cannot_measure(configure, overrides, named):
    with pytest.raises(UserError) as refused:
        measuring.probe(configure(*TINY, *overrides))
    assert str(refused.value) == f"A probe cannot measure a run with {named}; time one run of it instead."


def die(how):
    os.kill(os.getpid(), how)


def test_a_killed_probe_does_not_fit(server):
    killed = call(die, signal.SIGKILL)
    assert does_not_fit(killed)
    assert killed.reason == "The process was killed by SIGKILL; most often because memory ran out."
    assert not does_not_fit(Outcome(reason="The tokenizer could not be loaded.", error="UserError"))
    assert not does_not_fit(Outcome(value=1.0))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. GPU 0 has a total capacity of 23.69 GiB of which"),
            "The GPU's memory of 23.69 GiB is full (CUDA out of memory); lower train.batch_size",
        ),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"),
            "The machine's memory is full ([enforce fail",
        ),
    ],
)
def test_a_full_memory_does_not_fit(error, said):
    def work():
        raise error

    with pytest.raises(DoesNotFit) as refused:
        measuring._explained(work)
    assert str(refused.value).startswith(said)
    assert does_not_fit(Outcome(reason=str(refused.value), error=type(refused.value).__name__))


def test_memory_of_a_cpu_that_torch_cannot_have():
    """What torch really raises is known by its words."""
    with pytest.raises(DoesNotFit, match=r"^The machine's memory is full \("):
        measuring._explained(lambda: torch.empty(2**60, dtype=torch.uint8))


def test_another_error_is_not_about_memory():
    def work():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        measuring._explained(work)


def test_a_step_that_was_held_up_is_left_out():
    usual = [Timed(tokens, tokens / 1000 * factor, 0.0) for tokens, factor in ((500, 1.1), (1000, 1.0), (2000, 0.95))]
    held_up = Timed(1000, 9.0, 9.0)
    assert without_stalls([*usual, held_up]) == usual
    assert without_stalls(usual) == usual
