"""What two runs are told apart by, file by file, and when a run counts as alive; `test_resume.py` has the rest."""

from __future__ import annotations

import hashlib
import os
import socket
from types import SimpleNamespace

import psutil
import pytest

from src.runs import identity
from src.runs.identity import alive, config_hash, describe_process, hashes, previous_hash, process_tags


def sha(text):
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def folder(tmp_path_factory):
    """A model's folder: two files that count, and some that do not."""
    made = tmp_path_factory.mktemp("model")
    for name, text in {"config.json": "{}", "b.safetensors": "abc", "README.md": "read", ".hidden.txt": "x"}.items():
        (made / name).write_text(text)
    (made / "deep").mkdir()
    (made / "deep" / "vocab.txt").write_text("words")
    return made


def test_a_digest_is_over_names_sizes_and_contents(folder):
    assert identity._content(folder / "config.json", "name") == sha(" 2 {}")
    model = ".hidden.txt 1 xb.safetensors 3 abcconfig.json 2 {}"
    assert identity._content(folder, "name") == sha(model)
    data = "README.md 4 readb.safetensors 3 abcconfig.json 2 {}deep/vocab.txt 5 words"
    assert identity._content(folder, "name", nested=True) == sha(data)
    assert identity._content(folder / "nowhere", "a/name") == "a/name"


def test_a_large_file_is_read_to_its_end(tmp_path_factory):
    file = tmp_path_factory.mktemp("large") / "a.json"
    content = "a" * (1 << 20) + "b" * 10
    file.write_text(content)
    assert identity._content(file, "") == sha(f" {len(content)} {content}")


def test_a_file_that_changes_is_read_again(folder):
    file = folder / "config.json"
    os.utime(file, (1, 1))
    before = identity._content(file, "")
    file.write_text("[]")  # of the same size
    os.utime(file, (2, 2))
    assert before == sha(" 2 {}") and identity._content(file, "") == sha(" 2 []")


def test_a_model_counts_by_its_content_and_a_hub_name_by_itself(configure, folder, tmp_path_factory):
    copy = tmp_path_factory.mktemp("copy")
    for name in ("config.json", "b.safetensors", ".hidden.txt"):
        (copy / name).write_bytes((folder / name).read_bytes())
    found = {
        path: hashes(configure("model=minilm", "dataset.test_size=null", f"model.path={path}", "model.name=m"))
        for path in (folder, copy, "some/name", "other/name")
    }
    assert found[folder] == found[copy] and None not in found[folder]
    assert len({each.present for each in found.values()}) == len({each.previous for each in found.values()}) == 3
    (copy / "config.json").write_text("{ }")
    changed = hashes(configure("model=minilm", "dataset.test_size=null", f"model.path={copy}", "model.name=m"))
    assert changed.present != found[copy].present and changed.previous != found[copy].previous


def test_extra_files_count_by_their_names_and_contents(configure, tmp_path_factory):
    place = tmp_path_factory.mktemp("data")
    for name in ("q", "noise", "same"):
        (place / f"{name}.json").write_text("questions" if name == "q" else "noise")

    def of(extra, *more):
        given = ["dataset=file", f"dataset.path={place}/q.json", "dataset.test_size=null", *more]
        return hashes(configure(*given, *([f"++dataset.extra_validation={{{extra}}}"] if extra else [])))

    noisy, same = of(f"a: {place}/noise.json"), of(f"a: {place}/same.json")
    assert noisy == same and noisy.previous is not None
    others = of(""), of(f"b: {place}/noise.json"), of(f"a: {place}/q.json")
    assert len({noisy, *others}) == 4 and len({each.previous for each in (noisy, *others)}) == 4
    there = of("a: noise.json", f"dataset.root={place}")
    assert there == noisy, "by the place that it starts from"


def test_generated_questions_have_no_file(configure):
    config = configure("model=tiny", "dataset.test_size=null")
    before = hashes(config)
    config.dataset.path = "some.json"
    assert identity._data_keys(config) == [] and config_hash(config) != before.present


def test_of_a_data_set_of_the_hub_the_test_set_is_no_file(configure):
    config = configure("dataset=squad")
    assert identity._data_keys(config) == ["dataset.path"]
    config.dataset.source = "file"
    assert identity._data_keys(config) == ["dataset.path", "dataset.test_path"]


def test_version_0_1_did_not_look_into_folders(configure, folder):
    config = configure("dataset=squad", f"dataset.path={folder}", "dataset.test_path=null", "dataset.test_size=null")
    assert previous_hash(config) is None
    (folder / "deep" / "vocab.txt").unlink()
    (folder / "README.md").unlink()
    (folder / ".hidden.txt").unlink()
    assert previous_hash(config) is not None and len(previous_hash(config)) == len(config_hash(config)) == 12


def test_what_a_process_says_of_itself(monkeypatch):
    monkeypatch.setattr(identity.time, "time", lambda: 1234.6)
    mine = process_tags()
    assert mine["process_id"] == str(os.getpid()) and mine["host"] == socket.gethostname()
    assert mine["process_start"] == f"{psutil.Process().create_time():.2f}" and mine["heartbeat"] == "1235"
    assert mine["host_id"] == sha(f"{socket.gethostname()} {identity.uuid.getnode()}")[:12]
    assert (
        describe_process(mine) == f"process {os.getpid()} on {socket.gethostname()}"
        and describe_process({}) == "process ? on ?"
    )


@pytest.mark.parametrize(("apart", "lives"), [(-1.9, True), (0.0, True), (1.9, True), (-2.0, False), (2.0, False)])
def test_the_boot_time_is_known_to_a_second(monkeypatch, apart, lives):
    process = SimpleNamespace(create_time=lambda: 1000.0 + apart, status=lambda: psutil.STATUS_RUNNING)
    monkeypatch.setattr(identity.psutil, "Process", lambda number: process if number == 7 else None)
    assert alive({"host_id": identity._host_id(), "process_id": "7", "process_start": "1000.0"}) is lives


def test_a_zombie_works_on_nothing_and_of_a_stranger_nothing_is_known(monkeypatch):
    tags = {"host_id": identity._host_id(), "process_id": "7", "process_start": "1000.0"}
    zombie = SimpleNamespace(create_time=lambda: 1000.0, status=lambda: psutil.STATUS_ZOMBIE)
    monkeypatch.setattr(identity.psutil, "Process", lambda number: zombie)
    assert alive(tags) is False

    def refuse(number):
        raise psutil.AccessDenied

    monkeypatch.setattr(identity.psutil, "Process", refuse)
    assert alive(tags) is True
    assert alive(tags | {"process_id": "none"}) is False


@pytest.mark.parametrize(("silent", "lives"), [(0, True), (299, True), (300, False), (10_000, False)])
def test_another_machine_is_known_by_its_heartbeat(monkeypatch, silent, lives):
    monkeypatch.setattr(identity.time, "time", lambda: 20_000.0)
    assert alive({"host_id": "elsewhere", "heartbeat": str(20_000 - silent)}) is lives
    assert alive({"host_id": "elsewhere"}) is False
