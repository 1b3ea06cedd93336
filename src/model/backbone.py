"""Weights in: the encoder with its question-answering head, and its tokenizer.

From the hub, a folder, a Python package that carries weights, or random. safetensors alone is read, because
loading a pickle runs whatever is in it.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging

from src.config import ModelConfig, UserError
from src.tasks import task_of

# What the architectures call the two kinds of dropout.
ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")
HIDDEN_DROPOUT = (
    *("hidden_dropout_prob", "dropout", "embedding_dropout", "mlp_dropout", "qa_dropout"),
    *("embd_pdrop", "resid_pdrop"),  # of GPT-2
)
PACKAGE = "pkg://"


def load_tokenizer(config: ModelConfig) -> Any:
    """The tokenizer of a model.

    Raises:
        UserError: it cannot be found.
    """
    name = config.tokenizer or config.path
    try:
        return AutoTokenizer.from_pretrained(
            locate(str(name)), revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError, ImportError) as error:
        raise unreachable(f"The tokenizer of {name}", error) from error


def load_model(config: ModelConfig, hidden_dropout: float, attention_dropout: float, seed: int) -> PreTrainedModel:
    """The model in fp32, on the CPU; new weights depend on `seed` alone.

    Args:
        config: what to load.
        hidden_dropout, attention_dropout: probabilities, put where the architecture keeps its own.
        seed: for the weights that no checkpoint holds (the new head; everything where `pretrained` is false).

    Raises:
        UserError: weights that are missing, not safetensors, of another architecture, or with another hash.
    """
    logging.set_verbosity_error()  # its load report is replaced by the check of the missing keys below
    logging.disable_progress_bar()
    architecture = _architecture(config)
    _set_dropout(architecture, hidden_dropout, attention_dropout)
    longest = getattr(architecture, "max_position_embeddings", None)
    if longest is not None:
        # RoBERTa counts its positions from behind the padding token's.
        usable = longest - (architecture.pad_token_id + 1 if "roberta" in architecture.model_type else 0)
        if config.max_length > usable:
            raise UserError(
                f"model.max_length={config.max_length} is more than the {usable} positions of {config.name}."
            )

    auto_model = task_of(config).auto_model
    torch.manual_seed(seed)
    if not config.pretrained:
        return auto_model.from_config(architecture, trust_remote_code=config.trust_remote_code)
    path = locate(str(config.path))
    if config.sha256 is not None:
        _check_hash(Path(path) / "model.safetensors", config.sha256)
    try:
        model, loading = auto_model.from_pretrained(
            path,
            config=architecture,
            revision=config.revision,
            trust_remote_code=config.trust_remote_code,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise unreachable(f"The weights of {config.path}", error) from error
    missing = [name for name in loading["missing_keys"] if name.startswith(model.base_model_prefix + ".")]
    if missing:
        raise UserError(
            f"The weights of {config.path} lack {len(missing)} parameters of the {architecture.model_type} encoder "
            f"({missing[0]}, ...); they are of another architecture."
        )
    return model


def _set_dropout(architecture: PretrainedConfig, hidden: float, attention: float) -> None:
    for names, probability in ((HIDDEN_DROPOUT, hidden), (ATTENTION_DROPOUT, attention)):
        for name in names:
            if hasattr(architecture, name):
                setattr(architecture, name, probability)


def shape_only(config: ModelConfig, hidden_dropout: float, attention_dropout: float) -> PreTrainedModel:
    """A model of this shape for `config.task`, for the meta device: no weights are read, and no hub is asked.

    Its configuration comes from `model.config` where the weights are random, else from the local folder that
    `model.path` names, else from `model.shape`, else from what the hub's cache holds.

    Args:
        config: the model.
        hidden_dropout, attention_dropout: probabilities, put where the architecture keeps its own.

    Raises:
        UserError: none of them says what shape the model has.
    """
    architecture = _shape(config)
    _set_dropout(architecture, hidden_dropout, attention_dropout)
    return task_of(config).auto_model.from_config(architecture, trust_remote_code=config.trust_remote_code)


def _shape(config: ModelConfig) -> PretrainedConfig:
    local = config.path is not None and (Path(locate(config.path)) / "config.json").exists()
    try:
        if config.shape and config.pretrained and not local:
            return AutoConfig.for_model(str(config.model_type), **{**config.shape, **config.config})
        return _architecture(config, local_files_only=True)
    except UserError as error:
        raise UserError(
            f"The shape of {config.path} is not known here: put the values of its config.json under `shape:` in "
            f"conf/model/{config.name}.yaml, or name a local folder in model.path."
        ) from error


def load_masked_lm(config: ModelConfig) -> PreTrainedModel | None:
    """The checkpoint with its own masked-language-model head; None where it holds none."""
    if not config.pretrained or type(_architecture(config)) not in AutoModelForMaskedLM._model_mapping:
        return None
    logging.set_verbosity_error()
    model, loading = AutoModelForMaskedLM.from_pretrained(
        locate(str(config.path)),
        config=_architecture(config),
        revision=config.revision,
        trust_remote_code=config.trust_remote_code,
        use_safetensors=True,
        dtype=torch.float32,
        output_loading_info=True,
    )
    return None if loading["missing_keys"] else model


def checkpoint_gradients(model: PreTrainedModel) -> None:
    """Keep the input of each layer alone for the backward pass, and compute the layer again there.

    Raises:
        UserError: the architecture cannot.
    """
    if not model.supports_gradient_checkpointing:
        raise UserError(f"train.gradient_checkpointing=true: {type(model).__name__} does not support it.")
    model.gradient_checkpointing_enable({"use_reentrant": False})  # reentrant: no gradient where embeddings are frozen


def _architecture(config: ModelConfig, local_files_only: bool = False) -> PretrainedConfig:
    try:
        if not config.pretrained:
            return AutoConfig.for_model(str(config.model_type), **config.config)
        return AutoConfig.from_pretrained(
            locate(str(config.path)),
            revision=config.revision,
            trust_remote_code=config.trust_remote_code,
            local_files_only=local_files_only,
            **config.config,
        )
    except (OSError, ValueError) as error:
        raise unreachable(f"The configuration of {config.path or config.model_type}", error) from error


def locate(path: str) -> str:
    """A hub name or a folder as it is; pkg://PACKAGE/FOLDER as the folder inside the installed package."""
    if not path.startswith(PACKAGE):
        return str(Path(path).expanduser()) if path.startswith(("~", ".", "/")) else path
    package, _, folder = path.removeprefix(PACKAGE).partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"{path}: the Python package {package} is not installed; pip install it, or set model.path.")
    return str(Path(spec.submodule_search_locations[0]) / folder)


def _check_hash(file: Path, expected: str) -> None:
    if not file.exists():
        raise UserError(f"{file} does not exist, and model.sha256 asks to check it; set model.sha256=null to skip.")
    if (found := sha256_of(file)) != expected:
        raise UserError(
            f"{file} has sha256 {found}, not model.sha256={expected}: these are other weights than the "
            "configuration means."
        )


def sha256_of(file: Path) -> str:
    """The sha256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def unreachable(what: str, error: Exception) -> UserError:
    """The sentence for a model that cannot be loaded, from a library's error."""
    reason = " ".join(str(error).split())
    if "trust_remote_code" in reason:
        return UserError(
            f"{what} could not be loaded: they need code that comes with them, which is not run unless you trust it "
            "and say so (model.trust_remote_code=true for src.train, trust_remote_code=true for src.predict)."
        )
    return UserError(
        f"{what} could not be loaded ({type(error).__name__}: {reason[:200]}{'...' if len(reason) > 200 else ''}). "
        "Without a hub: model=minilm, or model.path=FOLDER with config.json, model.safetensors and tokenizer.json."
    )
