"""Makes the missing parts of a shard, in one or several worker processes."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from minilm.data.parts import Parts, Shard
from minilm.data.row_files import RowFile, RowReader
from minilm.errors import DataError, InputError, argument
from minilm.files.workers import Job, Result, run_tasks


@dataclass
class PartsProgress:
    """The progress of a shard.

    Attributes:
        rows: number of rows of the shard.
        rows_done: rows done, in finished and unfinished parts.
        rows_before: rows done by earlier runs.
        parts: number of parts of the shard.
        parts_done: number of finished parts.
        seconds: time in seconds since this run began its first part.
    """

    rows: int
    rows_done: int
    rows_before: int
    parts: int
    parts_done: int
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Time in seconds since this run began its first part."""
        return time.monotonic() - self.began

    @property
    def rate(self) -> float:
        """Rows a second of this run, all workers together; 0 before any are done."""
        return (self.rows_done - self.rows_before) / max(self.seconds, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds left; None while the rate is unknown."""
        return (self.rows - self.rows_done) / self.rate if self.rate > 0 else None


@dataclass(frozen=True)
class ShardResult:
    """The result of making a shard.

    Attributes:
        rows: number of rows of the shard.
        parts: number of parts of the shard.
        parts_made: number of parts that this run made.
        rows_made: number of rows that this run made.
        counts: counts summed over all its parts, such as texts that were cut.
        missing: number of parts of other shards that are still missing.
        seconds: time in seconds that this run took for the parts it made.
    """

    rows: int
    parts: int
    parts_made: int
    rows_made: int
    counts: dict[str, int]
    missing: int
    seconds: float


def scan_rows(
    path: Path,
    part_rows: int,
    threads: int,
    form: str | None,
    on_bytes: Callable[[int], object] = lambda _: None,
) -> RowFile:
    """Reads a file once, to find where its parts begin; see `RowFile.scan`.

    Raises:
        InputError: `part_rows` or `threads` is less than 1.
        DataError: as for `RowFile.scan`.
    """
    for name, value in (("part_rows", part_rows), ("threads", threads)):
        if value < 1:
            raise InputError(f"{argument(name)} is {value}: expected at least 1.")
    return RowFile.scan(path, part_rows, form, on_bytes)


def check_texts(file: RowFile, text_key: str) -> None:
    """Reads all texts, so that a bad one is found now and not after days of work.

    A file that is repaired later counts as another file, and all work done would be lost.

    Raises:
        DataError: a text cannot be read; the message names its line.
    """
    with RowReader(file) as reader:
        for _ in reader.texts(0, file.rows, text_key):
            pass


def run_parts(
    parts: Parts,
    shard: Shard,
    job: Job,
    *,
    workers: int | None,
    threads: int,
    device: str = "cpu",
    progress: Callable[[PartsProgress], object] = lambda _: None,
) -> ShardResult:
    """Makes the missing parts of a shard.

    Args:
        parts: the directory of the parts.
        shard: which parts to make.
        job: makes and writes a part; its result is the counts of the part.
        workers: number of processes; 1 = this one, None = as many as torch would use threads on a
            CPU, and 1 on other devices.
        threads: number of torch threads in every worker.
        device: type of the device, such as "cpu" or "cuda".
        progress: called now and then.

    Raises:
        InputError: `workers` is less than 1.
        DataError: another process works on the shard, a row cannot be read, or a worker was
            killed.
    """
    if workers is None:
        workers = max(1, torch.get_num_threads() // threads) if device == "cpu" else 1
    if workers < 1:
        raise InputError(f"{argument('workers')} is {workers}: expected at least 1.")
    manifest = parts.manifest
    mine = shard.parts(manifest.num_parts)
    with parts.working_on(shard):
        done = parts.records(mine)
        before = sum(record.rows for record in done.values())
        missing = [part for part in mine if part not in done]
        sizes = {part: manifest.rows_of(part)[1] - manifest.rows_of(part)[0] for part in missing}
        rows = before + sum(sizes.values())
        state = PartsProgress(rows, before, before, len(mine), len(done))
        counts: Counter[str] = Counter()
        for record in done.values():
            counts.update(record.counts)

        def on_rows(count: int) -> None:
            state.rows_done += count
            progress(state)

        def on_done(part: int, result: Result) -> None:
            state.parts_done += 1
            counts.update(result)
            progress(state)

        progress(state)
        if min(workers, len(missing)) == 1:
            with _threads(threads), job.open() as work:
                state.began = time.monotonic()
                for part in missing:
                    on_done(part, work(part, on_rows))
        else:
            run_tasks(job, missing, workers, on_rows=on_rows, on_done=on_done, error=DataError)
        elsewhere = manifest.num_parts - len(mine)
        if elsewhere:
            others = [part for part in range(manifest.num_parts) if part not in mine]
            elsewhere = len(others) - len(parts.records(others))
    return ShardResult(
        rows=rows,
        parts=len(mine),
        parts_made=len(missing),
        rows_made=rows - before,
        counts=dict(counts),
        missing=elsewhere,
        seconds=state.seconds,
    )


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Inside the block torch uses this many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def cuts_unsaid() -> Iterator[None]:
    """Suppresses the warning about cut texts inside the block: it is given once for all parts."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* longer than .* and (was|were) cut")
        yield


def checked_shard(shard: str | Shard) -> Shard:
    """Returns a shard, also if it is given as a string such as "2/8"."""
    return shard if isinstance(shard, Shard) else Shard.parse(shard)
