"""A stored model as a model of MLflow: what `mlflow.pyfunc.load_model` loads and `mlflow models serve` serves.

A run's model folder holds, with the weights, the configuration of the run and the code that answers, so that it is
loaded where this program is not installed; `requirements.txt` there names the packages. An adapter takes its base from
where the run took it (a package or the hub), or from `model_config={"base": FOLDER}` where that was a folder of its
machine; the hash is checked.
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

BASE = "base"  # of `model_config`: the folder or hub name of the model that an adapter belongs on
CONFIG = "run.yaml"  # the configuration of the run, in the folder of its model
# The part of `src` that answers questions.
SHIPPED = ("data", "evaluation", "model", "tasks", "training")
SHIPPED_FILES = ("__init__", "answering", "config", "credentials", "evaluator", "serving")
# What that part imports.
PACKAGES = (
    *("accelerate", "datasets", "evaluate", "filelock", "huggingface-hub", "numpy", "omegaconf", "pandas", "peft"),
    *("psutil", "pyarrow", "pydantic", "pyyaml", "safetensors", "tokenizers", "torch", "transformers"),
)
# What `write` leaves in the folder.
FILES = (
    *("MLmodel", "code", "conda.yaml", "python_env.yaml", "requirements.txt"),
    *("input_example.json", "serving_input_example.json", CONFIG),
)
EXAMPLE = {"question": "Who wrote the first program?", "context": "Ada Lovelace wrote the first program in 1843."}


def write(folder: Path, config: Config, recorded: Mapping[str, Any], run_id: str) -> None:
    """Make an empty folder a model of MLflow; the weights are stored there afterwards.

    Args:
        folder: of the model.
        config: of its run.
        recorded: the configuration as the run keeps it.
        run_id: in MLflow.
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
        logger.setLevel(logging.WARNING)  # it says that it validates the example
        try:
            save_model(
                str(folder),
                loader_module=__name__,
                code_paths=[str(code)],
                signature=ModelSignature(Schema(question), Schema(answer)),
                input_example=pd.DataFrame([EXAMPLE]),
                pip_requirements=requirements(config),
                metadata={"run_id": run_id},
                model_config={BASE: None},  # what is not named here cannot be given later
            )
        finally:
            logger.setLevel(level)
    (folder / CONFIG).write_text(OmegaConf.to_yaml(_without_places(recorded)), encoding="utf-8")


def _without_places(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """What answering needs of a run's configuration, without the places of files on this machine.

    A base that is a folder here is known by its name alone; who loads the model says where it is.
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
    """The packages that a run's model needs, at the versions that are installed, as pip wants them.

    A package of weights that pip must install without its dependencies (`model.install`) is left out; the sentence
    that asks for it says how.
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
        ready: the model.
    """

    def __init__(self, ready: ReadyModel) -> None:
        self.ready = ready
        self.lock = Lock()  # a server calls from several threads

    def predict(self, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Answer questions.

        Args:
            model_input: columns `question` and `context`, a row a question.
            params: MLflow passes some; none has a meaning here.

        Returns:
            A row a question: `answer` (empty: the passage holds none), `score` (its probability), and the characters
            `start` to `end` of the passage (-1 where the answer has no place in it).

        Raises:
            MlflowException: a question or a passage without text.
        """
        from mlflow.exceptions import MlflowException

        table = model_input.reset_index(drop=True)
        for name in ("question", "context"):
            empty = table[name].map(lambda text: not isinstance(text, str) or not text.strip())
            if empty.any():
                raise MlflowException.invalid_parameter_value(
                    f"Row {int(empty.idxmax())}: `{name}` holds no text; give a question and the passage it is about."
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
    """What MLflow calls to load the model.

    Args:
        path: of the model's folder.
        model_config: `base` is the folder or hub name of the model that an adapter belongs on, where it is not where
            the run table it.

    Raises:
        UserError: a base that is not there or is another one; weights that are damaged.
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
