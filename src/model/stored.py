"""Stores the weights that a method trained, as safetensors, and loads them onto their base."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from src.config import UserError, one_line
from src.model.base import Base

ADAPTER = "adapter_config.json"  # of peft, with its adapter_model.safetensors
TRAINED = "trained.safetensors"  # trained parameters, by their names in the model
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")


def save(model: Any, folder: Path, base: Base) -> float:
    """Store the trained weights as safetensors: an adapter, some parameters, or the whole model if all were trained.

    An adapter like PiSSA changes its base. It is converted by peft to a plain LoRA of twice the rank, which fits the
    original base.

    Args:
        model: the trained model.
        folder: to write to.
        base: that the method started from; `base.json` describes it.

    Returns:
        The size of the weights in MB (10^6 bytes).

    Raises:
        UserError: the weights cannot be written.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # peft warns about the conversion, which is intended
            _write(model, folder, base)
    except SafetensorError as error:
        raise UserError(f"The weights could not be stored ({error}); check that the disk has room.") from error
    base.write(folder)
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e6


def _write(model: Any, folder: Path, base: Base) -> None:
    initial = getattr(model, "initial_adapter", None)
    if isinstance(model, peft.PeftModel):
        for config in model.peft_config.values():  # peft would store the path that the base was loaded from
            config.base_model_name_or_path, config.revision = base.name, base.revision
        model.save_pretrained(
            str(folder),
            path_initial_model_for_weight_conversion=initial and initial.name,
            save_embedding_layers=False,  # otherwise peft asks the hub for the vocabulary size, which never changes
        )
        if initial is not None:  # peft's conversion leaves out the head, which trains together with the adapter
            file = folder / peft.utils.SAFETENSORS_WEIGHTS_NAME
            trained = peft.get_peft_model_state_dict(model)
            head = {name: value for name, value in trained.items() if "lora_" not in name}
            save_file(load_file(file) | head, file, metadata={"format": "pt"})
    elif all(parameter.requires_grad for parameter in model.parameters()):
        model.save_pretrained(folder)
    else:
        trained = {name: p.detach().contiguous() for name, p in model.named_parameters() if p.requires_grad}
        save_file(trained, folder / TRAINED, metadata={"format": "pt"})


def holds_whole_model(folder: Path) -> bool:
    """Whether `save` stored a whole model in `folder`, and not weights for a base."""
    return not (folder / ADAPTER).exists() and not (folder / TRAINED).exists()


def put_on_base(model: PreTrainedModel, folder: Path) -> torch.nn.Module:
    """Load the weights that `save` stored in `folder` onto their base, for prediction.

    Raises:
        UserError: they cannot be read, do not fit, or would run code.
    """
    try:
        if (folder / ADAPTER).exists():
            return _with_adapter(model, folder)
        stored = load_file(folder / TRAINED)
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name, value in stored.items():
                parameters[name].copy_(value)
    except UserError:
        raise
    except Exception as error:  # various types are raised for a damaged file
        reason = one_line(f"{type(error).__name__}: {error}")
        raise UserError(
            f"The stored weights do not fit the base model or are damaged ({reason}); choose another run, or train "
            "this one again with rerun=true."
        ) from error
    return model


def _with_adapter(model: PreTrainedModel, folder: Path) -> torch.nn.Module:
    config: Any = peft.PeftConfig.from_pretrained(str(folder))
    config.auto_mapping = None  # it names a library to import
    for key in ("megatron_config", "adapters"):  # these import a module by name, or load from other places
        if getattr(config, key, None):
            raise UserError(f"{ADAPTER} of the stored model sets {key}, which no run of this program does; not loaded.")
    return peft.PeftModel.from_pretrained(model, str(folder), config=config)


def refuse_pickles(folder: Path) -> None:
    """Refuse a stored model that contains pickles.

    Raises:
        UserError: the folder contains a kind of file that can run code when it is loaded.
    """
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in PICKLES:
            raise UserError(
                f"The stored model holds {file.relative_to(folder).as_posix()}, a kind of file that can run code when "
                "it is loaded; only safetensors are read. Train the run again (rerun=true)."
            )
