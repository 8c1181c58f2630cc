"""Making the parts of a shard: what is missing, by as many workers as there are."""

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
    """How far a shard is.

    Attributes:
        rows: of the shard.
        rows_done: of them, in parts that are finished or in work.
        rows_before: those of them that an earlier run had finished.
        parts: of the shard.
        parts_done: of them.
        seconds: since this run began with its first part.
    """

    rows: int
    rows_done: int
    rows_before: int
    parts: int
    parts_done: int
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since this run began with its first part."""
        return time.monotonic() - self.began

    @property
    def rate(self) -> float:
        """Rows a second of this run, all workers together; 0 before there are any."""
        return (self.rows_done - self.rows_before) / max(self.seconds, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds left; None while the rate is unknown."""
        return (self.rows - self.rows_done) / self.rate if self.rate > 0 else None


@dataclass(frozen=True)
class ShardResult:
    """What was made of a shard.

    Attributes:
        rows: of the shard.
        parts: of the shard.
        parts_made: by this run.
        rows_made: by this run.
        counts: what was counted in all its parts, such as texts that were cut.
        missing: how many parts of the whole are missing, those of other shards.
        seconds: this run took for the parts it made.
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
    """Reads a file once, to know where its parts begin; see `RowFile.scan`.

    Raises:
        InputError: `part_rows` or `threads` is less than 1.
        DataError: as there.
    """
    for name, value in (("part_rows", part_rows), ("threads", threads)):
        if value < 1:
            raise InputError(f"{argument(name)} is {value}: expected at least 1.")
    return RowFile.scan(path, part_rows, form, on_bytes)


def check_texts(file: RowFile, text_key: str) -> None:
    """Reads all texts, so that a bad one is found before the work of days rests on the file.

    A file that is repaired is another file, for which nothing of the work would be kept.

    Raises:
        DataError: a text is bad; the message names its line.
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
    """Makes the parts of a shard that are missing.

    Args:
        parts: the directory.
        shard: which parts.
        job: makes a part and writes it; its result are the counts of the part.
        workers: processes; 1 = this one does it, None = as many as torch would use threads on a
            CPU, and 1 elsewhere.
        threads: of torch in every worker.
        device: "cpu" or the kind of another one.
        progress: called now and then.

    Raises:
        InputError: `workers` is less than 1.
        DataError: another process works on the shard; a row is bad; or a worker was killed.
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
    """Torch has this many threads in here."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def cuts_unsaid() -> Iterator[None]:
    """Without the warning that texts were cut: of parts, it is said once for all of them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* longer than .* and (was|were) cut")
        yield


def checked_shard(shard: str | Shard) -> Shard:
    """A shard, however it was given."""
    return shard if isinstance(shard, Shard) else Shard.parse(shard)
