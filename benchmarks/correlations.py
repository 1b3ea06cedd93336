"""How alike questions about one passage or article are, on real runs; and the typical deviations behind planning.

    python -m benchmarks.correlations --first full-*.parquet --second lora-*.parquet
    python -m benchmarks.correlations --first ... --second ... --split test --data new_wiki_v1.0.json

Each file is the `questions.parquet` of a finished run, one for each seed of a method's best setting. Files of earlier
releases name no article and no passage: `--data`, the data set in SQuAD's format, has them by the questions' ids;
without it the passage is the column `context`. Prints Markdown, in points of F1. `docs/statistics.md` defines what is
estimated.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from src.report.statistics import Clusters, compare


@dataclass(frozen=True)
class Components:
    """How a variance by question comes about; estimates, which may be below 0."""

    article: float  # shares
    passage: float  # within its article
    std: float  # square root of the whole variance


def components(values: np.ndarray, passages: np.ndarray, articles: np.ndarray | None = None) -> Components:
    """Variance components by analysis of variance: passages nested in articles, of unequal sizes.

    Henderson's method I (Searle, Casella & McCulloch 1992, "Variance Components", chapter 5).

    Args:
        values: by question.
        passages, articles: integer codes of shape (questions,); without articles all is one.

    Raises:
        ValueError: no passage has two questions, or all questions share one passage.
    """
    n = len(values)
    articles = np.zeros(n, int) if articles is None else articles
    sizes, article_sizes = np.bincount(passages)[passages], np.bincount(articles)[articles]  # of each question's own
    p, a = len(np.unique(passages)), len(np.unique(articles))
    if p in (1, n):
        raise ValueError("passages tell nothing: there must be several, with several questions")
    by_passage = (np.bincount(passages, values) / np.maximum(1, np.bincount(passages)))[passages]
    by_article = (np.bincount(articles, values) / np.maximum(1, np.bincount(articles)))[articles]
    within = float(((values - by_passage) ** 2).sum()) / (n - p)
    passage = article = 0.0
    # Sums over questions: that of sizes / n is the sum over passages of their squared sizes / n.
    in_article, in_all = float((sizes / article_sizes).sum()), float(sizes.sum()) / n
    if p > a:
        mean_square = float(((by_passage - by_article) ** 2).sum()) / (p - a)
        passage = (mean_square - within) * (p - a) / (n - in_article)
    if a > 1:
        mean_square = float(((by_article - values.mean()) ** 2).sum()) / (a - 1)
        of_passages = (in_article - in_all) / (a - 1) * passage
        article = (mean_square - within - of_passages) * (a - 1) / (n - float(article_sizes.sum()) / n)
    total = within + passage + article
    return Components(article / total, passage / total, float(np.sqrt(total)))


@dataclass(frozen=True)
class Deviations:
    """The constants of `src.report.planning`, from real runs."""

    method: float  # by question, between two methods, whatever the seeds
    noise: float  # by question, of a run from the mean over seeds
    seed: float  # of a run's level


def deviations(first: np.ndarray, second: np.ndarray) -> Deviations | None:
    """From scores (seeds, questions) of two methods; None with one seed of each, which do not tell."""
    seeds, questions = (len(first), len(second)), first.shape[1]
    freedom = sum(seeds) - 2
    difference = first.mean(0) - second.mean(0)
    if freedom == 0:
        return None
    noise = spread = 0.0
    for runs in (first, second):
        levels = runs.mean(1, keepdims=True)
        residual = runs - runs.mean(0) - levels + levels.mean()
        noise += float((residual**2).sum()) / (questions - 1) / freedom
        spread += float(((levels - levels.mean()) ** 2).sum()) / freedom
    method = float(difference.var(ddof=1)) - noise * (1 / seeds[0] + 1 / seeds[1])
    return Deviations(*(float(np.sqrt(max(0.0, value))) for value in (method, noise, spread - noise / questions)))


def read(paths: Sequence[str], split: str) -> list[pd.DataFrame]:
    """The questions of one split of each file, by id; files of earlier releases have one split.

    Raises:
        ValueError: a file has no such questions.
    """
    tables = []
    for path in paths:
        table = pd.read_parquet(path)
        table = table[table["split"] == split] if "split" in table.columns else table
        if table.empty:
            raise ValueError(f"{path} has no {split} questions")
        tables.append(table.set_index("id") if "id" in table.columns else table)
    return tables


def texts(table: pd.DataFrame, data: str | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Codes of each question's passage and article, from the file of a run or from the data set."""
    if data:
        places = {
            question["id"]: (" ".join(paragraph["context"].split()), article["title"])
            for article in json.loads(Path(data).read_text(encoding="utf-8"))["data"]
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        }
        passages, articles = (pd.factorize(pd.Series([places[i][j] for i in table.index]))[0] for j in (0, 1))
        return passages, articles
    passage = "passage" if "passage" in table.columns else "context"
    articles = pd.factorize(table["article"])[0] if "article" in table.columns else None
    return pd.factorize(table[passage])[0], articles


