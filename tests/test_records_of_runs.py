"""Runs are plain records outside src/runs: nothing there imports MLflow or knows the shape of its runs."""

from __future__ import annotations

import ast
import os
import shutil
import sqlite3
from contextlib import closing

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from src import train
from src.config import CHANGES_NO_RESULT, ROOT, TrackingConfig, UserError
from src.metrics import CPU_WAIT_SECONDS
from src.report.arms import NOT_A_SETTING, setting
from src.runs import store as stores
from src.runs.parent import ParentRun
from src.runs.records import KIND, SWEEP, Input, Status, short_key
from src.runs.store import connect
from src.runs.tracking import RunLog, flatten
from tests.stored import Store

MLFLOWS = {f"info.{name}" for name in ("run_id", "run_name", "status", "experiment_id")} | {
    f"data.{name}" for name in ("metrics", "params", "tags")
}


def uses_of_mlflow(source: str) -> list[str]:
    """Imports of mlflow, inside functions too, and attributes that its runs have."""
    uses = []
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        uses += [name for name in names if name.partition(".")[0] == "mlflow"]
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute):
            uses += [name for name in [f"{node.value.attr}.{node.attr}"] if name in MLFLOWS]
    return uses


def test_the_test_sees_what_it_looks_for():
    assert uses_of_mlflow("import mlflow.store as s\ndef f():\n    from mlflow import MlflowClient") == [
        "mlflow.store",
        "mlflow",
    ]
    assert uses_of_mlflow("run.info.status == run.data.tags['x']") == ["info.status", "data.tags"]
    assert uses_of_mlflow((ROOT / "src" / "runs" / "store.py").read_text(encoding="utf-8"))


def test_only_the_package_of_runs_knows_mlflow():
    files = [*(ROOT / "src").rglob("*.py"), *(ROOT / "hydra_plugins").rglob("*.py")]
    served = [
        ROOT / "src" / name for name in ("serving.py", "scoring.py")
    ]  # MLflow loads the first, the second runs it
    outside = [file for file in files if ROOT / "src" / "runs" not in file.parents and file not in served]
    assert len(outside) > 40
    knowing = {str(file.relative_to(ROOT)): uses_of_mlflow(file.read_text(encoding="utf-8")) for file in outside}
    assert {file: uses for file, uses in knowing.items() if uses} == {}


def test_the_report_does_not_import_the_runs():
    for file in (ROOT / "src" / "report").glob("*.py"):
        assert "from src.runs" not in file.read_text(encoding="utf-8"), file.name


def test_a_record_is_what_mlflow_holds(tmp_path):
    store = Store(tmp_path)
    id = store.run("lora", 1e-3, 0.5, seed=3, tags={"config_hash": "abc"})
    run, record = store.client.get_run(id), store.record(id)
    assert (record.id, record.name, record.seed) == (id, "lora lr=0.001 epochs=3 seed=3", "3")
    assert (record.params, record.metrics, record.tags) == (run.data.params, run.data.metrics, run.data.tags)
    assert (record.started, record.ended) == (run.info.start_time, run.info.end_time)
    assert record.inputs == {"train": Input("train-a", 4000), "validation": Input("validation-a", 300)}
    curve = record.history("train/loss")
    assert list(curve["step"]) == list(range(1, 31)) and list(curve["value"][:2]) == [5.0, 2.5]
    assert list(curve["seconds"][:3]) == [0.0, 0.5, 1.0]
    assert record.history("none such").empty
    table = record.questions(["f1"])
    assert list(table.columns) == ["f1"] and table.index[0] == "q0"


def test_a_metric_that_was_renamed_is_read_under_its_present_key(tmp_path):
    store = Store(tmp_path)
    record = store.record(store.run("full", 1e-4, 0.5, metrics={"time/waited_seconds": 7.0}))
    assert "time/waited_seconds" not in record.metrics and record.metrics[CPU_WAIT_SECONDS] == 7.0
    assert list(record.history(CPU_WAIT_SECONDS)["value"]) == [7.0]
    both = store.record(store.run("lora", 1e-3, 0.5, metrics={CPU_WAIT_SECONDS: 2.0, "time/waited_seconds": 7.0}))
    assert both.metrics[CPU_WAIT_SECONDS] == 2.0 and list(both.history(CPU_WAIT_SECONDS)["value"]) == [2.0]


