"""One run in two processes: whatever happens to one of them, both end together, with a sentence."""

from __future__ import annotations

import os
import re
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from src.config import TrackingConfig
from src.history import History
from src.run import run
from src.runs.isolation import call
from src.runs.store import connect
from src.sweep import train
from src.training import watch
from tests.conftest import TINY
from tests.test_run import STEPWISE, client_of, limit_the_size_of_files, runs_of


def rank(job):
    """What a launcher starts: one process of a run, with what `before` does to it first."""
    config, number, port, before = job
    before(number)
    os.environ |= {
        "WORLD_SIZE": "2",
        "RANK": str(number),
        "LOCAL_RANK": str(number),
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    result = run(config)
    return None if result is None else result.run_id


def nothing(number):
    """A process like any other."""


def interrupted_in_the_second_epoch(number):
    """As a launcher ends all processes of a run, after the same step in both: 8 of 64 questions make one, from 1."""
    original = History.on_steps

    def on_steps(history, steps):
        original(history, steps)
        if steps[-1].number == 11:
            raise KeyboardInterrupt

    History.on_steps = on_steps


def lost_in_the_second_epoch(number, signal_number, which):
    """One process kills or stops itself; the other may wait for 3 seconds instead of half a minute."""
    watch.BEAT_SECONDS = 0.3
    original = History.on_steps

    def on_steps(history, steps):
        original(history, steps)
        if steps[-1].number == 11 and number == which:
            os.kill(os.getpid(), signal_number)

    History.on_steps = on_steps


def a_disk_that_is_full_for_weights(number):
    """A limit on the size of files stands for the full disk, in the process that stores."""
    if number == 0:
        limit_the_size_of_files()


@pytest.fixture
def two_processes(server, tmp_path):
    def start(config, before=nothing):
        """The outcomes of both processes, and what they have said; each calls `before` with its number first."""
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        outputs = [tmp_path / f"rank-{number}.log" for number in (0, 1)]
        with ThreadPoolExecutor(2) as pool:
            ended = [pool.submit(call, rank, (config, n, port, before), output) for n, output in enumerate(outputs)]
            return [future.result(timeout=120) for future in ended], [output.read_text() for output in outputs]

    return start


@pytest.fixture
def settings(tmp_path):
    return [*TINY, "hardware=cpu", "hardware.processes=null", "train.epochs=1", f"tracking.folder={tmp_path}"]


@pytest.mark.slow
def test_a_run_killed_after_its_last_artifact_ends_in_both(two_processes, configure, settings, tmp_path):
    config = configure(*settings)
    (done, helped), _ = two_processes(config)
    assert (done.reason, helped.reason) == (None, None)
    client = client_of(tmp_path)
    client.update_run(done.value, status="RUNNING")
    client.set_tag(done.value, "process_start", "0.0")
    outcomes, _ = two_processes(config)
    assert [(outcome.value, outcome.reason) for outcome in outcomes] == [(done.value, None)] * 2
    [found] = runs_of(tmp_path)
    assert found.info.status == "FINISHED"


@pytest.mark.slow
def test_where_one_cannot_write_its_checkpoint_both_go_on(two_processes, configure, settings, tmp_path):
    (tmp_path / "checkpoints").write_text("a file where a folder should be")
    (done, helped), (said, _) = two_processes(configure(*settings))
    assert (done.reason, helped.reason) == (None, None)
    assert said.count("could not be written under") == 1
    assert [found.info.status for found in runs_of(tmp_path)] == ["FINISHED"]


def test_what_one_cannot_begin_ends_both(two_processes, configure, settings, tmp_path):
    config = configure(*settings)
    client = client_of(tmp_path)
    client.create_experiment("tuneoff")
    client.delete_experiment(client.get_experiment_by_name("tuneoff").experiment_id)
    outcomes, _ = two_processes(config)
    assert "takes no run" in outcomes[0].reason
    assert outcomes[1].reason == f"Process 0: {outcomes[0].reason}"


def curves(folder):
    client = client_of(folder)
    [run] = runs_of(folder)
    return {
        key: sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, key))
        for key in sorted(entry.key for entry in STEPWISE)
    }


