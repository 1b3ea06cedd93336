"""All questions that a run may use, from where they are: generated, a hub data set, or files."""

from __future__ import annotations

from dataclasses import dataclass

from datasets import load_dataset

from src.config import DatasetConfig, UserError
from src.data import sample
from src.data.records import Checked, check, read_file


@dataclass(frozen=True)
class Questions:
    """What was read, by the side that it is for."""

    train: Checked  # everything, where one file is to be split
    validation: Checked  # empty, where one file is to be split
    extra: dict[str, Checked]  # `dataset.extra_validation`

    @property
    def parts(self) -> list[Checked]:
        return [self.train, self.validation, *self.extra.values()]


def read(config: DatasetConfig) -> Questions:
    """Read and check every source of a data set.

    Raises:
        UserError: one cannot be read, or holds what is no question.
    """
    files = config.files()
    extra = {name: read_file(files[f"dataset.extra_validation.{name}"]) for name in config.extra_validation}
    if config.source == "sample":
        train = sample.generate(config.train_size or 1000, config.seed, side="train")
        validation = sample.generate(config.validation_size or 250, config.seed, side="validation")
        return Questions(Checked(train), Checked(validation), extra)
    if config.source == "hub":
        return Questions(_from_hub(config, "train"), _from_hub(config, "validation"), extra)
    path = files.get("dataset.validation_path")
    return Questions(read_file(files["dataset.path"]), Checked([]) if path is None else read_file(path), extra)


def _from_hub(config: DatasetConfig, split: str) -> Checked:
    """One split of a data set of the hub."""
    try:
        dataset = load_dataset(str(config.path), split=split)
    except Exception as error:  # the hub's client raises a dozen unrelated types when it is out of reach
        raise UserError(
            f"dataset={config.name}: {config.path} could not be loaded from the hub "
            f"({type(error).__name__}: {str(error).strip().splitlines()[0]}). Without a hub: dataset=sample, or a "
            "file of your own with dataset=file dataset.path=FILE."
        ) from error
    checked = check(((f"{split} row {i}", row) for i, row in enumerate(dataset)), str(config.path))
    checked.source = split
    return checked
