"""Applies a method of `conf/method/` to a model, and counts the trained parameters by part.

A method is either `trainable`, a list of patterns for parameter names, or `peft`, a block with the keys of a peft
config. With adapters of peft, the base may be held in 4 bits (`quantize`).
"""

from __future__ import annotations

import re
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, get_type_hints

import peft
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.tuners_utils import check_target_module_exists
from pydantic import PydanticUserError, TypeAdapter, ValidationError
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from src.config import MethodConfig, UserError, nearest, one_line
from src.model import quantize
from src.model.backbone import pretrained_prefixes

# Initialisations that change the base weights; see `src.model.stored.save`.
CHANGES_BASE = ("pissa", "olora", "corda")


@dataclass(frozen=True)
class ParameterCounts:
    """The number of all parameters, and the numbers of trained parameters by part."""

    total: int
    adapter: int  # added to the backbone by peft
    head: int  # of the question-answering head, including adapters on it
    backbone: int  # of the pretrained model itself

    @property
    def trainable(self) -> int:
        return self.adapter + self.head + self.backbone

    @property
    def trainable_percent(self) -> float:
        """The trained parameters in percent of all parameters."""
        return 100 * self.trainable / self.total


def apply(model: PreTrainedModel, method: MethodConfig) -> torch.nn.Module:
    """Freeze the parameters that do not train, and add the adapters of peft, in place.

    Returns:
        The model itself, or a `peft.PeftModel` around it.

    Raises:
        UserError: a pattern or target matches nothing, peft does not accept the block, or the base cannot be held in 4
            bits.
    """
    if method.quantize is not None:
        quantize.hold_in_4_bits(model)
    if method.peft is not None:
        return _apply_peft(model, method.name, method.peft)
    head = head_parameters(model)
    names = [name for name, _ in model.named_parameters()]
    chosen: set[str] = set()
    for pattern in method.trainable or []:
        matched = _match(pattern, names, head)
        if not matched:
            raise UserError(_no_match(model, method, pattern, names))
        chosen |= matched
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name in chosen
    return model


def _no_match(model: PreTrainedModel, method: MethodConfig, pattern: str, names: list[str]) -> str:
    kind = type(model).__name__
    if pattern == "head":
        return f"method={method.name} trains the head, and {kind} has none; choose method=lora or full."
    if pattern == "*.bias":
        return f"method={method.name} trains biases, and {kind} has none; choose method=lora or full."
    return (
        f"method={method.name}: the pattern '{pattern}' in `trainable` matches no parameter of the model"
        f"{nearest(pattern, ['head', 'backbone', *names])}; its names look like {names[len(names) // 2]}."
    )


def _match(pattern: str, names: list[str], head: set[str]) -> set[str]:
    if pattern == "head":
        return head
    if pattern == "backbone":
        return set(names) - head
    return {name for name in names if fnmatchcase(name, pattern)}


def head_parameters(model: PreTrainedModel) -> set[str]:
    """The names of the parameters outside the pretrained model, which includes a decoder's output matrix."""
    pretrained = pretrained_prefixes(model)
    return {name for name, _ in model.named_parameters() if not name.startswith(pretrained)}


def _apply_peft(model: PreTrainedModel, name: str, block: dict[str, Any]) -> peft.PeftModel:
    kinds, kind = PEFT_TYPE_TO_CONFIG_MAPPING, block["peft_type"]
    if not isinstance(kind, str) or kind not in kinds:
        names = [known.value for known in kinds]
        raise UserError(f"method={name}: peft knows no peft_type {kind}{nearest(kind, names)}.")
    if block["peft_type"] == "ADALORA" or block.get("init_lora_weights") == "eva":
        what = "peft_type ADALORA" if block["peft_type"] == "ADALORA" else "init_lora_weights=eva"
        raise UserError(
            f"method={name}: {what} needs calls while it trains that are not made here, and would be plain LoRA under "
            "another name; choose a method that peft applies once."
        )
    with _refusals(model, name, block):
        config: Any = peft.get_peft_config(dict(block))
        if config.is_prompt_learning:
            raise UserError(
                f"method={name}: {kind} adds virtual tokens and changes no weight of the model; choose a method that "
                "adapts layers."
            )
        _leave_the_head_out(model, name, config)
        # No task type: peft's wrapper for question answering does not pass token_type_ids and position_ids to the
        # model, so adapters would be trained and scored on other inputs than the other methods. The plain wrapper
        # passes everything.
        config.task_type = None
        wrapped: Any = peft.get_peft_model(model, config)
    if changes_base(block):
        wrapped.initial_adapter = tempfile.TemporaryDirectory(prefix="tuneoff-initial-adapter-")
        wrapped.save_pretrained(wrapped.initial_adapter.name)
    return wrapped


