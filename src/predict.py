"""Answer a question from a passage with the stored model of a finished run.

    python -m src.predict run=RUN_ID question="Who wrote it?" context="It was written by Ada."
    python -m src.predict run=RUN_ID question="..." context=@passage.txt

`run=` is the beginning of a run's id, a run's name, or `best`: the finished run with the highest F1 of the newest
sweep that has one, or of all runs where there is no sweep.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from pydantic import Field

from src.arguments import StoreArguments, read
from src.compose import MISTAKES, fail
from src.config import Config, TrackingConfig, UserError
from src.console import begin
from src.tasks import task_of


class Predict(StoreArguments):
    """What src.predict takes."""

    run: str = Field(description="the beginning of a run's id, its name, or best")
    question: str = Field(description="any text")
    context: str = Field(description="the passage that holds the answer, or @FILE")
    base: str | None = Field(
        None, alias="model.path", description="the base model of an adapter, where it is not where the run found it"
    )
    trust_remote_code: bool = Field(
        False, description="true: run the Python code that the model brings along, where it needs to"
    )


@dataclass
class StoredRun:
    """A finished run, ready to answer."""

    config: Config
    tokenizer: Any
    model: Any
    runtime: Any
    tracking: TrackingConfig  # the store, and the experiment of the run

    def answer(self, questions: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Answers (`src.tasks.base.Answer`), one each, to records with `id`, `question` and `context`."""
        from src.data.sources import to_dataset
        from src.evaluator import Evaluator

        records = [{"title": "", "answers": {"text": [], "answer_start": []}, **question} for question in questions]
        task = task_of(self.config.model)
        batches, _ = task.batches(to_dataset(records), self.tokenizer, self.config, training=False)
        unanswerable = bool(self.config.dataset.unanswerable)
        return Evaluator(self.runtime, self.model, self.config.evaluation, unanswerable).answer(records, batches)


def load_run(
    run: str, tracking: TrackingConfig, trust_remote_code: bool = False, base_path: str | None = None
) -> StoredRun:
    """Load the model that a run stored, on the hardware that its configuration names.

    Args:
        run: its name or the beginning of its id, or `best`; see `src.runs.results.resolve_run`.
        tracking: the store.
        trust_remote_code: run Python code that the model brings along; what the run itself says does not count.
        base_path: of the model that an adapter belongs on; None: what the run was trained from.

    Raises:
        UserError: no such run, one that stored no model, a model that needs code or another base.
    """
    from src.model import backbone, base, quantize, stored
    from src.runs.results import resolve_run
    from src.runs.store import connect
    from src.training import hardware

    store = connect(tracking, create=False)
    chosen, note = resolve_run(store.everywhere(), run)
    if note:
        print(note, file=sys.stderr)
    with tempfile.TemporaryDirectory() as temporary:
        config, folder = _stored(store, chosen, run, Path(temporary))
        if config.model.trust_remote_code and not trust_remote_code:
            raise UserError(
                f"run={run} was trained with model.trust_remote_code=true: its model brings Python code along, which "
                "is not run unless you trust it and say so (trust_remote_code=true)."
            )
        config.model.trust_remote_code = trust_remote_code
        stored.refuse_pickles(folder)
        itself = replace(
            config.model, path=str(folder), gguf=None, sha256=None, pretrained=True, tokenizer=None, revision=None
        )
        tokenizer = backbone.load_tokenizer(itself)
        if whole := stored.holds_whole_model(folder):
            start = itself
        else:
            start = config.model if base_path is None else replace(config.model, path=base_path, revision=None)
            start = base.check(start, folder, run)
        model: Any = backbone.load_model(start, hidden_dropout=0.0, attention_dropout=0.0, seed=config.train.seed)
        if config.method.quantize is not None:
            quantize.hold_in_4_bits(model)  # it is scored, and answers, on the base that it was trained on
        if not whole:
            model = stored.put_on_base(model, folder)
    hardware_config = replace(config.hardware, processes=None)
    runtime = hardware.start(hardware_config, cpu_tokens=task_of(config.model).cpu_tokens)
    quantize.compute_in(model, runtime.dtype)
    tracking = replace(tracking, experiment=store.experiment_of(chosen.id))
    ready = runtime.accelerator.prepare_model(model, evaluation_mode=True)
    return StoredRun(config, tokenizer, ready, runtime, tracking)


def _stored(store: Any, chosen: Any, run: str, folder: Path) -> tuple[Config, Path]:
    """The configuration of a run, and its model copied into a folder.

    Raises:
        UserError: the run kept none.
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
    stored = read_config(text, f"The configuration of run={run}")
    config: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), stored))
    return config, model


def main() -> None:
    """The command line; values are taken as they are, so that a question may hold any character."""
    try:
        begin()
        given = read(Predict, sys.argv[1:] or ["--help"], str(__doc__))
        context = _passage(given.context)
        stored = load_run(given.run, given.tracking(), given.trust_remote_code, given.base)
        [answer] = stored.answer([{"id": "0", "question": given.question, "context": context}])
        for span in answer.n_best[:5]:
            mark = ">" if span == answer.best else " "
            print(f"{mark} {span.probability:6.1%}  {span.text or '(no answer)'}")
        from src.report.terminal import Terminal
        from src.runs.commands import command_line, ui_command

        store, terminal = stored.tracking, Terminal()
        terminal.line()
        terminal.header({"compare runs": command_line("compare", store), "see all runs": ui_command(store)})
    except MISTAKES as error:
        fail(error)


def _passage(context: str) -> str:
    """The text of `context=`, which `@FILE` names a file of.

    Raises:
        UserError: the file cannot be read, is not UTF-8 text or holds no text.
    """
    if not context.startswith("@"):
        return context
    try:
        text = Path(context[1:]).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"context={context}: {context[1:]} is not UTF-8 text; convert it first.") from None
    except OSError as error:
        raise UserError(f"context={context}: the file cannot be read ({error.strerror}); check the path.") from None
    if not text.strip():
        raise UserError(f"context={context}: the file is empty; it must hold the passage.")
    return text


if __name__ == "__main__":
    main()
