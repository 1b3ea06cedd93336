"""Ours against the stock recipe: speed, memory and quality on the same windows, weights, steps and seed.

    python -m benchmarks.vs_stock DATA.json                       # everything but quality, about 20 minutes on 2 cores
    python -m benchmarks.vs_stock DATA.json --parts quality --seeds 3      # (a) alone takes an hour a seed on 2 cores

DATA.json is a file in SQuAD's format. Every measurement runs in a process of its own; those that are compared take
turns, `--rounds` times, and medians are reported. Results are kept beside this file in results.json, one part at a
time, and written from there to RESULTS.md.

(a) stock: transformers.Trainer, padded to 384, fp32, dropout as the model says (0.1, in attention too)
(b) trainer: the same with its best flags: bf16, padded to the batch's longest, grouped by length, fused AdamW
(c) ours: `src.training.fit`, as `python -m src.train` runs it: hidden dropout 0.1, none inside attention
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HERE = Path(__file__).parent
STORE = HERE / "results.json"
BATCH = 16
WARM_UP = 3  # steps that are not timed
VARIANTS = ["stock", "trainer", "full", "lora", "head"]
NAMES = {"stock": "(a) stock recipe, full", "trainer": "(b) Trainer, best flags, full"} | {
    name: f"(c) ours, {name}" for name in ("full", "lora", "head")
}
MODELS = ("minilm", "bert_base_shape")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument(
        "--parts", nargs="+", default=["training", "memory", "scale", "evaluation", "tokenising", "start"]
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--variants", nargs="+", default=VARIANTS, choices=VARIANTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40, help="steps of ours and of (b); (a) does a fifth of them")
    parser.add_argument("--seeds", type=int, default=1, help="of the part quality")
    parser.add_argument("--train-size", type=int, default=4000, help="of the part quality")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a measurement in this process; prints JSON
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(MEASUREMENTS[arguments.one.partition(":")[0]](arguments, *arguments.one.split(":")[1:])))
        return
    for part in arguments.parts:
        results = json.loads(STORE.read_text()) if STORE.exists() else {}
        results[part] = PARTS[part](arguments) | {"machine": machine(), "command": shown_command()}
        STORE.write_text(json.dumps(results, indent=1) + "\n")
        (HERE / "RESULTS.md").write_text(report(results))
        print((HERE / "RESULTS.md").read_text() if part == arguments.parts[-1] else f"{part}: done", flush=True)


def shown_command() -> str:
    """As it was given, without the places of this machine."""
    return " ".join(["python -m benchmarks.vs_stock", *(Path(word).name for word in sys.argv[1:])])


def child(arguments: argparse.Namespace, *what: str) -> dict[str, Any]:
    """One measurement in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.vs_stock", str(arguments.data), "--one", ":".join(what)]
    command += ["--steps", str(arguments.steps), "--train-size", str(arguments.train_size)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parent)
    if done.returncode:
        sys.exit(f"{':'.join(what)} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    print(":".join(what), {k: round(v, 2) if isinstance(v, float) else v for k, v in result.items()}, flush=True)
    return result


def medians(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


# --- the parts: each takes turns over its measurements


def training(arguments: argparse.Namespace) -> dict[str, Any]:
    rows: dict[str, list[dict[str, float]]] = defaultdict(list)
    for model in arguments.models:
        for _ in range(arguments.rounds if model == "minilm" else 1):
            for variant in arguments.variants:
                if model == "minilm" or variant in ("full", "lora"):
                    rows[f"{model} {variant}"].append(child(arguments, "train", model, variant))
    return {name: medians(each) for name, each in rows.items()}


def memory(arguments: argparse.Namespace) -> dict[str, Any]:
    variants = [variant for variant in arguments.variants if variant in ("full", "lora", "head")]
    return {f"{model} {v}": child(arguments, "components", model, v) for model in arguments.models for v in variants}


def scale(arguments: argparse.Namespace) -> dict[str, Any]:
    return {count: child(arguments, "large", count) for count in ("4000", "88000")}


def evaluation(arguments: argparse.Namespace) -> dict[str, Any]:
    return medians([child(arguments, "evaluate") for _ in range(arguments.rounds)])


def tokenising(arguments: argparse.Namespace) -> dict[str, Any]:
    return child(arguments, "tokenise", "88000")


def start(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        rows = [first_step(arguments.data, Path(folder)) for _ in range(1 + arguments.rounds)]
    return {"first": rows[0]} | {"warm": statistics.median(rows[1:])}


def quality(arguments: argparse.Namespace) -> dict[str, Any]:
    rows: dict[str, list[dict[str, float]]] = defaultdict(list)
    for seed in range(arguments.seeds):
        for variant in arguments.variants:
            rows[variant].append(child(arguments, "quality", variant, str(seed)))
    return {
        variant: {key: [row[key] for row in each] for key in ("exact_match", "f1")} for variant, each in rows.items()
    } | {"train_size": arguments.train_size}


# --- the measurements: each in its own process


def setting(data: Path, model: str, method: str, train_size: int, validation_size: int, seed: int = 0) -> Any:
    """Config, windows, questions and tokenizer, the same for every variant."""
    from hydra import compose, initialize_config_dir

    from src.compose import from_hydra, quiet_libraries, register
    from src.config import ROOT
    from src.data import sources
    from src.data.features import Batches, make_windows
    from src.model import backbone

    quiet_libraries()
    register()
    overrides = [f"method={method}", "dataset=file", f"dataset.path={data.resolve()}", f"train.seed={seed}"]
    overrides += [f"dataset.train_size={train_size}", f"dataset.validation_size={validation_size}"]
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        config = from_hydra(compose("config", overrides), [])
    if model == "bert_base_shape":
        config.model = replace(
            config.model, path=None, sha256=None, pretrained=False, model_type="bert", tokenizer=config.model.path
        )
    sets = sources.load(config.dataset)
    tokenizer = backbone.load_tokenizer(config.model)

    def batches(questions: Any) -> Batches:
        return Batches(make_windows(questions, tokenizer, config.model, "first")[0], tokenizer.pad_token_id, 384)

    return SimpleNamespace(
        config=config, sets=sets, train=batches(sets.train), validation=batches(sets.validation), tokenizer=tokenizer
    )


class Clock:
    """Seconds of each step by part, from hooks on the model and the optimizer; the same for every loop."""

    def __init__(self) -> None:
        self.parts: list[dict[str, float]] = [defaultdict(float)]
        self.last = time.perf_counter()

    def watch(self, model: Any) -> None:
        from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

        model.register_forward_pre_hook(lambda *_: self.tick("backward" if "forward" in self.parts[-1] else "data"))
        model.register_forward_hook(lambda *_: self.tick("forward"))
        register_optimizer_step_pre_hook(lambda *_: self.tick("backward"))
        register_optimizer_step_post_hook(lambda *_: self.end())

    def tick(self, part: str) -> None:
        now = time.perf_counter()
        self.parts[-1][part] += now - self.last
        self.last = now

    def end(self) -> None:
        self.tick("optimizer")
        self.parts.append(defaultdict(float))

    def result(self) -> dict[str, float]:
        """Mean milliseconds a step after the warm-up, and examples a second."""
        steps = [step for step in self.parts[WARM_UP:] if "optimizer" in step]
        means = {
            f"{part}_ms": 1000 * statistics.mean(step[part] for step in steps)
            for part in ("data", "forward", "backward", "optimizer")
        }
        return means | {"examples_per_second": 1000 * BATCH / sum(means.values()), "steps": len(steps)}


def train(arguments: argparse.Namespace, model: str, variant: str) -> dict[str, float]:
    steps = max(WARM_UP + 3, arguments.steps // (5 if variant == "stock" else 1))
    method = variant if variant in ("full", "lora", "head") else "full"
    job = setting(arguments.data, model, method, BATCH * steps, 16)
    # As many windows for everybody: passages longer than a window make more windows than questions.
    rows = job.train.windows.select(range(min(len(job.train.windows), BATCH * steps)))
    clock = Clock()
    used = (ours if variant == method else stock)(job, rows, variant, clock, epochs=1)
    result = clock.result() | {"peak_mb": used.peak_mb}
    rate = matrix_rate(fp32=variant == "stock")
    lengths = rows["length"][:]
    per_example = arithmetic(used.model.config, method, lengths) / len(lengths)
    return result | {
        "rate_gflops": rate / 1e9,
        "share_percent": 100 * result["examples_per_second"] * per_example / rate,
    }


def components(arguments: argparse.Namespace, model: str, variant: str) -> dict[str, float]:
    """MB by component, by the sizes of the tensors; the peak of the process beside them."""
    import torch

    steps = WARM_UP + 3
    job = setting(arguments.data, model, variant, BATCH * steps, 16)
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

    tokens = int(used.tokens_per_pass)
    width = 192
    ids = torch.ones(tokens // width, width, dtype=torch.int64)
    used.model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = used.model(input_ids=ids, attention_mask=torch.ones_like(ids))
    kept = sum(saved.values())
    del out
    trained = sum(p.numel() * p.element_size() for p in parameters if p.requires_grad)
    figures = {
        "weights": sum(p.numel() * p.element_size() for p in parameters),
        "gradients": trained,
        "optimizer": 2 * trained,  # AdamW's two moments
        "saved": kept,
    }
    mb = {f"{name}_mb": size / 1e6 for name, size in figures.items()}
    return mb | {"sum_mb": sum(mb.values()), "peak_mb": used.peak_mb, "tokens": tokens}


def large(arguments: argparse.Namespace, count: str) -> dict[str, float]:
    """Peak memory of training steps over windows of so many questions."""
    from datasets import concatenate_datasets

    from src.data.features import make_windows

    job = setting(arguments.data, "minilm", "lora", 4000, 16)
    times = -(-int(count) // len(job.sets.train))
    with tempfile.TemporaryDirectory() as folder:
        import datasets

        datasets.config.HF_DATASETS_CACHE = Path(folder)
        questions = concatenate_datasets([job.sets.train] * times).select(range(int(count)))
        windows, _ = make_windows(questions, job.tokenizer, job.config.model, "first")
        used = ours(job, windows, "lora", None, epochs=1, stop_after=arguments.steps)
    return {"windows": len(windows), "peak_mb": used.peak_mb}


def arithmetic(config: Any, method: str, lengths: Any) -> float:
    """Floating-point operations of one epoch over windows of these lengths, in matrix products, padding left out.

    Forward: 2 a weight and token, and 4 a pair of tokens and hidden unit for attention. Backward: as much for the
    inputs' gradient, where anything below trains, and as much for the weights' where they train.
    """
    hidden, layers = config.hidden_size, config.num_hidden_layers
    linear = 2 * layers * (4 * hidden**2 + 2 * hidden * config.intermediate_size)
    first = 2 * 3 * hidden**2  # query, key and value of the lowest layer
    total = 0.0
    for n in lengths:
        attention = 4 * layers * hidden * int(n)
        backward = {
            "full": 2 * linear + 2 * attention,
            "lora": linear - first + 2 * attention,
            "head": 0,
        }[method]
        total += int(n) * (linear + attention + backward)
    return total


def matrix_rate(fp32: bool) -> float:
    """The machine's best rate of a matrix product, in operations a second, over shapes of these models."""
    import torch

    best = 0.0
    dtype = torch.float32 if fp32 else torch.bfloat16
    for m, k, n in ((2048, 384, 1536), (2048, 1536, 384), (2048, 768, 3072), (2048, 2048, 2048)):
        x, w = torch.randn(m, k, dtype=dtype), torch.randn(n, k, dtype=dtype)
        times = []
        for _ in range(30):
            begin = time.perf_counter()
            torch.nn.functional.linear(x, w)
            times.append(time.perf_counter() - begin)
        best = max(best, 2 * m * k * n / statistics.median(times))
    return best


class Enough(Exception):
    """As many steps as were asked for."""


def ours(job: Any, rows: Any, variant: str, clock: Clock | None, epochs: int, stop_after: int | None = None) -> Any:
    """Train as `src.pipeline` does; gives the model, the accelerator and the peak memory in MB."""
    from src.data.features import Batches
    from src.model import backbone, fast, method
    from src.training import hardware
    from src.training.checkpoint import Checkpoints
    from src.training.fit import fit
    from src.training.measure import Meter

    config = job.config
    accelerator = hardware.start(config.hardware)
    meter = Meter(accelerator.device)
    settings = config.train
    bare = backbone.load_model(config.model, settings.hidden_dropout, settings.attention_dropout, settings.seed)
    model = method.apply(bare, config.method)
    if hardware.uses_fast_kernels(config.hardware, config.train, accelerator):
        fast.speed_up(model, hardware.precision(accelerator))
    model = accelerator.prepare_model(model)
    if clock:
        clock.watch(model)
    tokens_per_pass = hardware.tokens_per_pass(config.hardware, accelerator)

    def on_steps(steps: Any) -> None:
        if stop_after is not None and steps[-1].number >= stop_after:
            raise Enough

    with tempfile.TemporaryDirectory() as folder, suppress(Enough):
        checkpoints = Checkpoints(accelerator, Path(folder), 1e9, False, print)
        fit(
            accelerator,
            model,
            Batches(rows, job.tokenizer.pad_token_id, config.model.max_length),
            replace(settings, epochs=epochs),
            meter,
            lambda epoch: 0.0,
            on_steps,
            checkpoints,
            tokens_per_pass=tokens_per_pass,
        )
    return SimpleNamespace(
        model=model, accelerator=accelerator, peak_mb=meter.train.peak_mb, tokens_per_pass=tokens_per_pass
    )


def stock(job: Any, rows: Any, variant: str, clock: Clock | None, epochs: int) -> Any:
    """Train with transformers.Trainer; padding, precision and order as the variant says."""
    import torch
    from transformers import AutoModelForQuestionAnswering, Trainer, TrainingArguments
    from transformers.utils import logging

    from src.model.backbone import locate
    from src.training.measure import Meter

    logging.set_verbosity_error()
    best = variant == "trainer"
    torch.manual_seed(job.config.train.seed)
    meter = Meter(torch.device("cpu"))
    model: Any = AutoModelForQuestionAnswering.from_pretrained(locate(job.config.model.path))
    model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = 0.1
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=BATCH,
                num_train_epochs=epochs,
                learning_rate=job.config.train.learning_rate,
                weight_decay=job.config.train.weight_decay,
                warmup_steps=job.config.train.warmup_ratio,
                seed=job.config.train.seed,
                bf16=best,
                train_sampling_strategy="group_by_length" if best else "random",
                length_column_name="length",
                optim="adamw_torch_fused" if best else "adamw_torch",
                use_cpu=True,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                logging_strategy="no",
                remove_unused_columns=False,
            ),
            train_dataset=rows,
            data_collator=Collator(job.tokenizer.pad_token_id, None if best else 384),
        )
        if clock:
            clock.watch(model)
        with meter.phase(meter.train):
            trainer.train()
    return SimpleNamespace(model=model, trainer=trainer, peak_mb=meter.train.peak_mb)


class Collator:
    """What the recipe's collator does: pad to a width, or to the longest and a multiple of 8."""

    def __init__(self, pad: int, width: int | None) -> None:
        self.pad, self.width = pad, width

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        width = self.width or -(-max(int(row["length"]) for row in rows) // 8) * 8
        ids = torch.full((len(rows), width), self.pad)
        mask, types = torch.zeros_like(ids), torch.zeros_like(ids)
        for i, row in enumerate(rows):
            n = int(row["length"])
            ids[i, :n] = torch.as_tensor(row["input_ids"])
            types[i, :n] = torch.as_tensor(row["token_type_ids"])
            mask[i, :n] = 1
        batch = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        for name, key in (("start_positions", "start"), ("end_positions", "end")):
            batch[name] = torch.tensor([int(row[key]) for row in rows])
        return batch


def evaluate(arguments: argparse.Namespace) -> dict[str, float]:
    """1,000 questions with the same trained weights: Trainer.predict, fp32, padded to 384; and ours."""
    import copy

    from src.evaluation.score import per_question
    from src.evaluation.spans import answer_questions
    from src.model import fast
    from src.training import hardware
    from src.training.fit import predict

    job = setting(arguments.data, "minilm", "full", BATCH * 60, 1000)
    job.config.hardware.fast_kernels = False
    used = ours(job, job.train.windows, "full", None, epochs=1)
    questions = job.sets.validation.to_list()
    plain: Any = copy.deepcopy(getattr(used.model, "_orig_mod", used.model))
    plain.forward = type(plain).forward.__get__(plain)  # without accelerate's autocast

    def answers(logits: tuple[Any, Any]) -> list[str]:
        found = answer_questions(questions, job.validation.windows, *logits, job.config.evaluation, False)
        return [answer.best.text for answer in found]

    def by_trainer() -> Any:
        from transformers import Trainer, TrainingArguments

        arguments = TrainingArguments(
            output_dir=tempfile.gettempdir(),
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            per_device_eval_batch_size=8,
        )
        trainer = Trainer(plain, arguments, data_collator=Collator(job.tokenizer.pad_token_id, 384))
        predictions: Any = trainer.predict(job.validation.windows).predictions
        start, end = predictions[:2]
        lengths = job.validation.lengths
        return [row[:n] for row, n in zip(start, lengths, strict=True)], [
            row[:n] for row, n in zip(end, lengths, strict=True)
        ]

    def by_ours(precision: str) -> Any:
        config = replace(job.config.hardware, precision=precision, fast_kernels=True)
        accelerator = hardware.start(config)
        model = copy.deepcopy(plain)
        fast.speed_up(model, hardware.precision(accelerator))
        model = accelerator.prepare_model(model)
        return lambda: predict(accelerator, model, job.validation, 32, hardware.tokens_per_pass(config, accelerator))

    result: dict[str, float] = {}
    expected: list[str] = []
    ways: list[tuple[str, Callable[[], Any]]] = [("stock", by_trainer)]
    ways += [(f"ours_{precision}", by_ours(precision)) for precision in ("fp32", "bf16")]
    for name, way in ways:
        begin = time.perf_counter()
        logits = way()
        result[f"{name}_seconds"] = time.perf_counter() - begin
        found = answers(logits)
        expected = expected or found
        result[f"{name}_same_percent"] = 100 * statistics.mean(a == b for a, b in zip(found, expected, strict=True))
        scored = [
            per_question(question, SimpleNamespace(best=SimpleNamespace(text=text)))[1]  # type: ignore[arg-type]
            for question, text in zip(questions, found, strict=True)
        ]
        result[f"{name}_f1"] = 100 * statistics.mean(scored)
    return result


def tokenise(arguments: argparse.Namespace, count: str) -> dict[str, float]:
    """Cut so many questions into windows with an empty cache; then find them there."""
    from datasets import concatenate_datasets

    job = setting(arguments.data, "minilm", "full", 4000, 16)
    from src.data.features import make_windows

    times = -(-int(count) // len(job.sets.train))
    questions = concatenate_datasets([job.sets.train] * times).select(range(int(count)))
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        import datasets

        datasets.config.HF_DATASETS_CACHE = Path(folder)
        for _ in range(2):
            begin = time.perf_counter()
            windows, _ = make_windows(questions, job.tokenizer, job.config.model, "first")
            seconds.append(time.perf_counter() - begin)
    return {"questions": len(questions), "windows": len(windows), "seconds": seconds[0], "again_seconds": seconds[1]}


def first_step(data: Path, folder: Path) -> float:
    """Seconds from the command to the end of the first step, with 16 validation questions."""
    from mlflow import MlflowClient

    command = [sys.executable, "-m", "src.train", "method=lora", "rerun=true", "dataset=file"]
    command += [f"dataset.path={data.resolve()}", "dataset.train_size=64", "dataset.validation_size=16"]
    begin = time.time()
    subprocess.run(
        [*command, "train.epochs=1", f"tracking.folder={folder}"], check=True, capture_output=True, cwd=HERE.parent
    )
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    [run, *_] = client.search_runs(
        [experiment.experiment_id for experiment in client.search_experiments()], order_by=["start_time DESC"]
    )
    [first] = [point for point in client.get_metric_history(run.info.run_id, "train/loss") if point.step == 1]
    return first.timestamp / 1000 - begin


def one_quality(arguments: argparse.Namespace, variant: str, seed: str) -> dict[str, float]:
    """3 epochs on `--train-size` questions, scored on 1,000 of other articles."""
    from src.evaluation.score import score
    from src.evaluation.spans import answer_questions
    from src.training import hardware
    from src.training.fit import predict

    method = variant if variant in ("full", "lora", "head") else "full"
    job = setting(arguments.data, "minilm", method, arguments.train_size, 1000, int(seed))
    begin = time.perf_counter()
    used = (ours if variant == method else stock)(job, job.train.windows, variant, None, epochs=3)
    seconds = time.perf_counter() - begin
    accelerator = hardware.start(job.config.hardware)
    tokens = hardware.tokens_per_pass(job.config.hardware, accelerator)
    logits = predict(accelerator, used.model, job.validation, 32, tokens)
    questions = job.sets.validation.to_list()
    answers = answer_questions(questions, job.validation.windows, *logits, job.config.evaluation, False)
    figures = score(questions, answers)
    return {"exact_match": figures["exact_match"], "f1": figures["f1"], "seconds": seconds}


MEASUREMENTS: dict[str, Callable[..., dict[str, float]]] = {
    "train": train,
    "components": components,
    "large": large,
    "evaluate": evaluate,
    "tokenise": tokenise,
    "quality": one_quality,
}
PARTS = {
    "training": training,
    "memory": memory,
    "scale": scale,
    "evaluation": evaluation,
    "tokenising": tokenising,
    "start": start,
    "quality": quality,
}


# --- the page


def machine() -> str:
    import torch

    cpu = next(
        (line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor()
    )
    flags = next((line for line in _cpuinfo() if line.startswith("flags")), "")
    units = [unit for unit in ("amx_bf16", "avx512_bf16") if unit in flags] or ["no bf16 unit"]
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "accelerate"))
    return f"{os.cpu_count()} cores, {cpu} ({', '.join(units)}), {torch.get_num_threads()} threads; {packages}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def report(results: dict[str, Any]) -> str:
    """RESULTS.md."""
    lines = [
        "# Measured against the stock recipe",
        "",
        "Made by `benchmarks/vs_stock.py`, whose head says what is measured and how.",
        "",
    ]
    if rows := results.get("training"):
        lines += ["## Training", "", f"On {rows['machine']}. `{rows['command']}`", ""]
        for model in MODELS:
            found = {v: rows[f"{model} {v}"] for v in VARIANTS if f"{model} {v}" in rows}
            if not found:
                continue
            lines += [f"### {model}, batch {BATCH}", ""]
            header = (
                "| | examples/s | x (a) | x (b) | data | forward | backward | optimizer | of the matrix rate | peak |"
            )
            lines += [header, "|---|" + "---:|" * 9]
            for variant, row in found.items():
                ratios = [
                    f"{row['examples_per_second'] / found[base]['examples_per_second']:.1f}" if base in found else ""
                    for base in ("stock", "trainer")
                ]
                parts = [f"{row[f'{part}_ms']:.0f} ms" for part in ("data", "forward", "backward", "optimizer")]
                share = f"{row['share_percent']:.0f} % of {row['rate_gflops']:,.0f} GFLOP/s"
                cells = [NAMES[variant], f"{row['examples_per_second']:.1f}", *ratios, *parts, share]
                lines.append("| " + " | ".join([*cells, f"{row['peak_mb']:,.0f} MB"]) + " |")
            if {"full", "lora"} <= set(found):
                full, lora = found["full"], found["lora"]
                speed, memory = (lora[key] / full[key] for key in ("examples_per_second", "peak_mb"))
                lines += ["", f"LoRA against our own full: {speed:.2f}x the examples/s, {memory:.2f}x the peak memory."]
            lines.append("")
    if rows := results.get("memory"):
        lines += ["## Memory by component", "", f"On {rows['machine']}. `{rows['command']}`", ""]
        text = "Weights, gradients, AdamW's two moments and what one pass keeps for its backward are sizes of tensors; "
        text += "the peak is the process's, over what it held before the model was loaded. What it has beyond their "
        text += "sum is working memory of the kernels and holes of the C allocator."
        lines += [text, "", "| | weights | gradients | optimizer | kept for backward | sum | peak |"]
        lines += ["|---|" + "---:|" * 6]
        for name, row in rows.items():
            if isinstance(row, dict):
                columns = ("weights", "gradients", "optimizer", "saved", "sum", "peak")
                cells = [name, *(f"{row[f'{column}_mb']:,.0f} MB" for column in columns)]
                lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    if rows := results.get("scale"):
        peaks = ", ".join(
            f"{row['peak_mb']:,.0f} MB over {row['windows']:,} windows"
            for row in rows.values()
            if isinstance(row, dict)
        )
        lines += [
            "## Memory against the size of the data",
            "",
            f"LoRA's peak while training: {peaks}. On {rows['machine']}.",
            "",
        ]
    if row := results.get("evaluation"):
        lines += ["## Evaluation of 1,000 questions", "", f"On {row['machine']}.", ""]
        lines += ["| | seconds | x (a) | same answers as (a) | F1 |", "|---|" + "---:|" * 4]
        for name, title in (("stock", "(a) stock"), ("ours_fp32", "(c) ours, fp32"), ("ours_bf16", "(c) ours, bf16")):
            ratio = row["stock_seconds"] / row[f"{name}_seconds"]
            cells = [title, f"{row[f'{name}_seconds']:.1f}", f"{ratio:.1f}", f"{row[f'{name}_same_percent']:.1f} %"]
            lines.append("| " + " | ".join([*cells, f"{row[f'{name}_f1']:.2f}"]) + " |")
        lines.append("")
    if row := results.get("tokenising"):
        sentence = f"{row['questions']:,} questions, {row['windows']:,} windows: {row['seconds']:.1f} s; "
        sentence += f"found in the cache again: {row['again_seconds']:.1f} s. On {row['machine']}."
        lines += ["## Tokenising", "", sentence, ""]
    if row := results.get("start"):
        sentence = f"First time {row['first']:.1f} s, then {row['warm']:.1f} s, with 16 validation questions scored "
        sentence += f"before it. On {row['machine']}."
        lines += ["## From the command to the end of the first step", "", sentence, ""]
    if rows := results.get("quality"):
        lines += [f"## After 3 epochs on {rows['train_size']:,} questions, scored on 1,000 of other articles", ""]
        lines += [
            f"On {rows['machine']}. Seeds from 0.",
            "",
            "| | EM | F1 |",
            "|---|---:|---:|",
        ]
        for variant in VARIANTS:
            if variant in rows:
                cells = [", ".join(f"{value:.1f}" for value in rows[variant][key]) for key in ("exact_match", "f1")]
                lines.append("| " + " | ".join([NAMES[variant], *cells]) + " |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
