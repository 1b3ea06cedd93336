"""A single run, from its configuration to its result: it connects the stages of `src/`.

`python -m src.train` makes one run, or many.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate.utils import broadcast_object_list
from omegaconf import OmegaConf
from transformers import PreTrainedModel

from src import questions, serving
from src.config import Config
from src.data.sources import QuestionSets
from src.evaluator import Evaluation, Evaluator
from src.final import example_rows, final_metrics, intervals, with_places
from src.history import History
from src.model import backbone, base, card, fast, method, quantize, stored
from src.model.base import Base
from src.model.method import ParameterCounts
from src.problems import validate
from src.questions import RunData
from src.report.figures import loss_curve
from src.report.terminal import Terminal
from src.runs import origin
from src.runs.commands import next_commands
from src.runs.keep import model_folder, register_model
from src.runs.naming import run_name
from src.runs.records import QUESTIONS, TEST, VALIDATION
from src.runs.tracking import RunLog, recorded
from src.tasks import task_of
from src.tasks.base import Batches
from src.tasks.extractive.cached import CachedHiddenStates
from src.training import hardware
from src.training.checkpoint import Checkpoints, clear
from src.training.fit import fit
from src.training.forgetting import Probe, forgetting, is_decoder, language_loss, make_probe
from src.training.hardware import Runtime
from src.training.meter import Meter, Usage
from src.training.together import main_process_first, together
from src.training.watch import all_respond

EXAMPLES_SHOWN = 4
EXAMPLES_LOGGED = 200

OnScore = Callable[[int, float], None]


@dataclass(frozen=True)
class RunResult:
    """A finished run: its id in MLflow, the epoch that is reported and stored, and its final metrics."""

    run_id: str
    epoch: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to train."""

    config: Config  # including the values that depend on the data
    runtime: Runtime
    log: RunLog
    terminal: Terminal
    tokenizer: Any
    data: RunData
    meter: Meter
    base: Base  # the model that the method starts from
    bare: PreTrainedModel  # the model that the method was applied to
    counts: ParameterCounts
    model: torch.nn.Module  # the model that trains: `bare`, possibly wrapped by peft and the accelerator


@dataclass(frozen=True)
class Trained:
    """The outcome of training."""

    epoch: int  # the reported epoch: the last or the best one
    validation: Evaluation  # of the reported epoch
    extra: dict[str, Evaluation]
    test: Evaluation | None
    history: History
    checkpoints: Checkpoints


def run(config: Config, on_score: OnScore | None = None, progress_file: Path | None = None) -> RunResult | None:
    """Train, evaluate and log one run, unless it is done already.

    An interrupted run resumes from its last checkpoint, in the same MLflow run.

    Args:
        config: of the run.
        on_score: called with each epoch and its F1; an error that it raises ends the run.
        progress_file: a file for the progress, which a process that waits for this one shows.

    Returns:
        The result; None in processes other than the main one.

    Raises:
        AlreadyRunning: another process works on the run.
        UserError: a mistake in the configuration, the data or the environment that the user can correct, or another
            process of the run is lost.
    """
    validate(config)
    runtime = hardware.start(config.hardware, config.train.cache_encoder, task_of(config.model).cpu_tokens)
    terminal = Terminal(quiet=not runtime.is_main_process, progress_file=progress_file)
    with all_respond():
        return _run(config, runtime, terminal, on_score)


