"""The losses of a task head, on labels and on a teacher's predictions.

A head's scores are a list of *predictions* of one of three kinds, whatever the task:

    "classes"      (N, C) one of C classes; a span is two such predictions, its start and its end
    "independent"  (N, C) each of C labels, yes or no
    "value"        (N, 1) a number

All functions here return a sum over predictions and their number; with independent labels, the loss
of a prediction is the mean over its C labels.

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
    """The loss of predictions on labels.

    Args:
        kind: see above.
        logits: (N, C).
        labels: (N,) int64 for classes; (N, C) floats in [0, 1] for independent labels; (N,) floats
            for values.
        weights: (C,) weights of the classes, or of positive independent labels.

    Returns:
        The sum over N predictions, by kind: cross-entropy, mean binary cross-entropy of the C
        labels, or squared error.

    Raises:
        InputError: labels have another shape, or for classes another dtype than int64.
    """
    if kind == "classes":
        return cross_entropy(logits, labels, weights)
    if kind == "independent":
        return _by_row(binary_cross_entropy(logits, labels, weights), logits)
    check_same_shape("labels", labels, "the predicted numbers", logits[:, 0])
    return squared_error(logits[:, 0], labels)


def soft_target_loss(kind: Kind, student: Tensor, teacher: Tensor, temperature: float) -> LossSum:
    """The loss of a student's predictions on its teacher's.

    Args:
        kind: see above.
        student, teacher: (N, C) logits.
        temperature: divides the logits of both; not used for values.

    Returns:
        The sum over N predictions: Kullback-Leibler divergence times temperature squared, for
        independent labels its mean over the C labels; for values the squared difference. 0 if both
        are equal.

    Raises:
        InputError: the shapes of student and teacher differ.
    """
    check_same_shape("student", student, "teacher", teacher)
    if kind == "classes":
        return kl_divergence(student, teacher, temperature)
    if kind == "independent":
        return _by_row(binary_kl_divergence(student, teacher, temperature), student)
    return squared_error(student, teacher)


def _by_row(loss: LossSum, logits: Tensor) -> LossSum:
    """Turns a sum over N x C single labels into one over N predictions."""
    return LossSum(loss.sum / logits.shape[1], logits.shape[0])
