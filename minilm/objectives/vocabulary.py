"""Losses over the vocabulary whose memory does not grow with tokens x vocabulary.

A vocabulary logit is needed once: to compute a loss and its derivative. So both happen at the same
time, for a chunk of rows after the other; what is kept is the gradient with respect to what the
logits were made of, (N, E), (V, E) and (V,), and the backward pass only scales it. The products run
over chunks, which are large enough for a matrix multiplication to be fast; the softmaxes run over
blocks of a few rows, which stay in the processor's cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from minilm.errors import InputError
from minilm.objectives.tasks import IGNORED_LABEL

CHUNK_BYTES = 2**26  # of logits that exist at once, for student and teacher each
BLOCK_BYTES = 2**20  # of logits that a softmax works on at once
CACHE_LINE = 64  # bytes


@dataclass(frozen=True, eq=False)
class Readout:
    """Vocabulary logits that nobody has computed yet: rows matrix^T + bias.

    Attributes:
        rows: (N, E) what a masked-LM head compares with the vocabulary.
        matrix: (V, E) word embeddings.
        bias: (V,).
    """

    rows: Tensor
    matrix: Tensor
    bias: Tensor

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.matrix.shape[0]


@dataclass(frozen=True, eq=False)
class VocabularySums:
    """Scalars, summed over rows.

    Attributes:
        total: the sum with factors; the one that carries a gradient.
        kl: Kullback-Leibler divergence of the student from the teacher, times temperature squared.
        mlm: cross-entropy of the labels.
        mse: squared differences of the logits.
    """

    total: Tensor
    kl: Tensor
    mlm: Tensor
    mse: Tensor


def vocabulary_sums(
    student: Readout,
    teacher: Readout | None = None,
    labels: Tensor | None = None,
    *,
    kl: float = 0.0,
    mlm: float = 0.0,
    mse: float = 0.0,
    temperature: float = 1.0,
    chunk_bytes: int = CHUNK_BYTES,
) -> VocabularySums:
    """Compares the student's logits with the teacher's and with labels.

    Under autocast the products run in its dtype; softmaxes and sums never in less than float32.

    Args:
        student: gets gradients, for rows, matrix and bias.
        teacher: the same rows and vocabulary, any width E; gets no gradient. For `kl` and `mse`.
        labels: (N,) int64, -100 = no label. For `mlm`.
        kl, mlm, mse: factors of the terms in the total, a weight divided by a count for a mean. A
            term with the factor 0 is not computed; at least one is another.
        temperature: divides the logits in the divergence.
        chunk_bytes: memory for logits, for student and teacher each.

    Returns:
        The sums; 0, with zero gradients, where there are no rows.

    Raises:
        InputError: student, teacher and labels do not fit together, or every factor is 0.
    """
    if not (kl or mlm or mse):
        raise InputError("kl, mlm and mse are all 0: there is nothing to compute.")
    if kl or mse:
        _check_teacher(student, teacher)
    else:
        teacher = None
    if mlm:
        _check_labels(student, labels)
    else:
        labels = None
    total, sums = _VocabularySums.apply(  # type: ignore[no-untyped-call]
        student.rows,
        student.matrix,
        student.bias,
        _Losses(teacher, labels, kl, mlm, mse, temperature, chunk_bytes, torch.is_grad_enabled()),
    )
    return VocabularySums(total, *sums.unbind())


@torch.no_grad()
def masked_scores(
    readout: Readout, labels: Tensor, *, chunk_bytes: int = CHUNK_BYTES
) -> tuple[Tensor, Tensor]:
    """How well labels are predicted, without gradients.

    Args:
        readout: logits of N rows.
        labels: (N,) int64, every one a word.
        chunk_bytes: memory for logits.

    Returns:
        Scalars: the summed cross-entropy, and how many labels have the highest logit.
    """
    _check_labels(readout, labels)
    logits = _Logits(readout)
    loss = torch.zeros((), dtype=logits.full_dtype, device=labels.device)
    correct = torch.zeros((), dtype=torch.int64, device=labels.device)
    for chunk in _chunks(chunk_bytes, logits):
        found, expected = logits.compute(chunk), labels[chunk]
        loss += F.cross_entropy(found.to(logits.full_dtype), expected, reduction="sum")
        correct += (found.argmax(-1) == expected).sum()
    return loss, correct


class _Logits:
    """Computes logits chunk by chunk, into one buffer.

    Attributes:
        dtype: of the products.
        full_dtype: of softmaxes and sums.
    """

    def __init__(self, readout: Readout) -> None:
        self.dtype = _product_dtype(readout)
        self.full_dtype = torch.promote_types(self.dtype, torch.float32)
        self.rows, self.matrix, self._bias = (
            part.detach().to(self.dtype) for part in (readout.rows, readout.matrix, readout.bias)
        )
        self._buffer = self.rows.new_empty(0, self.matrix.shape[0])

    def compute(self, chunk: slice) -> Tensor:
        """The logits of some rows, valid until the next call."""
        rows, width = self.rows[chunk], self.matrix.shape[0]
        if self._buffer.shape[0] < rows.shape[0]:
            self._buffer = rows.new_empty(rows.shape[0], self._row_size(width))
        out = self._buffer[: rows.shape[0], :width]
        return torch.addmm(self._bias, rows, self.matrix.t(), out=out)  # (rows, V)

    def _row_size(self, width: int) -> int:
        """Numbers between the beginnings of two rows in memory.

        Whole cache lines: with BERT's 30522 the product is a third faster than with rows that begin
        anywhere. Products in half precision would first copy rows that are not dense.
        """
        line = CACHE_LINE // self.dtype.itemsize if self.dtype.itemsize >= 4 else 1
        return math.ceil(width / line) * line


@dataclass(frozen=True, eq=False)
class _Losses:
    """What `_VocabularySums` computes. In an object of its own the teacher is out of autograd's
    sight."""

    teacher: Readout | None
    labels: Tensor | None
    kl: float
    mlm: float
    mse: float
    temperature: float
    chunk_bytes: int
    with_gradient: bool

    def evaluate(
        self, student: Tensor, teacher: Tensor | None, labels: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The terms of a block of rows.

        Args:
            student, teacher: (rows, V) logits.
            labels: (rows,).

        Returns:
            The sums kl, mlm and mse, (3,), and the derivative of the total, (rows, V) or None.
        """
        sums = student.new_zeros(3)
        gradient: Tensor | None = None
        if teacher is not None and self.kl:
            sums[0], gradient = self._kl(student, teacher)
        if teacher is not None and self.mse:
            difference = student - teacher
            sums[2] = difference.square().sum()
            if self.with_gradient:
                difference *= 2 * self.mse
                gradient = difference if gradient is None else gradient.add_(difference)
        if labels is not None:
            where = (labels != IGNORED_LABEL).nonzero()[:, 0]
            picked, expected = student[where], labels[where, None]
            probabilities, log_sum = _softmax(picked)
            sums[1] = (log_sum - picked.gather(1, expected)[:, 0]).sum()
            if self.with_gradient:
                probabilities.scatter_add_(1, expected, -torch.ones_like(picked[:, :1]))
                gradient = torch.zeros_like(student) if gradient is None else gradient
                gradient.index_add_(0, where, probabilities, alpha=self.mlm)
        return sums, gradient

    def _kl(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor | None]:
        """sum q (log q - log p), with p and q the softmaxes of student / T and teacher / T."""
        student, teacher = student / self.temperature, teacher / self.temperature
        p, student_log_sum = _softmax(student)
        q, teacher_log_sum = _softmax(teacher)
        expected = teacher.sub_(student).mul_(q).sum()
        value = self.temperature**2 * (expected + (student_log_sum - teacher_log_sum).sum())
        return value, p.sub_(q).mul_(self.kl * self.temperature) if self.with_gradient else None


