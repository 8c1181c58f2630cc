"""The steps of a run in order, from any position, with their batches prepared."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count

from minilm.errors import TrainingError
from minilm.files.arrays import Integers
from minilm.training.distributed import Processes
from minilm.training.learner import TrainingData
from minilm.training.settings import TrainingSettings
from minilm.training.updates import MicroBatch, sample_keys

AHEAD = 2  # steps whose batches each worker prepares in advance


@dataclass(frozen=True)
class DataPosition:
    """The position of a run in the data: the next step is number `index` of `epoch`."""

    epoch: int = 0
    index: int = 0


START = DataPosition()


def prepared_steps(
    data: TrainingData,
    settings: TrainingSettings,
    processes: Processes,
    start: DataPosition = START,
) -> Generator[tuple[DataPosition, list[MicroBatch]], None, None]:
    """An endless series of steps: the position after each, and this process's micro-batches."""

    def make(epoch: int, samples: Integers) -> list[MicroBatch]:
        parts = data.split(epoch, samples, processes.world * settings.accumulation)
        shares = list(zip(parts, sample_keys(parts), strict=True))
        return [
            MicroBatch(data.batch(epoch, part), keys)
            for part, keys in shares[processes.rank :: processes.world]
        ]

    if settings.workers == 0:
        for position, epoch, samples in _positions(data, start):
            yield position, make(epoch, samples)
        return
    with ThreadPoolExecutor(settings.workers) as pool:
        waiting: list[tuple[DataPosition, Future[list[MicroBatch]]]] = []
        try:
            for position, epoch, samples in _positions(data, start):
                waiting.append((position, pool.submit(make, epoch, samples)))
                if len(waiting) > AHEAD * settings.workers:
                    ready, future = waiting.pop(0)
                    yield ready, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def _positions(
    data: TrainingData, start: DataPosition
) -> Iterator[tuple[DataPosition, int, Integers]]:
    """Every step from `start` on: the position after it, its epoch, its samples."""
    epoch, index = start.epoch, start.index
    while True:
        steps = data.steps(epoch)
        if not steps:
            raise TrainingError("The data has no samples to train on.")
        for number in count(index):  # not up to len(steps): it may not be known yet
            try:
                samples = steps[number]
            except IndexError:
                break
            yield DataPosition(epoch, number + 1), epoch, samples
        epoch, index = epoch + 1, 0
