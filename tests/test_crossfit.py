"""Settings chosen on one half of the passages and scored on the other."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.coverage import cross_fit_bias
from src.report.crossfit import cross_fitted, halves

PASSAGES = np.repeat(np.arange(6), 3)
FIRST_HALF = PASSAGES < 3


def runs(*levels: tuple[float, float], noise: float = 0.0) -> dict[str, np.ndarray]:
    """Exact match and F1 of seeds with a level where passages are below 3, and elsewhere."""
    return {
        str(seed): np.stack([np.zeros(len(PASSAGES)), np.where(FIRST_HALF, *level)])
        for seed, level in enumerate(levels)
    }


def test_choosing_adds_nothing():
    """With the seeds that are scored among those chosen on, it would be about 1 F1."""
    level, _, difference, _ = cross_fit_bias(150, 25, splits=4)
    assert abs(level) < 0.2
    assert abs(difference) < 0.2


def test_each_question_is_scored_by_the_setting_that_did_best_on_the_other_half():
    settings = [runs((60.0, 10.0), (60.0, 10.0)), runs((10.0, 60.0), (10.0, 60.0))]
    second = halves(PASSAGES, 200)
    exact, f1 = cross_fitted(settings, ["0", "1"], PASSAGES, 200)
    assert exact.shape == f1.shape == (200, 2, 18)
    assert not exact.any()
    # Where a half is passages 0 to 2, the setting that does well there is scored on the others, where it does badly.
    apart = (second == FIRST_HALF).all(1) | (second == ~FIRST_HALF).all(1)
    assert apart.any()
    assert (f1[apart] == 10).all()


def test_a_run_does_not_vote_for_itself():
    settings = [runs((90.0, 90.0), (10.0, 10.0)), runs((50.0, 50.0), (50.0, 50.0))]
    _, f1 = cross_fitted(settings, ["0", "1"], PASSAGES, 3)
    assert (f1[:, 0] == 50).all()  # by seed 1, which is poor in the first setting
    assert (f1[:, 1] == 10).all()  # by seed 0, which was lucky in it


def test_settings_are_compared_on_seeds_that_both_have():
    """The second setting's other seed is good, but the first lacks it."""
    first, second = runs((60.0, 60.0), (60.0, 60.0)), runs((50.0, 50.0), (50.0, 50.0), (99.0, 99.0))
    _, f1 = cross_fitted([first, second], ["0", "2"], PASSAGES, 3)
    assert (f1[:, 0] == 60).all()
    assert (f1[:, 1] == 99).all()  # the only one with seed 2


def test_with_one_seed_it_is_chosen_on_that_one():
    _, f1 = cross_fitted([runs((40.0, 40.0)), runs((70.0, 70.0))], ["0"], PASSAGES, 3)
    assert (f1 == 70).all()


def test_all_methods_see_the_same_halves_of_the_passages():
    second = halves(PASSAGES)
    assert second.shape == (50, 18)
    assert (second == halves(PASSAGES + 7)).all()
    assert (second.sum(1) == 9).all()
    assert all(len(set(split[passage == PASSAGES])) == 1 for split in second for passage in range(6))
    assert len({tuple(split) for split in second}) > 10


def test_what_cannot_be_cross_fitted_is_refused():
    with pytest.raises(ValueError, match="one passage"):
        cross_fitted([runs((1.0, 1.0))], ["0"], np.zeros(18, int))
    with pytest.raises(ValueError, match="no setting has seed 5"):
        cross_fitted([runs((1.0, 1.0))], ["5"], PASSAGES)
