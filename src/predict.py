"""Answer a question from a passage with the stored model of a finished run.

    python -m src.predict run=RUN_ID question="Who wrote it?" context="It was written by Ada."
    python -m src.predict run=RUN_ID question="..." context=@passage.txt

`run=` is the beginning of a run's id, a run's name, or `best`: the finished run with the highest F1 of the newest
sweep, or of all runs where there is no sweep. More:

    tracking.folder= tracking.uri=   the store, mlruns/ by default
    model.path=FOLDER                the base model of an adapter, where it is not where the run found it
    trust_remote_code=true           run the Python code that the model brings along, where it needs to
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from src.compose import MISTAKES, explain, key_values
from src.config import Config, TrackingConfig, UserError
from src.console import begin

KEYS = ("run", "question", "context", "tracking.uri", "tracking.folder", "model.path", "trust_remote_code")


@dataclass
class StoredRun:
    """A finished run, ready to answer."""

    config: Config
    tokenizer: Any
    model: Any
    accelerator: Any

    def answer(self, questions: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Answers (`src.evaluation.spans.Answer`), one each, to records with `id`, `question` and `context`."""
        from src.data.features import Batches, make_windows
        from src.data.sources import to_dataset
        from src.pipeline import predict_answers

        records = [{"title": "", "answers": {"text": [], "answer_start": []}, **question} for question in questions]
        windows, _ = make_windows(to_dataset(records), self.tokenizer, self.config.model, self.config.dataset.answer)
        batches = Batches(windows, self.tokenizer.pad_token_id, self.config.model.max_length)
        answers, _ = predict_answers(self.config, self.accelerator, self.model, records, batches)
        return answers


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
    from src.model import backbone, base, method
    from src.runs.keep import KEPT
    from src.runs.origin import read_config
    from src.runs.results import resolve_run
    from src.runs.store import connect
    from src.training import hardware

    store = connect(tracking, create=False)
    chosen, note = resolve_run(store.everywhere(), run)
    if note:
        print(note, file=sys.stderr)
    if chosen.tags.get(KEPT) == "false":
        raise UserError(
            f"run={run}: this run's model was not kept (tracking.keep_model="
            f"{chosen.params.get('tracking.keep_model')}); choose another run, or train this one again with "
            "rerun=true tracking.keep_model=all."
        )
    with tempfile.TemporaryDirectory() as temporary:
        text = store.text(chosen.id, "config.yaml")
        folder = store.artifact(chosen.id, "model", temporary)
        if text is None or folder is None:
            raise UserError(f"run={run} stored no model (it is {chosen.status}); choose a FINISHED run.")
        stored = read_config(text, f"The configuration of run={run}")
        config: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), stored))
        if config.model.trust_remote_code and not trust_remote_code:
            raise UserError(
                f"run={run} was trained with model.trust_remote_code=true: its model brings Python code along, which "
                "is not run unless you trust it and say so (trust_remote_code=true)."
            )
        config.model.trust_remote_code = trust_remote_code
        method.refuse_pickles(folder)
        itself = replace(config.model, path=str(folder), sha256=None, pretrained=True, tokenizer=None, revision=None)
        tokenizer = backbone.load_tokenizer(itself)
        if whole := method.holds_whole_model(folder):
            start = itself
        else:
            start = config.model if base_path is None else replace(config.model, path=base_path, revision=None)
            start = base.check(start, folder, run)
        model: Any = backbone.load_model(start, hidden_dropout=0.0, attention_dropout=0.0, seed=config.train.seed)
        if not whole:
            model = method.put_on_base(model, folder)
    accelerator = hardware.start(replace(config.hardware, processes=None))
    return StoredRun(config, tokenizer, accelerator.prepare_model(model, evaluation_mode=True), accelerator)


def main() -> None:
    """The command line; values are taken as they are, so that a question may hold any character."""
    begin()
    try:
        given = key_values(sys.argv[1:] or ["--help"], KEYS, str(__doc__))
        for key in ("run", "question", "context"):
            if not given.get(key, "").strip():
                raise UserError(f"{key}= is missing or empty; python -m src.predict --help shows an example.")
        context = given["context"]
        if context.startswith("@"):
            context = Path(context[1:]).read_text(encoding="utf-8")
        tracking = TrackingConfig(folder=given.get("tracking.folder", "mlruns"), uri=given.get("tracking.uri"))
        trusted = given.get("trust_remote_code", "false")
        if trusted not in ("true", "false"):
            raise UserError(f"trust_remote_code={trusted} must be true or false.")
        stored = load_run(given["run"], tracking, trusted == "true", given.get("model.path"))
        [answer] = stored.answer([{"id": "0", "question": given["question"], "context": context}])
    except UnicodeDecodeError:
        print(f"Error: {given['context'][1:]} is not UTF-8 text; convert it first.", file=sys.stderr)
        sys.exit(1)
    except MISTAKES as error:
        print(f"Error: {explain(error)}", file=sys.stderr)
        sys.exit(1)
    for span in answer.n_best[:5]:
        mark = ">" if span == answer.best else " "
        print(f"{mark} {span.probability:6.1%}  {span.text or '(no answer)'}")


if __name__ == "__main__":
    main()
