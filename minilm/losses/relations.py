"""Relations between tokens: attention maps, and relations of queries, keys and values.

A *relation* is a table for every sequence and head: row i says how strongly token i is related to
each token of its sequence, softmax(L R^T / sqrt(D)). With queries and keys it is the attention map,
which MiniLM compares between student and teacher, together with the relation of values with values
(version 1); version 2 compares the relations of queries, keys and values, each with themselves.
Only the tables are compared, so student and teacher may differ in width, but not in the number of
heads into which the states of both are cut.

The loss is the Kullback-Leibler divergence of the student's rows from the teacher's. TinyBERT takes
the squared difference of the scores before the softmax instead. That also counts a constant
difference between all scores of a row, which has no effect in the model; the divergence ignores it.

Tables exist for a few sequences at a time, never between tokens of different ones, and the gradient
is computed along with the loss, so that memory does not grow with tokens x length x layers.
Products and softmaxes are in at least float32, under autocast too.

References: Wang et al. 2020, "MiniLM", sections 3.1 and 3.2; Wang et al. 2021, "MiniLMv2", section
3.1; Jiao et al. 2020, "TinyBERT", section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from minilm.errors import InputError
from minilm.files.progress import counted
from minilm.losses.elementary import LossSum
from minilm.losses.layer_states import check_lengths
from minilm.losses.precision import at_least_float32, wide_dtype

BLOCK_BYTES = 2**22  # bytes of the tables that exist at once, for student and teacher each
SIMILAR = 1.5  # sequences share a block up to this ratio of their lengths


class Relation(NamedTuple):
    """The two operands of a relation: for attention, queries and keys.

    Attributes:
        left: (T, H), one row of the table for each token.
        right: (T, H), one column for each token.
    """

    left: Tensor
    right: Tensor


def relation_divergence(
    student: Relation, teacher: Relation, lengths: Sequence[int], heads: int
) -> LossSum:
    """The divergence of a student's relations between tokens from its teacher's.

    Args:
        student: the student's operands; they get gradients.
        teacher: the operands for the same tokens; any width. They get no gradient.
        lengths: tokens of each sequence; they sum to T.
        heads: the number of parts into which the H numbers of a token are cut, each with its own
            table.

    Returns:
        The Kullback-Leibler divergence in nats, summed over T rows, mean over heads. 0 if both are
        equal.

    Raises:
        InputError: shapes or lengths do not fit, or `heads` does not divide a width.

    Example:
        >>> values = torch.randn(7, 12)
        >>> float(relation_divergence((values, values), (values, values), [4, 3], heads=3).sum)
        0.0
    """
    student, teacher = Relation(*student), Relation(*teacher)
    _check(student, teacher, lengths, heads)
    total = _RelationDivergence.apply(  # type: ignore[no-untyped-call]
        *student, _Fixed(teacher, tuple(lengths), heads, torch.is_grad_enabled())
    )
    return LossSum(total, student.left.shape[0])


@dataclass(frozen=True, eq=False)
class _Fixed:
    """The arguments that get no gradient, in an object that autograd does not look into."""

    teacher: Relation
    lengths: tuple[int, ...]
    heads: int
    with_gradient: bool


@dataclass(frozen=True, eq=False)
class _Block:
    """Some consecutive sequences as rows of equal length.

    Attributes:
        tokens: the part of the line that holds these sequences.
        shape: (N, S), S the length of the longest.
        index: (N * S,) the number, in this part, of the token in each place; None = in order.
        slots: (tokens,) the place of each token; None = in order.
        inside: (N, S) True where there is a token; None = everywhere.
    """

    tokens: slice
    shape: tuple[int, int]
    index: Tensor | None = None
    slots: Tensor | None = None
    inside: Tensor | None = None

    def rows(self, states: Tensor, heads: int) -> Tensor:
        """(T, H) -> (N, A, S, D); values at positions without a token are meaningless."""
        part = states[self.tokens]
        if self.index is not None:
            part = part.index_select(0, self.index)
        return part.view(*self.shape, heads, -1).transpose(1, 2)

    def line(self, rows: Tensor) -> Tensor:
        """(N, A, S, D) -> (tokens, H)."""
        flat = rows.transpose(1, 2).flatten(2).flatten(0, 1)
        return flat if self.slots is None else flat.index_select(0, self.slots)


class _RelationDivergence(torch.autograd.Function):
    """(left, right) of the student -> the sum."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, fixed: _Fixed) -> Tensor:
        wide, heads = wide_dtype(left.dtype), fixed.heads
        total = torch.zeros((), dtype=wide, device=left.device)
        for_left, for_right = (
            torch.zeros(states.shape, dtype=wide, device=left.device)
            if fixed.with_gradient and needed
            else None
            for states, needed in zip((left, right), ctx.needs_input_grad, strict=False)
        )
        with torch.autocast(left.device.type, enabled=False):
            sides = [at_least_float32(states) for states in (left, right)]
            known = [states.to(wide) for states in fixed.teacher]
            for block in _blocks(fixed.lengths, heads, wide, left.device):
                rows, columns = (block.rows(states, heads) for states in sides)
                scale = rows.shape[-1] ** -0.5
                log_p = _log_relation(rows, columns, block)
                others, their_columns = (block.rows(states, heads) for states in known)
                log_q = _log_relation(others, their_columns, block)
                q = log_q.exp()  # (N, A, S, S)
                found = (q * (log_q - log_p)).sum(-1)  # (N, A, S)
                outside = None if block.inside is None else ~block.inside[:, None, :]
                if outside is not None:
                    found.masked_fill_(outside, 0.0)
                total += found.sum() / heads
                if for_left is None and for_right is None:
                    continue
                slope = log_p.exp_().sub_(q)  # the derivative by the scores
                if outside is not None:
                    slope.masked_fill_(outside[..., None], 0.0)
                slope.mul_(scale / heads)
                if for_left is not None:
                    for_left[block.tokens] = block.line(slope @ columns)
                if for_right is not None:
                    for_right[block.tokens] = block.line(slope.transpose(-1, -2) @ rows)
        ctx.dtype = left.dtype
        ctx.save_for_backward(for_left, for_right)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        return *(
            None if gradient is None else (gradient * outer).to(ctx.dtype)
            for gradient in ctx.saved_tensors
        ), None


