"""Reads all questions that a run may use, from files, the hub, or the generator of the sample."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from datasets import config as settings
from datasets import load_dataset

from src.config import DatasetConfig, UserError
from src.data import sample
from src.data.records import Checked, check, read_file
from src.hub import hub_problem


@dataclass(frozen=True)
class Questions:
    """The questions that were read, by the side that they are for."""

    train: Checked  # all questions, if one file is to be split
    validation: Checked  # empty if one file is to be split
    test: Checked  # empty if one file is to be split, or if there is no test set
    extra: dict[str, Checked]  # `dataset.extra_validation`

    @property
    def parts(self) -> list[Checked]:
        return [self.train, self.validation, self.test, *self.extra.values()]


def read(config: DatasetConfig) -> Questions:
    """Read and check every source of a data set.

    Raises:
        UserError: a source cannot be read, or holds a record that is not a question.
    """
    files = config.files()
    extra = {name: read_file(files[f"dataset.extra_validation.{name}"]) for name in config.extra_validation}
    nothing = Checked([])
    if config.source == "sample":
        size = config.test_size if isinstance(config.test_size, int) else 250
        train = sample.generate(config.train_size or 1000, config.seed, side="train")
        validation = sample.generate(config.validation_size or 250, config.seed, side="validation")
        test = sample.generate(size, config.seed, side="test") if config.test_size is not None else []
        return Questions(Checked(train), Checked(validation), Checked(test), extra)
    apart, tested = config.split == "given", config.has_own_test
    if config.source == "hub":
        return Questions(
            _from_hub(config, "train"),
            _from_hub(config, "validation") if apart else nothing,
            _from_hub(config, str(config.test_path)) if tested else nothing,
            extra,
        )
    return Questions(
        read_file(files["dataset.path"]),
        read_file(files["dataset.validation_path"]) if apart else nothing,
        read_file(files["dataset.test_path"]) if tested else nothing,
        extra,
    )


@contextmanager
def _cache_alone(silent: bool) -> Iterator[None]:
    """Keep `datasets` from asking a hub that does not answer, which would take 24 seconds."""
    before = settings.HF_HUB_OFFLINE
    settings.HF_HUB_OFFLINE = before or silent
    try:
        yield
    finally:
        settings.HF_HUB_OFFLINE = before


def _from_hub(config: DatasetConfig, split: str) -> Checked:
    """One split of a data set of the hub."""
    silence = hub_problem(str(config.path))
    try:
        with _cache_alone(silence is not None):
            dataset = load_dataset(str(config.path), split=split)  # runs record its digest  # nosec B615
    except Exception as error:  # the hub's client raises a dozen unrelated types when the hub is unreachable
        reason = str(error).strip().partition("\n")[0]
        if reason.startswith("Unknown split"):
            sentence = f"dataset={config.name}: {config.path} has no split for this ({reason.rstrip('.')})"
            if split == config.test_path:
                sentence = (
                    f"dataset.test_path={split}: {config.path} has no such split ({reason.rstrip('.')}); give one "
                )
                sentence += "that it has, or dataset.test_size=null for no test set"
            raise UserError(f"{sentence}.") from error
        reason = f"{type(error).__name__}: {reason}"
        if silence is not None and isinstance(error, OSError):
            reason = f"it is not in the cache, and {silence}"
        raise UserError(
            f"dataset={config.name}: {config.path} could not be loaded from the hub ({reason}). Without a hub: "
            "dataset=sample, or a file of your own with dataset=file dataset.path=FILE."
        ) from error
    checked = check(((f"{split} row {i}", row) for i, row in enumerate(dataset)), str(config.path))
    checked.source = split
    return checked
