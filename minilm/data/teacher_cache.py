"""A teacher's targets on disk: computed once, read in later epochs and runs.

A cache is a directory:

    cache.json                           the identity of the targets: teacher, corpus, masks, ...
    part-0123456789abcdef.safetensors    the targets of some samples

A target is found by a digest of the teacher's input for the sample, and nothing else. So it cannot
be mistaken for that of another sample, mask or text, whatever has changed; if the digest is not
known, the target is computed. cache.json is for users: a run refuses a directory in which it would
find nothing.

A part is moved into place whole and never changed. So any number of processes and runs may read and
fill a cache at once, and a process that is killed loses the targets of its last, unwritten part.
Every part says which cache it belongs to, and every target has a checksum that is checked whenever
it is read.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from minilm.data.teacher_parts import (
    DIGEST,
    Columns,
    Place,
    Rows,
    check_columns,
    check_rows,
    open_part,
    read_places,
    read_rows,
    write_part,
)
from minilm.errors import CheckpointError, DataError, argument
from minilm.files.arrays import Flags, Integers
from minilm.files.atomic import ABANDONED, make_directory, replace_files
from minilm.files.json_file import json_bytes, read_json

MANIFEST = "cache.json"
VERSION = 1
PRECISION = "precision"  # the one part of an identity that may be set later
PART_BYTES = 2**26  # a part is written when it has this many bytes of targets,
PART_SECONDS = 120.0  # or when its first target has waited this long

_MAX_BYTES = 2**20  # of cache.json
_OPEN = 256  # parts that are held open at once


def sample_digests(ids: Integers, lengths: Integers, chosen: Flags | None = None) -> list[bytes]:
    """A digest of the teacher's input for each sample.

    Args:
        ids: (T,) int64, the masked samples one after another.
        lengths: (B,) number of tokens of each; they sum to T.
        chosen: (T,) True at the positions whose targets are stored; None = all.

    Returns:
        B digests of 16 bytes.

    Example:
        >>> ids, lengths = np.array([2, 9, 3, 2, 9, 3]), np.array([3, 3])
        >>> first, second = sample_digests(ids, lengths)
        >>> first == second
        True
    """
    ends = lengths.cumsum().tolist()
    numbers = np.ascontiguousarray(ids, dtype="<i8")
    found = []
    for begin, end in zip([0, *ends[:-1]], ends, strict=True):
        summary = hashlib.blake2b(numbers[begin:end].tobytes(), digest_size=DIGEST)
        if chosen is not None:
            summary.update(chosen[begin:end].tobytes())
        found.append(summary.digest())
    return found


class TeacherCache:
    """The targets of a directory, by the digests of their samples.

    Memory: about 200 bytes for every sample, and the targets of the part that is being filled.

    Args:
        directory: the directory of the cache; created when the first part is written.
        identity: flat JSON values that identify what the targets were computed from.
        columns: the columns that are stored, by name.
        part_bytes, part_seconds: a part is written at this size or age in seconds.

    Attributes:
        directory: the directory of the cache.
        columns: the columns that are stored.

    Raises:
        DataError: the directory holds something else, targets with another identity, or a damaged
            file.

    Example:
        >>> from minilm.data.teacher_parts import Column
        >>> cache = TeacherCache(
        ...     Path("targets"), {"teacher": "f00d"}, {"hidden": Column(np.dtype("f4"), (4,))}
        ... )
        >>> cache.add(b"0123456789abcdef", {"hidden": np.zeros((3, 4), np.float32)})
        >>> cache.read(b"0123456789abcdef")["hidden"].shape
        (3, 4)
    """

    def __init__(
        self,
        directory: Path,
        identity: Mapping[str, Any],
        columns: Columns,
        *,
        part_bytes: int = PART_BYTES,
        part_seconds: float = PART_SECONDS,
    ) -> None:
        check_columns(columns)
        self.directory = directory
        self.columns = dict(columns)
        self._identity = {"version": VERSION, **identity}
        self._part_bytes, self._part_seconds = part_bytes, part_seconds
        self._parts: set[Path] = set()
        self._places: dict[bytes, Place] = {}
        self._waiting: dict[bytes, Rows] = {}
        self._waiting_bytes = 0
        self._waiting_since = 0.0
        self._seen = 0  # when the directory was last changed, as of the last look
        self._mark = b""  # marks the parts of this cache; empty before the first part
        self._opened = lru_cache(_OPEN)(open_part)
        self._check_directory()
        self._check_identity()
        self.look_again()

    def __len__(self) -> int:
        return len(self._places) + len(self._waiting)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._places or digest in self._waiting

    @property
    def bytes_per_row(self) -> int:
        """Size of one row of a sample on disk."""
        return sum(column.bytes for column in self.columns.values())

    @property
    def bytes_on_disk(self) -> int:
        """Size of the known parts on disk."""
        return sum(part.stat().st_size for part in self._parts if part.exists())

    def settle_precision(self, precision: str) -> None:
        """Adds the teacher's precision to the identity, before the first target.

        Raises:
            DataError: the targets in the directory were computed in another precision.
        """
        if self._identity.get(PRECISION) != precision:
            self._identity[PRECISION] = precision
            self._check_identity()

    def look_again(self) -> None:
        """Finds parts that other processes have written since.

        Raises:
            DataError: a part is damaged, or belongs to another cache.
        """
        try:
            changed = self.directory.stat().st_mtime_ns
            parts = set(self.directory.glob("part-*.safetensors"))
        except FileNotFoundError:
            return
        self._seen = changed
        if not self._mark:  # others have begun it since: cache.json is written before any part
            self._check_identity()
        for part in sorted(parts - self._parts):
            self._take_in(part)

    def may_have_grown(self) -> bool:
        """Whether something was written into the directory since it was last looked at."""
        try:
            return self.directory.stat().st_mtime_ns != self._seen
        except FileNotFoundError:
            return False

    def read(self, digest: bytes) -> Rows:
        """The targets of a sample: for each column (rows, *shape).

        Raises:
            KeyError: the sample has none.
            DataError: the file is damaged.
        """
        waiting = self._waiting.get(digest)
        if waiting is not None:
            return waiting
        place = self._places[digest]
        return read_rows(self._opened(place.part), self.columns, digest, place)

    def add(self, digest: bytes, rows: Rows) -> None:
        """Adds the targets of a sample; they are written with those of others, a part at a time.

        Args:
            digest: digest of the sample; if it already has targets, these are ignored.
            rows: for each column (rows, *shape), in the column's dtype.

        Raises:
            InputError: these are not the columns of this cache.
            DataError: a part cannot be written.
        """
        if digest in self:
            return
        check_rows(self.columns, rows)
        if not self._waiting:
            self._waiting_since = time.monotonic()
        # copies: a view would keep the whole batch in memory
        self._waiting[digest] = {name: np.array(rows[name]) for name in self.columns}
        self._waiting_bytes += sum(array.nbytes for array in self._waiting[digest].values())
        late = time.monotonic() - self._waiting_since > self._part_seconds
        if self._waiting_bytes >= self._part_bytes or late:
            self.flush()

    def flush(self) -> None:
        """Writes the targets that wait to be written.

        Raises:
            DataError: they cannot be written; they are dropped, and computed again when needed.
        """
        if not self._waiting:
            return
        waiting, self._waiting, self._waiting_bytes = self._waiting, {}, 0
        path = self.directory / f"part-{secrets.token_hex(8)}.safetensors"
        try:
            make_directory(self.directory)
            self._claim()
            write_part(path, self.columns, waiting, self._mark)
        except (CheckpointError, OSError) as problem:
            reason = (
                problem
                if isinstance(problem, CheckpointError)
                else f"{self.directory} cannot be written: {problem.strerror or problem}."
            )
            raise DataError(
                f"{reason} The parts already in the teacher cache ({len(self._parts)}) stay "
                "usable. Make room and run the same command again, or leave out "
                f"{argument('teacher_cache')}."
            ) from problem
        self._take_in(path)

    def _check_directory(self) -> None:
        """Refuses a directory of something else; removes files that killed processes have left."""
        if (self.directory / MANIFEST).exists():
            for path in self.directory.glob(".part-*.tmp-*"):
                try:
                    if time.time() - path.stat().st_mtime > ABANDONED:
                        path.unlink(missing_ok=True)
                except FileNotFoundError:
                    continue  # moved into place at this moment
            return
        try:
            there = [path.name for path in self.directory.iterdir() if ".tmp-" not in path.name]
        except FileNotFoundError:
            return
        except OSError as problem:
            raise DataError(
                f"{self.directory} is not a teacher cache: {problem.strerror or problem}. Give a "
                "new directory."
            ) from problem
        # another process of this run may have begun it at this moment
        if there and not (self.directory / MANIFEST).exists():
            raise DataError(
                f"{self.directory} holds {sorted(there)[0]}, but no {MANIFEST}: it is not a "
                "teacher cache. Give a new directory."
            )

    def _check_identity(self) -> None:
        stored = stored_identity(self.directory)
        if stored is None:
            return
        later = {PRECISION} - self._identity.keys()  # compared when it is set
        names = sorted((stored.keys() | self._identity.keys()) - later, key=_by_weight)
        for name in names:
            there, here = stored.get(name), self._identity.get(name)
            if there != here:
                raise DataError(
                    f"{self.directory} is a teacher cache of something else: its {name} is "
                    f"{_short(there)}, that of this run {_short(here)}. Give another directory, or "
                    "the settings that it was made with."
                )
        content = json.dumps(stored, sort_keys=True).encode()
        self._mark = hashlib.blake2b(content, digest_size=DIGEST).digest()

    def _claim(self) -> None:
        """Writes cache.json unless it exists; one from another run must have the same content."""
        path = self.directory / MANIFEST
        if not path.exists():
            content = json_bytes(self._identity)
            replace_files({path: lambda temporary: temporary.write_bytes(content)})
        self._check_identity()

    def _take_in(self, part: Path) -> None:
        """Records where the targets of a part are; those of known samples are not replaced."""
        for digest, place in read_places(part, self.columns, self._mark).items():
            self._places.setdefault(digest, place)
        self._parts.add(part)


def stored_identity(directory: Path) -> dict[str, Any] | None:
    """The identity of the targets in a directory; None if it holds no cache yet.

    Raises:
        DataError: cache.json is damaged.
    """
    path = directory / MANIFEST
    if not path.exists():
        return None
    return read_json(path, max_bytes=_MAX_BYTES, error=DataError)


def free_bytes(directory: Path) -> int:
    """Free space on the disk where a directory is or would be created."""
    there = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 70 else f"{text[:67]}..."


def _by_weight(name: str) -> tuple[bool, bool, str]:
    """Sort key of a difference: names first, then contents, last what follows from others."""
    return name.endswith("counts"), not name.endswith("name"), name
