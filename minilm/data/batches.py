"""Steps, parts of a step and batches: which sequences go together.

There is no padding: a batch is all tokens one after another, and its size is a number of tokens.
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

# what label 1 of a pair means: the segments were swapped; the second one is a random one
SentenceTask = Literal["sentence_order", "next_sentence"]


@dataclass(frozen=True, eq=False)
class PackedSamples:
    """Samples one after another in one array, not masked yet.

    Attributes:
        ids: (T,) with [CLS] and [SEP].
        lengths: (B,) number of tokens of each sample; they sum to T.
        token_type_ids: (T,) the number of each token's segment; None for samples of one segment.
        sentence_labels: (B,) labels of pairs; None for samples of one segment.
    """

    ids: Integers
    lengths: Integers
    token_type_ids: Integers | None = None
    sentence_labels: Integers | None = None


def join_samples(parts: Sequence[PackedSamples]) -> PackedSamples:
    """Joins packed samples of one kind, in the order given."""
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
    """Samples that are made together. Threads may share a block."""

    @property
    def lengths(self) -> Integers:
        """(N,) number of tokens of each sample, special tokens included."""

    @property
    def keys(self) -> Integers:
        """(N,) a unique number for each sample, on which its random draws depend."""

    def gather(self, samples: Integers) -> PackedSamples:
        """Reads the samples with these numbers in the block, (B,)."""


class SampleSource(Protocol):
    """A source of samples, block by block; each block is a random part of an epoch's samples."""

    @property
    def vocab_size(self) -> int:
        """The vocabulary size of the token store."""

    @property
    def sentence_task(self) -> SentenceTask | None:
        """The task that the labels of pairs belong to; None for samples of one segment."""

    @property
    def fingerprint(self) -> dict[str, object]:
        """JSON values that must be the same when a run resumes."""

    @property
    def drawn_anew(self) -> bool:
        """Whether every epoch has different samples."""

    @property
    def num_blocks(self) -> int:
        """Number of blocks of an epoch, at least 1; all have about equally many tokens."""

    @property
    def no_samples(self) -> str:
        """The error message for an epoch without any sample."""

    def block(self, seed: int, epoch: int, number: int) -> SampleBlock:
        """A block of an epoch; always the same samples for the same numbers."""


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Packed sequences for pretraining.

    Attributes:
        samples: (B,) the numbers of the sequences, for messages.
        input_ids: (T,) int64, the sequences one after another.
        lengths: (B,) int64, number of tokens of each sequence; they sum to T.
        labels: (T,) int64, the id to predict; -100 where nothing is predicted.
        token_type_ids: (T,) int64, or None for sequences of one segment.
        sentence_labels: (B,) int64, the label of each sequence as a pair, or None.
        sentence_task: the task that these labels belong to.
        epoch: the epoch that the batch belongs to; None for batches that never change.
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
        """T, the number of tokens."""
        return self.input_ids.shape[0]

    def to(self, device: torch.device | str | int) -> TokenBatch:
        """The same batch with its tensors on another device."""
        # copies from ordinary memory to a GPU need not be waited for, and waiting for them would
        # also wait for all work that is queued there
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
    """Makes a batch of tensors from packed samples.

    Args:
        samples: (B,) the numbers of the samples.
        found: the samples, not masked.
        inputs: (T,) their masked ids, the input of the model.
        labels: (T,) the ids to predict, or -100.
        task: the task that the labels of pairs belong to.
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
        lengths: number of tokens of every sample, by its number.
        tokens: maximum size of a step; a single sample that is longer is a step of its own.

    Returns:
        The samples of each step. The last step, usually a shorter one, is kept: an epoch has every
        sample once.

    Raises:
        InputError: `tokens` is less than 1.

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

    From the longest sample on, each goes to the part with the fewest tokens so far; so two parts
    that are not empty differ by at most the longest sample. Within a part the order is kept.

    Args:
        samples: (B,) numbers of samples.
        lengths: (B,) number of tokens of each.
        parts: number of parts.

    Returns:
        Exactly `parts` arrays, some perhaps empty, that together are `samples`.

    Raises:
        InputError: `parts` is less than 1.

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
