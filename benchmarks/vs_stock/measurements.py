"""The measurements, each made in its own process: training, memory, tokenising, quality."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.vs_stock.clock import Clock
from benchmarks.vs_stock.job import BATCH, WARM_UP, method_of, precision_of, setting, sizes
from benchmarks.vs_stock.loops import ours, trained
from benchmarks.vs_stock.rate import arithmetic, matrix_rate


def train(arguments: argparse.Namespace, model: str, variant: str) -> dict[str, float]:
    """Seconds of a step by part, examples a second, peak memory, and what share of the matrix rate it reaches."""
    steps = max(WARM_UP + 3, arguments.steps // (5 if variant == "stock" else 1))
    method = method_of(variant)
    job = setting(arguments, model, method, BATCH * steps, 16)
    # As many windows for everybody: passages longer than a window make more windows than questions.
    rows = job.train.windows.select(range(min(len(job.train.windows), BATCH * steps)))
    clock = Clock()
    used = trained(job, rows, variant, clock, epochs=1)
    result = clock.result() | {"peak_mb": used.peak_mb}
    rate = matrix_rate(precision_of(variant, arguments.precision))
    lengths = rows["length"][:]
    per_example = arithmetic(used.model.config, method, lengths) / len(lengths)
    return result | {
        "rate_gflops": rate / 1e9,
        "share_percent": 100 * result["examples_per_second"] * per_example / rate,
    }


def components(arguments: argparse.Namespace, model: str, variant: str) -> dict[str, float]:
    """MB by component, by the sizes of the tensors, and the peak of the process."""
    import torch

    steps = WARM_UP + 3
    job = setting(arguments, model, variant, BATCH * steps, 16)
    rows = job.train.windows.select(range(min(len(job.train.windows), BATCH * steps)))
    used = ours(job, rows, variant, None, epochs=1)
    parameters = list(used.model.parameters())
    weights = {p.untyped_storage().data_ptr() for p in parameters}
    saved: dict[int, int] = {}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    tokens = int(used.runtime.micro_batch_tokens)
    width = 192
    ids = torch.ones(tokens // width, width, dtype=torch.int64)
    used.model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = used.model(input_ids=ids, attention_mask=torch.ones_like(ids))
    kept = sum(saved.values())
    del out
    gradients = sum(p.numel() * p.element_size() for p in parameters if p.requires_grad)
    sizes = {
        "weights": sum(p.numel() * p.element_size() for p in parameters),
        "gradients": gradients,
        "optimizer": 2 * gradients,  # AdamW's two moments
        "saved": kept,
    }
    mb = {f"{name}_mb": size / 1e6 for name, size in sizes.items()}
    return mb | {"sum_mb": sum(mb.values()), "peak_mb": used.peak_mb, "tokens": tokens}


def large(arguments: argparse.Namespace, count: str) -> dict[str, float]:
    """Peak memory of training steps over windows of so many questions."""
    job = setting(arguments, "minilm", "lora", sizes(arguments).scale[0], 16)
    with tempfile.TemporaryDirectory() as folder:
        windows = cut(job, int(count), Path(folder))
        used = ours(job, windows, "lora", None, epochs=1, stop_after=arguments.steps)
    return {"windows": len(windows), "peak_mb": used.peak_mb}


def tokenise(arguments: argparse.Namespace, count: str) -> dict[str, float]:
    """Cut so many questions into windows with an empty cache; then read them from there."""
    job = setting(arguments, "minilm", "full", sizes(arguments).scale[0], 16)
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            begin = time.perf_counter()
            windows = cut(job, int(count), Path(folder))
            seconds.append(time.perf_counter() - begin)
    return {"questions": int(count), "windows": len(windows), "seconds": seconds[0], "again_seconds": seconds[1]}


def cut(job: Any, count: int, cache: Path) -> Any:
    """The windows of `count` questions, those of the data repeated, with `cache` as the folder of cached windows."""
    import datasets

    from src.tasks.extractive.windows import make_windows

    datasets.config.HF_DATASETS_CACHE = cache
    times = -(-count // len(job.sets.train))
    questions = datasets.concatenate_datasets([job.sets.train] * times).select(range(count))
    return make_windows(questions, job.tokenizer, job.config.model, "first")[0]


def quality(arguments: argparse.Namespace, variant: str, seed: str) -> dict[str, float]:
    """Exact match and F1 after 3 epochs on `--train-size` questions, scored on questions of other articles."""
    from src.evaluation.score import score
    from src.training import hardware
    from src.training.predict import predict

    validation = sizes(arguments).validation
    job = setting(arguments, "minilm", method_of(variant), arguments.train_size, validation, int(seed))
    begin = time.perf_counter()
    used = trained(job, job.train.windows, variant, None, epochs=3)
    seconds = time.perf_counter() - begin
    limits, questions = job.config.evaluation, job.sets.validation.to_list()
    predictions = predict(hardware.start(job.config.hardware), used.model, job.validation, limits)
    answers = job.validation.answers(questions, predictions, limits, False)
    metrics = score(questions, answers)
    return {"exact_match": metrics["exact_match"], "f1": metrics["f1"], "seconds": seconds}
