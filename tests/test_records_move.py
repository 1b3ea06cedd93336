"""Runs leave a store as one file, are compared from it, and enter another store: nothing lost, nothing added twice."""

from __future__ import annotations

import json
import pickle
import shutil
import stat
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src import compare
from src.config import TrackingConfig, UserError
from src.metrics import CPU_WAIT_SECONDS
from src.report.markdown import as_markdown
from src.report.page import render
from src.reporting import report
from src.runs import __main__ as command_of_runs
from src.runs import archive, imports
from src.runs import store as stores
from src.runs.archive import FORMAT, HEAD, TEXTS, VERSION, Archive
from src.runs.export import export_runs
from src.runs.identity import Hashes
from src.runs.imports import Imported, import_runs
from src.runs.parent import ParentRun
from src.runs.records import Status
from src.runs.results import choose, select
from src.runs.store import connect
from tests.stored import Store

FIGURES = ("report.html", "report.md", "side_by_side.csv")


def sweep(store: Store, name: str, runs: list[str]) -> str:
    parent = ParentRun.begin(store.tracking, name, "", name, f"python -m src.train -m {name}", len(runs), fresh=False)
    for id in runs:
        parent.include(store.record(id))
        if "mlflow.parentRunId" not in store.record(id).tags:
            store.store.tag(id, {"mlflow.parentRunId": parent.run_id})
    parent.end(Status.FINISHED, parent.members())
    return parent.run_id


@pytest.fixture(scope="module")
def made(tmp_path_factory, empty_store):
    """Two sweeps that share a run; among the runs one that failed, one pruned, one without scores by question."""
    store = Store(Path(shutil.copy(empty_store, tmp_path_factory.mktemp("made"))).parent)
    ids = {}
    for method, rates in (("full", (3e-5, 1e-4)), ("lora", (3e-4, 1e-3))):
        for rate, right in zip(rates, (0.4, 0.6), strict=True):
            for seed in (0, 1)[: 1 + (right > 0.5)]:
                tags = {"config_hash": f"{method}-{rate:g}-{seed}", "host_id": "laptop", "host": "laptop"}
                ids[method, rate, seed] = store.run(method, rate, right, seed, tags=tags, test=40)
    ids["failed"] = store.run("lora", 3e-3, 0, status="FAILED", tags={"error": "no room", "config_hash": "f"})
    ids["pruned"] = store.run("full", 1e-3, 0, status="KILLED", tags={"stopped": "behind", "config_hash": "p"})
    ids["bare"] = store.run("head", 1e-3, 0.3, tags={"reproduces": ids["full", 1e-4, 0]})
    store.client._tracking_client._get_artifact_repo(ids["bare"]).delete_artifacts("questions.parquet")
    store.client.log_text(ids["full", 1e-4, 0], "method: {name: full}\n", "config.yaml")
    store.client.log_text(ids["full", 1e-4, 0], "weights", "model/model.safetensors")
    nan = ids["lora", 1e-3, 1]
    store.client.log_metric(nan, "odd/metric", float("nan"), timestamp=5, step=1)
    store.client.log_metric(nan, "odd/metric", float("inf"), timestamp=6, step=2)
    store.client.log_metric(nan, "odd/metric", 0.1 + 0.2, timestamp=4, step=3)
    wide = [id for key, id in ids.items() if key != ("lora", 3e-4, 0)]
    ids["rates"] = sweep(store, "rates", wide)
    ids["more"] = sweep(store, "more", [ids["lora", 3e-4, 0], ids["full", 1e-4, 0]])
    return store, ids


@pytest.fixture(scope="module")
def original(made, tmp_path_factory):
    store, _ = made
    file = tmp_path_factory.mktemp("original") / "runs.zip"
    assert export_runs(store.store, select(store.tracking, ["rates", "more"]), file) == (9, 2)
    return file


@pytest.fixture
def exported(original, tmp_path):
    return Path(shutil.copy(original, tmp_path))


@pytest.fixture
def other(tmp_path, empty_store):
    folder = tmp_path / "other"
    folder.mkdir()
    shutil.copy(empty_store, folder)
    return connect(TrackingConfig(folder=str(folder)))


