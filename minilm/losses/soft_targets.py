"""The losses of a task head, on labels and on a teacher's predictions.

A head's scores are a list of *predictions* of one of three kinds, whatever the task:

    "classes"      (N, C) one of C classes; a span is two such predictions, its start and its end
    "independent"  (N, C) each of C labels, yes or no
    "value"        (N, 1) a number

All losses here are sums over predictions, in at least float32; whoever calls them knows what to
divide by.

References: Hinton et al. 2015; run_squad_w_distillation.py of the released DistilBERT code, where
the softened divergences of start and end are averaged and multiplied by temperature squared.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from minilm.errors import InputError
from minilm.losses.checks import check_same_shape
from minilm.losses.precision import at_least_float32

Kind = Literal["classes", "independent", "value"]


def label_loss(kind: Kind, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """How far predictions are from labels.

    Args:
        kind: see above.
        logits: (N, C).
        labels: (N,) int64 for classes; (N, C) floats in [0, 1] for independent labels; (N,) floats
            for values.
        weights: (C,) of the classes, or of the positive side of independent labels.

    Returns:
        Scalar, a sum over predictions: cross-entropy, mean binary cross-entropy of the C labels,
        squared error.

    Raises:
        InputError: labels of another shape.
    """
    expected = logits.shape if kind == "independent" else logits.shape[:1]
    if labels.shape != expected:
        raise InputError(
            f"labels ({kind}): expected {tuple(expected)} for logits {tuple(logits.shape)}, got "
            f"{tuple(labels.shape)}."
        )
    logits = at_least_float32(logits)
    weights = None if weights is None else weights.to(logits.dtype)
    if kind == "classes":
        return F.cross_entropy(logits, labels, weights, reduction="sum")
    labels = labels.to(logits.dtype)
    if kind == "independent":
        each = F.binary_cross_entropy_with_logits(
            logits, labels, pos_weight=weights, reduction="none"
        )
        return each.sum() / logits.shape[1]
    return (logits[:, 0] - labels).square().sum()


def soft_target_loss(kind: Kind, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """How far a student's predictions are from its teacher's.

    Args:
        kind: see above.
        student, teacher: (N, C) logits.
        temperature: divides the logits of both; of values it is not used.

    Returns:
        Scalar, a sum over predictions: Kullback-Leibler divergence times temperature squared, of
        independent labels its mean over the C labels; squared difference of values. 0 for equals.

    Raises:
        InputError: student and teacher of two shapes.
    """
    check_same_shape("student", student, "teacher", teacher)
    student, teacher = at_least_float32(student), at_least_float32(teacher)
    if kind == "value":
        return (student - teacher).square().sum()
    # the smallest number stands where nothing is; divided by less than 1 it must not become -inf
    least = torch.finfo(torch.float32).min
    p, q = ((logits / temperature).clamp(min=least) for logits in (student, teacher))
    if kind == "classes":
        divergence = F.kl_div(
            F.log_softmax(p, dim=-1), F.log_softmax(q, dim=-1), reduction="sum", log_target=True
        )
        return divergence * temperature**2
    yes, no = F.logsigmoid(q), F.logsigmoid(-q)
    each = yes.exp() * (yes - F.logsigmoid(p)) + no.exp() * (no - F.logsigmoid(-p))
    return each.sum() / student.shape[1] * temperature**2
