"""A run made again from its id or from its own config.yaml."""

from __future__ import annotations

import pytest
import yaml
from hydra import compose, initialize_config_dir

from src.compose import completed, from_hydra
from src.config import UserError
from src.problems import validate
from src.run import run
from src.runs.origin import begin_from
from tests.conftest import TINY
from tests.test_run import artifact, client_of, runs_of


@pytest.fixture(scope="module")
def original(configure, tmp_path_factory):
    """A store with a finished run that differs from every default."""
    folder = tmp_path_factory.mktemp("store")
    settings = ["method=ia3", "model.max_length=96", "train.seed=3", "train.learning_rate=2e-3", "dataset.seed=1"]
    return folder, run(configure(*TINY, *settings, f"tracking.folder={folder}"))


def composed(arguments, folder):
    """What `src.train` composes from its command line."""
    primary, rest = begin_from(arguments, folder)
    with initialize_config_dir(config_dir=primary.folder, version_base="1.3"):
        config = from_hydra(compose(config_name=primary.name, overrides=rest), rest)
    validate(config)
    return config


@pytest.mark.slow
def test_a_run_is_reproduced_to_the_bit(original, tmp_path, capsys):
    folder, first = original
    config = composed([f"from_run={first.run_id[:8]}", f"tracking.folder={folder}"], tmp_path)
    assert (config.from_run, config.method.name, config.train.seed) == (first.run_id, "ia3", 3)
    again = run(config)
    assert again.run_id != first.run_id
    measured = ("time/", "speed/", "memory/")
    for key, value in first.metrics.items():
        assert key.startswith(measured) or again.metrics[key] == value, key
    said = capsys.readouterr().out
    assert f"This run reproduces {first.run_id}: data, code, packages and hardware are the same." in said
    assert f"The run that this one reproduces had EM {first.metrics['quality/exact_match']:.1f}, F1 " in said
    assert client_of(folder).get_run(again.run_id).data.tags["reproduces"] == first.run_id
    assert run(config).run_id == again.run_id, "asked for twice, it is done already"


@pytest.mark.slow
def test_what_differs_is_said(original, tmp_path, capsys):
    folder, first = original
    client = client_of(folder)
    client.set_tag(first.run_id, "git_commit", "0123abc")
    environment = artifact(client, first.run_id, "environment.txt", tmp_path).read_text()
    [torch] = [line for line in environment.splitlines() if line.startswith("torch==")]
    client.log_text(first.run_id, environment.replace(torch, "torch==1.0"), "environment.txt")
    arguments = [f"from_run={first.run_id}", f"tracking.folder={folder}", "dataset.seed=2", "rerun=true"]
    run(composed(arguments, tmp_path))
    said = capsys.readouterr().out
    assert "The train data differ: digest " in said and "The validation data differ: digest " in said
    assert "The code differs: 0123abc then, " in said
    assert f"torch differs: 1.0 then, {torch.removeprefix('torch==')} now." in said


@pytest.mark.slow
def test_a_runs_own_configuration_is_enough(original, tmp_path):
    folder, first = original
    file = artifact(client_of(folder), first.run_id, "config.yaml", tmp_path)
    config = composed([f"from_run={file}", f"tracking.folder={tmp_path}", "train.epochs=1"], tmp_path)
    assert (config.method.name, config.train.learning_rate, config.train.epochs) == ("ia3", 2e-3, 1)
    result = run(config)
    [found] = runs_of(tmp_path)
    assert (found.info.run_id, found.info.status) == (result.run_id, "FINISHED")


@pytest.mark.slow
def test_short_forms_change_what_is_made_again(original, tmp_path):
    folder, first = original
    arguments = completed([f"from_run={first.run_id[:8]}", "--cfg", "job", f"folder={folder}", "seed=9", "epochs=5"])
    assert arguments[:2] == ["--cfg", "job"]
    config = composed(arguments[2:], tmp_path)
    assert (config.from_run, config.train.seed, config.train.epochs, config.method.name) == (first.run_id, 9, 5, "ia3")


@pytest.mark.slow
def test_a_tampered_configuration_gains_nothing(original, tmp_path):
    folder, first = original
    values = yaml.safe_load(artifact(client_of(folder), first.run_id, "config.yaml", tmp_path).read_text())
    file = tmp_path / "tampered.yaml"
    values["model"]["trust_remote_code"] = True
    values["hydra"] = {"callbacks": {"evil": {"_target_": "os.abort"}}}
    file.write_text(yaml.safe_dump(values))
    assert composed([f"from_run={file}"], tmp_path).model.trust_remote_code is False
    values["model"]["name"] = "${oc.env:HOME}"
    file.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError, match="holds an interpolation"):
        composed([f"from_run={file}"], tmp_path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("a: [", "is not valid YAML"), ("- 1", "is not the config.yaml of a run: it needs dataset"), (None, "not exist")],
)
@pytest.mark.slow
def test_a_file_that_is_not_a_configuration_is_one_sentence(tmp_path, text, sentence):
    file = tmp_path / "mine.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=sentence):
        begin_from([f"from_run={file}"], tmp_path)