def everything_of(record):
    """All that a run holds, but its ids."""
    tags = {key: value for key, value in record.tags.items() if key not in (*imports.ID_TAGS, imports.ORIGIN)}
    curves = {key: record.source.points(record.id, key).values.tolist() for key in record.metrics}
    table = record.questions(split=None)
    rows = None if table is None else json.loads(table.reset_index().to_json(orient="records", double_precision=15))
    named = (record.name, record.status, record.started, record.ended, record.params, record.inputs)
    return repr((*named, sorted(tags.items()), sorted(curves.items()), sorted(record.metrics.items()), rows))


def report_of(folder, **how):
    report(TrackingConfig(folder="nowhere"), output=folder, **how)
    return {name: (folder / name).read_text(encoding="utf-8") for name in FIGURES}


@pytest.mark.slow
def test_a_comparison_from_the_file_equals_that_from_the_store(made, exported, tmp_path, monkeypatch, capsys):
    store, _ = made
    monkeypatch.chdir(tmp_path)
    report(store.tracking, ["rates", "more"], output=tmp_path / "of_store")
    shown = capsys.readouterr().out.splitlines()
    of_store = {name: (tmp_path / "of_store" / name).read_text(encoding="utf-8") for name in FIGURES}
    assert report_of(tmp_path / "of_file", exported=exported) == of_store
    assert capsys.readouterr().out.splitlines()[:-1] == shown[:-1]  # the last line says where the report is
    assert "behind" not in of_store["report.md"] and "head has no" not in of_store["report.md"]
    assert of_store["report.md"].startswith("# rates + more")
    assert not (tmp_path / "nowhere").exists(), "no store is touched"


@pytest.mark.slow
def test_the_choice_of_runs_can_be_narrowed_in_the_file(made, exported, tmp_path):
    store, ids = made
    for how in ({"sweeps": ["more"]}, {"runs": ["best", ids["failed"][:8]]}):
        from_file, from_store = choose(Archive(exported), **how), select(store.tracking, **how)
        assert (from_file.title, from_file.parents, from_file.commands, from_file.notes) == (
            from_store.title,
            from_store.parents,
            from_store.commands,
            from_store.notes,
        )
        assert [record.id for record in from_file.results] == [record.id for record in from_store.results]
    with pytest.raises(UserError, match=r"where=params.x = '1' needs a store, and runs.zip is a file"):
        choose(Archive(exported), where="params.x = '1'")


def test_every_run_arrives_whole_with_its_links(made, exported, other):
    store, ids = made
    assert import_runs(Archive(exported), other) == Imported(runs=9, sweeps=2, known=0)
    arrived = {record.tags["imported_from"]: record for record in other.runs()}
    assert set(arrived) == set(ids.values())
    for old, record in arrived.items():
        assert record.id != old
        assert everything_of(record) == everything_of(store.record(old))
    new = {key: arrived[old].id for key, old in ids.items()}
    shared = arrived[ids["full", 1e-4, 0]]
    assert shared.sweeps == [new["rates"], new["more"]] and shared.tags["mlflow.parentRunId"] == new["rates"]
    assert arrived[ids["bare"]].tags["reproduces"] == shared.id and arrived[ids["bare"]].questions() is None
    assert arrived[ids["pruned"]].status is Status.PRUNED and arrived[ids["failed"]].tags["error"] == "no room"
    assert other.text(shared.id, "config.yaml") == "method: {name: full}\n"
    assert "model" not in [item.path for item in other.client.list_artifacts(shared.id)], "models stay where they are"
    assert other.text(new["rates"], "command.txt") == "python -m src.train -m rates\n"
    assert arrived[ids["lora", 1e-3, 1]].metrics["odd/metric"] == 0.1 + 0.2
    # A sweep over there finds them done, whoever made them.
    done = other.finished(Hashes("lora-0.001-1", None))
    assert (done.id, done.tags["host_id"]) == (arrived[ids["lora", 1e-3, 1]].id, "laptop")
    # And they compare as they did.
    there, here = (select(tracking, ["rates", "more"]) for tracking in (other.tracking, store.tracking))
    assert compared(there) == compared(here)


