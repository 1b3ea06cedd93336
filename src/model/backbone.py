"""Loads a model (an encoder with a question-answering head, or a decoder) and its tokenizer.

The weights come from the hub, a folder or a Python package, or are random. Only safetensors are read, because loading
a pickle can run arbitrary code. A GGUF is first converted to safetensors (`src.model.gguf`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import find_adapter_config_file, logging

from src.config import ModelConfig, UserError, nearest
from src.hub import hub_problem
from src.model import byte_tokenizer
from src.model.gguf import converted
from src.model.load_errors import explained
from src.model.place import check_hash, place_of
from src.tasks import task_of

# The names of the two kinds of dropout in the configurations of the architectures.
ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")
HIDDEN_DROPOUT = (
    *("hidden_dropout_prob", "dropout", "embedding_dropout", "mlp_dropout", "qa_dropout"),
    *("hidden_dropout", "resid_pdrop", "embd_pdrop", "resid_dropout", "embed_dropout"),  # of decoders
)

UNUSUAL = "Who is 𓂀?"  # no vocabulary contains a hieroglyph


def load_tokenizer(config: ModelConfig) -> Any:
    """Load the tokenizer of a model.

    Raises:
        UserError: it cannot be found, or its files are damaged.
    """
    if config.tokenizer == byte_tokenizer.NAME:
        return byte_tokenizer.byte_tokenizer()
    name = config.tokenizer or config.path
    place = place_of(config.tokenizer) if config.tokenizer else locate(config)
    with explained(f"The tokenizer of {name}", place):
        tokenizer = AutoTokenizer.from_pretrained(
            place,
            revision=config.revision,
            trust_remote_code=config.trust_remote_code,
            local_files_only=hub_problem(place) is not None,
        )
        tokenizer(UNUSUAL)  # fails if the vocabulary lacks the token for unknown text
    return tokenizer


def load_model(config: ModelConfig, hidden_dropout: float, attention_dropout: float, seed: int) -> PreTrainedModel:
    """Load a model in fp32 on the CPU; new weights only depend on `seed`.

    Args:
        config: of the model.
        hidden_dropout, attention_dropout: probabilities, which replace those of the model's configuration.
        seed: of the weights that the checkpoint does not hold: the new head, or all if `pretrained` is false.

    Raises:
        UserError: the weights are missing, not safetensors, of another architecture or task, or have another hash.
    """
    logging.set_verbosity_error()  # the check of the missing keys below replaces transformers' load report
    logging.disable_progress_bar()
    if config.pretrained:
        _refuse_adapter(config)
    architecture = _architecture(config)
    _check_task(architecture, config)
    _set_dropout(architecture, hidden_dropout, attention_dropout)
    longest = getattr(architecture, "max_position_embeddings", None)
    if longest is not None:
        # RoBERTa's positions start after the index of the padding token.
        usable = longest - (architecture.pad_token_id + 1 if "roberta" in architecture.model_type else 0)
        if config.max_length > usable:
            raise UserError(
                f"model.max_length={config.max_length} is more than the {usable} positions of {config.name}."
            )

    auto_model = task_of(config).auto_model
    torch.manual_seed(seed)
    if not config.pretrained:
        return _random(architecture, config)
    path = locate(config)
    if config.sha256 is not None and config.gguf is None:
        check_hash(Path(path) / "model.safetensors", config.sha256)
    with explained(f"The weights of {config.path}", path, config.config):
        model, report = auto_model.from_pretrained(
            path,
            config=architecture,
            revision=config.revision,
            local_files_only=hub_problem(path) is not None,
            trust_remote_code=config.trust_remote_code,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    missing = [name for name in report["missing_keys"] if name.startswith(pretrained_prefixes(model))]
    if missing:
        kind = "decoder" if reads_forwards(architecture) else "encoder"
        raise UserError(
            f"The weights of {config.path} lack {len(missing)} parameters of the {architecture.model_type} {kind} "
            f"({missing[0]}, ...); they are of another architecture."
        )
    return model


def _refuse_adapter(config: ModelConfig) -> None:
    """Refuse an adapter, which transformers would load together with its base."""
    path = locate(config)
    with explained(f"The weights of {config.path}", path):
        adapter = find_adapter_config_file(
            path, revision=config.revision, local_files_only=hub_problem(path) is not None
        )
    if adapter is not None:
        raise UserError(
            f"model.path={config.path} holds an adapter ({Path(adapter).name}), and a whole model is needed: merge the "
            "adapter into its base first (src.export merged=true for one of a run), or name the base."
        )


def check_vocabulary(model: PreTrainedModel, config: ModelConfig, highest_token: int) -> None:
    """Check that the model has an embedding for every token of the questions.

    Raises:
        UserError: a token has no embedding.
    """
    embeddings: Any = model.get_input_embeddings()
    rows = embeddings.weight.shape[0]
    if highest_token >= rows:
        raise UserError(
            f"The tokenizer of {config.tokenizer or config.path} gives token {highest_token:,}, and the vocabulary of "
            f"model={config.name} has {rows:,}: they do not belong together; check model.path and model.tokenizer."
        )


def _random(architecture: PretrainedConfig, config: ModelConfig) -> PreTrainedModel:
    """A model with random weights; on the meta device, without weights."""
    with explained(f"A {architecture.model_type} model", values=config.config):
        return task_of(config).auto_model.from_config(architecture, trust_remote_code=config.trust_remote_code)


def pretrained_prefixes(model: PreTrainedModel) -> tuple[str, ...]:
    """The name prefixes of the parameters that a checkpoint provides, including a decoder's output matrix."""
    output = model.get_output_embeddings()
    matrices = [name for name, module in model.named_modules() if output is not None and module is output]
    return tuple(f"{name}." for name in (model.base_model_prefix, *matrices))