def _leave_the_head_out(model: PreTrainedModel, name: str, config: Any) -> None:
    """Train the new head in full, unless the block puts an adapter on it."""
    head = sorted({parameter.split(".")[0] for parameter in head_parameters(model)})
    head_layers = [
        layer
        for layer, module in model.named_modules()
        if layer.split(".")[0] in head and isinstance(module, torch.nn.Linear)
    ]
    if getattr(config, "target_modules", None) == "all-linear":
        config.exclude_modules = head_layers  # peft leaves the head out only for sequence classification
        targeted_head = []
    else:
        targeted_head = [layer.split(".")[0] for layer in head_layers if _targets(config, layer)]
    if hasattr(config, "modules_to_save"):
        untargeted = [module for module in head if module not in targeted_head]
        config.modules_to_save = sorted({*(config.modules_to_save or []), *untargeted}) or None
    elif head:
        raise UserError(
            f"method={name}: {config.peft_type.value} cannot train the new head together with its adapters."
        )


@contextmanager
def _refusals(model: PreTrainedModel, name: str, block: Mapping[str, Any]) -> Iterator[None]:
    """Turn the errors that peft raises for a block into sentences, about keys of the wrong type if there are any.

    Errors of our own code for a block with the right types are bugs, and are not changed.
    """
    linears = {name.rpartition(".")[2] for name, _ in _backbone_linears(model)}  # before peft wraps them
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # peft raises various types for unsuitable values
        if sentences := _of_another_type(block):
            raise UserError("\n".join(sentences)) from error
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename == __file__:
            raise
        reason = one_line(f"{type(error).__name__}: {error}")
        raise UserError(
            f"method={name}: peft cannot apply the block with target_modules={block.get('target_modules')} ({reason}). "
            f"The linear layers of this model are called {', '.join(sorted(linears))}."
        ) from error


def _of_another_type(block: Mapping[str, Any]) -> list[str]:
    """A sentence for each key of a peft block that is unknown to peft or has a value of the wrong type."""
    types = get_type_hints(PEFT_TYPE_TO_CONFIG_MAPPING[block["peft_type"]])
    sentences = []
    for key, value in block.items():
        if key not in types:
            sentences.append(f"method.peft.{key}: peft has no such key for {block['peft_type']}{nearest(key, types)}.")
            continue
        try:
            TypeAdapter(types[key]).validate_python(value, strict=True)
        except PydanticUserError:  # a type that pydantic cannot check
            continue
        except ValidationError as error:
            wanted = [re.sub("^Input should be |, (unable|got) .*", "", detail["msg"]) for detail in error.errors()]
            shown = "null" if value is None else value
            sentences.append(f"method.peft.{key}={shown} must be {' or '.join(sorted({*wanted}))}.")
    return sentences


def changes_base(block: dict[str, Any]) -> bool:
    """Whether the initialisation of a peft block changes the base weights."""
    return str(block.get("init_lora_weights", "")).startswith(CHANGES_BASE)


def _backbone_linears(model: PreTrainedModel) -> list[tuple[str, torch.nn.Module]]:
    kinds = (torch.nn.Linear, Conv1D)  # the linear layers of GPT-2 are Conv1D
    return [(n, m) for n, m in model.base_model.named_modules() if isinstance(m, kinds)]


def _targets(config: Any, layer: str) -> bool:
    return getattr(config, "target_modules", None) is not None and bool(check_target_module_exists(config, layer))


def count(model: torch.nn.Module) -> ParameterCounts:
    """Count parameters by part, each once: peft's frozen copy of a trained head is left out.

    A tied output matrix counts as part of the embedding, and a matrix in 4 bits by its original number of weights.
    """
    base: Any = model.get_base_model() if isinstance(model, peft.PeftModel) else model
    pretrained = pretrained_prefixes(base)
    total = adapter = head = backbone = 0
    for name, parameter in base.named_parameters():
        if ".original_module." in name:
            continue
        total += quantize.numel(parameter)
        if not parameter.requires_grad:
            continue
        if not name.startswith(pretrained):
            head += parameter.numel()
        elif _is_adapter(base, name):
            adapter += parameter.numel()
        else:
            backbone += parameter.numel()
    return ParameterCounts(total, adapter, head, backbone)


def _is_adapter(model: torch.nn.Module, name: str) -> bool:
    """Whether peft added a parameter: it belongs to a tuner layer, and not to the layer that this one wraps."""
    parts = name.split(".")
    return any(
        isinstance(model.get_submodule(".".join(parts[:i])), peft.tuners.tuners_utils.BaseTunerLayer)
        and parts[i] != "base_layer"
        for i in range(1, len(parts))
    )


def untouched_backbone_warning(counts: ParameterCounts, method: MethodConfig) -> str | None:
    """A warning if a method trains only the head without being meant to; otherwise None."""
    if method.trainable == ["head"] or counts.adapter or counts.backbone:
        return None
    return (
        f"method={method.name} adapts NO layer of the backbone: only the head's {counts.head:,} parameters train. This "
        f"is a linear probe, not what its name says; see {'trainable' if method.peft is None else 'target_modules'}."
    )
