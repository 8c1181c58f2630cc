"""Dropout whose masks depend on the sample, not on the other samples in its batch.

Usually dropout draws its numbers from a generator, one after the other: the mask of a token depends
on everything that was drawn before, so on how a step is divided into batches. In training, a number
is kept or dropped here by a hash of

    the seed and the step, the sample, the layer, the token's position, the index in its vector.

The hash is one multiplication, `key of the token * key of the place` modulo 2^64, both keys drawn
at random by splitmix64; the number is dropped where the product falls in the lowest share. For any
two tokens, or any two places, the products are independent, as the upper bits of multiplicative
hashing are.

References: Dietzfelbinger et al. 1997, "A Reliable Randomized Algorithm for the Closest-Pair
Problem", on multiplicative hashing; Steele et al. 2014, "Fast Splittable Pseudorandom Number
Generators", on splitmix64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minilm.blocks.layout import Layout, Packed
from minilm.errors import InputError

Keys = NDArray[np.uint64]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
AT_ONCE = 1 << 15  # products to compute at a time, so that they stay in the cache
UNKNOWN = np.uint64(1 << 63)  # added to the numbers of sequences that belong to no sample


class SampleDropout:
    """Draws the dropout masks of the sequences of one batch.

    Every application of a layer has a number, and so has every call of dropout in it. Both count
    from the beginning of the batch's forward pass, so that applications with shared weights
    differ. A layer that gradient checkpointing computes again has its old number.

    Args:
        seed: the seed of the step, the same in every process.
        sequences: (R,) one number for each sequence that the model is called with, in the order of
            the call. It identifies the sample, and the row within the sample.
    """

    def __init__(self, seed: int, sequences: Keys) -> None:
        self._seed = _mix(np.array([seed], np.uint64))
        self._sequences = _mix(sequences.astype(np.uint64) + self._seed)
        self._layout: Layout | None = None
        self._applications = 0  # applications of layers so far
        self._application = 0  # the current one; 0 = outside any layer
        self._calls = 0  # calls of dropout in it
        self._tokens: dict[tuple[int, tuple[int, ...]], tuple[Layout, Tensor]] = {}

    def enter(self, layout: Layout) -> None:
        """Notes the call of a model: from now on states are in the order of this layout."""
        self._layout = layout

    def numbered(self, layer: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps a layer so that recomputing this application draws the same masks."""
        self._applications += 1
        number, layout = self._applications, self._layout

        def apply(*arguments: Any) -> Any:
            before = self._layout, self._application, self._calls
            self._layout, self._application, self._calls = layout, number, 0
            try:
                return layer(*arguments)
            finally:
                self._layout, self._application, self._calls = before

        return apply

    def states(self, x: Tensor, probability: float) -> Tensor | None:
        """The factors of states: 0 where dropped, 1 / (1 - probability) elsewhere.

        Args:
            x: (..., H) states of all tokens in the order of the layout, or (B, H) of sequences in
                the order of the call.
            probability: the probability of being dropped.

        Returns:
            A tensor of the shape and dtype of `x`; None if `x` is neither.
        """
        keys = self._keys_of(x)
        if keys is None:
            return None
        inner = x.shape[keys.dim() :]
        columns = self._columns(self.call(), inner.numel()).view((1,) * keys.dim() + inner)
        return kept(keys.view(keys.shape + (1,) * len(inner)), columns, probability, x)

    def probabilities(self, probs: Tensor, places: Places, probability: float) -> Tensor:
        """The factors of attention probabilities, as in `states`.

        Args:
            probs: (B, A, Q, K).
            places: the tokens: queries (B, Q), and positions (B, K) or (1, K).
            probability: the probability of being dropped.
        """
        (batch, heads, *_), positions = probs.shape, places.positions
        length = int(positions.max()) + 1
        columns = self._columns(places.call, length * heads).view(length, heads)
        columns = columns[positions].transpose(1, 2).expand(batch, -1, -1)  # (B, A, K)
        rows = places.queries[:, None, :].expand(-1, heads, -1)  # (B, A, Q)
        found = kept(
            rows.flatten(0, 1)[:, :, None],
            columns.flatten(0, 1)[:, None, :],
            probability,
            probs.flatten(0, 1),
        )  # (B * A, Q, K)
        return found.view(probs.shape)

    def tokens(self, layout: Layout, shape: tuple[int, ...]) -> Tensor:
        """A key for each token in the inner order of a layout.

        Args:
            layout: the layout of the current or of an earlier call.
            shape: shape of the int64 result: (T,) for packed tokens or (B, S) for rows.
        """
        found = self._tokens.get((id(layout), shape))
        if found is None:
            if isinstance(layout, Packed):
                sequence, position = layout.sequence.numpy(), layout.position.numpy()
            else:
                sequence, position = np.ogrid[: shape[0], : shape[1]]
            sequences = self._of_sequences(int(sequence.max()) + 1)
            keys = _mix(sequences[sequence] + _times(position))
            # the layout is kept as well, so that no other layout gets its id
            found = self._tokens[id(layout), shape] = (layout, _tensor(keys | np.uint64(1)))
        return found[1]

    def places(self, layout: Packed) -> Places:
        """The places of all tokens in a line, (T,)."""
        tokens = self.tokens(layout, tuple(layout.sequence.shape))
        return Places(self, self.call(), tokens, layout.position)

    def call(self) -> int:
        """The number of the next call of dropout."""
        if self._application == 0 and torch._C._current_graph_task_id() != -1:
            raise InputError(
                "Gradient checkpointing recomputes dropout outside the layers of a model: set "
                "gradient_checkpointing of the model instead of calling checkpoint()."
            )
        self._calls += 1
        return self._application << 32 | self._calls

    def _keys_of(self, x: Tensor) -> Tensor | None:
        layout = self._layout
        if layout is None or x.numel() == 0:
            return None
        if isinstance(layout, Packed):
            count, tokens = len(layout.offsets), tuple(layout.sequence.shape)
            if x.dim() > 1 and x.shape[:1] == tokens:
                return self.tokens(layout, tokens)
        else:
            count = x.shape[0]
            if x.dim() > 2:
                return self.tokens(layout, tuple(x.shape[:2]))
        if x.dim() != 2 or x.shape[0] != count:
            return None
        return _tensor(_mix(self._of_sequences(count)) | np.uint64(1))

    def _of_sequences(self, count: int) -> Keys:
        known = self._sequences[:count]
        more = np.arange(count - len(known)).astype(np.uint64) + UNKNOWN
        return np.concatenate([known, _mix(more + self._seed)])

    def _columns(self, call: int, count: int) -> Tensor:
        base = _mix(_mix(np.array([call], np.uint64)) + self._seed)
        return _tensor(_mix(base + _times(np.arange(count))))


