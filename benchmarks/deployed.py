"""Hold every form in which a run's model is used against the answers of the run: how many are the same, and how fast.

    python -m benchmarks.deployed run=RUN [questions=200] [folder=mlruns] [to=FOLDER] ['forms=[predict,onnx]']

The forms are `predict` (as `src.predict`), `pyfunc` (the model that MLflow loads), `served` (by `mlflow models serve`,
over HTTP), and the exported folders `stored`, `merged` and `onnx`. `to=` keeps these folders.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from pydantic import Field

from src import export
from src.answering import load_run
from src.arguments import Listed, ModelArguments, read
from src.compose import MISTAKES, fail
from src.console import begin
from src.runs.store import connect
from src.server import end_with_children

AT_ONCE = 16  # questions in a request: MLflow's server gives up on one after 60 s
ANSWERED = Callable[[Sequence[dict[str, Any]]], list[str]]


class Arguments(ModelArguments):
    """What benchmarks.deployed takes."""

    run: str = Field(description="the beginning of a run's id, its name, or best")
    questions: int = Field(200, ge=1, description="of those that the run was scored on")
    forms: Listed[str] = Field([], description="some of them alone")
    to: Path | None = Field(None, description="a folder that keeps what is exported")


def main() -> None:
    """The command line."""
    try:
        begin()
        given = read(Arguments, sys.argv[1:] or ["--help"], str(__doc__))
        stored = load_run(given.run, given.tracking(), given.trust_remote_code, given.base)
        rows = export.scored_questions(stored, given.questions)
        print(
            f"{stored.name}, {stored.id[:8]}, {stored.config.model.name}, {len(rows):,} questions, {stored.runtime}\n"
        )
        print("| form | same answers as the run | questions/s | ready after (s) |\n|---|---:|---:|---:|")
        with tempfile.TemporaryDirectory() as temporary:
            for name, make in forms(given, stored, given.to or Path(temporary)).items():
                if not given.forms or name in given.forms:
                    print(measured(name, make, rows), flush=True)
    except MISTAKES as error:
        fail(error)


def measured(name: str, make: Callable[[], tuple[ANSWERED, Callable[[], None]]], rows: Sequence[dict[str, Any]]) -> str:
    """A row of the table."""
    begun = time.perf_counter()
    answer, end = make()
    ready = time.perf_counter() - begun
    try:
        begun = time.perf_counter()
        answers = answer(rows)
        seconds = time.perf_counter() - begun
    finally:
        end()
    same = sum(text == row["predicted"] for text, row in zip(answers, rows, strict=True))
    return f"| {name} | {same:,} of {len(rows):,} | {len(rows) / seconds:.1f} | {ready:.1f} |"


def forms(given: Arguments, stored: Any, folder: Path) -> dict[str, Callable[[], tuple[ANSWERED, Callable[[], None]]]]:
    """What loads each form: it gives what answers, and what ends it."""
    store = connect(stored.tracking, create=False)
    uri = f"runs:/{stored.id}/model"
    os.environ |= {"MLFLOW_TRACKING_URI": store.uri, "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}

    def predicted() -> tuple[ANSWERED, Callable[[], None]]:
        run = load_run(given.run, given.tracking(), given.trust_remote_code, given.base)
        return (lambda rows: [answer.best.text for answer in run.answer(_asked(rows))]), _nothing

    def loaded() -> tuple[ANSWERED, Callable[[], None]]:
        model = mlflow.pyfunc.load_model(uri)
        return (lambda rows: list(model.predict(pd.DataFrame(_asked(rows)).drop(columns="id"))["answer"])), _nothing

    def exported(name: str, **how: str) -> Callable[[], tuple[ANSWERED, Callable[[], None]]]:
        def make() -> tuple[ANSWERED, Callable[[], None]]:
            to = folder / name
            words = [f"run={given.run}", f"to={to}", "questions=0", f"folder={given.folder}"]
            subprocess.run(
                [sys.executable, "-m", "src.export", *words, *(f"{key}={value}" for key, value in how.items())],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            alone = export.read_alone(stored, to)
            return (lambda rows: [answer.best.text for answer in alone.answer(_asked(rows))]), _nothing

        return make

    return {
        "predict": predicted,
        "pyfunc": loaded,
        "served": lambda: _served(uri),
        "stored": exported("stored"),
        "merged": exported("merged", merged="true"),
        "onnx": exported("onnx", format="onnx"),
    }


def _served(uri: str) -> tuple[ANSWERED, Callable[[], None]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", uri, "--env-manager", "local", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    while True:
        try:
            urllib.request.urlopen(f"{address}/ping", timeout=5).close()
            break
        except OSError:
            if server.poll() is not None:
                raise
            time.sleep(0.2)

    def answer(rows: Sequence[dict[str, Any]]) -> list[str]:
        answers = []
        for start in range(0, len(rows), AT_ONCE):
            records = [{key: row[key] for key in ("question", "context")} for row in rows[start : start + AT_ONCE]]
            body = json.dumps({"dataframe_records": records}).encode()
            request = urllib.request.Request(f"{address}/invocations", body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request) as response:
                answers += [prediction["answer"] for prediction in json.load(response)["predictions"]]
        return answers

    return answer, lambda: end_with_children(server)


def _asked(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: row[key] for key in ("id", "question", "context")} for row in rows]


def _nothing() -> None:
    pass


if __name__ == "__main__":
    main()
