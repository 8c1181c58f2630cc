"""Losses of the heads: token labels, sequence labels and answer spans."""

import torch
from torch import Tensor

from minilm.errors import InputError
from minilm.losses.checks import check_classes
from minilm.losses.elementary import (
    IGNORED_LABEL,
    binary_cross_entropy,
    cross_entropy,
    squared_error,
)

PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")


def token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy over the labelled items, for masked LM, token and sequence classification.

    Args:
        logits: (..., C).
        labels: (...) int64; -100 = no label here.

    Returns:
        Scalar of at least float32, the mean over items whose label is not -100; 0 if there are none
        (differs from Hugging Face, which returns NaN).

    Raises:
        InputError: labels have another shape or dtype.
    """
    return cross_entropy(logits, labels).mean()


def problem_type(declared: str | None, logits: Tensor, labels: Tensor) -> str:
    """Which loss a sequence classifier uses, by Hugging Face's rules.

    Args:
        declared: the type in the configuration; None = decide by the labels.
        logits: (B, C).
        labels: labels of any kind.

    Returns:
        `declared`; else "regression" for one output, "single_label_classification" for
        whole-number labels, "multi_label_classification" for floats and booleans.
    """
    if declared is not None:
        return declared
    if logits.shape[-1] == 1:
        return "regression"
    if labels.is_floating_point() or labels.dtype == torch.bool:
        return "multi_label_classification"
    return "single_label_classification"


def sequence_loss(logits: Tensor, labels: Tensor, declared: str | None = None) -> Tensor:
    """The loss of a sequence classifier.

    Args:
        logits: (B, C).
        labels: (B,) int64 classes; (B, C) numbers for regression; (B, C) numbers in [0, 1] for
            several labels at once. Numbers may be integers or booleans (differs from Hugging Face,
            where several labels must be floats); if C is 1, (B,) is accepted as well.
        declared: see `problem_type`.

    Returns:
        Scalar of at least float32, the mean over sequences (and outputs, if each has a label):
        mean squared error for regression, cross-entropy for single-label and binary cross-entropy
        for multi-label problems.

    Raises:
        InputError: the labels' shape or dtype does not fit, or the problem type is unknown.
    """
    kind = problem_type(declared, logits, labels)
    if kind not in PROBLEM_TYPES:
        raise InputError(f"problem_type is {kind!r}: expected one of {', '.join(PROBLEM_TYPES)}.")
    shape, given = tuple(logits.shape), tuple(labels.shape)
    if kind == "single_label_classification":
        if given != shape[:-1] or labels.dtype != torch.int64:
            raise _misfit(kind, f"{shape[:-1]} int64", labels)
        return token_loss(logits, labels)
    fitting = [shape, shape[:-1]] if shape[-1] == 1 else [shape]
    if given not in fitting:
        raise _misfit(kind, f"{' or '.join(map(str, fitting))} numbers", labels)
    loss = squared_error if kind == "regression" else binary_cross_entropy
    return loss(logits, labels.reshape(shape)).mean()


def span_loss(start_logits: Tensor, end_logits: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Mean of the start and end cross-entropies of an answer span.

    Args:
        start_logits, end_logits: (B, S), the lowest finite value where no answer may be.
        start, end: (B,) int64 positions. Those beyond S count as unlabelled, those below 0 as 0:
            Hugging Face's rule.

    Returns:
        Scalar of at least float32; each of the two terms is a mean over the sequences labelled for
        it.

    Raises:
        InputError: positions have another shape or dtype.
    """
    length = start_logits.shape[1]

    def one(name: str, logits: Tensor, position: Tensor) -> Tensor:
        check_classes(name, position, logits.shape[:1])
        position = position.clamp(0, length)
        return token_loss(logits, torch.where(position < length, position, IGNORED_LABEL))

    return (one("start", start_logits, start) + one("end", end_logits, end)) / 2


def _misfit(kind: str, expected: str, labels: Tensor) -> InputError:
    return InputError(
        f"labels of a {kind} problem: expected {expected}, got {tuple(labels.shape)} "
        f"{labels.dtype}. If another loss was meant, set config.problem_type."
    )
