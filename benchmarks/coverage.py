"""Whether intervals, decisions and choices hold what they promise: simulations with the sizes of real test articles.

    python -m benchmarks.coverage                      # everything, 4,000 simulations a cell: 5 minutes of a core
    python -m benchmarks.coverage --short              # 400 simulations a cell, fewer cells
    python -m benchmarks.coverage --parts holm power   # some of the tables

Prints Markdown; the same every time. The intervals come from `src.report.statistics.compare`. The sizes of the passages
of each test article are in `test_articles.json`: the second fifth of SQuADShifts' New Wikipedia and of Spoken-SQuAD's
test set by `dataset.split=article` with seed 0, which `--data new_wiki=FILE:4000 spoken_squad=FILE:3000` draws again
from files in SQuAD's format (with the size of the training set).

A score of a run on a question is simulated as the sum of: a deviation of the method, the same for all its seeds, and
one of the run (`METHOD_STD`, `NOISE_STD` of `src.report.planning`), both made up of a part of the article,
one of the passage and one of the question alone; and the run's level (standard deviation 1 F1). What both methods have
in common cancels.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import norm

from src.report.crossfit import cross_fitted
from src.report.decision import Decision, decide
from src.report.planning import METHOD_STD, NOISE_STD, SEED_STD
from src.report.statistics import Clusters, Difference, blended_freedom, compare, reach, satterthwaite

SIZES = Path(__file__).with_name("test_articles.json")
SIMULATIONS = 4000
BATCH = 250  # simulated studies that are held in memory at a time
RESAMPLES = 1000
LEVEL = 1.0  # standard deviation between seeds, F1
MARGIN = 1.0
SHOWN = (Decision.BETTER, Decision.NOT_INFERIOR)


@dataclass(frozen=True)
class Design:
    """What is scored, how alike the questions of a text are, and how many runs there are of each method."""

    clusters: Clusters
    passage: float = 0.0  # shares of the variance by question
    article: float = 0.0
    seeds: int = 3
    level: float = LEVEL

    @property
    def questions(self) -> int:
        return len(self.clusters.passages)

    def clustered(self, generator: np.random.Generator, *shape: int) -> np.ndarray:
        """Deviations by question, (*shape, questions), of variance 1."""
        alone = np.float32(np.sqrt(1 - self.passage - self.article))
        scores = alone * generator.standard_normal((*shape, self.questions), dtype=np.float32)
        for share, codes in ((self.passage, self.clusters.passages), (self.article, self.clusters.articles)):
            if share and codes is not None:
                scores += np.float32(np.sqrt(share)) * generator.standard_normal(
                    (*shape, codes.max() + 1), dtype=np.float32
                ).take(codes, axis=-1)
        return scores

    def method(self, generator: np.random.Generator, studies: int, deviation: float) -> tuple[np.ndarray, np.ndarray]:
        """Scores of the runs of one method, (studies, 1, seeds, questions), and the levels of the runs."""
        levels = self.level * generator.standard_normal((studies, 1, self.seeds, 1))
        runs = NOISE_STD * self.clustered(generator, studies, 1, self.seeds) + levels.astype(np.float32)
        if deviation:
            runs += np.float32(deviation) * self.clustered(generator, studies, 1, 1)
        return runs, levels[..., 0].mean((1, 2))

    def studies(
        self, generator: np.random.Generator, simulations: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Two methods that are equal, in batches, and the difference that an interval is for.

        With one seed that is the difference of these two runs, over all articles.
        """
        for begin in range(0, simulations, BATCH):
            size = min(BATCH, simulations - begin)
            first, own = self.method(generator, size, METHOD_STD)
            second, other = self.method(generator, size, 0.0)
            yield first, second, own - other if self.seeds == 1 else np.zeros(size)


def clusters_of(articles: list[list[int]]) -> Clusters:
    """From the sizes of the passages of each article."""
    passages = np.array([size for article in articles for size in article])
    return Clusters(
        np.repeat(np.arange(len(passages)), passages),
        np.repeat(np.arange(len(articles)), [sum(article) for article in articles]),
    )


