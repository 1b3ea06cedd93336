"""Writes the model card (`README.md`) of a stored model: method, data, scores, limits, and how to load it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from src.config import Config
from src.harmless import harmless, in_markdown
from src.metrics import TOTAL, TRAINABLE, Place, metric, shown
from src.model import onnx
from src.model.base import Base
from src.model.stored import ADAPTER, TRAINED
from src.tasks import task_of

SETTINGS = ("epochs", "batch_size", "gradient_accumulation_steps", "weight_decay", "warmup_ratio", "scheduler", "seed")
UNKNOWN = "unknown"  # licence
LOADING = {
    onnx.FILE: """\
import onnxruntime

session = onnxruntime.InferenceSession("THIS_FOLDER/model.onnx")""",
    ADAPTER: """\
from peft import PeftModel
from transformers import {imported}

base = {auto}.from_pretrained({base!r}{revision})
model = PeftModel.from_pretrained(base, "THIS_FOLDER").eval()""",
    TRAINED: """\
from safetensors.torch import load_file
from transformers import {auto}

model = {auto}.from_pretrained({base!r}{revision})
model.load_state_dict(load_file("THIS_FOLDER/trained.safetensors"), strict=False)
model.eval()""",
    "": """\
from transformers import {auto}

model = {auto}.from_pretrained("THIS_FOLDER").eval()""",
}
FORMS = {
    ADAPTER: "an adapter for",
    TRAINED: "the trained weights for",
    onnx.FILE: "as ONNX, in fp32, a model trained from",
    "": "a model trained from",
}
LIBRARIES = {ADAPTER: "peft", onnx.FILE: "onnx"}
LIMITS = {
    "extractive": "An answer is always a span of the passage: the model cannot count, or answer with yes or no.",
    "generative": "An answer is written by a language model: it may not occur in the passage.",
}
NO_ANSWER = {
    False: "It always gives an answer, even if the passage contains none.",
    True: "It may give no answer; the scores above do not say how often that is right.",
}
# For an adapter that was trained and scored on a base in 4 bits (method=qlora).
IN_4_BITS = """, quantization_config=BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
)"""


def write(
    folder: Path,
    config: Config,
    base: Base,
    metrics: Mapping[str, float],
    run_id: str,
    intervals: Mapping[str, tuple[float, float]],
) -> None:
    """Write the card of the model in `folder`.

    Args:
        folder: of the stored model.
        config: of its run.
        base: that it was trained from.
        metrics: of the run, by the keys of src/metrics.py.
        run_id: in MLflow.
        intervals: the 95 % intervals of scores, by the same keys.
    """
    kind = next((file for file in (ADAPTER, TRAINED, onnx.FILE) if (folder / file).exists()), "")
    scores = ", ".join(
        f"{entry.label} {entry.text(metrics[entry.key])}{_interval(intervals.get(entry.key))}"
        for entry in shown(Place.CARD, metrics)
    )
    (folder / "README.md").write_text(_text(kind, config, base, metrics, run_id, scores), encoding="utf-8")


def _loading(kind: str, config: Config, base: Base) -> str:
    """The code that loads the model."""
    revision = f", revision={base.revision!r}" if base.revision else ""
    source = base.name
    if config.model.gguf is not None:
        source, revision = "FOLDER_OF_THE_GGUF", f", gguf_file={config.model.gguf!r}"
    auto = task_of(config.model).auto_model.__name__
    quantised = config.method.quantize is not None
    return LOADING[kind].format(
        auto=auto,
        imported=f"{auto}, BitsAndBytesConfig" if quantised else auto,
        base=source,
        revision=revision + (IN_4_BITS if quantised else ""),
    )


def _interval(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f" [{ends[0]:.1f}, {ends[1]:.1f}]"


def _front(kind: str, config: Config, base: Base) -> str:
    """The metadata that the hub reads, in YAML."""
    values: dict[str, Any] = {
        "library_name": LIBRARIES.get(kind, "transformers"),
        "pipeline_tag": "question-answering",
        "license": harmless(config.model.license or UNKNOWN),
        **({"base_model": harmless(base.name)} if base.on_the_hub else {}),
        "tags": ["question-answering", "tuneoff", harmless(config.method.name)],
    }
    return yaml.safe_dump(values, sort_keys=False, default_flow_style=None, allow_unicode=True, width=1000)


def _rows(config: Config, base: Base, metrics: Mapping[str, float], scores: str) -> dict[str, str]:
    """The contents of the card's table, by the heading of each row."""
    method, data, train = config.method, config.dataset, config.train
    known = f", commit {base.revision}" if base.revision else "".join(f", sha256 {s}" for s in base.weights.values())
    peft = ", ".join(f"{key}={value}" for key, value in (method.peft or {}).items())
    held = f", on a base in 4 bits ({method.quantize})" if method.quantize else ""
    size = data.train_size or "all"
    settings = {"learning_rate": f"{train.learning_rate:g}", **{key: getattr(train, key) for key in SETTINGS}}
    trainable, total = (metric(key).text(metrics[key]) for key in (TRAINABLE, TOTAL))
    return {
        "base": f"{base.name} ({base.model_type}{known})",
        "method": f"{method.name}{f' ({peft})' if peft else ''}{held}",
        metric(TRAINABLE).heading: f"{trainable} of {total}",
        "data": f"{data.name}: {size} training questions (subset {data.subset}, split {data.split}, seed {data.seed})",
        "settings": ", ".join(f"{key}={value}" for key, value in settings.items()),
        "scores (%) with 95 % intervals over questions, on the validation questions unless they name others": scores,
        "licence": f"of the base model: {config.model.license or UNKNOWN}; see that of the data as well",
    }


def _text(kind: str, config: Config, base: Base, metrics: Mapping[str, float], run_id: str, scores: str) -> str:
    rows = _rows(config, base, metrics, scores)
    # Names come from people and from files.
    table = "\n".join(f"| {label} | {in_markdown(value)} |" for label, value in rows.items())
    model, method, data = map(in_markdown, (config.model.name, config.method.name, config.dataset.name))
    return f"""\
---
{_front(kind, config, base)}\
---

# {model}, {method}, on {data}

For {config.model.task} question answering: {FORMS[kind]} {in_markdown(base.name)}.

| | |
|---|---|
{table}

## Limits

The scores are for questions like those of {data}, in their language, and for one seed; another seed may score
differently. {LIMITS.get(config.model.task, "")} {NO_ANSWER[bool(config.dataset.unanswerable)]}

A passage that does not fit into {config.model.max_length} tokens with its question is read in overlapping windows.

## How to load it

```python
{_loading(kind, config, base)}
```

Or, if the run is in the store:

    python -m src.predict run={run_id} question="..." context="..."
"""
