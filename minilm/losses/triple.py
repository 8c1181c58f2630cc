"""The triple loss of DistilBERT as a pure function of plain tensors, to read beside the paper.

References: Sanh et al. 2019, section 2; `Distiller.step` of the released code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from minilm.errors import InputError
from minilm.losses.checks import check_classes, check_same_shape
from minilm.losses.elementary import (
    IGNORED_LABEL,
    LossSum,
    cosine_distance,
    cross_entropy,
    kl_divergence,
    squared_error,
)

Positions = Literal["attended", "masked"]


@dataclass(frozen=True, eq=False)
class DistillationTerms:
    """The unweighted terms, scalars of at least float32.

    Attributes:
        kl: Kullback-Leibler divergence of the student's softened predictions from the teacher's,
            times temperature squared; mean over the chosen positions.
        mlm: cross-entropy of the labels; mean over labelled positions.
        cosine: 1 - cosine between last hidden states; mean over attended positions.
        mse: squared difference of the logits, without temperature; summed over the vocabulary, mean
            over the chosen positions.
    """

    kl: Tensor
    mlm: Tensor
    cosine: Tensor
    mse: Tensor


def distillation_terms(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    student_hidden: Tensor | None = None,
    teacher_hidden: Tensor | None = None,
    attention_mask: Tensor | None = None,
    *,
    temperature: float = 2.0,
    positions: Positions = "attended",
) -> DistillationTerms:
    """The terms of the triple loss, from plain tensors.

    Gradients flow into all arguments; compute the teacher's side under `torch.no_grad()`.
    A term without any positions is 0 with zero gradient, never NaN.

    Args:
        student_logits: (B, S, V); also (T, V), all tokens in one line.
        teacher_logits: the same shape.
        labels: (B, S) int64; -100 = no label here.
        student_hidden: (B, S, H) last hidden states; None = no cosine term (0).
        teacher_hidden: the same shape.
        attention_mask: (B, S), 1 = attended; None = everywhere.
        temperature: divides the logits of both sides in `kl`.
        positions: the positions of `kl` and `mse`: all "attended" tokens, [CLS] and [SEP] included,
            or only labelled ("masked") ones. `cosine` is over attended tokens in either case.

    Returns:
        The four terms. The paper's loss is 5 kl + 2 mlm + 1 cosine at temperature 2.

    Raises:
        InputError: shapes do not fit, or a label is at an unattended position.

    Example:
        >>> logits = torch.randn(2, 4, 10)
        >>> labels = torch.full((2, 4), -100)
        >>> float(minilm.distillation_terms(logits, logits, labels).kl)
        0.0
    """
    check_choices(temperature, positions)
    shape = student_logits.shape[:-1]
    check_same_shape("student_logits", student_logits, "teacher_logits", teacher_logits)
    check_classes("labels", labels, shape)
    if attention_mask is None:
        attended = torch.ones_like(labels, dtype=torch.bool)
    elif tuple(attention_mask.shape) != tuple(shape):
        raise InputError(
            f"attention_mask has shape {tuple(attention_mask.shape)}, the logits {tuple(shape)}."
        )
    else:
        attended = attention_mask != 0
    labelled = labels != IGNORED_LABEL
    if bool((labelled & ~attended).any()):
        raise InputError(
            "labels has labels other than -100 at unattended positions (attention_mask 0): set "
            "them to -100."
        )

    chosen = attended if positions == "attended" else labelled
    student, teacher = student_logits[chosen], teacher_logits[chosen]  # (N, V)
    divergence = kl_divergence(student, teacher, temperature)
    cosine = divergence.sum.new_zeros(())
    if student_hidden is not None and teacher_hidden is not None:
        check_same_shape("student_hidden", student_hidden, "teacher_hidden", teacher_hidden)
        if student_hidden.shape[:-1] != shape:
            raise InputError(
                f"student_hidden has shape {tuple(student_hidden.shape)}, the logits "
                f"{tuple(student_logits.shape)}."
            )
        cosine = cosine_distance(student_hidden[attended], teacher_hidden[attended]).mean()
    elif student_hidden is not None or teacher_hidden is not None:
        raise InputError("Give both student_hidden and teacher_hidden, or neither.")
    return DistillationTerms(
        kl=divergence.mean(),
        mlm=cross_entropy(student_logits[labelled], labels[labelled]).mean(),
        cosine=cosine,
        mse=LossSum(squared_error(student, teacher).sum, divergence.items).mean(),
    )


def is_number(value: object) -> bool:
    """Whether this is a finite int or float."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def check_choices(temperature: float, positions: str) -> None:
    """Raise InputError for an impossible temperature or unknown positions."""
    if not is_number(temperature) or temperature <= 0:
        raise InputError(f"temperature is {temperature!r}: expected a finite number above 0.")
    if positions not in get_args(Positions):
        raise InputError(f"positions is {positions!r}: expected 'attended' or 'masked'.")
