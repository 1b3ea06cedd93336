"""Runs as `src.train` leaves them in MLflow, without the training: for tests of what reads them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

from src.config import TrackingConfig
from src.runs.records import Record, short_key
from src.runs.store import connect

QUESTIONS = 300
SCORES = ("exact_match", "f1")
WORDS = ("What", "Who", "When", "How many")


class Store:
    """A store of its own, and a way to put runs into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tracking = TrackingConfig(folder=str(folder))
        self.store = connect(self.tracking)
        self.client: MlflowClient = self.store.client
        self.experiment = self.store.experiment

    def record(self, run_id: str) -> Record:
        return self.store.record(run_id)

    def run(
        self,
        method: str,
        rate: float,
        right: float,
        seed: int = 0,
        status: str = "FINISHED",
        params: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
        digests: tuple[str, str] = ("train-a", "validation-a"),
        questions: int = QUESTIONS,
        trained: int = 4000,
        context: Callable[[int], str] = lambda i: f"Passage {i} says answer {i}.",
        title: Callable[[int], str] | None = None,
        test: int = 0,
        test_right: float | None = None,
        test_digest: str = "test-a",
    ) -> str:
        """Log a run that answers the share `right` of its questions; gives its id.

        Args:
            method, rate, seed, status, params, metrics, tags: of the run.
            right: share of the questions that it answers rightly.
            digests: of the training and the validation questions.
            questions: how many there are for validation.
            trained: how many it was trained on.
            context: the passage of each question, by its number.
            title: of its article. Without it, and without a test set, the rows are as version 0.1 left them.
            test: how many questions the test set has; it has passages and articles of its own.
            test_right: share of these that it answers rightly; as `right` where it is not given.
            test_digest: of the test questions.
        """
        name = f"{method} lr={rate:g} epochs=3 seed={seed}"
        created = self.client.create_run(self.experiment, run_name=name)
        id = str(created.info.run_id)
        peft = {"method.peft.peft_type": "LORA"} if method.startswith("lora") else {"method.peft": "None"}
        trainable = {"full": "['*']", "head": "['head']"}.get(method, "None")
        known = {
            "method.name": method,
            "model.name": "minilm",
            "dataset.name": "wiki",
            "train.learning_rate": rate,
            "train.epochs": 3,
            "train.seed": seed,
            "train.batch_size": 16,
            "train.gradient_accumulation_steps": 1,
            "hardware.precision": "auto",
            "method.trainable": trainable,
            **peft,
            **(params or {}),
        }
        draws = [seed, round(1e7 * rate), len(method)]
        table = _answered(questions, right, draws, context)
        if title is not None or test:
            table = _placed(table, "validation", title or (lambda i: f"Article {i // 5}"))
        tested = _answered(
            test, right if test_right is None else test_right, [*draws, 1], lambda i: f"Test: {context(i)}"
        )
        tested = _placed(tested, "test", lambda i: f"Test article {i // 5}")
        adapts = 0 if method in ("full", "head") else 600
        measured = {
            **{f"quality/{score}": 100 * float(table[score].mean()) for score in SCORES},
            **({f"test/{score}": 100 * float(tested[score].mean()) for score in SCORES} if test else {}),
            "params/trainable": {"full": 20_000, "head": 770}.get(method, 1370),
            "params/total": 20_000,
            "params/trainable_percent": 100 if method == "full" else 6.85,
            "params/adapter": adapts,
            "params/head": 770,
            "params/backbone": 19_230 if method == "full" else 0,
            "time/train_seconds": 100 if method == "full" else 70,
            "speed/examples_per_second": 36 if method == "full" else 49,
            "memory/peak_train_mb": 800 if method == "full" else 430,
            "storage/checkpoint_mb": 90 if method == "full" else 2.7,
            "train/steps": 250 * int(known["train.epochs"]),
            "train/initial_loss": 5.1,
            "train/final_loss": 1.9,
            "forgetting/cka": 0.8 if method == "full" else 0.9,
            **(metrics or {}),
        }
        logged = [Metric(key, value, 1_700_000_000_000, 0) for key, value in measured.items()]
        for step in range(1, 31):
            logged.append(Metric("train/loss", 5 / step, 1_700_000_000_000 + 500 * step, step))
        for epoch in range(4):
            share = epoch / 3
            logged.append(Metric("eval/f1", share * measured["quality/f1"], 1_700_000_000_000, epoch))
            logged.append(Metric("eval/exact_match", share * measured["quality/exact_match"], 1_700_000_000_000, epoch))
        told = {"method": method, "hardware": "CPU, 2 threads, bf16", "host": "here", **(tags or {})}
        self.client.log_batch(
            id,
            logged if status == "FINISHED" else [],
            [Param(key, str(value)) for key, value in known.items()],
            [RunTag(key, value) for key, value in told.items()],
        )
        if status == "FINISHED":
            sets = {"train": (digests[0], trained), "validation": (digests[1], questions)}
            inputs = [
                DatasetInput(
                    Dataset("wiki", digest, "local", "{}", profile=f'{{"num_rows": {rows}}}'),
                    [InputTag("mlflow.data.context", role)],
                )
                for role, (digest, rows) in (sets | ({"test": (test_digest, test)} if test else {})).items()
            ]
            self.client.log_inputs(id, inputs)
            if test:
                table = pd.concat([table, tested], ignore_index=True)
            with tempfile.TemporaryDirectory() as temporary:
                file = Path(temporary) / "questions.parquet"
                table.to_parquet(file, compression="zstd", index=False)
                self.client.log_artifact(id, str(file))
        self.client.set_terminated(id, status)
        return id

    def fair(self) -> None:
        """Full and LoRA at three rates each, the middle one best, two seeds there."""
        for method, rates in (("full", (3e-5, 1e-4, 3e-4)), ("lora", (3e-4, 1e-3, 3e-3))):
            for rate, right in zip(rates, (0.4, 0.6, 0.5), strict=True):
                for seed in (0, 1):
                    self.run(method, rate, right, seed)


def _answered(number: int, right: float, draws: Sequence[int], context: Callable[[int], str]) -> pd.DataFrame:
    """The rows of `questions.parquet` for so many questions, of which the share `right` is answered rightly."""
    hard = np.random.default_rng(0).random(number)
    exact = hard + np.random.default_rng(draws).normal(0, 0.1, number) < right
    return pd.DataFrame(
        {
            "id": [f"q{i}" for i in range(number)],
            "question": [f"{WORDS[i % 4]} is number {i}?" for i in range(number)],
            "predicted": [f"answer {i}" if exact[i] else "another" for i in range(number)],
            "kind": ["right" if exact[i] else "not in the passage" for i in range(number)],
            "answers": [[f"answer {i}"] for i in range(number)],
            "exact_match": exact.astype(float),
            "f1": np.where(exact, 1.0, np.where(hard < 0.9, 0.4, 0.0)).astype("float32"),
            "context": [context(i) for i in range(number)],
        }
    )


def _placed(table: pd.DataFrame, split: str, title: Callable[[int], str]) -> pd.DataFrame:
    """The rows with the set, the article and the passage that each belongs to."""
    titles = [title(i) for i in range(len(table))]
    passages = [short_key(text) for text in table["context"]]
    return table.assign(split=split, title=titles, article=[short_key(name) for name in titles], passage=passages)
