"""One run in two processes: whatever happens to one of them, both end together, with a sentence."""

from __future__ import annotations

import os
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from src.run import run
from src.runs.isolation import call
from tests.conftest import TINY
from tests.test_run import client_of, runs_of


def rank(job):
    """What a launcher starts: one process of a run."""
    config, number, port = job
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


@pytest.fixture
def two_processes(server, tmp_path):
    def start(config):
        """The outcomes of both processes, and what they have said."""
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        outputs = [tmp_path / f"rank-{number}.log" for number in (0, 1)]
        with ThreadPoolExecutor(2) as pool:
            ended = [pool.submit(call, rank, (config, n, port), output) for n, output in enumerate(outputs)]
            return [future.result(timeout=120) for future in ended], [output.read_text() for output in outputs]

    return start


@pytest.fixture
def settings(tmp_path):
    return [*TINY, "hardware=cpu", "hardware.processes=null", "train.epochs=1", f"tracking.folder={tmp_path}"]


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
