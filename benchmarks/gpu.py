"""The check behind `benchmarks/gpu.sh`: what trains on a GPU is what trains on a CPU, how fast, and in what memory.

    bash benchmarks/gpu.sh DATA.json

Needs torch, transformers, peft and accelerate alone; QLoRA is measured where bitsandbytes is there. Weights are random.
Tokens are words of DATA.json, numbered by a hash; each word counts as the 1.3 tokens that a word is with BERT's
vocabulary, so that the lengths are realistic. Encoders mark a span, decoders write three words of the passage.
Prints one line of JSON a measurement, and a table at the end.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import yaml

from src.config import ROOT, EvaluationConfig, HardwareConfig, MethodConfig, ModelConfig, TrainConfig
from src.model import backbone, method, quantize
from src.model.fast import speed_up
from src.tasks import task_of
from src.tasks.base import Batches
from src.tasks.extractive.batches import SpanBatches
from src.tasks.generative.batches import PromptBatches
from src.tasks.generative.decode import Stops
from src.training import hardware
from src.training.checkpoint import Checkpoints
from src.training.fit import fit
from src.training.meter import Meter
from src.training.predict import predict
from src.training.step import Step

MB = 1e6
MAX_LENGTH = 384
BATCH = 32
VOCABULARY = 30522
END = 2  # ends what a decoder writes
Question = tuple[list[int], list[int]]  # the tokens of question and passage


@dataclass(frozen=True)
class Shape:
    """A model with random weights."""

    model_type: str
    task: str
    config: dict[str, Any]


def shape_of(name: str) -> Shape:
    """The shape of a decoder in conf/model."""
    model = yaml.safe_load((ROOT / "conf" / "model" / f"{name}.yaml").read_text(encoding="utf-8"))
    return Shape(model["model_type"], model["task"], model["shape"])


SHAPES = {
    "minilm": Shape("bert", "extractive", {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6}),
    "distilbert": Shape("distilbert", "extractive", {}),
    "bert_base": Shape("bert", "extractive", {}),
    "smollm2_135m": shape_of("smollm2_135m"),
    "llama3_2_1b": shape_of("llama3_2_1b"),
}
NARROW = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
SMALL = {
    "bert": Shape("bert", "extractive", NARROW | {"num_attention_heads": 2}),
    "distilbert": Shape("distilbert", "extractive", {"dim": 64, "hidden_dim": 128, "n_layers": 2, "n_heads": 2}),
    "llama": Shape(
        "llama",
        "generative",
        NARROW | {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": VOCABULARY},
    ),
}
LORA = {"peft_type": "LORA", "r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear"}
FULL = MethodConfig("full", 1e-4, trainable=["*"])
METHODS = {
    "full": FULL,
    "full, checkpointing": FULL,  # of gradients
    "lora": MethodConfig("lora", 1e-3, peft=LORA),
    "qlora": MethodConfig("qlora", 1e-3, peft=LORA, quantize="nf4"),
    "head": MethodConfig("head", 1e-2, trainable=["head"]),
}
QLORA = ["qlora"] if importlib.util.find_spec("bitsandbytes") else []
MEASURED = {
    "extractive": ["full", "lora", "head"],
    "generative": ["full", "full, checkpointing", "lora", *QLORA],
}


def tokens_of(text: str) -> list[int]:
    """A number for each word and sign, and a second one for three words in ten."""
    words = re.findall(r"\w+|[^\w\s]", text)
    ids = [1000 + zlib.crc32(word.lower().encode()) % (VOCABULARY - 1000) for word in words]
    return [i for n, i in enumerate(ids) for _ in range(2 if n % 10 < 3 else 1)]


def questions_of(data: Path, count: int) -> list[Question]:
    """Question and passage, as tokens, of some questions of a SQuAD file."""
    pairs = []
    for article in json.loads(data.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            context = tokens_of(paragraph["context"])
            pairs += [(tokens_of(question["question"]), context) for question in paragraph["qas"]]
    return [pairs[i] for i in np.random.default_rng(0).permutation(len(pairs))[:count]]


class TextSpans(SpanBatches):
    """Windows whose answers are three tokens somewhere in the passage."""

    def __init__(self, questions: Sequence[Question]) -> None:
        self.windows = [
            ([101, *asked, 102, *context, 102][:MAX_LENGTH], len(asked) + 2) for asked, context in questions
        ]
        self.lengths = np.array([len(tokens) for tokens, _ in self.windows])
        self.terms = np.ones_like(self.lengths)
        self.questions = np.arange(len(self.lengths))

    def collate(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        width = min(MAX_LENGTH, -(-max(int(self.lengths[row]) for row in rows) // 32) * 32)
        ids = torch.zeros(len(rows), width, dtype=torch.int64)
        types, mask = torch.zeros_like(ids), torch.zeros_like(ids)
        starts = []
        for i, row in enumerate(rows):
            tokens, context = self.windows[row]
            ids[i, : len(tokens)] = torch.tensor(tokens)
            types[i, context : len(tokens)] = 1
            mask[i, : len(tokens)] = 1
            starts.append(context + len(tokens) % 7)
        start = torch.tensor(starts)
        end = torch.minimum(start + 2, mask.sum(1) - 1)
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "token_type_ids": types,
            "start_positions": torch.minimum(start, end),
            "end_positions": end,
        }


class Columns:
    """Examples as `datasets` gives them: a column by its name, or the columns of some rows."""

    def __init__(self, columns: dict[str, list[Any]]) -> None:
        self.columns = columns

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self.columns[key]
        return {name: [values[row] for row in key] for name, values in self.columns.items()}


class TextPrompts(PromptBatches):
    """Prompts, passage first, whose answers are three tokens of the passage."""

    def __init__(self, questions: Sequence[Question]) -> None:
        answers = [np.array([*context[len(asked) : len(asked) + 3], END]) for asked, context in questions]
        prompts = [
            np.array([*context, *asked][-(MAX_LENGTH - len(answer)) :])
            for (asked, context), answer in zip(questions, answers, strict=True)
        ]
        lengths = [len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True)]
        columns: dict[str, list[Any]] = {
            "prompt": prompts,
            "answer": answers,
            "length": lengths,
            "question": list(range(len(prompts))),
        }
        tokenizer = SimpleNamespace(all_special_ids=[END], decode=lambda tokens, **_: " ".join(map(str, tokens)))
        super().__init__(Columns(columns), Stops(tokenizer), null_answer=None)


BATCHES: dict[str, Callable[[Sequence[Question]], Batches]] = {"extractive": TextSpans, "generative": TextPrompts}


def build(shape: Shape, chosen: str, device: str, precision: str, fast: bool) -> Any:
    """A model as `src.run` prepares it, and what it runs on."""
    wanted = ModelConfig(
        shape.model_type,
        pretrained=False,
        model_type=shape.model_type,
        task=shape.task,
        config=shape.config,
        max_length=MAX_LENGTH,
    )
    runtime = hardware.start(
        HardwareConfig(device, device=device, precision=precision, fast_kernels=fast),
        cpu_tokens=task_of(wanted).cpu_tokens,
    )
    meter = Meter(runtime.device)
    dropout = 0.0 if precision == "fp32" or shape.task == "generative" else 0.1
    bare = backbone.load_model(wanted, hidden_dropout=dropout, attention_dropout=0.0, seed=0)
    model = method.apply(bare, METHODS[chosen])
    if "checkpointing" in chosen:
        backbone.checkpoint_gradients(bare)
    quantize.compute_in(bare, runtime.dtype)
    if runtime.fast_kernels:
        speed_up(model, runtime.dtype, runtime.device.type)
    return SimpleNamespace(model=runtime.accelerator.prepare_model(model), runtime=runtime, meter=meter)


class Losses:
    """Callbacks of the loop that keep the loss of each step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_steps(self, steps: list[Step]) -> None:
        self.values += [step.loss for step in steps]

    def on_epoch(self, epoch: int) -> float:
        return 0.0


