"""Losses over the vocabulary whose memory does not grow with tokens x vocabulary.

A vocabulary logit is needed once: to compute a loss and its derivative. So both are computed at the
same time, for one chunk of rows after the other; only the gradients with respect to the inputs of
the logits, (N, E), (V, E) and (V,), are kept, and the backward pass only scales them. The products
run over chunks, which are large enough for a matrix multiplication to be fast; the softmaxes run
over blocks of a few rows, which stay in the processor's cache.

Products in float16 need care: divided by a count, derivatives are too small for it, and a gradient
scaler, which multiplies in the backward pass, comes too late. So derivatives are divided by a
separate unit first, and summed in float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from minilm.errors import InputError
from minilm.files.progress import counted
from minilm.losses.derivatives import (
    add_cross_entropy,
    add_kl_divergence,
    add_squared_error,
    add_top_divergence,
)
from minilm.losses.elementary import IGNORED_LABEL, cross_entropy
from minilm.losses.precision import wide_dtype
from minilm.losses.top_predictions import TopPredictions, check_top_k, top_of_logits

CHUNK_BYTES = 2**26  # bytes of logits that exist at once, for student and teacher each
BLOCK_BYTES = 2**20  # bytes of logits that a softmax processes at once
CACHE_LINE = 64  # bytes
LARGEST_HALF = 2**15  # bound of derivatives in float16


@dataclass(frozen=True, eq=False)
class LogitInputs:
    """The inputs of vocabulary logits, which are rows matrix^T + bias.

    Attributes:
        rows: (N, E) the vectors that a masked-LM head multiplies by the word embeddings.
        matrix: (V, E) word embeddings.
        bias: (V,).
    """

    rows: Tensor
    matrix: Tensor
    bias: Tensor

    @property
    def vocab_size(self) -> int:
        """V, the size of the vocabulary."""
        return self.matrix.shape[0]


@dataclass(frozen=True, eq=False)
class FusedVocabLosses:
    """The losses, scalars of at least float32, summed over rows.

    Attributes:
        total: the sum of the terms times their factors; only this carries a gradient.
        kl: Kullback-Leibler divergence of the student from the teacher, times temperature squared.
        mlm: cross-entropy of the labels.
        mse: squared differences of the logits.
    """

    total: Tensor
    kl: Tensor
    mlm: Tensor
    mse: Tensor


def fused_vocab_losses(
    student: LogitInputs,
    teacher: LogitInputs | TopPredictions | None = None,
    labels: Tensor | None = None,
    *,
    kl: float = 0.0,
    mlm: float = 0.0,
    mse: float = 0.0,
    temperature: float = 1.0,
    chunk_bytes: int = CHUNK_BYTES,
) -> FusedVocabLosses:
    """Compares the student's logits with the teacher's and with labels.

    Under autocast the products run in its dtype, but softmaxes and sums in at least float32.

    Args:
        student: the inputs of the student's logits; rows, matrix and bias get gradients.
        teacher: the same rows and vocabulary, any width E, without gradients; for `kl` and `mse`.
            For `kl`, the likeliest words are enough, if they were kept at the same temperature.
        labels: (N,) int64, -100 = no label; for `mlm`.
        kl, mlm, mse: factors of the terms in the total; for a mean, a weight divided by a count. A
            term with the factor 0 is not computed; at least one factor must not be 0.
        temperature: divides the logits in the divergence.
        chunk_bytes: memory for logits, for student and teacher each.

    Returns:
        The sums; 0, with zero gradients, if there are no rows.

    Raises:
        InputError: student, teacher and labels do not fit together, or every factor is 0.
    """
    if not (kl or mlm or mse):
        raise InputError("kl, mlm and mse are all 0: there is nothing to compute.")
    if kl or mse:
        _check_teacher(student, teacher)
        if isinstance(teacher, TopPredictions):
            _check_top(teacher, mse, temperature)
    else:
        teacher = None
    if mlm:
        _check_labels(student, labels)
    else:
        labels = None
    total, sums = _FusedVocabLosses.apply(  # type: ignore[no-untyped-call]
        student.rows,
        student.matrix,
        student.bias,
        _Losses(teacher, labels, kl, mlm, mse, temperature, chunk_bytes, torch.is_grad_enabled()),
    )
    return FusedVocabLosses(total, *sums.unbind())


@torch.no_grad()
def masked_scores(
    inputs: LogitInputs, labels: Tensor, *, chunk_bytes: int = CHUNK_BYTES
) -> tuple[Tensor, Tensor]:
    """Cross-entropy and accuracy of predicted words as sums, without gradients.

    Args:
        inputs: the inputs of the logits of N rows.
        labels: (N,) int64, without -100.
        chunk_bytes: memory for logits.

    Returns:
        Scalars: the summed cross-entropy, and the number of labels with the highest logit.
    """
    _check_labels(inputs, labels)
    logits = _Logits(inputs)
    loss = torch.zeros((), dtype=wide_dtype(logits.dtype), device=labels.device)
    correct = torch.zeros((), dtype=torch.int64, device=labels.device)
    for chunk in _chunks(chunk_bytes, logits):
        student, expected = logits.compute(chunk), labels[chunk]
        loss += cross_entropy(student, expected).sum
        correct += (student.argmax(-1) == expected).sum()
    return loss, correct


@torch.no_grad()
def top_predictions(
    inputs: LogitInputs, top_k: int, temperature: float, *, chunk_bytes: int = CHUNK_BYTES
) -> TopPredictions:
    """The likeliest words of rows, without gradients.

    Args:
        inputs: the inputs of the logits of N rows.
        top_k: K, the number of words; less than the vocabulary has.
        temperature: divides the logits.
        chunk_bytes: memory for logits.

    Raises:
        InputError: `top_k` is out of range.
    """
    check_top_k(top_k, inputs.vocab_size)
    logits = _Logits(inputs)
    wide = wide_dtype(logits.dtype)
    parts = [
        top_of_logits(block, top_k, temperature)
        for chunk in _chunks(chunk_bytes, logits)
        for block in (logits.compute(chunk).to(wide),)
    ] or [top_of_logits(logits.rows.new_zeros(0, inputs.vocab_size).to(wide), top_k, temperature)]
    return TopPredictions(
        torch.cat([part.log_probabilities for part in parts]),
        torch.cat([part.words for part in parts]),
        torch.cat([part.rest for part in parts]),
        inputs.vocab_size,
        temperature,
    )


class _Logits:
    """Computes logits chunk by chunk, into one buffer.

    Attributes:
        dtype: the dtype of the products.
    """

    def __init__(self, inputs: LogitInputs) -> None:
        self.dtype = _product_dtype(inputs)
        self.rows, self.matrix, self._bias = (
            part.detach().to(self.dtype) for part in (inputs.rows, inputs.matrix, inputs.bias)
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
        """The distance between the starts of two rows in memory, in numbers.

        Rows start at cache lines: with BERT's 30522 words this makes the product a third faster.
        Not in half precision, where products would first copy rows that are not contiguous.
        """
        line = CACHE_LINE // self.dtype.itemsize if self.dtype.itemsize >= 4 else 1
        return math.ceil(width / line) * line


@dataclass(frozen=True, eq=False)
class _Losses:
    """The losses that `_FusedVocabLosses` computes, in an object that autograd does not look
    into."""

    teacher: LogitInputs | TopPredictions | None
    labels: Tensor | None
    kl: float
    mlm: float
    mse: float
    temperature: float
    chunk_bytes: int
    with_gradient: bool

    def unit(self, dtype: torch.dtype) -> float:
        """The number that derivatives of logits are divided by before rounding to this dtype.

        It is a power of two, so that only the range changes. In float16 the largest possible
        derivative becomes at most `LARGEST_HALF`, and those of rare words keep their digits; other
        dtypes have enough range.
        """
        if dtype != torch.float16:
            return 1.0
        largest = self.kl * self.temperature + self.mlm
        largest += self.mse * 4 * torch.finfo(dtype).max  # if logits are as far apart as possible
        return math.ldexp(1 / LARGEST_HALF, math.frexp(largest)[1])

    def evaluate(
        self, student: Tensor, teacher: Tensor | TopPredictions | None, labels: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Computes the terms of a block of rows.

        Args:
            student, teacher: (rows, V) logits; or the teacher's likeliest words.
            labels: (rows,).

        Returns:
            The sums kl, mlm and mse, (3,), and the derivative of the total, (rows, V) or None.
        """
        sums = student.new_zeros(3)
        gradient: Tensor | None = None
        if isinstance(teacher, TopPredictions):
            factor = self.kl if self.with_gradient else None
            sums[0], gradient = add_top_divergence(student, teacher, factor, gradient)
            teacher = None
        if teacher is not None and self.kl:
            factor = self.kl if self.with_gradient else None
            sums[0], gradient = add_kl_divergence(
                student, teacher, self.temperature, factor, gradient
            )
        if teacher is not None and self.mse:
            factor = self.mse if self.with_gradient else None
            sums[2], gradient = add_squared_error(student, teacher, factor, gradient)
        if labels is not None:
            factor = self.mlm if self.with_gradient else None
            sums[1], gradient = add_cross_entropy(student, labels, factor, gradient)
        return sums, gradient


