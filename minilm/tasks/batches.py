"""Samples in batches: the steps of training, and all samples for evaluation and prediction."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
import torch

from minilm.data.batches import split_evenly
from minilm.data.randomness import Stream, generator
from minilm.errors import InputError
from minilm.files.arrays import Integers
from minilm.sentence.encoder import pack
from minilm.tasks.task import Sample, Task, TaskBatch, collate

Balance = Literal["none", "weights", "sampling"]


class TaskData:
    """Samples in steps of so many; see `minilm.training.learner.TrainingData`.

    Args:
        task: whose samples they are.
        samples: with labels.
        batch_size: samples of a step. The last step of an epoch may have fewer.
        seed: of the order.
        balance: "sampling" draws, with replacement, all classes equally often; an epoch still has
            as many samples.

    Raises:
        InputError: no samples, or a batch_size below 1.
    """

    def __init__(
        self,
        task: Task[Any],
        samples: Sequence[Sample],
        batch_size: int,
        seed: int,
        balance: Balance = "none",
    ) -> None:
        if not samples:
            raise InputError("There is nothing to train on: no record was usable.")
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}: expected at least 1.")
        self._task = task
        self._samples = samples
        self._lengths = np.array([sample.tokens for sample in samples])
        self._batch_size = batch_size
        self._seed = seed
        self._classes = task.imbalance(samples) if balance == "sampling" else None
        self.fingerprint: dict[str, Any] = {
            "samples": samples_digest(samples),
            "batch_size": batch_size,
            "seed": seed,
            "balance": balance,
        }

    def steps(self, epoch: int) -> Sequence[Integers]:
        """The samples of every step of an epoch."""
        random = generator(self._seed, Stream.ORDER, epoch)
        count = len(self._samples)
        if self._classes is None:
            order = random.permutation(count)
        else:
            _, number, frequency = np.unique(self._classes, return_inverse=True, return_counts=True)
            chance = 1 / (len(frequency) * frequency[number])
            order = random.choice(count, size=count, p=chance)
        return [
            order[start : start + self._batch_size] for start in range(0, count, self._batch_size)
        ]

    def count_steps(self, epochs: int) -> int:
        """How many steps so many epochs take."""
        return epochs * -(-len(self._samples) // self._batch_size)

    def count_samples(self) -> int:
        """How many samples an epoch has."""
        return len(self._samples)

    def split(self, epoch: int, samples: Integers, parts: int) -> list[Integers]:
        """The samples of a step in exactly so many parts, balanced by tokens."""
        return split_evenly(samples, self._lengths[samples], parts)

    def batch(self, epoch: int, samples: Integers) -> TaskBatch | NoBatch:
        """These samples, packed."""
        if not len(samples):
            return NoBatch()
        return collate(self._task, self._samples, samples)


class NoBatch:
    """The part of a step of a process for which there was no sample."""

    samples: Integers = np.zeros(0, np.int64)
    tokens = 0

    def to(self, device: torch.device) -> Self:
        """The same."""
        return self


def batches(task: Task[Any], samples: Sequence[Sample], tokens_per_batch: int) -> list[TaskBatch]:
    """All samples in batches of at most so many tokens, shortest first."""
    lengths = [sample.tokens for sample in samples]
    return [collate(task, samples, np.array(rows)) for rows in pack(lengths, tokens_per_batch)]


def samples_digest(samples: Sequence[Sample]) -> str:
    """A short name for exactly these samples and labels."""
    summary = hashlib.blake2b(digest_size=16)
    for sample in samples:
        for row in sample.rows:
            summary.update(row.ids.astype(np.int32).tobytes())
            summary.update(row.type_ids.astype(np.int8).tobytes())
        label = sample.label
        summary.update(label.tobytes() if isinstance(label, np.ndarray) else repr(label).encode())
    return summary.hexdigest()
