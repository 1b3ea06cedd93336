"""Cross-fitting: chooses and scores settings on one set of questions, for runs that have no test set.

The passages are split into two random halves. A setting is chosen on one half and scored on the other, and vice versa,
so that no question is scored by a setting that it helped to choose. This is repeated over many splits, because a single
split is arbitrary (Chernozhukov et al. 2018, "Double/debiased machine learning").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

SPLITS = 50
SEED = 0


def cross_fitted(
    settings: Sequence[Mapping[str, np.ndarray]],
    seeds: Sequence[str],
    passages: np.ndarray,
    splits: int = SPLITS,
    generator: np.random.Generator | None = None,
) -> list[np.ndarray]:
    """Compute the scores of one method by cross-fitting.

    The setting for a run with a given seed is chosen among the settings that have that seed, by their runs with other
    seeds, because a lucky seed is lucky on both halves. Two settings are compared on the seed itself only if they share
    no other one.

    Args:
        settings: for each setting its scores by seed, of shape (scores, questions); the last score, F1, decides.
        seeds: the seeds to score; at least one setting must have each of them.
        passages: the passage of each question, as integer codes of shape (questions,).
        splits: the number of random splits.
        generator: draws the halves; the default is always the same, so that all methods see the same halves.

    Returns:
        For each score, an array of shape (splits, seeds, questions).

    Raises:
        ValueError: there is only one passage, or a seed that no setting has.
    """
    second = halves(passages, splits, generator)
    everything = sorted({seed for setting in settings for seed in setting})
    if missing := set(seeds) - set(everything):
        raise ValueError(f"no setting has seed {', '.join(sorted(missing))}")
    level = _levels(settings, everything, second)
    questions = np.arange(len(passages))
    chosen = []
    for seed in seeds:
        among = [i for i, setting in enumerate(settings) if seed in setting]
        choice = _choice(level[among], everything.index(seed))  # (splits, halves)
        scores = np.stack([settings[i][seed] for i in among])  # (settings, scores, questions)
        other_half = np.take_along_axis(choice, 1 - second.astype(int), axis=1)  # (splits, questions)
        chosen.append(scores[other_half, :, questions])  # (splits, questions, scores)
    return [np.stack([scores[..., i] for scores in chosen], axis=1) for i in range(chosen[0].shape[-1])]


def halves(passages: np.ndarray, splits: int = SPLITS, generator: np.random.Generator | None = None) -> np.ndarray:
    """Whether each question is in the second half, (splits, questions); it depends only on passages and generator.

    Raises:
        ValueError: there is only one passage.
    """
    generator = generator or np.random.default_rng(SEED)
    names, codes = np.unique(passages, return_inverse=True)
    if len(names) < 2:
        raise ValueError("one passage cannot be halved")
    order = generator.permuted(np.tile(np.arange(len(names)), (splits, 1)), axis=1)
    return np.asarray(order >= len(names) // 2)[:, codes]


def _levels(settings: Sequence[Mapping[str, np.ndarray]], seeds: Sequence[str], second: np.ndarray) -> np.ndarray:
    """Mean F1 of each setting and seed in each half, (settings, seeds, splits, 2); NaN where there is no run."""
    nothing = np.full(second.shape[1], np.nan)
    f1 = np.array([[setting[seed][-1] if seed in setting else nothing for seed in seeds] for setting in settings])
    return np.stack([f1 @ half.T / half.sum(1) for half in (1.0 - second, 1.0 * second)], axis=-1)


def _choice(level: np.ndarray, scored: int) -> np.ndarray:
    """The setting, (splits, 2), that wins most pairwise comparisons over the seeds both have other than `scored`."""
    others = np.delete(level, scored, axis=1)
    there = ~np.isnan(others[:, :, 0, 0])
    shared = (there[:, None] & there[None]).astype(float)  # (settings, settings, seeds)
    filled = np.nan_to_num(others)
    apart = np.einsum("ijs,is...->ij...", shared, filled) - np.einsum("ijs,js...->ij...", shared, filled)
    alone = level[:, None, scored] - level[None, :, scored]
    wins = (np.where(shared.any(-1)[..., None, None], apart, alone) > 0).sum(1)
    return np.asarray(wins.argmax(0))