class _VocabularySums(torch.autograd.Function):
    """(rows, matrix, bias) -> the total, and the single sums without a gradient."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, matrix: Tensor, bias: Tensor, losses: _Losses
    ) -> tuple[Tensor, Tensor]:
        logits = _Logits(Readout(rows, matrix, bias))
        full = logits.full_dtype
        teacher = None if losses.teacher is None else _Logits(losses.teacher)
        for_rows, for_matrix, for_bias = (
            torch.zeros_like(x, dtype=full) if losses.with_gradient and needed else None
            for x, needed in zip((rows, matrix, bias), ctx.needs_input_grad, strict=False)
        )
        sums = torch.zeros(3, dtype=full, device=rows.device)
        for chunk in _chunks(losses.chunk_bytes, logits, teacher):
            found = logits.compute(chunk)  # (chunk, V)
            wanted = None if teacher is None else teacher.compute(chunk)
            labels = None if losses.labels is None else losses.labels[chunk]
            for block in _blocks(found, full):
                block_sums, gradient = losses.evaluate(
                    found[block].to(full),
                    None if wanted is None else wanted[block].to(full),
                    None if labels is None else labels[block],
                )
                sums += block_sums
                if gradient is not None:
                    found[block] = gradient  # takes the place of the logits
                    if for_bias is not None:
                        for_bias += gradient.sum(0)
            if for_rows is not None:
                for_rows[chunk] = found @ logits.matrix
            if for_matrix is not None:
                _add_product(for_matrix, found.t(), logits.rows[chunk])
        factors = sums.new_tensor([losses.kl, losses.mlm, losses.mse])
        ctx.save_for_backward(
            *(
                None if gradient is None else gradient.to(x.dtype)
                for gradient, x in ((for_rows, rows), (for_matrix, matrix), (for_bias, bias))
            )
        )
        ctx.mark_non_differentiable(sums)
        return torch.dot(sums, factors), sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        unscaled = outer.device.type == "cpu" and outer.item() == 1.0  # spares a pass over (V, E)
        return *(
            gradient if gradient is None or unscaled else gradient * outer
            for gradient in ctx.saved_tensors
        ), None


def _softmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax over the last dimension, and the log of the sum of exponentials, (rows,).

    The latter comes from the largest probability, which is at least 1 / V, instead of from a second
    round of exponentials.
    """
    probabilities = logits.softmax(-1)
    return probabilities, logits.amax(-1) - probabilities.amax(-1).log()


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right  # a product of low precision, a sum of full precision