def _run(config: Config, runtime: Runtime, terminal: Terminal, on_score: OnScore | None) -> RunResult | None:
    log = together(lambda: RunLog(config, runtime.is_main_process, terminal.warning))
    [done] = broadcast_object_list([together(lambda: _done(log))])
    if done is not None:
        terminal.line(f"{run_name(config)} is done already (rerun=true runs it again):")
        terminal.result(done.metrics, f"{run_name(config)}, run {done.run_id}")
        register(runtime, log, done, terminal)
        terminal.header(next_commands(config.tracking, done.run_id))
        return done
    tokenizer = together(lambda: backbone.load_tokenizer(config.model))
    # The other processes read the windows from the cache.
    data = main_process_first(lambda: questions.load(config, tokenizer))
    with ExitStack() as stack:
        settled = replace(config, dataset=replace(config.dataset, unanswerable=data.sets.unanswerable))
        together(lambda: stack.enter_context(log.begin(settled)))
        stack.enter_context(terminal)
        stack.enter_context(hardware.full_memory_explained())
        [stored_result] = broadcast_object_list([log.result])
        if stored_result is not None:  # an earlier attempt was killed after its last artifact
            log.final(stored_result["metrics"])
            if runtime.is_main_process:
                clear(log.checkpoints, config.train.keep_checkpoints)
            result = RunResult(**stored_result)
            register(runtime, log, result, terminal)
            return result
        prepared = prepare(settled, runtime, log, terminal, tokenizer, data)
        trained = train(prepared, on_score)
        if not runtime.is_main_process:
            return None
        result = record(prepared, trained)
    register(runtime, log, result, terminal)
    if config.from_run is not None and (scores := origin.scores(log.store, config.from_run)):
        terminal.line(f"The run that this one reproduces had {scores}.")
    terminal.header(next_commands(config.tracking, result.run_id))
    return result


def _done(log: RunLog) -> RunResult | None:
    """The result of a finished MLflow run with this configuration; None if there is none."""
    done = log.finished()
    if done is None:
        return None
    return RunResult(done.id, int(done.metrics["train/reported_epoch"]), done.metrics)


def register(runtime: Runtime, log: RunLog, result: RunResult, terminal: Terminal) -> None:
    """Register the model of a finished run as a version of the registered model that `tracking.register` names."""
    name = log.config.tracking.register
    if name is not None and runtime.is_main_process:
        version = register_model(log.store, result.run_id, name)
        terminal.line(f"Its model is version {version} of the registered model {name}.")


def prepare(
    config: Config, runtime: Runtime, log: RunLog, terminal: Terminal, tokenizer: Any, data: RunData
) -> Prepared:
    """Load the model, apply the method, announce the run, and make the model ready to train.

    Raises:
        UserError: the model cannot be loaded, or the method or the tokenizer does not fit it.
    """
    meter = Meter(runtime.device)
    bare, model = build(config)
    backbone.check_vocabulary(bare, config.model, max(batches.highest_token for batches in data.all))
    start = together(lambda: base.identify(config.model, bare.config.model_type, config.train.seed))
    counts = method.count(model)
    if not meter.memory_is_own:
        data.sets.notes.append("An earlier run of this process has left memory behind: memory is not reported.")
    prepared = Prepared(config, runtime, log, terminal, tokenizer, data, meter, start, bare, counts, model)
    announce(prepared)
    model = make_ready(config, runtime, bare, model)
    if config.train.cache_encoder:
        data = encode(data, runtime, bare, meter)
    if runtime.compile:
        model.compile(dynamic=True)
    return replace(prepared, data=data, model=model)


def build(config: Config) -> tuple[PreTrainedModel, torch.nn.Module]:
    """Load the model and apply the method; returns the loaded model, and the same object or peft's wrapper.

    Raises:
        UserError: the model cannot be loaded, or the method does not fit it.
    """
    dropout = config.train.hidden_dropout, config.train.attention_dropout
    bare = together(lambda: backbone.load_model(config.model, *dropout, config.train.seed))
    return bare, method.apply(bare, config.method)


def make_ready(config: Config, runtime: Runtime, bare: PreTrainedModel, model: Any) -> Any:
    """Prepare the model of `build` for training: kernels, precision and device.

    Raises:
        UserError: the architecture does not support gradient checkpointing.
    """
    if config.train.gradient_checkpointing:
        backbone.checkpoint_gradients(bare)
    quantize.compute_in(bare, runtime.dtype)
    if runtime.fast_kernels:
        fast.speed_up(model, runtime.dtype, runtime.device.type)
    return runtime.accelerator.prepare_model(model)


