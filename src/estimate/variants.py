"""What is known of a run before it is trained: parameters, memory by formula, what a probe measures, what fits."""

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

GPU_PRECISION = "bf16"  # that the cards are reckoned with
FORMULA_ERROR = 1.15  # a probe is not tried where the formula says more than this times what there is


@dataclass(frozen=True)
class Variant:
    """One of the configurations that are planned."""

    name: str
    overrides: list[str]
    config: Config


@dataclass(frozen=True)
class Outlook:
    """All that is known of a variant. Memory is in MB of 10^6 bytes."""

    variant: Variant
    here: MemoryEstimate | None  # on the device at hand
    on_gpu: MemoryEstimate  # in bf16
    probe: Probe | None
    note: str | None  # why there is no probe
    out_of_memory: bool  # the probe has shown that it does not fit
    largest: dict[str, int] | None  # windows, by card and for the device at hand


def look_at(variant: Variant, device: Device | None, with_probe: bool, largest_batch: bool) -> Outlook:
    """Reckon a variant, and probe it where that is asked for and possible.

    Args:
        variant: the configuration.
        device: at hand; None where the one that is asked for is not there.
        with_probe: measure a few steps.
        largest_batch: search for the largest batch that fits.

    Raises:
        UserError: a shape that is not known, or a method that does not fit it.
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
    """Why a run cannot be probed on this machine, in one sentence; None where it can be tried."""
    if device is None or here is None:
        return "No probe: the device that is asked for is not there."
    if reasons := cannot_be_trained(config):
        return f"No probe: {reasons[0]}"
    if not weights_at_hand(config.model):
        return (
            f"No probe: {config.model.path} is not in the hub's cache on this machine, and nothing is downloaded to "
            "plan; model.path=FOLDER names weights that are here."
        )
    if here.total_mb > FORMULA_ERROR * device.limit_mb:
        return (
            f"No probe: {here.total_mb:,.0f} MB, by the formula, are more than the {device.limit_mb:,.0f} MB that a "
            "run may take here."
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
            if place.count("/") > 1 or place.startswith((".", "/", "~")):  # a folder, and it is not there
                return False
            if not isinstance(try_to_load_from_cache(place, "config.json", revision=model.revision), str):
                return False
    return True


def _probed(config: Config) -> tuple[Probe | None, str | None, bool]:
    """The probe; or why there is none, and whether memory was the reason."""
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
    """The largest batch (windows in one forward pass) that fits: by formula on cards, by trying on the device at hand.

    A CPU takes a batch in micro-batches of `hardware.tokens_per_pass` tokens; where the largest of these fits, every
    batch does, and the answer is MOST_WINDOWS.
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
    """By steps with each size, each in a new process."""
    from src.estimate.probe import does_not_fit, peak_isolated

    def fits(windows: int) -> bool:
        if device.kind == "cpu":  # other programs want their memory too
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
    # More windows than fill a micro-batch take no more memory than these.
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
    """The sum over the least protocol; None where it is not known of every variant."""
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
    """Whether a variant fits on the device at hand (by its probe, else by formula), and by formula on each card."""
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
    """Variants that differ in more than the learning rate and the seed, which change no cost; the first of each."""
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
