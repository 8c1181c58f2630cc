"""The triple loss of DistilBERT: learn from the teacher's logits, from the text, from its states.

There are two ways to it. `distillation_terms` is a pure function of plain tensors, a few lines to
read beside the paper. `DistillationLoss` computes the same for packed tokens, without ever holding
the logits of all of them, and is what training runs use.

References: Sanh et al. 2019, section 2; `Distiller.step` of the released code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

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
from minilm.losses.vocabulary import LogitInputs, fused_vocab_losses

Positions = Literal["attended", "masked"]
TERMS = ("kl", "mlm", "cosine", "mse")


@dataclass(frozen=True, eq=False)
class DistillationTerms:
    """Scalars of at least float32, all without weights.

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

    Gradients flow into everything given; compute the teacher's side under `torch.no_grad()`.
    A term that has nothing to look at is 0 with zero gradient, never NaN.

    Args:
        student_logits: (B, S, V); also (T, V), all tokens in one line.
        teacher_logits: the same shape.
        labels: (B, S) int64; -100 = not predicted here.
        student_hidden: (B, S, H) last hidden states; None = no cosine term (0).
        teacher_hidden: the same shape.
        attention_mask: (B, S), 1 = attended; None = everywhere.
        temperature: divides the logits of both sides in `kl`.
        positions: where `kl` and `mse` look: at all attended tokens, [CLS] and [SEP] included, or
            only at labelled ("masked") ones. `cosine` looks at attended tokens either way.

    Returns:
        The four terms. The paper's loss is 5 kl + 2 mlm + 1 cosine at temperature 2.

    Raises:
        InputError: shapes that do not fit, or a label where nothing is attended to.

    Example:
        >>> logits = torch.randn(2, 4, 10)
        >>> labels = torch.full((2, 4), -100)
        >>> float(minilm.distillation_terms(logits, logits, labels).kl)
        0.0
    """
    _check_choices(temperature, positions)
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


@dataclass(frozen=True, eq=False)
class States:
    """What a language model made of packed tokens, and how it would predict words from it.

    Attributes:
        hidden: (T, H) last hidden states.
        transform: (N, H) -> (N, E), the part of the masked-LM head before the vocabulary; None = no
            such head.
        matrix: (V, E) word embeddings.
        bias: (V,) of the vocabulary; None = no such head.
    """

    hidden: Tensor
    transform: Callable[[Tensor], Tensor] | None
    matrix: Tensor
    bias: Tensor | None

    def logit_inputs(self, where: Tensor | None) -> LogitInputs:
        """What the logits of the tokens with the numbers `where` are made of; None = of all."""
        if self.transform is None or self.bias is None:
            raise InputError("These states come from a model without a masked-LM head.")
        rows = self.hidden if where is None else self.hidden.index_select(0, where)
        return LogitInputs(self.transform(rows), self.matrix, self.bias)


class DistillationLoss(nn.Module):
    """The weighted triple loss over packed tokens.

    Only what a term with a weight reads is computed: with `kl` and `mse` 0, vocabulary logits
    exist at labelled tokens only; with `mlm` 0 as well, nowhere. Memory does not grow with
    tokens x vocabulary (see `minilm.losses.vocabulary`).

    Args:
        temperature: softens both sides of the divergence; which is multiplied by its square, so
            that the gradient keeps its size.
        kl, mlm, cosine, mse: weights of the terms; see `DistillationTerms`. The defaults are those
            DistilBERT was trained with.
        positions: where `kl` and `mse` look: "attended" = all tokens, "masked" = labelled ones.

    Raises:
        InputError: a weight that is negative or not finite, or no weight above 0.

    Example:
        >>> loss = minilm.DistillationLoss(temperature=2.0, kl=5.0, mlm=2.0, cosine=1.0)
        >>> loss.to_dict()["positions"]
        'attended'
    """

    def __init__(
        self,
        temperature: float = 2.0,
        kl: float = 5.0,
        mlm: float = 2.0,
        cosine: float = 1.0,
        mse: float = 0.0,
        positions: Positions = "attended",
    ) -> None:
        super().__init__()
        _check_choices(temperature, positions)
        self.temperature = temperature
        self.kl, self.mlm, self.cosine, self.mse = kl, mlm, cosine, mse
        self.positions: Positions = positions
        self.projection: nn.Linear | None = None
        for name in TERMS:
            weight = getattr(self, name)
            if not _is_number(weight) or weight < 0:
                raise InputError(
                    f"{name} is {weight!r}: a weight is a finite number of at least 0."
                )
        if not self.terms:
            raise InputError("All weights are 0: kl, mlm, cosine or mse must be above 0.")

    @property
    def terms(self) -> tuple[str, ...]:
        """The names of the terms that have a weight."""
        return tuple(name for name in TERMS if getattr(self, name) > 0)

    @property
    def compares_logits(self) -> bool:
        """Whether a term reads the teacher's vocabulary logits."""
        return self.kl > 0 or self.mse > 0

    @property
    def compares_states(self) -> bool:
        """Whether a term reads the teacher's hidden states."""
        return self.cosine > 0

    @property
    def needs_teacher(self) -> bool:
        """Whether any term reads anything of the teacher."""
        return self.compares_logits or self.compares_states

    def to_dict(self) -> dict[str, float | str]:
        """The arguments that this loss was made with."""
        names = ("temperature", *TERMS, "positions")
        return {name: getattr(self, name) for name in names}

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.to_dict().items())

    def fit_widths(self, student_width: int, teacher_width: int) -> bool:
        """Make hidden states of two widths comparable.

        Where the widths differ, the cosine term compares the teacher's states with a learned linear
        map of the student's. It starts out orthogonal, so that angles are those of the student.

        Args:
            student_width, teacher_width: H of both.

        Returns:
            Whether there is a projection, now a parameter of this module.
        """
        self.projection = None
        if self.compares_states and student_width != teacher_width:
            self.projection = nn.Linear(student_width, teacher_width, bias=False)
            nn.init.orthogonal_(self.projection.weight)
        return self.projection is not None

    def forward(
        self,
        student: States,
        teacher: States | None,
        labels: Tensor,
        counts: Mapping[str, float] | None = None,
    ) -> dict[str, Tensor]:
        """The loss and its terms.

        Args:
            student: gets gradients.
            teacher: the same tokens in the same order, computed without gradients; None if no term
                reads it.
            labels: (T,) int64 in that order; -100 = not predicted.
            counts: what to divide sums by: "attended" and "masked" tokens of the whole step, of
                which this batch may be a part; None = those of this batch.

        Returns:
            "loss", the weighted sum, which carries the gradient; and for the log every term with a
            weight, without weight and gradient. All of at least float32.

        Raises:
            InputError: vocabularies or widths do not fit.
        """
        where = (labels != IGNORED_LABEL).nonzero()[:, 0]  # (n,)
        if counts is None:
            counts = {"attended": labels.shape[0], "masked": where.shape[0]}
        attended, masked = max(counts["attended"], 1), max(counts["masked"], 1)
        chosen = attended if self.positions == "attended" else masked

        means: dict[str, Tensor] = {}
        if self.compares_logits or self.mlm > 0:
            everywhere = self.compares_logits and self.positions == "attended"
            rows = None if everywhere else where
            sums = fused_vocab_losses(
                student.logit_inputs(rows),
                _given(teacher).logit_inputs(rows) if self.compares_logits else None,
                labels if rows is None else labels[rows],
                kl=self.kl / chosen,
                mlm=self.mlm / masked,
                mse=self.mse / chosen,
                temperature=self.temperature,
            )
            loss = sums.total
            means = {"kl": sums.kl / chosen, "mlm": sums.mlm / masked, "mse": sums.mse / chosen}
        else:
            loss = _no_prediction(student)
        if self.compares_states:
            for name, found in self._state_losses(student, _given(teacher)).items():
                mean = found.sum / attended
                loss = loss + getattr(self, name) * mean
                means[name] = mean.detach()
        return {"loss": loss, **{name: means[name] for name in self.terms}}

    def _state_losses(self, student: States, teacher: States) -> dict[str, LossSum]:
        """The terms with a weight that compare hidden states of all attended tokens."""
        hidden = student.hidden if self.projection is None else self.projection(student.hidden)
        if hidden.shape != teacher.hidden.shape:
            raise InputError(
                f"The student's states are {tuple(hidden.shape)}, the teacher's "
                f"{tuple(teacher.hidden.shape)}. For another width call fit_widths first."
            )
        return {"cosine": cosine_distance(hidden, teacher.hidden)}


def _no_prediction(student: States) -> Tensor:
    """A zero in which the head takes part: data-parallel training waits for every parameter."""
    zero = student.hidden[:0].sum()
    if student.transform is not None and student.bias is not None:
        zero = zero + student.transform(student.hidden[:0]).sum() + student.bias[:0].sum()
    return zero


def _given(teacher: States | None) -> States:
    if teacher is None:
        raise InputError("teacher is None: kl, cosine and mse compare with a teacher's states.")
    return teacher


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check_choices(temperature: float, positions: str) -> None:
    if not _is_number(temperature) or temperature <= 0:
        raise InputError(f"temperature is {temperature!r}: expected a finite number above 0.")
    if positions not in get_args(Positions):
        raise InputError(f"positions is {positions!r}: expected 'attended' or 'masked'.")
