"""The typed schema of a run's configuration, for the files of `conf/`.

Hydra composes the YAML files of `conf/` into these dataclasses, so that a misspelt key or a wrong type is refused
before anything is loaded. `python -m src.train --cfg job` prints the result. Nothing here imports torch or Hydra:
`src.compose` fills these classes from the command line, and the training code can be used without it.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.credentials import without_secrets

ROOT = Path(__file__).resolve().parents[1]
# The folder of conf/ and experiments/: the root of a checkout, or the package if it is installed.
SETTINGS = ROOT / "src" if (ROOT / "src" / "conf").is_dir() else ROOT
MISSING: Any = "???"  # OmegaConf's mark for a value that must be given


class UserError(Exception):
    """An error that the user can fix. Only its message is printed (what, where, what to do); exit status 1."""


def one_line(reason: object, longest: int = 200) -> str:
    """The message of a library on one line of at most `longest` characters, to be quoted in an error message."""
    return " ".join(str(reason).split())[:longest]


@dataclass
class ModelConfig:
    name: str = MISSING
    path: str | None = None  # hub name, folder, or pkg://PACKAGE/FOLDER; null: random weights
    install: str | None = None  # the command that installs the package of `path`, if its name is not enough
    revision: str | None = None  # branch, tag or commit on the hub
    gguf: str | None = None  # file in the folder `path`; it is converted once, and the result is cached
    sha256: str | None = None  # of model.safetensors, or of the GGUF file; checked before loading
    pretrained: bool = True  # false: random weights in the shape of `model_type` and `config`
    model_type: str | None = None  # the architecture's name in transformers, for random weights
    config: dict[str, Any] = field(default_factory=dict)  # overrides of the model's own configuration
    tokenizer: str | None = None  # if it differs from `path`; bytes://: a tokenizer with one token for each byte
    rate_scale: float = 1.0  # the factor of the methods' learning rates for this model
    task: str = "extractive"  # extractive: answers are spans of the passage | generative: the model writes them
    # The part of the model's configuration that `src.plan` needs to estimate memory without weights and downloads.
    shape: dict[str, Any] = field(default_factory=dict)
    prompt: str = "{context}\n\nQuestion: {question}\nAnswer:"  # generative: a template, or chat
    max_length: int = 384  # tokens in a window: question, context and special tokens
    doc_stride: int = 128  # context tokens that neighbouring windows share
    trust_remote_code: bool = False
    license: str | None = None  # of the weights, as the hub abbreviates it; for the card of a trained model


@dataclass
class DatasetConfig:
    name: str = MISSING
    source: str = MISSING  # sample | hub | file
    path: str | None = None  # hub name or file; for hub also a folder of Parquet files
    validation_path: str | None = None  # a separate file of validation questions
    test_path: str | None = None  # a separate file of test questions; for hub the name of a split
    root: str | None = None  # folder that relative paths start from; null: the current one
    train_size: int | None = None  # questions; null: all there are
    validation_size: int | None = None
    test_size: int | str | None = None  # questions that no choice is based on: a number, or all; null: no test set
    subset: str = "random"  # first | random
    split: str = "given"  # given | article (no title on both sides) | random
    seed: int = 0  # draws the subset and the split; train.seed does not touch the data
    answer: str = "first"  # which of several human answers to train on: first | majority | shortest
    unanswerable: bool | None = None  # whether "no answer" may be given; null: decided by the training questions
    extra_validation: dict[str, str] = field(default_factory=dict)  # name -> file, scored at the end

    @property
    def has_own_test(self) -> bool:
        """Whether the test questions have a separate source, and are not split off from the other questions."""
        return self.test_size is not None and (self.source == "sample" or self.test_path is not None)

    def files(self) -> dict[str, Path]:
        """The files of questions, by their keys."""
        keys = ("path", "validation_path", "test_path") if self.source == "file" else ()
        sources = {key: getattr(self, key) for key in keys}
        extra = {f"extra_validation.{name}": path for name, path in self.extra_validation.items()}
        named = {key: path for key, path in {**sources, **extra}.items() if path is not None}
        return {f"dataset.{key}": Path(self.root or ".") / Path(path).expanduser() for key, path in named.items()}


@dataclass
class MethodConfig:
    name: str = MISSING
    learning_rate: float = MISSING
    trainable: list[str] | None = None  # globs over parameter names, or the words `head`, `backbone`
    peft: dict[str, Any] | None = None  # the keys of a peft configuration
    quantize: str | None = None  # nf4: the backbone's linear layers in 4 bits, under adapters


@dataclass
class HardwareConfig:
    name: str = MISSING
    device: str = "auto"  # auto | cpu | gpu
    precision: str = "auto"  # auto | fp32 | bf16 | fp16
    threads: int | None = None  # CPU threads; null: as many as torch finds physical cores
    processes: int | None = 1  # null: as many as the launcher started
    compile: bool = False  # torch.compile
    # A batch with more tokens is split into micro-batches; its gradient stays the same. null: 1536 on a CPU.
    tokens_per_pass: int | None = None
    fast_kernels: bool = True  # faster matrix products, attention and dropout for the same model
    price_per_hour: float | None = None  # of the machine, in any currency, for the cost of runs and of tuning
    memory: str | None = None  # the memory that a run may use (24GB); null: that of the device


@dataclass
class TrainConfig:
    epochs: int = 3
    learning_rate: float = MISSING
    batch_size: int = 16  # windows per forward pass, over all processes together
    gradient_accumulation_steps: int = 1
    weight_decay: float = 0.01  # for matrices; biases and norms have none
    warmup_ratio: float = 0.1  # share of all optimizer steps
    scheduler: str = "linear"  # linear | cosine | constant, each after the warm-up
    max_grad_norm: float = 1.0
    seed: int = 0  # new weights, order of the batches, dropout
    eval_every_epochs: int = 1
    early_stopping_patience: int | None = None  # evaluations without a better F1
    keep: str = "last"  # last | best: the epoch whose weights are reported and stored
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.0  # above 0 rules out the fast attention kernels on a CPU
    cache_encoder: bool = False  # method=head without dropout: compute the encoder's output once, and keep it on disk
    gradient_checkpointing: bool = False  # keep one tensor per layer and recompute the rest: less memory, more time
    checkpoint_minutes: float = 10.0  # between checkpoints, in addition to those at the ends of epochs
    keep_checkpoints: bool = False  # keep all of them after the run is finished


@dataclass
class EvaluationConfig:
    batch_size: int = 32  # windows
    max_answer_length: int = 30  # tokens
    n_best: int = 20
    null_threshold: float = 0.0  # answer "none" if null score - best span score is above it


@dataclass
class TrackingConfig:
    folder: str = "mlruns"
    uri: str | None = None  # null: SQLite in `folder`
    experiment: str = "tuneoff"
    keep_model: str = "all"  # all | best (of each method in a sweep, by validation F1) | none
    register: str | None = None  # the name of a registered model; the model of every run becomes a version of it

    def __post_init__(self) -> None:
        self.uri = without_secrets(self.uri) if self.uri else None  # `tracking.uri=` means None too


@dataclass
class SweepConfig:
    """The settings of a whole sweep (`-m`); they are not part of a run's identity."""

    name: str | None = None  # null: named after the varied keys
    fail_fast: bool = False  # start no more runs after one has failed
    # Points of F1 that a cheaper method may lose and still be preferred; named before the first run.
    margin: float = 1.0
    budget: str | None = None  # of src.settle: 2h, 30m, '40 runs', or a sum of money if there is a price
    parent: str | None = None  # run id of the sweep's parent run, set by the sweep itself
    varied: list[str] = field(default_factory=list)  # keys in which its runs differ, set by the sweep for their names
    cut_below: float | None = None  # set by src.settle: F1 after the first epoch, below which the run is cut short
    # Set by the Optuna sweeper: the number of the run's trial, its study, and the first trial that may be pruned.
    trial: int | None = None
    study: str | None = None
    storage: str | None = None
    prune_after: int | None = None

    def __post_init__(self) -> None:
        self.storage = self.storage and without_secrets(self.storage)


