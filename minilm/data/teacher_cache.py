"""What a teacher made of samples, on the disk: computed once, read in later epochs and runs.

A cache is a directory:

    cache.json                           what its targets are of: teacher, corpus, masks, precision
    part-0123456789abcdef.safetensors    the targets of some samples

A target is found by a digest of what the teacher saw of the sample, and of nothing else. So it
cannot stand for another sample, another mask or another text, whatever changed in between; where
the digest is not known, the target is computed. cache.json is for people: it refuses a directory in
which a run would find nothing.

A part is moved into place whole and never changed. So any number of processes and runs may read and
fill a cache at once, and a process that is killed loses the targets of its last, unwritten part.
Every part says which cache it belongs to, and every target has a checksum that is compared whenever
it is read.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from minilm.errors import CheckpointError, DataError, InputError, argument
from minilm.files.arrays import Flags, Integers
from minilm.files.atomic import ABANDONED, make_directory, replace_files
from minilm.files.json_file import json_bytes, read_json
from minilm.files.safetensors_file import SafetensorsFile, write_tensors

MANIFEST = "cache.json"
VERSION = 1
PRECISION = "precision"  # the one part of an identity that may be settled late
PART_BYTES = 2**26  # a part is written when it has so many bytes of targets,
PART_SECONDS = 120.0  # or when its first target has waited for so long
DIGEST = 16  # bytes

Rows: TypeAlias = Mapping[str, npt.NDArray[Any]]

_MAX_BYTES = 2**20  # of cache.json
_OPEN = 256  # parts that are held open at once
_OWN = ("cache", "digests", "sizes", "checksums")  # what a part holds beside its columns


@dataclass(frozen=True)
class Column:
    """One kind of number that is stored for every row of a sample.

    Attributes:
        dtype: as it is stored: float32, float16, uint16 or int32.
        shape: of the numbers of one row.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...] = ()

    @property
    def bytes(self) -> int:
        """Of one row."""
        return int(self.dtype.itemsize * np.prod(self.shape, dtype=np.int64))


