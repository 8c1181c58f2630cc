"""The losses of a task head, on labels and on a teacher's predictions.

A head's scores are a list of *predictions* of one of three kinds, whatever the task:

    "classes"      (N, C) one of C classes; a span is two such predictions, its start and its end
    "independent"  (N, C) each of C labels, yes or no
    "value"        (N, 1) a number

All losses here are sums over predictions and their number; of independent labels a prediction's
loss is the mean over its C labels.

References: Hinton et al. 2015; run_squad_w_distillation.py of the released DistilBERT code, where
the softened divergences of start and end are averaged and multiplied by temperature squared.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from minilm.losses.checks import check_same_shape
from minilm.losses.elementary import (
    LossSum,
    binary_cross_entropy,
    binary_kl_divergence,
    cross_entropy,
    kl_divergence,
    squared_error,
)

Kind = Literal["classes", "independent", "value"]


def label_loss(
    kind: Kind, logits: Tensor, labels: Tensor, weights: Tensor | None = None
) -> LossSum:
    """How far predictions are from labels.

    Args:
        kind: see above.
        logits: (N, C).
        labels: (N,) int64 for classes; (N, C) floats in [0, 1] for independent labels; (N,) floats
            for values.
        weights: (C,) of the classes, or of the positive side of independent labels.

    Returns:
        Over N predictions: cross-entropy, mean binary cross-entropy of the C labels, squared error.

    Raises:
        InputError: labels of another shape, or of another dtype than int64 for classes.
    """
    if kind == "classes":
        return cross_entropy(logits, labels, weights)
    if kind == "independent":
        return _by_row(binary_cross_entropy(logits, labels, weights), logits)
    check_same_shape("labels", labels, "the predicted numbers", logits[:, 0])
    return squared_error(logits[:, 0], labels)


def soft_target_loss(kind: Kind, student: Tensor, teacher: Tensor, temperature: float) -> LossSum:
    """How far a student's predictions are from its teacher's.

    Args:
        kind: see above.
        student, teacher: (N, C) logits.
        temperature: divides the logits of both; of values it is not used.

    Returns:
        Over N predictions: Kullback-Leibler divergence times temperature squared, of independent
        labels its mean over the C labels; squared difference of values. 0 for equals.

    Raises:
        InputError: student and teacher of two shapes.
    """
    check_same_shape("student", student, "teacher", teacher)
    if kind == "classes":
        return kl_divergence(student, teacher, temperature)
    if kind == "independent":
        return _by_row(binary_kl_divergence(student, teacher, temperature), student)
    return squared_error(student, teacher)


def _by_row(loss: LossSum, logits: Tensor) -> LossSum:
    """From (N x C) single labels to N predictions."""
    return LossSum(loss.sum / logits.shape[1], logits.shape[0])