def _log_relation(rows: Tensor, columns: Tensor, block: _Block) -> Tensor:
    """The logarithm of the table, (N, A, S, S)."""
    scores = (rows * rows.shape[-1] ** -0.5) @ columns.transpose(-1, -2)
    if block.inside is not None:
        # places without a token get a large finite number: -inf would be NaN in the divergence
        least = torch.finfo(scores.dtype).min / 4
        scores.masked_fill_(~block.inside[:, None, None, :], least)
    return F.log_softmax(scores, dim=-1)


def _blocks(
    lengths: Sequence[int], heads: int, dtype: torch.dtype, device: torch.device
) -> Iterator[_Block]:
    """Divides the sequences into blocks of neighbours of similar length and of bounded size."""
    first, begin = 0, 0
    while first < len(lengths):
        least = most = lengths[first]
        stop = first + 1
        while stop < len(lengths):
            shorter, longer = min(least, lengths[stop]), max(most, lengths[stop])
            size = (stop + 1 - first) * heads * longer * longer * dtype.itemsize
            if longer > SIMILAR * shorter or size > BLOCK_BYTES:
                break
            least, most, stop = shorter, longer, stop + 1
        sizes = lengths[first:stop]
        tokens = slice(begin, begin + sum(sizes))
        yield _block(tokens, sizes, least, most, device)
        first, begin = stop, tokens.stop


def _block(
    tokens: slice, sizes: Sequence[int], least: int, most: int, device: torch.device
) -> _Block:
    shape = (len(sizes), most)
    if least == most:
        return _Block(tokens, shape)
    lengths = torch.tensor(sizes)
    column = torch.arange(most)
    inside = column < lengths[:, None]  # (N, S)
    begins = lengths.cumsum(0) - lengths
    index = begins[:, None] + column.minimum(lengths[:, None] - 1)
    slots = inside.flatten().nonzero()[:, 0]
    return _Block(tokens, shape, index.flatten().to(device), slots.to(device), inside.to(device))


def _check(student: Relation, teacher: Relation, lengths: Sequence[int], heads: int) -> None:
    for name, (left, right) in (("student", student), ("teacher", teacher)):
        if left.dim() != 2 or left.shape != right.shape:
            raise InputError(
                f"The {name}'s relation is of {tuple(left.shape)} and {tuple(right.shape)}: "
                "expected two tensors of the same shape (T, H)."
            )
        if heads < 1 or left.shape[1] % heads:
            raise InputError(
                f"heads is {heads}, which does not divide the {name}'s width of {left.shape[1]}."
            )
    if student.left.shape[0] != teacher.left.shape[0]:
        raise InputError(
            f"The student has {counted(student.left.shape[0], 'token')}, the teacher "
            f"{teacher.left.shape[0]}: expected the same tokens."
        )
    check_lengths(student.left, lengths)
