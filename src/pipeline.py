"""One run from its configuration to its result: the stages of `src/`, put together.

Used by `python -m src.train` for whole runs and by `python -m src.predict` for the last stages.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from omegaconf import OmegaConf

from src.config import Config, validate
from src.data import sources
from src.data.features import Batches, labelled_windows, make_windows
from src.data.sources import QuestionSets
from src.evaluation.score import per_question, score
from src.evaluation.spans import Answer, answer_questions, mean_loss
from src.model import backbone, base, card, kernels, method
from src.model.method import ParameterCounts
from src.report.figures import loss_curve
from src.report.terminal import Terminal
from src.runs import origin
from src.runs.keep import model_folder
from src.runs.naming import run_name
from src.runs.store import next_commands
from src.runs.tracking import RunLog, recorded
from src.training import hardware
from src.training.checkpoint import Checkpoints
from src.training.encoded import EncodedBatches, take_encoded
from src.training.fit import Step, fit, predict
from src.training.forgetting import forgetting, make_probe
from src.training.measure import Meter
from src.training.together import main_process_first, together

WindowBatches = Batches | EncodedBatches
EXAMPLES_SHOWN = 4
EXAMPLES_LOGGED = 200
FINAL_LOSS_STEPS = 10  # train/final_loss is the mean over this many last steps


@dataclass(frozen=True)
class RunResult:
    """A finished run: its id in MLflow, the epoch whose weights are reported and stored, and the final metrics."""

    run_id: str
    epoch: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """One scoring of a set of questions: figures in percent (`loss` in nats, where there is one), and the answers."""

    figures: dict[str, float]
    answers: list[Answer]


@dataclass(frozen=True)
class RunData:
    """The questions of a run and their batches."""

    sets: QuestionSets
    train: WindowBatches
    validation: WindowBatches
    extra: dict[str, Batches]


@dataclass
class Record:
    """What happens while a run trains: kept for the end, logged and shown at once."""

    log: RunLog
    terminal: Terminal
    meter: Meter
    steps: list[Step] = field(default_factory=list)
    validation_losses: list[tuple[int, float]] = field(default_factory=list)
    on_score: Callable[[int, float], None] = lambda epoch, f1: None
    evaluations: dict[int, Evaluation] = field(default_factory=dict)  # by epoch: the best one's and the last one's

    def on_steps(self, stretch: list[Step]) -> None:
        for step in stretch:
            values = {
                "train/loss": step.loss,
                "train/learning_rate": step.learning_rate,
                "train/grad_norm": step.grad_norm,
                # The meter goes on from the last checkpoint of an interrupted run; the clock counts the time between.
                "time/trained_seconds": self.meter.train.seconds - (stretch[-1].time - step.time),
            }
            self.log.metrics(values, step.number, step.time)
        self.steps += stretch
        last = stretch[-1]
        self.terminal.step(last.number, last.of, last.loss, self.meter.train.examples_per_second)

    def on_evaluation(self, epoch: int, evaluation: Evaluation) -> None:
        self.evaluations[epoch] = evaluation
        best = max(self.evaluations, key=lambda e: (e > 0, self.evaluations[e].figures["f1"], -e))
        self.evaluations = {e: kept for e, kept in self.evaluations.items() if e in (best, epoch)}
        names = ("exact_match", "f1", "loss")
        figures = {name: evaluation.figures[name] for name in names if name in evaluation.figures}
        self.log.metrics({f"eval/{name}": value for name, value in figures.items()}, step=epoch)
        if "loss" in figures:
            self.validation_losses.append((self.steps[-1].number if self.steps else 0, figures["loss"]))
        self.terminal.epoch(epoch, figures)
        self.on_score(epoch, figures["f1"])

    def state_dict(self) -> dict[str, Any]:
        return {"steps": [asdict(step) for step in self.steps], "validation_losses": self.validation_losses}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from an earlier attempt; its answers are predicted again where they are needed."""
        self.steps = [Step(**step) for step in state["steps"]]
        self.validation_losses = state["validation_losses"]


