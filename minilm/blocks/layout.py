"""Where sequences begin and end: padded rows, or all tokens in one line.

The texts of a batch have unequal lengths. `Padded` keeps them as rows of equal length with a mask;
`Packed` keeps only the tokens that are attended to, one sequence after the other, so that
embeddings, linear layers, norms and heads never process padding. A layout holds the order and
nothing else; attention, the one operation that depends on it, is in kernels.py.

Inside a packed batch the sequences are sorted by length, so that neighbours of equal length can
share one attention call. `pack` and `unpack` translate between that order and the caller's.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Padded:
    """Rows of equal length, (B, S).

    Attributes:
        mask: (B, S) bool, True = attended; None = all are.
        explicit: whether attention has to compute its formula step by step.
        derived: data that kernels build from this layout, once for all layers of a call.
    """

    mask: Tensor | None
    explicit: bool = False
    derived: dict[Any, Any] = field(default_factory=dict, repr=False)

    def pack(self, values: Tensor) -> Tensor:
        """From the caller's order to the inner order, which is the same here."""
        return values

    def unpack(self, values: Tensor, fill: float = 0.0) -> Tensor:
        """From the inner order to the caller's: (B, S, ...), `fill` at unattended positions."""
        if self.mask is None:
            return values
        return values.masked_fill(~self._like(values), fill)

    def merge(self, unpacked: Tensor, values: Tensor) -> Tensor:
        """`values`, taken from `unpacked` where attended, so that `unpacked` gets a gradient."""
        return unpacked if self.mask is None else unpacked.where(self._like(values), values)

    def to_padded(self, values: Tensor, fill: float) -> Tensor:
        """One row per sequence, (B, S, ...), `fill` at unattended positions."""
        return self.unpack(values, fill)

    def first(self, hidden: Tensor) -> Tensor:
        """The state of column 0 of every row, attended or not: (B, H)."""
        return hidden[:, 0]

    def keep(self, sequences: Tensor, hidden: Tensor) -> tuple[Padded, Tensor]:
        """Keeps the rows of these numbers, (N,) int64: their layout and states (N, S, ...)."""
        mask = None if self.mask is None else self.mask.index_select(0, sequences)
        return Padded(mask, self.explicit), hidden.index_select(0, sequences)

    def _like(self, values: Tensor) -> Tensor:
        assert self.mask is not None
        return self.mask.reshape(self.mask.shape + (1,) * (values.dim() - 2))


