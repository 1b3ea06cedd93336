"""Ours against the stock recipe: speed, memory and quality on the same windows, weights, steps and seed.

    python -m benchmarks.vs_stock DATA.json                       # everything but quality, about 20 minutes on 2 cores
    python -m benchmarks.vs_stock DATA.json --parts quality --seeds 3      # (a) alone takes an hour a seed on 2 cores

DATA.json is a file in SQuAD's format. Every measurement runs in its own process; those that are compared take
turns, `--rounds` times, and medians are reported. Results are kept in results.json in the folder `--output`, one part
at a time, and written from there to RESULTS.md.

(a) stock: transformers.Trainer, padded to 384, fp32, dropout as the model says (0.1, in attention too)
(b) trainer: the same with its best flags for this machine: the precision that the CPU is fast in, padded to the
    batch's longest, grouped by length, fused AdamW
(c) ours: `src.training.fit`, as `python -m src.train` runs it: hidden dropout 0.1, none inside attention

The fast precision is bf16 where the CPU multiplies it and fp32 elsewhere, by the test that runs use; `--precision`
overrides it. (b), (c) and the matrix rate that they are held against use it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.machine import machine
from benchmarks.vs_stock.evaluation import evaluate
from benchmarks.vs_stock.job import MODELS, VARIANTS, fast_precision
from benchmarks.vs_stock.measurements import components, large, quality, tokenise, train
from benchmarks.vs_stock.page import report
from benchmarks.vs_stock.parts import PARTS

MEASUREMENTS: dict[str, Callable[..., dict[str, float]]] = {
    "train": train,
    "components": components,
    "large": large,
    "evaluate": evaluate,
    "tokenise": tokenise,
    "quality": quality,
}


def main() -> None:
    """The command line."""
    options = parser()
    arguments = options.parse_args()
    if not arguments.data.is_file():
        options.error(f"{arguments.data} does not exist or is a folder; give a file in SQuAD's format.")
    if arguments.precision == "auto":
        arguments.precision = fast_precision()
    if arguments.one:
        print(json.dumps(MEASUREMENTS[arguments.one.partition(":")[0]](arguments, *arguments.one.split(":")[1:])))
        return
    arguments.output.mkdir(parents=True, exist_ok=True)
    store, page = arguments.output / "results.json", arguments.output / "RESULTS.md"
    for part in arguments.parts:
        results = json.loads(store.read_text()) if store.exists() else {}
        about = {"machine": machine(), "command": shown_command(), "precision": arguments.precision}
        results[part] = PARTS[part](arguments) | about
        store.write_text(json.dumps(results, indent=1) + "\n")
        page.write_text(report(results))
        print(page.read_text() if part == arguments.parts[-1] else f"{part}: done", flush=True)


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.vs_stock", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    default = [part for part in PARTS if part != "quality"]
    parser.add_argument("--parts", nargs="+", default=default, choices=PARTS)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--variants", nargs="+", default=VARIANTS, choices=VARIANTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40, help="steps of ours and of (b); (a) does a fifth of them")
    parser.add_argument("--seeds", type=int, default=1, help="of the part quality")
    parser.add_argument("--train-size", type=int, default=4000, help="of the part quality")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto", help="of (b) and (c)")
    parser.add_argument("--small", action="store_true", help="few questions: shows that every part runs, no more")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1], help="folder of the results")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a measurement in this process; prints JSON
    return parser


def shown_command() -> str:
    """The command as it was given, without the places of this machine."""
    return " ".join(["python -m benchmarks.vs_stock", *(Path(word).name for word in sys.argv[1:])])


if __name__ == "__main__":
    main()
