"""A trainable model out: applies a method of `conf/method/` and counts which parameters train, by part.

A method is either `trainable`, a list of parameter-name patterns, or `peft`, a config block in peft's own words; below
the latter's adapters the base may be held in 4 bits (`quantize`).
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

# Initialisations that take something out of the base weights; see `save`.
CHANGES_BASE = ("pissa", "olora", "corda")


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers of parameters: all of them, and the trained ones by part."""

    total: int
    adapter: int  # added to the backbone by peft
    head: int  # of the question-answering head, adapters on it included
    backbone: int  # of the pretrained encoder itself

    @property
    def trainable(self) -> int:
        return self.adapter + self.head + self.backbone

    @property
    def trainable_percent(self) -> float:
        """Trained parameters per hundred of all."""
        return 100 * self.trainable / self.total


def apply(model: PreTrainedModel, method: MethodConfig) -> torch.nn.Module:
    """Freeze what does not train and add what peft adds, in place.

    Returns:
        The model itself, or a `peft.PeftModel` around it.

    Raises:
        UserError: a pattern or target that matches nothing, a block that peft refuses, or a base that cannot be held
            in 4 bits.
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
    """Names of the parameters outside the pretrained model; a decoder's output matrix, tied or not, is part of it."""
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
        # No task type: peft's wrapper for question answering drops token_type_ids (and position_ids) on the way to the
        # model, which would train and score the adapters on other inputs than the other methods. The plain wrapper
        # hands everything on.
        config.task_type = None
        wrapped: Any = peft.get_peft_model(model, config)
    if changes_base(block):
        wrapped.initial_adapter = tempfile.TemporaryDirectory(prefix="tuneoff-initial-adapter-")
        wrapped.save_pretrained(wrapped.initial_adapter.name)
    return wrapped


def _leave_the_head_out(model: PreTrainedModel, name: str, config: Any) -> None:
    """Have the new head train in full, and once: not where the block itself puts an adapter on it."""
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
        raise UserError(f"method={name}: {config.peft_type.value} cannot train the new head beside its adapters.")


@contextmanager
def _refusals(model: PreTrainedModel, name: str, block: Mapping[str, Any]) -> Iterator[None]:
    """Turn what peft raises at a block into one sentence: on its keys of another type than peft declares, if any.

    What our own code raises at a block of the right types is a fault of the program and passes.
    """
    linears = {name.rpartition(".")[2] for name, _ in _backbone_linears(model)}  # before peft has wrapped them
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # peft raises any type for a value that does not fit
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
    """A sentence for each key of a peft block that peft does not know or declares to be of another type."""
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
    """Whether the adapters of a peft block begin with something that is taken out of the base weights."""
    return str(block.get("init_lora_weights", "")).startswith(CHANGES_BASE)


def _backbone_linears(model: PreTrainedModel) -> list[tuple[str, torch.nn.Module]]:
    kinds = (torch.nn.Linear, Conv1D)  # GPT-2 calls its linear layers so
    return [(n, m) for n, m in model.base_model.named_modules() if isinstance(m, kinds)]


def _targets(config: Any, layer: str) -> bool:
    return getattr(config, "target_modules", None) is not None and bool(check_target_module_exists(config, layer))


def count(model: torch.nn.Module) -> ParameterCounts:
    """Count parameters by part, each once: peft's frozen copy of a head that trains is left out.

    A tied output matrix is the embedding, and a matrix held in 4 bits counts as many weights as before.
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
    """Whether peft added a parameter: it hangs below a tuner layer, and not in the layer that this one wraps."""
    parts = name.split(".")
    return any(
        isinstance(model.get_submodule(".".join(parts[:i])), peft.tuners.tuners_utils.BaseTunerLayer)
        and parts[i] != "base_layer"
        for i in range(1, len(parts))
    )


def untouched_backbone_warning(counts: ParameterCounts, method: MethodConfig) -> str | None:
    """The sentence that must be said where a method trains nothing but the head without being called so."""
    if method.trainable == ["head"] or counts.adapter or counts.backbone:
        return None
    return (
        f"method={method.name} adapts NO layer of the backbone: only the head's {counts.head:,} parameters train. This "
        f"is a linear probe, not what its name says; see {'trainable' if method.peft is None else 'target_modules'}."
    )
