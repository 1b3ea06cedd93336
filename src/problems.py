"""Checks the values of a configuration before anything is loaded."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from string import Formatter
from typing import Any

from src.config import (
    Config,
    DatasetConfig,
    MethodConfig,
    ModelConfig,
    TrackingConfig,
    UserError,
    nearest,
    no_such_file,
)
from src.estimate.cards import read_memory
from src.tasks import TASKS

CHOICES = {
    "dataset.source": ("sample", "hub", "file"),
    "dataset.subset": ("first", "random"),
    "dataset.split": ("given", "article", "random"),
    "dataset.answer": ("first", "majority", "shortest"),
    "hardware.device": ("auto", "cpu", "gpu"),
    "hardware.precision": ("auto", "fp32", "bf16", "fp16"),
    "train.scheduler": ("linear", "cosine", "constant"),
    "train.keep": ("last", "best"),
    "model.task": TASKS,
    "method.quantize": (None, "nf4"),
    "tracking.keep_model": ("all", "best", "none"),
}
AT_LEAST_ONE = (  # these may be null too
    *("train.epochs", "train.batch_size", "train.gradient_accumulation_steps"),
    *("train.eval_every_epochs", "train.early_stopping_patience"),
    *("dataset.train_size", "dataset.validation_size"),
    *("evaluation.batch_size", "evaluation.max_answer_length", "evaluation.n_best"),
    *("hardware.threads", "hardware.processes", "hardware.tokens_per_pass"),
)
ABOVE_ZERO = ("train.learning_rate", "train.max_grad_norm", "sweep.margin", "hardware.price_per_hour")
LARGEST = 2**63  # torch and databases do not accept larger integers
LONGEST_NAME = 100  # characters of a name that becomes part of a metric's name
SHARES = ("train.warmup_ratio", "train.hidden_dropout", "train.attention_dropout")
PLAIN_STARTS = ("true", "gaussian", "orthogonal")  # of method.peft.init_lora_weights; these do not read the base
Check = tuple[bool, str]  # whether the check passed, and the error message if it did not


def problems(config: Config) -> list[str]:
    """All errors in the values, each as one sentence that names its key; empty if there are none."""
    checks = [*_values(config), *_train(config), *_model(config.model), *_data(config.dataset)]
    checks += [*_method(config.method), *_head(config), *_quantised(config.method)]
    return _unknown_keys(config) + [sentence for ok, sentence in checks if not ok]


def _unknown_keys(config: Config) -> list[str]:
    """Errors for keys that are not in the schema; with `+train.epohcs=3` Hydra accepts any key."""
    sentences = []
    names = [each.name for each in fields(config)]
    for name in names:
        section = getattr(config, name)
        if is_dataclass(section):
            known = [key.name for key in fields(section)]
            for key in sorted(vars(section).keys() - set(known)):
                sentences.append(f"There is no key '{name}.{key}'{nearest(key, known)}; leave out the '+'.")
    return sentences + [f"There is no key '{key}'; leave it out." for key in sorted(vars(config).keys() - set(names))]


def _values(config: Config) -> Iterator[Check]:
    """The checks of single values."""

    def value(key: str) -> Any:
        section, _, name = key.partition(".")
        return getattr(getattr(config, section), name)

    for key, options in CHOICES.items():
        chosen = value(key)
        names = [str(option) for option in options if option is not None]
        yield chosen in options, f"{key}={chosen} is none of {', '.join(names)}{nearest(chosen, names)}."
    for key in AT_LEAST_ONE:
        yield value(key) is None or value(key) >= 1, f"{key}={value(key)} must be at least 1."
    for key in ABOVE_ZERO:
        ok = value(key) is None or 0 < value(key) < math.inf
        yield ok, f"{key}={value(key)} must be a number above 0."
    for key, number in _leaves(config):
        ok = not isinstance(number, int) or abs(number) < LARGEST
        yield ok, f"{key}={number} is too large; give a whole number below 2^63."
    yield _read(config.hardware.memory)
    yield from _tracking(config.tracking)
    train = config.train
    yield train.weight_decay >= 0, f"train.weight_decay={train.weight_decay} must not be negative."
    yield train.checkpoint_minutes > 0, f"train.checkpoint_minutes={train.checkpoint_minutes} must be above 0."
    for key in SHARES:
        yield 0 <= value(key) < 1, f"{key}={value(key)} must be at least 0 and below 1."


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """All values of a configuration with their keys."""
    if is_dataclass(value):
        value = vars(value)
    if isinstance(value, dict | list):
        named = value.items() if isinstance(value, dict) else enumerate(value)
        for name, inside in named:
            yield from _leaves(inside, f"{key}.{name}" if key else str(name))
    else:
        yield key, value


def _tracking(tracking: TrackingConfig) -> Iterator[Check]:
    name = tracking.register
    readable = name is None or (name.strip() == name != "" and not set(name) & set("/:'\""))
    yield (
        readable,
        f"tracking.register={name}: the name of a registered model has no /, :, quotes or spaces at its ends.",
    )
    kept = name is None or tracking.keep_model == "all"
    yield kept, f"tracking.register={name} needs tracking.keep_model=all: a registered model must stay."


def _read(memory: str | None) -> Check:
    try:
        return memory is None or read_memory(memory) > 0, ""
    except UserError as error:
        return False, str(error)


def _train(config: Config) -> Iterator[Check]:
    train = config.train
    same_every_time = config.method.trainable == ["head"] and train.hidden_dropout == train.attention_dropout == 0
    yield (
        same_every_time or not train.cache_encoder,
        (
            "train.cache_encoder=true needs an encoder whose output does not change: method=head, "
            "train.hidden_dropout=0 and train.attention_dropout=0."
        ),
    )


def _model(model: ModelConfig) -> Iterator[Check]:
    yield (
        model.max_length >= 16 and 0 <= model.doc_stride <= model.max_length - 16,
        (
            f"model.doc_stride={model.doc_stride} with model.max_length={model.max_length} leaves too little room: "
            "a window needs at least 16 tokens more than its overlap."
        ),
    )
    yield (
        bool(model.path or model.model_type),
        "model.path and model.model_type are both empty: name a folder or a hub model in model.path.",
    )
    yield _prompt(model)
    yield (
        model.path is not None or model.tokenizer is not None,
        "model.tokenizer is empty: a model without model.path needs to know whose tokenizer to use.",
    )
    yield (
        model.pretrained or model.model_type is not None,
        "model.pretrained=false needs model.model_type, the architecture's name in transformers (bert, ...).",
    )


def _prompt(model: ModelConfig) -> Check:
    """Check that the prompt has fields for passage and question, and no other field."""
    if model.prompt == "chat":
        return True, ""
    try:
        fields = {field for _, field, _, _ in Formatter().parse(model.prompt) if field is not None}
    except ValueError as error:
        return False, f"model.prompt={model.prompt!r} cannot be read ({error}); write {{{{ for a brace."
    named = ", ".join(sorted(f"{{{field}}}" for field in fields)) or "nothing"
    return (
        fields == {"context", "question"},
        f"model.prompt={model.prompt!r} must name {{context}} and {{question}}, and nothing else; it names {named}.",
    )


def _data(data: DatasetConfig) -> Iterator[Check]:
    yield (
        data.source not in ("file", "hub") or data.path is not None,
        f"dataset={data.name} needs dataset.path, " + ("a hub name." if data.source == "hub" else "a file."),
    )
    yield (
        data.source != "sample" or data.path is None,
        f"dataset.path={data.path} is given, but dataset={data.name} generates its questions: add dataset=file.",
    )
    yield (
        data.source == "file" or data.validation_path is None,
        f"dataset.validation_path={data.validation_path} needs dataset=file; dataset={data.name} has its own.",
    )
    size = data.test_size
    yield (
        size in (None, "all") or (isinstance(size, int) and not isinstance(size, bool) and size >= 1),
        f"dataset.test_size={size} must be a number of questions, at least 1, or all; null for no test set.",
    )
    yield from _test_path(data)
    yield (
        data.validation_path is None or data.split == "given",
        (
            f"dataset.validation_path provides validation questions, and dataset.split={data.split} draws others: "
            "leave one of them out."
        ),
    )
    yield (
        not (data.source == "file" and data.split == "given" and data.validation_path is None),
        "dataset.split=given needs dataset.validation_path; with one file choose dataset.split=article.",
    )
    for key, file in data.files().items():
        yield file.exists(), f"{key}: {no_such_file(file)}"
    for name in data.extra_validation:
        yield (
            re.fullmatch(r"[\w.-]*[\w-][\w.-]*", name) is not None and len(name) <= LONGEST_NAME,
            (
                f"dataset.extra_validation.{name}: a name has letters, digits, '_', '-' and '.', not dots alone, "
                f"and at most {LONGEST_NAME} characters."
            ),
        )


def _test_path(data: DatasetConfig) -> Iterator[Check]:
    """The checks of the source of the test questions."""
    path, given = data.test_path, data.split == "given"
    yield (
        path is None or data.source != "sample",
        f"dataset.test_path={path} is given, but dataset={data.name} generates its test questions; leave it out.",
    )
    yield (
        not (given and isinstance(data.test_size, int)) or data.has_own_test,
        (
            f"dataset.test_size={data.test_size} with dataset.split=given needs dataset.test_path; with one file "
            "choose dataset.split=article."
        ),
    )
    yield (
        not (given and data.source == "hub" and path == "validation" and data.has_own_test),
        (
            "dataset.test_path=validation names the validation questions of dataset.split=given; choose "
            "dataset.split=article, or dataset.test_size=null for no test set."
        ),
    )


def _method(method: MethodConfig) -> Iterator[Check]:
    yield (
        (method.trainable is None) != (method.peft is None),
        f"method={method.name} must have either `trainable` (parameter patterns) or `peft` (a peft config), "
        + ("not both." if method.peft is not None else "and has neither."),
    )
    yield method.trainable is None or len(method.trainable) > 0, f"method={method.name}: `trainable` is empty."
    yield (
        method.peft is None or "peft_type" in method.peft,
        f"method={method.name}: the peft block names no `peft_type` (LORA, IA3, ...).",
    )


def _head(config: Config) -> Iterator[Check]:
    """Check that the model has a head if the method trains it."""
    method, patterns = config.method, config.method.trainable or []
    others = [pattern for pattern in patterns if pattern != "head"]
    without = f", or leave `head` out (method.trainable='{others}')".replace('"', "'") if others else ""
    yield (
        config.model.task != "generative" or "head" not in patterns,
        (
            f"method={method.name} trains the question-answering head, and a generative model has none; "
            f"choose method=lora or full{without}."
        ),
    )


def _quantised(method: MethodConfig) -> Iterator[Check]:
    """Check that the method works on a 4-bit base, whose weights adapters can neither change nor read."""
    block = method.peft or {}
    what = f"method={method.name} holds the base in 4 bits (method.quantize={method.quantize}), "
    yield (
        method.quantize is None or block.get("peft_type") in ("LORA", "IA3"),
        what + "which needs adapters: a `peft` block with peft_type LORA or IA3.",
    )
    start = block.get("init_lora_weights", True)
    yield (
        method.quantize is None or str(start).lower() in PLAIN_STARTS,
        what + f"and method.peft.init_lora_weights={start} would read or change the base; use true.",
    )
    bias = block.get("bias", "none")
    yield (
        method.quantize is None or bias == "none",
        what + f"and method.peft.bias={bias} would train the base's biases; use none.",
    )


def cannot_be_trained(config: Config) -> list[str]:
    """Reasons why a configuration that `src.plan` supports cannot be trained on this machine; empty if it can."""
    method = config.method
    if method.quantize is None or importlib.util.find_spec("bitsandbytes") is not None:
        return []
    held = f"method={method.name} holds the base in 4 bits (method.quantize={method.quantize}) by bitsandbytes"
    return [f"{held}, which is not installed: pip install -e '.[qlora]'."]


def validate(config: Config) -> None:
    """Raise one UserError with all reasons why a run with these values cannot be trained."""
    if sentences := problems(config) + cannot_be_trained(config):
        raise UserError("\n".join(sentences))