def sample_digests(ids: Integers, lengths: Integers, chosen: Flags | None = None) -> list[bytes]:
    """A short name for what a teacher sees of each sample.

    Args:
        ids: (T,) int64, the samples in a row, masked.
        lengths: (B,) their tokens; they sum to T.
        chosen: (T,) the positions of which targets are stored; None = all.

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
        directory: of the cache; made when the first part is written.
        identity: JSON values without nesting that say what the targets are of.
        columns: what is stored, by name.
        part_bytes, part_seconds: when a part is written.

    Attributes:
        directory: of the cache.
        columns: what is stored.

    Raises:
        DataError: the directory holds something else, targets of something else, or a damaged
            file.

    Example:
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
        columns: Mapping[str, Column],
        *,
        part_bytes: int = PART_BYTES,
        part_seconds: float = PART_SECONDS,
    ) -> None:
        if set(columns) & set(_OWN):
            raise InputError(f"A column cannot be called {' or '.join(_OWN)}.")
        self.directory = directory
        self.columns = dict(columns)
        self._identity = {"version": VERSION, **identity}
        self._part_bytes, self._part_seconds = part_bytes, part_seconds
        self._parts: list[Path] = []
        self._known: set[str] = set()  # names of parts
        self._places: dict[bytes, tuple[int, int, int, int]] = {}  # part, rows, checksum
        self._waiting: dict[bytes, Rows] = {}
        self._waiting_bytes = 0
        self._waiting_since = 0.0
        self._seen = 0  # when the directory was changed, at the last look
        self._mark = b""  # of the parts of this cache; empty as long as there is none
        self._opened = lru_cache(_OPEN)(self._open)
        self._check_directory()
        self._check_identity()
        self.look_again()

    def __len__(self) -> int:
        return len(self._places) + len(self._waiting)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._places or digest in self._waiting

    @property
    def bytes_per_row(self) -> int:
        """What one row of a sample takes on the disk."""
        return sum(column.bytes for column in self.columns.values())

    @property
    def bytes_on_disk(self) -> int:
        """What the parts take that are known."""
        return sum(part.stat().st_size for part in self._parts if part.exists())

    def settle_precision(self, precision: str) -> None:
        """Adds to the identity in what precision the teacher computes, before the first target.

        Raises:
            DataError: the targets in the directory were computed in another one.
        """
        if self._identity.get(PRECISION) != precision:
            self._identity[PRECISION] = precision
            self._check_identity()

    def look_again(self) -> None:
        """Finds the parts that others have written in the meantime.

        Raises:
            DataError: a part is damaged, or belongs to another cache.
        """
        try:
            changed = self.directory.stat().st_mtime_ns
            names = {path.name for path in self.directory.glob("part-*.safetensors")}
        except FileNotFoundError:
            return
        self._seen = changed
        for name in sorted(names - self._known):
            self._take_in(self.directory / name)

    def may_have_grown(self) -> bool:
        """Whether something was written into the directory since it was last looked at."""
        try:
            return self.directory.stat().st_mtime_ns != self._seen
        except FileNotFoundError:
            return False

    def read(self, digest: bytes) -> Rows:
        """The targets of a sample: for each column (rows, *shape).

        Raises:
            KeyError: there are none.
            DataError: the file is damaged.
        """
        waiting = self._waiting.get(digest)
        if waiting is not None:
            return waiting
        number, start, stop, checksum = self._places[digest]
        path = self._parts[number]
        try:
            file = self._opened(number)
            rows = {name: file.read_rows(name, start, stop).numpy() for name in self.columns}
        except CheckpointError as problem:
            raise DataError(f"{problem} {_again(path)}") from problem
        if _checksum(rows) != checksum:
            raise DataError(
                f"{path} is damaged: the numbers of rows {start} to {stop} are not those that were "
                f"written. {_again(path)}"
            )
        return rows

    def add(self, digest: bytes, rows: Rows) -> None:
        """Takes the targets of a sample; they are written with those of others, a part at a time.

        Args:
            digest: of the sample; if there are targets for it, these are ignored.
            rows: for each column (rows, *shape), in the column's dtype.

        Raises:
            InputError: these are not the columns of this cache.
            DataError: a part cannot be written.
        """
        if digest in self:
            return
        for name, column in self.columns.items():
            array = rows[name]
            if array.dtype != column.dtype or array.shape[1:] != column.shape:
                raise InputError(
                    f"{name} is {array.dtype} {array.shape}, expected {column.dtype} (rows, "
                    f"{', '.join(map(str, column.shape))})."
                )
        if not self._waiting:
            self._waiting_since = time.monotonic()
        # copies: a view would keep the whole batch in memory
        self._waiting[digest] = {name: np.array(rows[name]) for name in self.columns}
        self._waiting_bytes += sum(array.nbytes for array in self._waiting[digest].values())
        late = time.monotonic() - self._waiting_since > self._part_seconds
        if self._waiting_bytes >= self._part_bytes or late:
            self.flush()

    def flush(self) -> None:
        """Writes what waits to be written.

        Raises:
            DataError: it cannot be written; it is forgotten then, and computed again when needed.
        """
        if not self._waiting:
            return
        waiting, self._waiting, self._waiting_bytes = self._waiting, {}, 0
        path = self.directory / f"part-{secrets.token_hex(8)}.safetensors"
        tensors = {
            name: torch.from_numpy(np.concatenate([rows[name] for rows in waiting.values()]))
            for name in self.columns
        }
        sizes = [len(next(iter(rows.values()))) for rows in waiting.values()]
        digests = np.frombuffer(b"".join(waiting), np.uint8).reshape(-1, DIGEST)
        checksums = [_checksum(rows) for rows in waiting.values()]
        try:
            make_directory(self.directory)
            self._claim()
            tensors |= {
                "cache": torch.frombuffer(bytearray(self._mark), dtype=torch.uint8),
                "digests": torch.from_numpy(digests.copy()),
                "sizes": torch.tensor(sizes),
                "checksums": torch.tensor(checksums),
            }
            replace_files({path: lambda temporary: write_tensors(temporary, tensors)})
        except (CheckpointError, OSError) as problem:
            reason = (
                problem
                if isinstance(problem, CheckpointError)
                else f"{self.directory} cannot be written: {problem.strerror or problem}."
            )
            raise DataError(
                f"{reason} The {len(self._parts)} parts that are in the teacher cache are whole "
                "and stay usable. Make room and give the same command again, or leave out "
                f"{argument('teacher_cache')}."
            ) from problem
        self._take_in(path)

    def _check_directory(self) -> None:
        """Refuses a directory of something else; removes what killed processes have left."""
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
        later = {PRECISION} - self._identity.keys()  # it is compared when it is settled
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
        """Writes cache.json unless it is there; if another run was faster, it must be alike."""
        path = self.directory / MANIFEST
        if not path.exists():
            content = json_bytes(self._identity)
            replace_files({path: lambda temporary: temporary.write_bytes(content)})
        self._check_identity()

    def _open(self, number: int) -> SafetensorsFile:
        return SafetensorsFile(self._parts[number])

    def _take_in(self, path: Path) -> None:
        """Notes where the targets of a part are."""
        try:
            with SafetensorsFile(path) as file:
                self._check_part(file)
                own = {name: file.read(name).numpy() for name in _OWN}
        except CheckpointError as problem:
            raise DataError(f"{problem} {_again(path)}") from problem
        digests, sizes, checksums = own["digests"], own["sizes"], own["checksums"]
        rows = file.tensors[next(iter(self.columns))].shape[0]
        fits = len(digests) == len(sizes) == len(checksums) and int(sizes.sum()) == rows
        if not fits or sizes.min(initial=0) < 0:
            raise DataError(f"{path} is damaged: its samples do not add up. {_again(path)}")
        if own["cache"].tobytes() != self._mark:
            raise DataError(
                f"{path} belongs to another teacher cache than {MANIFEST} beside it. Move it away."
            )
        number = len(self._parts)
        self._parts.append(path)
        self._known.add(path.name)
        stop = 0
        for digest, size, checksum in zip(
            map(bytes, digests), sizes.tolist(), checksums.tolist(), strict=True
        ):
            start, stop = stop, stop + size
            self._places.setdefault(digest, (number, start, stop, checksum))

    def _check_part(self, file: SafetensorsFile) -> None:
        wanted = {name: (column.dtype, column.shape) for name, column in self.columns.items()}
        rows = None
        for name, (dtype, shape) in wanted.items():
            info = file.tensors.get(name)
            kind = None if info is None else _numpy_dtype(info.dtype)
            if info is None or kind != dtype or info.shape[1:] != shape:
                raise CheckpointError(
                    f"{file.path} holds other targets than this run reads: {name} is "
                    f"{'missing' if info is None else f'{kind} {info.shape}'}."
                )
            if rows is not None and rows != info.shape[0]:
                raise CheckpointError(f"{file.path} is damaged: its columns differ in length.")
            rows = info.shape[0]
        missing = [name for name in _OWN if name not in file.tensors]
        if missing:
            raise CheckpointError(f"{file.path} is no part of a teacher cache: no {missing[0]}.")


def stored_identity(directory: Path) -> dict[str, Any] | None:
    """What the targets of a directory are of; None if it holds no cache yet.

    Raises:
        DataError: cache.json is damaged.
    """
    path = directory / MANIFEST
    if not path.exists():
        return None
    return read_json(path, max_bytes=_MAX_BYTES, error=DataError)


def free_bytes(directory: Path) -> int:
    """The room on the disk on which a directory is, or would be made."""
    there = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def _numpy_dtype(dtype: torch.dtype) -> np.dtype[Any] | None:
    name = str(dtype).removeprefix("torch.")
    return np.dtype(name) if name in ("float32", "float16", "uint16", "int32") else None


def _checksum(rows: Rows) -> int:
    value = 0
    for name in sorted(rows):
        value = zlib.crc32(np.ascontiguousarray(rows[name]).data, value)
    return value


def _again(path: Path) -> str:
    return f"Remove {path.name}: its targets are computed again."


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 70 else f"{text[:67]}..."


def _by_weight(name: str) -> tuple[bool, str]:
    """What a thing is called before what it is made of."""
    return not name.endswith("name"), name