class _FusedVocabLosses(torch.autograd.Function):
    """(rows, matrix, bias) -> the total, and the sums of the terms without a gradient."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, matrix: Tensor, bias: Tensor, losses: _Losses
    ) -> tuple[Tensor, Tensor]:
        logits = _Logits(LogitInputs(rows, matrix, bias))
        wide, unit = wide_dtype(logits.dtype), losses.unit(logits.dtype)
        top = losses.teacher if isinstance(losses.teacher, TopPredictions) else None
        teacher_logits = (
            _Logits(losses.teacher) if isinstance(losses.teacher, LogitInputs) else None
        )
        for_rows, for_matrix, for_bias = (
            torch.zeros_like(x, dtype=wide) if losses.with_gradient and needed else None
            for x, needed in zip((rows, matrix, bias), ctx.needs_input_grad, strict=False)
        )
        sums = torch.zeros(3, dtype=wide, device=rows.device)
        for chunk in _chunks(losses.chunk_bytes, logits, teacher_logits):
            student = logits.compute(chunk)  # (chunk, V)
            teacher = None if teacher_logits is None else teacher_logits.compute(chunk)
            kept = None if top is None else top[chunk]
            labels = None if losses.labels is None else losses.labels[chunk]
            for block in _blocks(student, wide):
                block_sums, gradient = losses.evaluate(
                    student[block].to(wide),
                    _block_of(teacher, kept, block, wide),
                    None if labels is None else labels[block],
                )
                sums += block_sums
                if gradient is not None:
                    if for_bias is not None:
                        for_bias += gradient.sum(0)
                    # overwrites the logits
                    student[block] = gradient if unit == 1 else gradient.div_(unit)
            if for_rows is not None:
                _add_product(for_rows[chunk], student, logits.matrix, unit)
            if for_matrix is not None:
                _add_product(for_matrix, student.t(), logits.rows[chunk], unit)
        factors = sums.new_tensor([losses.kl, losses.mlm, losses.mse])
        ctx.dtypes = rows.dtype, matrix.dtype, bias.dtype
        ctx.save_for_backward(
            *(
                gradient if gradient is None or dtype == torch.float16 else gradient.to(dtype)
                for gradient, dtype in zip(
                    (for_rows, for_matrix, for_bias), ctx.dtypes, strict=True
                )
            )
        )
        ctx.mark_non_differentiable(sums)
        return torch.dot(sums, factors), sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        unscaled = outer.device.type == "cpu" and outer.item() == 1.0  # saves a pass over (V, E)
        return *(
            gradient if gradient is None else (gradient if unscaled else gradient * outer).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ), None


def _block_of(
    logits: Tensor | None, top: TopPredictions | None, block: slice, dtype: torch.dtype
) -> Tensor | TopPredictions | None:
    """The teacher's logits, or its likeliest words, for the rows of a block."""
    if top is not None:
        return top[block]
    return None if logits is None else logits[block].to(dtype)


