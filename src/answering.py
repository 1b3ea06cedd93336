"""Loads the stored model of a run, as it was trained and scored, and answers questions with it.

`src.predict` is the command, `src.serving` the model that MLflow loads. `together` combines the answers of several runs
to a question.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from src.config import Config, TrackingConfig, UserError
from src.tasks import task_of

STANDARD = "-"  # standard input or output, in place of a file
SHOWN = 5  # candidates of a question
AT_ONCE = 1000  # questions of a chunk: those of similar length share a batch, and memory stays bounded


@dataclass
class ReadyModel:
    """A stored model that is loaded and can answer."""

    config: Config  # of its run
    tokenizer: Any
    model: Any
    runtime: Any

    def answer(self, questions: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Answer records with `id`, `question` and `context`; returns an `src.tasks.base.Answer` for each.

        The cache keeps no windows of them.
        """
        answers = []
        for start in range(0, len(questions), AT_ONCE):
            answers += self._answer_some(questions[start : start + AT_ONCE])
        return answers

    def _answer_some(self, questions: Sequence[Mapping[str, Any]]) -> list[Any]:
        from src.data.cache import temporary_cache
        from src.data.sources import to_dataset
        from src.evaluator import Evaluator

        records = [{"title": "", "answers": {"text": [], "answer_start": []}, **question} for question in questions]
        evaluator = Evaluator(self.runtime, self.model, self.config.evaluation, bool(self.config.dataset.unanswerable))
        with temporary_cache():
            task = task_of(self.config.model)
            batches, _ = task.batches(to_dataset(records), self.tokenizer, self.config, training=False)
            return evaluator.answer(records, batches)


@dataclass
class StoredRun(ReadyModel):
    """A finished run with its loaded model."""

    id: str
    name: str
    tracking: TrackingConfig  # the store, and the experiment of the run
    base_path: str | None  # the base of an adapter, if it is not the one in the run's configuration


def load_run(
    run: str, tracking: TrackingConfig, trust_remote_code: bool = False, base_path: str | None = None
) -> StoredRun:
    """Load the stored model of a run, on the hardware that its configuration names.

    Args:
        run: the name of the run, the beginning of its id, or `best`; see `src.runs.results.resolve_run`.
        tracking: the store.
        trust_remote_code: whether to run Python code of the model; the run's configuration does not permit it.
        base_path: the base model of an adapter; None: the model that the run was trained from.

    Raises:
        UserError: there is no such run, it stored no model, or the model needs Python code or another base.
    """
    from src.runs.results import resolve_run
    from src.runs.store import connect

    store = connect(tracking, create=False)
    chosen, note = resolve_run(store.everywhere(), run)
    if note:
        print(note, file=sys.stderr)
    with tempfile.TemporaryDirectory() as temporary:
        config, folder = _stored(store, chosen, run, Path(temporary))
        if config.model.trust_remote_code and not trust_remote_code:
            raise UserError(
                f"run={run} was trained with model.trust_remote_code=true: its model contains Python code, which is "
                "only run if you trust it and give trust_remote_code=true."
            )
        config.model.trust_remote_code = trust_remote_code
        ready = read_folder(config, folder, run, base_path)
    tracking = replace(tracking, experiment=store.experiment_of(chosen.id))
    return StoredRun(**vars(ready), id=chosen.id, name=chosen.name, tracking=tracking, base_path=base_path)


def read_folder(config: Config, folder: Path, run: str, base_path: str | None) -> ReadyModel:
    """Load the model from a folder that `src.model.stored.save` has written, with its tokenizer.

    Args:
        config: the configuration of the run.
        folder: the folder of the stored model; an adapter is put on its base.
        run: the run as the user named it, for messages.
        base_path: as for `load_run`.

    Raises:
        UserError: the model cannot be read, or its base is a different model.
    """
    from src.model import backbone, base, load_errors, quantize, stored
    from src.training import hardware

    stored.refuse_pickles(folder)
    itself = replace(
        config.model, path=str(folder), gguf=None, sha256=None, pretrained=True, tokenizer=None, revision=None
    )
    if whole := stored.holds_whole_model(folder):
        start = itself
    else:
        start = config.model if base_path is None else replace(config.model, path=base_path, revision=None)
        start = base.check(start, folder, run)
    try:
        tokenizer = backbone.load_tokenizer(itself)
        model: Any = backbone.load_model(start, hidden_dropout=0.0, attention_dropout=0.0, seed=config.train.seed)
    except UserError as error:  # the folder is a temporary copy, whose name means nothing to the user
        named = str(error).replace(str(folder), f"run={run}")
        raise UserError(
            named.replace(load_errors.COPY, "choose another run, or train this one again (rerun=true)")
        ) from error
    if config.method.quantize is not None:
        quantize.hold_in_4_bits(model)  # the base on which it was trained and scored
    if not whole:
        model = stored.put_on_base(model, folder)
    runtime = hardware.start(replace(config.hardware, processes=None), cpu_tokens=task_of(config.model).cpu_tokens)
    quantize.compute_in(model, runtime.dtype)
    return ReadyModel(config, tokenizer, runtime.accelerator.prepare_model(model, evaluation_mode=True), runtime)


def _stored(store: Any, chosen: Any, run: str, folder: Path) -> tuple[Config, Path]:
    """The configuration of a run, and its model, copied into a folder.

    Raises:
        UserError: the run kept no model.
    """
    from src.runs.keep import KEPT
    from src.runs.origin import read_config

    if chosen.tags.get(KEPT) == "false":
        raise UserError(
            f"run={run}: this run's model was not kept (tracking.keep_model="
            f"{chosen.params.get('tracking.keep_model')}); choose another run, or train this one again with "
            "rerun=true tracking.keep_model=all."
        )
    text = store.text(chosen.id, "config.yaml")
    model = store.artifact(chosen.id, "model", str(folder))
    if text is None or model is None:
        raise UserError(f"run={run} stored no model (it is {chosen.status}); choose a FINISHED run.")
    return config_of(read_config(text, f"The configuration of run={run}")), model


def config_of(stored: Mapping[str, Any]) -> Config:
    """Convert a stored configuration to the present schema; keys that it does not have get their defaults."""
    config: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), stored))
    return config


def together(answers: Sequence[Any]) -> list[Any]:
    """Combine the answers of several runs to one question: candidates by their mean probability, the best first.

    Args:
        answers: an `src.tasks.base.Answer` of each run.

    Returns:
        Spans. Texts that are equal after SQuAD's normalisation are one candidate; its probability is 0 for a run that
        does not list it. Its place is that of the run with the highest probability for it.
    """
    from src.evaluation.squad_metric import normalize

    candidates: dict[str, list[Any]] = {}
    for answer in answers:
        of_run: dict[str, Any] = {}
        for span in answer.n_best:
            text = normalize(span.text)
            if text not in of_run or span.probability > of_run[text].probability:
                of_run[text] = span
        for text, span in of_run.items():
            candidates.setdefault(text, []).append(span)
    means = [
        replace(
            max(spans, key=lambda span: span.probability),
            probability=sum(span.probability for span in spans) / len(answers),
        )
        for spans in candidates.values()
    ]
    return sorted(means, key=lambda span: -span.probability)


def place_of(span: Any, context: str) -> tuple[int, int] | None:
    """The place of an answer in the passage, as its first and its end character; None if it has none.

    The answer of a decoder has a place if the passage contains its text exactly once.
    """
    if span.start >= 0:
        return span.start, span.end
    if span.text and context.count(span.text) == 1:
        start = context.index(span.text)
        return start, start + len(span.text)
    return None
