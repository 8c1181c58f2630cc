"""Decision thresholds, chosen to give the best score on labelled predictions."""

from __future__ import annotations

import numpy as np

from minilm.files.arrays import Doubles, Floats, Integers


def halfway(levels: Doubles) -> Doubles:
    """Thresholds below, halfway between and above levels, so that rounding changes no decision.

    Args:
        levels: (L,) in rising order, at least one.

    Returns:
        (L + 1,), the first one below all levels.
    """
    below, above = np.append(levels[0] - 2, levels), np.append(levels, levels[-1] + 2)
    result: Doubles = (below + above) / 2
    return result


def best_threshold(values: Doubles, gains: Doubles) -> float:
    """The threshold with the largest sum of the gains of all values below it; the lowest of equals.

    Args:
        values: (N,) values that are compared with the threshold, at least one.
        gains: (N,) gain if the value is below the threshold.
    """
    levels, level = np.unique(values, return_inverse=True)
    gained = np.append(0.0, np.bincount(level, gains).cumsum())
    return float(halfway(levels)[gained.argmax()])


def best_f1_threshold(probabilities: Floats | Doubles, gold: Integers) -> float:
    """The threshold for giving labels with the highest micro-averaged F1.

    Args:
        probabilities: (N, C) probability of each label.
        gold: (N, C) 1 where the label is right, else 0.

    Returns:
        A number from 0 to 1; the highest of equals.
    """
    levels, level = np.unique(
        -probabilities.ravel().astype(np.float64), return_inverse=True
    )  # likeliest first
    given = np.bincount(level.ravel()).cumsum()
    right = np.bincount(level.ravel(), gold.ravel()).cumsum()
    f1 = 2 * right / (given + gold.sum())
    cut = -halfway(levels)[1:][int(f1.argmax())]  # below the level itself
    return float(np.clip(cut, 0, 1))
