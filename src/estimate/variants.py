"""Estimates the cost of a run before it is trained: parameters, memory, time, and the devices that it fits on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from src.config import Config, ModelConfig, UserError
from src.estimate import cards
from src.estimate.cards import MOST_WINDOWS, Device
from src.estimate.cost import Probe, price
from src.estimate.memory import MemoryEstimate, estimate
from src.problems import cannot_be_trained
from src.protocol.plan import LEAST_ROUNDS

GPU_PRECISION = "bf16"  # the precision that is assumed for the cards
FORMULA_ERROR = 1.15  # no probe is tried if the formula predicts more than this factor times the available memory


@dataclass(frozen=True)
class Variant:
    """A configuration whose cost is estimated."""

    name: str
    overrides: list[str]
    config: Config


@dataclass(frozen=True)
class Outlook:
    """The estimates for a variant. Memory is in MB of 10^6 bytes."""

    variant: Variant
    here: MemoryEstimate | None  # on the local device
    on_gpu: MemoryEstimate  # in bf16
    probe: Probe | None
    note: str | None  # the reason if there is no probe
    out_of_memory: bool  # whether the probe ran out of memory
    largest: dict[str, int] | None  # the windows of the largest batch, by card and for the local device


def look_at(variant: Variant, device: Device | None, with_probe: bool, largest_batch: bool) -> Outlook:
    """Estimate the cost of a variant, and probe it if this is requested and possible.

    Args:
        variant: the configuration.
        device: the local device; None if the requested one does not exist.
        with_probe: whether to measure a few steps.
        largest_batch: whether to search for the largest batch that fits.

    Raises:
        UserError: the architecture is not known on this machine, or the method does not fit it.
    """
    config = variant.config
    processes = config.hardware.processes or 1
    on_gpu = estimate(config, device="gpu", precision=GPU_PRECISION, processes=processes)
    here, measured, note, full = None, None, None, False
    if device is not None:
        here = estimate(config, device=device.kind, precision=device.precision, processes=processes)
    if with_probe:
        note = no_probe(config, device, here)
        if note is None:
            measured, note, full = _probed(config)
    sizes = largest_batches(config, device, measured is not None) if largest_batch else None
    return Outlook(variant, here, on_gpu, measured, note, full, sizes)


def no_probe(config: Config, device: Device | None, here: MemoryEstimate | None) -> str | None:
    """The reason why a run cannot be probed on this machine, in one sentence; None if a probe can be tried."""
    if device is None or here is None:
        return "No probe: the requested device is not available."
    if reasons := cannot_be_trained(config):
        return f"No probe: {reasons[0]}"
    if not weights_at_hand(config.model):
        return (
            f"No probe: {config.model.path} is not in the hub's cache on this machine, and a plan downloads nothing; "
            "model.path=FOLDER uses local weights."
        )
    if here.total_mb > FORMULA_ERROR * device.limit_mb:
        return (
            f"No probe: by the formula a run needs {here.total_mb:,.0f} MB, and it may take {device.limit_mb:,.0f} MB "
            "here."
        )
    return None


def weights_at_hand(model: ModelConfig) -> bool:
    """Whether a model can be loaded without a download."""
    from huggingface_hub import try_to_load_from_cache

    from src.model.byte_tokenizer import NAME
    from src.model.place import place_of

    for name in {model.path if model.pretrained else None, model.tokenizer or model.path} - {None, NAME}:
        try:
            place = place_of(str(name))
        except UserError:  # a package that is not installed
            return False
        if not Path(place).is_dir():
            if place.count("/") > 1 or place.startswith((".", "/", "~")):  # a folder that does not exist
                return False
            if not isinstance(try_to_load_from_cache(place, "config.json", revision=model.revision), str):
                return False
    return True


def _probed(config: Config) -> tuple[Probe | None, str | None, bool]:
    """The probe; or the reason why there is none, and whether a full memory was the reason."""
    from src.estimate.probe import does_not_fit, probe_isolated

    outcome = probe_isolated(config)
    if outcome.error == "KeyboardInterrupt":
        raise KeyboardInterrupt
    if outcome.reason is None:
        return outcome.value, None, False
    if does_not_fit(outcome):
        return None, f"The probe does not fit: {outcome.reason}", True
    return None, f"No probe: {outcome.reason}", False


# The largest batch


def largest_batches(config: Config, device: Device | None, try_here: bool) -> dict[str, int]:
    """The largest batch (windows in one forward pass) that fits: by formula on cards, by trial on the local device.

    A CPU divides a batch into micro-batches of `hardware.tokens_per_pass` tokens. If the largest of these fits, every
    batch fits, and the result is MOST_WINDOWS.
    """
    processes = config.hardware.processes or 1

    @cache
    def on_gpu(windows: int) -> float:
        each = estimate(config, device="gpu", precision=GPU_PRECISION, processes=processes, batch_windows=windows)
        return each.total_mb

    limits = {str(card): cards.card_limit_mb(card) for card in cards.CARDS_GB}
    sizes = {card: cards.largest_by_size(on_gpu, limit, MOST_WINDOWS) for card, limit in limits.items()}
    if device is not None and try_here:
        sizes["device"] = _largest_here(config, device)
    return sizes


def _largest_here(config: Config, device: Device) -> int:
    """The largest batch for which training steps succeed, each size in a new process."""
    from src.estimate.probe import does_not_fit, peak_isolated

    def fits(windows: int) -> bool:
        if device.kind == "cpu":  # a trial must not take the memory of other programs
            needed = estimate(config, device="cpu", precision=device.precision, batch_windows=windows).total_mb
            if needed > FORMULA_ERROR * device.limit_mb:
                return False
        outcome = peak_isolated(config, windows)
        if outcome.error == "KeyboardInterrupt":
            raise KeyboardInterrupt
        if outcome.reason is not None and not does_not_fit(outcome):
            raise UserError(f"The largest batch cannot be searched for: {outcome.reason}")
        return outcome.reason is None and outcome.value <= device.limit_mb

    if device.micro_batch_tokens is None:
        return cards.largest(fits, MOST_WINDOWS, config.train.batch_size)
    # Further windows beyond a full micro-batch take no more memory.
    filled = max(1, device.micro_batch_tokens // config.model.max_length)
    return MOST_WINDOWS if fits(2 * filled) else cards.largest(fits, filled)


# As plain values


def as_json(outlooks: list[Outlook], device: Device | None, notes: list[str]) -> dict[str, Any]:
    """What `python -m src.plan format=json` prints; docs/plan.md describes it."""
    variants = [_variant(each, device) for each in outlooks]
    seconds = [None if each.probe is None else each.probe.run_seconds for each in outlooks]
    return {
        "device": None if device is None else asdict(device),
        "least_protocol": {
            "runs_of_each": LEAST_ROUNDS,
            "runs": LEAST_ROUNDS * len(outlooks),
            "seconds": _of_all(seconds),
            "price": _of_all([variant["price_of_a_run"] for variant in variants]),
        },
        "variants": variants,
        "notes": notes,
    }


def _of_all(of_a_run: list[float | None]) -> float | None:
    """The sum over the shortest protocol; None if a value is missing for a variant."""
    known = [value for value in of_a_run if value is not None]
    return LEAST_ROUNDS * sum(known) if len(known) == len(of_a_run) else None


def _variant(outlook: Outlook, device: Device | None) -> dict[str, Any]:
    config, counts, probe = outlook.variant.config, outlook.on_gpu.counts, outlook.probe
    seconds = None if probe is None else probe.run_seconds
    return {
        "name": outlook.variant.name,
        "overrides": outlook.variant.overrides,
        "model": config.model.name,
        "method": config.method.name,
        "dataset": config.dataset.name,
        "batch_windows": config.train.batch_size,
        "length": config.model.max_length,
        "parameters": {
            "total": counts.total,
            "trained": counts.trainable,
            "trained_percent": counts.trainable_percent,
            "adapter": counts.adapter,
            "head": counts.head,
            "backbone": counts.backbone,
        },
        "memory_here": None if outlook.here is None else _memory(outlook.here),
        "memory_on_gpu": _memory(outlook.on_gpu),
        "disk_mb": outlook.on_gpu.disk_mb,
        "fits": fits(outlook, device),
        "largest_batch": outlook.largest,
        "probe": None if probe is None else asdict(probe),
        "price_of_a_run": None if seconds is None else price(seconds, config.hardware.price_per_hour),
        "note": outlook.note,
    }


def _memory(each: MemoryEstimate) -> dict[str, float]:
    names = ("weights_mb", "gradients_mb", "optimizer_mb", "activations_mb", "working_mb", "total_mb")
    return {name: getattr(each, name) for name in names}


def fits(outlook: Outlook, device: Device | None) -> dict[str, bool | None]:
    """Whether a variant fits on the local device (by its probe, else by formula), and by formula on each card."""
    here: bool | None = None
    if outlook.out_of_memory:
        here = False
    elif device is not None and outlook.probe is not None:
        here = max(outlook.probe.peak_train_mb, outlook.probe.peak_eval_mb) <= device.limit_mb
    elif device is not None and outlook.here is not None:
        here = outlook.here.total_mb <= device.limit_mb
    on_cards = {str(card): outlook.on_gpu.total_mb <= cards.card_limit_mb(card) for card in cards.CARDS_GB}
    return {"device": here, **on_cards}


def distinct(variants: list[Variant]) -> list[Variant]:
    """Remove variants that differ from an earlier one in learning rate and seed only, which do not change the cost."""
    kept: dict[str, Variant] = {}
    for variant in variants:
        config = variant.config
        same = replace(
            config,
            method=replace(config.method, learning_rate=0.0),
            train=replace(config.train, learning_rate=0.0, seed=0),
        )
        kept.setdefault(repr(same), variant)
    return list(kept.values())