@dataclass(frozen=True, eq=False)
class Places:
    """The tokens between which attention probabilities are dropped.

    Attributes:
        draws: draws the masks.
        call: the number of the call of dropout, one for all parts of a batch.
        queries: int64 keys of the tokens that attend, see `SampleDropout.tokens`.
        positions: int64 positions, in their sequences, of the tokens that are attended to.
    """

    draws: SampleDropout
    call: int
    queries: Tensor
    positions: Tensor

    def split(self, sizes: list[int]) -> list[Places]:
        """Cuts the places of a line, (T,), into parts of these sizes."""
        queries, positions = (x.split_with_sizes(sizes) for x in (self.queries, self.positions))
        return [
            Places(self.draws, self.call, *part) for part in zip(queries, positions, strict=True)
        ]

    def rows(self, count: int, tokens: Tensor | None = None) -> Places:
        """All places, or those of some tokens, in this many rows: (B, S)."""
        queries, positions = self.queries, self.positions
        if tokens is not None:
            queries, positions = queries[tokens], positions[tokens]
        return Places(self.draws, self.call, queries.view(count, -1), positions.view(count, -1))


def kept(rows: Tensor, columns: Tensor, probability: float, like: Tensor) -> Tensor:
    """A dropout mask: 0 where the product of two keys is low, 1 / (1 - probability) elsewhere.

    Args:
        rows: int64 keys, odd.
        columns: int64 keys; both broadcast to the shape of `like`.
        probability: the probability of being dropped.
        like: a tensor with the shape and dtype of the result.
    """
    mask = torch.empty(like.shape, dtype=like.dtype)
    limit = min(round(probability * 2**64) - 2**63, 2**63 - 1)
    step = max(1, AT_ONCE // max(1, like.shape[1:].numel()))
    products = torch.empty((step, *like.shape[1:]), dtype=torch.int64)
    parts = torch.split(mask, step)
    for part, row, column in zip(parts, _parts(rows, step), _parts(columns, step), strict=False):
        product = torch.mul(row, column, out=products[: part.shape[0]])
        torch.ge(product, limit, out=part)  # 1 where kept, else 0
    return mask.mul_(1 / max(1 - probability, 2**-16))


def _parts(keys: Tensor, step: int) -> Iterator[Tensor]:
    """Yields `step` rows at a time; a single row, which is the same for all, without end."""
    if keys.shape[0] > 1:
        yield from torch.split(keys, step)
        return
    while True:
        yield keys


def _mix(keys: Keys) -> Keys:
    """The output function of splitmix64: every bit of the result depends on every bit."""
    keys = keys + GOLDEN
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))


def _times(numbers: NDArray[Any]) -> Keys:
    return numbers.astype(np.uint64) * GOLDEN


def _tensor(keys: Keys) -> Tensor:
    return torch.from_numpy(keys.view(np.int64))


_current: ContextVar[SampleDropout | None] = ContextVar("sample_dropout", default=None)


def current() -> SampleDropout | None:
    """The dropout of the batch that this thread works on; None outside `sample_dropout`."""
    return None if torch.compiler.is_compiling() else _current.get()


def entered(layout: Layout) -> None:
    """Notes that a model in train mode is called, and how its tokens are laid out."""
    if draws := current():
        draws.enter(layout)


def numbered(layer: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a layer so that recomputing this application of it draws the same masks."""
    draws = current()
    return layer if draws is None else draws.numbered(layer)


@contextmanager
def sample_dropout(
    seed: int, samples: Sequence[int] | NDArray[Any], rows: Sequence[int] | NDArray[Any] | None
) -> Iterator[None]:
    """Inside the block, on a CPU, a sample's dropout does not depend on the rest of its batch.

    It acts on calls of the current thread, in the forward and the backward pass. Torch's generators
    are neither read nor changed.

    Args:
        seed: the seed of the step; other seeds draw other masks.
        samples: (B,) numbers from 0 that identify the samples of the batch; no two are equal.
        rows: (B,) the number of sequences of each sample; None = one each.

    Example:
        >>> with sample_dropout(seed=step, samples=[17, 4], rows=None):
        ...     model(input_ids, lengths=lengths, labels=labels).loss.backward()
    """
    owners = np.asarray(samples).astype(np.uint64)
    sequences = _mix(owners)
    if rows is not None:
        counts = np.asarray(rows)
        ends = counts.cumsum()
        within = np.arange(ends[-1] if len(ends) else 0) - (ends - counts).repeat(counts)
        sequences = sequences.repeat(counts) + _times(within)
    before = _current.set(SampleDropout(seed, sequences))
    try:
        yield
    finally:
        _current.reset(before)
