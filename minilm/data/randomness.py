"""Random numbers without a generator that has a state: every draw is a function of its key.

What is drawn for a sample depends on (seed, stream, epoch, sample) and on nothing else: not on the
other samples of its batch, the number of processes and threads, or how often a run was interrupted.
"""

import math
from collections.abc import Sequence
from enum import IntEnum
from functools import lru_cache
from typing import Protocol

import numpy as np

from minilm.errors import InputError
from minilm.files.arrays import Doubles, Integers


class Stream(IntEnum):
    """First part of a key: the purpose of a draw, so that no two purposes share random numbers."""

    ORDER = 0
    MASKS = 1
    EVALUATION_ORDER = 2
    EVALUATION_MASKS = 3
    SEGMENTS = 4
    EVALUATION_SEGMENTS = 5
    BLOCKS = 6


class Draw(Protocol):
    """Draws uniform random numbers for the tokens of a packed batch; new ones at every call."""

    def __call__(self, columns: int) -> Doubles:
        """(T, columns) numbers in [0, 1)."""


def generator(seed: int, *key: int) -> np.random.Generator:
    """Returns a separate generator for every seed and key.

    Args:
        seed: at least 0.
        key: the purpose of the numbers: a `Stream`, an epoch, a document, ...; each at least 0.
            Keys of different length give different generators, (1,) and (1, 0) too.

    Raises:
        InputError: a number is negative or not an integer.

    Example:
        >>> generator(1, Stream.ORDER, 0).permutation(5).tolist()
        [3, 4, 1, 2, 0]
    """
    return np.random.default_rng(_seed_sequence(seed, key))


class TokenDraw:
    """The `Draw` of a batch: each sequence has its own stretch of one counter-based generator.

    Philox makes its numbers from a key and a counter alone. The sequence's number is the high part
    of the counter, so that setting the counter is all it takes to go to the next sequence: a tenth
    of what a new generator costs, which matters where sequences are short.

    Args:
        seed, key: as for `generator`.
        sequences: (B,) the number of each sequence, at least 0.
        lengths: (B,) number of tokens of each.
    """

    def __init__(
        self, seed: int, key: Sequence[int], sequences: Integers, lengths: Integers
    ) -> None:
        self._key = _seed_sequence(seed, key).generate_state(2, np.uint64)
        self._sequences = sequences.tolist()
        self._ends = lengths.cumsum().tolist()
        self._calls = 0

    def __call__(self, columns: int) -> Doubles:
        philox = np.random.Philox(key=self._key)
        random = np.random.Generator(philox).random
        state = philox.state
        counter = state["state"]["counter"]
        numbers = np.empty((self._ends[-1] if self._ends else 0, columns))
        begin = 0
        for sequence, end in zip(self._sequences, self._ends, strict=True):
            counter[:] = (0, 0, self._calls, sequence)
            philox.state = state
            random(out=numbers[begin:end])
            begin = end
        self._calls += 1
        return numbers


def heads(flips: Integers, uniform: Doubles) -> Integers:
    """Draws how many of `flips` fair coins show heads: binomial numbers by inversion.

    Args:
        flips: (N,) number of coins of each draw, at least 0.
        uniform: (N,) numbers in [0, 1), one for each draw.

    Returns:
        (N,) numbers from 0 to flips.
    """
    found = np.zeros_like(flips)
    order = np.argsort(flips, kind="stable")
    values, sizes = np.unique(flips, return_counts=True)
    ends = sizes.cumsum()
    for count, begin, end in zip(values.tolist(), ends - sizes, ends, strict=True):
        if count:
            places = order[begin:end]
            least, cumulative = _distribution_of_heads(count)
            found[places] = least + np.searchsorted(cumulative, uniform[places], side="right")
    return found


@lru_cache(4096)
def _distribution_of_heads(flips: int) -> tuple[int, Doubles]:
    """The smallest number of heads considered, and the cumulative probabilities from it on.

    Numbers more than ten standard deviations from the mean are left out; they have probability
    1e-23.
    """
    reach = 5 * math.isqrt(flips) + 5
    least, most = max(0, flips // 2 - reach), min(flips, flips // 2 + reach)
    numbers = np.arange(least, most)
    logarithms = np.append(0.0, np.log((flips - numbers) / (numbers + 1)).cumsum())
    cumulative = np.exp(logarithms - logarithms.max()).cumsum()
    return least, cumulative[:-1] / cumulative[-1]  # the last one is 1, which no number reaches


def _seed_sequence(seed: int, key: Sequence[int]) -> np.random.SeedSequence:
    for number in (seed, *key):
        if not isinstance(number, int | np.integer) or number < 0:
            raise InputError(
                f"A seed and every part of its key must be integers of at least 0, not {number!r}."
            )
    # a spawn key, unlike a longer list of entropy, tells (1,) from (1, 0)
    return np.random.SeedSequence(int(seed), spawn_key=[int(number) for number in key])
