"""Decide between methods within a budget: plan, bracket the learning rates, repeat on fresh seeds, decide, report.

  python -m src.settle method=full,lora budget=2h
  python -m src.settle questions.csv budget=30m                # your own file; without method= these are full and LoRA
  python -m src.settle method=full,lora method.peft.r=4,16 budget='60 runs'
  python -m src.settle method=full,lora budget=5 price=2.5     # a sum of money, and what an hour costs

After an interruption, the same command continues with its stored plan and reaches the same decision. docs/protocol.md
describes the protocol.

KEYS (KEY=VALUE; others as for src.train)
  budget=2h                    seconds of runs (90s, 30m, 1h30m), '40 runs', or money where price= is given
  margin=1.0                   points of F1 that a cheaper method may lose and still be preferred
  price=2.5                    price of an hour of the machine, in any currency
  memory=24GB                  memory that a run may take; a method that needs more is left out
  train.seed=0                 the first choosing seed; the others follow it
  method.learning_rate=1e-3    the first learning rate of every method, instead of its default
  hydra/launcher=joblib        several runs at once; ray, submitit_slurm, submitit_local
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from src.arguments import written_out
from src.compose import assignment
from src.grid import key_of
from src.launch import command_line
from src.sweep import SETTLE

METHODS = "method=full,lora"


def main() -> None:
    """The command line."""
    command_line(str(__doc__), hydra_arguments)


def hydra_arguments(arguments: Sequence[str]) -> list[str]:
    """Translate the user's arguments for Hydra: a file becomes `dataset.path`, and the default methods are added."""
    words = [
        assignment("dataset.path", word) if "=" not in word and Path(word).is_file() else word for word in arguments
    ]
    if any(word == "-c" or word.startswith("--cfg") for word in words):  # shows the configuration of one run
        return words
    keys = {key_of(word) for word in written_out(words)}
    methods = [] if keys & {"method", "experiments", "from_run"} else [METHODS]
    return [*(word for word in SETTLE if word not in words), *words, *methods]


if __name__ == "__main__":
    main()