@dataclass(frozen=True, eq=False)
class Packed:
    """All attended tokens in one line, (T, ...), shortest sequence first.

    Build one with `Packed.from_mask` or `Packed.from_lengths`.

    Attributes:
        lengths: (B,) sequence lengths in the inner order; rows without any token are left out.
        groups: the number of sequences of each length, in the same order.
        shape: the leading shape of the caller's tensors: (B, S), or (T,) for a packed call.
        index: (T,) int64: inner token t is the caller's flat position index[t]; None = identity.
        sequence: (T,) int64: the caller's sequence number of inner token t.
        position: (T,) int64: the position of inner token t in its row (S columns), or in its
            sequence for a packed call.
        offsets: (B,) int64: where sequence b of the caller begins in the inner order.
        explicit, derived: as in `Padded`.
    """

    lengths: tuple[int, ...]
    groups: dict[int, int]
    shape: tuple[int, ...]
    index: Tensor | None
    sequence: Tensor
    position: Tensor
    offsets: Tensor
    explicit: bool = False
    derived: dict[Any, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_mask(cls, mask: Tensor, counts: list[int], *, explicit: bool = False) -> Packed:
        """The attended positions of padded rows.

        Args:
            mask: (B, S) bool, True = attended.
            counts: the number of attended positions of each row, already read from the device.
            explicit: see the attribute.
        """
        inner = torch.tensor(counts, device=mask.device)  # (B,)
        order = inner.argsort(stable=True)  # inner sequence number -> row
        found = mask[order].nonzero_static(size=sum(counts))  # (T, 2), without waiting for a GPU
        row, column = found.unbind(1)  # (T,), (T,)
        sequence = order[row]
        offsets = torch.empty_like(order)
        inner = inner[order]
        offsets[order] = inner.cumsum(0) - inner
        index = sequence * mask.shape[1] + column
        lengths = tuple(sorted(filter(None, counts)))
        groups, shape = Counter(lengths), tuple(mask.shape)
        return cls(lengths, groups, shape, index, sequence, column, offsets, explicit)

    @classmethod
    def from_lengths(
        cls, sizes: list[int], device: torch.device | str = "cpu", *, explicit: bool = False
    ) -> Packed:
        """The layout of a line of tokens that the caller has packed.

        Args:
            sizes: the lengths of the B sequences, every one at least 1; they sum to T.
            device: the device of the tokens.
            explicit: see the attribute.
        """
        lengths, tokens = torch.tensor(sizes, device=device), sum(sizes)
        order = lengths.argsort(stable=True)
        inner = lengths[order]
        sequence = torch.repeat_interleave(order, inner, output_size=tokens)  # (T,)
        begin = lengths.cumsum(0) - lengths  # (B,) in the caller's line
        inner_begin = inner.cumsum(0) - inner
        offsets = torch.empty_like(order)
        offsets[order] = inner_begin
        position = torch.arange(tokens, device=device)
        position = position - torch.repeat_interleave(inner_begin, inner, output_size=tokens)
        ascending = tuple(sorted(sizes))
        index = None if ascending == tuple(sizes) else begin[sequence] + position
        groups, shape = Counter(ascending), (tokens,)
        return cls(ascending, groups, shape, index, sequence, position, offsets, explicit)

    def pack(self, values: Tensor) -> Tensor:
        """From the caller's (B, S, ...) or (T, ...) to the inner (T, ...)."""
        if self.index is None:
            return values
        return values.flatten(0, len(self.shape) - 1).index_select(0, self.index)

    def unpack(self, values: Tensor, fill: float = 0.0) -> Tensor:
        """From the inner (T, ...) to the caller's shape, `fill` at unattended positions."""
        if self.index is None:
            return values
        shape = (math.prod(self.shape), *values.shape[1:])
        # new_zeros gets zeroed memory from the system; new_full would write every padded position
        flat = values.new_zeros(shape) if fill == 0.0 else values.new_full(shape, fill)
        return flat.index_copy_(0, self.index, values).view(*self.shape, *values.shape[1:])

    def merge(self, unpacked: Tensor, values: Tensor) -> Tensor:
        """`values`, taken from `unpacked`, so that `unpacked` gets a gradient."""
        return self.pack(unpacked)

    def to_padded(self, values: Tensor, fill: float) -> Tensor:
        """One row per sequence: (B, S, ...), or (B, longest, ...) for a packed call."""
        if len(self.shape) == 2:
            return self.unpack(values, fill)
        padded = values.new_full((len(self.offsets), self.lengths[-1], *values.shape[1:]), fill)
        return padded.index_put((self.sequence, self.position), values)

    def first(self, hidden: Tensor) -> Tensor:
        """The state of the first token of every sequence: (B, H). All must have one."""
        return hidden.index_select(0, self.offsets)

    def keep(self, sequences: Tensor, hidden: Tensor) -> tuple[Packed, Tensor]:
        """Keeps some of the sequences, without gaps where the others were.

        Args:
            sequences: (N,) int64: numbers of the caller's sequences, at least one, ascending.
            hidden: (T, ...) states in the inner order.

        Returns:
            The layout of a packed call with these sequences only, and their states in its inner
            order. Sorting by length is stable, so their order does not change.
        """
        count = len(self.offsets)
        wanted = torch.zeros(count, dtype=torch.bool, device=sequences.device)
        tokens = wanted.index_fill_(0, sequences, True)[self.sequence].nonzero()[:, 0]  # (T',)
        sizes = torch.bincount(self.sequence, minlength=count)[sequences].tolist()
        layout = Packed.from_lengths(sizes, hidden.device, explicit=self.explicit)
        return layout, hidden.index_select(0, tokens)


Layout = Padded | Packed
