"""How the torture of benchmarks/ judges and reports: what a page says, what counts as lost."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.torture import soak
from benchmarks.torture.__main__ import add, parser, shown_command
from benchmarks.torture.kills import JOBS, done_again, has_tables, members, reached
from benchmarks.torture.page import page
from benchmarks.torture.server import Proxy
from benchmarks.torture.work import Place, differences, ended_well, left_over, results, said_why


def test_a_page_counts_what_was_tried_and_lists_what_was_lost():
    trials = [
        {"tried": {"command": "src.train", "signal": "SIGKILL"}, "lost": []},
        {"tried": {"command": "src.train", "signal": "SIGINT"}, "lost": ["exit status 1", "x stays RUNNING"]},
    ]
    about = {"commit": "c0ffee", "machine": "2 cores"}
    entries = [{"command": f"C{n}", "minutes": 1.5, "trials": [trial], **about} for n, trial in enumerate(trials)]
    text = page({"kills": entries})
    assert "| command | tried | survived | lost |\n|---|---:|---:|---:|\n| src.train | 2 | 1 | 1 |\n" in text
    assert "| SIGINT | 1 | 0 | 1 |\n| SIGKILL | 1 | 1 | 0 |\n" in text
    assert "Lost:\n\n- src.train, SIGINT: exit status 1; x stays RUNNING\n" in text
    assert text.endswith("`C1`: 1 trials in 1.5 minutes, commit c0ffee, 2 cores.\n")


def test_the_trials_of_several_commands_add_up(tmp_path):
    def entry(command, lost):
        trials = [{"tried": {"fault": "a full disk"}, "lost": lost}]
        return {"command": command, "commit": "c0ffee", "machine": "2 cores", "minutes": 1.0, "trials": trials}

    for command, lost in (("A", ["a run"]), ("B", []), ("A", [])):  # A was mended and tried again
        add(tmp_path, "disk", entry(command, lost))
    assert [each["command"] for each in json.loads((tmp_path / "torture.json").read_text())["disk"]] == ["A", "B"]
    assert "| a full disk | 2 | 2 | 0 |" in (tmp_path / "TORTURE.md").read_text()


def test_results_that_differ_are_named():
    assert differences({"a": {"f1": 1.0}}, {"a": {"f1": 1.0}}) == []
    assert differences({"a": {"f1": 1.0}, "c": {}}, {"a": {"f1": 2.0}, "b": {}}) == [
        "b is missing",
        "c should not be there",
        "a f1: 1.0 instead of 2.0",
    ]


def test_how_a_command_must_end():
    trace = "Traceback (most recent call last):\n"
    assert ended_well(0, "all is well") == []
    assert ended_well(1, "a\nb\n") == ["exit status 1: a / b"]
    assert ended_well(0, trace) == ["a traceback was shown"]
    assert said_why(1, "Error: no room.", "no room") == []
    assert len(said_why(2, trace, "no room")) == 3


@pytest.fixture
def place(tmp_path):
    """A store with one finished run."""
    found = Place(tmp_path, at=tmp_path)
    found.run = found.client().create_run("0", run_name="of a test", tags={"config_hash": "h"}).info.run_id
    found.client().set_terminated(found.run)
    return found


def test_what_is_left_of_a_run_is_found(place):
    assert left_over(place) == []
    assert set(results(place.client())) == {"h"}
    place.client().update_run(place.run, status="RUNNING")
    (place.store / "checkpoints" / place.run).mkdir(parents=True)
    (place.folder / "cache" / "tuneoff" / "unfinished-abc").mkdir(parents=True)
    assert left_over(place) == [
        "of a test stays RUNNING",
        f"checkpoints/{place.run} is left",
        "cache/tuneoff/unfinished-abc is left",
    ]
    place.client().create_run("0", tags={"config_hash": "h"})
    with pytest.raises(AssertionError, match="h is there twice"):
        results(place.client())


def test_a_run_that_is_done_again_is_found(place):
    run, client = place.run, place.client()
    client.set_tag(run, "resumed", "1")
    for step, at in ((1, 1_000), (2, 9_000), (3, 9_500)):
        client.log_metric(run, "train/loss", 1.0, timestamp=at, step=step)
    assert done_again(place, {run: ("KILLED", 1)}, stopped=5.0) == []
    assert done_again(place, {run: ("KILLED", 2)}, stopped=5.0) == [
        f"1 of the 2 steps of run {run[:8]} were trained again"
    ]
    client.delete_tag(run, "resumed")
    assert done_again(place, {run: ("KILLED", 1)}, stopped=5.0) == [
        f"run {run[:8]} did not go on from its checkpoint at step 1"
    ]
    assert done_again(place, {"0" * 32: ("FINISHED", 0), "1" * 32: ("KILLED", 0)}, stopped=5.0) == [
        "run 00000000 (FINISHED, checkpoint at step 0) was begun anew"
    ]


def test_a_database_without_tables_is_no_store(tmp_path):
    assert has_tables(tmp_path / "mlflow.db")  # every test's folder has one
    (tmp_path / "empty.db").touch()
    assert not has_tables(tmp_path / "empty.db") and not has_tables(tmp_path / "none.db")


def test_a_moment_is_waited_for_and_processes_are_counted(tmp_path):
    program = "import time, pathlib; pathlib.Path('there').touch(); time.sleep(100)"
    process = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, start_new_session=True)
    try:
        assert reached(process, Place(tmp_path), "ther*", after=0.0)
        assert (tmp_path / "there").exists()
        assert members(process.pid) == [process.pid]
    finally:
        process.kill()
        process.wait()
    assert not reached(process, Place(tmp_path), "never", after=0.0)
    assert members(process.pid) == []


def test_growth_is_told_from_noise():
    times = [float(number) for number in range(100)]
    steady = [100.0 + number % 7 for number in range(100)]
    assert soak.flat(times, steady)
    assert not soak.flat(times, [value + number for number, value in enumerate(steady)])
    assert soak.flat(times, [value + 0.01 * number for number, value in enumerate(steady)]), "below 5 % of the median"
    assert soak.flat(times, [value - number for number, value in enumerate(steady)])


class Echo(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("X-Path", self.path)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *values):
        pass


@pytest.fixture
def proxy():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    proxy = Proxy(server.server_address[1])
    yield proxy
    for each in (proxy, server):
        each.shutdown()
        each.server_close()


def test_a_proxy_hands_on_refuses_and_waits(proxy):
    def ask(timeout=30):
        with urllib.request.urlopen(f"{proxy.uri}/api?x=1", data=b"body", timeout=timeout) as answer:
            return answer.status, answer.headers["X-Path"], answer.read()

    assert ask() == (200, "/api?x=1", b"body")
    for mode in ("500", "401"):
        proxy.mode = mode
        with pytest.raises(urllib.error.HTTPError, match=mode):
            ask()
    proxy.mode = "never"
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(ask()))
    waiting.start()
    time.sleep(0.3)
    assert answers == []
    proxy.mode = "pass"
    waiting.join()
    assert answers == [(200, "/api?x=1", b"body")]


def test_the_command_line_has_the_parts(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x", "disk", "--output", "/tmp/a", "--only", "cut short", "--keep", "/tmp/b"])
    assert shown_command() == "python -m benchmarks.torture disk --only 'cut short'"
    chosen = parser().parse_args(["kills", "--count", "3", "--jobs", "run", "export"])
    assert (chosen.part, chosen.count, chosen.jobs) == ("kills", 3, ["run", "export"])
    assert {job.command for job in JOBS.values()} == {"src.train", "src.train -m", "src.settle", "src.export"}
