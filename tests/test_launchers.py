"""Hydra's launchers: runs that start elsewhere give the results of runs that start here, under one parent."""

from __future__ import annotations

import pytest

from src.runs.isolation import call
from src.sweep import train
from tests.test_sweep import SMALL, parents_and_children, results, sweep


@pytest.fixture(scope="module")
def alone(configure, server, tmp_path_factory):
    """The results of both runs, each started by itself."""
    folder = tmp_path_factory.mktemp("alone")
    for method in ("full", "lora"):
        config = configure(*SMALL, f"method={method}", f"tracking.folder={folder}")
        assert call(train, config, folder / "log").reason is None
    return results(folder)


@pytest.mark.parametrize(
    ("launcher", "more"),
    [
        ("joblib", ["method=full,lora"]),
        ("ray", ["method=lora", "+hydra.launcher.ray.init={num_cpus:1,include_dashboard:false}"]),
        # Every job pays for all imports again.
        ("submitit_local", ["method=lora"]),
    ],
)
@pytest.mark.slow
def test_every_launcher_gives_the_same_results(fresh_command, alone, tmp_path, launcher, more):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    shown = sweep(fresh_command, tmp_path, *SMALL, f"hydra/launcher={launcher}", *more)
    assert shown.returncode == 0, shown.stderr + shown.stdout
    [parent], children = parents_and_children(tmp_path)
    assert parent.info.status == "FINISHED"
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    assert {child.data.tags["launcher"] for child in children} == {launcher}
    found = results(tmp_path)
    assert len(found) == (1 if "method=lora" in more else 2)
    assert found == {hash: alone[hash] for hash in found}