def compared(selection):
    from src.report.comparison import compare_runs
    from src.report.plots import plots

    comparison = compare_runs(selection.title, selection.results, commands=selection.commands)
    ids = {record.id[:8]: f"run {i}" for i, record in enumerate(selection.results)}
    text = as_markdown(comparison) + render(comparison, plots(comparison))
    for id, name in ids.items():
        text = text.replace(id, name)
    return text


@pytest.mark.slow
def test_imported_twice_nothing_is_there_twice(made, exported, other, tmp_path):
    store, ids = made
    import_runs(Archive(exported), other)
    before = {record.id: everything_of(record) + repr(record.tags) for record in other.runs()}
    assert import_runs(Archive(exported), other) == Imported(runs=0, sweeps=0, known=11)
    assert {record.id: everything_of(record) + repr(record.tags) for record in other.runs()} == before
    # Nor on the way back, nor in a third store by another way.
    back = tmp_path / "back.zip"
    export_runs(other, choose(other, ["rates", "more"]), back)
    assert import_runs(Archive(back), store.store) == Imported(runs=0, sweeps=0, known=11)
    third = connect(TrackingConfig(folder=str(other.tracking.folder), experiment="third"))
    assert import_runs(Archive(back), third) == Imported(runs=9, sweeps=2, known=0)
    assert import_runs(Archive(exported), third) == Imported(runs=0, sweeps=0, known=11)
    assert {record.tags["imported_from"] for record in third.runs()} == set(ids.values())


@pytest.mark.slow
def test_a_second_file_brings_another_sweep_to_runs_that_are_there(made, other, tmp_path):
    store, ids = made
    for name in ("rates", "more"):
        # Each file without the other's parent: only the runs that both sweeps have link them.
        selection = select(store.tracking, runs=[ids["full", 1e-4, 0]]) if name == "rates" else None
        export_runs(store.store, selection or select(store.tracking, [name]), tmp_path / f"{name}.zip")
    first = import_runs(Archive(tmp_path / "rates.zip"), other)
    assert first == Imported(runs=1, sweeps=2, known=0), "the sweeps that it is part of come along"
    assert import_runs(Archive(tmp_path / "more.zip"), other) == Imported(runs=1, sweeps=0, known=3)
    arrived = {record.tags["imported_from"]: record for record in other.runs()}
    more = arrived[ids["more"]].id
    assert {record.id for record in other.members(more)} == {
        arrived[ids["full", 1e-4, 0]].id,
        arrived[ids["lora", 3e-4, 0]].id,
    }


@pytest.mark.slow
def test_links_to_runs_that_come_later_are_mended(made, exported, other):
    _, ids = made
    import_runs(Archive(exported), other)
    arrived = {record.tags["imported_from"]: record for record in other.runs()}
    member = arrived[ids["full", 1e-4, 0]]
    other.tag(member.id, {"sweep": ids["rates"]})  # as where its parent had not been in an earlier file
    import_runs(Archive(exported), other)
    assert other.record(member.id).sweeps == [arrived[ids["rates"]].id, arrived[ids["more"]].id]


@pytest.mark.slow
def test_a_broken_import_leaves_nothing_that_counts(made, exported, other, monkeypatch):
    filled = imports._fill

    def fail(store, archive, record, run_id):
        filled(store, archive, record, run_id)
        if record.tags.get("method") == "lora":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(imports, "_fill", fail)
        with pytest.raises(KeyboardInterrupt):
            import_runs(Archive(exported), other)
    assert other.runs() == []
    with monkeypatch.context() as patch:  # killed: it cannot even clean up
        patch.setattr(imports, "_fill", fail)
        patch.setattr(other.client, "delete_run", lambda run_id: None)
        with pytest.raises(KeyboardInterrupt):
            import_runs(Archive(exported), other)
    assert other.runs() and other.finished(Hashes("full-0.0001-0", None)) is None
    assert import_runs(Archive(exported), other) == Imported(runs=9, sweeps=2, known=0)
    assert len(other.runs()) == 11 and not any("import_under_way" in record.tags for record in other.runs())


@pytest.mark.slow
def test_a_run_that_was_running_is_not_running_over_there(tmp_path, other):
    store = Store(tmp_path)
    id = store.client.create_run(store.experiment, tags={"config_hash": "r", "host_id": "laptop"}).info.run_id
    export_runs(store.store, select(store.tracking, runs=[id]), tmp_path / "runs.zip")
    assert choose(Archive(tmp_path / "runs.zip")).results[0].status is Status.RUNNING
    import_runs(Archive(tmp_path / "runs.zip"), other)
    [record] = other.runs()
    assert (record.status, record.ended) == (Status.KILLED, record.started)


