"""Losses of vocabulary logits together with their derivatives, for a block of rows.

These are the formulas of `minilm.losses.elementary`, with the derivative with respect to the
student's logits written out: both come from the same softmax, and nothing has to be kept for a
backward pass. The tests compare the two.

Each function returns the sum of the loss, without the factor, and the derivative of all terms so
far: it adds its own, times the factor, to `gradient` (rows, V), or creates it if it is None. With
the factor None no derivative is computed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minilm.losses.elementary import IGNORED_LABEL
from minilm.losses.top_predictions import TopPredictions


def add_kl_divergence(
    student: Tensor,
    teacher: Tensor,
    temperature: float,
    factor: float | None,
    gradient: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Divergence: T^2 sum q (log q - log p), with p and q the softmaxes of logits / T.

    Args:
        student, teacher: (rows, V) logits of at least float32.
        temperature: T.
        factor, gradient: see above.
    """
    student, teacher = student / temperature, teacher / temperature
    p, student_log_sum = _softmax(student)
    q, teacher_log_sum = _softmax(teacher)
    expected = teacher.sub_(student).mul_(q).sum()
    value = temperature**2 * (expected + (student_log_sum - teacher_log_sum).sum())
    if factor is None:
        return value, gradient
    return value, _added(gradient, p.sub_(q).mul_(factor * temperature))


def add_top_divergence(
    student: Tensor, teacher: TopPredictions, factor: float | None, gradient: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The divergence over the teacher's likeliest words and the rest, see `TopPredictions`.

    With r the student's softmax over the rest only, its derivative is T (p_i - q_i) for these words
    and T r_j (p_rest - q_rest) for the others; so one softmax is enough.

    Args:
        student: (rows, V) logits of at least float32.
        teacher: the likeliest words of these rows, at the temperature T.
        factor, gradient: see above.
    """
    temperature = teacher.temperature
    student = student / temperature
    log_q, log_q_rest = teacher.log_probabilities, teacher.rest
    top = student.gather(1, teacher.words)  # (rows, K)
    shares, log_rest_sum = _softmax(student.scatter_(1, teacher.words, -torch.inf))
    log_sum = torch.logaddexp(log_rest_sum, top.logsumexp(-1))
    log_p, log_p_rest = top - log_sum[:, None], log_rest_sum - log_sum
    q, q_rest = log_q.exp(), log_q_rest.exp()
    of_rest = torch.where(log_q_rest.isneginf(), 0, q_rest * (log_q_rest - log_p_rest))
    value = temperature**2 * ((q * (log_q - log_p)).sum() + of_rest.sum())
    if factor is None:
        return value, gradient
    shares.mul_((log_p_rest.exp() - q_rest)[:, None])
    shares.scatter_(1, teacher.words, (log_p.exp() - q).to(shares.dtype))
    return value, _added(gradient, shares.mul_(factor * temperature))


def add_squared_error(
    student: Tensor, teacher: Tensor, factor: float | None, gradient: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Squared differences of the logits.

    Args:
        student, teacher: (rows, V) logits of at least float32.
        factor, gradient: see above.
    """
    difference = student - teacher
    value = difference.square().sum()
    if factor is None:
        return value, gradient
    return value, _added(gradient, difference.mul_(2 * factor))


def add_cross_entropy(
    student: Tensor, labels: Tensor, factor: float | None, gradient: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Cross-entropy of the labels.

    Args:
        student: (rows, V) logits of at least float32.
        labels: (rows,) int64; rows with -100 are left out.
        factor, gradient: see above.
    """
    where = (labels != IGNORED_LABEL).nonzero()[:, 0]
    picked, expected = student[where], labels[where, None]
    probabilities, log_sum = _softmax(picked)
    value = (log_sum - picked.gather(1, expected)[:, 0]).sum()
    if factor is None:
        return value, gradient
    probabilities.scatter_add_(1, expected, -torch.ones_like(picked[:, :1]))
    gradient = torch.zeros_like(student) if gradient is None else gradient
    return value, gradient.index_add_(0, where, probabilities, alpha=factor)


def _added(gradient: Tensor | None, more: Tensor) -> Tensor:
    return more if gradient is None else gradient.add_(more)


def _softmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax over the last dimension, and the log of the sum of exponentials, (rows,).

    The latter is computed from the largest probability, which is at least 1 / V, to avoid computing
    the exponentials twice.
    """
    probabilities = logits.softmax(-1)
    return probabilities, logits.amax(-1) - probabilities.amax(-1).log()