def drawn_articles(path: str, train_size: int) -> list[list[int]]:
    """The sizes of the passages of the test articles of a file in SQuAD's format: a fifth after validation's fifth."""
    sizes: dict[str, Counter[str]] = {}
    for article in json.loads(Path(path).read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            passages = sizes.setdefault(article["title"], Counter())
            passages[" ".join(paragraph["context"].split())] += len(paragraph["qas"])
    total = left = sum(passages.total() for passages in sizes.values())
    names = sorted(sizes)
    random.Random("0 articles").shuffle(names)
    held_out: list[str] = []
    for _ in ("validation", "test"):
        names, held_out, count = [name for name in names if name not in held_out], [], 0
        for name in names:
            size = sizes[name].total()
            if count < min(total // 5, total - train_size) and left - size >= train_size:
                held_out.append(name)
                count, left = count + size, left - size
    return [[size for size in sizes[name].values() if size] for name in held_out]


def by_question(first: np.ndarray, second: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The interval of the first release, for reference: questions resampled, quantiles of the sums with seeds' noise.

    Of scores (studies, 1, seeds, questions); returns ends (2, studies).
    """
    first, second = first[:, 0], second[:, 0]
    questions, freedom = first.shape[-1], first.shape[1] + second.shape[1] - 2
    difference = first.mean(1) - second.mean(1)
    counts = generator.multinomial(questions, np.full(questions, 1 / questions), size=RESAMPLES).astype(np.float32)
    replicates = difference @ counts.T / questions
    if freedom:
        own = np.zeros(len(first))
        for runs in (first, second):
            levels = runs.mean(2, keepdims=True)
            residual = runs - runs.mean(1, keepdims=True) - levels + levels.mean(1, keepdims=True)
            own += ((levels - levels.mean(1, keepdims=True)) ** 2).sum((1, 2)) / freedom
            own -= (residual**2).sum((1, 2)) / (questions - 1) / freedom / questions
        scale = np.sqrt(np.maximum(0, own) * (1 / first.shape[1] + 1 / second.shape[1]))
        replicates = replicates + scale[:, None] * generator.standard_t(freedom, replicates.shape)
    return np.quantile(replicates, [0.025, 0.975], axis=1)


def ends(differences: list[Difference]) -> np.ndarray:
    """Of intervals, (2, studies)."""
    return np.array([[one.low for one in differences], [one.high for one in differences]])


def shrunk(by_article: list[Difference], by_passage: list[Difference], seed_freedom: int) -> np.ndarray:
    """A rule that was not taken: a tenth of the variance is that by passage, nine tenths that by article."""
    bounds = []
    for one, other in zip(by_article, by_passage, strict=True):
        article, passage = 0.9 * one.question_variance, 0.1 * other.question_variance
        variance = article + passage + one.seed_variance
        freedom = (article + passage) ** 2 / (article**2 / one.question_freedom + passage**2 / other.question_freedom)
        share = min(1.0, (one.noise_variance + one.seed_variance) / variance) if seed_freedom else 0.0
        half = reach(blended_freedom(share, freedom, seed_freedom), 1) * np.sqrt(variance)
        bounds.append((one.mean - half, one.mean + half))
    return np.array(bounds).T


RULES = ("by article", "wider of both", "shrunk", "by passage", "by question")


def intervals(first: np.ndarray, second: np.ndarray, clusters: Clusters) -> dict[str, np.ndarray]:
    """By each rule; the first is the one that is reported where articles are known."""
    by_article = compare(list(first), list(second), clusters)
    by_passage = compare(list(first), list(second), Clusters(clusters.passages), resamples=RESAMPLES)
    a, p = ends(by_article), ends(by_passage)
    by_rule = (
        a,
        np.stack([np.minimum(a[0], p[0]), np.maximum(a[1], p[1])]),
        shrunk(by_article, by_passage, 2 * (first.shape[2] - 1)),
        p,
        by_question(first, second, np.random.default_rng(1)),
    )
    return dict(zip(RULES, by_rule, strict=True))


class Coverage(NamedTuple):
    """How often the intervals of one rule are right, and how wide they are."""

    covered: float  # share that hold the truth
    falsely_shown: float  # share that show "at most the margin worse" where the truth is -margin
    width: float  # mean, F1


def coverage(design: Design, simulations: int, seed: int = 0) -> dict[str, Coverage]:
    """The coverage of each of RULES, from studies of two equal methods."""
    generator = np.random.default_rng(seed)
    errors: dict[str, list[np.ndarray]] = {rule: [] for rule in RULES}
    for first, second, truth in design.studies(generator, simulations):
        for rule, both in intervals(first, second, design.clusters).items():
            errors[rule].append(both - truth)
    result = {}
    for rule, batches in errors.items():
        low, high = np.concatenate(batches, axis=1)
        shown = [decide_shifted(a, b, -MARGIN) in SHOWN for a, b in zip(low, high, strict=True)]
        result[rule] = Coverage(
            float(np.mean((low <= 0) & (high >= 0))), float(np.mean(shown)), float((high - low).mean())
        )
    return result


def decide_shifted(low: float, high: float, difference: float) -> Decision:
    """The decision where the true difference is `difference`, from an interval made where it is 0."""
    values = {field.name: 0.0 for field in fields(Difference)}
    return decide(Difference(**{**values, "low": low + difference, "high": high + difference}), MARGIN)


def coverage_tables(data: dict[str, Clusters], simulations: int, short: bool) -> Iterator[str]:
    """(a) and the false non-inferiority of (c)."""
    for name, clusters in data.items():
        passages, articles = clusters.counts
        yield (
            f"### Coverage: {name}, {len(clusters.passages):,} questions of {passages} passages in {articles} articles"
            f"\n\nSimulation, {simulations:,} studies a row. Correlations by passage and by article; in percent how "
            "often the nominal 95 % interval covers the truth, for each rule (the rest are false alarms); `falsely`: "
            '"at most the margin worse" shown by the interval by article if the truth is -margin (nominal 2.5 %); '
            "`width`: mean width relative to the interval by question at zero correlation.\n\n"
            "| seeds | passage | article | **by article** | falsely | width | wider of both | width | shrunk | width | "
            "by passage | width | by question |\n|---:|---:|---:|" + "---:|" * 10
        )
        for seeds in (1, 3):
            reference = 0.0
            cells = itertools.product((0, 0.1) if short else (0, 0.1, 0.2), (0, 0.02) if short else (0, 0.01, 0.02))
            for number, (passage, article) in enumerate(cells):
                results = coverage(Design(clusters, passage, article, seeds), simulations, number)
                reference = reference or results["by question"].width
                row = [f"{seeds}", f"{passage:g}", f"{article:g}", f"**{100 * results[RULES[0]].covered:.1f}**"]
                row.append(f"{100 * results[RULES[0]].falsely_shown:.1f}")
                for rule in RULES:
                    row += [f"{100 * results[rule].covered:.1f}", f"{results[rule].width / reference:.2f}"]
                yield "| " + " | ".join(row[:5] + row[6:-1]) + " |"
        yield ""


def selection_bias(simulations: int, settings: int, left_out: bool, validation: float = 0.3) -> tuple[float, float]:
    """By how much the mean test F1 of three seeds is too high where one of equally good settings was chosen on one.

    Args:
        simulations: repetitions.
        settings: equally good ones, of which one is chosen.
        left_out: whether the seed that it was chosen on is left out, and a fourth scored in its place.
        validation: what the validation questions add to a run's level, standard deviation in F1.

    Returns:
        The bias and its standard error.
    """
    generator = np.random.default_rng(settings)
    levels = LEVEL * generator.standard_normal((simulations, settings, 4))
    choice = (levels[:, :, 0] + validation * generator.standard_normal((simulations, settings))).argmax(1)
    chosen = levels[np.arange(simulations), choice]
    scored = chosen[:, 1:] if left_out else chosen[:, :3]
    return float(scored.mean()), float(scored.mean(1).std() / np.sqrt(simulations))


def cross_fit_bias(simulations: int, settings: int, splits: int = 10) -> tuple[float, float, float, float]:
    """The bias of a cross-fitted level of equally good settings with three seeds, and of its difference to one setting.

    Returns:
        The two, each followed by its standard error.
    """
    generator = np.random.default_rng(settings)
    passages = np.repeat(np.arange(40), 5)
    design = Design(Clusters(passages))
    seeds = ["0", "1", "2"]
    levels, differences = [], []
    for _ in range(simulations):
        runs, _ = design.method(generator, settings + 1, 0.0)
        arms = [{seed: one[0, i][None] for i, seed in enumerate(seeds)} for one in runs]
        [own] = cross_fitted(arms[:-1], seeds, passages, splits, np.random.default_rng(0))
        [other] = cross_fitted(arms[-1:], seeds, passages, splits, np.random.default_rng(0))
        levels.append(own.mean())
        differences.append(own.mean() - other.mean())
    error = [float(np.std(values) / np.sqrt(simulations)) for values in (levels, differences)]
    return float(np.mean(levels)), error[0], float(np.mean(differences)), error[1]


def bias_table(simulations: int) -> Iterator[str]:
    """(b)."""
    yield (
        "### What choosing adds to the F1 of the chosen setting\n\n"
        f"Simulation, {50 * simulations:,} studies a row, {simulations:,} cross-fitted. Settings equally good, "
        f"standard deviation between seeds {LEVEL:g} F1, three seeds scored. Bias in F1 ± its standard error, of the "
        "mean F1 of one method. Its difference from a method with a single setting, which has no bias, has the same "
        "bias.\n\n"
        "| settings | chosen on one of the seeds scored | that seed left out | cross-fitted: level | and difference |\n"
        "|---:|---:|---:|---:|---:|"
    )
    for settings in (5, 25):
        kept, out = (selection_bias(50 * simulations, settings, left_out) for left_out in (False, True))
        level, level_error, apart, apart_error = cross_fit_bias(simulations, settings)
        yield (
            f"| {settings} | {kept[0]:+.2f} ± {kept[1]:.2f} | {out[0]:+.2f} ± {out[1]:.2f} | "
            f"{level:+.2f} ± {level_error:.2f} | {apart:+.2f} ± {apart_error:.2f} |"
        )
    yield ""


def expectation_table(clusters: Clusters, simulations: int, short: bool) -> Iterator[str]:
    """(c): what a user can expect."""
    yield (
        f"### What is decided, with a margin of {MARGIN:g} F1\n\n"
        f"Simulation, {simulations:,} studies a row; test articles of new_wiki, typical deviations "
        "(`src/report/planning.py`), no correlation. In percent of the studies.\n\n"
        "| questions | seeds | true difference | better | at most the margin worse | worse by more | "
        "worse, by how much is open | undecided |\n|---:|---:|---:|" + "---:|" * 5
    )
    some = np.sort(np.random.default_rng(0).permutation(len(clusters.passages))[:1000])
    fewer = Clusters(np.unique(clusters.passages[some], return_inverse=True)[1], clusters.articles[some])  # type: ignore[index]
    for questions, seeds in itertools.product((fewer, clusters), (3,) if short else (3, 5, 8)):
        design = Design(questions, seeds=seeds, level=SEED_STD)
        differences: list[Difference] = []
        for first, second, _ in design.studies(np.random.default_rng(seeds), simulations):
            differences += compare(list(first), list(second), questions, margin=MARGIN)
        for difference in (-3.0, -1.0, 0.0, 1.0):
            counts = Counter(decide_shifted(one.low, one.high, difference) for one in differences)
            shares = " | ".join(f"{100 * counts[decision] / len(differences):.0f}" for decision in Decision)
            yield f"| {design.questions:,} | {seeds} | {difference:+g} | {shares} |"
    yield ""


class Power(NamedTuple):
    """How often a true difference is detected that is as large as the stated minimum detectable effect."""

    stated: float  # mean over studies, F1
    detected: float  # share of studies that detect a difference as large as that mean
    detected_by_next: float  # share that detect one as large as another study like it happened to state
    alarms: float  # share in which one of the other comparisons, of equal methods, shows a difference


def power(design: Design, comparisons: int, simulations: int, seed: int = 0) -> Power:
    """The power for one method that differs, among others that do not, all against one baseline."""
    generator = np.random.default_rng(seed)
    differences: list[Difference] = []
    alarms = 0
    for begin in range(0, simulations, BATCH):
        size = min(BATCH, simulations - begin)
        base = list(design.method(generator, size, 0.0)[0])
        alarm = np.zeros(size, bool)
        for arm in range(comparisons):
            runs = list(design.method(generator, size, METHOD_STD)[0])
            compared = compare(runs, base, design.clusters, comparisons, resamples=RESAMPLES)
            if arm == 0:
                differences += compared
            else:
                alarm |= [one.significant for one in compared]
        alarms += int(alarm.sum())
    stated = np.array([one.minimum_detectable for one in differences])
    low, high = ends(differences)
    shares = [  # detected if it is the mean, and if it is what the study before stated
        float(np.mean((low + true > 0) | (high + true < 0)))
        for true in (np.full_like(stated, stated.mean()), np.roll(stated, 1))
    ]
    return Power(float(stated.mean()), shares[0], shares[1], alarms / simulations)


def power_table(clusters: Clusters, simulations: int, short: bool) -> Iterator[str]:
    """(d)."""
    yield (
        "### Power at the stated minimum detectable effect\n\n"
        f"Simulation, {simulations:,} studies a row. Test articles of new_wiki, typical deviations. `power`: where the "
        "true difference is the mean of what is stated; `of one study`: where it is what one other study like it "
        "states, which the spread of its few seeds makes uncertain; in percent, nominal 80. `false alarms`: one of the "
        "four equal methods differs significantly (nominal at most 4).\n\n"
        "| unit | seeds | comparisons | stated, F1 | power | of one study | false alarms |\n"
        "|---|---:|---:|---:|---:|---:|---:|"
    )
    for unit, seeds, comparisons in itertools.product(("article", "passage"), (3,) if short else (1, 2, 3, 5), (1, 5)):
        questions = clusters if unit == "article" else Clusters(clusters.passages)
        # With one seed the difference is that of two runs.
        design = Design(questions, seeds=seeds, level=SEED_STD if seeds > 1 else 0.0)
        result = power(design, comparisons, simulations, seeds)
        row = [f"{result.stated:.1f}", f"{100 * result.detected:.1f}", f"{100 * result.detected_by_next:.1f}"]
        row.append(f"{100 * result.alarms:.1f}" if comparisons > 1 else "")
        yield f"| {unit} | {seeds} | {comparisons} | {' | '.join(row)} |"
    yield ""


def outside(questions: Clusters, seeds: int, comparisons: int, simulations: int) -> tuple[float, float]:
    """How often intervals leave out the truth, by Satterthwaite's degrees of freedom and by those that are used.

    The estimates of the variances are drawn as scaled chi-squares; no passage or article is unlike another.
    """
    generator, freedom = np.random.default_rng(seeds), 2 * (seeds - 1)
    sizes = np.bincount(questions.passages if questions.articles is None else questions.articles)
    of_questions, count = satterthwaite(sizes), len(questions.passages)
    noise, method = 2 / seeds * NOISE_STD**2 / count, METHOD_STD**2 / count
    seed = 2 / seeds * LEVEL**2
    question = (method + noise) * generator.chisquare(of_questions, simulations) / of_questions
    spread = (noise + seed) * generator.chisquare(freedom, simulations) / freedom
    variance = question + np.maximum(0, spread - noise)
    share = np.minimum(1, spread / variance)
    mean = np.sqrt(method + noise + seed) * generator.standard_normal(simulations)
    squared = 1 / ((1 - share) ** 2 / of_questions + share**2 / freedom)
    shares = [
        float(np.mean(np.abs(mean) > reach(degrees, comparisons) * np.sqrt(variance)))
        for degrees in (squared, blended_freedom(share, of_questions, freedom))
    ]
    return shares[0], shares[1]


def freedom_table(clusters: Clusters, simulations: int) -> Iterator[str]:
    """Why degrees of freedom are not weighted by the squares of the shares."""
    yield (
        "### Degrees of freedom of questions and seeds together\n\n"
        f"Simulation, {50 * simulations:,} studies a row. How often the truth lies outside the interval of one of "
        f"several comparisons, in percent; sizes of new_wiki's test articles, standard deviation between seeds "
        f"{LEVEL:g} F1, no correlation.\n\n"
        "| unit | seeds | comparisons | nominal | Satterthwaite | as used |\n|---|---:|---:|---:|---:|---:|"
    )
    for unit, seeds, comparisons in itertools.product(("article", "passage"), (2, 3, 5), (1, 5)):
        questions = clusters if unit == "article" else Clusters(clusters.passages)
        squared, used = outside(questions, seeds, comparisons, 50 * simulations)
        nominal = f"{5 / comparisons:.2f} | {100 * squared:.2f} | {100 * used:.2f}"
        yield f"| {unit} | {seeds} | {comparisons} | {nominal} |"
    yield ""


ERRORS = ((0.15, 0.18, 0.21, 0.24, 0.27), (0.2, 0.3, 0.5, 0.8, 1.2))  # standard errors of five methods, F1


def family_wise(errors: Sequence[float], order: str, simulations: int, seed: int = 0) -> tuple[float, float]:
    """How often intervals of five methods falsely show something of at least one.

    Args:
        errors: standard errors, F1.
        order: by which p-values levels are handed out: `difference`, `inferior` (Holm 1979), or `none` (Bonferroni).
        simulations: repetitions.
        seed: of the draws.

    Returns:
        How often "at most the margin worse" is shown where all are worse by exactly the margin, and how often "better"
        is shown where all are equal to the baseline; nominal 2.5 % each.
    """
    generator, arms, scale = np.random.default_rng(seed), len(errors), np.array(errors)
    shares = []
    for truth, bound in ((-MARGIN, -MARGIN), (0.0, 0.0)):
        means = truth + scale * generator.standard_normal((simulations, arms))
        p = 2 * norm.sf(np.abs(means) / scale) if order == "difference" else norm.sf((means + MARGIN) / scale)
        level = 0.05 if order == "difference" else 0.025
        ranked = np.argsort(p, axis=1)
        steps = level / np.arange(arms, 0, -1)
        kept = np.take_along_axis(p, ranked, axis=1) > steps
        # Where a step fails, all that follow stay at its level.
        last = np.where(kept.any(1), kept.argmax(1), arms - 1)
        step = np.minimum(np.arange(arms), last[:, None])
        share = np.empty_like(p)
        np.put_along_axis(share, ranked, 1 / (arms - step), axis=1)
        if order == "none":
            share[:] = 1 / arms
        low = means - norm.isf(0.025 * share) * scale
        shares.append(float((low > bound).any(1).mean()))
    return shares[0], shares[1]


def holm_table(simulations: int) -> Iterator[str]:
    """(e)."""
    yield (
        "### Intervals by Holm's steps against Bonferroni\n\n"
        f"Simulation, {50 * simulations:,} studies a row. How often something is falsely shown of at least one of five "
        f"methods, in percent; nominal 2.5. The margin is {MARGIN:g} F1.\n\n"
        '| standard errors, F1 | levels of the intervals | "at most the margin worse", all worse by the margin | '
        '"better", all equal |\n|---|---|---:|---:|'
    )
    names = {
        "difference": "Holm, by p of no difference",
        "inferior": "Holm, by p of being worse by the margin",
        "none": "Bonferroni",
    }
    for errors, (order, name) in itertools.product(ERRORS, names.items()):
        worse, better = family_wise(errors, order, 50 * simulations)
        yield f"| {errors[0]:g} to {errors[-1]:g} | {name} | {100 * worse:.1f} | {100 * better:.1f} |"
    yield ""


def main() -> None:
    """Print the tables that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=SIMULATIONS, help="a cell")
    parser.add_argument("--short", action="store_true", help="400 simulations a cell, fewer cells")
    names = ("coverage", "bias", "decisions", "power", "freedom", "holm")
    parser.add_argument("--parts", nargs="+", choices=names, default=names, help="tables to make")
    parser.add_argument(
        "--data", nargs="+", default=[], metavar="NAME=FILE:TRAIN_SIZE", help="instead of the sizes kept"
    )
    chosen = parser.parse_args()
    sizes = json.loads(SIZES.read_text())
    for given in chosen.data:
        name, _, place = given.partition("=")
        path, _, train_size = place.rpartition(":")
        sizes[name] = drawn_articles(path, int(train_size))
    data = {name: clusters_of(articles) for name, articles in sizes.items()}
    simulations = 400 if chosen.short else chosen.simulations
    tables = {
        "coverage": coverage_tables(data, simulations, chosen.short),
        "bias": bias_table(simulations),
        "decisions": expectation_table(data["new_wiki"], simulations, chosen.short),
        "power": power_table(data["new_wiki"], simulations, chosen.short),
        "freedom": freedom_table(data["new_wiki"], simulations),
        "holm": holm_table(simulations),
    }
    print(f"`{' '.join(['python -m benchmarks.coverage', *sys.argv[1:]])}`\n")
    for part in chosen.parts:
        for line in tables[part]:
            print(line, flush=True)


if __name__ == "__main__":
    main()
