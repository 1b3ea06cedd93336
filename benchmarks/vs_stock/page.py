"""RESULTS.md out of the stored results."""

from __future__ import annotations

from typing import Any

from benchmarks.vs_stock.job import BATCH, MODELS, VARIANTS, precision_of

Rows = dict[str, Any]  # a part's results: rows or figures by name, and the machine, command and precision


def report(results: dict[str, Rows]) -> str:
    """The page, in Markdown, of the parts that were measured."""
    lines = ["# Measured against the stock recipe", ""]
    lines += ["Made by `benchmarks/vs_stock`, whose `--help` says what is measured and how.", ""]
    for part, section in SECTIONS.items():
        if part in results:
            lines += [*section(results[part]), ""]
    return "\n".join(lines)


def title(variant: str, precision: str) -> str:
    """What a variant is called where the machine is fast in `precision`."""
    names = {"stock": "(a) stock recipe, full", "trainer": "(b) Trainer, best flags, full"}
    return f"{names.get(variant, f'(c) ours, {variant}')}, {precision_of(variant, precision)}"


def training(rows: Rows) -> list[str]:
    """A table a model: speed, seconds by part, share of the matrix rate, memory."""
    lines = ["## Training", "", f"On {rows['machine']}. `{rows['command']}`"]
    for model in MODELS:
        each = {v: rows[f"{model} {v}"] for v in VARIANTS if f"{model} {v}" in rows}
        if not each:
            continue
        lines += ["", f"### {model}, batch {BATCH}", ""]
        lines += [
            "| | examples/s | x (a) | x (b) | data | forward | backward | optimizer | of the matrix rate | peak |"
        ]
        lines += ["|---|" + "---:|" * 9]
        for variant, row in each.items():
            ratios = [
                f"{row['examples_per_second'] / each[base]['examples_per_second']:.1f}" if base in each else ""
                for base in ("stock", "trainer")
            ]
            parts = [f"{row[f'{part}_ms']:.0f} ms" for part in ("data", "forward", "backward", "optimizer")]
            share = f"{row['share_percent']:.0f} % of {row['rate_gflops']:,.0f} GFLOP/s"
            cells = [f"{row['examples_per_second']:.1f}", *ratios, *parts, share, f"{row['peak_mb']:,.0f} MB"]
            lines.append(line(title(variant, rows["precision"]), *cells))
        if {"full", "lora"} <= set(each):
            speed, memory = (each["lora"][key] / each["full"][key] for key in ("examples_per_second", "peak_mb"))
            lines += ["", f"LoRA against our own full: {speed:.2f}x the examples/s, {memory:.2f}x the peak memory."]
    return lines


def memory(rows: Rows) -> list[str]:
    """A table of the memory of our methods by component."""
    text = "Weights, gradients, AdamW's two moments and what one pass keeps for its backward are sizes of tensors; "
    text += "the peak is the process's, over what it held before the model was loaded. What it has beyond their "
    text += f"sum is working memory of the kernels and holes of the C allocator. Precision: {rows['precision']}."
    lines = ["## Memory by component", "", f"On {rows['machine']}. `{rows['command']}`", "", text, ""]
    lines += ["| | weights | gradients | optimizer | kept for backward | sum | peak |", "|---|" + "---:|" * 6]
    columns = ("weights", "gradients", "optimizer", "saved", "sum", "peak")
    for name, row in rows.items():
        if isinstance(row, dict):
            lines.append(line(name, *(f"{row[f'{column}_mb']:,.0f} MB" for column in columns)))
    return lines


def scale(rows: Rows) -> list[str]:
    """A sentence on peak memory by the number of windows."""
    each = [row for row in rows.values() if isinstance(row, dict)]
    peaks = ", ".join(f"{row['peak_mb']:,.0f} MB over {row['windows']:,} windows" for row in each)
    sentence = f"LoRA's peak while training, in {rows['precision']}: {peaks}. On {rows['machine']}."
    return ["## Memory against the size of the data", "", sentence]


def evaluation(row: Rows) -> list[str]:
    """A table of the ways to predict: seconds, agreement, F1."""
    lines = [f"## Evaluation of {row['questions']:,} questions", "", f"On {row['machine']}.", ""]
    lines += ["| | seconds | x (a) | same answers as (a) | F1 |", "|---|" + "---:|" * 4]
    ways = {"stock": "(a) stock, fp32", "ours_fp32": "(c) ours, fp32", "ours_bf16": "(c) ours, bf16"}
    for name, shown in ways.items():
        if f"{name}_seconds" in row:
            ratio = row["stock_seconds"] / row[f"{name}_seconds"]
            cells = [f"{row[f'{name}_seconds']:.1f}", f"{ratio:.1f}", f"{row[f'{name}_same_percent']:.1f} %"]
            lines.append(line(shown, *cells, f"{row[f'{name}_f1']:.2f}"))
    return lines


def tokenising(row: Rows) -> list[str]:
    """A sentence on the time that windows take."""
    sentence = f"{row['questions']:,} questions, {row['windows']:,} windows: {row['seconds']:.1f} s; "
    sentence += f"read from the cache again: {row['again_seconds']:.1f} s. On {row['machine']}."
    return ["## Tokenising", "", sentence]


def start(row: Rows) -> list[str]:
    """A sentence on the time to the first step."""
    sentence = f"First time {row['first']:.1f} s, then {row['warm']:.1f} s, with 16 validation questions scored "
    sentence += f"before it, in {row['precision']}. On {row['machine']}."
    return ["## From the command to the end of the first step", "", sentence]


def quality(rows: Rows) -> list[str]:
    """A table of the variants' scores, seed by seed."""
    lines = [f"## After 3 epochs on {rows['train_size']:,} questions, scored on {rows['validation_size']:,} others", ""]
    lines += [f"No article on both sides. On {rows['machine']}. Seeds from 0.", ""]
    lines += ["| | EM | F1 |", "|---|---:|---:|"]
    for variant in VARIANTS:
        if variant in rows:
            cells = [", ".join(f"{value:.1f}" for value in rows[variant][key]) for key in ("exact_match", "f1")]
            lines.append(line(title(variant, rows["precision"]), *cells))
    return lines


def line(*cells: str) -> str:
    """A row of a table."""
    return "| " + " | ".join(cells) + " |"


SECTIONS = {
    "training": training,
    "memory": memory,
    "scale": scale,
    "evaluation": evaluation,
    "tokenising": tokenising,
    "start": start,
    "quality": quality,
}
