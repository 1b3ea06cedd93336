"""Exports a model to an ONNX file, and runs such a file like a model of transformers.

Inputs and outputs have the names that Hugging Face's optimum uses, which other programs know. An encoder maps tokens to
start and end logits; a decoder maps tokens and the key-value cache to logits and the extended cache.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PretrainedConfig

from src.config import UserError, one_line
from src.tasks.base import known_inputs

FILE = "model.onnx"
PACKAGES = ("onnx", "onnxruntime", "onnxscript")
INSTALL = "pip install -e '.[onnx]'"
LARGEST = 2**30  # bytes of weights within the file (a protocol buffer is limited to 2 GB); more go to a second file
OPSET = 18
BATCH, TOKENS, PAST = (torch.export.Dim(name) for name in ("batch", "tokens", "past"))


def check_installed() -> None:
    """Check that the packages that write and read ONNX are installed.

    Raises:
        UserError: a package is missing.
    """
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise UserError(f"format=onnx needs {', '.join(missing)}, which is not installed; {INSTALL}.")


def write(model: Any, folder: Path) -> None:
    """Write a model of transformers as `model.onnx`, in fp32, for any number of examples and tokens.

    Args:
        model: with a head for question answering, or a decoder with a language-model head.
        folder: to write to.

    Raises:
        UserError: torch's exporter does not support the architecture.
    """
    model = model.eval().cpu().float()
    form: Any = _Decoder(model) if _is_decoder(model.config) else _Encoder(model)
    example, shapes = form.example()
    large = sum(p.numel() * p.element_size() for p in model.parameters()) > LARGEST
    with _quiet():
        try:
            torch.onnx.export(
                form,
                example,
                str(folder / FILE),
                input_names=form.inputs,
                output_names=form.outputs,
                dynamic_shapes=shapes,
                opset_version=OPSET,
                external_data=large,
                dynamo=True,
                verbose=False,
            )
        except (torch.onnx.OnnxExporterError, RuntimeError) as error:
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            reason = one_line(cause)
            raise UserError(f"format=onnx: torch cannot export {model.config.model_type} ({reason}).") from error


def _is_decoder(config: PretrainedConfig) -> bool:
    return not any(name.endswith("ForQuestionAnswering") for name in config.architectures or ())


def cache_names(config: PretrainedConfig, prefix: str) -> list[str]:
    """The names of each layer's keys and values: `past_key_values.0.key`, `past_key_values.0.value`, ..."""
    return [f"{prefix}.{layer}.{kind}" for layer in range(config.num_hidden_layers) for kind in ("key", "value")]


def _cache_shape(config: PretrainedConfig, rows: int, tokens: int) -> tuple[int, int, int, int]:
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return rows, getattr(config, "num_key_value_heads", None) or heads, tokens, size


class _Encoder(torch.nn.Module):
    """An encoder with a span head, whose inputs and outputs are plain tensors."""

    outputs = ("start_logits", "end_logits")

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        names = ("input_ids", "attention_mask", "token_type_ids")
        # One tensor for each, since inputs that are the same object become one input of the file.
        self.given = known_inputs(model, {name: torch.ones(2, 8, dtype=torch.int64) for name in names})
        self.inputs = list(self.given)

    def example(self) -> tuple[tuple[Any, ...], Any]:
        """Inputs to trace, and which of their dimensions may have another size."""
        return tuple(self.given.values()), (({0: BATCH, 1: TOKENS},) * len(self.given),)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        out = self.model(**dict(zip(self.inputs, inputs, strict=True)))
        return out.start_logits, out.end_logits


class _Decoder(torch.nn.Module):
    """A decoder whose inputs and outputs are plain tensors."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.past = cache_names(model.config, "past_key_values")
        self.inputs = ["input_ids", "attention_mask", "position_ids", *self.past]
        self.outputs = ["logits", *cache_names(model.config, "present")]

    def example(self) -> tuple[tuple[Any, ...], Any]:
        """Inputs to trace, and which of their dimensions may have another size."""
        tokens, mask = torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 8, dtype=torch.int64)
        past = [torch.zeros(_cache_shape(self.model.config, 2, 5)) for _ in self.past]
        sizes = {0: BATCH, 1: TOKENS}
        shapes = (sizes, {0: BATCH, 1: torch.export.Dim.DYNAMIC}, sizes, [{0: BATCH, 2: PAST}] * len(past))
        return (tokens, mask, mask.cumsum(1)[:, -3:] - 1, past), shapes

    def forward(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, past: list[Tensor]) -> Any:
        out = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=DynamicCache(list(zip(past[::2], past[1::2], strict=True))),
            use_cache=True,
        )
        grown = [values for layer in out.past_key_values.layers for values in (layer.keys, layer.values)]
        return (out.logits, *grown)


class OnnxModel(torch.nn.Module):
    """An ONNX file from `write`, which is called like the original model of transformers.

    Args:
        folder: of the file and of the model's `config.json`.
        config: of the model.
        threads: the number of CPU threads.
    """

    def __init__(self, folder: Path, config: PretrainedConfig, threads: int) -> None:
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.config = config
        self.session = onnxruntime.InferenceSession(str(folder / FILE), options, providers=["CPUExecutionProvider"])
        self.known = {value.name for value in self.session.get_inputs()}

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
        logits_to_keep: int = 0,
    ) -> Any:
        given = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
        }
        feed = {
            name: values.cpu().numpy() for name, values in given.items() if name in self.known and values is not None
        }
        decoder = _is_decoder(self.config)
        if decoder:
            empty = torch.zeros(_cache_shape(self.config, len(input_ids), 0))
            layers = [] if past_key_values is None else past_key_values.layers
            # A cache that nothing was read into has layers without keys and values.
            past = [values for layer in layers if layer.is_initialized for values in (layer.keys, layer.values)]
            names = cache_names(self.config, "past_key_values")
            feed |= {
                name: values.cpu().numpy() for name, values in zip(names, past or [empty] * len(names), strict=True)
            }
        out = [torch.from_numpy(values).to(input_ids.device) for values in self.session.run(None, feed)]
        if not decoder:
            return SimpleNamespace(start_logits=out[0], end_logits=out[1])
        logits, *present = out
        cache = DynamicCache(list(zip(present[::2], present[1::2], strict=True)))
        return SimpleNamespace(logits=logits[:, -logits_to_keep:], past_key_values=cache)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress messages of torch's exporter about packages that are not used and about its internals."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)
