"""The check behind `benchmarks/gpu.sh`: what trains on a GPU is what trains on a CPU, how fast, and in what memory.

    bash benchmarks/gpu.sh DATA.json

Needs torch, transformers, peft and accelerate alone. Weights are random. Tokens are words of DATA.json, numbered by a
hash; each word counts as the 1.3 tokens that a word is with BERT's vocabulary, so that the lengths are realistic.
Prints one line of JSON a measurement, and a table at the end.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import tempfile
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from src.config import EvaluationConfig, HardwareConfig, MethodConfig, ModelConfig, TrainConfig
from src.model import backbone, method
from src.model.fast import speed_up
from src.tasks.extractive.batches import SpanBatches
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
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "minilm": ("bert", {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6}),
    "distilbert": ("distilbert", {}),
    "bert_base": ("bert", {}),
}
SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}),
    "distilbert": ("distilbert", {"dim": 64, "hidden_dim": 128, "n_layers": 2, "n_heads": 2}),
}
LORA = {"peft_type": "LORA", "r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear"}
METHODS = {
    "full": MethodConfig("full", 1e-4, trainable=["*"]),
    "lora": MethodConfig("lora", 1e-3, peft=LORA),
    "head": MethodConfig("head", 1e-2, trainable=["head"]),
}


class TextBatches(SpanBatches):
    """Windows made of the words of a SQuAD file, which nothing is predicted from."""

    def __init__(self, data: Path, count: int) -> None:
        self.windows: list[tuple[list[int], int]] = []
        for article in json.loads(data.read_text(encoding="utf-8"))["data"]:
            for paragraph in article["paragraphs"]:
                context = self._tokens(paragraph["context"])
                for question in paragraph["qas"]:
                    asked = self._tokens(question["question"])
                    tokens = [101, *asked, 102, *context, 102][:MAX_LENGTH]
                    self.windows.append((tokens, len(asked) + 2))
        generator = np.random.default_rng(0)
        chosen = generator.permutation(len(self.windows))[:count]
        self.windows = [self.windows[i] for i in chosen]
        self.lengths = np.array([len(tokens) for tokens, _ in self.windows])
        self.terms = np.ones_like(self.lengths)
        self.questions = np.arange(len(self.lengths))

    @staticmethod
    def _tokens(text: str) -> list[int]:
        words = re.findall(r"\w+|[^\w\s]", text)
        ids = [1000 + zlib.crc32(word.lower().encode()) % (VOCABULARY - 1000) for word in words]
        return [i for n, i in enumerate(ids) for _ in range(2 if n % 10 < 3 else 1)]

    def training(self, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
        generator = np.random.default_rng([seed, epoch])
        order = np.argsort(self.lengths + generator.random(len(self.lengths)))
        batches = [order[i : i + batch_size].tolist() for i in range(0, len(order), batch_size)]
        return [batches[i] for i in generator.permutation(len(batches))]

    def evaluation(self, batch_size: int) -> list[list[int]]:
        order = np.argsort(-self.lengths).tolist()
        return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]

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


def build(shape: tuple[str, dict[str, Any]], chosen: str, device: str, precision: str, fast: bool) -> Any:
    """A model as `src.run` prepares it, and what it runs on."""
    model_type, config = shape
    runtime = hardware.start(HardwareConfig(device, device=device, precision=precision, fast_kernels=fast))
    meter = Meter(runtime.device)
    wanted = ModelConfig(model_type, pretrained=False, model_type=model_type, config=config, max_length=MAX_LENGTH)
    bare = backbone.load_model(
        wanted, hidden_dropout=0.0 if precision == "fp32" else 0.1, attention_dropout=0.0, seed=0
    )
    model = method.apply(bare, METHODS[chosen])
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


def losses(built: Any, batches: TextBatches, chosen: str) -> tuple[list[float], float]:
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

    # Correctness: one epoch without dropout; the same losses as the plain modules on the CPU.
    few = TextBatches(arguments.data, BATCH * 3)
    for label, shape in SMALL.items():
        for chosen in METHODS:
            expected, _ = losses(build(shape, chosen, "cpu", "fp32", fast=False), few, chosen)
            for fast in (False, True):
                got, _ = losses(build(shape, chosen, device, "fp32", fast), few, chosen)
                apart = max(abs(a - b) for a, b in zip(got, expected, strict=True))
                print(json.dumps({"check": f"{label} {chosen} fast={fast}", "loss_apart": round(apart, 6)}), flush=True)
                if apart > 2e-3:
                    raise SystemExit(f"{label} {chosen} fast={fast}: losses {got}, expected {expected}")
    if device == "gpu":  # packed windows exist in 16 bits alone; dropout is on, so that only the level can be compared
        for label, shape in SMALL.items():
            levels = [
                np.mean(losses(build(shape, "full", device, "bf16", fast), few, "full")[0]) for fast in (False, True)
            ]
            print(json.dumps({"check": f"{label} bf16, plain and packed", "mean_losses": np.round(levels, 4).tolist()}))
            if abs(levels[0] - levels[1]) > 0.05:
                raise SystemExit(f"{label} in bf16: mean losses {levels}")
    reference = predict_with(build(SMALL["bert"], "full", "cpu", "fp32", fast=False), few)
    found = predict_with(build(SMALL["bert"], "full", device, "fp32", fast=True), few)
    apart = max(float(np.abs(a - b).max()) for a, b in zip(reference, found, strict=True))
    print(json.dumps({"check": "logits of a prediction", "apart": round(apart, 6)}), flush=True)
    if apart > 1e-3:
        raise SystemExit("the logits differ")

    # Throughput and memory: in turns.
    batches = TextBatches(arguments.data, BATCH * steps)
    rows: dict[tuple[str, str, bool], list[dict[str, float]]] = {}
    for _ in range(rounds):
        for label, shape in shapes.items():
            for chosen in ("full", "lora", "head"):
                for fast_path in (False, True):
                    if device == "gpu":
                        torch.cuda.empty_cache()
                    built = build(shape, chosen, device, "auto", fast_path)
                    begin = time.perf_counter()
                    _, speed = losses(built, batches, chosen)
                    row = components(built, built.meter.train.peak_mb) | {"examples_per_second": speed}
                    row["seconds"] = time.perf_counter() - begin
                    rows.setdefault((label, chosen, fast_path), []).append(row)
                    print(json.dumps({"run": [label, chosen, fast_path], **{k: round(v, 2) for k, v in row.items()}}))
                    del built
    print("| model | method | fast | examples/s | weights | gradients | optimizer | activations | peak MB |")
    print("|---|---|---|---:|---:|---:|---:|---:|---:|")
    for (label, chosen, fast_path), each in rows.items():
        row = {key: statistics.median(r[key] for r in each) for key in each[0]}
        keys = ("weights_mb", "gradients_mb", "optimizer_mb", "activations_mb", "peak_mb")
        cells = [
            label,
            chosen,
            str(fast_path),
            f"{row['examples_per_second']:.0f}",
            *(f"{row[key]:.0f}" for key in keys),
        ]
        print("| " + " | ".join(cells) + " |")


def predict_with(built: Any, batches: TextBatches) -> list[np.ndarray]:
    pairs = predict(built.runtime, built.model, batches, EvaluationConfig(batch_size=BATCH))
    return [logits for pair in pairs for logits in pair]


if __name__ == "__main__":
    main()
