"""A decoder's training against `trl.SFTTrainer`: the same prompts, weights and batch size; speed and peak memory.

    pip install trl && python -m benchmarks.vs_trl DATA.json            # about 20 minutes on 2 cores
    python -m benchmarks.vs_trl DATA.json --steps 4 --rounds 1 --variants "trl, best flags full" "ours full"

DATA.json is a file in SQuAD's format. Each measurement runs in a separate process, the variants alternate, and a table
of medians is printed. The loss is that of the answers' tokens alone, in the precision that the machine is fast in.

trl: as it comes: gradient checkpointing, the logits of all tokens.
trl, best flags: without gradient checkpointing, grouped by length, fused AdamW, the loss in chunks (`chunked_nll`).
ours: `src.training.fit`, as `python -m src.train model=smollm2_135m` runs it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.machine import machine
from benchmarks.vs_stock.clock import Clock
from benchmarks.vs_stock.job import BATCH, WARM_UP
from benchmarks.vs_stock.loops import Enough, Until
from benchmarks.vs_stock.rate import matrix_rate
from src.config import ROOT
from src.runs.isolation import ALLOCATOR

VARIANTS = ("trl full", "trl, best flags full", "ours full", "trl lora", "trl, best flags lora", "ours lora")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=12, help="of each measurement; the first ones are not timed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS, help="those that are measured")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a measurement in this process; prints JSON
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.data, arguments.one, max(arguments.steps, WARM_UP + 1))))
        return
    rows: dict[str, list[dict[str, float]]] = defaultdict(list)
    for _ in range(arguments.rounds):
        for variant in arguments.variants:
            command = [sys.executable, "-m", "benchmarks.vs_trl", str(arguments.data), "--one", variant]
            command += ["--steps", str(arguments.steps)]
            environment = {**os.environ, **(ALLOCATOR if variant.startswith("ours") else {})}  # as `src.train` runs
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{variant} failed:\n{done.stderr[-3000:]}")
            rows[variant].append(json.loads(done.stdout.strip().splitlines()[-1]))
            print(variant, {key: round(value, 2) for key, value in rows[variant][-1].items()}, flush=True)
    print(f"\n{machine()}\n\n| SmolLM2-135M, batch {BATCH} | examples/s | of the matrix rate | peak |")
    print("|---|---:|---:|---:|")
    for variant, each in rows.items():
        row = {key: statistics.median(one[key] for one in each) for key in each[0]}
        share = f"{row['share_percent']:.0f} % of {row['rate_gflops']:.0f} GFLOP/s"
        print(f"| {variant} | {row['examples_per_second']:.2f} | {share} | {row['peak_mb']:,.0f} MB |")


def measure(data: Path, variant: str, steps: int) -> dict[str, float]:
    """Examples a second after the warm-up, peak memory (MB), and what share of the matrix rate is reached."""
    from hydra import compose, initialize_config_dir

    from src.compose import completed, from_hydra, quiet_libraries, register
    from src.data import sources
    from src.model import backbone
    from src.tasks import task_of
    from src.training import hardware

    quiet_libraries()
    register()
    name, _, method = variant.rpartition(" ")
    overrides = ["model=smollm2_135m", f"method={method}", "dataset=file", f"dataset.path={data.resolve()}"]
    overrides += [f"dataset.train_size={BATCH * steps}", "dataset.validation_size=16", "dataset.test_size=null"]
    overrides = completed([*overrides, "hardware=cpu"])
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        config = from_hydra(compose("config", overrides), overrides)
    runtime = hardware.start(config.hardware, cpu_tokens=task_of(config.model).cpu_tokens)
    tokenizer = backbone.load_tokenizer(config.model)
    questions = sources.load(config.dataset).train
    batches, _ = task_of(config.model).batches(questions, tokenizer, config, training=True)
    clock = Clock()
    run = SimpleNamespace(config=config, runtime=runtime, tokenizer=tokenizer, batches=batches, clock=clock)
    peak, model = (ours if name == "ours" else trl)(run, steps, best=name.endswith("best flags"))
    speed = clock.result()["examples_per_second"]
    rate = matrix_rate(runtime.precision)
    needed = arithmetic(model.config, method, batches) / len(batches.lengths)
    shares = {"rate_gflops": rate / 1e9, "share_percent": 100 * speed * needed / rate}
    return {"examples_per_second": speed, "peak_mb": peak} | shares


def ours(run: Any, steps: int, best: bool) -> tuple[float, Any]:
    """Train as `src.run` does."""
    from src.model import backbone, fast, method
    from src.training.checkpoint import Checkpoints
    from src.training.fit import fit
    from src.training.meter import Meter

    meter = Meter(run.runtime.device)
    bare = backbone.load_model(run.config.model, 0.0, 0.0, run.config.train.seed)
    model = method.apply(bare, run.config.method)
    if run.runtime.fast_kernels:
        fast.speed_up(model, run.runtime.dtype)
    model = run.runtime.accelerator.prepare_model(model)
    run.clock.watch(model)
    settings = replace(run.config.train, epochs=1, batch_size=BATCH)
    with tempfile.TemporaryDirectory() as folder, suppress(Enough):
        checkpoints = Checkpoints(run.runtime.accelerator, Path(folder), 1e9, False, print)
        fit(run.runtime, model, run.batches, settings, meter, checkpoints, Until(steps))
    return meter.train.peak_mb, bare


def trl(run: Any, steps: int, best: bool) -> tuple[float, Any]:
    """Train with trl's trainer on the tokens of our prompts."""
    from datasets import Dataset
    from peft import get_peft_config
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    from src.model.backbone import locate
    from src.training.meter import Meter

    meter = Meter(run.runtime.device)
    model = AutoModelForCausalLM.from_pretrained(locate(run.config.model), dtype="float32")
    prompts = run.batches.prompts
    pairs = [(p.tolist(), a.tolist()) for p, a in zip(prompts["prompt"][:], prompts["answer"][:], strict=True)]
    rows = [
        {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer, "length": len(prompt) + len(answer)}
        for prompt, answer in pairs
    ]
    flags: dict[str, Any] = {
        "gradient_checkpointing": False,
        "train_sampling_strategy": "group_by_length",
        "loss_type": "chunked_nll",
    }
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=folder,
                per_device_train_batch_size=BATCH,
                max_steps=steps,
                learning_rate=run.config.train.learning_rate,
                bf16=run.runtime.precision == "bf16",
                optim="adamw_torch_fused" if best else "adamw_torch",
                max_length=None,
                use_cpu=True,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                logging_strategy="no",
                **(flags if best else {}),
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=run.tokenizer,
            peft_config=get_peft_config(dict(run.config.method.peft)) if run.config.method.peft else None,
        )
        run.clock.watch(trainer.model)
        with meter.phase(meter.train):
            trainer.train()
    return meter.train.peak_mb, model


def arithmetic(config: Any, method: str, batches: Any) -> float:
    """Floating-point operations of one epoch in matrix products: padding, and logits that no answer needs, left out.

    Forward: 2 a weight and token, and 2 a pair of tokens and hidden unit for causal attention. Backward: as much for
    the inputs' gradient, and as much for the weights' where they train.
    """
    hidden, layers = config.hidden_size, config.num_hidden_layers
    keys = hidden * config.num_key_value_heads // config.num_attention_heads
    linear = 2 * layers * (2 * hidden**2 + 2 * hidden * keys + 3 * hidden * config.intermediate_size)
    logits = 2 * hidden * config.vocab_size
    times = {"full": 3, "lora": 2}[method]  # as many passes over each weight
    total = 0.0
    for n, terms in zip(batches.lengths.tolist(), batches.terms.tolist(), strict=True):
        total += times * (n * linear + terms * logits) + 3 * 2 * layers * hidden * n**2
    return total


if __name__ == "__main__":
    main()