@dataclass
class Config:
    model: ModelConfig = field(default_factory=ModelConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    rerun: bool = False  # make a new run even if the same run is done already
    from_run: str | None = None  # the run that this one reproduces: its id, or the file with its configuration


# Keys and sections that do not change a result; they are not part of a run's identity or of a comparison's settings.
CHANGES_NO_RESULT = (
    "tracking",
    "sweep",
    "rerun",
    "from_run",
    "hardware.threads",
    "hardware.price_per_hour",
    "hardware.memory",
    "model.shape",
    "model.install",
    "model.license",
    "model.rate_scale",  # train.learning_rate contains the product
    "train.checkpoint_minutes",
    "train.keep_checkpoints",
    "dataset.root",
)
# Keys that name files or folders of questions, which are identified by their content and not by their paths.
DATA_FILES = ("dataset.path", "dataset.validation_path", "dataset.test_path", "dataset.extra_validation")


def no_such_file(path: Path) -> str:
    """The error message for a file that does not exist."""
    siblings = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    return f"{path} does not exist{nearest(path.name, siblings)}; check dataset.path and dataset.root."


def nearest(word: str, options: Any) -> str:
    """` (did you mean 'x'?)` for the option closest to a misspelt word, or nothing."""
    close = difflib.get_close_matches(str(word), [str(option) for option in options], n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""