def announce(job: Prepared) -> None:
    """Show and log what is about to run."""
    config, counts, sets, log, terminal = job.config, job.counts, job.data.sets, job.log, job.terminal
    resumed = ", continues from its last checkpoint" if log.resumed else ""
    terminal.header(
        {
            "model": f"{config.model.name}, {counts.total:,} parameters",
            "method": f"{config.method.name}, learning rate {config.train.learning_rate:g}",
            "trains": f"{counts.trainable:,} parameters ({counts.trainable_percent:.2f} %): adapters "
            f"{counts.adapter:,}, head {counts.head:,}, backbone {counts.backbone:,}",
            "data": f"{config.dataset.name}, {len(sets.train):,} training questions in "
            f"{len(job.data.train.lengths):,} windows, {len(sets.validation):,} for validation"
            + ("" if sets.test is None else f", {len(sets.test):,} for test"),
            "device": str(job.runtime),
            "run": f"{run_name(config)}, {log.run_id}{resumed}",
        }
    )
    for note in sets.notes:
        terminal.note(note)
    if warning := method.untouched_backbone_warning(counts, config.method):
        terminal.warning(warning)
        log.tags({"warning": warning})
    log.tags({"device": job.runtime.device.type, "hardware": str(job.runtime)})
    digests = log.inputs(sets.by_context, config.dataset.name)
    if config.from_run is not None and job.runtime.is_main_process:
        differing = origin.differences(log.store, config.from_run, digests, str(job.runtime))
        same = "" if differing is None or differing else ": data, code, packages and hardware are the same"
        terminal.note(f"This run reproduces {config.from_run}{same}.")
        for sentence in differing or []:
            terminal.warning(sentence)


def encode(data: RunData, runtime: Runtime, model: Any, meter: Meter) -> RunData:
    """Replace the batches by hidden states, which are computed once; the time for it is measured."""
    with tempfile.TemporaryDirectory(prefix="tuneoff-encoded-") as folder:
        encoded = {}
        for name, usage in (("train", meter.train), ("validation", meter.evaluation)):
            with meter.phase(usage):
                file = Path(folder) / name
                plain, tokens = getattr(data, name), runtime.micro_batch_tokens
                encoded[name] = CachedHiddenStates(runtime.accelerator, model, plain, file, tokens)
    fast.bypass_encoder(model)
    meter.train.counted_seconds += meter.train.seconds
    return replace(data, train=encoded["train"], validation=encoded["validation"])


def train(job: Prepared, on_score: OnScore | None = None) -> Trained:
    """Train the model, with evaluations in between, and score the reported epoch.

    Raises:
        UserError: the loss is no longer finite, or a checkpoint cannot be read.
    """
    config, data, meter = job.config, job.data, job.meter
    evaluator = Evaluator(job.runtime, job.model, config.evaluation, data.sets.unanswerable)

    def evaluate(questions: Any, batches: Batches, usage: Usage) -> Evaluation:
        with meter.phase(usage):
            evaluation = evaluator.score(questions.to_list(), batches)
        usage.examples += len(batches.lengths)
        return evaluation

    def validate_model() -> Evaluation:
        return evaluate(data.sets.validation, data.validation, meter.evaluation)

    history = History(job.log, job.terminal, meter, validate_model, on_score, language_loss_of(job))
    [folder] = broadcast_object_list([str(job.log.checkpoints)])
    checkpoints = Checkpoints(
        job.runtime.accelerator,
        Path(folder),
        config.train.checkpoint_minutes,
        config.train.keep_checkpoints,
        job.terminal.warning,
        {"record": history, "log": job.log},  # these names are part of stored checkpoints
    )
    epoch = fit(job.runtime, job.model, data.train, config.train, meter, checkpoints, history)
    # An epoch that was scored before an interruption is predicted again: the same weights give the same answers.
    reported = history.evaluations.get(epoch) or validate_model()
    extra = {name: evaluate(data.sets.extra[name], batches, meter.evaluation) for name, batches in data.extra.items()}
    # The test set is scored once, at the end, so that no choice can depend on it.
    test = None if data.test is None else evaluate(data.sets.test, data.test, meter.test)
    return Trained(epoch, reported, extra, test, history, checkpoints)


def language_loss_of(job: Prepared) -> Callable[[], float] | None:
    """A function that computes a decoder's loss on plain passages; None for an encoder, or without such passages."""
    probe = probe_of(job.tokenizer, job.data.sets) if is_decoder(job.bare) else None
    return None if probe is None else lambda: language_loss(job.runtime.accelerator, job.bare, probe)


