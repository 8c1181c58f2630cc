"""Every loss once: a sum over the items compared, and their number.

The heads of models divide one by the other; training divides sums by the counts of a whole step, of
which a batch may be a part. Both sides of a comparison are widened to at least float32 first (see
`minilm.losses.precision`). If there is nothing to compare, the sum is 0 with zero gradient.

`minilm.losses.derivatives` has three of these losses a second time, with derivatives by hand, for
vocabularies that are too large to keep their logits.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minilm.losses.checks import check_classes, check_same_shape
from minilm.losses.precision import at_least_float32

IGNORED_LABEL = -100


class LossSum(NamedTuple):
    """A loss, summed over items.

    Attributes:
        sum: scalar of at least float32.
        items: the number of items; 0 if none has a label.
    """

    sum: Tensor
    items: int | Tensor

    def mean(self) -> Tensor:
        """The mean over the items; 0 if there are none."""
        if isinstance(self.items, Tensor):
            return self.sum / self.items.clamp(min=1)
        return self.sum / max(self.items, 1)


def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> LossSum:
    """Cross-entropy of one class for each item.

    Args:
        logits: (..., C).
        labels: (...) int64; -100 = no label here.
        weights: (C,) weights of the classes, by which the losses of their items are multiplied.

    Returns:
        The sum in nats, and the number of items that have a label, whatever their weights.

    Raises:
        InputError: labels have another shape or dtype.
    """
    check_classes("labels", labels, logits.shape[:-1])
    logits, labels = at_least_float32(logits.flatten(0, -2)), labels.flatten()
    weights = None if weights is None else weights.to(logits.dtype)
    total = F.cross_entropy(logits, labels, weights, ignore_index=IGNORED_LABEL, reduction="sum")
    return LossSum(total, (labels != IGNORED_LABEL).sum())


def binary_cross_entropy(
    logits: Tensor, labels: Tensor, positive_weights: Tensor | None = None
) -> LossSum:
    """Cross-entropy of labels that are independent of each other, yes or no.

    Args:
        logits: (..., C).
        labels: the same shape, numbers in [0, 1] of any dtype.
        positive_weights: (C,) factors of the loss of positive labels.

    Returns:
        The sum in nats over all single labels, C for each item, and their number.

    Raises:
        InputError: labels have another shape.
    """
    check_same_shape("labels", labels, "logits", logits)
    logits = at_least_float32(logits)
    weights = None if positive_weights is None else positive_weights.to(logits.dtype)
    total = F.binary_cross_entropy_with_logits(
        logits, labels.to(logits.dtype), pos_weight=weights, reduction="sum"
    )
    return LossSum(total, labels.numel())


def squared_error(values: Tensor, targets: Tensor) -> LossSum:
    """Squared differences of numbers.

    Args:
        values: any shape: outputs of a regression, logits, hidden states.
        targets: the same shape.

    Returns:
        The sum over all numbers, and their count.

    Raises:
        InputError: the shapes differ.
    """
    check_same_shape("values", values, "targets", targets)
    values = at_least_float32(values)
    difference = values - targets.to(values.dtype)
    return LossSum(difference.square().sum(), values.numel())


def kl_divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> LossSum:
    """Kullback-Leibler divergence of a student's classes from its teacher's.

    Args:
        student, teacher: (N, C) logits.
        temperature: divides the logits of both.

    Returns:
        sum q (log q - log p) in nats, times temperature squared, so that the gradient keeps its
        size; over the N items. 0 if both are equal.

    Raises:
        InputError: the shapes differ.

    References: Hinton et al. 2015, section 2.
    """
    p, q = _softened(student, teacher, temperature)
    divergence = F.kl_div(
        F.log_softmax(p, dim=-1), F.log_softmax(q, dim=-1), reduction="sum", log_target=True
    )
    return LossSum(divergence * temperature**2, student.shape[:-1].numel())


def binary_kl_divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> LossSum:
    """Kullback-Leibler divergence for labels that are independent of each other, yes or no.

    Args:
        student, teacher: (N, C) logits.
        temperature: divides the logits of both.

    Returns:
        As `kl_divergence`, over all single labels, C for each item.

    Raises:
        InputError: the shapes differ.
    """
    p, q = _softened(student, teacher, temperature)
    yes, no = F.logsigmoid(q), F.logsigmoid(-q)
    each = yes.exp() * (yes - F.logsigmoid(p)) + no.exp() * (no - F.logsigmoid(-p))
    return LossSum(each.sum() * temperature**2, student.numel())


def cosine_distance(student: Tensor, teacher: Tensor) -> LossSum:
    """1 - cosine of the angle between two states.

    Args:
        student, teacher: (N, H).

    Returns:
        The sum over the N states; each distance is between 0 and 2.

    Raises:
        InputError: the shapes differ.
    """
    check_same_shape("student", student, "teacher", teacher)
    student, teacher = at_least_float32(student), at_least_float32(teacher)
    distance = 1 - F.cosine_similarity(student, teacher, dim=-1)  # (N,)
    return LossSum(distance.sum(), distance.numel())


def _softened(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    check_same_shape("student", student, "teacher", teacher)
    # the lowest number marks unattended positions; divided by less than 1 it must not become -inf
    least = torch.finfo(torch.float32).min
    p, q = (
        (at_least_float32(logits) / temperature).clamp(min=least) for logits in (student, teacher)
    )
    return p, q
