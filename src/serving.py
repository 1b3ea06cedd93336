"""Makes a stored model an MLflow model, for `mlflow.pyfunc.load_model` and `mlflow models serve`.

With the weights, a run's model folder contains the configuration of the run and the code that answers questions, so
that it can be loaded where this program is not installed; its `requirements.txt` lists the packages. An adapter loads
its base from where the run loaded it (a package or the hub). If that was a folder of the run's machine, the base must
be given by `model_config={"base": FOLDER}`. The hash of the base is checked.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import packages_distributions, version
from pathlib import Path
from threading import Lock
from typing import Any

import datasets
import pandas as pd
import torch
import yaml
from omegaconf import OmegaConf

from src.answering import ReadyModel, config_of, place_of, read_folder
from src.config import DATA_FILES, Config, HardwareConfig
from src.tasks.base import NO_PLACE

BASE = "base"  # the key of `model_config` for the folder or hub name of an adapter's base model
CONFIG = "run.yaml"  # the configuration of the run, in the folder of its model
# The part of `src` that answers questions.
SHIPPED = ("data", "evaluation", "model", "tasks", "training")
SHIPPED_FILES = ("__init__", "answering", "config", "credentials", "evaluator", "harmless", "hub", "serving")
# What that part imports.
PACKAGES = (
    *("accelerate", "datasets", "evaluate", "filelock", "huggingface-hub", "numpy", "omegaconf", "pandas", "peft"),
    *("psutil", "pyarrow", "pydantic", "pyyaml", "safetensors", "tokenizers", "torch", "transformers"),
)
# The files that `write` makes.
FILES = (
    *("MLmodel", "code", "conda.yaml", "python_env.yaml", "requirements.txt"),
    *("input_example.json", "serving_input_example.json", CONFIG),
)
EXAMPLE = {"question": "Who wrote the first program?", "context": "Ada Lovelace wrote the first program in 1843."}


def write(folder: Path, config: Config, recorded: Mapping[str, Any], run_id: str) -> None:
    """Make an empty folder an MLflow model; the weights are stored there afterwards.

    Args:
        folder: the folder of the model.
        config: the configuration of its run.
        recorded: the configuration as the run records it.
        run_id: the id of the run in MLflow.
    """
    from mlflow.models import ModelSignature
    from mlflow.pyfunc import save_model
    from mlflow.types import ColSpec, DataType, Schema

    question: list[Any] = [ColSpec(DataType.string, "question"), ColSpec(DataType.string, "context")]
    answer: list[Any] = [ColSpec(DataType.string, "answer"), ColSpec(DataType.double, "score")]
    answer += [ColSpec(DataType.long, "start"), ColSpec(DataType.long, "end")]
    with tempfile.TemporaryDirectory() as temporary:
        code = Path(temporary) / "src"
        here = Path(__file__).parent
        for name in SHIPPED:
            shutil.copytree(here / name, code / name, ignore=shutil.ignore_patterns("__pycache__", "fast"))
        for name in SHIPPED_FILES:
            shutil.copy(here / f"{name}.py", code)
        logger = logging.getLogger("mlflow.pyfunc")
        level = logger.level
        logger.setLevel(logging.WARNING)  # it would log that it validates the example
        try:
            save_model(
                str(folder),
                loader_module=__name__,
                code_paths=[str(code)],
                signature=ModelSignature(Schema(question), Schema(answer)),
                input_example=pd.DataFrame([EXAMPLE]),
                pip_requirements=requirements(config),
                metadata={"run_id": run_id},
                model_config={BASE: None},  # only keys that are listed here can be given later
            )
        finally:
            logger.setLevel(level)
    (folder / CONFIG).write_text(OmegaConf.to_yaml(_without_places(recorded)), encoding="utf-8")


def _without_places(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a run's configuration that answering needs, without paths of this machine.

    If the base is a folder, only its name is kept, and the user of the model gives its path.
    """
    kept = {name: dict(values) for name, values in recorded.items() if name != "tracking"}
    files = {key.removeprefix("dataset."): None for key in DATA_FILES}
    kept["dataset"] |= files | {"root": None, "extra_validation": {}}
    base = kept["model"]["path"]
    if base is not None and Path(base).expanduser().is_dir():
        kept["model"]["path"] = Path(base).name
    kept["model"]["tokenizer"] = None
    return kept


def requirements(config: Config) -> list[str]:
    """The packages that a run's model needs, with their installed versions, in pip's format.

    A package of weights that needs a special command to install it (`model.install`) is left out; the error message
    for a missing package gives the command.
    """
    names = [*PACKAGES]
    if config.model.gguf is not None:
        names.append("gguf")
    if config.method.quantize is not None:
        names.append("bitsandbytes")
    if str(config.model.path).startswith("pkg://") and config.model.install is None:
        module = str(config.model.path).removeprefix("pkg://").partition("/")[0]
        names += packages_distributions().get(module, [])
    return [f"{name}=={version(name).partition('+')[0]}" for name in sorted(set(names))]


class Served:
    """A stored model that answers tables of questions, one table at a time.

    Args:
        ready: the loaded model.
    """

    def __init__(self, ready: ReadyModel) -> None:
        self.ready = ready
        self.lock = Lock()  # a server calls from several threads

    def predict(self, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Answer questions.

        Args:
            model_input: columns `question` and `context`, one row for each question.
            params: MLflow may pass some; they have no effect.

        Returns:
            One row for each question: `answer` (empty if the passage has none), `score` (its probability), and the
            characters `start` to `end` of the passage (-1 if the answer has no place in it).

        Raises:
            MlflowException: a question or a passage has no text.
        """
        from mlflow.exceptions import MlflowException

        table = model_input.reset_index(drop=True)
        for name in ("question", "context"):
            empty = table[name].map(lambda text: not isinstance(text, str) or not text.strip())
            if empty.any():
                raise MlflowException.invalid_parameter_value(
                    f"Row {int(empty.idxmax())}: `{name}` is empty; give a question and the passage it is about."
                )
        rows = [
            {"id": str(number), "question": question, "context": context}
            for number, (question, context) in enumerate(zip(table["question"], table["context"], strict=True))
        ]
        with self.lock:
            answers = self.ready.answer(rows)
        answered = []
        for row, answer in zip(rows, answers, strict=True):
            start, end = place_of(answer.best, row["context"]) or (NO_PLACE, NO_PLACE)
            answered.append((answer.best.text, answer.best.probability, start, end))
        return pd.DataFrame(answered, columns=["answer", "score", "start", "end"], index=model_input.index)


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> Served:
    """Load the model; MLflow calls this function.

    Args:
        path: the folder of the model.
        model_config: `base` is the folder or hub name of an adapter's base, if it is not where the run loaded it.

    Raises:
        UserError: the base is missing or a different model, or the weights are damaged.
    """
    from mlflow.models import Model

    folder = Path(path)
    datasets.disable_progress_bars()
    config = config_of(yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8")))
    # Device, threads and micro-batches were chosen for the machine of the run.
    precision = config.hardware.precision
    if precision == "fp16" and not torch.cuda.is_available():
        precision = "auto"
    config.hardware = HardwareConfig(name="serving", precision=precision)
    run_id = (Model.load(path).metadata or {})["run_id"]
    return Served(read_folder(config, folder, run_id, (model_config or {}).get(BASE)))