def reads_forwards(architecture: PretrainedConfig) -> bool:
    """Whether attention is causal, as in a decoder: such a model can generate text, but cannot predict a span.

    In transformers, an encoder like BERT also has a class for causal language modelling, whose attention is
    bidirectional unless its configuration says `is_decoder`. Unlike decoders, it also has a masked-language model.
    """
    kind = type(architecture)
    causal_lm = kind in AutoModelForCausalLM._model_mapping and not architecture.is_encoder_decoder
    masked_lm = kind in AutoModelForMaskedLM._model_mapping or architecture.model_type == "xlnet"
    return causal_lm and (not masked_lm or bool(getattr(architecture, "is_decoder", False)))


def _check_task(architecture: PretrainedConfig, config: ModelConfig) -> None:
    """Refuse a model that does not suit the task, or for which transformers has no class.

    A decoder with random weights may have a span head, since its answers are meaningless anyway.
    """
    kind, auto_model = architecture.model_type, task_of(config).auto_model
    if auto_model.__name__ in (getattr(architecture, "auto_map", None) or {}):
        return  # the model's own code has a class for the task
    if config.task == "generative" and not reads_forwards(architecture):
        raise UserError(
            f"model={config.name}: {kind} is not a decoder, and model.task=generative needs one, such as "
            "model=smollm2_135m; or leave model.task=extractive."
        )
    if config.task == "extractive" and config.pretrained and reads_forwards(architecture):
        raise UserError(
            f"model={config.name}: {kind} is a decoder, in which no token sees what follows it, so it cannot mark "
            "where an answer starts; add model.task=generative, with which it writes the answer."
        )
    if type(architecture) not in auto_model._model_mapping:
        raise UserError(f"model={config.name}: transformers has no {kind} model for model.task={config.task}.")


def _set_dropout(architecture: PretrainedConfig, hidden: float, attention: float) -> None:
    for names, probability in ((HIDDEN_DROPOUT, hidden), (ATTENTION_DROPOUT, attention)):
        for name in names:
            if hasattr(architecture, name):
                setattr(architecture, name, probability)


