"""Whether intervals hold what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import permutation_test

from src.report.statistics import compare, holm

COMPARISONS = 1000


def simulated(generator: np.random.Generator, seeds: int, difference: float, between_seeds: float) -> list[np.ndarray]:
    """Scores of two methods over 200 questions, alike within a question, with a true difference."""
    questions = 200
    hard = 100 * generator.beta(0.4, 0.4, questions)
    return [
        np.stack(
            [
                hard + taste + own + generator.normal(0, between_seeds) + generator.normal(0, 15, questions)
                for _ in range(seeds)
            ]
        )
        for own, taste in ((difference, generator.normal(0, 18, questions)), (0, generator.normal(0, 18, questions)))
    ]


@pytest.mark.parametrize(("seeds", "between_seeds"), [(1, 0.0), (3, 2.0)])
def test_intervals_cover_the_truth_and_raise_no_false_alarm(seeds, between_seeds):
    generator = np.random.default_rng(seeds)
    covered = alarms = 0
    for _ in range(COMPARISONS):
        first, second = simulated(generator, seeds, 3.0, between_seeds)
        [found] = compare([first], [second], 400, generator)
        covered += found.low <= 3.0 <= found.high
        first, second = simulated(generator, seeds, 0.0, between_seeds)
        [found] = compare([first], [second], 400, generator)
        alarms += found.shown
    assert 0.93 <= covered / COMPARISONS <= 0.97
    assert 0.03 <= alarms / COMPARISONS <= 0.07


def test_a_difference_that_would_be_seen_is_seen_four_times_in_five():
    generator = np.random.default_rng(7)
    [plain] = compare(*([scores] for scores in simulated(generator, 1, 0.0, 0.0)), 2000, generator)
    seen = 0
    for _ in range(300):
        first, second = simulated(generator, 1, plain.unseen, 0.0)
        [found] = compare([first], [second], 400, generator)
        seen += found.shown
    assert 0.72 <= seen / 300 <= 0.88


def test_spread_between_seeds_widens_the_interval():
    generator = np.random.default_rng(3)
    first, second = simulated(generator, 3, 0.0, 0.0)
    [alike] = compare([first], [second])
    apart = first + np.array([[-6.0], [0.0], [6.0]])
    [wider] = compare([apart], [second])
    assert alike.mean == pytest.approx(wider.mean)
    assert wider.high - wider.low > 2 * (alike.high - alike.low)


def test_p_values_agree_with_a_permutation_test():
    generator = np.random.default_rng(5)
    for difference in (0.0, 2.0, 4.0):
        [first], [second] = simulated(generator, 1, difference, 0.0)
        [found] = compare([first[None]], [second[None]])
        expected = permutation_test(
            (first, second),
            lambda a, b, axis: (a - b).mean(axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=10_000,
            rng=np.random.default_rng(0),
        ).pvalue
        assert found.p == pytest.approx(expected, abs=0.02)


def test_methods_that_answer_alike_do_not_differ():
    scores = np.random.default_rng(0).random((1, 50))
    [found] = compare([scores], [scores])
    assert (found.mean, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)
    assert not found.shown


def test_holm():
    # Worked by hand: 0.01 x 3, then 0.02 x 2, then 0.04 x 1 but no less than the one before.
    assert holm([0.02, 0.04, 0.01]) == pytest.approx([0.04, 0.04, 0.03])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
