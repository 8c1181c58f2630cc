"""Every loss once: a sum over what was compared, and how many comparisons that were.

The heads of models divide the one by the other; training divides sums by the counts of a whole
step, of which a batch may be a part. Both sides of a comparison are widened to at least float32
first (see `minilm.losses.precision`). Where there is nothing to compare, the sum is 0 with zero
gradient.

`minilm.losses.derivatives` has three of these losses a second time, with derivatives by hand, for
vocabularies too large to keep logits of.
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
    """A loss of some items.

    Attributes:
        sum: scalar of at least float32.
        items: how many there are; 0 if none has a label.
    """

    sum: Tensor
    items: int | Tensor

    def mean(self) -> Tensor:
        """The mean over the items, 0 where there are none."""
        if isinstance(self.items, Tensor):
            return self.sum / self.items.clamp(min=1)
        return self.sum / max(self.items, 1)


def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> LossSum:
    """Cross-entropy of one class for each item.

    Args:
        logits: (..., C).
        labels: (...) int64; -100 = no label here.
        weights: (C,) each item is multiplied by the weight of its class.

    Returns:
        In nats, over the items that have a label, whatever their weights.

    Raises:
        InputError: labels of another shape or dtype.
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
        positive_weights: (C,) multiply the part of the loss that a yes has.

    Returns:
        In nats, over all single labels, C for each item.

    Raises:
        InputError: labels of another shape.
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
        values: of any shape: outputs of a regression, logits, hidden states.
        targets: the same shape.

    Returns:
        Over all numbers.

    Raises:
        InputError: two shapes.
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
        size; over the N items. 0 for equals.

    Raises:
        InputError: two shapes.

    References: Hinton et al. 2015, section 2.
    """
    p, q = _softened(student, teacher, temperature)
    divergence = F.kl_div(
        F.log_softmax(p, dim=-1), F.log_softmax(q, dim=-1), reduction="sum", log_target=True
    )
    return LossSum(divergence * temperature**2, student.shape[:-1].numel())


def binary_kl_divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> LossSum:
    """The same for labels that are independent of each other: two classes each, yes and no.

    Args:
        student, teacher: (N, C) logits.
        temperature: divides the logits of both.

    Returns:
        As `kl_divergence`, over all single labels, C for each item.

    Raises:
        InputError: two shapes.
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
        Over the N states; each distance is between 0 and 2.

    Raises:
        InputError: two shapes.
    """
    check_same_shape("student", student, "teacher", teacher)
    student, teacher = at_least_float32(student), at_least_float32(teacher)
    distance = 1 - F.cosine_similarity(student, teacher, dim=-1)  # (N,)
    return LossSum(distance.sum(), distance.numel())


def _softened(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    check_same_shape("student", student, "teacher", teacher)
    # the smallest number stands where nothing is; divided by less than 1 it must not become -inf
    least = torch.finfo(torch.float32).min
    p, q = (
        (at_least_float32(logits) / temperature).clamp(min=least) for logits in (student, teacher)
    )
    return p, q