def shape_only(config: ModelConfig, hidden_dropout: float, attention_dropout: float) -> PreTrainedModel:
    """Build a model for the meta device, without reading weights or accessing the hub.

    Its configuration comes from `model.config` if the weights are random, else from the local folder in `model.path`,
    else from `model.shape`, else from the hub's cache.

    Args:
        config: of the model.
        hidden_dropout, attention_dropout: probabilities, which replace those of the model's configuration.

    Raises:
        UserError: none of them determines the shape of the model.
    """
    architecture = _shape(config)
    _check_task(architecture, config)
    _set_dropout(architecture, hidden_dropout, attention_dropout)
    return _random(architecture, config)


def _shape(config: ModelConfig) -> PretrainedConfig:
    if config.shape and config.pretrained and not _is_local(config):
        return _of_type(config, {**config.shape, **config.config})
    try:
        return _architecture(config, local_files_only=True)
    except UserError as error:
        if not config.pretrained or _is_local(config):
            raise
        raise UserError(
            f"The shape of {config.path} is not known here: put the values of its config.json under `shape:` in "
            f"conf/model/{config.name}.yaml, or name a local folder in model.path."
        ) from error


def _is_local(config: ModelConfig) -> bool:
    """Whether the model is a local folder with a config.json; a plan converts no GGUF and needs no package."""
    return config.path is not None and config.gguf is None and (Path(place_of(config.path)) / "config.json").exists()


def load_masked_lm(config: ModelConfig) -> PreTrainedModel | None:
    """Load the checkpoint with its masked-language-model head; None if it has none.

    Raises:
        UserError: it cannot be found, or its files are damaged.
    """
    if not config.pretrained or type(_architecture(config)) not in AutoModelForMaskedLM._model_mapping:
        return None
    logging.set_verbosity_error()
    place = locate(config)
    with explained(f"The weights of {config.path}", place, config.config):
        model, loading = AutoModelForMaskedLM.from_pretrained(
            place,
            config=_architecture(config),
            local_files_only=hub_problem(place) is not None,
            revision=config.revision,
            trust_remote_code=config.trust_remote_code,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    return None if loading["missing_keys"] else model


def checkpoint_gradients(model: PreTrainedModel) -> None:
    """Enable gradient checkpointing: only the input of each layer is kept, and the backward pass recomputes the layer.

    Raises:
        UserError: the architecture does not support it.
    """
    if not model.supports_gradient_checkpointing:
        raise UserError(f"train.gradient_checkpointing=true: {type(model).__name__} does not support it.")
    model.gradient_checkpointing_enable({"use_reentrant": False})  # reentrant: no gradient where embeddings are frozen


def _architecture(config: ModelConfig, local_files_only: bool = False) -> PretrainedConfig:
    if not config.pretrained:
        return _of_type(config, config.config)
    place = locate(config)
    with explained(f"The configuration of {config.path}", place, config.config):
        return AutoConfig.from_pretrained(
            place,
            revision=config.revision,
            trust_remote_code=config.trust_remote_code,
            local_files_only=local_files_only or hub_problem(place) is not None,
            **config.config,
        )


def _of_type(config: ModelConfig, values: dict[str, Any]) -> PretrainedConfig:
    """The configuration of the architecture `model.model_type` with the given values.

    Raises:
        UserError: there is no such architecture, or it does not accept a value.
    """
    kind = str(config.model_type)
    if kind not in CONFIG_MAPPING:
        raise UserError(f"transformers has no architecture model.model_type={kind}{nearest(kind, CONFIG_MAPPING)}.")
    with explained(f"A {kind} model", values=values):
        return AutoConfig.for_model(kind, **values)


def locate(config: ModelConfig) -> str:
    """The hub name or folder that a model is loaded from; for a GGUF, the folder that it is converted into.

    Raises:
        UserError: a package is not installed, or a GGUF cannot be converted.
    """
    place = place_of(str(config.path), config.install)
    return place if config.gguf is None else str(converted(Path(place) / config.gguf, config.sha256))
