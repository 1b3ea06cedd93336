"""A run that was interrupted goes on where it stopped, and ends as if nothing had happened."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from safetensors.numpy import load_file

from src.config import Config, TrackingConfig, TrainConfig, UserError
from src.history import History
from src.report.comparison import compare_runs
from src.report.plots import plots
from src.run import run
from src.runs import identity
from src.runs.identity import alive, config_hash, previous_hash, process_tags
from src.runs.parent import ParentRun
from src.runs.records import Status
from src.runs.results import select
from src.runs.store import connect
from src.runs.tracking import AlreadyRunning, RunLog, Stopped
from src.training.checkpoint import clear
from tests.conftest import TINY
from tests.test_run import BY_STEP, artifact, client_of, runs_of

# 10 steps an epoch; dropout is on, so that the random states matter.
SETTINGS = [*TINY, "train.epochs=3", "train.learning_rate=1e-2"]


def outcome(folder: Path, tmp_path: Path):
    """Curves, predictions and weights of the only run of a store."""
    [found] = runs_of(folder)
    assert found.info.status == "FINISHED"
    client = client_of(folder)
    curves = {}
    for key in BY_STEP:
        points = client.get_metric_history(found.info.run_id, key)
        curves[key] = sorted((point.step, point.value) for point in points)
    target = tmp_path / found.info.run_id
    target.mkdir()
    n_best = json.loads(artifact(client, found.info.run_id, "nbest.json", target).read_text())
    answered = connect(TrackingConfig(folder=str(folder))).record(found.info.run_id).questions(["predicted"], "test")
    n_best["test"] = answered.reset_index().to_dict("records")
    [weights] = artifact(client, found.info.run_id, "model", target).glob("*.safetensors")
    return found, curves, n_best, {name: value.tobytes() for name, value in load_file(weights).items()}


def interrupted_at(step: int, config, monkeypatch):
    """Run until `step` was logged, and end there as a killed process would: nothing is put in order."""

    class Killed(BaseException):
        pass

    original = History.on_steps

    def on_steps(self, stretch):
        original(self, stretch)
        if stretch[-1].number >= step:
            raise Killed  # what was logged since the last flush is lost with the process

    with monkeypatch.context() as patch:
        patch.setattr(History, "on_steps", on_steps)
        patch.setattr("src.runs.tracking.RunLog.__exit__", lambda self, *error: self.ended.set())
        with pytest.raises(Killed):
            run(config)
    # The process of this test is alive; that of a killed run is not.
    [found] = runs_of(Path(config.tracking.folder))
    assert found.info.status == "RUNNING"
    client_of(Path(config.tracking.folder)).set_tag(found.info.run_id, "process_start", "0.0")


@pytest.mark.parametrize(
    ("method", "step", "minutes", "more"),
    [
        ("full", 27, 1e-9, []),
        pytest.param("lora", 25, 10.0, ["train.keep=best"], marks=pytest.mark.slow),
        pytest.param("pissa", 5, 1e-9, ["hardware.precision=fp32"], marks=pytest.mark.slow),
        pytest.param(
            "lora",
            11,
            1e-9,
            [
                "model=tiny_llm",
                "model.max_length=900",
                "train.keep=best",
                "dataset.train_size=32",
                "evaluation.max_answer_length=4",
            ],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "head",
            6,
            10.0,
            ["train.gradient_accumulation_steps=3", "train.early_stopping_patience=1"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_resumed_run_ends_as_an_uninterrupted_one(configure, tmp_path, monkeypatch, method, step, minutes, more):
    settings = [*SETTINGS, f"method={method}", f"train.checkpoint_minutes={minutes}", *more]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = run(configure(*settings, f"tracking.folder={whole}"))
    config = configure(*settings, f"tracking.folder={broken}")
    interrupted_at(step, config, monkeypatch)
    resumed = run(configure(*settings, f"tracking.folder={broken}"))

    found, *results = outcome(broken, tmp_path)
    assert found.data.tags["resumed"] == "1"
    # One point a step and an epoch, the same weights and predictions to the bit.
    assert results == list(outcome(whole, tmp_path)[1:])
    assert [step for step, _ in results[0]["train/loss"]] == list(range(1, len(results[0]["train/loss"]) + 1))
    timed = ("time/", "speed/", "memory/")
    same = {key: value for key, value in expected.metrics.items() if not key.startswith(timed)}
    assert {key: resumed.metrics[key] for key in same} == same
    assert list((broken / "checkpoints").glob("*")) == []


def test_wall_time_of_the_attempts_adds_up(configure, tmp_path, monkeypatch):
    config = configure(*SETTINGS, f"tracking.folder={tmp_path}")
    interrupted_at(23, config, monkeypatch)
    [checkpoint] = (tmp_path / "checkpoints").glob("*/step-*")
    assert checkpoint.name == "step-00000020"
    stored = torch.load(checkpoint / "state.pt", weights_only=True)["meter"]
    resumed = run(configure(*SETTINGS, f"tracking.folder={tmp_path}"))
    assert resumed.metrics["time/train_seconds"] > stored["train"]["seconds"] > 0
    assert resumed.metrics["time/total_seconds"] > stored["total_seconds"] > stored["train"]["seconds"]


@pytest.mark.slow
def test_the_figure_of_the_loss_over_seconds_leaves_the_interruption_out(configure, tmp_path, monkeypatch):
    config = configure(*SETTINGS, f"tracking.folder={tmp_path}")
    interrupted_at(20, config, monkeypatch)
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() + 3600)  # it goes on an hour later
    resumed = run(config)
    selection = select(config.tracking)
    [plot] = [plot for plot in plots(compare_runs("", selection.results)) if plot.name == "loss_by_second"]
    assert plot.title == "Training loss over training time"
    [line] = plot.figure.data
    assert len(line.x) == 30 and list(line.x) == sorted(line.x)
    assert line.x[-1] == pytest.approx(resumed.metrics["time/train_seconds"], abs=0.01)
    wall = selection.results[0].history("train/loss")["seconds"]
    assert wall.iloc[-1] > 3600 > 100 > line.x[-1]


def test_a_run_killed_before_its_first_checkpoint_is_begun_anew_in_its_place(configure, tmp_path, monkeypatch):
    config = configure(*SETTINGS, f"tracking.folder={tmp_path}")
    interrupted_at(3, config, monkeypatch)
    [stub] = runs_of(tmp_path)
    unfinished = tmp_path / "checkpoints" / stub.info.run_id / "unfinished"
    unfinished.mkdir(parents=True)
    (unfinished / "state.pt").touch()  # it was writing its first
    other = tmp_path / "checkpoints" / "of another run" / "unfinished"
    other.mkdir(parents=True)  # whose process is at it
    run(config)
    assert list((tmp_path / "checkpoints").glob("*/*")) == [other]
    assert not unfinished.parent.exists()
    [found] = runs_of(tmp_path)
    assert (found.info.status, "resumed" in found.data.tags) == ("FINISHED", False)
    assert client_of(tmp_path).get_run(stub.info.run_id).data.tags["superseded_by"] == found.info.run_id


def test_a_run_killed_after_its_last_artifact_is_only_marked(configure, tmp_path, monkeypatch):
    settings = [*SETTINGS, "train.epochs=1", f"tracking.folder={tmp_path}"]
    first = run(configure(*settings))
    client = client_of(tmp_path)
    client.update_run(first.run_id, status="RUNNING")
    client.set_tag(first.run_id, "process_start", "0.0")
    (tmp_path / "checkpoints" / first.run_id / "step-00000010").mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr("src.run.fit", lambda *arguments, **more: 1 / 0)
        again = run(configure(*settings))
    assert again == first
    assert list((tmp_path / "checkpoints").glob("*")) == []
    [found] = runs_of(tmp_path)
    assert found.info.status == "FINISHED"
    assert len(client.get_metric_history(first.run_id, "quality/f1")) == 1


class Trap:
    """Makes a file where it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@pytest.mark.slow