def _product_dtype(readout: Readout) -> torch.dtype:
    """What a linear layer would compute in here."""
    dtype = torch.promote_types(readout.rows.dtype, readout.matrix.dtype)
    device = readout.rows.device.type
    if dtype != torch.float64 and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return dtype


def _chunks(chunk_bytes: int, *sides: _Logits | None) -> Iterator[slice]:
    """All rows, as many at a time as fit, in chunks of about the same size."""
    present = [side for side in sides if side is not None]
    count, width = present[0].rows.shape[0], present[0].matrix.shape[0]
    fitting = max(1, chunk_bytes // (width * max(side.dtype.itemsize for side in present)))
    chunks = max(1, math.ceil(count / fitting))
    return _slices(count, max(1, math.ceil(count / chunks)))


def _blocks(logits: Tensor, dtype: torch.dtype) -> Iterator[slice]:
    """The rows of a chunk, on a CPU as many at a time as fit into its cache."""
    rows, width = logits.shape
    fitting = max(1, BLOCK_BYTES // (width * dtype.itemsize))
    return _slices(rows, fitting if logits.device.type == "cpu" else rows)


def _slices(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))


def _check_teacher(student: Readout, teacher: Readout | None) -> None:
    if teacher is None:
        raise InputError("A divergence or squared difference needs a teacher: none was given.")
    if teacher.vocab_size != student.vocab_size:
        raise InputError(
            f"The student's vocabulary has {student.vocab_size} entries, the teacher's "
            f"{teacher.vocab_size}: logits can be compared only over the same vocabulary."
        )
    if teacher.rows.shape[0] != student.rows.shape[0]:
        raise InputError(
            f"The student has {student.rows.shape[0]} rows, the teacher {teacher.rows.shape[0]}."
        )


def _check_labels(readout: Readout, labels: Tensor | None) -> None:
    count = readout.rows.shape[0]
    if labels is None or tuple(labels.shape) != (count,) or labels.dtype != torch.int64:
        found = "None" if labels is None else f"{tuple(labels.shape)} {labels.dtype}"
        raise InputError(f"labels: expected ({count},) int64, got {found}.")
    wrong = (labels != IGNORED_LABEL) & ((labels < 0) | (labels >= readout.vocab_size))
    if bool(wrong.any()):
        raise InputError(
            f"labels contains {int(labels[wrong][0])}: expected 0 to {readout.vocab_size - 1}, or "
            "-100 for none."
        )
