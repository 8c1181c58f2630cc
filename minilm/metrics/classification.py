"""Metrics of predicted classes: one per item, or any number of labels per item.

All agree with scikit-learn with `zero_division=0`: a ratio whose denominator is 0 is 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args, overload

import numpy as np
import numpy.typing as npt

from minilm.errors import InputError
from minilm.files.arrays import Integers

Average = Literal["macro", "micro", "weighted"]
SingleLabelAverage = Literal["macro", "micro", "weighted", "binary"]

# The largest difference of an item's sum of probabilities from 1: softmax in bfloat16 is inexact.
SUM_TOLERANCE = 0.01


@dataclass(frozen=True)
class F1Scores:
    """Precision, recall and their harmonic mean.

    Attributes:
        precision: share of predictions that are right; 0 if nothing was predicted.
        recall: share of gold items that were found; 0 if there are none.
        f1: 2 * hits / (predicted + gold); 0 if there are neither. For the averages "macro" and
            "weighted", the mean of the F1s, which is no longer a harmonic mean.
        support: the number of gold items.
    """

    precision: float
    recall: float
    f1: float
    support: int

    @classmethod
    def from_counts(cls, hits: int, predicted: int, gold: int) -> F1Scores:
        """The scores of `hits` right predictions among `predicted`, and `gold` gold items."""
        return cls(
            precision=_ratio(hits, predicted),
            recall=_ratio(hits, gold),
            f1=_ratio(2 * hits, predicted + gold),
            support=gold,
        )

    @classmethod
    def mean(cls, parts: Sequence[F1Scores], *, weighted: bool = False) -> F1Scores:
        """The mean over parts, with equal weights or weighted by their support.

        All 0 if there are no parts, or if weights are all 0.
        """
        weights = [part.support if weighted else 1 for part in parts]

        def mean(values: list[float]) -> float:
            return _ratio(_dot(weights, values), sum(weights))

        return cls(
            precision=mean([part.precision for part in parts]),
            recall=mean([part.recall for part in parts]),
            f1=mean([part.f1 for part in parts]),
            support=sum(part.support for part in parts),
        )


def accuracy(gold: npt.ArrayLike, predicted: npt.ArrayLike) -> float:
    """Share of items whose class is right.

    Args:
        gold, predicted: (N,) whole numbers.

    Returns:
        0 to 1.

    Raises:
        InputError: there are no items, shapes differ, or values are not whole numbers.

    Example:
        >>> accuracy([0, 1, 2, 2], [0, 1, 2, 0])
        0.75
    """
    gold, predicted = _pair(gold, predicted, dimensions=1)
    return float(np.mean(gold == predicted))


def confusion_matrix(gold: npt.ArrayLike, predicted: npt.ArrayLike, classes: int) -> Integers:
    """The confusion matrix: how often each class was predicted for each gold class.

    Args:
        gold, predicted: (N,) whole numbers from 0 to C - 1.
        classes: C.

    Returns:
        (C, C) int64; row = gold class, column = predicted class.

    Raises:
        InputError: as for `accuracy`, or a class is out of range.

    Example:
        >>> confusion_matrix([0, 1, 1, 1], [0, 0, 1, 1], classes=2).tolist()
        [[1, 0], [1, 2]]
    """
    gold, predicted = _pair(gold, predicted, dimensions=1)
    if classes < 1:
        raise InputError(f"classes is {classes}: expected the number of classes, at least 1.")
    for name, values in (("gold", gold), ("predicted", predicted)):
        wrong = np.flatnonzero((values < 0) | (values >= classes))
        if wrong.size:
            raise InputError(
                f"{name}[{wrong[0]}] is {values[wrong[0]]}: expected 0 to {classes - 1}. Leave out "
                "items without a label (such as -100), or raise classes."
            )
    cells = np.bincount(gold * classes + predicted, minlength=classes * classes)
    return cells.reshape(classes, classes).astype(np.int64)  # (C, C)


@overload
def precision_recall_f1(
    gold: npt.ArrayLike, predicted: npt.ArrayLike, classes: int
) -> tuple[F1Scores, ...]: ...
@overload
def precision_recall_f1(
    gold: npt.ArrayLike,
    predicted: npt.ArrayLike,
    classes: int,
    average: SingleLabelAverage,
    *,
    positive: int = ...,
) -> F1Scores: ...
def precision_recall_f1(
    gold: npt.ArrayLike,
    predicted: npt.ArrayLike,
    classes: int,
    average: SingleLabelAverage | None = None,
    *,
    positive: int = 1,
) -> tuple[F1Scores, ...] | F1Scores:
    """Precision, recall and F1, of each class or as one figure.

    Args:
        gold, predicted: (N,) whole numbers from 0 to C - 1.
        classes: C.
        average: None = each class against the rest;
            "binary" = only the class `positive`;
            "macro" = the mean over classes, all of equal weight;
            "weighted" = the mean over classes, weighted by their gold items;
            "micro" = from the sums of all counts, which makes all three equal the accuracy.
            As in scikit-learn, "macro" leaves out classes that are in neither gold nor predicted.
        positive: the class for "binary".

    Returns:
        C `F1Scores` in the order of the classes, or one; each figure 0 to 1.

    Raises:
        InputError: as for `confusion_matrix`, or the average is unknown.

    Example:
        >>> precision_recall_f1([0, 1, 1, 1], [0, 0, 1, 1], classes=2, average="binary")
        F1Scores(precision=1.0, recall=0.6666666666666666, f1=0.8, support=3)
    """
    matrix = confusion_matrix(gold, predicted, classes)
    counts = np.stack([matrix.diagonal(), matrix.sum(axis=0), matrix.sum(axis=1)], axis=1)  # (C, 3)
    if average is None:
        return _per_class(counts)
    if average == "binary":
        if not 0 <= positive < classes:
            raise InputError(f"positive is {positive}: expected a class, 0 to {classes - 1}.")
        return _per_class(counts)[positive]
    if average not in get_args(Average):
        raise _unknown(average, get_args(SingleLabelAverage))
    return _averaged(counts[counts.any(axis=1)], average)


def matthews(gold: npt.ArrayLike, predicted: npt.ArrayLike) -> float:
    """Matthews correlation coefficient, for any number of classes; CoLA's metric.

    Args:
        gold, predicted: (N,) whole numbers.

    Returns:
        -1 to 1 (1 = all right, 0 = no better than chance); 0 where it is undefined, which is if all
        gold or all predicted values are one class, even the same one.

    Raises:
        InputError: as for `accuracy`.

    Example:
        >>> matthews([0, 1, 1, 1], [0, 0, 1, 1])
        0.5773502691896258

    References: Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation
    coefficient".
    """
    gold, predicted = _pair(gold, predicted, dimensions=1)
    names, numbers = np.unique(np.concatenate([gold, predicted]), return_inverse=True)
    # Python's integers, as the products below exceed 64 bits for long inputs
    in_gold = np.bincount(numbers[: len(gold)], minlength=len(names)).tolist()
    in_predicted = np.bincount(numbers[len(gold) :], minlength=len(names)).tolist()
    items = len(gold)
    hits = int(np.count_nonzero(gold == predicted))
    covariance = hits * items - _dot(in_gold, in_predicted)
    variance_gold = items**2 - _dot(in_gold, in_gold)
    variance_predicted = items**2 - _dot(in_predicted, in_predicted)
    return _ratio(covariance, math.sqrt(variance_gold * variance_predicted))


def expected_calibration_error(
    probabilities: npt.ArrayLike, gold: npt.ArrayLike, bins: int = 15
) -> float:
    """Expected calibration error: the difference between a classifier's confidence and accuracy.

    The predicted class is the most probable one (the first of equals) and its probability is the
    confidence. The interval from 0 to 1 is cut into bins of equal width; bin m of M holds the
    confidences above (m - 1) / M, up to and including m / M. The error is the mean over bins of
    |share of items that are right - mean confidence|, weighted by the number of items in the bin;
    empty bins are ignored.

    Args:
        probabilities: (N, C), each row a distribution: after a softmax, not logits.
        gold: (N,) whole numbers from 0 to C - 1.
        bins: M.

    Returns:
        0 (calibrated) to 1.

    Raises:
        InputError: there are no items, shapes do not fit, rows are not distributions, a class is
            out of range, or `bins` is below 1.

    Example:
        >>> round(expected_calibration_error([[0.9, 0.1], [0.7, 0.3]], [0, 1]), 4)
        0.4

    References: Guo et al. 2017, "On Calibration of Modern Neural Networks",
    section 2.
    """
    table = np.asarray(probabilities, dtype=np.float64)
    if table.ndim != 2 or table.size == 0:
        raise InputError(
            f"probabilities: expected (N, C) numbers, N and C at least 1, got {table.shape}."
        )
    if not ((table >= 0).all() and (abs(table.sum(axis=1) - 1) <= SUM_TOLERANCE).all()):
        raise InputError(
            "probabilities: expected rows of numbers from 0 to 1 whose sum is 1; apply a softmax "
            "to logits first."
        )
    if bins < 1:
        raise InputError(f"bins is {bins}: expected at least 1.")
    predicted = table.argmax(axis=1)
    gold, predicted = _pair(gold, predicted, dimensions=1)
    if gold.min() < 0 or gold.max() >= table.shape[1]:
        raise InputError(
            f"gold: expected classes 0 to {table.shape[1] - 1}, got {gold.min()} to {gold.max()}. "
            "Leave out items without a label (such as -100)."
        )
    confidence = table.max(axis=1)
    inner_edges = np.linspace(0, 1, bins + 1)[1:-1]
    bin_of = np.searchsorted(inner_edges, confidence, side="left")  # a bin includes its upper edge
    surplus = np.bincount(bin_of, weights=(gold == predicted) - confidence)
    return float(abs(surplus).sum() / len(gold))


def subset_accuracy(gold: npt.ArrayLike, predicted: npt.ArrayLike) -> float:
    """Share of items with all labels right; for several labels per item.

    Args:
        gold, predicted: (N, C) of 0 and 1.

    Returns:
        0 to 1.

    Raises:
        InputError: there are no items, shapes differ, or values are not 0 or 1.

    Example:
        >>> subset_accuracy([[1, 0], [1, 1]], [[1, 0], [0, 1]])
        0.5
    """
    gold, predicted = _label_sets(gold, predicted)
    return float(np.mean((gold == predicted).all(axis=1)))


def multilabel_precision_recall_f1(
    gold: npt.ArrayLike, predicted: npt.ArrayLike, average: Average
) -> F1Scores:
    """Precision, recall and F1 if an item has any number of labels.

    Args:
        gold, predicted: (N, C) of 0 and 1.
        average: "micro" = from the sums of all counts; "macro" = the mean over all C labels,
            including those that never occur, as in scikit-learn for such arrays; "weighted" = the
            mean weighted by how often a label is in gold.

    Returns:
        Each figure 0 to 1.

    Raises:
        InputError: as for `subset_accuracy`, or the average is unknown.

    Example:
        >>> multilabel_precision_recall_f1([[1, 0], [1, 1]], [[1, 0], [0, 1]], "micro").f1
        0.8
    """
    gold, predicted = _label_sets(gold, predicted)
    if average not in get_args(Average):
        raise _unknown(average, get_args(Average))
    counts = np.stack([x.sum(axis=0) for x in (gold & predicted, predicted, gold)], axis=1)
    return _averaged(counts, average)


def _per_class(counts: Integers) -> tuple[F1Scores, ...]:
    """(C, 3) hits, predicted and gold items of each class -> its scores."""
    return tuple(F1Scores.from_counts(*row) for row in counts.tolist())


def _averaged(counts: Integers, average: Average) -> F1Scores:
    """(C, 3) hits, predicted and gold items of each class -> their average."""
    if average == "micro":
        return F1Scores.from_counts(*counts.sum(axis=0).tolist())
    return F1Scores.mean(_per_class(counts), weighted=average == "weighted")


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _pair(
    gold: npt.ArrayLike, predicted: npt.ArrayLike, *, dimensions: int
) -> tuple[Integers, Integers]:
    """Both arrays as int64, checked to be whole numbers of one shape and not empty."""
    one, other = np.asarray(gold), np.asarray(predicted)
    expected = "(N,)" if dimensions == 1 else "(N, C)"
    if one.shape != other.shape or one.ndim != dimensions:
        raise InputError(
            f"gold and predicted: expected two arrays {expected} of one shape, got {one.shape} and "
            f"{other.shape}."
        )
    if one.size == 0:
        raise InputError("gold and predicted are empty: expected at least one item.")
    for name, values in (("gold", one), ("predicted", other)):
        if values.dtype.kind not in "biu":
            raise InputError(
                f"{name}: expected whole numbers, got {values.dtype}. Turn scores into classes "
                "first (argmax, or a threshold for each label)."
            )
    return one.astype(np.int64), other.astype(np.int64)


def _label_sets(gold: npt.ArrayLike, predicted: npt.ArrayLike) -> tuple[Integers, Integers]:
    one, other = _pair(gold, predicted, dimensions=2)
    for name, values in (("gold", one), ("predicted", other)):
        if values.min() < 0 or values.max() > 1:
            raise InputError(
                f"{name}: expected only 0 and 1, got {values.min()} to {values.max()}. Each "
                "column is a label that an item has (1) or does not have (0)."
            )
    return one, other


def _unknown(average: str, known: tuple[str, ...]) -> InputError:
    return InputError(f"average is {average!r}: expected one of {', '.join(map(repr, known))}.")
