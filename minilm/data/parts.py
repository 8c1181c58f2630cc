"""Results for the rows of a file, in parts that several processes and machines can write.

    DIRECTORY/part-000000.npy          results of rows 0 to part_rows - 1, and so on
              _manifest.json           what is computed of which rows, and how
              _done/part-000000.json   says that the part is complete: size, digest and counts

A part depends only on its rows and the manifest, not on the shard or the worker that wrote it, nor
on interruptions. The record of a part is moved into place after the part itself. It names the
manifest that it belongs to, so that parts of different runs are never mixed. Programs that read a
directory of Parquet files ignore names that begin with "_" or ".".
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from minilm.data.store_manifest import FileRecord, count, difference
from minilm.errors import CheckpointError, DataError, InputError, by_place
from minilm.files.atomic import make_directory, replace_files
from minilm.files.json_file import json_bytes, read_json
from minilm.files.lock import locked
from minilm.files.progress import counted

VERSION = 1
MANIFEST = "_manifest.json"
DONE = "_done"
PART_ROWS = 16_384
SUFFIXES = ("npy", "parquet", "jsonl")

_MAX_BYTES = 2**20
# settings whose values mean nothing to a reader
_WORDS = {"model": "another model", "texts": "other texts", "data": "other data"}


@dataclass(frozen=True)
class Shard:
    """The parts that one of several runs writes: every `count`-th part.

    Attributes:
        number: 1 to `count`.
        count: number of shards.
    """

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise InputError(
                f"There is no shard {self.number} of {self.count}: expected 1/{self.count} to "
                f"{self.count}/{self.count}."
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses a string such as "2/8".

        Raises:
            InputError: the string has another form.
        """
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        if not found:
            raise InputError(f"{text!r:.40} is not a shard: expected two numbers such as 2/8.")
        return cls(int(found[1]), int(found[2]))

    def parts(self, total: int) -> range:
        """The numbers of its parts, out of `total`."""
        return range(self.number - 1, total, self.count)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