def report(first: np.ndarray, second: np.ndarray, passages: np.ndarray, articles: np.ndarray | None) -> list[str]:
    """The tables, of F1 (seeds, questions) in percent."""
    counts = Clusters(passages, articles).counts
    within = f" in {counts[1]} articles" if counts[1] else ""
    lines = [
        f"{first.shape[1]:,} questions of {counts[0]:,} passages{within}; {len(first)} and {len(second)} seeds.",
        "",
        "| | correlation by passage | by article | deviation by question |",
        "|---|---:|---:|---:|",
    ]
    rows = {
        "paired difference, mean over seeds": first.mean(0) - second.mean(0),
        "paired difference, first seeds": first[0] - second[0],
        "level of the first": first.mean(0),
        "level of the second": second.mean(0),
    }
    for name, values in rows.items():
        parts = components(values, passages, articles)
        article = "" if articles is None else f"{parts.article:+.3f}"
        lines.append(f"| {name} | {parts.passage:+.3f} | {article} | {parts.std:.1f} |")
    if (typical := deviations(first, second)) is not None:
        lines += ["", "| METHOD_STD | NOISE_STD | SEED_STD |", "|---:|---:|---:|"]
        lines += [f"| {typical.method:.1f} | {typical.noise:.1f} | {typical.seed:.2f} |"]
    lines += ["", "| standard error, from | questions' part | whole | degrees of freedom |", "|---|---:|---:|---:|"]
    units = {"questions": Clusters(np.arange(first.shape[1])), "passages": Clusters(passages)}
    if articles is not None:
        units["articles (CR2)"] = Clusters(passages, articles)
    for name, clusters in units.items():
        [one] = compare([first[None]], [second[None]], clusters)
        lines.append(
            f"| {name} | {one.question_variance**0.5:.2f} | {one.standard_error:.2f} | {one.degrees_of_freedom:.1f} |"
        )
    return lines


def main() -> None:
    """Read the files and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", nargs="+", required=True, metavar="FILE", help="of the runs of one method")
    parser.add_argument("--second", nargs="+", required=True, metavar="FILE", help="of the runs of the other")
    parser.add_argument("--split", default="validation", choices=("validation", "test"))
    parser.add_argument("--data", metavar="FILE", help="the data set, for runs that name no article")
    chosen = parser.parse_args()
    tables = [read(paths, chosen.split) for paths in (chosen.first, chosen.second)]
    ids = tables[0][0].index
    if any(set(table.index) != set(ids) for group in tables for table in group):
        parser.error("the runs were scored on different questions")
    first, second = (100 * np.stack([table.loc[ids, "f1"].to_numpy(float) for table in group]) for group in tables)
    print("\n".join(report(first, second, *texts(tables[0][0], chosen.data))))


if __name__ == "__main__":
    main()