def losses(built: Any, batches: Batches, chosen: str) -> tuple[list[float], float]:
    """The loss of each step of one epoch, and examples a second after the warm-up."""
    kept = Losses()
    rate = METHODS[chosen].learning_rate
    settings = TrainConfig(epochs=1, learning_rate=rate, batch_size=BATCH, scheduler="constant", warmup_ratio=0.0)
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(built.runtime.accelerator, Path(folder), 1e9, False, print)
        fit(built.runtime, built.model, batches, settings, built.meter, checkpoints, kept)
    return kept.values, built.meter.train.examples_per_second


def components(built: Any, peak_mb: float) -> dict[str, float]:
    """MB by component: weights, gradients and optimizer state by their sizes; activations are the rest of the peak."""
    parameters = list(built.model.parameters())
    weights = sum(p.numel() * p.element_size() for p in parameters) / MB
    trained = sum(p.numel() * p.element_size() for p in parameters if p.requires_grad) / MB
    return {
        "weights_mb": weights,
        "gradients_mb": trained,
        "optimizer_mb": 2 * trained,
        "activations_mb": peak_mb - weights - 3 * trained,
        "peak_mb": peak_mb,
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--small", action="store_true", help="small models and few steps")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    device = "gpu" if torch.cuda.is_available() else "cpu"
    shapes = SMALL if arguments.small or device == "cpu" else SHAPES
    steps, rounds = (8, 1) if shapes is SMALL else (arguments.steps, arguments.rounds)
    name = torch.cuda.get_device_name() if device == "gpu" else "CPU"
    print(json.dumps({"device": name, "torch": torch.__version__}))

    questions = questions_of(arguments.data, BATCH * max(steps, 3))
    check(questions[: BATCH * 3], device)
    print_table(measure(questions[: BATCH * steps], shapes, rounds, device))


def check(questions: Sequence[Question], device: str) -> None:
    """Compare losses and predictions with those of the plain modules on the CPU; SystemExit where they differ."""
    for label, shape in SMALL.items():
        few = BATCHES[shape.task](questions)
        for chosen in MEASURED[shape.task]:
            expected, _ = losses(build(shape, chosen, "cpu", "fp32", fast=False), few, chosen)
            for fast in (False, True):
                got, _ = losses(build(shape, chosen, device, "fp32", fast), few, chosen)
                apart = max(abs(a - b) for a, b in zip(got, expected, strict=True))
                print(json.dumps({"check": f"{label} {chosen} fast={fast}", "loss_apart": round(apart, 6)}), flush=True)
                if apart > 2e-3:
                    raise SystemExit(f"{label} {chosen} fast={fast}: losses {got}, expected {expected}")
        if device == "gpu":  # packed windows exist in 16 bits alone; with dropout only the level can be compared
            levels = [
                np.mean(losses(build(shape, "full", device, "bf16", fast), few, "full")[0]) for fast in (False, True)
            ]
            print(json.dumps({"check": f"{label} bf16, plain and fast", "mean_losses": np.round(levels, 4).tolist()}))
            if abs(levels[0] - levels[1]) > 0.05:
                raise SystemExit(f"{label} in bf16: mean losses {levels}")
        reference = predicted(build(shape, "full", "cpu", "fp32", fast=False), few)
        same = predicted(build(shape, "full", device, "fp32", fast=True), few)
        apart = float(np.abs(reference - same).max())
        print(json.dumps({"check": f"{label}: what is predicted", "apart": round(apart, 6)}), flush=True)
        if apart > 1e-3:
            raise SystemExit(f"{label}: the predictions differ")


def predicted(built: Any, batches: Batches) -> np.ndarray:
    """The logits of all spans' ends, or how likely the labelled answers are."""
    each = predict(built.runtime, built.model, batches, EvaluationConfig(batch_size=BATCH, max_answer_length=4))
    if isinstance(batches, PromptBatches):
        return np.array([prediction.gold for prediction in each])
    return np.concatenate([logits for pair in each for logits in pair])


def measure(
    questions: Sequence[Question], shapes: dict[str, Shape], rounds: int, device: str
) -> dict[tuple[str, str, bool], list[dict[str, float]]]:
    """Speed and memory of every model and method, in turns, with our kernels and without them."""
    rows: dict[tuple[str, str, bool], list[dict[str, float]]] = {}
    for _ in range(rounds):
        for label, shape in shapes.items():
            batches = BATCHES[shape.task](questions)
            for chosen in MEASURED[shape.task]:
                for fast in (False, True):
                    if device == "gpu":
                        torch.cuda.empty_cache()
                    built = build(shape, chosen, device, "auto", fast)
                    begin = time.perf_counter()
                    _, speed = losses(built, batches, chosen)
                    row = components(built, built.meter.train.peak_mb) | {"examples_per_second": speed}
                    row["seconds"] = time.perf_counter() - begin
                    rows.setdefault((label, chosen, fast), []).append(row)
                    shown = {key: round(value, 2) for key, value in row.items()}
                    print(json.dumps({"run": [label, chosen, fast], **shown}), flush=True)
                    del built
    return rows


def print_table(rows: dict[tuple[str, str, bool], list[dict[str, float]]]) -> None:
    """The medians over the rounds."""
    print("| model | method | fast | examples/s | weights | gradients | optimizer | activations | peak MB |")
    print("|---|---|---|---:|---:|---:|---:|---:|---:|")
    for (label, chosen, fast), each in rows.items():
        row = {key: statistics.median(r[key] for r in each) for key in each[0]}
        keys = ("weights_mb", "gradients_mb", "optimizer_mb", "activations_mb", "peak_mb")
        cells = [label, chosen, str(fast), f"{row['examples_per_second']:.0f}", *(f"{row[key]:.0f}" for key in keys)]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
