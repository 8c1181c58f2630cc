"""Where sequences begin and end: padded rows, or all tokens in one line.

A batch of texts is ragged. `Padded` keeps it as rows of equal length with a mask; `Packed` keeps
only the tokens that are attended to, one sequence behind the other, so that embeddings, linear
layers, norms and heads never touch padding. Attention is the one operation that has to know the
difference, so the layout owns it.

Inside a packed batch the sequences are sorted by length: neighbours of equal length then share one
attention call, or in training on a CPU neighbours of similar length a block. `gather` and `restore`
translate between the caller's order and the inner one.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from minilm.blocks.attention import (
    additive_mask,
    attention_context,
    explicit_attention,
    fused_attention,
    spells_out,
)
from minilm.blocks.dropout import dropout as drop_out

# Of `_in_blocks`. A CPU takes exponentials 16 or 32 at a time, and those that are left over one by
# one: a softmax over 13 numbers costs ten times that over 16.
BLOCK = 64  # tokens, the least width that short sequences share
VECTOR = 32  # widths are multiples of it
SIMILAR = 1.5  # longer sequences share a call up to this ratio of their lengths


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

    def attend_first(self, query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
        """Attention of the first tokens alone: (B, A, D) queries and contexts."""
        context, _ = self.attend(query[:, None], key, value, dropout, False)
        return context[:, 0]


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
        if spells_out(query, self.lengths[-1], dropout):
            return self._attend_in_blocks(query, key, value, dropout), None
        if query.device.type == "cpu":
            return self._attend_by_length(query, key, value, dropout), None
        if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and dropout == 0.0:
            return self._attend_varlen(query, key, value), None
        return self._attend_padded(query, key, value, dropout), None

    def attend_first(self, query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
        """Attention of the first tokens alone: (B, A, D) queries and contexts."""
        wide = torch.promote_types(query.dtype, torch.float32)  # of sums, as in a product
        products = query.index_select(0, self.sequence) * key  # (T, A, D)
        scores = products.sum(-1, dtype=wide) * query.shape[-1] ** -0.5  # (T, A)
        maps = drop_out(self.rows(scores, -math.inf).softmax(dim=1), dropout)  # (B, S, A)
        weighted = maps[self.sequence, self.column, :, None] * value
        context = torch.zeros(query.shape, dtype=wide, device=query.device)
        return context.index_add_(0, self.sequence, weighted).to(query.dtype)

    def _attend_by_length(
        self, query: Tensor, key: Tensor, value: Tensor, dropout: float
    ) -> Tensor:
        """One fused call for each group of sequences of equal length."""
        shapes = [(count, length) for length, count in Counter(self.lengths).items()]
        contexts = []
        # split, not slices: its backward is one concatenation instead of a full-size sum a group
        parts = (x.split_with_sizes([n * m for n, m in shapes]) for x in (query, key, value))
        for shape, *states in zip(shapes, *parts, strict=True):
            q, k, v = (x.unflatten(0, shape).transpose(1, 2) for x in states)
            context = fused_attention(q, k, v, None, dropout)  # (count, A, length, D)
            contexts.append(context.transpose(1, 2).flatten(0, 1))  # (count * length, A, D)
        return torch.cat(contexts)

    def _attend_in_blocks(
        self, query: Tensor, key: Tensor, value: Tensor, dropout: float
    ) -> Tensor:
        """Whole sequences side by side in blocks of equal width, masked from each other.

        Where the formula is spelled out, a few large products cost less than many small ones, even
        with some numbers computed in vain.
        """
        contexts = []
        parts = (
            x.split_with_sizes([len(b.slots) for b in self._blocks]) for x in (query, key, value)
        )
        for block, *states in zip(self._blocks, *parts, strict=True):
            count, _, width, _ = block.mask.shape
            q, k, v = (
                x.index_select(0, block.tokens).unflatten(0, (count, width)).transpose(1, 2)
                for x in states
            )  # (blocks, A, width, D)
            context, _ = explicit_attention(q, k, v, block.mask.to(q.dtype), dropout)
            contexts.append(context.transpose(1, 2).flatten(0, 1).index_select(0, block.slots))
        return torch.cat(contexts)

    @cached_property
    def _blocks(self) -> list[_Blocks]:
        """The line cut where sequences get too unlike, in blocks; the same for all layers."""
        groups, start = [], 0
        for end in range(1, len(self.lengths) + 1):
            limit = max(BLOCK, SIMILAR * self.lengths[start])
            if end == len(self.lengths) or self.lengths[end] > limit:
                groups.append(self.lengths[start:end])
                start = end
        return [_in_blocks(group) for group in groups]

    def _attend_padded(self, query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
        """Padding inside attention alone; runs on any device."""
        device = query.device
        lengths = torch.tensor(self.lengths, device=device)
        mask = torch.arange(self.lengths[-1], device=device) < lengths[:, None]
        where = mask.nonzero(as_tuple=True)  # of (B, S)
        q, k, v = (
            x.new_zeros((*mask.shape, *x.shape[1:])).index_put(where, x).transpose(1, 2)
            for x in (query, key, value)
        )  # (B, A, S, D)
        context = fused_attention(q, k, v, additive_mask(mask, q.dtype), dropout)
        return context.transpose(1, 2)[where]  # (T, A, D)

    def _attend_varlen(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The GPU kernel that takes ragged sequences directly."""
        from torch.nn.attention.varlen import varlen_attn

        lengths = torch.tensor((0, *self.lengths), device=query.device, dtype=torch.int32)
        bounds = lengths.cumsum(0, dtype=torch.int32)  # (B + 1,)
        longest = self.lengths[-1]
        context = varlen_attn(query, key, value, bounds, bounds, longest, longest)
        assert isinstance(context, Tensor)
        return context


@dataclass(frozen=True, eq=False)
class _Blocks:
    """Where the tokens of some sequences lie in blocks of equal width.

    Attributes:
        slots: (tokens,) int64: of every token, in the line of blocks.
        tokens: (blocks * width,) int64: the token in every slot. In what is left of a block it is
            the first one: a copy that only other copies attend to, and that nobody reads.
        mask: (blocks, 1, width, width) float32, what is added to the scores: 0 within a sequence,
            minus infinity between sequences.
    """

    slots: Tensor
    tokens: Tensor
    mask: Tensor


def block_width(longest: int, tokens: int) -> int:
    """How wide blocks are for sequences of up to so many tokens, and so many in all."""
    return -(-max(longest, min(BLOCK, tokens)) // VECTOR) * VECTOR


def _in_blocks(lengths: tuple[int, ...]) -> _Blocks:
    """Ascending lengths, one sequence after the other into the first block with room."""
    width = block_width(lengths[-1], sum(lengths))
    starts: list[int] = []
    end, limit = 0, 0
    for length in lengths:
        if end + length > limit:
            end, limit = limit, limit + width
        starts.append(end)
        end += length
    counts = torch.tensor(lengths)
    sequence = torch.arange(len(lengths)).repeat_interleave(counts)  # (tokens,)
    begins = torch.tensor(starts) - (counts.cumsum(0) - counts)
    token = torch.arange(len(sequence))
    slots = token + begins[sequence]
    tokens = torch.zeros(limit, dtype=torch.int64).index_copy_(0, slots, token)
    owner = torch.full((limit,), -1).index_copy_(0, slots, sequence).view(-1, 1, width)
    apart = owner[..., :, None] != owner[..., None, :]  # (blocks, 1, width, width)
    return _Blocks(slots, tokens, torch.zeros(apart.shape).masked_fill_(apart, -math.inf))


Layout = Padded | Packed
