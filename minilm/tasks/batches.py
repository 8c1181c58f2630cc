"""Samples in batches: the steps of training, and all samples for evaluation and prediction."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
import torch

from minilm.data.batches import split_evenly
from minilm.data.randomness import Stream, generator
from minilm.errors import InputError, argument
from minilm.files.arrays import Integers
from minilm.sentence.encoder import pack
from minilm.tasks.task import Sample, Task, TaskBatch, collate

Balance = Literal["none", "weights", "sampling"]


class TaskData:
    """The samples of a task as training data; see `minilm.training.learner.TrainingData`.

    Args:
        task: the task of the samples.
        samples: labelled samples, followed by those without labels, which only a teacher labels.
        batch_size: number of samples in a step. The last step of an epoch may have fewer.
        seed: random seed of the order.
        balance: "sampling" draws, with replacement, all classes equally often; an epoch still has
            as many samples.
        labelled_share: fraction of the samples of an epoch that have labels: those are repeated to
            reach it, while the others come once. None = every sample comes once.

    Raises:
        InputError: there are no samples, batch_size is below 1, or labelled_share is out of range
            or given without unlabelled samples.
    """

    def __init__(
        self,
        task: Task[Any],
        samples: Sequence[Sample],
        batch_size: int,
        seed: int,
        balance: Balance = "none",
        labelled_share: float | None = None,
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
        labelled = [sample for sample in samples if sample.known]
        self._labelled = self._drawn = len(labelled)  # how many there are, and in an epoch
        unlabelled = samples[self._labelled :]
        if labelled_share is not None:
            if not 0 < labelled_share < 1 or not unlabelled:
                raise InputError(
                    f"{argument('labelled_share')} is {labelled_share}: expected a part of an "
                    f"epoch between 0 and 1, and {argument('unlabelled')} records for the rest."
                )
            wanted = round(len(unlabelled) * labelled_share / (1 - labelled_share))
            self._drawn = max(wanted, 1)
        self._classes = task.imbalance(labelled) if balance == "sampling" else None
        self.fingerprint: dict[str, Any] = {
            "samples": samples_digest(labelled),
            "batch_size": batch_size,
            "seed": seed,
            "balance": balance,
        }
        if unlabelled:
            self.fingerprint["unlabelled"] = samples_digest(unlabelled)
            self.fingerprint["labelled_share"] = labelled_share

    def steps(self, epoch: int) -> Sequence[Integers]:
        """The samples of every step of an epoch."""
        random = generator(self._seed, Stream.ORDER, epoch)
        order = self._draw_labelled(random)
        if self._labelled < len(self._samples):
            unlabelled = np.arange(self._labelled, len(self._samples))
            order = random.permutation(np.concatenate([order, unlabelled]))
        size = self._batch_size
        return [order[start : start + size] for start in range(0, len(order), size)]

    def _draw_labelled(self, random: np.random.Generator) -> Integers:
        """The samples with labels of an epoch, in random order."""
        if self._classes is None:
            rounds = -(-self._drawn // self._labelled)
            orders = [random.permutation(self._labelled) for _ in range(rounds)]
            return np.concatenate(orders)[: self._drawn]
        _, number, frequency = np.unique(self._classes, return_inverse=True, return_counts=True)
        chance = 1 / (len(frequency) * frequency[number])
        return random.choice(self._labelled, size=self._drawn, p=chance)

    def count_steps(self, epochs: int) -> int:
        """How many steps this many epochs take."""
        return epochs * -(-self.count_samples() // self._batch_size)

    def count_samples(self) -> int:
        """The number of samples of an epoch."""
        return self._drawn + len(self._samples) - self._labelled

    @property
    def labelled_share(self) -> float:
        """The fraction of an epoch, and of a step on average, that has labels."""
        return self._drawn / self.count_samples()

    def split(self, epoch: int, samples: Integers, parts: int) -> list[Integers]:
        """The samples of a step in exactly this many parts, balanced by tokens."""
        return split_evenly(samples, self._lengths[samples], parts)

    def batch(self, epoch: int, samples: Integers) -> TaskBatch | NoBatch:
        """These samples, packed."""
        if not len(samples):
            return NoBatch()
        return collate(self._task, self._samples, samples)


class NoBatch:
    """A process's part of a step, if there was no sample left for it."""

    samples: Integers = np.zeros(0, np.int64)
    tokens = 0

    def to(self, device: torch.device) -> Self:
        """Returns itself."""
        return self


def batches(task: Task[Any], samples: Sequence[Sample], tokens_per_batch: int) -> list[TaskBatch]:
    """All samples in batches of at most this many tokens, shortest first."""
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
