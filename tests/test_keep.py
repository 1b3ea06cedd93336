"""Which models a store keeps, and what is said of those that it does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from src import predict
from src.config import TrackingConfig, UserError
from src.problems import problems
from src.run import run
from src.runs import isolation
from src.runs.keep import drop_worse_models
from src.runs.parent import ParentRun
from src.runs.store import connect
from src.sweep import run_isolated
from tests.conftest import TINY
from tests.test_run import client_of, runs_of

QUICK = [*TINY, "train.epochs=1", "method=head"]


def models(folder: Path) -> dict[str, bool]:
    """Whether each run of a store holds a model."""
    client = client_of(folder)
    return {
        found.info.run_id: any(item.path == "model" for item in client.list_artifacts(found.info.run_id))
        for found in runs_of(folder)
        if found.data.tags.get("kind") != "sweep"
    }


@pytest.mark.slow
def test_no_model_is_kept_and_its_size_is_measured(configure, tmp_path):
    kept = run(configure(*QUICK, f"tracking.folder={tmp_path}"))
    config = configure(*QUICK, f"tracking.folder={tmp_path}", "tracking.keep_model=none", "rerun=true")
    result = run(config)
    assert models(tmp_path) == {kept.run_id: True, result.run_id: False}
    assert result.metrics["storage/checkpoint_mb"] == kept.metrics["storage/checkpoint_mb"] > 0
    assert client_of(tmp_path).get_run(result.run_id).data.tags["model_kept"] == "false"
    with pytest.raises(UserError, match=r"model was not kept \(tracking.keep_model=none\); choose another run"):
        predict.load_run(result.run_id, config.tracking)


@pytest.mark.slow
def test_a_sweep_keeps_the_best_model_of_each_method(configure, monkeypatch, tmp_path):
    # The runs are real; a process for each of them would take its time and change nothing here.
    monkeypatch.setattr(isolation, "start_server", lambda modules: None)
    monkeypatch.setattr(isolation, "call", lambda function, config, *more: isolation.Outcome(value=function(config)))
    settings = [*TINY, "train.epochs=1", f"tracking.folder={tmp_path}", "tracking.keep_model=best"]
    configs = [
        configure(*settings, f"method={method}", f"train.learning_rate={rate}")
        for method, rate in (("full", 1e-7), ("full", 1e-2), ("head", 1e-2))
    ]
    parent = ParentRun.begin(configs[0].tracking, None, "sweep", "identity", "command", planned=3, fresh=False)
    parent.started(0)
    for number, config in enumerate(configs):
        config.sweep.parent = parent.run_id
        assert run_isolated(config, number, "basic") is not None
    members = parent.members()
    f1 = {member.id: member.metrics["quality/f1"] for member in members}
    full = [member.id for member in members if member.tags["method"] == "full"]
    best = max(full, key=lambda run_id: (f1[run_id], -full.index(run_id)))
    assert len(set(f1.values())) > 1
    assert models(tmp_path) == {run_id: run_id not in full or run_id == best for run_id in f1}
    worse = next(run_id for run_id in full if run_id != best)
    with pytest.raises(UserError, match=r"model was not kept \(tracking.keep_model=best\)"):
        predict.load_run(worse, configs[0].tracking)


@pytest.fixture
def members(tmp_path):
    """Three runs of a sweep, each with a model: one of 50 F1, one of 60, and one of 40."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    store = connect(TrackingConfig(folder=str(tmp_path)))
    client, experiment = store.client, store.experiment
    for f1 in (50.0, 60.0, 40.0):
        run_id = client.create_run(experiment, tags={"method": "full", "sweep": "s"}).info.run_id
        client.log_param(run_id, "tracking.keep_model", "best")
        client.log_metric(run_id, "quality/f1", f1)
        client.log_artifacts(run_id, str(tmp_path / "model"), "model")
        client.set_terminated(run_id)
    return store, lambda: store.runs()[::-1]


def test_models_that_others_need_stay(members, tmp_path):
    store, found = members
    one, _, three = (member.id for member in found())
    store.tag(one, {"sweep": "s another"})  # part of another sweep as well
    store.tag(three, {"dataset": "other"})  # the best of its data set
    assert drop_worse_models(store, "s", found()) is None
    assert set(models(tmp_path).values()) == {True}
    store.tag(one, {"sweep": "s"})
    assert drop_worse_models(store, "s", found()) is None
    assert [run_id for run_id, there in models(tmp_path).items() if not there] == [one]


def test_a_store_that_deletes_nothing_says_so(members, monkeypatch, tmp_path):
    def refuse(self, artifact_path=None):
        raise NotImplementedError("no deletion here")

    monkeypatch.setattr(LocalArtifactRepository, "delete_artifacts", refuse)
    store, found = members
    sentence = drop_worse_models(store, "s", found())
    assert sentence is not None and "does not delete artifacts, all models stay (no deletion here)" in sentence
    assert set(models(tmp_path).values()) == {True}
    assert not any("model_kept" in member.tags for member in found())


def test_there_are_three_ways_to_keep(configure):
    assert configure().tracking.keep_model == "all"
    assert "keep_model=bset is none of all, best, none (did you mean 'best'?)" in "".join(
        problems(configure("tracking.keep_model=bset"))
    )
