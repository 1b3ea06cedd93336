"""What every measurement is given: the variants and sizes, and one configuration with its windows."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

BATCH = 16
MAX_LENGTH = 384  # tokens of a window
WARM_UP = 3  # steps that are not timed
VARIANTS = ("stock", "trainer", "full", "lora", "head")
OURS = ("full", "lora", "head")  # the variants that are methods of ours; the others train everything
MODELS = ("minilm", "bert_base_shape")


@dataclass(frozen=True)
class Sizes:
    """How many questions each measurement uses."""

    trained: int = 60 * BATCH  # before evaluation is measured
    validation: int = 1000
    scale: tuple[int, int] = (4000, 88000)
    tokenised: int = 88000


def sizes(arguments: argparse.Namespace) -> Sizes:
    """The sizes that are measured, or with `--small` those that only show that everything runs."""
    small = Sizes(trained=2 * BATCH, validation=32, scale=(64, 160), tokenised=160)
    return small if arguments.small else Sizes()


def method_of(variant: str) -> str:
    """The method of ours that trains the same parameters as a variant."""
    return variant if variant in OURS else "full"


def precision_of(variant: str, precision: str) -> str:
    """The precision of a variant where the machine is fast in `precision`: the stock recipe is always fp32."""
    return "fp32" if variant == "stock" else precision


def fast_precision() -> str:
    """The precision that runs choose on this CPU: bf16 where the hardware multiplies it, else fp32."""
    from src.config import HardwareConfig
    from src.training import hardware

    return hardware.start(HardwareConfig("cpu", device="cpu")).precision


def setting(
    arguments: argparse.Namespace, model: str, method: str, train_size: int, validation_size: int, seed: int = 0
) -> Any:
    """Config, windows, questions and tokenizer, the same for every variant."""
    from hydra import compose, initialize_config_dir

    from src.compose import from_hydra, quiet_libraries, register
    from src.config import ROOT
    from src.data import sources
    from src.model import backbone
    from src.tasks.extractive.batches import SpanBatches
    from src.tasks.extractive.windows import make_windows

    quiet_libraries()
    register()
    overrides = [f"method={method}", "dataset=file", f"dataset.path={arguments.data.resolve()}", f"train.seed={seed}"]
    overrides += ["hardware=cpu", f"hardware.precision={arguments.precision}"]
    overrides += [f"dataset.train_size={train_size}", f"dataset.validation_size={validation_size}"]
    overrides.append("dataset.test_size=null")
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        config = from_hydra(compose("config", overrides), [])
    if model == "bert_base_shape":
        config.model = replace(
            config.model, path=None, sha256=None, pretrained=False, model_type="bert", tokenizer=config.model.path
        )
    sets = sources.load(config.dataset)
    tokenizer = backbone.load_tokenizer(config.model)

    def batches(questions: Any) -> SpanBatches:
        windows, _ = make_windows(questions, tokenizer, config.model, "first")
        return SpanBatches(windows, tokenizer.pad_token_id, MAX_LENGTH)

    return SimpleNamespace(
        config=config, sets=sets, train=batches(sets.train), validation=batches(sets.validation), tokenizer=tokenizer
    )
