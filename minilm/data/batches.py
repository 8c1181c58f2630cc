"""Steps, parts of a step and batches: which sequences go together.

There is no padding anywhere: a batch is all tokens in a row, and its size is a number of tokens.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from minilm.errors import InputError
from minilm.files.arrays import Integers

# what the label of a pair says: 1 = the segments were swapped; 1 = the second is a random one
SentenceTask = Literal["sentence_order", "next_sentence"]


@dataclass(frozen=True, eq=False)
class PackedSamples:
    """Samples in a row, not masked yet.

    Attributes:
        ids: (T,) with [CLS] and [SEP].
        lengths: (B,) tokens of each sample; they sum to T.
        token_type_ids: (T,) the number of each token's segment; None for samples of one segment.
        sentence_labels: (B,) of pairs; else None.
    """

    ids: Integers
    lengths: Integers
    token_type_ids: Integers | None = None
    sentence_labels: Integers | None = None


def join_samples(parts: Sequence[PackedSamples]) -> PackedSamples:
    """Several packed samples of one kind, in a row."""
    if len(parts) == 1:
        return parts[0]

    def together(arrays: list[Integers | None]) -> Integers | None:
        found = [array for array in arrays if array is not None]
        return np.concatenate(found) if found else None

    return PackedSamples(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.lengths for part in parts]),
        together([part.token_type_ids for part in parts]),
        together([part.sentence_labels for part in parts]),
    )


class SampleBlock(Protocol):
    """Samples that are made together. May be shared by threads."""

    @property
    def lengths(self) -> Integers:
        """(N,) tokens of each sample, special ones counted."""

    @property
    def keys(self) -> Integers:
        """(N,) a number of its own for each sample, which the draws for it depend on."""

    def gather(self, samples: Integers) -> PackedSamples:
        """Reads samples by their numbers in the block, (B,)."""


class SampleSource(Protocol):
    """Where samples come from: block by block, each a random part of the epoch's samples."""

    @property
    def vocab_size(self) -> int:
        """Of the token store."""

    @property
    def sentence_task(self) -> SentenceTask | None:
        """What the labels of pairs mean; None for samples of one segment."""

    @property
    def fingerprint(self) -> dict[str, object]:
        """JSON values that must be the same when a run resumes."""

    @property
    def drawn_anew(self) -> bool:
        """Whether every epoch has samples of its own."""

    @property
    def num_blocks(self) -> int:
        """Blocks of an epoch, at least 1; all have about as many tokens."""

    @property
    def no_samples(self) -> str:
        """What an error says of an epoch without any sample."""

    def block(self, seed: int, epoch: int, number: int) -> SampleBlock:
        """A block of an epoch; always the same samples for the same numbers."""


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Packed sequences for pretraining.

    Attributes:
        samples: (B,) the numbers of the sequences, for messages.
        input_ids: (T,) int64, the sequences in a row.
        lengths: (B,) int64, tokens of each sequence; they sum to T.
        labels: (T,) int64, the id to predict; -100 where nothing is.
        token_type_ids: (T,) int64, or None for sequences of one segment.
        sentence_labels: (B,) int64, the label of each sequence as a pair, or None.
        sentence_task: what these labels mean.
        epoch: of which it is a part; None for batches that are the same at all times.
    """

    samples: Integers
    input_ids: Tensor
    lengths: Tensor
    labels: Tensor
    token_type_ids: Tensor | None = None
    sentence_labels: Tensor | None = None
    sentence_task: SentenceTask | None = None
    epoch: int | None = None

    @property
    def tokens(self) -> int:
        """T, how many tokens it has."""
        return self.input_ids.shape[0]

    def to(self, device: torch.device | str | int) -> TokenBatch:
        """The same batch with its tensors on another device."""
        # towards a GPU, copies from ordinary memory are safe not to wait for, and waiting would
        # wait for all work that is queued there
        wait = torch.device(device).type != "cuda"

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=not wait)

        return TokenBatch(
            self.samples,
            self.input_ids.to(device, non_blocking=not wait),
            self.lengths.to(device, non_blocking=not wait),
            self.labels.to(device, non_blocking=not wait),
            move(self.token_type_ids),
            move(self.sentence_labels),
            self.sentence_task,
            self.epoch,
        )


def token_batch(
    samples: Integers,
    found: PackedSamples,
    inputs: Integers,
    labels: Integers,
    task: SentenceTask | None,
) -> TokenBatch:
    """The tensors of packed samples.

    Args:
        samples: (B,) their numbers.
        found: what was read.
        inputs: (T,) what the model sees of it.
        labels: (T,) what it is to predict.
        task: what the labels of pairs mean.
    """
    types, answers = found.token_type_ids, found.sentence_labels
    return TokenBatch(
        samples,
        torch.from_numpy(inputs),
        torch.from_numpy(found.lengths),
        torch.from_numpy(labels),
        None if types is None else torch.from_numpy(types),
        None if answers is None else torch.from_numpy(answers),
        task,
    )


def cut_steps(order: Integers, lengths: Integers, tokens: int) -> list[Integers]:
    """Cuts samples into steps of at most this many tokens, each as full as the order allows.

    Args:
        order: (N,) samples in the order in which they are used.
        lengths: the tokens of every sample, by its number.
        tokens: the most that a step may have; a single sample that is longer is a step of its own.

    Returns:
        The samples of each step. The last step, usually a shorter one, is kept: an epoch is every
        sample once.

    Raises:
        InputError: no room for any token.

    Example:
        >>> lengths = np.array([4, 3, 9, 2])
        >>> [step.tolist() for step in cut_steps(np.array([3, 0, 1, 2]), lengths, tokens=6)]
        [[3, 0], [1], [2]]
    """
    if tokens < 1:
        raise InputError(f"A step has at least 1 token, not {tokens}.")
    ends = lengths[order].cumsum()
    bounds = [0]
    begin = 0  # in tokens
    while bounds[-1] < len(order):
        stop = max(int(np.searchsorted(ends, begin + tokens, side="right")), bounds[-1] + 1)
        bounds.append(stop)
        begin = int(ends[stop - 1])
    return [order[begin:end] for begin, end in pairwise(bounds)]


def split_evenly(samples: Integers, lengths: Integers, parts: int) -> list[Integers]:
    """Splits samples into parts with about equally many tokens.

    The longest sample first, each goes to the part that has the fewest tokens so far; so two parts
    that are not empty differ by at most the longest sample. Within a part the order is kept.

    Args:
        samples: (B,) numbers of samples.
        lengths: (B,) their tokens.
        parts: how many.

    Returns:
        Exactly `parts` arrays, some perhaps empty, that together are `samples`.

    Raises:
        InputError: no parts.

    Example:
        >>> parts = split_evenly(np.array([7, 8, 9]), np.array([2, 5, 3]), parts=2)
        >>> [part.tolist() for part in parts]
        [[8], [7, 9]]
    """
    if parts < 1:
        raise InputError(f"parts must be at least 1, not {parts}.")
    if parts == 1:
        return [samples]
    loads = [(0, part) for part in range(parts)]  # a heap: tokens, then the number of the part
    part_of = np.empty(len(samples), dtype=np.int64)
    for index in np.argsort(-lengths, kind="stable").tolist():
        load, part = loads[0]
        part_of[index] = part
        heapq.heapreplace(loads, (load + int(lengths[index]), part))
    return [samples[part_of == part] for part in range(parts)]
