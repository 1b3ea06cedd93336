"""Hydra's launchers: runs that start elsewhere give the results of runs that start here, under one parent."""

from __future__ import annotations

import pytest

from src.runs.isolation import call
from src.sweep import train
from tests.test_sweep import SMALL, parents_and_children, results, sweep


@pytest.mark.parametrize("launcher", ["joblib", "ray", "submitit_local"])
def test_every_launcher_gives_the_same_results(command, configure, server, tmp_path, launcher):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    shown = sweep(command, tmp_path, *SMALL, "method=full,lora", f"hydra/launcher={launcher}")
    assert shown.returncode == 0, shown.stderr + shown.stdout
    [parent], children = parents_and_children(tmp_path)
    assert parent.info.status == "FINISHED"
    assert [child.data.tags["mlflow.parentRunId"] for child in children] == [parent.info.run_id] * 2
    assert {child.data.tags["launcher"] for child in children} == {launcher}
    for method in ("full", "lora"):
        config = configure(*SMALL, f"method={method}", f"tracking.folder={tmp_path / 'alone'}")
        assert call(train, config, tmp_path / "log").reason is None
    assert results(tmp_path) == results(tmp_path / "alone")
