"""Where sequences begin and end: padded rows, or all tokens in one line.

A batch of texts is ragged. `Padded` keeps it as rows of equal length with a mask; `Packed` keeps
only the tokens that are attended to, one sequence behind the other, so that embeddings, linear
layers, norms and heads never touch padding. Attention is the one operation that has to know the
difference, so the layout owns it.

Inside a packed batch the sequences are sorted by length: neighbours of equal length then share one
attention call. `gather` and `restore` translate between the caller's order and the inner one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from minilm.blocks.attention import (
    additive_mask,
    attention_context,
    explicit_attention,
    spells_out,
)

# Sequences go together up to this ratio of their lengths, see `Packed._attend_by_length`. Measured
# on batches of 32 short texts: 8 % of a fine-tuning step in bfloat16 on AMX.
SIMILAR = 1.5


@dataclass(frozen=True, eq=False)
class Padded:
    """Rows of equal length, (B, S).

    Attributes:
        mask: True where attended, None if that is everywhere.
        explicit: never take the fused form of attention. Its backward is wrong for a row that
            attends to nothing: it recomputes the maps from a sum in which the mask's huge number
            has swallowed everything else, and gets 1 for each of the S weights instead of 1 / S.
    """

    mask: Tensor | None
    explicit: bool = False

    def gather(self, values: Tensor) -> Tensor:
        """From the caller's order to the inner order: the same here."""
        return values

    def restore(self, values: Tensor, fill: float = 0.0) -> Tensor:
        """From the inner order to the caller's: (B, S, ...), `fill` at unattended positions."""
        if self.mask is None:
            return values
        mask = self.mask.reshape(self.mask.shape + (1,) * (values.dim() - 2))
        return values.masked_fill(~mask, fill)

    def rows(self, values: Tensor, fill: float) -> Tensor:
        """One row a sequence, (B, S, ...), `fill` at unattended positions."""
        return self.restore(values, fill)

    def first(self, hidden: Tensor) -> Tensor:
        """The state of column 0 of every row, attended or not: (B, H)."""
        return hidden[:, 0]

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, dropout: float, return_maps: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Attention within rows.

        Args:
            query, key, value: (B, S, A, D).
            dropout: dropout probability on the attention maps.
            return_maps: run the explicit form and return its maps.

        Returns:
            The context (B, S, A, D), and the maps (B, A, S, S) or None.
        """
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))  # (B, A, S, D)
        mask = None if self.mask is None else additive_mask(self.mask, query.dtype)
        maps: Tensor | None = None
        if return_maps or self.explicit:
            context, maps = explicit_attention(query, key, value, mask, dropout)
        else:
            context = attention_context(query, key, value, mask, dropout)
        return context.transpose(1, 2), maps if return_maps else None  # (B, S, A, D)


@dataclass(frozen=True, eq=False)
class Packed:
    """All attended tokens in one line, (T, ...), shortest sequence first.

    Build one with `Packed.from_mask` or `Packed.from_lengths`.

    Attributes:
        lengths: (B,) sequence lengths in the inner order; rows without any token are left out.
        shape: the leading shape of the caller's tensors: (B, S), or (T,) for a packed call.
        index: (T,) int64: inner token t is the caller's flat position index[t]; None = identity.
        sequence: (T,) int64: the caller's sequence number of inner token t.
        column: (T,) int64: the position of inner token t in its row (S columns), or in its
            sequence for a packed call.
        starts: (B,) int64: where sequence b of the caller begins in the inner order.
    """

    lengths: tuple[int, ...]
    shape: tuple[int, ...]
    index: Tensor | None
    sequence: Tensor
    column: Tensor
    starts: Tensor

    @classmethod
    def from_mask(cls, mask: Tensor) -> Packed:
        """The attended positions of padded rows.

        Args:
            mask: (B, S) bool, True = attended.
        """
        counts = mask.sum(dim=1)  # (B,)
        order = counts.argsort(stable=True)  # inner sequence number -> row
        row, column = mask[order].nonzero(as_tuple=True)  # (T,), (T,)
        sequence = order[row]
        return cls._build(
            counts, order, sequence * mask.shape[1] + column, sequence, column, mask.shape
        )

    @classmethod
    def from_lengths(cls, lengths: Tensor) -> Packed:
        """A line of tokens that is packed already.

        Args:
            lengths: (B,) int64, every one at least 1; they sum to T.
        """
        order = lengths.argsort(stable=True)
        sequence = torch.repeat_interleave(order, lengths[order])  # (T,)
        begin = lengths.cumsum(0) - lengths  # (B,) in the caller's line
        inner_begin = (lengths[order].cumsum(0) - lengths[order]).repeat_interleave(lengths[order])
        column = torch.arange(sequence.shape[0], device=lengths.device) - inner_begin
        return cls._build(
            lengths, order, begin[sequence] + column, sequence, column, sequence.shape
        )

    @classmethod
    def _build(
        cls,
        counts: Tensor,
        order: Tensor,
        index: Tensor,
        sequence: Tensor,
        column: Tensor,
        shape: tuple[int, ...],
    ) -> Packed:
        inner = counts[order]
        starts = torch.empty_like(order)
        starts[order] = inner.cumsum(0) - inner
        lengths = tuple(n for n in inner.tolist() if n > 0)
        in_order = len(shape) == 1 and bool((order[1:] > order[:-1]).all())
        return cls(lengths, tuple(shape), None if in_order else index, sequence, column, starts)

    def gather(self, values: Tensor) -> Tensor:
        """From the caller's (B, S, ...) or (T, ...) to the inner (T, ...)."""
        if self.index is None:
            return values
        return values.flatten(0, len(self.shape) - 1).index_select(0, self.index)

    def restore(self, values: Tensor, fill: float = 0.0) -> Tensor:
        """From the inner (T, ...) to the caller's shape, `fill` at unattended positions."""
        if self.index is None:
            return values
        shape = (math.prod(self.shape), *values.shape[1:])
        # zeros come untouched from the system, an explicit fill would write every padded position
        flat = values.new_zeros(shape) if fill == 0.0 else values.new_full(shape, fill)
        return flat.index_copy_(0, self.index, values).view(*self.shape, *values.shape[1:])

    def rows(self, values: Tensor, fill: float) -> Tensor:
        """One row a sequence: (B, S, ...), or (B, longest, ...) for a packed call."""
        if len(self.shape) == 2:
            return self.restore(values, fill)
        padded = values.new_full((len(self.starts), self.lengths[-1], *values.shape[1:]), fill)
        return padded.index_put((self.sequence, self.column), values)

    def first(self, hidden: Tensor) -> Tensor:
        """The state of the first token of every sequence: (B, H). All must have one."""
        return hidden.index_select(0, self.starts)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, dropout: float, return_maps: bool
    ) -> tuple[Tensor, None]:
        """Attention within sequences; the inputs and the context are (T, A, D)."""
        if return_maps:
            raise AssertionError("attention maps need the padded layout")
        if query.device.type == "cpu":
            return self._attend_by_length(query, key, value, dropout), None
        if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and dropout == 0.0:
            return self._attend_varlen(query, key, value), None
        return self._attend_padded(query, key, value, dropout), None

    def _attend_by_length(
        self, query: Tensor, key: Tensor, value: Tensor, dropout: float
    ) -> Tensor:
        """One call for each group of sequences of equal length.

        Where the formula is spelled out, a call of many small steps costs more than a little
        padding: sequences of similar length then go together.
        """
        slack = SIMILAR if spells_out(query, self.lengths[-1]) else 1.0
        groups = _groups(self.lengths, slack)
        contexts = []
        # split, not slices: its backward is one concatenation instead of a full-size sum a group
        parts = (x.split_with_sizes([sum(group) for group in groups]) for x in (query, key, value))
        for group, q, k, v in zip(groups, *parts, strict=True):
            if group[0] < group[-1]:
                contexts.append(_attend_padded(group, q, k, v, dropout))
                continue
            shape = (len(group), group[0])
            q, k, v = (x.unflatten(0, shape).transpose(1, 2) for x in (q, k, v))
            context = attention_context(q, k, v, None, dropout)  # (count, A, length, D)
            contexts.append(context.transpose(1, 2).flatten(0, 1))  # (count * length, A, D)
        return torch.cat(contexts)

    def _attend_padded(self, query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
        """Padding inside attention alone; runs on any device."""
        return _attend_padded(self.lengths, query, key, value, dropout)

    def _attend_varlen(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The GPU kernel that takes ragged sequences directly."""
        from torch.nn.attention.varlen import varlen_attn

        lengths = torch.tensor((0, *self.lengths), device=query.device, dtype=torch.int32)
        bounds = lengths.cumsum(0, dtype=torch.int32)  # (B + 1,)
        longest = self.lengths[-1]
        context = varlen_attn(query, key, value, bounds, bounds, longest, longest)
        assert isinstance(context, Tensor)
        return context


def _groups(lengths: tuple[int, ...], slack: float) -> list[tuple[int, ...]]:
    """Ascending lengths cut into runs whose last is at most `slack` times their first."""
    groups, start = [], 0
    for end in range(1, len(lengths) + 1):
        if end == len(lengths) or lengths[end] > slack * lengths[start]:
            groups.append(lengths[start:end])
            start = end
    return groups


def _attend_padded(
    lengths: tuple[int, ...], query: Tensor, key: Tensor, value: Tensor, dropout: float
) -> Tensor:
    """Attention within sequences, (T, A, D), that are padded to the longest just for it."""
    device = query.device
    mask = torch.arange(lengths[-1], device=device) < torch.tensor(lengths, device=device)[:, None]
    where = mask.nonzero(as_tuple=True)  # of (B, S)
    q, k, v = (
        x.new_zeros((*mask.shape, *x.shape[1:])).index_put(where, x).transpose(1, 2)
        for x in (query, key, value)
    )  # (B, A, S, D)
    context = attention_context(q, k, v, additive_mask(mask, q.dtype), dropout)
    return context.transpose(1, 2)[where]  # (T, A, D)


Layout = Padded | Packed
