"""Shared by all tests: no network, caches of their own, and the real command line."""

from __future__ import annotations

import csv
import gc
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

# Before any library reads them. Port 9 of this machine answers nobody: a hub that is out of reach.
CACHE = tempfile.mkdtemp(prefix="tuneoff-tests-")
os.environ |= {
    "HF_HOME": CACHE,
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_ENDPOINT": "http://127.0.0.1:9",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",  # two tests run at once; and sums are added up in one order
}

import pytest
from hydra import compose, initialize_config_dir

from src.compose import completed, from_hydra, register
from src.config import ROOT, Config
from src.data import sample
from tests.forked import forked

register()

SIZES = ["dataset.train_size=64", "dataset.validation_size=24", "dataset.test_size=16"]
TINY = ["model=tiny", *SIZES, "train.epochs=2", "train.batch_size=8"]


# The files that take longest, first: at the end no worker is left with one of them while the others have nothing to do.
LONGEST = ("test_launchers", "test_sweep", "test_resume", "test_sweep_ends", "test_run", "test_server", "test_pinned")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        return LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST)

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """Leave what the imports have made out of later collections: each run of a test's own process makes one."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With TUNEOFF_NO_SKIPS=1, as in .ci/run, a skipped test fails the suite: what it needs is to be installed."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter is not None else []  # the workers of xdist have none
    if os.environ.get("TUNEOFF_NO_SKIPS") == "1" and skipped and session.exitstatus == pytest.ExitCode.OK:
        for report in skipped:
            reporter.write_line(f"SKIPPED, which TUNEOFF_NO_SKIPS=1 forbids: {report.nodeid} {report.longrepr[-1]}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without a run. Making its tables takes seconds, so most tests begin with a copy."""
    from mlflow import MlflowClient

    file = tmp_path_factory.mktemp("empty") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def tmp_path(tmp_path: Path, empty_store: Path) -> Path:
    shutil.copy(empty_store, tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def configure() -> Callable[..., Any]:
    """Compose a configuration as the command line does: configure("method=full", ...)."""

    def composed(*given: str) -> Config:
        overrides = completed(given)
        with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
            return from_hydra(compose(config_name="config", overrides=overrides), overrides)

    return composed


@pytest.fixture(scope="session")
def server() -> None:
    """The server that processes of the tests themselves are forked from, as for a sweep."""
    from src.runs.isolation import start_server
    from src.sweep import PRELOADED

    start_server(PRELOADED)


@pytest.fixture(scope="session")
def minilm_tokenizer(configure: Callable[..., Config]) -> Any:
    from src.model.backbone import load_tokenizer

    return load_tokenizer(configure("model=minilm").model)


@pytest.fixture(scope="module")
def base_folder(
    configure: Callable[..., Config], minilm_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A small model of random weights, as a folder."""
    from src.model import backbone

    folder = tmp_path_factory.mktemp("models") / "my_base"
    backbone.load_model(configure("model=tiny").model, 0.1, 0.0, seed=5).save_pretrained(folder)
    minilm_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def command(server: None) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `python -m MODULE ARGUMENTS` in the repository, in a forked process (`tests.forked`)."""
    return forked


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Call a command's main() in this process: ended(module, *arguments) gives exit status, stdout and stderr."""

    def call(module: ModuleType, *arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [module.__name__, *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        status: Any = 0
        try:
            module.main()
        except SystemExit as end:
            status = end.code
        return (status, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def fresh_command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `python -m MODULE ARGUMENTS` in the repository, in a fresh interpreter."""

    def run(module: str, *arguments: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300, **kwargs
        )

    return run


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium, the system's own."""
    from playwright.sync_api import sync_playwright

    installed = shutil.which("chromium") or shutil.which("google-chrome")
    if installed is None:
        pytest.skip("no chromium is installed (Debian: apt install chromium)")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=installed, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


def squad_json(path: Path, articles: list[tuple[str, str, list[dict[str, Any]]]]) -> Path:
    """Write (title, context, questions) triples in SQuAD's nested form."""
    data = [{"title": t, "paragraphs": [{"context": c, "qas": qas}]} for t, c, qas in articles]
    path.write_text(json.dumps({"version": "1.1", "data": data}, ensure_ascii=False), encoding="utf-8")
    return path


def question(id: str, text: str = "Who?", answers: list[tuple[str, int]] | None = None, **more: Any) -> dict[str, Any]:
    found = [{"text": answer, "answer_start": start} for answer, start in answers or []]
    return {"id": id, "question": text, "answers": found, **more}


def own_csv(path: Path, questions: int = 300, delimiter: str = ";", rows: list[list[str]] | None = None) -> Path:
    """Write a file as a spreadsheet does: generated questions with one plain answer, then `rows` of one's own."""
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["question", "context", "answer"])
        for record in sample.generate(questions, 0, "train"):
            writer.writerow([record["question"], record["context"], record["answers"]["text"][0]])
        writer.writerows(rows or [])
    return path
