"""How many seeds and questions a decision takes."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from src.report.planning import METHOD_STD, NOISE_STD, chance_to_decide, more_needed, reachable_margin
from src.report.statistics import Clusters, Difference, compare, detectable


def found(question: float, seed: float, noise: float, freedom: float = 1e6) -> Difference:
    values = {field.name: 0.0 for field in fields(Difference)}
    parts = {"question_variance": question, "seed_variance": seed, "noise_variance": noise, "question_freedom": freedom}
    return Difference(**{**values, **parts})


def test_typical_deviations_are_between_those_of_two_data_sets():
    """By question, the difference of two runs had a deviation of 37.2 and 43.4 F1 (docs/statistics.md)."""
    assert 37.2 < (METHOD_STD**2 + 2 * NOISE_STD**2) ** 0.5 < 43.4


def test_more_questions_where_questions_are_what_is_short():
    # 2.8 standard errors of 0.5 are 1.4; for 1.0 the variance must be (1.4 / 1.0) ** 2 of what it is, in steps of 1 %.
    needed = more_needed(found(0.25, 0.0, 0.0), 1.0, 1000, 3)
    assert needed.questions == pytest.approx(963, abs=25)
    assert needed.seeds is None


def test_more_seeds_where_seeds_are_what_is_short():
    needed = more_needed(found(0.05, 0.5, 0.0), 1.0, 1000, 3)
    assert needed.questions is None
    after = 3 + needed.seeds
    reached = []
    for seeds in (after - 1, after):
        by_seed = 0.5 * 3 / seeds
        freedom = (0.05 + by_seed) / (by_seed / (2 * seeds - 2))
        reached.append(detectable(freedom, 1) * (0.05 + by_seed) ** 0.5)
    assert reached[1] <= 1.0 < reached[0]


def test_noise_of_questions_falls_with_seeds_too():
    few = more_needed(found(0.2, 0.2, 0.15), 1.0, 1000, 3)
    assert few.seeds is not None and more_needed(found(0.2, 0.2, 0.0), 1.0, 1000, 3).seeds is None
    assert more_needed(found(0.2, 0.2, 0.15), 1.0, 1000, 3, comparisons=5).seeds > few.seeds


def test_few_articles_take_more():
    many, few = (more_needed(found(0.1, 0.1, 0.05, freedom), 1.0, 1000, 3).seeds for freedom in (300, 5))
    assert many < few


def test_a_study_that_shows_it_already_needs_one_more_seed_at_most():
    assert more_needed(found(0.001, 0.001, 0.0), 1.0, 1000, 3) == (1, 10)


def test_reachable_margin():
    assert reachable_margin(1000, 328) == pytest.approx(3.69, abs=0.02)
    assert reachable_margin(1000, 328, 12) > reachable_margin(1000, 328)
    assert reachable_margin(1000, 328, comparisons=5) > reachable_margin(1000, 328)
    # Two runs, for which what other seeds would do does not count.
    variance = (METHOD_STD**2 + 2 * NOISE_STD**2) / 1000
    assert reachable_margin(1000, 2000, seeds=1) == pytest.approx(2.8 * variance**0.5, rel=0.01)


def test_a_comparison_leads_to_a_plan():
    generator = np.random.default_rng(0)
    first, second = (generator.normal(50, 20, (1, 3, 300)) + generator.normal(0, 1, (1, 3, 1)) for _ in range(2))
    [difference] = compare([first], [second], Clusters(np.repeat(np.arange(60), 5)))
    needed = more_needed(difference, 3.0, 300, 3)
    assert needed.seeds > 0


def open_at(mean: float, half: float = 2.0, noise: float = 0.3, freedom: float = 1e6) -> Difference:
    """After four seeds; without the seeds' part the standard error would be 0.1."""
    values = {"mean": mean, "low": mean - half, "high": mean + half, "question_variance": 0.01 + noise}
    return replace(found(0.0, 0.0, noise, freedom), **values)


def test_the_chance_to_be_decided():
    # With 8 seeds the variance is 0.01 + 0.15, the interval ± 2.13 * 0.4, and the mean moves by 0.387 (t, 6).
    assert chance_to_decide(open_at(3.0), 1.0, 4, 8) == pytest.approx(1.0, abs=0.01)
    assert chance_to_decide(open_at(-0.1), 1.0, 4, 8) == pytest.approx(0.546 + 0.050, abs=0.005)
    assert chance_to_decide(open_at(-0.5), 1.0, 4, 8) == pytest.approx(2 * 0.198, abs=0.005)
    assert chance_to_decide(open_at(-0.5), 1.0, 4, 8, comparisons=10) < 0.1
    assert chance_to_decide(open_at(-0.5), 0.2, 4, 8) < chance_to_decide(open_at(-0.5), 1.0, 4, 8)
    assert chance_to_decide(open_at(-0.5), 1.0, 4, 5) < chance_to_decide(open_at(-0.5), 1.0, 4, 8)


def test_worse_is_a_decision_for_an_undecided_comparison_alone():
    undecided, worse = open_at(-1.4, half=1.5), open_at(-1.4, half=1.3)
    assert chance_to_decide(undecided, 1.0, 4, 8) > 0.8  # the interval will leave 0 out
    assert chance_to_decide(worse, 1.0, 4, 8) < 0.2  # it will hardly leave -1 out too


def test_more_seeds_change_nothing_where_all_varies_by_question():
    assert chance_to_decide(open_at(0.0, noise=0.0), 1.0, 4, 8) == 1.0
    assert chance_to_decide(open_at(-0.9, noise=0.0), 0.9, 4, 8) == 1.0
    assert chance_to_decide(open_at(-0.1, noise=0.0), 0.1, 4, 8) == 0.0
