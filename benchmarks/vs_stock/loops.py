"""The two training loops: ours, and transformers' Trainer as the stock recipe uses it."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.vs_stock.clock import Clock
from benchmarks.vs_stock.job import BATCH, MAX_LENGTH, OURS


def trained(job: Any, rows: Any, variant: str, clock: Clock | None, epochs: int) -> Any:
    """Train a variant on windows; gives the model and the peak memory in MB."""
    return (ours if variant in OURS else stock)(job, rows, variant, clock, epochs)


class Enough(Exception):
    """As many steps as were asked for."""


@dataclass
class Until:
    """Callbacks of the loop that end it after so many steps."""

    stop_after: int | None

    def on_steps(self, steps: Any) -> None:
        if self.stop_after is not None and steps[-1].number >= self.stop_after:
            raise Enough

    def on_epoch(self, epoch: int) -> float:
        return 0.0


def ours(job: Any, rows: Any, variant: str, clock: Clock | None, epochs: int, stop_after: int | None = None) -> Any:
    """Train as `src.run` does; gives the model, what it ran on and the peak memory in MB."""
    from src.model import backbone, fast, method
    from src.tasks.extractive.batches import SpanBatches
    from src.training import hardware
    from src.training.checkpoint import Checkpoints
    from src.training.fit import fit
    from src.training.meter import Meter

    config, settings = job.config, job.config.train
    runtime = hardware.start(config.hardware, settings.cache_encoder)
    meter = Meter(runtime.device)
    bare = backbone.load_model(config.model, settings.hidden_dropout, settings.attention_dropout, settings.seed)
    model = method.apply(bare, config.method)
    if runtime.fast_kernels:
        fast.speed_up(model, runtime.dtype)
    model = runtime.accelerator.prepare_model(model)
    if clock:
        clock.watch(model)
    windows = SpanBatches(rows, job.tokenizer.pad_token_id, config.model.max_length)
    with tempfile.TemporaryDirectory() as folder, suppress(Enough):
        checkpoints = Checkpoints(runtime.accelerator, Path(folder), 1e9, False, print)
        fit(runtime, model, windows, replace(settings, epochs=epochs), meter, checkpoints, Until(stop_after))
    return SimpleNamespace(model=model, runtime=runtime, peak_mb=meter.train.peak_mb)


def stock(job: Any, rows: Any, variant: str, clock: Clock | None, epochs: int) -> Any:
    """Train with transformers.Trainer; padding, precision and order as the variant says."""
    import torch
    from transformers import AutoModelForQuestionAnswering, Trainer, TrainingArguments
    from transformers.utils import logging

    from src.model.backbone import locate
    from src.training.meter import Meter

    logging.set_verbosity_error()
    best = variant == "trainer"
    torch.manual_seed(job.config.train.seed)
    meter = Meter(torch.device("cpu"))
    model: Any = AutoModelForQuestionAnswering.from_pretrained(locate(job.config.model))
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
                bf16=best and job.config.hardware.precision == "bf16",
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
            data_collator=Collator(job.tokenizer.pad_token_id, None if best else MAX_LENGTH),
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