@pytest.mark.slow
def test_an_interrupted_run_goes_on_in_both(two_processes, configure, settings, tmp_path):
    config = configure(*settings, "train.epochs=2", "train.hidden_dropout=0.1")
    outcomes, _ = two_processes(config, interrupted_in_the_second_epoch)
    assert [outcome.error for outcome in outcomes] == ["KeyboardInterrupt"] * 2
    [stopped] = runs_of(tmp_path)
    assert stopped.info.status == "KILLED"
    again, (said, _) = two_processes(config)
    assert [(outcome.value, outcome.reason) for outcome in again] == [(stopped.info.run_id, None), (None, None)]
    assert "continues from its last checkpoint" in said
    [resumed] = runs_of(tmp_path)
    assert (resumed.info.status, resumed.data.tags["resumed"]) == ("FINISHED", "1")

    whole = tmp_path / "whole"
    two_processes(configure(*settings, "train.epochs=2", "train.hidden_dropout=0.1", f"tracking.folder={whole}"))
    assert curves(tmp_path) == curves(whole), "not the run that nobody interrupted, to the bit"


STOPPED = r"Process {} \(on .+, process id \d+\) of this run did not respond for 3 seconds, so the run ends\. The same"


@pytest.mark.parametrize(
    ("signal_number", "which", "sentence"),
    [
        pytest.param(
            signal.SIGKILL, 1, r"Another process of this run has ended \(.+\)\. The same", marks=pytest.mark.slow
        ),
        pytest.param(signal.SIGSTOP, 1, STOPPED.format(1), marks=pytest.mark.slow),
        (signal.SIGSTOP, 0, STOPPED.format(0)),  # it holds the store, which then does not answer
    ],
)
def test_a_lost_process_ends_the_other(two_processes, configure, settings, tmp_path, signal_number, which, sentence):
    config = configure(*settings, "train.epochs=2")
    before = partial(lost_in_the_second_epoch, signal_number=signal_number, which=which)
    outcomes, _ = two_processes(config, before)
    assert re.match(sentence, outcomes[1 - which].reason), outcomes
    assert "killed by SIGKILL" in outcomes[which].reason
    assert [run.info.status for run in runs_of(tmp_path)] == ["FAILED" if which == 1 else "RUNNING"]


@pytest.mark.slow
def test_the_best_epoch_is_kept_in_both(two_processes, configure, settings, tmp_path):
    outcomes, _ = two_processes(configure(*settings, "train.epochs=4", "train.keep=best", "train.learning_rate=3e-3"))
    assert [outcome.reason for outcome in outcomes] == [None, None]
    [run] = runs_of(tmp_path)
    scored = dict(curves(tmp_path)["eval/f1"])
    best = max((epoch for epoch in scored if epoch), key=lambda epoch: (scored[epoch], -epoch))
    assert run.data.metrics["train/reported_epoch"] == best
    assert run.data.metrics["quality/f1"] == scored[best]
    record = connect(TrackingConfig(folder=str(tmp_path))).record(run.info.run_id)
    assert len(record.questions(split="test")) == 16
    assert 100 * record.questions(["f1"], "test")["f1"].mean() == pytest.approx(run.data.metrics["test/f1"])


@pytest.mark.slow
def test_a_full_disk_takes_no_result_away_from_both(two_processes, configure, settings, tmp_path):
    (stored, helped), (said, _) = two_processes(configure(*settings, "method=full"), a_disk_that_is_full_for_weights)
    assert "could not be stored" in stored.reason
    assert (helped.value, helped.reason) == (None, None)
    assert said.count("The checkpoint at step") == 1, "it is said once, and training goes on"
    assert "Exact match" in said, "the result was not shown"
    [run] = runs_of(tmp_path)
    assert run.info.status == "FAILED"
    assert "quality/f1" in run.data.metrics


@pytest.mark.slow
def test_a_decoder_in_two_processes_is_the_one_in_one(two_processes, configure, server, tmp_path):
    settings = [*TINY, "model=tiny_llm", "method=full", "hardware=cpu", "hardware.processes=null", "train.epochs=1"]
    settings += ["train.learning_rate=3e-3", "dataset.test_size=null", "evaluation.max_answer_length=3"]
    several, alone = tmp_path / "several", tmp_path / "alone"
    outcomes, _ = two_processes(configure(*settings, f"tracking.folder={several}"))
    assert [outcome.reason for outcome in outcomes] == [None, None]
    assert call(train, configure(*settings, f"tracking.folder={alone}"), tmp_path / "output.log").reason is None
    one, other = curves(several), curves(alone)
    assert len(one["train/loss"]) == 9  # of 8 examples; some passages take two
    for key in ("train/loss", "train/grad_norm", "eval/loss", "eval/lm_loss", "eval/f1"):
        assert one[key] == [(step, pytest.approx(value, rel=1e-5)) for step, value in other[key]], key