def test_a_damaged_or_tampered_checkpoint_is_one_sentence(configure, tmp_path, monkeypatch):
    config = configure(*SETTINGS, f"tracking.folder={tmp_path}")
    interrupted_at(13, config, monkeypatch)
    [folder] = tmp_path.glob("checkpoints/*/step-*")
    assert {file.name for file in folder.iterdir()} == {"trained.safetensors", "state.pt", "process-0.pt"}
    damages = [("trained.safetensors", "shortened"), ("state.pt", "tampered"), ("process-0.pt", "tampered")]
    for name, damage in [*damages, ("state.pt", "missing")]:
        file = folder / name
        whole = file.read_bytes()
        if damage == "shortened":
            file.write_bytes(whole[: len(whole) // 2])
        elif damage == "missing":
            file.unlink()
        else:
            torch.save({"torch": Trap(tmp_path / "run"), "optimizer": Trap(tmp_path / "run")}, file)
        with pytest.raises(UserError, match=r"step-00000010 cannot be read .* delete the folder"):
            run(config)
        assert not (tmp_path / "run").exists(), "what a checkpoint holds was run"
        file.write_bytes(whole)
    assert run(config) is not None


def test_what_could_not_be_sent_is_in_the_checkpoint_and_arrives_later(configure, tmp_path, monkeypatch):
    monkeypatch.setattr("src.runs.tracking.FLUSH_SECONDS", 1e9)  # nothing is sent before the end
    config = configure(*SETTINGS, f"tracking.folder={tmp_path}")
    interrupted_at(23, config, monkeypatch)
    [killed] = runs_of(tmp_path)
    client = client_of(tmp_path)
    assert client.get_metric_history(killed.info.run_id, "train/loss") == []
    run(config)
    for key, steps in (("train/loss", range(1, 31)), ("eval/f1", range(4))):
        assert [point.step for point in client.get_metric_history(killed.info.run_id, key)] == list(steps)


@pytest.mark.slow
def test_final_metrics_of_a_retry_replace_those_of_an_attempt_that_could_not_store_them(
    configure, tmp_path, monkeypatch
):
    config = configure(*SETTINGS, "train.epochs=1", f"tracking.folder={tmp_path}")
    original = RunLog.json

    def full_disk(self, name, content):
        if name == "result.json":
            raise OSError(28, "No space left on device")
        original(self, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "json", full_disk)
        with pytest.raises(OSError, match="No space left"):
            run(config)
    [failed] = runs_of(tmp_path)
    assert (failed.info.status, "time/eval_seconds" in failed.data.metrics) == ("FAILED", True)
    run(config)
    [found] = runs_of(tmp_path)
    result = json.loads(artifact(client_of(tmp_path), found.info.run_id, "result.json", tmp_path).read_text())
    assert found.data.metrics["time/eval_seconds"] > failed.data.metrics["time/eval_seconds"]
    assert {key: found.data.metrics[key] for key in result["metrics"]} == result["metrics"]


@pytest.mark.slow
def test_a_pruned_run_that_goes_on_is_pruned_no_more(configure, tmp_path):
    config = configure(*SETTINGS, f"tracking.folder={tmp_path}")

    def prune(epoch, f1):
        if epoch == 2:
            raise Stopped("Pruned after epoch 2.")

    with pytest.raises(Stopped):
        run(config, prune)
    [pruned] = runs_of(tmp_path)
    assert (pruned.info.status, pruned.data.tags["stopped"]) == ("KILLED", "Pruned after epoch 2.")
    run(config)
    [found] = runs_of(tmp_path)
    assert (found.info.status, found.data.tags["resumed"]) == ("FINISHED", "1")
    assert "stopped" not in found.data.tags


def test_checkpoints_are_kept_where_that_is_asked(configure, tmp_path):
    run(configure(*SETTINGS, "train.keep_checkpoints=true", f"tracking.folder={tmp_path}"))
    found = sorted(path.name for path in (tmp_path / "checkpoints").glob("*/*"))
    assert found == ["step-00000010", "step-00000020", "step-00000030"]


def test_what_was_left_of_a_checkpoint_goes_where_the_others_are_kept(tmp_path):
    for name in ("step-00000010", "unfinished"):
        (tmp_path / "run" / name).mkdir(parents=True)
    clear(tmp_path / "run", keep=True)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["step-00000010"]
    clear(tmp_path / "run", keep=False)
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_that_becomes_whole_meanwhile_stays(configure, tmp_path):
    """Of a process that was taken for dead, and is not."""
    log = RunLog(configure(*SETTINGS, f"tracking.folder={tmp_path}"))
    for name in ("step-00000010", "unfinished"):
        (tmp_path / "checkpoints" / "1" / name).mkdir(parents=True)
    log._clear("1")
    assert [path.name for path in (tmp_path / "checkpoints").glob("*/*")] == ["step-00000010"]


# Identity


def test_what_cannot_change_a_result_is_no_part_of_the_hash(configure, tmp_path):
    base = config_hash(configure("model=tiny"))
    for same in (
        ["tracking.folder=elsewhere"],
        ["hardware.threads=1"],
        ["rerun=true"],
        ["sweep.fail_fast=true"],
        ["train.checkpoint_minutes=1", "train.keep_checkpoints=true"],
    ):
        assert config_hash(configure("model=tiny", *same)) == base, same
    for other in (
        ["train.seed=1"],
        ["method.peft.r=4"],
        ["dataset.seed=3"],
        ["hardware.precision=fp32"],
        ["model.max_length=96"],
    ):
        assert config_hash(configure("model=tiny", *other)) != base, other


def test_hashes_last(configure):
    """Stored runs are known by them: these change only where the same configuration gives another result."""
    golden = {
        ("method=lora",): ("8b5ebf8001a3", "0db8610ab354"),
        ("method=full", "train.seed=3"): ("202d84e863c8", "3a2ebfda85df"),
        ("model=tiny", "method=lora", "dataset.train_size=64"): ("572065f5cb3f", "83d84dd789c1"),
    }
    # Whatever the files of conf/ say.
    sizes = ["dataset.train_size=1000", "dataset.validation_size=250", "dataset.test_size=null"]
    for overrides, expected in golden.items():
        config = configure(*sizes, *overrides)
        assert (config_hash(config), previous_hash(config)) == expected
        config = configure(*sizes, *overrides, "dataset.test_size=250")
        assert config_hash(config) != expected[0] and previous_hash(config) is None


def test_the_published_baselines_keep_their_hashes(configure):
    """They were measured without a test set, and their stored runs are known by these."""
    golden = {
        "cpu_1500": "9303d29a169f",
        "full_vs_lora": "221027b283bd",
        "plain_recipe": "7b05d92abda1",
        "spoken": "6a6abb278030",
        "subset_1000": "7fc0eb96b2e4",
    }
    assert {name: config_hash(configure(f"experiments={name}", "dataset.root=nowhere")) for name in golden} == golden


def test_a_test_file_counts_by_its_content_and_a_split_by_its_name(configure, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in (("a.json", "one"), ("b.json", "two"), ("c.json", "two")):
        (tmp_path / name).write_text(text)
    of_file = [config_hash(configure("dataset=file", "data=a.json", f"dataset.test_path={n}.json")) for n in "abc"]
    assert of_file[0] != of_file[1] == of_file[2]
    before = config_hash(configure("dataset=squad"))
    (tmp_path / "validation").mkdir()
    (tmp_path / "validation" / "x.txt").write_text("a folder that happens to have the name")
    assert config_hash(configure("dataset=squad")) == before


def test_a_new_key_with_its_default_changes_no_hash(configure, monkeypatch):
    @dataclass
    class Later(TrainConfig):
        new_key: int = 5

    config = configure("model=tiny")
    before = config_hash(config), previous_hash(config)
    later = replace(config, train=Later(**vars(config.train)))
    monkeypatch.setattr(identity, "Config", lambda: replace(Config(), train=Later(learning_rate=0.0)))
    monkeypatch.setattr(identity, "ADDED_SINCE_0_1", (*identity.ADDED_SINCE_0_1, "train.new_key"))
    assert (config_hash(later), previous_hash(later)) == before
    later.train.new_key = 6
    assert config_hash(later) != before[0]
    assert previous_hash(later) is None, "version 0.1 cannot have made it"


def test_a_run_of_version_0_1_is_taken_for_what_it_is(configure, tmp_path):
    config = configure(*TINY, "dataset.test_size=null", f"tracking.folder={tmp_path}")
    done = run(config)
    client_of(tmp_path).set_tag(done.run_id, "config_hash", previous_hash(config))
    assert run(config).run_id == done.run_id
    [found] = runs_of(tmp_path)
    assert found.data.tags["config_hash"] == config_hash(config)


def test_a_folder_of_data_counts_with_all_that_is_in_it(configure, tmp_path):
    for name, content in (("one", b"a"), ("two", b"b")):
        (tmp_path / name / "data").mkdir(parents=True)
        (tmp_path / name / "data" / "train.parquet").write_bytes(content)
        (tmp_path / name / "README.md").write_text("questions")
    configs = [configure("dataset=squad", f"dataset.path={tmp_path / name}") for name in ("one", "two")]
    assert config_hash(configs[0]) != config_hash(configs[1])
    assert previous_hash(configs[0]) is None, "it was the same for both"


def test_a_file_counts_by_its_content(configure, tmp_path):
    def hash_of(name: str, content: str) -> str:
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "q.json").write_text(content)
        return config_hash(configure("dataset=file", f"dataset.path={tmp_path}/{name}/q.json"))

    assert hash_of("a", "one") == hash_of("b", "one")
    assert hash_of("a", "one") != hash_of("a", "two")
    there = config_hash(configure("dataset=file", "dataset.path=q.json", f"dataset.root={tmp_path}/a"))
    assert there == hash_of("a", "two")


def test_a_process_is_known_by_its_start_too():
    me = process_tags()
    assert alive(me)
    assert not alive(me | {"process_start": "1000.00"}), "the process id was given away again"
    assert not alive(me | {"process_id": "4194303"})
    assert not alive({"host_id": me["host_id"]})
    elsewhere = me | {"host_id": "another-machine"}
    assert alive(elsewhere)
    assert not alive(elsewhere | {"heartbeat": str(float(me["heartbeat"]) - 301)})


def test_of_two_machines_that_begin_one_run_the_first_goes_on(configure, tmp_path, monkeypatch):
    config = configure(*TINY, f"tracking.folder={tmp_path}")
    original = RunLog._create

    def create_twice(self):
        original(self)
        other = RunLog(config)
        original(other)  # on another machine, whose lock is its own
        client_of(tmp_path).set_tag(other.run_id, "host_id", "another-machine")
        client_of(tmp_path).set_tag(other.run_id, "claimed", "true")

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "_create", create_twice)
        with pytest.raises(AlreadyRunning, match="begun at the same moment by process"):
            run(config)
    [other] = runs_of(tmp_path)
    assert (other.info.status, other.data.tags["host_id"]) == ("RUNNING", "another-machine")

    # Neither has looked yet: the older one goes on.
    client_of(tmp_path).delete_run(other.info.run_id)
    monkeypatch.setattr(RunLog, "_create", lambda self: [original(self), time.sleep(0.01)])
    older, younger = RunLog(config), RunLog(config)
    for log in (older, younger):
        log._create()
    older._check_again()
    with pytest.raises(AlreadyRunning):
        younger._check_again()
    assert [found.info.run_id for found in runs_of(tmp_path)] == [older.run_id]


def test_a_server_that_is_asked_twice_for_one_run_leaves_one(configure, tmp_path, monkeypatch):
    """The first answer came too late, so the client repeated its request; the first run is the older one."""
    original = MlflowClient.create_run

    def create_twice(client, *arguments, **more):
        original(client, *arguments, **more)
        return original(client, *arguments, **more)

    monkeypatch.setattr(MlflowClient, "create_run", create_twice)
    done = run(configure(*TINY, "train.epochs=1", f"tracking.folder={tmp_path}"))
    [left] = runs_of(tmp_path)
    assert (left.info.run_id, left.info.status) == (done.run_id, "FINISHED")


def test_runs_of_other_tools_are_left_alone(tmp_path):
    store = connect(TrackingConfig(folder=str(tmp_path)))
    client, experiment = store.client, store.experiment
    foreign = client.create_run(experiment)
    dead = client.create_run(experiment, tags=process_tags() | {"process_start": "0.0"})
    store.mark_dead_runs()
    status = [client.get_run(run.info.run_id).info.status for run in (foreign, dead)]
    assert status == ["RUNNING", "KILLED"]


def test_a_sweeps_parent_shows_that_it_is_alive(tmp_path, monkeypatch):
    """Or another machine would take it for dead after five minutes."""
    monkeypatch.setattr("src.runs.store.HEARTBEAT_SECONDS", 0.05)
    parent = ParentRun.begin(TrackingConfig(folder=str(tmp_path)), "sweep", "", "0", "command", 1, fresh=False)
    parent.store.tag(parent.run_id, {"heartbeat": "0"})
    deadline = time.monotonic() + 30
    while parent.tags["heartbeat"] == "0":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    parent.end(Status.FINISHED, [])
