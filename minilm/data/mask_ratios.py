"""Mask ratios that change in the course of a run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from minilm.errors import InputError
from minilm.files.arrays import Doubles, Integers


@dataclass(frozen=True, kw_only=True)
class ChangingRatio:
    """A mask ratio that changes linearly from `first` to `last` over a run.

    Many masks give many predictions a sample, from which an untrained model learns fastest; few
    masks leave the context that a good model needs.

    The ratio depends on the place of a sample's step in the run: its epoch, and its step in that
    epoch. Both follow from (seed, epoch, sample), so that neither the number of processes, threads
    and micro-batches nor an interruption changes a mask. Every epoch is assumed to have as many
    steps as the first one; if it has a few more or fewer, the ratio is off by as little.

    Attributes:
        first: fraction of a sequence's tokens that is predicted at the first step.
        last: the fraction when all steps are done, and from then on.
        steps: length of the run in steps; or
        epochs: length of the run in epochs.

    Raises:
        InputError: a ratio is not between 0 and 1, or not exactly one of steps and epochs is given.

    References: Ankner et al. 2023, "Dynamic Masking Rate Schedules for MLM Pretraining" (linear,
        .30 to .15).

    Example:
        >>> ratio = ChangingRatio(first=0.3, last=0.15, epochs=2)
        >>> ratio.at(1, np.array([0, 50]), steps_per_epoch=100)
        array([0.225 , 0.1875])
    """

    first: float
    last: float
    steps: int | None = None
    epochs: int | None = None

    def __post_init__(self) -> None:
        for name in ("first", "last"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(
                    f"{name} is {getattr(self, name)!r}: expected a mask ratio between 0 and 1."
                )
        given = [value for value in (self.steps, self.epochs) if value is not None]
        if len(given) != 1 or given[0] < 1:
            raise InputError(
                f"steps is {self.steps} and epochs {self.epochs}: a mask ratio that changes needs "
                "one of them, a number from 1, to know when the run ends."
            )

    def at(self, epoch: int, steps: Integers, steps_per_epoch: float) -> Doubles:
        """The ratios of samples.

        Args:
            epoch: 0 for the first.
            steps: (B,) the step of the epoch that each sample is in, 0 for the first.
            steps_per_epoch: the expected number.

        Returns:
            (B,) float64.
        """
        if self.epochs is None:
            assert self.steps is not None
            done = (epoch * steps_per_epoch + steps) / self.steps
        else:
            done = (epoch + steps / steps_per_epoch) / self.epochs
        ratios: Doubles = self.first + (self.last - self.first) * np.clip(done, 0.0, 1.0)
        return ratios

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Its numbers as JSON values."""
        return asdict(self)
