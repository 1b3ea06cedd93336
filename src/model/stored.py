"""The trained model on disk: what a method trained is stored, as safetensors alone, and put on its base again."""

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
TRAINED = "trained.safetensors"  # the trained parameters, by their names in the model
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")


def save(model: Any, folder: Path, base: Base) -> float:
    """Store what the method trained, as safetensors: an adapter, some parameters, or the whole model where all train.

    A PiSSA-like adapter fits a changed base; it is stored as the plain LoRA of twice the rank that fits the
    untouched one (peft's own conversion).

    Args:
        model: that was trained.
        folder: to write to.
        base: that the method started from; `base.json` names it.

    Returns:
        The size of the weights in MB (10^6 bytes).

    Raises:
        UserError: they cannot be written.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # peft's, about the conversion that is meant here
            _write(model, folder, base)
    except SafetensorError as error:
        raise UserError(f"The weights could not be stored ({error}); check that the disk has room.") from error
    base.write(folder)
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e6


def _write(model: Any, folder: Path, base: Base) -> None:
    initial = getattr(model, "initial_adapter", None)
    if isinstance(model, peft.PeftModel):
        for config in model.peft_config.values():  # peft would take the path that the base was loaded from
            config.base_model_name_or_path, config.revision = base.name, base.revision
        model.save_pretrained(
            str(folder),
            path_initial_model_for_weight_conversion=initial and initial.name,
            save_embedding_layers=False,  # or peft asks the hub how many words the base has; no method changes that
        )
        if initial is not None:  # peft's conversion leaves out the head, which trains beside the adapter
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
    """Whether `save` stored the whole model in `folder`, and not what belongs on a base."""
    return not (folder / ADAPTER).exists() and not (folder / TRAINED).exists()


def put_on_base(model: PreTrainedModel, folder: Path) -> torch.nn.Module:
    """What `save` stored in `folder`, on its base model, for prediction.

    Raises:
        UserError: it cannot be read, does not fit, or would run code.
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
    except Exception as error:  # of any type, where a file is damaged
        reason = one_line(f"{type(error).__name__}: {error}")
        raise UserError(
            f"The stored weights do not fit the base model or are damaged ({reason}); choose another run, or train "
            "this one again with rerun=true."
        ) from error
    return model


def _with_adapter(model: PreTrainedModel, folder: Path) -> torch.nn.Module:
    config: Any = peft.PeftConfig.from_pretrained(str(folder))
    config.auto_mapping = None  # names a library to import
    for key in ("megatron_config", "adapters"):  # these import a module by its name, or load from other places
        if getattr(config, key, None):
            raise UserError(f"{ADAPTER} of the stored model sets {key}, which no run of this program does; not loaded.")
    return peft.PeftModel.from_pretrained(model, str(folder), config=config)


def refuse_pickles(folder: Path) -> None:
    """Look for pickles in the folder of a stored model.

    Raises:
        UserError: a file of a stored model is of a kind that can run code when it is loaded.
    """
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in PICKLES:
            raise UserError(
                f"The stored model holds {file.relative_to(folder).as_posix()}, a kind of file that can run code when "
                "it is loaded; only safetensors are read. Train the run again (rerun=true)."
            )
