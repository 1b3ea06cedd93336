"""Estimate what a run will cost before it is trained: parameters, memory, disk, time and price.

  python -m src.plan method=full,lora                          # several values: a column for each combination
  python -m src.plan model=bert_base method=full,lora memory=24GB
  python -m src.plan method=lora method.peft.r=4,16 price=0.60 # the price of an hour of this machine
  python -m src.plan method=full,lora largest_batch=true       # search for the largest batch that fits
  python -m src.plan method=full,lora format=json              # for programs; docs/plan.md has the keys

A formula estimates the memory from the shapes alone, without weights or downloads. If weights and questions are on
this machine, a probe of a few steps measures time and memory. Other keys are those of src.train. Nothing is written to
the store.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from pydantic import BaseModel, Field
from rich.markup import escape
from rich.table import Table

from src.arguments import (
    HELP_WORDS,
    UsageError,
    argument_rows,
    command,
    help_text,
    keys_of,
    read,
    short_form_rows,
)
from src.compose import MISTAKES, Primary, completed, fail, from_hydra, register
from src.config import HardwareConfig, UserError
from src.console import begin
from src.estimate.cards import CARDS_GB, MOST_WINDOWS, Device, local_device
from src.grid import grid, key_of
from src.problems import problems
from src.protocol.plan import FEWEST_SEEDS, FIRST_RATES
from src.report.terminal import Terminal, duration

if TYPE_CHECKING:
    from src.estimate.variants import Variant

PARTS = {"adapter": "in adapters", "head": "in the head", "backbone": "in the backbone"}
PLACES = {**{str(card): f"{card} GB card" for card in CARDS_GB}, "device": "this machine"}
COLUMNS = 3  # variants side by side in 80 columns
Row = tuple[str, Callable[[dict[str, Any]], str]]  # the title of a row, and its cell for a variant


class PlanArguments(BaseModel):
    """The keys of the command itself; all others are those of a run."""

    probe: bool = Field(True, description="measure a few steps, if weights and questions are on this machine")
    largest_batch: bool = Field(False, description="search for the largest batch that fits, by trying it here")
    format: Literal["table", "json"] = Field("table", description="table or json")


def main() -> None:
    """The command line: KEY=VALUE as for src.train, with several values to plan a comparison."""
    try:
        begin()
        arguments = sys.argv[1:]
        if HELP_WORDS & set(arguments):
            sections = {"ARGUMENTS": argument_rows(PlanArguments), "SHORT FORMS": short_form_rows()}
            print(help_text(str(__doc__), sections))
            return
        # So nothing is downloaded, and nothing waits for the network; the libraries read both when they are imported.
        os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        keys = keys_of(PlanArguments)
        for_command = [argument for argument in arguments if argument.partition("=")[0] in keys]
        given = read(PlanArguments, for_command, str(__doc__))
        register()
        variants, notes = configure([argument for argument in arguments if argument not in for_command])
        plan(variants, notes, given)
    except KeyboardInterrupt:
        sys.exit(130)
    except MISTAKES as error:
        fail(error)


def configure(arguments: Sequence[str]) -> tuple[list[Variant], list[str]]:
    """The variants that the command line gives, and notes on the keys that were left out of them.

    Raises:
        UserError: a value is invalid for any run.
    """
    if options := [argument for argument in arguments if argument.startswith("-")]:
        raise UsageError(f"{' '.join(command('plan'))} takes no {options[0]}; leave it out.")
    overrides = completed(arguments)
    with initialize_config_dir(config_dir=Primary().folder, version_base="1.3"):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        overlay = [override for override in overrides if key_of(override) == "experiments"]
        sweeper = compose("config", overrides=overlay, return_hydra_config=True).hydra.sweeper
        params = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
        listed = [shlex.split(arm) for arm in sweeper.get("arms") or []] or [[]]
        sweeps = [parser.parse_overrides([*params, *overrides, *arm]) for arm in listed]
        runs = grid(sweeps, lambda chosen: compose("config", overrides=list(chosen)))
        varied = {o.get_key_element().lstrip("+") for each in sweeps for o in each if o.is_sweep_override()}
        varied |= {key_of(override) for arm in listed for override in arm}
        jobs = [(list(job), from_hydra(compose("config", overrides=list(job)), job)) for job in runs.jobs]
    if len({str(config.hardware) for _, config in jobs}) > 1:
        raise UserError("src.plan estimates for one device at a time; give one value of each key of hardware.")
    for _, config in jobs:
        if reasons := problems(config):
            raise UserError("\n".join(reasons))
    from src.estimate.variants import Variant, distinct  # imports torch, so only after all checks

    variants = []
    for job, config in jobs:
        more = [override for override in job if key_of(override) in varied - {"method"}]
        variants.append(Variant(" ".join([config.method.name, *more]), job, config))
    return distinct(variants), [f"{note}." for note in runs.notes]


def plan(variants: Sequence[Variant], notes: Sequence[str], given: PlanArguments) -> None:
    """Estimate the cost of each variant and print it.

    Raises:
        UserError: an architecture is not known on this machine, or a method does not fit it.
    """
    from src.estimate.variants import as_json, look_at

    terminal = Terminal(quiet=given.format == "json")
    device: Device | None = None
    notes = list(notes)
    hardware: HardwareConfig = variants[0].config.hardware
    try:
        device = local_device(hardware)
    except UserError as error:
        if hardware.device != "gpu" or "sees none" not in str(error):
            raise
        notes.append(str(error))
    outlooks = []
    for variant in variants:
        terminal.line(f"{variant.name}: the formula{' and a probe' if given.probe else ''} ...")
        outlooks.append(look_at(variant, device, given.probe, given.largest_batch))
    plain = as_json(outlooks, device, notes)
    if given.format == "json":
        print(json.dumps(plain, indent=2))
    else:
        show(plain, terminal)


def show(plain: dict[str, Any], terminal: Terminal) -> None:
    """Print the result of `as_json`: a column for each variant, then the rows that hold for all."""
    device, variants = plain["device"], plain["variants"]
    terminal.line()
    for i in range(0, len(variants), COLUMNS):
        terminal.console.print(_table(variants[i : i + COLUMNS], device))
        terminal.line()
    first = variants[0]
    models = ", ".join(dict.fromkeys(each["model"] for each in variants))
    rows = {
        "model": f"{models}, batches of {first['batch_windows']} windows of up to {first['length']} tokens",
        "device": _device(device),
        "src.settle": _least_protocol(plain["least_protocol"]),
    }
    terminal.header(rows, wrap=True)
    notes = [*plain["notes"], *dict.fromkeys(each["note"] for each in variants if each["note"])]
    for note in notes:
        terminal.note(note)


def _device(device: dict[str, Any] | None) -> str:
    if device is None:
        return "the requested one is not available"
    return (
        f"{device['name']}, {device['precision']}, {device['memory_mb'] / 1e3:.1f} GB, of which a run may take "
        f"{device['limit_mb'] / 1e3:.1f} GB"
    )


def _least_protocol(least: dict[str, Any]) -> str:
    text = (
        f"at least {least['runs']} runs, {least['runs_of_each']} of each method: {FIRST_RATES} learning rates on one "
        f"seed, then {FEWEST_SEEDS} fresh seeds at the best one"
    )
    if least["seconds"] is not None:
        text += f"; about {duration(least['seconds'])}"
    if least["price"] is not None:
        text += f", at a price of {least['price']:.2f}"
    return text


def _table(variants: Sequence[dict[str, Any]], device: dict[str, Any] | None) -> Table:
    """The table, with one column for each variant; rows without a value are left out."""
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("")
    for variant in variants:
        table.add_column(escape(variant["name"]), justify="right", overflow="fold")
    for title, rows in _sections(device):
        filled = [(name, [say(variant) for variant in variants]) for name, say in rows]
        filled = [(name, cells) for name, cells in filled if any(cells)]
        if filled:
            table.add_row(f"[bold]{title}[/bold]")
        for name, cells in filled:
            table.add_row(f"  {name}", *map(escape, cells))
        if filled:
            table.add_section()
    return table


def _sections(device: dict[str, Any] | None) -> list[tuple[str, list[Row]]]:
    """The rows of the table under their titles."""
    here = "" if device is None else f" ({device['kind'].upper()}, {device['precision']})"
    parts = ("weights", "gradients", "optimizer", "activations", "working")

    def memory(part: str) -> Row:
        name = "sum" if part == "total" else "working memory" if part == "working" else part
        return name, lambda v: _mb((v["memory_here"] or v["memory_on_gpu"])[f"{part}_mb"])

    return [
        (
            "parameters",
            [
                ("all", lambda v: f"{v['parameters']['total']:,}"),
                ("trained", lambda v: f"{v['parameters']['trained']:,}"),
                ("", lambda v: f"{v['parameters']['trained_percent']:.2f} %"),
                *((f"  {part}", _part(key)) for key, part in PARTS.items()),
            ],
        ),
        (f"memory by formula{here or ' (GPU, bf16)'}", [*map(memory, (*parts, "total"))]),
        (
            "fits (cards by the formula for bf16)",
            [
                ("memory on a card", lambda v: _mb(v["memory_on_gpu"]["total_mb"])),
                *((name, _verdict(place)) for place, name in PLACES.items()),
            ],
        ),
        ("disk", [("the stored model", lambda v: _mb(v["disk_mb"]))]),
        ("largest batch", [(name, _largest(place)) for place, name in PLACES.items()]),
        ("measured by a probe", _probe_rows()),
    ]


def _part(key: str) -> Callable[[dict[str, Any]], str]:
    return lambda variant: f"{variant['parameters'][key]:,}"


def _verdict(place: str) -> Callable[[dict[str, Any]], str]:
    words = {True: "fits", False: "does not fit", None: ""}
    return lambda variant: words[variant["fits"][place]]


def _largest(place: str) -> Callable[[dict[str, Any]], str]:
    def say(variant: dict[str, Any]) -> str:
        windows = (variant["largest_batch"] or {}).get(place)
        return "" if windows is None else f"{MOST_WINDOWS:,} or more" if windows >= MOST_WINDOWS else f"{windows:,}"

    return say


def _probe_rows() -> list[Row]:
    def measured(say: Callable[[dict[str, Any]], str]) -> Callable[[dict[str, Any]], str]:
        return lambda variant: "" if variant["probe"] is None else say(variant["probe"])

    def price(variant: dict[str, Any]) -> str:
        return "" if variant["price_of_a_run"] is None else f"{variant['price_of_a_run']:.3f}"

    return [
        ("peak memory, training", measured(lambda p: _mb(p["peak_train_mb"]))),
        ("peak memory, evaluation", measured(lambda p: _mb(p["peak_eval_mb"]))),
        ("seconds a step", measured(lambda p: f"{p['seconds_per_step']:.3f}")),
        ("evaluated windows/s", measured(lambda p: f"{p['eval_windows_per_second']:.1f}")),
        ("training", measured(lambda p: f"{duration(p['train_seconds'])}, {p['steps']:,} steps")),
        ("evaluation and test", measured(lambda p: duration(p["eval_seconds"] + p["test_seconds"]))),
        ("loading and storing", measured(lambda p: duration(p["fixed_seconds"]))),
        ("a whole run", measured(lambda p: duration(p["run_seconds"]))),
        ("its price", price),
    ]


def _mb(size: float) -> str:
    """`1.24 GB` or `87.3 MB`, of 10^9 and 10^6 bytes."""
    return f"{size / 1e3:,.2f} GB" if size >= 1e3 else f"{size:,.1f} MB"


if __name__ == "__main__":
    main()