def test_each_set_has_its_rows(tmp_path):
    """An id may be that of a validation and of a test question."""
    store = Store(tmp_path)
    record = store.record(store.run("lora", 1e-3, 0.5, questions=30, test=20, test_right=1.5))
    assert record.inputs["test"] == Input("test-a", 20) and record.metrics["test/f1"] == 100
    validation, test, both = (record.questions(split=split) for split in ("validation", "test", None))
    assert (len(validation), len(test), len(both)) == (30, 20, 50)
    assert set(test.index) < set(validation.index)
    assert set(test["exact_match"]) == {1.0} != set(validation["exact_match"])
    assert set(both["split"]) == {"validation", "test"} and "split" not in test
    places = record.questions(["passage", "title", "article"], split="test")
    assert list(places.columns) == ["passage", "title", "article"]
    assert places["title"].iloc[0] == "Test article 0" and places["article"].nunique() == 4
    assert (
        places["passage"].iloc[7] == short_key("Test: Passage 7 says answer 7.")
        and len(places["passage"].iloc[7]) == 12
    )
    with pytest.raises(UserError, match=r"questions.parquet of run .* cannot be read .*no column nonsense"):
        record.questions(["nonsense"])


def test_a_run_of_version_0_1_has_validation_rows_alone(tmp_path):
    store = Store(tmp_path)
    record = store.record(store.run("lora", 1e-3, 0.5, context=lambda i: f"Passage  {i // 3}."))
    assert record.questions(split="test") is None
    table = record.questions(["passage"])
    assert list(table.columns) == ["passage"] and len(table) == 300
    assert list(table["passage"][:4]) == [short_key(text) for text in ("Passage 0.",) * 3 + ("Passage 1.",)]
    file = tmp_path / "questions.parquet"
    record.questions(split=None)[["f1"]].reset_index().to_parquet(file)
    store.store.log_artifact(record.id, file)
    assert set(record.questions(["passage"])["passage"]) == {None}, "no text, and nothing is made up"


@pytest.mark.parametrize(
    ("in_mlflow", "tags", "status", "back"),
    [
        ("FINISHED", {}, Status.FINISHED, "FINISHED"),
        ("FAILED", {}, Status.FAILED, "FAILED"),
        ("KILLED", {}, Status.KILLED, "KILLED"),
        ("KILLED", {"stopped": "behind the median"}, Status.PRUNED, "KILLED"),
        ("RUNNING", {}, Status.RUNNING, "RUNNING"),
        ("SCHEDULED", {}, Status.RUNNING, "RUNNING"),
    ],
)
def test_how_a_run_ended(tmp_path, in_mlflow, tags, status, back):
    store = Store(tmp_path)
    id = store.client.create_run(store.experiment, tags=tags).info.run_id
    store.client.update_run(id, status=in_mlflow)
    record = store.record(id)
    assert (record.status, record.status.in_mlflow) == (status, back)
    assert (record.finished, record.failed, record.pruned) == tuple(
        status is each for each in (Status.FINISHED, Status.FAILED, Status.PRUNED)
    )


def test_a_store_that_fails_is_one_sentence_for_whoever_asks(tmp_path):
    store = Store(tmp_path).store
    with pytest.raises(UserError, match=r"^The tracking store failed \(.*0{32}.*\); check that it answers"):
        store.record("0" * 32)
    with pytest.raises(UserError, match=r"^where=nonsense is not a condition that MLflow understands"):
        store.runs("nonsense")
    with pytest.raises(UserError, match=r"^There is no experiment other in the store; there are: .*tuneoff"):
        connect(TrackingConfig(folder=str(tmp_path), experiment="other"), create=False).runs()
    assert MlflowClient(store.uri).get_experiment_by_name("other") is None


def content(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file() and file.name != stores.LOCK}


@pytest.mark.parametrize("writable", [True, False])
def test_who_reads_a_store_changes_nothing(tmp_path, monkeypatch, writable):
    folder = tmp_path / "a store #1 ü"
    folder.mkdir()
    shutil.copy(tmp_path / "mlflow.db", folder)
    run = Store(folder).run("lora", 1e-3, 0.5)
    before = content(folder)
    if not writable:
        (folder / stores.LOCK).unlink()
        monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    reader = connect(TrackingConfig(folder=str(folder)), create=False)
    assert (reader.record(run).id, reader.writable) == (run, writable)
    assert reader.questions(run) is not None
    assert ("mode=ro" in reader.uri) != writable
    with pytest.raises(UserError, match="attempt to write a readonly database"):
        reader.tag(run, {"a": "b"})
    with pytest.raises(MlflowException, match="attempt to write a readonly database"):
        reader.client.create_experiment("new")
    assert content(folder) == before
    assert writable or not (folder / stores.LOCK).exists()


