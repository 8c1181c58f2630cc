"""What the engine knows of a model and of a data set: no more than these interfaces.

A `Learner` turns a batch into loss terms; `TrainingData` says which samples make a step, and makes
batches of them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from minilm.files.arrays import Floats, Integers


class TrainingBatch(Protocol):
    """Some samples, ready for a learner.

    If samples consist of several sequences, an attribute `rows`, (B,), says of how many.
    """

    @property
    def samples(self) -> Integers:
        """(B,) the numbers of its samples, for messages and for dropout."""

    @property
    def tokens(self) -> int:
        """The number of its tokens."""

    def to(self, device: torch.device) -> Self:
        """The same batch on a device."""


class TrainingData(Protocol):
    """The data to learn from. All randomness is a function of (seed, epoch, sample)."""

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """JSON values that must not have changed when a run resumes."""

    def steps(self, epoch: int) -> Sequence[Integers]:
        """The samples of every step of an epoch; independent of the number of processes.

        Steps may be planned only when they are read; `len` may plan them all.
        """

    def count_steps(self, epochs: int) -> int:
        """How many steps this many epochs take, at least approximately."""

    def count_samples(self) -> int:
        """How many samples an epoch has, at least approximately."""

    def split(self, epoch: int, samples: Integers, parts: int) -> Sequence[Integers]:
        """The samples of a step in exactly this many parts, some perhaps empty."""

    def batch(self, epoch: int, samples: Integers) -> Any:
        """A `TrainingBatch` of these samples."""


class Learner(nn.Module):
    """The model to train, with its loss. Its parameters and state do not include a teacher's."""

    @abstractmethod
    def counts(self, batch: Any) -> Mapping[str, int]:
        """The number of items in a batch over which each kind of term is a mean."""

    @abstractmethod
    def forward(self, batch: Any, counts: Mapping[str, float]) -> dict[str, Tensor]:
        """The loss terms of a micro-batch, scalars.

        "loss" carries the gradient, the others are for the log. Each is the batch's sum divided by
        `counts`, the numbers of the whole step over all micro-batches and processes, so that they
        add up to the step's means. A batch without samples gives zeros that every trained
        parameter takes part in.

        In training, dropout masks are drawn for each sample separately, so call models with all
        sequences of the batch, in its order. Other random numbers depend on how a step is divided
        into micro-batches and processes.
        """

    @property
    @abstractmethod
    def metric_names(self) -> tuple[str, ...]:
        """The names that `eval_step` gives."""

    @abstractmethod
    def eval_step(self, batch: Any) -> Mapping[str, tuple[float, float]]:
        """One batch, in eval mode and without gradients: name to (sum, number of items)."""

    def cause_of_nonfinite(self, batch: Any) -> str | None:
        """What, other than the step itself, made the terms of a batch not finite, and what to do.

        Called without gradients, before a run ends because of them.

        Returns:
            Sentences for the message; None = the learner knows of no such cause.
        """
        return None

    def eval_outputs(
        self, batch: Any
    ) -> tuple[Mapping[str, tuple[float, float]], Mapping[int, Floats]]:
        """Evaluates one batch: what `eval_step` gives, and the outputs that `eval_scores` needs.

        Returns:
            Name to (sum, number of items), for `metric_names`; and float32 arrays of any shapes, by
            numbers that no other batch has, such as those of its samples.
        """
        return self.eval_step(batch), {}

    def eval_scores(
        self, means: Mapping[str, float], outputs: Mapping[int, Floats]
    ) -> dict[str, float]:
        """The scores, including those that are no means over batches, such as F1.

        Args:
            means: the means of what `eval_outputs` gave, over all batches; without names that no
                batch has.
            outputs: the outputs of all batches, in every process.
        """
        return dict(means)
