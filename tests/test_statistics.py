"""Whether intervals, p-values and powers hold what they promise; `benchmarks/coverage.py` does more of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import permutation_test, t, ttest_ind, ttest_rel

from benchmarks.correlations import components, deviations
from benchmarks.coverage import (
    ERRORS,
    SIZES,
    Design,
    clusters_of,
    coverage,
    drawn_articles,
    ends,
    family_wise,
    power,
    selection_bias,
)
from src.report import statistics
from src.report.decision import Decision, decide
from src.report.planning import NOISE_STD
from src.report.statistics import Clusters, compare, detectable, interval, reach, satterthwaite

SMALL = Clusters(np.array([0, 0, 1, 1, 1, 2, 3, 3, 3, 3]), np.array([0, 0, 0, 0, 0, 1, 2, 2, 2, 2]))


@pytest.fixture(scope="module")
def spoken() -> Clusters:
    return clusters_of(json.loads(SIZES.read_text())["spoken_squad"])


def scores(seed: int, seeds: int = 1, questions: int = 10, splits: int = 1, level: float = 5.0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    own = level * generator.normal(size=(splits, seeds, 1))
    return generator.normal(50, 20, (splits, seeds, questions)) + own


@pytest.mark.parametrize("seeds", [1, 3])
def test_intervals_cover_the_truth_where_questions_about_a_passage_are_alike(spoken, seeds):
    """Resampling questions would cover 84 % with one seed."""
    design = Design(Clusters(spoken.passages), passage=0.2, seeds=seeds)
    covered = []
    for first, second, truth in design.studies(np.random.default_rng(0), 500):
        low, high = ends(compare(list(first), list(second), design.clusters, resamples=1000))
        covered.append((low <= truth) & (truth <= high))
    assert np.mean(covered) >= 0.93


def test_intervals_cover_the_truth_where_questions_about_an_article_are_alike(spoken):
    found = coverage(Design(spoken, passage=0.1, article=0.02, seeds=1), 500)
    assert found["by article"].covered >= 0.93
    assert found["by article"].falsely_shown <= 0.045
    assert found["by passage"].covered < 0.75
    assert found["by question"].covered < 0.65  # the method of the first release


def test_cr2_and_its_degrees_of_freedom_are_those_of_the_matrices():
    """Bell & McCaffrey (2002) as Pustejovsky & Tipton (2018) write it, for a regression on an intercept."""
    a, b = scores(0)[0, 0], scores(1)[0, 0]
    questions, articles = len(a), SMALL.articles
    hat = np.full((questions, questions), 1 / questions)
    left = np.eye(questions) - hat
    residual = left @ (a - b)
    vectors, variance = [], 0.0
    for article in np.unique(articles):
        rows = articles == article
        values, directions = np.linalg.eigh(left[np.ix_(rows, rows)])
        adjusted = directions @ np.diag(values**-0.5) @ directions.T @ np.ones(rows.sum()) / questions
        variance += (adjusted @ residual[rows]) ** 2
        vectors.append(left[:, rows] @ adjusted)
    products = np.array(vectors) @ np.array(vectors).T
    [found] = compare([a[None, None]], [b[None, None]], SMALL)
    assert found.standard_error == pytest.approx(variance**0.5)
    assert found.degrees_of_freedom == pytest.approx(np.trace(products) ** 2 / (products**2).sum())


def test_satterthwaite():
    assert satterthwaite(np.full(7, 30)) == pytest.approx(6)
    # Two clusters have one difference between them, whatever their sizes.
    assert satterthwaite(np.array([10, 90])) == pytest.approx(1)
    # By hand: shares of 1/6 thrice and 1/2, so 1 / (1/3 + 0.6 ** 2 - 0.2533).
    assert satterthwaite(np.array([100, 100, 100, 300])) == pytest.approx(25 / 11)


def test_the_bootstrap_over_passages_agrees_with_its_linearised_form(spoken):
    passages = spoken.passages
    first, second = (scores(seed, questions=len(passages)) for seed in (0, 1))
    difference = (first - second)[0, 0]
    sums = np.bincount(passages, difference - difference.mean())
    count = len(sums)
    expected = np.sqrt((sums**2).sum() * count / (count - 1)) / len(passages)
    [found] = compare([first], [second], Clusters(passages))
    assert found.standard_error == pytest.approx(expected, rel=0.02)


def test_one_question_a_passage_is_a_paired_t_test():
    first, second = scores(0, questions=200), scores(1, questions=200)
    [found] = compare([first], [second], Clusters(np.arange(200)))
    expected = ttest_rel(first[0, 0], second[0, 0])
    interval = expected.confidence_interval()
    assert found.p == pytest.approx(expected.pvalue, abs=0.02)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=0.1)
    permuted = permutation_test(
        (first[0, 0], second[0, 0]),
        lambda a, b, axis: (a - b).mean(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=5000,
        rng=np.random.default_rng(0),
    )
    assert found.p == pytest.approx(permuted.pvalue, abs=0.02)


def test_seeds_alone_are_a_two_sample_t_test():
    levels = (np.array([50.0, 53.0, 52.0]), np.array([48.0, 49.0, 51.0]))
    first, second = (np.repeat(level[None, :, None], 10, axis=2) for level in levels)
    expected = ttest_ind(*levels)
    for clusters in (SMALL, Clusters(SMALL.passages)):
        [found] = compare([first], [second], clusters)
        assert found.p == pytest.approx(expected.pvalue)
        assert (found.question_variance, found.degrees_of_freedom) == pytest.approx((0, 4))
        assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))


def test_question_by_seed_noise_is_not_taken_for_the_seeds_own():
    """Over equal articles, CR2 is the mean square over them: what is left of the runs' spread is the seeds' own."""
    articles = np.repeat(np.arange(50), 4)
    first, second = (scores(seed, 4, 200, level=3.0) for seed in (2, 3))
    first += scores(4, 1, 200)  # what the methods differ in whatever the seed
    [found] = compare([first], [second], Clusters(articles, articles))
    spread = noise = 0.0
    for runs in (first[0], second[0]):
        spread += runs.mean(1).var(ddof=1) / 4
        own = (runs - runs.mean(0)).reshape(4, 50, 4).mean(2)
        noise += own.var(axis=1, ddof=1).sum() / 50 / 3 / 4
    assert found.noise_variance == pytest.approx(noise)
    assert found.seed_variance == pytest.approx(spread - noise)
    assert found.question_variance > found.noise_variance


@pytest.mark.parametrize("comparisons", [1, 3])
@pytest.mark.parametrize("clusters", [SMALL, Clusters(SMALL.passages)])
def test_p_values_agree_with_their_interval(clusters, comparisons):
    first, second = scores(0, 3), scores(1, 3)
    [found] = compare([first], [second], clusters, comparisons)
    [at_zero] = compare([first - found.low], [second], clusters, comparisons)
    assert at_zero.low == pytest.approx(0, abs=1e-9)
    assert at_zero.adjusted_p == pytest.approx(0.05)
    [at_margin] = compare([first], [second], clusters, comparisons, margin=-found.low)
    assert at_margin.adjusted_p_inferior == pytest.approx(0.025)
    assert at_margin.p_inferior == pytest.approx(0.025 / comparisons)


def test_bonferroni():
    first, second = scores(0), scores(1)
    [one], [four] = (compare([first], [second], SMALL, comparisons) for comparisons in (1, 4))
    assert (four.mean, four.standard_error, four.p) == (one.mean, one.standard_error, one.p)
    assert four.adjusted_p == pytest.approx(min(1, 4 * one.p))
    # 0.625 % to each side instead of 2.5 %.
    ratio = reach(one.degrees_of_freedom, 4) / reach(one.degrees_of_freedom, 1)
    assert four.high - four.mean == pytest.approx(ratio * (one.high - one.mean))
    assert reach(1e6, 5) == pytest.approx(2.576, abs=1e-3)
    assert detectable(1e6, 5) == pytest.approx(2.576 + 0.842, abs=1e-3)


def test_splits_are_taken_together_by_their_median():
    second = np.zeros((3, 1, 10))
    alone = [compare([scores(seed)], [second[:1]], SMALL)[0] for seed in (0, 1, 2)]
    [found] = compare([np.concatenate([scores(seed) for seed in (0, 1, 2)])], [second], SMALL)
    middle = np.median([one.mean for one in alone])
    variance = np.median([one.standard_error**2 + (one.mean - middle) ** 2 for one in alone])
    assert found.mean == pytest.approx(middle)
    assert found.standard_error**2 == pytest.approx(variance)
    assert found.high - found.mean == pytest.approx(reach(found.degrees_of_freedom, 1) * variance**0.5)


def test_the_unit_is_the_largest_of_which_there_are_two():
    one, codes = np.zeros(6, int), np.array([0, 0, 0, 1, 1, 1])
    assert [Clusters(codes, codes).unit, Clusters(codes, one).unit, Clusters(codes).unit, Clusters(one).unit] == [
        "article",
        "passage",
        "passage",
        "question",
    ]
    [found] = compare([scores(0, questions=6)], [scores(1, questions=6)], Clusters(one))
    assert found.degrees_of_freedom == pytest.approx(5)


def test_methods_that_answer_alike_do_not_differ():
    for clusters in (SMALL, Clusters(SMALL.passages)):
        [found] = compare([scores(0)], [scores(0)], clusters)
        assert (found.mean, found.low, found.high, found.p, found.p_inferior) == (0.0, 0.0, 0.0, 1.0, 0.0)
        assert not found.significant and decide(found, 1.0) is Decision.NOT_INFERIOR


def test_one_question_decides_nothing():
    [found] = compare([scores(0, questions=1)], [scores(1, questions=1)], Clusters(np.zeros(1, int)))
    assert (found.low, found.high, found.p) == (-np.inf, np.inf, 1.0)
    assert decide(found, 1.0) is Decision.UNDECIDED


@pytest.mark.parametrize(
    ("shift", "decision"),
    [
        (0.1, Decision.BETTER),
        (-0.9, Decision.NOT_INFERIOR),
        (-1.1, Decision.UNDECIDED),
    ],
)
def test_decisions(shift, decision):
    """By where the lower end of the interval lies, with a margin of 1."""
    [found] = compare([scores(0)], [scores(1)], SMALL)
    [moved] = compare([scores(0) - found.low + shift], [scores(1)], SMALL)
    assert moved.low == pytest.approx(shift)
    assert decide(moved, 1.0) is decision
    [worse] = compare([scores(0) - found.high - 0.5], [scores(1)], SMALL)
    assert decide(worse, 1.0) is Decision.WORSE
    [much_worse] = compare([scores(0) - found.high - 1.5], [scores(1)], SMALL)
    assert decide(much_worse, 1.0) is Decision.INFERIOR


@pytest.mark.parametrize("comparisons", [1, 5])
def test_what_is_stated_to_be_detectable_is_found_four_times_in_five(spoken, comparisons):
    found = power(Design(spoken, level=0.7), comparisons, 400)
    assert 0.75 <= found.detected <= 0.85
    assert found.alarms <= 0.05


def test_bonferroni_holds_where_holms_steps_do_not():
    assert family_wise(ERRORS[0], "none", 20_000)[0] <= 0.028
    assert family_wise(ERRORS[0], "difference", 20_000)[0] >= 0.08


def test_a_seed_that_a_setting_was_chosen_on_is_lucky():
    assert selection_bias(20_000, 25, left_out=False, validation=0.0)[0] == pytest.approx(1.965 / 3, abs=0.02)
    assert selection_bias(20_000, 25, left_out=True)[0] == pytest.approx(0, abs=0.02)


def test_variance_components_of_unequal_nested_groups():
    clusters = clusters_of([[4] * 20, [6] * 30, [3] * 10] * 40)
    generator = np.random.default_rng(0)
    codes = (clusters.articles, clusters.passages)
    parts = [scale * generator.normal(size=code.max() + 1)[code] for scale, code in zip((3, 4), codes, strict=True)]
    found = components(sum(parts) + 5 * generator.normal(size=len(clusters.passages)), clusters.passages, codes[0])
    assert (found.article, found.passage) == pytest.approx((9 / 50, 16 / 50), abs=0.04)
    assert found.std == pytest.approx(50**0.5, rel=0.05)
    # By hand, one level: mean squares between 12.5 and within 0.5 of pairs, so (12.5 - 0.5) / 2 and 0.5.
    pairs = components(np.array([1.0, 2.0, 6.0, 7.0]), np.array([0, 0, 1, 1]))
    assert pairs.passage == pytest.approx((25 - 0.5) / 2 / ((25 - 0.5) / 2 + 0.5))


def test_typical_deviations_are_those_that_scores_were_made_with():
    design = Design(Clusters(np.arange(3000)), seeds=60, level=0.8)
    generator = np.random.default_rng(0)
    found = deviations(design.method(generator, 1, 13.5)[0][0, 0], design.method(generator, 1, 0.0)[0][0, 0])
    assert found is not None
    assert (found.method, found.noise, found.seed) == pytest.approx((13.5, NOISE_STD, 0.8), rel=0.1)


def test_test_articles_are_the_next_fifth_after_validation(tmp_path):
    article = [{"context": "one", "qas": [{}, {}]}, {"context": "two", "qas": [{}]}, {"context": "none", "qas": []}]
    file = tmp_path / "data.json"
    file.write_text(json.dumps({"data": [{"title": f"{i}", "paragraphs": article} for i in range(10)]}))
    assert drawn_articles(str(file), 10) == [[2, 1], [2, 1]]


def test_the_interval_of_one_run_is_that_of_a_mean_over_clusters():
    scores = np.array([0.0, 100.0, 100.0, 50.0, 0.0, 50.0, 100.0, 100.0])
    articles = np.repeat([0, 1, 2, 3], 2)
    low, high = interval(scores, Clusters(np.arange(8), articles))
    means = scores.reshape(4, 2).mean(1)  # equal clusters: the mean of their means, with three degrees of freedom
    half = t.ppf(0.975, 3) * means.std(ddof=1) / 2
    assert (low, high) == pytest.approx((means.mean() - half, means.mean() + half))


def test_a_difference_has_the_unit_of_the_scores():
    first, second = scores(0, seeds=3), scores(1, seeds=3)
    [large] = compare([first], [second], SMALL, margin=1.0)
    [small] = compare([first / 1e6], [second / 1e6], SMALL, margin=1e-6)
    for part in ("mean", "low", "high", "standard_error", "minimum_detectable"):
        assert 1e6 * getattr(small, part) == pytest.approx(getattr(large, part), rel=1e-9)
    for part in ("question_variance", "seed_variance", "noise_variance"):
        assert 1e12 * getattr(small, part) == pytest.approx(getattr(large, part), rel=1e-9)
    assert (small.p, small.p_inferior) == pytest.approx((large.p, large.p_inferior))


def test_of_several_splits_the_middle_one_counts():
    first, second = scores(0, seeds=3, splits=5), scores(1, seeds=3, splits=5)
    [whole] = compare([first], [second], SMALL)
    parts = [compare([first[[split]]], [second[[split]]], SMALL)[0] for split in range(5)]
    for part in ("mean", "seed_variance", "noise_variance", "degrees_of_freedom"):
        assert getattr(whole, part) == pytest.approx(np.median([getattr(each, part) for each in parts]))
    squares = [each.standard_error**2 + (each.mean - whole.mean) ** 2 for each in parts]
    assert whole.standard_error**2 == pytest.approx(np.median(squares))


def test_the_two_methods_may_change_places():
    first, second = scores(0, seeds=2), scores(1, seeds=4)
    [one], [other] = compare([first], [second], SMALL), compare([second], [first], SMALL)
    assert (other.mean, other.low, other.high) == pytest.approx((-one.mean, -one.high, -one.low))
    for part in ("p", "question_variance", "seed_variance", "noise_variance", "degrees_of_freedom"):
        assert getattr(other, part) == pytest.approx(getattr(one, part))


def test_the_bootstrap_is_the_covariance_of_the_drawn_means():
    sizes, residuals = np.array([2, 3, 1, 4]), np.random.default_rng(0).normal(size=(2, 4))
    counts = np.random.default_rng(1).multinomial(4, np.full(4, 1 / 4), size=20)
    means = residuals @ counts.T / (counts @ sizes)
    found = statistics._bootstrap_covariance(residuals, sizes, 20, np.random.default_rng(1))
    assert found == pytest.approx(np.cov(means, ddof=0) * 4 / 3)


def test_a_bound_is_how_much_worse_a_method_is_at_most():
    [found] = compare([scores(0, seeds=3)], [scores(1, seeds=3) + 9], SMALL)
    assert found.low < 0 and found.bound == -found.low
    [found] = compare([scores(0, seeds=3) + 900], [scores(1, seeds=3)], SMALL)
    assert found.low > 0 and found.bound == 0.0