@pytest.mark.slow
def test_without_texts_no_text_of_the_data_set_leaves(made, tmp_path, other):
    store, _ = made
    whole, bare = tmp_path / "whole.zip", tmp_path / "bare.zip"
    selection = select(store.tracking, ["rates"])
    export_runs(store.store, selection, whole)
    export_runs(store.store, selection, bare, texts=False)
    with zipfile.ZipFile(whole) as held:
        tables = [name for name in held.namelist() if name.startswith("texts/")]
        assert len(tables) == 1, "the questions of all runs are stored once"
    content = unpacked(bare)
    for text in (b"What is number", b"Passage 1", b"says answer", b"answer 7", b"Article 7", b"Test article 7"):
        assert text in unpacked(whole) and text not in content
    for record in choose(Archive(bare)).results:
        if (table := record.questions(split=None)) is not None:
            assert set(table["title"]) == {""} and not (set(TEXTS) - {"title"}) & set(table.columns)
            there = store.record(record.id).questions(split=None)
            kept = ["exact_match", "f1", "split", "article", "passage"]
            assert table[kept].equals(there[kept]) and set(table.columns) == {*kept, "title"}
            assert table["article"].nunique() == 60 + 8 and table["passage"].nunique() == 300 + 40
    # The verdict and the tables stay; the page lacks the questions and the figures over them.
    written = {}
    for file in (whole, bare):
        written[file] = report_of(tmp_path / file.stem, exported=file)
    assert written[bare]["report.md"] == written[whole]["report.md"]
    assert written[bare]["side_by_side.csv"] == written[whole]["side_by_side.csv"]
    assert "F1 by question word" in written[whole]["report.html"]
    assert "F1 by question word" not in written[bare]["report.html"]
    assert "Agreement with full" in written[bare]["report.html"]
    import_runs(Archive(bare), other)
    best = choose(other, runs=["best"]).results[0]
    assert set(best.questions().columns) == {"exact_match", "f1", "title", "article", "passage"}


@pytest.mark.parametrize("texts", [True, False])
@pytest.mark.slow
def test_scores_of_version_0_1_go_through_a_file(tmp_path, other, texts):
    """They are of the validation questions, and only the passages' texts tell which of them belong together."""
    store = Store(tmp_path)
    id = store.run("lora", 1e-3, 0.5, context=lambda i: f"Passage {i // 3}.")
    there = store.record(id).questions()
    export_runs(store.store, select(store.tracking, runs=[id]), tmp_path / "runs.zip", texts=texts)
    archive = Archive(tmp_path / "runs.zip")
    import_runs(archive, other)
    for record in (*archive.runs(), *other.runs()):
        assert record.questions(split="test") is None
        table = record.questions(["f1", "passage", "article", "title"])
        assert table.equals(there[table.columns]) and table["passage"].nunique() == 100
        assert set(table["title"]) == {""}


def unpacked(file):
    with zipfile.ZipFile(file) as held:
        parts = [held.read(name) for name in held.namelist()]
    tables = [pd.read_parquet(BytesIO(part)) for part in parts if part[:4] == b"PAR1"]
    return b"".join(parts) + "".join(table.to_json() for table in tables).encode()


def test_a_renamed_metric_in_a_file_of_an_earlier_version(tmp_path, other, monkeypatch):
    store = Store(tmp_path / "earlier")
    store.run("full", 1e-4, 0.6, metrics={"time/waited_seconds": 7.0})
    file = tmp_path / "earlier.zip"
    with monkeypatch.context() as earlier:
        earlier.setattr(stores, "with_present_keys", dict)
        export_runs(store.store, select(store.tracking), file)
    exported = Archive(file)
    import_runs(exported, other)
    for record in (*exported.runs(), *other.runs()):
        assert "time/waited_seconds" not in record.metrics and record.metrics[CPU_WAIT_SECONDS] == 7.0
        assert list(record.history(CPU_WAIT_SECONDS)["value"]) == [7.0]
    assert [point.value for point in other.client.get_metric_history(other.runs()[0].id, CPU_WAIT_SECONDS)] == [7.0]


