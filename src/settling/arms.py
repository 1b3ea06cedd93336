"""The variants that a settle command compares; they are checked before anything is probed or stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from src.config import Config, DatasetConfig, UserError
from src.data.sources import load
from src.grid import Job as Overrides
from src.grid import key_of
from src.metrics import TRAINABLE
from src.protocol.plan import RUNS, ArmPlan, make_plan, read_budget
from src.report.comparison import arm_keys, make_arms, pair_up
from src.runs.identity import hashes
from src.runs.records import Record, Status
from src.runs.tracking import digest_of, flatten, recorded

# Keys that the protocol sets.
RATE, SEED = "train.learning_rate", "train.seed"
ONE_VALUE = (SEED, "method.learning_rate", "rerun", "sweep.", "tracking.")  # prefixes of keys that cannot vary


@dataclass(frozen=True)
class Arm:
    """One of the variants that a settle command compares."""

    name: str
    overrides: Overrides  # that give its configuration
    config: Config  # with its default rate: that of the method, scaled for the model
    hash: str  # of the run with that configuration
    by: tuple[str, ...] = ()  # parameters that distinguish variants of a method
    test: str = ""  # the digest of its test questions

    def as_record(self, trainable: int = 0) -> Record:
        """A record of a run before it is made, with all that determines the arms and baselines of a comparison."""
        params, metrics = flatten(recorded(self.config)), {TRAINABLE: float(trainable)}
        nowhere: Any = None
        return Record(self.hash, self.name, Status.FINISHED, 0, 0, params, metrics, {}, {}, nowhere)


def find_arms(jobs: Sequence[tuple[Overrides, Config]], settings: Config) -> list[Arm]:
    """Make the variants that a settle command compares.

    Args:
        jobs: the overrides and the configuration of each variant.
        settings: the configuration without the keys that vary.

    Raises:
        UserError: there is only one variant, no budget or no test set, or a key is given that the protocol sets.
    """
    _check_keys([overrides for overrides, _ in jobs])
    if settings.sweep.budget is None:
        raise UserError("budget= is missing: how much may be spent, such as budget=2h, or budget='40 runs'.")
    budget = read_budget(settings.sweep.budget, settings.hardware.price_per_hour)
    arms = [Arm("", overrides, config, hashes(config).present) for overrides, config in jobs]
    arms = list({arm.hash: arm for arm in arms}.values())
    if len(arms) < 2:
        raise UserError("src.settle compares methods, and there is only one; give at least two: method=full,lora.")
    if budget.unit == RUNS:  # this needs no probe
        make_plan([ArmPlan(arm.hash, [], 1.0) for arm in arms], budget, 1.0, 0)
    datasets = {str(arm.config.dataset): arm.config.dataset for arm in arms}
    tests = {name: _test_digest(dataset) for name, dataset in datasets.items()}
    arms = named([replace(arm, test=tests[str(arm.config.dataset)]) for arm in arms])
    check_pairs(arms)
    return arms


def _check_keys(jobs: Sequence[Overrides]) -> None:
    """Check the keys that the user gave.

    Raises:
        UserError: the protocol sets a key, or a key that cannot vary has several values.
    """
    values: dict[str, set[str]] = {}
    for overrides in jobs:
        for override in overrides:
            values.setdefault(key_of(override), set()).add(override)
    if RATE in values:
        raise UserError(f"{RATE}: src.settle tries learning rates around that of each method; leave it out.")
    for key, given in values.items():
        if len(given) > 1 and key.startswith(ONE_VALUE):
            listed = ", ".join(sorted(given))
            raise UserError(f"src.settle takes one value of {key}, and there are several: {listed}.")


def _test_digest(dataset: DatasetConfig) -> str:
    """The digest of the test questions of a data set.

    Raises:
        UserError: there is no test set.
    """
    test = load(dataset).test
    if test is None:
        raise UserError(
            f"src.settle decides on test questions, and dataset={dataset.name} has none here; leave out "
            "dataset.test_size=null, give more articles, or a separate file of test questions (dataset.test_path)."
        )
    return digest_of(test)


def named(arms: Sequence[Arm]) -> list[Arm]:
    """Give the variants the names that they have in a comparison, and the parameters that distinguish them."""
    records = [arm.as_record() for arm in arms]
    by = _telling_apart(records, dict.fromkeys(key_of(override) for arm in arms for override in arm.overrides))
    each = [make_arms([record], arm_keys(records, by))[0][0] for record in records]
    return [replace(arm, name=group.name, by=by) for arm, group in zip(arms, each, strict=True)]


def check_pairs(arms: Sequence[Arm]) -> None:
    """Check that all variants can be compared.

    Raises:
        UserError: variants cannot be distinguished, or a variant has nothing to be compared with.
    """
    names = [arm.name for arm in arms]
    if same := {name for name in names if names.count(name) > 1}:
        raise UserError(
            f"Several variants would be called {', '.join(sorted(same))}: they do not differ in anything that "
            "distinguishes methods in a comparison."
        )
    pairs = pairs_of(arms, {})
    alone = [name for name in names if not any(name in pair for pair in pairs)]
    if alone:
        raise UserError(
            f"{', '.join(alone)} would be compared with nothing; give another method (or full) with the same model, "
            "data and parameters."
        )
    tests = {arm.name: arm.test for arm in arms}
    for one, other in pairs:
        if tests[one] != tests[other]:
            raise UserError(f"{one} and {other} have different test questions, so they do not compare.")


def pairs_of(arms: Sequence[Arm], trainable: Mapping[str, int]) -> list[tuple[str, str]]:
    """The names of each variant and its baseline; without `full`, the most trained parameters make the baseline."""
    records = [arm.as_record(trainable.get(arm.name, 0)) for arm in arms]
    grouped, _ = make_arms(records, arm_keys(records, arms[0].by))
    return [(arm.name, base.name) for arm, base in pair_up(grouped, "full")]


def _telling_apart(records: Sequence[Record], keys: Iterable[str]) -> tuple[str, ...]:
    """The parameters that are needed to distinguish all variants, in addition to method, model and data."""

    def apart(by: Sequence[str]) -> int:
        return len(make_arms(records, arm_keys(records, by))[0])

    by: list[str] = []
    for key in keys:
        if any(key in record.params for record in records) and apart([*by, key]) > apart(by):
            by.append(key)
    return tuple(by)