def record(job: Prepared, trained: Trained) -> RunResult:
    """Store the model and all results of the run, and show them; only called in the main process."""
    config, log, sets, validation = job.config, job.log, job.data.sets, trained.validation
    steps, epoch = trained.history.steps, trained.epoch
    metrics = final_metrics(sets, job.counts, job.meter, steps, validation, trained.extra, trained.test)
    metrics["train/reported_epoch"] = epoch
    metrics |= forgotten(config, job.runtime, job.tokenizer, sets, job.bare)
    examples = example_rows(sets.validation, validation.answers)
    rows = with_places(examples, sets.validation, VALIDATION)
    if trained.test is not None:
        rows += with_places(example_rows(sets.test, trained.test.answers), sets.test, TEST)
    try:
        with model_folder(log) as folder:
            serving.write(folder, config, recorded(config), log.run_id)
            metrics["storage/checkpoint_mb"] = stored.save(
                job.runtime.accelerator.unwrap_model(job.model), folder, job.base
            )
            job.tokenizer.save_pretrained(folder)
            ends = intervals(pd.DataFrame(rows), config.dataset.split == "article")
            card.write(folder, config, job.base, metrics, log.run_id, ends)
        log.text("config.yaml", OmegaConf.to_yaml(recorded(config)))
        log.json("predictions.json", {answer.id: answer.best.text for answer in validation.answers})
        log.json("nbest.json", {answer.id: [asdict(span) for span in answer.n_best] for answer in validation.answers})
        log.table("examples.json", {key: [row[key] for row in examples[:EXAMPLES_LOGGED]] for key in examples[0]})
        log.frame(QUESTIONS, rows)
        log.figure("loss_curve.svg", loss_curve(steps, trained.history.validation_losses, run_name(config)))
        metrics["time/total_seconds"] = job.meter.total_seconds
        result = RunResult(log.run_id, epoch, metrics)
        log.flush()  # everything must have arrived before the run counts as complete
        log.json("result.json", asdict(result))  # written last: it marks the run as complete
        trained.checkpoints.remove()
    finally:  # metrics are logged and shown even if the disk is full
        log.final(metrics)
        title = f"{run_name(config)}: {config.train.keep} epoch ({epoch}), whole validation set"
        job.terminal.result(metrics, title)
        job.terminal.examples(examples[:: max(1, len(examples) // EXAMPLES_SHOWN)][:EXAMPLES_SHOWN])
    return result


def probe_of(tokenizer: Any, sets: QuestionSets) -> Probe | None:
    """The probe for forgetting: passages of validation questions that no training question is about."""
    return make_probe(tokenizer, sets.train["context"], sets.validation["context"])


def forgotten(
    config: Config, runtime: Runtime, tokenizer: Any, sets: QuestionSets, trained: PreTrainedModel
) -> dict[str, float]:
    """Compute the metrics `forgetting/*` of the trained model; empty if there are no passages for the probe.

    Afterwards the model has the attention implementation that it was loaded with.
    """
    probe = probe_of(tokenizer, sets)
    if probe is None:
        return {}
    untouched: Any = backbone.load_model(
        config.model, hidden_dropout=0.0, attention_dropout=0.0, seed=config.train.seed
    )
    # Both models use the same precision and kernels, so that they do not differ by rounding.
    if config.method.quantize is not None:
        quantize.hold_in_4_bits(untouched)
        quantize.compute_in(untouched, runtime.dtype)
    if runtime.fast_kernels:
        fast.speed_up(untouched, runtime.dtype, runtime.device.type)
    for each in (trained, untouched):
        fast.plain_attention(each)  # packed attention only works with the batches of training
    masked_lm: Any = None if is_decoder(trained) else backbone.load_masked_lm(config.model)
    if masked_lm is not None:
        masked_lm = masked_lm.to(runtime.device)
    metrics = forgetting(runtime.accelerator, trained, untouched.to(runtime.device), masked_lm, probe)
    return {f"forgetting/{name}": value for name, value in metrics.items()}