@pytest.mark.parametrize("dropped", ["scorer_versions", "none"])
def test_who_reads_a_store_makes_and_migrates_none(tmp_path, dropped):
    """MLflow migrates a store that lacks a table of a later version, and refuses any other of an earlier one."""
    database = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(database, isolation_level=None)) as older:
        older.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
        older.execute(f"DROP TABLE IF EXISTS {dropped}")
    kept = database.read_bytes()
    tracking = TrackingConfig(folder=str(tmp_path))
    with pytest.raises(UserError, match=r"not of the installed version of MLflow, .* `mlflow db upgrade sqlite:///.*`"):
        connect(tracking, create=False)
    assert database.read_bytes() == kept
    for text in ("", "some text that was saved here, long enough for a header of a file"):
        database.write_text(text)
        with pytest.raises(
            UserError, match=r"mlflow.db cannot be read as MLflow's store \((no such table|file is not a)"
        ):
            connect(tracking, create=False)
        assert database.read_text() == text


def test_what_a_killed_process_has_half_written_is_undone_before_a_store_is_read(tmp_path):
    store, copied = Store(tmp_path), tmp_path / "copied"
    run = store.run("lora", 1e-3, 0.5)
    copied.mkdir()
    with closing(sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)) as killed:
        killed.execute("PRAGMA cache_size = 1")
        killed.execute("BEGIN")
        killed.execute("UPDATE metrics SET value = 7")
        killed.execute("CREATE TABLE more AS SELECT randomblob(1000) FROM metrics, params")  # more than the cache holds
        for file in ("mlflow.db", "mlflow.db-journal"):
            shutil.copy(tmp_path / file, copied)
        killed.execute("ROLLBACK")
    shutil.copytree(tmp_path / "artifacts", copied / "artifacts")
    found = connect(TrackingConfig(folder=str(copied)), create=False).record(run)
    assert found.metrics == store.record(run).metrics != {}
    assert not (copied / "mlflow.db-journal").exists()


def test_a_store_that_cannot_be_written_is_one_sentence_and_nothing_else(tmp_path, configure, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MLflow takes what follows sqlite:/// for a path, and makes its folders
    Store(tmp_path)
    uri = f"sqlite:///file:{tmp_path / 'mlflow.db'}?mode=ro&uri=true"
    config = configure("model=tiny", f"tracking.folder={tmp_path / 'here'}")
    config.tracking.uri = uri
    reason = "(sqlite3.OperationalError) attempt to write a readonly database"
    with pytest.raises(UserError) as of_a_run, RunLog(config).begin(config):
        pass
    with pytest.raises(UserError) as of_a_sweep:
        ParentRun.begin(config.tracking, None, "sweep", "hash", "command", 2, fresh=False)
    for raised in (of_a_run, of_a_sweep):
        assert str(raised.value) == f"The tracking store failed ({reason}); check that it answers and has room."
    assert capfd.readouterr() == ("", "")


def test_keys_that_no_name_holds_stay_in_one_value():
    patterns = {"^.*query$": 4}
    assert flatten({"method": {"peft": {"r": 2, "rank_pattern": patterns, "more": {}}}}) == {
        "method.peft.r": "2",
        "method.peft.rank_pattern": "{'^.*query$': 4}",
        "method.peft.more": "{}",
    }


@pytest.mark.parametrize("name", ["", "x" * 501])
def test_an_experiment_that_mlflow_cannot_name(tmp_path, name):
    with pytest.raises(UserError, match=rf"^tracking.experiment={name} cannot be a name in MLflow \(.*\).$"):
        connect(TrackingConfig(folder=str(tmp_path), experiment=name)).runs()


def test_a_run_by_itself_has_no_parent(ended):
    sentence = "Error: sweep.parent=nope: a sweep (-m) sets this key for its runs; leave it out.\n"
    assert ended(train, "model=tiny", "sweep.parent=nope") == (1, "", sentence)


def test_only_a_sweep_has_a_parent_run(tmp_path):
    store = Store(tmp_path)
    parent = store.client.create_run(store.experiment, tags={KIND: SWEEP}).info.run_id
    other = store.client.create_run(store.experiment).info.run_id
    assert ParentRun.of(store.tracking, parent).run_id == parent
    for run_id in (other, "nope", "a'b"):
        with pytest.raises(UserError, match=rf"^sweep.parent={run_id} is not the parent run of a sweep; leave it"):
            ParentRun.of(store.tracking, run_id)


def test_what_changes_no_result_is_said_once(tmp_path):
    assert set(CHANGES_NO_RESULT) < set(NOT_A_SETTING)
    store = Store(tmp_path)
    places = {"dataset.path": "a.json", "dataset.extra_validation.noisy": "b.json", "train.keep_checkpoints": True}
    one = store.record(store.run("lora", 1e-3, 0.5))
    two = store.record(store.run("lora", 1e-3, 0.5, seed=1, params=places | {"tracking.folder": "x"}))
    assert setting(one) == setting(two)
    assert setting(store.record(store.run("lora", 1e-3, 0.5, params={"dataset.train_size": 5}))) != setting(one)