def run(
    config: Config, on_score: Callable[[int, float], None] | None = None, progress_file: Path | None = None
) -> RunResult | None:
    """Train, evaluate and log one run, or find that it is done; None in the processes that only help the first one.

    An interrupted run goes on from its last checkpoint, in the same run of MLflow.

    Args:
        config: of the run.
        on_score: called with each epoch and its F1; what it raises ends the run.
        progress_file: where the progress is left for a process that waits for this one.

    Raises:
        AlreadyRunning: another process works on it.
        UserError: anything in the configuration, the data or the surroundings that the user can mend.
    """
    validate(config)
    config = deepcopy(config)  # `prepare` settles what was left open
    accelerator = hardware.start(config.hardware)
    terminal = Terminal(quiet=not accelerator.is_main_process, progress_file=progress_file)
    log = together(lambda: RunLog(config, accelerator.is_main_process, terminal.warning))
    [done] = broadcast_object_list([together(lambda: _done(log))])
    if done is not None:
        if accelerator.is_main_process:
            terminal.line(f"{run_name(config)} is done already (rerun=true runs it again):")
            terminal.result(done.metrics, f"{run_name(config)}, run {done.run_id}")
            terminal.header(next_commands(config.tracking, done.run_id))
        return done
    tokenizer = together(lambda: backbone.load_tokenizer(config.model))
    data = main_process_first(lambda: prepare(config, tokenizer))  # the others find the windows in the cache

    with ExitStack() as stack:
        together(lambda: stack.enter_context(log))
        stack.enter_context(terminal)
        stack.enter_context(hardware.full_memory_explained())
        [whole] = broadcast_object_list([log.result])
        if whole is not None:  # killed after its last artifact
            log.final(whole["metrics"])
            return RunResult(**whole)
        meter = Meter(accelerator.device)
        dropout = config.train.hidden_dropout, config.train.attention_dropout
        bare = together(lambda: backbone.load_model(config.model, *dropout, config.train.seed))
        start = together(lambda: base.identify(config.model, bare.config.model_type, config.train.seed))
        model = method.apply(bare, config.method)
        counts = method.count(model)
        if not meter.memory_is_own:
            data.sets.notes.append("An earlier run of this process has left memory behind: memory is not reported.")
        announce(config, data, counts, accelerator, log, terminal)
        if config.train.gradient_checkpointing:
            backbone.checkpoint_gradients(bare)
        if hardware.uses_fast_kernels(config.hardware, config.train, accelerator):
            kernels.speed_up(model, hardware.precision(accelerator), accelerator.device.type)
        tokens_per_pass = hardware.tokens_per_pass(config.hardware, accelerator)
        model = accelerator.prepare_model(model)
        if config.train.cache_encoder:
            data = encode(data, accelerator, bare, meter, tokens_per_pass)
        if config.hardware.compile:
            model.compile(dynamic=True)

        record = Record(log, terminal, meter)
        if on_score is not None:
            record.on_score = on_score
        [folder] = broadcast_object_list([str(log.checkpoints)])
        minutes, keep = config.train.checkpoint_minutes, config.train.keep_checkpoints
        checkpoints = Checkpoints(accelerator, Path(folder), minutes, keep, terminal.warning)

        def evaluate(questions: Any, batches: WindowBatches) -> Evaluation:
            with meter.phase(meter.evaluation):
                scored = score_model(config, accelerator, model, questions.to_list(), batches)
            meter.evaluation.windows += len(batches.lengths)
            return scored

        def evaluate_epoch(epoch: int) -> float:
            record.on_evaluation(epoch, evaluate(data.sets.validation, data.validation))
            return record.evaluations[epoch].figures["f1"]

        epoch = fit(
            accelerator,
            model,
            data.train,
            config.train,
            meter,
            evaluate_epoch,
            record.on_steps,
            checkpoints,
            more_state={"record": record, "log": log},
            tokens_per_pass=tokens_per_pass,
        )
        # An epoch that was scored before an interruption is predicted again: the same weights give the same answers.
        reported = record.evaluations.get(epoch) or evaluate(data.sets.validation, data.validation)
        extra = {name: evaluate(data.sets.extra[name], batches) for name, batches in data.extra.items()}
        if not accelerator.is_main_process:
            return None

        metrics = final_metrics(data.sets, counts, meter, record.steps, reported, extra)
        metrics["train/reported_epoch"] = epoch
        metrics |= moved(config, accelerator, bare, tokenizer, data.sets)
        examples = example_rows(data.sets.validation, reported.answers)
        try:
            with model_folder(log) as temporary:
                metrics["storage/checkpoint_mb"] = method.save(accelerator.unwrap_model(model), temporary, start)
                tokenizer.save_pretrained(temporary)
                card.write(temporary, config, start, metrics, log.run_id)
            log.text("config.yaml", OmegaConf.to_yaml(recorded(config)))
            log.json("predictions.json", {answer.id: answer.best.text for answer in reported.answers})
            log.json("nbest.json", {answer.id: [asdict(span) for span in answer.n_best] for answer in reported.answers})
            log.table("examples.json", {key: [row[key] for row in examples[:EXAMPLES_LOGGED]] for key in examples[0]})
            log.frame("questions.parquet", examples)
            log.figure("loss_curve.svg", loss_curve(record.steps, record.validation_losses, run_name(config)))
            metrics["time/total_seconds"] = meter.total_seconds
            result = RunResult(log.run_id, epoch, metrics)
            log.flush()  # not whole before all of it has arrived
            log.json("result.json", asdict(result))  # written last: where it is, the run is whole
            checkpoints.remove()
        finally:  # a disk that is full takes no result away
            log.final(metrics)
            terminal.result(metrics, f"{run_name(config)}: {config.train.keep} epoch ({epoch}), whole validation set")
            terminal.examples(examples[:: max(1, len(examples) // EXAMPLES_SHOWN)][:EXAMPLES_SHOWN])
    if config.from_run is not None and (scores := origin.scores(log.store, config.from_run)):
        terminal.line(f"The run that this one reproduces had {scores}.")
    terminal.header(next_commands(config.tracking, result.run_id))
    return result


def _done(log: RunLog) -> RunResult | None:
    """The result of the run of MLflow that has done this already."""
    found = log.finished()
    if found is None:
        return None
    return RunResult(found.id, int(found.metrics["train/reported_epoch"]), found.metrics)


def prepare(config: Config, tokenizer: Any) -> RunData:
    """Load the questions of a run and cut them into windows; settles `dataset.unanswerable` where it is open."""
    sets = sources.load(config.dataset)
    config.dataset.unanswerable = sets.unanswerable

    def windows_of(questions: Any) -> Any:
        windows, notes = make_windows(questions, tokenizer, config.model, config.dataset.answer)
        sets.notes.extend(notes)
        return windows

    def batches(windows: Any) -> Batches:
        return Batches(windows, tokenizer.pad_token_id, config.model.max_length)

    extra = {name: batches(windows_of(questions)) for name, questions in sets.extra.items()}
    train = batches(labelled_windows(windows_of(sets.train)))
    return RunData(sets, train, batches(windows_of(sets.validation)), extra)


def encode(data: RunData, accelerator: Accelerator, model: Any, meter: Meter, tokens_per_pass: int | None) -> RunData:
    """The batches of `data` as hidden states, computed once; the seconds for it count."""
    with tempfile.TemporaryDirectory(prefix="tuneoff-encoded-") as folder:
        encoded = {}
        for name, usage in (("train", meter.train), ("validation", meter.evaluation)):
            with meter.phase(usage):
                file = Path(folder) / name
                encoded[name] = EncodedBatches(accelerator, model, getattr(data, name), file, tokens_per_pass)
    take_encoded(model)
    meter.train.counted_seconds += meter.train.seconds
    return replace(data, train=encoded["train"], validation=encoded["validation"])


def announce(
    config: Config, data: RunData, counts: ParameterCounts, accelerator: Accelerator, log: RunLog, terminal: Terminal
) -> None:
    """Say, and log, what is about to run."""
    sets = data.sets
    resumed = ", goes on from its last checkpoint" if log.resumed else ""
    terminal.header(
        {
            "model": f"{config.model.name}, {counts.total:,} parameters",
            "method": f"{config.method.name}, learning rate {config.train.learning_rate:g}",
            "trains": f"{counts.trainable:,} parameters ({counts.trainable_percent:.2f} %): adapters "
            f"{counts.adapter:,}, head {counts.head:,}, backbone {counts.backbone:,}",
            "data": f"{config.dataset.name}, {len(sets.train):,} training questions in "
            f"{len(data.train.lengths):,} windows, {len(sets.validation):,} for validation",
            "device": hardware.describe(accelerator),
            "run": f"{run_name(config)}, {log.run_id}{resumed}",
        }
    )
    for note in sets.notes:
        terminal.note(note)
    if warning := method.untouched_backbone_warning(counts, config.method):
        terminal.warning(warning)
        log.tags({"warning": warning})
    log.tags({"device": accelerator.device.type, "hardware": hardware.describe(accelerator)})
    digests = log.inputs({"train": sets.train, "validation": sets.validation}, config.dataset.name)
    if config.from_run is not None and accelerator.is_main_process:
        differing = origin.differences(log.store, config.from_run, digests, hardware.describe(accelerator))
        same = "" if differing is None or differing else ": data, code, packages and hardware are the same"
        terminal.note(f"This run reproduces {config.from_run}{same}.")
        for sentence in differing or []:
            terminal.warning(sentence)


def predict_answers(
    config: Config,
    accelerator: Accelerator,
    model: Any,
    questions: Sequence[Mapping[str, Any]],
    batches: WindowBatches,
) -> tuple[list[Answer], Any]:
    """The answers of `model`, one a question, and the start and end logits behind them."""
    tokens_per_pass = hardware.tokens_per_pass(config.hardware, accelerator)
    logits = predict(accelerator, model, batches, config.evaluation.batch_size, tokens_per_pass)
    unanswerable = bool(config.dataset.unanswerable)
    return answer_questions(questions, batches.windows, *logits, config.evaluation, unanswerable), logits


def score_model(
    config: Config,
    accelerator: Accelerator,
    model: Any,
    questions: Sequence[Mapping[str, Any]],
    batches: WindowBatches,
) -> Evaluation:
    """Predict and score a whole set of questions."""
    answers, logits = predict_answers(config, accelerator, model, questions, batches)
    loss = mean_loss(batches.windows, *logits)
    return Evaluation(score(questions, answers) | ({} if loss is None else {"loss": loss}), answers)


def final_metrics(
    sets: QuestionSets,
    counts: ParameterCounts,
    meter: Meter,
    steps: Sequence[Step],
    reported: Evaluation,
    extra: Mapping[str, Evaluation],
) -> dict[str, float]:
    """The final metrics of README.md's table, but for those known only once the weights are stored."""
    last = steps[-FINAL_LOSS_STEPS:]
    metrics = {
        **{f"quality/{key}": value for key, value in reported.figures.items() if key != "loss"},
        **{f"extra/{name}/{key}": value for name, other in extra.items() for key, value in other.figures.items()},
        "params/trainable": counts.trainable,
        "params/total": counts.total,
        "params/trainable_percent": counts.trainable_percent,
        "params/adapter": counts.adapter,
        "params/head": counts.head,
        "params/backbone": counts.backbone,
        "time/train_seconds": meter.train.seconds,
        "time/eval_seconds": meter.evaluation.seconds,
        "speed/eval_examples_per_second": meter.evaluation.windows / meter.evaluation.seconds,
        "train/steps": steps[-1].number,
        "train/initial_loss": steps[0].loss,
        "train/final_loss": sum(step.loss for step in last) / len(last),
        "data/realigned": sets.realigned,
        "data/untrainable": sets.untrainable,
    }
    # What was not measured is left out: a wrong figure is worse than none.
    if meter.train.counted_seconds:
        metrics["speed/examples_per_second"] = meter.train.examples_per_second
        metrics["speed/tokens_per_second"] = meter.train.tokens_per_second
    if meter.train.waited_seconds:
        metrics["time/waited_seconds"] = meter.train.waited_seconds
    if meter.memory_is_own:
        metrics["memory/peak_train_mb"] = meter.train.peak_mb
        metrics["memory/peak_eval_mb"] = meter.evaluation.peak_mb
        if meter.device.type == "cuda":
            metrics["memory/reserved_train_mb"] = meter.train.reserved_mb
    return metrics


def moved(config: Config, accelerator: Accelerator, model: Any, tokenizer: Any, sets: QuestionSets) -> dict[str, float]:
    """The metrics `forgetting/*` of a model that has been trained in place; none where there is nothing to probe with.

    It leaves `model` with the stock attention.
    """
    probe = make_probe(tokenizer, sets.train["context"], sets.validation["context"])
    if probe is None:
        return {}
    untouched = backbone.load_model(config.model, hidden_dropout=0.0, attention_dropout=0.0, seed=config.train.seed)
    # Both computed alike, so that they differ by what was learnt and not by rounding.
    if hardware.uses_fast_kernels(config.hardware, config.train, accelerator):
        kernels.speed_up(untouched, hardware.precision(accelerator), accelerator.device.type)
    for each in (model, untouched):
        if each._supports_sdpa:
            each.set_attn_implementation("sdpa")  # packed attention belongs to training's forward
    masked_lm = backbone.load_masked_lm(config.model)
    figures = forgetting(
        accelerator,
        model,
        untouched.to(accelerator.device),
        None if masked_lm is None else masked_lm.to(accelerator.device),
        probe,
    )
    return {f"forgetting/{name}": value for name, value in figures.items()}


def example_rows(questions: Any, answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """Question, prediction, true answers and scores, a row a question."""
    rows = []
    for question, answer in zip(questions, answers, strict=True):
        exact, f1 = per_question(question, answer)
        rows.append(
            {
                "id": question["id"],
                "question": question["question"],
                "predicted": answer.best.text,
                "answers": list(dict.fromkeys(question["answers"]["text"])),
                "exact_match": exact,
                "f1": f1,
                "context": question["context"],
            }
        )
    return rows