def test_the_same_runs_make_the_same_file(made, exported, tmp_path):
    store, _ = made
    export_runs(store.store, select(store.tracking, ["rates", "more"]), tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == exported.read_bytes()
    with pytest.raises(UserError, match=r"again.zip exists already; give another name, or delete it"):
        export_runs(store.store, select(store.tracking), tmp_path / "again.zip")
    assert sorted(path.name for path in tmp_path.glob("*.zip*")) == ["again.zip", "runs.zip"]


def rewritten(file, target, changes=(), drop=()):
    """A copy of an export with parts replaced, added or left out."""
    with zipfile.ZipFile(file) as held, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as written:
        changes = dict(changes)
        for name in held.namelist():
            if name not in drop:
                written.writestr(name, changes.pop(name, held.read(name)))
        for name, content in changes.items():
            written.writestr(name, content)
    return target


def head_of(file, change):
    with zipfile.ZipFile(file) as held:
        head = json.loads(held.read(HEAD))
    change(head)
    return {HEAD: json.dumps(head)}


class Trap:
    def __reduce__(self):
        return Path.touch, (Path("trapped"),)


DAMAGE = {
    "no zip": (lambda file, run: file.write_bytes(b"PK is not enough"), "is not an export of runs"),
    "cut": (lambda file, run: file.write_bytes(file.read_bytes()[:-900]), "is not an export of runs"),
    "another zip": (lambda file, run: zip_of(file, {"notes.txt": "hello"}), "is not an export of runs"),
    "another json": (lambda file, run: zip_of(file, {HEAD: "{}"}), "is not an export of runs"),
    "no json": (lambda file, run: zip_of(file, {HEAD: "[" * 100_000}), r"cannot be read \(.*; it is damaged"),
    "a pickle": (lambda file, run: zip_of(file, {HEAD: pickle.dumps(Trap())}), r"cannot be read \(.*; it is damaged"),
    "newer": (
        lambda file, run: zip_of(file, {HEAD: json.dumps({"format": FORMAT, "version": VERSION + 1})}),
        rf"was written by a newer version of tuneoff \(format {VERSION + 1}, this one reads {VERSION}\); update",
    ),
    "a climbing id": (
        lambda file, run: change(file, lambda head: head["runs"][0].update(id="../../evil")),
        r"cannot be read \('../../evil' is not an id\)",
    ),
    "an absolute id": (
        lambda file, run: change(file, lambda head: head["runs"][0].update(id="/etc/passwd")),
        r"cannot be read \('/etc/passwd' is not an id\)",
    ),
    "a link": (
        lambda file, run: zip_of(file, {part(HEAD, stat.S_IFLNK | 0o777): "/etc/passwd"}),
        r"cannot be read \(.*; it is damaged",
    ),
    "a bomb": (  # 2 MB in 2 kB
        lambda file, run: zip_of(file, {part(HEAD, 0o644): " " * 2_000_000}),
        r"cannot be read \(runs.json is larger than 1,000,000 bytes",
    ),
    "a number for a text": (
        lambda file, run: change(file, lambda head: head["runs"][0]["tags"].update(x=1)),
        r"cannot be read \(1 should be text\)",
    ),
    "a strange status": (
        lambda file, run: change(file, lambda head: head["runs"][0].update(status="WINNING")),
        r"cannot be read \('WINNING'\)",
    ),
    "a strange time": (
        lambda file, run: change(file, lambda head: head["runs"][0].update(started=10**30)),
        r"is not a time\); it is damaged",
    ),
    "a run that is missing": (
        lambda file, run: change(file, lambda head: head["selection"]["runs"].append("abc")),
        r"cannot be read \('abc'\)",
    ),
    "no curves": (
        lambda file, run: replaced(file, drop=[f"curves/{run}.parquet"]),
        r"cannot be read \(curves/\w+.parquet is missing\);",
    ),
    "curves that are none": (
        lambda file, run: replaced(file, {f"curves/{run}.parquet": b"PAR1 no, it is not PAR1"}),
        r"cannot be read \(",
    ),
    "curves of other columns": (
        lambda file, run: replaced(file, {f"curves/{run}.parquet": plain(pd.DataFrame({"key": ["a"]}))}),
        r"cannot be read \(curves/\w+.parquet",
    ),
    "many rows": (
        lambda file, run: replaced(file, {f"curves/{run}.parquet": plain(zeros(1001))}),
        r"cannot be read \(curves/\w+.parquet would unpack to more than an export holds",
    ),
    "long texts": (  # 2 MB in a few hundred bytes
        lambda file, run: replaced(file, {f"curves/{run}.parquet": plain(zeros(1000).assign(key="a" * 2000))}),
        r"cannot be read \(curves/\w+.parquet would unpack to more than an export holds",
    ),
    "a dictionary": (  # which unpacks to more than its footer declares
        lambda file, run: replaced(file, {f"curves/{run}.parquet": plain(zeros(5), use_dictionary=True)}),
        r"cannot be read \(curves/\w+.parquet would unpack to more than an export holds",
    ),
    "lists of nothing": (  # a row that holds more values than there may be rows
        lambda file, run: replaced(file, {f"curves/{run}.parquet": plain(pd.DataFrame({"key": [[None] * 1001]}))}),
        r"cannot be read \(curves/\w+.parquet would unpack to more than an export holds",
    ),
    "a large part": (
        lambda file, run: replaced(file, {f"curves/{run}.parquet": b"0" * 2_000_000}),
        r"cannot be read \(curves/\w+.parquet is larger than 1,000,000 bytes",
    ),
}


def part(name, mode):
    """A packed part of a zip with a mode of Unix."""
    info = zipfile.ZipInfo(name)
    info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
    return info


def zip_of(file, parts):
    with zipfile.ZipFile(file, "w") as held:
        for name, content in parts.items():
            held.writestr(name, content)


def replaced(file, changes=(), drop=()):
    rewritten(file, file.with_suffix(".new"), changes, drop).replace(file)


def change(file, how):
    replaced(file, head_of(file, how))


def zeros(rows):
    return pd.DataFrame({"key": ["a"] * rows, "step": 0, "timestamp": 0, "value": np.zeros(rows)})


def plain(table, use_dictionary=False):
    content = BytesIO()
    table.to_parquet(content, compression="zstd", index=False, use_dictionary=use_dictionary)
    return content.getvalue()


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.slow
def test_a_file_that_is_damaged_or_foreign_is_one_sentence(exported, made, damage, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(archive, "LARGEST_PART", 1_000_000)
    monkeypatch.setattr(archive, "MOST_ROWS", 1000)
    monkeypatch.chdir(tmp_path)
    spoil, sentence = DAMAGE[damage]
    spoil(exported, made[1]["full", 1e-4, 0])
    with pytest.raises(UserError, match=sentence) as refused:
        Archive(exported)
    assert "\n" not in str(refused.value) and str(refused.value).startswith(str(exported))
    monkeypatch.setattr("sys.argv", ["compare", f"from={exported}"])
    with pytest.raises(SystemExit) as ended:
        compare.main()
    assert (ended.value.code, capsys.readouterr().err.count("\n")) == (1, 1)
    assert not (tmp_path / "trapped").exists(), "what the file holds was run"


@pytest.mark.slow
def test_the_size_that_a_part_declares_is_where_reading_stops(exported, made, monkeypatch):
    """A header that declares less than it unpacks to."""
    name = f"curves/{made[1]['bare']}.parquet"
    replaced(exported, {name: b"0" * 3_000_000})
    monkeypatch.setattr(archive, "LARGEST_PART", 1_000_000)
    original = zipfile.ZipFile.getinfo

    def getinfo(self, wanted):
        info = original(self, wanted)
        if wanted == name:
            info.file_size = 1000
        return info

    monkeypatch.setattr(zipfile.ZipFile, "getinfo", getinfo)
    read = []
    extracted = zipfile.ZipExtFile.read
    monkeypatch.setattr(
        zipfile.ZipExtFile, "read", lambda self, n=-1: read.append((self.name, extracted(self, n))) or read[-1][1]
    )
    with pytest.raises(UserError, match=r"cannot be read \(curves/"):
        Archive(exported)
    assert all(len(content) <= 1001 for part, content in read if part == name)


@pytest.mark.slow
def test_parts_that_climb_are_never_written(exported, other, tmp_path):
    evil = {"../evil.txt": "evil", "/tmp/evil-of-tuneoff.txt": "evil", "curves/../../evil.parquet": "evil"}
    replaced(exported, evil)
    change(exported, lambda head: [run["files"].update({"../evil.txt": "evil"}) for run in head["runs"]])
    before = {path for path in tmp_path.rglob("*") if "other" not in path.parts}
    assert import_runs(Archive(exported), other).runs == 9
    assert {path for path in tmp_path.rglob("*") if "other" not in path.parts} == before
    assert not [path for path in tmp_path.parent.rglob("*evil*") if tmp_path in path.parents or path.parent == tmp_path]
    assert not Path("/tmp/evil-of-tuneoff.txt").exists()


@pytest.mark.slow
def test_a_run_with_damaged_scores_is_not_exported(tmp_path):
    store = Store(tmp_path)
    id = store.run("lora", 1e-3, 0.5)
    store.client.log_text(id, "PAR1 damaged PAR1", "questions.parquet")
    with pytest.raises(UserError, match=rf"questions.parquet of run {id[:8]} .* cannot be read .*; leave this run out"):
        export_runs(store.store, select(store.tracking), tmp_path / "runs.zip")
    assert not list(tmp_path.glob("*.zip*")) and not list(tmp_path.glob(".runs*"))


@pytest.mark.slow
def test_damaged_scores_are_left_out_and_named_as_from_a_store(exported, made, tmp_path):
    run = made[1]["lora", 1e-3, 0]
    replaced(exported, {f"questions/{run}.parquet": b"PAR1 damaged PAR1"})
    text = report_of(tmp_path / "out", exported=exported)["report.md"]
    assert f"questions.parquet of run {run[:8]} (lora lr=0.001 epochs=3 seed=0) cannot be read (" in text


@pytest.mark.slow
def test_the_command_line(made, tmp_path, command, empty_store):
    store, _ = made
    at, file = f"tracking.folder={store.folder}", tmp_path / "runs.zip"
    there = tmp_path / "there"
    there.mkdir()
    shutil.copy(empty_store, there)
    done = command("src.cli", "runs", "export", str(file), "sweep=[rates,more]", "texts=false", at)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith(f"{file} holds 9 runs of 2 sweeps, without texts: 0.")
    done = command("src.runs", "import", str(file), f"tracking.folder={there}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "Added 9 runs and 2 sweeps.",
        f"compare them  python -m src.compare tracking.folder={there}",
    ]
    done = command("src.compare", f"from={file}", f"output={tmp_path / 'out'}", "formats=[md]")
    assert done.returncode == 0, done.stderr
    assert "lora (rate 0.001) against full (rate 0.0001)" in " ".join(done.stdout.split())
    assert (tmp_path / "out" / "report.md").read_text(encoding="utf-8").startswith("# rates + more")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("exprot a.zip", (2, "There is no 'exprot' (did you mean 'export'?); there are: export, import.")),
        ("export", (2, "export needs the name of one file: python -m src.runs export runs.zip")),
        ("import a.zip b.zip", (2, "import needs the name of one file")),
        ("import a.zip texts=false", (1, "There is no key 'texts'")),
        ("import none.zip", (1, "none.zip does not exist; give a file that python -m src.runs export has written.")),
        ("export a.zip texts=maybe", (1, "texts=maybe must be true or false.")),
        ("export a.zip sweep=x runs=y", (1, "sweep=, runs= and where= each choose runs by themselves")),
        ("export no/folder/a.zip", (1, "no/folder is not a folder; make it")),
    ],
)
@pytest.mark.slow
def test_a_mistake_is_one_sentence(made, arguments, expected, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    at = [f"tracking.folder={made[0].folder}"] if arguments.startswith("export") else []
    monkeypatch.setattr("sys.argv", ["runs", *arguments.split(), *at])
    with pytest.raises(SystemExit) as ended:
        command_of_runs.main()
    status, sentence = expected
    assert ended.value.code == status
    assert capsys.readouterr().err.startswith(f"Error: {sentence}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlflow.db"], "nothing was made"
