"""The package as pip installs it: what it holds, and that it runs from any folder."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from src import cli
from src.config import ROOT
from src.runs import provenance
from tests.conftest import own_csv, question, squad_json

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FOLDERS = ("src", "conf", "experiments", "hydra_plugins", "tests", "docs", "benchmarks")
FILES = ("pyproject.toml", "MANIFEST.in", "LICENSE", "CITATION.cff", "mkdocs.yml")
BUILT_FROM = (*FOLDERS, *FILES, *(page.name for page in ROOT.glob("*.md")))


def wheel_of(source: Path, folder: Path) -> Path:
    """Build a wheel without a network."""
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "-w", folder, source], check=True)
    [wheel] = folder.glob("*.whl")
    return wheel


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy to build in: builds leave folders behind."""
    folder = tmp_path_factory.mktemp("source")
    for name in BUILT_FROM:
        path = ROOT / name
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(path, folder / name, ignore=ignore) if path.is_dir() else shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    return wheel_of(source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """What runs in a folder with the installed package: installed("-m", "src.train", ...)."""
    site, elsewhere = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("elsewhere")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel]
    subprocess.run(pip, check=True)

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *(argument.replace("SITE", str(site)) for argument in arguments)],
            cwd=elsewhere,
            env={**os.environ, "PYTHONPATH": str(site), **environment},
            capture_output=True,
            text=True,
            timeout=300,
        )

    run.folder = elsewhere
    return run


def test_the_wheel_holds_every_module_and_every_setting(wheel):
    held = contents(wheel)
    for folder, inside in {"src": "src", "conf": "src/conf", "experiments": "src/experiments"}.items():
        for path in (ROOT / folder).rglob("*"):
            name = f"{inside}/{path.relative_to(ROOT / folder).as_posix()}"
            if path.suffix in (".py", ".yaml") or path.name == "page.html":
                assert held.get(name) == path.read_bytes(), name
    assert "hydra_plugins/tuneoff/optuna_sweeper.py" in held
    assert {name.split("/")[0] for name in held} == {"src", "hydra_plugins", f"tuneoff-{PROJECT['version']}.dist-info"}


def test_the_wheel_declares_what_pyproject_says(wheel):
    held = contents(wheel)
    folder = f"tuneoff-{PROJECT['version']}.dist-info"
    declared = Parser().parsestr(held[f"{folder}/METADATA"].decode())
    required = {line for line in declared.get_all("Requires-Dist", []) if "extra ==" not in line}
    expected = {(re.split(r"[<>=]", line)[0], tuple(sorted(re.findall(r"[<>=][^,]*", line)))) for line in required}
    assert expected == {
        (re.split(r"[<>=]", line)[0], tuple(sorted(re.findall(r"[<>=][^,]*", line))))
        for line in PROJECT["dependencies"]
    }
    scripts = configparser.ConfigParser()
    scripts.read_string(held[f"{folder}/entry_points.txt"].decode())
    assert dict(scripts["console_scripts"]) == {"tuneoff": "src.cli:main"}


@pytest.mark.slow
def test_the_source_archive_builds_the_same_wheel(source, wheel, tmp_path):
    build = "import setuptools.build_meta as build; build.build_sdist('dist')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    [archive] = (source / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as held:
        names = {name.partition("/")[2] for name in held.getnames()}
    files = [path for name in BUILT_FROM for path in (source / name, *(source / name).rglob("*")) if path.is_file()]
    assert {path.relative_to(source).as_posix() for path in files} - names == set()
    assert contents(wheel_of(archive, tmp_path)) == contents(wheel)


@pytest.mark.slow
def test_the_installed_command_trains_in_any_folder(installed):
    """On a terminal that shows ASCII alone, with texts of more than that."""
    articles = [
        (f"T{i}", "Zoë Groß wohnt in Łódź.", [question(f"q{i}", f"Wo wohnt Zoë{i}?", [("Łódź", 18)])])
        for i in range(12)
    ]
    squad_json(installed.folder / "cities.json", articles)
    settings = ["model=tiny", "dataset=file", "dataset.path=cities.json", "train.epochs=1", "train.batch_size=4"]
    shown = installed("SITE/bin/tuneoff", "train", *settings, "method=head", PYTHONIOENCODING="ascii")
    assert shown.returncode == 0, shown.stderr
    assert "Wo wohnt Zo?" in shown.stdout
    assert shown.stderr == ""
    client = MlflowClient(f"sqlite:///{installed.folder / 'mlruns' / 'mlflow.db'}")
    [run] = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert run.info.status == "FINISHED"
    assert run.data.tags["command"] == " ".join([*settings, "method=head"])
    assert run.data.tags["git_commit"] == PROJECT["version"]


@pytest.mark.slow
def test_the_installed_command_checks_and_plans_in_any_folder(installed):
    own_csv(installed.folder / "questions.csv")
    checked = installed("SITE/bin/tuneoff", "check", "questions.csv")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "  tuneoff train dataset.path=questions.csv method=lora\n" in checked.stdout
    planned = installed("SITE/bin/tuneoff", "plan", "probe=false", "method=full,lora")
    assert (planned.returncode, planned.stderr) == (0, "")
    assert "12 runs at least, 6 of each method" in planned.stdout


def test_the_installed_package_has_its_experiments(installed):
    shown = installed("-m", "src.train", "experiments=demo", "--cfg", "job")
    assert shown.returncode == 0, shown.stderr
    assert yaml.safe_load(shown.stdout)["train"]["epochs"] == 2, "without the experiment it is 3"


def test_the_installed_command_says_its_version(installed):
    shown = installed("SITE/bin/tuneoff", "--version")
    assert shown.stdout == f"tuneoff {PROJECT['version']}\n"


def test_the_commit_is_that_of_the_code_and_of_no_repository_around_it(tmp_path, monkeypatch):
    assert re.match(r"[0-9a-f]{40}(-dirty)?$", provenance.git_commit.__wrapped__())
    for command in (
        ["init", "-q"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x", "--allow-empty"],
    ):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    (tmp_path / "site-packages").mkdir()
    monkeypatch.setattr(provenance, "ROOT", tmp_path / "site-packages")
    assert provenance.git_commit.__wrapped__() == provenance.package_version()
    monkeypatch.setattr(provenance, "version", lambda name: metadata.version("no such package"))
    assert provenance.git_commit.__wrapped__() == "unknown"


# The command `tuneoff`


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_names_every_command(monkeypatch, capsys, arguments):
    monkeypatch.setattr(sys, "argv", ["tuneoff", *arguments])
    cli.main()
    assert re.findall(r"^    tuneoff (\w+) ", capsys.readouterr().out, re.MULTILINE) == list(cli.COMMANDS)


def test_a_command_gets_its_own_arguments(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tuneoff", "compare", "swep=x"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert "There is no key 'swep' (did you mean 'sweep'?)" in capsys.readouterr().err
    assert sys.argv == ["tuneoff compare", "swep=x"]


def test_an_unknown_command_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tuneoff", "trian"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "Error: There is no command 'trian' (did you mean 'train'?); there are: plan, settle, train, compare, "
        "predict, export, serve, errors, ui, runs, check.\n"
    )


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "abstract"} <= citation.keys()
    assert citation["authors"] == [{"name": "tuneoff maintainers"}]
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
