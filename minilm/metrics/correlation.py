"""Correlations of predicted with gold numbers, as scipy computes them; STS-B's metrics."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from minilm.errors import InputError
from minilm.files.arrays import Doubles


def pearson(gold: npt.ArrayLike, predicted: npt.ArrayLike) -> float:
    """Pearson's correlation: how close the pairs are to a line.

    Args:
        gold, predicted: (N,) numbers, N at least 2.

    Returns:
        -1 to 1; nan if either is constant or has a value that is not finite. No warning is given.

    Raises:
        InputError: there are fewer than two pairs, or shapes differ.

    Example:
        >>> round(pearson([1, 2, 3, 4], [1, 3, 2, 4]), 4)
        0.8
    """
    x, y = _pair(gold, predicted)
    if _constant(x) or _constant(y) or not (np.isfinite(x).all() and np.isfinite(y).all()):
        return math.nan
    x, y = _centred(x), _centred(y)
    return float(np.clip((x @ y) / math.sqrt((x @ x) * (y @ y)), -1.0, 1.0))


def spearman(gold: npt.ArrayLike, predicted: npt.ArrayLike) -> float:
    """Spearman's correlation: Pearson's of the ranks. Equal values get their mean rank.

    Args:
        gold, predicted: (N,) numbers, N at least 2.

    Returns:
        -1 to 1; nan if either is constant or has a nan. No warning is given.

    Raises:
        InputError: there are fewer than two pairs, or shapes differ.

    Example:
        >>> spearman([1, 2, 3, 4], [1, 10, 100, 1000])
        1.0
    """
    x, y = _pair(gold, predicted)
    if np.isnan(x).any() or np.isnan(y).any():
        return math.nan
    return pearson(_ranks(x), _ranks(y))


def _ranks(values: Doubles) -> Doubles:
    """(N,) -> (N,) ranks from 1; equal values get the mean of their ranks."""
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(sizes) - (sizes - 1) / 2  # for each group of equal values
    ranks: Doubles = mean_rank[group]
    return ranks


def _centred(values: Doubles) -> Doubles:
    """(N,) -> (N,) with mean 0, scaled to at most 1 so that no square overflows or vanishes."""
    centred = values - values.mean()
    scaled: Doubles = centred / abs(centred).max()
    return scaled


def _constant(values: Doubles) -> bool:
    return bool((values == values[0]).all())


def _pair(gold: npt.ArrayLike, predicted: npt.ArrayLike) -> tuple[Doubles, Doubles]:
    x, y = np.asarray(gold, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise InputError(
            f"gold and predicted: expected two arrays (N,) of one shape, got {x.shape} and "
            f"{y.shape}."
        )
    if len(x) < 2:
        raise InputError(f"A correlation needs at least 2 pairs, got {len(x)}.")
    return x, y
