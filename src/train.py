"""Fine-tune a model on question answering with one method, and log its scores and its cost.

  python -m src.train method=lora                              # LoRA on the generated sample set
  python -m src.train method=full epochs=2 seed=1              # every parameter, another seed
  python -m src.train data=squad.json train_size=4000 validation_size=1000
  python -m src.train -m method=full,lora learning_rate=1e-4,3e-4,1e-3     # a sweep
  python -m src.train from_run=ID                              # repeat a run, with any value changed

COMMON KEYS (KEY=VALUE)
  train.learning_rate=1e-3     by default that of the method
  train.epochs=3   train.batch_size=16   train.seed=0   train.keep=best
  dataset.train_size=1000      questions; null for all there are
  dataset.subset=first         the first questions, or `random`
  dataset.split=article        no article on both sides; `random`; `given`
  method.peft.r=64             any value of the method's peft block; a new one as ++method.peft.key=value
  model.path=HUB_NAME          any other model, from the hub or a folder
  model.config.KEY=VALUE       any value of the model's own configuration, as ++model.config.key=value
  rerun=true                   a new run, even if the same run is done already
  tracking.uri=http://HOST:5000   an MLflow server; by default SQLite under mlruns/
  tracking.keep_model=best     store the best model of each method in a sweep; none: none at all

SWEEPS (-m; the same command, given again, makes the runs that are left)
  sweep.fail_fast=true         start no more runs after one has failed
  hydra/launcher=joblib        several runs at once; ray, submitit_slurm, submitit_local
  hydra/sweeper=optuna         a search instead of a grid

--cfg job prints the composed configuration with all keys, -m runs every combination. python -m src.compare compares
finished runs, python -m src.ui opens MLflow on them (see README.md).
"""

from __future__ import annotations

from src.launch import command_line


def main() -> None:
    """The command line."""
    command_line(str(__doc__))


if __name__ == "__main__":
    main()
