"""The steps of each epoch, made block by block while training continues.

    source.block(seed, epoch, number) -> the block's samples in random order -> steps

A block is a random part of an epoch, so with a large corpus training never waits for all samples
and memory never holds them all. Which samples are in which step depends on (seed, epoch) alone.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import TypeVar, overload

import numpy as np

from minilm.data.batches import (
    PackedSamples,
    SampleBlock,
    SampleSource,
    cut_steps,
    join_samples,
)
from minilm.data.randomness import Stream, generator
from minilm.data.sequences import check_samples
from minilm.errors import DataError
from minilm.files.arrays import Integers

Kept = TypeVar("Kept")

KEPT = 3  # blocks of an epoch in memory: one ends while another begins, and one is made ahead
_EPOCHS = 2  # in memory


class Epochs:
    """The epochs of a source.

    One background thread makes the blocks. The next one, of this epoch or the first of the next
    epoch, is made as soon as half of a block's steps are taken, so that training does not wait.

    Args:
        source: the source of the samples.
        tokens_per_step: see `MaskedLMData`.
        seed: random seed of the order and the samples.
    """

    def __init__(self, source: SampleSource, *, tokens_per_step: int, seed: int) -> None:
        self._source = source
        self._tokens_per_step = tokens_per_step
        self._seed = seed
        self._maker = ThreadPoolExecutor(1, thread_name_prefix="samples")
        self._epochs: OrderedDict[int, Epoch] = OrderedDict()
        self._lock = Lock()

    def __getitem__(self, epoch: int) -> Epoch:
        with self._lock:
            found = self._epochs.get(epoch)
            if found is None:
                found = Epoch(
                    self._source,
                    self._seed,
                    epoch,
                    self._tokens_per_step,
                    self._maker,
                    then=lambda: self[epoch + 1].prepare(0),
                )
            _keep(self._epochs, epoch, found, _EPOCHS)
            return found


@dataclass(frozen=True, eq=False)
class _Block:
    """A block that has been made.

    Attributes:
        samples: its samples.
        steps: the steps that end in it.
        places: for each of its samples, the number of its step among these; samples left for the
            next block's first step have the number after the last.
    """

    samples: SampleBlock
    steps: list[Integers]
    places: Integers


class Epoch(Sequence[Integers]):
    """The steps of one epoch; a step is the numbers of its samples.

    Samples are numbered in the order in which they are made, those of the first block first.
    Samples at the end of a block that do not fill a step go into the next block's first step. The
    length is known once all blocks have been made; iterating over the steps does not need it.
    Threads may share an epoch.

    Args:
        source, seed, epoch, tokens_per_step: these determine the steps.
        maker: an executor with one thread, in which blocks are made in order.
        then: called when half of the last block's steps have been taken.

    Raises:
        DataError: the epoch has no samples; raised when they are requested.
    """

    def __init__(
        self,
        source: SampleSource,
        seed: int,
        epoch: int,
        tokens_per_step: int,
        maker: ThreadPoolExecutor,
        then: Callable[[], object],
    ) -> None:
        self._source = source
        self._seed = seed
        self._epoch = epoch
        self._tokens_per_step = tokens_per_step
        self._maker = maker
        self._then = then
        self._lock = Lock()
        self._blocks: OrderedDict[int, Future[_Block]] = OrderedDict()
        # for every block that was made, and for the next one: its first sample and step, and the
        # numbers and lengths of the samples that the block before left for it
        self._first_sample = [0]
        self._left = [(np.empty(0, np.int64), np.empty(0, np.int64))]
        self._first_step = [0]

    def __len__(self) -> int:
        while self._make_another():
            pass
        return self._first_step[-1]

    @overload
    def __getitem__(self, step: int) -> Integers: ...

    @overload
    def __getitem__(self, step: slice) -> list[Integers]: ...

    def __getitem__(self, step: int | slice) -> Integers | list[Integers]:
        if isinstance(step, slice):
            return [self[number] for number in range(*step.indices(len(self)))]
        if step < 0:
            step += len(self)
        while step >= self._first_step[-1]:
            if not self._make_another():
                raise IndexError(f"epoch {self._epoch} has {len(self)} steps, no number {step}")
        number = bisect_right(self._first_step, step) - 1
        steps = self._block(number).steps
        place = step - self._first_step[number]
        if 2 * (place + 1) >= len(steps):
            self.prepare(number + 1)
        return steps[place]

    def __bool__(self) -> bool:
        return next(iter(self), None) is not None

    def expected_steps(self) -> float:
        """The number of steps if all blocks are like the first one; exact for a single block."""
        steps = len(self._block(0).steps)
        if self._source.num_blocks == 1:
            return steps
        left = self._left[1][1].sum() / self._tokens_per_step
        return float((steps + left) * self._source.num_blocks)

    def expected_samples(self) -> int:
        """The number of samples if all blocks are like the first one; exact for a single block."""
        return len(self._block(0).samples.lengths) * self._source.num_blocks

    def expected_tokens(self) -> int:
        """The number of tokens if all blocks are like the first one; exact for a single block."""
        return int(self._block(0).samples.lengths.sum()) * self._source.num_blocks

    def lengths(self, samples: Integers) -> Integers:
        """(B,) number of tokens of the samples with these numbers."""
        return np.concatenate([block.lengths[here] for block, here in self._find(samples)])

    def steps_of(self, samples: Integers) -> Integers:
        """(B,) the steps that contain the samples with these numbers."""
        return np.concatenate(
            [
                self._first_step[number] + self._block(number).places[here]
                for number, here in self._stretches(samples)
            ]
        )

    def keys(self, samples: Integers) -> Integers:
        """(B,) the keys of the samples with these numbers."""
        return np.concatenate([block.keys[here] for block, here in self._find(samples)])

    def gather(self, samples: Integers) -> PackedSamples:
        """Reads the samples with these numbers, (B,).

        Raises:
            InputError: there is no such sample.
        """
        return join_samples([block.gather(here) for block, here in self._find(samples)])

    def prepare(self, number: int) -> None:
        """Has a block made in the background; after the last one, calls `then`."""
        if number == self._source.num_blocks:
            self._then()
        else:
            self._start(number)

    def _find(self, samples: Integers) -> Iterator[tuple[SampleBlock, Integers]]:
        """Splits samples into runs within one block: the block, and their numbers in it."""
        for number, here in self._stretches(samples):
            yield self._block(number).samples, here

    def _stretches(self, samples: Integers) -> Iterator[tuple[int, Integers]]:
        """Splits samples into runs within one block: its number, and their numbers in it."""
        while samples.max(initial=-1) >= self._first_sample[-1] and self._make_another():
            pass
        check_samples(samples, self._first_sample[-1])
        numbers = np.searchsorted(self._first_sample, samples, side="right") - 1
        for stretch in np.split(np.arange(len(samples)), np.flatnonzero(np.diff(numbers)) + 1):
            number = int(numbers[stretch[0]]) if len(stretch) else 0
            yield number, samples[stretch] - self._first_sample[number]

    def _make_another(self) -> bool:
        """Makes the first block that has not been made yet; False if there is none."""
        number = len(self._first_step) - 1
        if number == self._source.num_blocks:
            return False
        self._block(number)
        return True

    def _block(self, number: int) -> _Block:
        return self._start(number).result()

    def _start(self, number: int) -> Future[_Block]:
        with self._lock:
            found = self._blocks.get(number)
            if found is None:
                found = self._maker.submit(self._make, number)
            _keep(self._blocks, number, found, KEPT)
            return found

    def _make(self, number: int) -> _Block:
        """Makes a block. All before it have been made, though not all are still in memory."""
        samples = self._source.block(self._seed, self._epoch, number)
        key = (self._epoch, number) if number else (self._epoch,)
        order = generator(self._seed, Stream.ORDER, *key).permutation(len(samples.lengths))
        left, left_lengths = self._left[number]
        numbers = np.append(left, self._first_sample[number] + order)
        lengths = np.append(left_lengths, samples.lengths[order])
        places = cut_steps(np.arange(len(numbers)), lengths, self._tokens_per_step)
        behind = len(samples.lengths) + self._first_sample[number]
        last = number == self._source.num_blocks - 1
        if last and not behind:
            raise DataError(self._source.no_samples)
        rest = np.empty(0, np.int64) if last or not places else places.pop()
        steps = [numbers[place] for place in places]
        step_of = np.full(len(numbers), len(steps))
        step_of[: sum(map(len, places))] = np.repeat(np.arange(len(places)), [*map(len, places)])
        if number + 1 == len(self._first_step):  # not made before
            self._first_sample.append(behind)
            self._left.append((numbers[rest], lengths[rest]))
            self._first_step.append(self._first_step[number] + len(steps))
        own = np.empty(len(order), np.int64)
        own[order] = step_of[len(left) :]
        return _Block(samples, steps, own)


def _keep(kept: OrderedDict[int, Kept], number: int, found: Kept, most: int) -> None:
    """Adds an entry and drops the least recently used ones beyond `most`."""
    kept[number] = found
    kept.move_to_end(number)
    while len(kept) > most:
        kept.popitem(last=False)
