"""The history of a run: steps and evaluations are shown and logged as they happen, and kept for the results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from src.evaluator import Evaluation
from src.report.terminal import Terminal
from src.runs.tracking import RunLog
from src.training.meter import Meter
from src.training.step import Step


@dataclass
class History:
    """The callbacks of `src.training.fit.fit`.

    Args:
        log, terminal, meter: of the run.
        evaluate: scores the model on the validation questions.
        on_score: called with each epoch and its F1; an error that it raises ends the run.
        language_loss: for a decoder, computes its loss on plain passages (nats per token).
    """

    log: RunLog
    terminal: Terminal
    meter: Meter
    evaluate: Callable[[], Evaluation]
    on_score: Callable[[int, float], None] | None = None
    language_loss: Callable[[], float] | None = None
    steps: list[Step] = field(default_factory=list)
    validation_losses: list[tuple[int, float]] = field(default_factory=list)  # optimizer step, nats
    evaluations: dict[int, Evaluation] = field(default_factory=dict)  # of the best and of the last epoch, by epoch

    def on_steps(self, steps: list[Step]) -> None:
        last = steps[-1]
        for step in steps:
            values = {
                "train/loss": step.loss,
                "train/learning_rate": step.learning_rate,
                "train/grad_norm": step.grad_norm,
                # The meter has the training time at the last of these steps; the clock has the time between steps.
                "time/trained_seconds": self.meter.train.seconds - (last.time - step.time),
            }
            self.log.metrics(values, step.number, step.time)
        self.steps += steps
        self.terminal.step(last.number, last.of, last.loss, self.meter.train.examples_per_second)

    def on_epoch(self, epoch: int) -> float:
        evaluation = self.evaluations[epoch] = self.evaluate()
        best = max(self.evaluations, key=lambda e: (e > 0, self.evaluations[e].metrics["f1"], -e))
        self.evaluations = {e: kept for e, kept in self.evaluations.items() if e in (best, epoch)}
        names = ("exact_match", "f1", "loss")
        metrics = {name: evaluation.metrics[name] for name in names if name in evaluation.metrics}
        if self.language_loss is not None:
            metrics["lm_loss"] = self.language_loss()
        self.log.metrics({f"eval/{name}": value for name, value in metrics.items()}, step=epoch)
        if "loss" in metrics:
            self.validation_losses.append((self.steps[-1].number if self.steps else 0, metrics["loss"]))
        self.terminal.epoch(epoch, metrics)
        if self.on_score is not None:
            self.on_score(epoch, metrics["f1"])
        return metrics["f1"]

    def state_dict(self) -> dict[str, Any]:
        return {"steps": [asdict(step) for step in self.steps], "validation_losses": self.validation_losses}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the history of an earlier attempt; its answers are predicted again if they are needed."""
        self.steps = [Step(**step) for step in state["steps"]]
        self.validation_losses = state["validation_losses"]
