"""Losses of the heads: token labels, sequence labels and answer spans."""

import torch
import torch.nn.functional as F
from torch import Tensor

from minilm.errors import InputError

IGNORED_LABEL = -100


def token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy over the labelled items; masked LM, token and sequence classes.

    Args:
        logits: (..., C).
        labels: (...) int64; -100 = no label here.

    Returns:
        Scalar, the mean over items whose label is not -100; 0 if there are none (differs from
        Hugging Face, which returns NaN).
    """
    logits, labels = logits.flatten(0, -2), labels.flatten()
    total = F.cross_entropy(logits, labels, ignore_index=IGNORED_LABEL, reduction="sum")
    return total / (labels != IGNORED_LABEL).sum().clamp(min=1)


def problem_type(declared: str | None, logits: Tensor, labels: Tensor) -> str:
    """Which loss a sequence classifier uses, by Hugging Face's rules.

    Args:
        declared: what the configuration says; None = look at the labels.
        logits: (B, C).
        labels: of any kind.

    Returns:
        `declared`; else "regression" for one output, "single_label_classification" for
        whole-number labels, "multi_label_classification" for others.
    """
    if declared is not None:
        return declared
    if logits.shape[-1] == 1:
        return "regression"
    whole = not labels.is_floating_point()
    return "single_label_classification" if whole else "multi_label_classification"


def sequence_loss(logits: Tensor, labels: Tensor, declared: str | None = None) -> Tensor:
    """The loss of a sequence classifier.

    Args:
        logits: (B, C).
        labels: (B,) int64 classes; (B,) or (B, C) floats for regression; (B, C) floats in [0, 1]
            for several labels at once.
        declared: see `problem_type`.

    Returns:
        Scalar, the mean over sequences (and outputs, where each has a label): mean squared error
        for regression, cross-entropy for single-label and binary cross-entropy for multi-label
        problems.

    Raises:
        InputError: labels of a shape or dtype that do not fit.
    """
    kind = problem_type(declared, logits, labels)
    if kind == "single_label_classification":
        if labels.is_floating_point() or labels.shape != logits.shape[:-1]:
            raise _misfit(kind, f"{tuple(logits.shape[:-1])} whole numbers", labels)
        return token_loss(logits, labels)
    if labels.numel() != logits.numel():
        raise _misfit(kind, f"{tuple(logits.shape)} numbers", labels)
    target = labels.reshape(logits.shape).to(logits.dtype)
    if kind == "regression":
        return F.mse_loss(logits, target)
    return F.binary_cross_entropy_with_logits(logits, target)


def span_loss(start_logits: Tensor, end_logits: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Mean of the start and end cross-entropies of an answer span.

    Args:
        start_logits, end_logits: (B, S), the smallest finite value where no answer may lie.
        start, end: (B,) int64 positions. Those beyond S count as unlabelled, those below 0 as 0:
            Hugging Face's rule.

    Returns:
        Scalar; each of the two terms is a mean over the sequences labelled for it.
    """
    length = start_logits.shape[1]

    def one(logits: Tensor, position: Tensor) -> Tensor:
        position = position.clamp(0, length)
        return token_loss(logits, torch.where(position < length, position, IGNORED_LABEL))

    return (one(start_logits, start) + one(end_logits, end)) / 2


def _misfit(kind: str, expected: str, labels: Tensor) -> InputError:
    return InputError(
        f"labels of a {kind} problem: expected {expected}, got {tuple(labels.shape)} "
        f"{labels.dtype}. Set config.problem_type if another loss was meant."
    )
