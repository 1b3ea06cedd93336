"""How sweeps end: a killed run, an interruption, a failure, a mistake; and a search that prunes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from src import launch
from src.config import ROOT, SweepConfig
from src.runs.identity import config_hash
from src.runs.isolation import call
from src.runs.parent import ParentRun
from src.runs.tracking import Stopped
from src.sweep import run_isolated, train
from tests.conftest import TINY, own_csv
from tests.forked import started
from tests.stored import Store
from tests.test_run import client_of
from tests.test_sweep import SMALL, parents_and_children, sweep


@pytest.mark.slow
def test_a_killed_run_and_an_interrupted_sweep_go_on(command, tmp_path):
    longer = [*SMALL, "train.seed=0,1", "train.epochs=6", f"tracking.folder={tmp_path}"]
    with started("src.train", "-m", *longer) as process:

        def checkpoints_of_runs(number):
            while len(list(tmp_path.glob("checkpoints/*/step-*"))) < number:
                assert process.poll() is None, process.communicate()
                time.sleep(0.02)

        checkpoints_of_runs(1)
        _, [child] = parents_and_children(tmp_path)
        os.kill(int(child.data.tags["process_id"]), signal.SIGKILL)  # as the kernel does when memory runs out
        checkpoints_of_runs(2)
        process.send_signal(signal.SIGINT)
        shown, errors = process.communicate()
    assert process.returncode == 130, shown + errors
    assert errors.splitlines()[-2:] == [
        "Interrupted; continue with:",
        f"  python -m src.train -m {' '.join(longer)}",
    ]
    [parent], [first, second] = parents_and_children(tmp_path)
    assert [run.info.status for run in (parent, first, second)] == ["KILLED", "FAILED", "KILLED"]
    assert first.data.tags["error"].startswith("The process was killed by SIGKILL; most often because memory ran out")
    assert f"failed: {first.data.tags['error']} See {tmp_path}/output/" in shown
    assert "1 runs are not finished; the same command makes them." in shown

    again = command("src.train", "-m", *longer)
    assert again.returncode == 0, again.stderr
    [parent], children = parents_and_children(tmp_path)
    assert [run.info.status for run in (parent, *children)] == ["FINISHED"] * 3
    for child in children:
        assert child.data.tags["resumed"] == "1"
        assert "error" not in child.data.tags
        points = client_of(tmp_path).get_metric_history(child.info.run_id, "eval/f1")
        assert sorted(point.step for point in points) == list(range(7))


def test_a_second_interruption_while_all_is_put_in_order_ends_without_a_traceback(monkeypatch, capsys):
    def interrupted(*given, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["src.train", "model=tiny"])
    monkeypatch.setattr(launch, "_hydra", interrupted)
    monkeypatch.setattr(launch.sweep, "end", interrupted)
    monkeypatch.setattr(launch.signal, "signal", lambda *given: None)
    with pytest.raises(SystemExit) as end:
        launch.command_line("")
    assert end.value.code == 130
    assert capsys.readouterr().err.endswith("Interrupted; continue with:\n  python -m src.train model=tiny\n")


@pytest.mark.slow
def test_a_failing_run_takes_nothing_else_along(command, tmp_path):
    failing = [*SMALL, "train.learning_rate=1e-3,1e38,1e-2", "train.warmup_ratio=0"]
    shown = sweep(command, tmp_path, *failing, "sweep.fail_fast=true")
    assert shown.returncode == 1
    assert "[3/3] lora lr=0.01 epochs=1 seed=0  not begun: sweep.fail_fast=true" in shown.stdout
    assert "1 runs are not finished" in shown.stdout
    # Without fail_fast the others go on; what failed is tried again, in place of the first attempt.
    shown = sweep(command, tmp_path, *failing)
    assert shown.returncode == 1
    assert shown.stdout.count("done already  EM") == 1
    [parent], children = parents_and_children(tmp_path)
    assert [run.info.status for run in (parent, *children)] == ["FAILED", "FINISHED", "FAILED", "FINISHED"]
    [warning] = [line for line in shown.stdout.splitlines() if line.startswith("WARNING") and " failed: " in line]
    assert "WARNING lora: 1 run failed; its best setting may be among them." in shown.stdout
    assert "The loss is nan at step" in warning
    assert "The loss is nan at step" in Path(warning.rpartition("See ")[2]).read_text()


def test_a_mistake_in_one_run_is_found_before_the_first_begins(command, tmp_path):
    folder = tmp_path / "mlruns"
    shown = sweep(command, folder, *SMALL, "train.batch_size=8,0")
    assert shown.returncode == 1
    assert "train.batch_size=0 must be at least 1" in shown.stderr
    assert "Traceback" not in shown.stderr
    assert not folder.exists()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            ["-m", "method=full,lora", "data=own.csv,misspelt.csv"],
            "misspelt.csv has no column context; it has question, ",
        ),
        (["data=misspelt.csv"], "misspelt.csv has no column context; it has question, contxt, answer. Probably a mis"),
        (["data=own.csv", "++dataset.extra_validation.more=own.xlsx"], "own.xlsx is a spreadsheet; in Excel choose"),
    ],
)
def test_a_file_of_no_use_is_refused_before_a_run_begins(command, given, sentence, tmp_path):
    """So that no sweep without a run becomes the newest one, which `best` is looked for in."""
    own_csv(tmp_path / "own.csv", 20)
    (tmp_path / "misspelt.csv").write_text("question,contxt,answer\nWho?,It was Ada.,Ada\n")
    (tmp_path / "own.xlsx").write_bytes(b"PK")
    folder = tmp_path / "mlruns"
    shown = command("src.train", *SMALL[:1], *given, f"dataset.root={tmp_path}", f"folder={folder}")
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr.startswith(f"Error: {tmp_path}/{sentence}")
    assert "Traceback" not in shown.stderr
    assert list(folder.glob("**/*")) == []


def test_files_are_read_once_and_without_torch(tmp_path):
    """A sweep over sizes and methods of one file reads it once."""
    own_csv(tmp_path / "own.csv", 20)
    program = (
        "import sys; from src.config import Config, DatasetConfig; from src import sweep\n"
        "read = []; real = sweep.read_file; sweep.read_file = lambda path: read.append(path) or real(path)\n"
        "sizes = [DatasetConfig('a', 'file', sys.argv[1], train_size=size) for size in (1, 2, 3)]\n"
        "sweep.read_data([Config(dataset=dataset) for dataset in sizes])\n"
        "print(len(read), 'torch' in sys.modules)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "own.csv"], cwd=ROOT, capture_output=True, text=True
    )
    assert shown.stdout == "1 False\n", shown.stderr


def test_a_live_run_is_not_run_twice(configure, server, tmp_path):
    settings = [*SMALL, "train.epochs=500", f"tracking.folder={tmp_path}"]
    with started("src.train", *settings) as process:

        def until_it_shows(beginning):
            while f"\n{beginning}" not in process.shown()[0]:
                assert process.poll() is None, process.communicate()
                time.sleep(0.05)

        until_it_shows("run ")
        _, [running] = parents_and_children(tmp_path)
        second = call(train, configure(*settings), tmp_path / "log")
        until_it_shows("epoch 1")
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert errors.strip().startswith("Interrupted; continue with:\n  python -m src.train model=tiny ")
    tags = running.data.tags
    assert second.error == "AlreadyRunning"
    assert f"is running already (process {tags['process_id']} on {tags['host']}, " in str(second.reason)
    [found] = parents_and_children(tmp_path)[1]
    assert (found.info.run_id, found.info.status) == (running.info.run_id, "KILLED")
    assert "train/loss" in found.data.metrics, "what was measured before is lost"
    assert "quality/f1" not in found.data.metrics


def test_a_run_that_another_sweep_has_done_meanwhile_is_part_of_this_one_too(configure, tmp_path):
    store = Store(tmp_path)
    config = configure(*TINY, f"tracking.folder={tmp_path}")
    done = store.run("lora", 1e-3, 0.5, tags={"config_hash": config_hash(config)})
    parent = ParentRun.begin(store.tracking, None, "sweep", "identity", "command", planned=1, fresh=False)
    config.sweep.parent = parent.run_id
    assert run_isolated(config, 0, "basic") == pytest.approx(store.client.get_run(done).data.metrics["quality/f1"])
    assert [member.id for member in parent.members()] == [done]


def study_of(folder: Path, name: str):
    """A study of a search, as Optuna itself reads it."""
    optuna = pytest.importorskip("optuna")
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "optuna.journal"))
    return optuna.load_study(study_name=name, storage=optuna.storages.JournalStorage(backend))


def test_each_method_is_pruned_by_its_own_runs_alone(tmp_path):
    pytest.importorskip("optuna")
    from src.runs import search

    def trial(settings, study, f1):
        """How a trial ends whose F1 is that after each of two epochs."""
        asked = study.ask()
        tell = search.reporter(
            SweepConfig(trial=asked.number, study=settings.study, storage=settings.storage, prune_after=2)
        )
        try:
            for epoch in (1, 2):
                tell(epoch, f1)
        except Stopped:
            search.tell(study, asked, None)
            return "pruned"
        search.tell(study, asked, f1)
        return "complete"

    full, lora = (
        search.Settings(f"parent method={name}", search.journal(str(tmp_path)), 2) for name in ("full", "lora")
    )
    of_full, of_lora = (search.begin(settings, 2, 0) for settings in (full, lora))
    assert [trial(full, of_full, f1) for f1 in (80.0, 70.0, 75.5, 60.0)] == [
        "complete",
        "complete",
        "complete",
        "pruned",
    ]
    assert [trial(lora, of_lora, f1) for f1 in (30.0, 20.0, 26.0, 10.0)] == [
        "complete",
        "complete",
        "complete",
        "pruned",
    ]


@pytest.mark.slow
def test_a_search_that_was_interrupted_ends_with_equally_many_trials(command, tmp_path):
    pytest.importorskip("optuna")
    search = [
        *SMALL,
        "train.epochs=6",
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=2",
        "train.learning_rate=tag(log,interval(1e-4,3e-2))",
        "method.peft.r=2,4",
        "method=full,lora",
        f"tracking.folder={tmp_path}",
    ]
    with started("src.train", "-m", *search) as process:
        while "\n[3/4] full" not in process.shown()[0] or not list(tmp_path.glob("checkpoints/*/step-*")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        shown, errors = process.communicate()
    assert process.returncode == 130, shown + errors
    again = command("src.train", "-m", *search)
    assert again.returncode == 0, again.stderr
    [parent], children = parents_and_children(tmp_path)
    assert parent.data.tags["planned"] == "4"
    assert sorted(run.data.tags["method"] for run in children) == ["full", "full", "lora", "lora"]
    studies = {name: study_of(tmp_path, f"{parent.info.run_id} method={name}") for name in ("full", "lora")}
    done = {
        name: [set(trial.params) for trial in study.trials if trial.state.is_finished() and trial.state.name != "FAIL"]
        for name, study in studies.items()
    }
    assert done == {"full": [{"train.learning_rate"}] * 2, "lora": [{"train.learning_rate", "method.peft.r"}] * 2}


@pytest.mark.slow
def test_a_search_prunes_what_is_behind(command, tmp_path):
    pytest.importorskip("optuna")
    search = [
        *SMALL,
        "train.epochs=2",
        "hydra/sweeper=optuna",
        "hydra.sweeper.startup_trials=2",
        "train.learning_rate=tag(log,interval(1e-4,3e-2))",
        "method=full,lora",
    ]
    shown = sweep(command, tmp_path, *search, "hydra.sweeper.n_trials=3")
    assert shown.returncode == 0, shown.stderr + shown.stdout
    [parent], children = parents_and_children(tmp_path)
    assert len(children) == 6
    methods = ("full", "lora")
    assert [run.data.tags["method"] for run in children] == [*methods] * 3, "they take turns"
    studies = {name: study_of(tmp_path, f"{parent.info.run_id} method={name}") for name in methods}
    trials = [(name, trial) for turn in range(3) for name in methods for trial in [studies[name].trials[turn]]]
    by_state = {
        state: [(name, t.params["train.learning_rate"]) for name, t in trials if t.state.name == state]
        for state in ("COMPLETE", "PRUNED")
    }
    runs = {
        status: [
            (run.data.tags["method"], float(run.data.params["train.learning_rate"]))
            for run in children
            if run.info.status == status
        ]
        for status in ("FINISHED", "KILLED")
    }
    assert by_state["COMPLETE"] == runs["FINISHED"]
    assert by_state["PRUNED"] == runs["KILLED"]
    assert len(runs["FINISHED"]) >= 4, "no method's first two trials are pruned"
    for name, study in studies.items():
        assert study.best_value == max(
            run.data.metrics["quality/f1"]
            for run in children
            if run.data.tags["method"] == name and "quality/f1" in run.data.metrics
        )
        assert study.trials[0].intermediate_values[2] == study.trials[0].value
    assert all("Pruned after epoch 1" in r.data.tags["stopped"] for r in children if r.info.status == "KILLED")