@dataclass(frozen=True)
class PartsManifest:
    """The content of _manifest.json.

    Attributes:
        kind: "vectors" or "predictions".
        rows: number of rows of the input.
        part_rows: number of rows of every part but the last.
        suffix: file name extension of the parts.
        settings: everything else that affects the results, as JSON values.
    """

    kind: str
    rows: int
    part_rows: int
    suffix: str
    settings: Mapping[str, Any]

    @property
    def num_parts(self) -> int:
        """The number of parts when all are written."""
        return -(-self.rows // self.part_rows)

    @cached_property
    def fingerprint(self) -> str:
        """A digest of all the fields."""
        return hashlib.sha256(json_bytes(asdict(self))).hexdigest()

    def rows_of(self, part: int) -> tuple[int, int]:
        """The first row of a part, and the one after its last."""
        start = part * self.part_rows
        return start, min(start + self.part_rows, self.rows)

    def as_json(self) -> dict[str, Any]:
        """The content of the file."""
        return {"version": VERSION, **asdict(self), "fingerprint": self.fingerprint}

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Reads the manifest of a directory.

        Raises:
            DataError: there is none, it is damaged, or it has another version.
        """
        path = directory / MANIFEST
        if not path.is_file():
            raise DataError(
                f"{directory} has no {MANIFEST}: expected a directory that minilm encode or "
                "minilm predict has written with --output."
            )
        data = read_json(path, max_bytes=_MAX_BYTES, error=DataError)
        if data.get("version") != VERSION:
            raise DataError(
                f"{path} has the version {data.get('version')!r}; this minilm reads {VERSION}."
            )
        try:
            found = cls(
                kind=str(data["kind"]),
                rows=count(data["rows"]),
                part_rows=max(1, count(data["part_rows"])),
                suffix=str(data["suffix"]),
                settings=dict(data["settings"]),
            )
        except (KeyError, TypeError, ValueError) as problem:
            raise DataError(f"{path} is damaged: {problem!r}.") from None
        if found.as_json() != data or found.suffix not in SUFFIXES:
            raise DataError(f"{path} was changed after it was written.")
        return found


@dataclass(frozen=True)
class PartRecord:
    """The record of a finished part.

    Attributes:
        rows: number of rows.
        bytes, sha256: size and digest of its file.
        counts: counts made while it was written, such as texts that were cut.
    """

    rows: int
    bytes: int
    sha256: str
    counts: Mapping[str, int]


class Parts:
    """A directory of parts.

    Args:
        directory: the directory.
        manifest: describes the parts.

    Attributes:
        directory, manifest: as given.
    """

    def __init__(self, directory: Path, manifest: PartsManifest) -> None:
        self.directory = directory
        self.manifest = manifest

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> Self:
        """Opens an existing directory of parts. Raises DataError if it is something else."""
        return cls(Path(directory), PartsManifest.read(Path(directory)))

    @classmethod
    def begin(cls, directory: Path, manifest: PartsManifest) -> Self:
        """Opens a directory that is new or was begun with the same manifest.

        Raises:
            DataError: the directory holds something else, or was begun with other settings.
            CheckpointError: it cannot be written.
        """
        path = directory / MANIFEST
        if not path.exists():
            if directory.exists() and not directory.is_dir():
                raise DataError(f"{directory} is a file: expected a directory for the parts.")
            try:
                make_directory(directory / DONE)
                names = sorted(p.name for p in directory.iterdir() if p.name[0] not in "._")
            except OSError as problem:
                raise CheckpointError(
                    f"{directory} cannot be made or read: {problem.strerror or problem}."
                ) from problem
            if names:
                raise DataError(
                    f"{directory} holds {names[0]} and no {MANIFEST}: give a new directory."
                )
            content = json_bytes(manifest.as_json())
            replace_files({path: lambda file: file.write_bytes(content)})
        there = PartsManifest.read(directory)
        other = _difference(there, manifest)
        if other is not None:
            raise DataError(
                f"{directory} was begun with {other}. Finish it with what it was begun with, or "
                f"give another {by_place(python='directory', command='--output')}."
            )
        return cls(directory, manifest)

    @contextmanager
    def working_on(self, shard: Shard) -> Iterator[None]:
        """Keeps other processes off a shard, and removes what a killed process left.

        Raises:
            DataError: another process works on it.
        """
        name = f"shard-{shard.number}-of-{shard.count}"
        busy = DataError(
            f"Another process is writing shard {shard} of {self.directory}: wait for it."
        )
        with locked(self.directory / DONE / f".{name}.lock", busy):
            mine = set(shard.parts(self.manifest.num_parts))
            for directory in (self.directory, self.directory / DONE):
                for path in directory.glob(".part-*.tmp-*"):
                    found = re.match(r"\.part-(\d+)\.", path.name)
                    if found and int(found[1]) in mine:
                        path.unlink(missing_ok=True)
            yield

    def path(self, part: int) -> Path:
        """The path of a part."""
        return self.directory / f"part-{part:06d}.{self.manifest.suffix}"

    def write(
        self, part: int, writer: Callable[[Path], object], counts: Mapping[str, int]
    ) -> PartRecord:
        """Writes a part, whole or not at all.

        Args:
            part: number of the part.
            writer: writes the file at the path that it is given.
            counts: counts for the record.

        Raises:
            CheckpointError: it cannot be written.
        """
        first, end = self.manifest.rows_of(part)
        records: list[PartRecord] = []

        def write_part(path: Path) -> None:
            writer(path)
            stored = FileRecord.of(path)
            records.append(PartRecord(end - first, stored.bytes, stored.sha256, dict(counts)))

        def write_record(path: Path) -> None:
            content = {"manifest": self.manifest.fingerprint, **asdict(records[0])}
            path.write_bytes(json_bytes(content))

        replace_files({self.path(part): write_part, self._record_path(part): write_record})
        return records[0]

    def record(self, part: int) -> PartRecord | None:
        """The record of a part; None if it is missing, incomplete or of another run."""
        try:
            data = json.loads(self._record_path(part).read_bytes())
            size = self.path(part).stat().st_size
            found = PartRecord(
                count(data["rows"]),
                count(data["bytes"]),
                str(data["sha256"]),
                {str(name): count(value) for name, value in data["counts"].items()},
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        first, end = self.manifest.rows_of(part)
        whole = size == found.bytes and found.rows == end - first
        return found if whole and data.get("manifest") == self.manifest.fingerprint else None

    def records(self, parts: Sequence[int] | None = None) -> dict[int, PartRecord]:
        """The records of the finished ones among some parts, or among all."""
        numbers = range(self.manifest.num_parts) if parts is None else parts
        found = {part: self.record(part) for part in numbers}
        return {part: record for part, record in found.items() if record is not None}

    def damaged(self) -> list[int]:
        """The finished parts whose content has changed since; reads all parts."""
        return [
            part
            for part, record in self.records().items()
            if FileRecord.of(self.path(part)).sha256 != record.sha256
        ]

    def forget(self, part: int) -> None:
        """Removes the record of a part, so that it is made again."""
        with suppress(FileNotFoundError):
            self._record_path(part).unlink()

    def status(self) -> dict[str, Any]:
        """The progress of all shards together.

        Returns:
            "complete"; "parts" and "rows", the totals at the end; "parts_done" and "rows_done";
            "missing", the numbers of missing parts; "counts", summed over the parts.
        """
        records = self.records()
        counts: Counter[str] = Counter()
        for record in records.values():
            counts.update(record.counts)
        missing = [part for part in range(self.manifest.num_parts) if part not in records]
        return {
            "kind": self.manifest.kind,
            "complete": not missing,
            "parts": self.manifest.num_parts,
            "parts_done": len(records),
            "rows": self.manifest.rows,
            "rows_done": sum(record.rows for record in records.values()),
            "missing": missing,
            "counts": dict(sorted(counts.items())),
        }

    def require_complete(self) -> dict[str, int]:
        """The counts summed over all parts.

        Raises:
            DataError: a part is missing; the message names the first one.
        """
        status = self.status()
        missing = status["missing"]
        if missing:
            raise DataError(
                f"{self.directory} is not complete: it lacks {len(missing)} of "
                f"{counted(self.manifest.num_parts, 'part')}, the first is "
                f"{self.path(missing[0]).name}. Run the command that makes it again, for every "
                "shard: it resumes where it stopped."
            )
        counts: dict[str, int] = status["counts"]
        return counts

    def _record_path(self, part: int) -> Path:
        return self.directory / DONE / f"part-{part:06d}.json"


def _difference(before: PartsManifest, now: PartsManifest) -> str | None:
    """What differs between two manifests, in words."""
    if before.kind != now.kind:
        return f"{before.kind}, not {now.kind}"
    for name, words in _WORDS.items():
        if before.settings.get(name) != now.settings.get(name):
            return words
    return difference(before.settings, now.settings) or difference(_sizes(before), _sizes(now))


def _sizes(manifest: PartsManifest) -> dict[str, Any]:
    return {name: getattr(manifest, name) for name in ("rows", "part_rows", "suffix")}