def _add_product(total: Tensor, left: Tensor, right: Tensor, unit: float) -> None:
    """total += unit left right; `unit` is 1 except for products in float16."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    elif left.dtype != torch.float16:
        total += left @ right  # a product of low precision, a sum of full precision
    elif left.is_cuda:
        total.add_(torch.mm(left, right, out_dtype=torch.float32), alpha=unit)
    else:
        total.addmm_(left.float(), right.float(), alpha=unit)


def _product_dtype(inputs: LogitInputs) -> torch.dtype:
    """The dtype in which a linear layer would compute here, under autocast too."""
    dtype = torch.promote_types(inputs.rows.dtype, inputs.matrix.dtype)
    device = inputs.rows.device.type
    if dtype != torch.float64 and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return dtype


def _chunks(chunk_bytes: int, *sides: _Logits | None) -> Iterator[slice]:
    """Divides all rows into chunks of about the same size that fit into memory."""
    present = [side for side in sides if side is not None]
    count, width = present[0].rows.shape[0], present[0].matrix.shape[0]
    fitting = max(1, chunk_bytes // (width * max(side.dtype.itemsize for side in present)))
    chunks = max(1, math.ceil(count / fitting))
    return _slices(count, max(1, math.ceil(count / chunks)))


def _blocks(logits: Tensor, dtype: torch.dtype) -> Iterator[slice]:
    """Divides the rows of a chunk into blocks; on a CPU, into those that fit into its cache."""
    rows, width = logits.shape
    fitting = max(1, BLOCK_BYTES // (width * dtype.itemsize))
    return _slices(rows, fitting if logits.device.type == "cpu" else rows)


def _slices(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))


def _check_top(teacher: TopPredictions, mse: float, temperature: float) -> None:
    if mse:
        raise InputError(
            "The squared error (mse) compares all logits, but only the likeliest words were kept."
        )
    if teacher.temperature != temperature:
        raise InputError(
            f"The likeliest words were kept at the temperature {teacher.temperature:g}, and cannot "
            f"be compared at {temperature:g}."
        )


def _check_teacher(student: LogitInputs, teacher: LogitInputs | TopPredictions | None) -> None:
    if teacher is None:
        raise InputError("A divergence or squared difference needs a teacher: none was given.")
    if teacher.vocab_size != student.vocab_size:
        raise InputError(
            f"The student's vocabulary has {student.vocab_size} entries, the teacher's "
            f"{teacher.vocab_size}: logits can be compared only over the same vocabulary."
        )
    rows = len(teacher) if isinstance(teacher, TopPredictions) else teacher.rows.shape[0]
    if rows != student.rows.shape[0]:
        found = counted(student.rows.shape[0], "row")
        raise InputError(f"The student has {found}, the teacher {rows}: expected the same rows.")


def _check_labels(inputs: LogitInputs, labels: Tensor | None) -> None:
    count = inputs.rows.shape[0]
    if labels is None or tuple(labels.shape) != (count,) or labels.dtype != torch.int64:
        found = "None" if labels is None else f"{tuple(labels.shape)} {labels.dtype}"
        raise InputError(f"labels: expected ({count},) int64, got {found}.")
    wrong = (labels != IGNORED_LABEL) & ((labels < 0) | (labels >= inputs.vocab_size))
    if bool(wrong.any()):
        raise InputError(
            f"labels contains {int(labels[wrong][0])}: expected 0 to {inputs.vocab_size - 1}, or "
            "-100 for none."
        )
