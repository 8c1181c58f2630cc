"""One part of a teacher cache: a safetensors file with the targets of some samples.

a tensor for each column     the rows of all samples, one sample after another
digests, sizes, checksums    for each sample: its digest, its number of rows, and a checksum
cache                        a mark of the cache that the part belongs to
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from minilm.errors import CheckpointError, DataError, InputError
from minilm.files.atomic import replace_files
from minilm.files.safetensors_file import SafetensorsFile, write_tensors

DIGEST = 16  # bytes

Rows: TypeAlias = Mapping[str, npt.NDArray[Any]]

_OWN = ("cache", "digests", "sizes", "checksums")  # what a part holds beside its columns
_DTYPES = ("float32", "float16", "uint16", "int32")


@dataclass(frozen=True)
class Column:
    """One kind of number that is stored for every row of a sample.

    Attributes:
        dtype: stored dtype: float32, float16, uint16 or int32.
        shape: shape of one row.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...] = ()

    @property
    def bytes(self) -> int:
        """Size of one row."""
        return int(self.dtype.itemsize * np.prod(self.shape, dtype=np.int64))


Columns: TypeAlias = Mapping[str, Column]


@dataclass(frozen=True)
class Place:
    """The place of the targets of a sample.

    Attributes:
        part: the file.
        start, stop: the first of their rows, and the end.
        checksum: checksum of the sample's digest and rows.
    """

    part: Path
    start: int
    stop: int
    checksum: int


def check_columns(columns: Columns) -> None:
    """Raises InputError for column names that are reserved."""
    taken = sorted(set(columns) & set(_OWN))
    if taken:
        raise InputError(f"A column of a teacher cache cannot be called {' or '.join(taken)}.")


def check_rows(columns: Columns, rows: Rows) -> None:
    """Raises InputError unless the rows have these columns, dtypes and shapes."""
    for name, column in columns.items():
        array = rows[name]
        if array.dtype != column.dtype or array.shape[1:] != column.shape:
            sizes = ", ".join(["rows", *map(str, column.shape)])
            raise InputError(
                f"{name} is {array.dtype} {array.shape}, expected {column.dtype} ({sizes})."
            )


def write_part(path: Path, columns: Columns, samples: Mapping[bytes, Rows], mark: bytes) -> None:
    """Writes a part, whole or not at all.

    Args:
        path: the file; its directory exists.
        columns: the columns that are stored.
        samples: the targets of at least one sample, by digest.
        mark: the mark of the cache.

    Raises:
        CheckpointError: the part cannot be written.
    """
    tensors: dict[str, Tensor] = {
        name: torch.from_numpy(np.concatenate([rows[name] for rows in samples.values()]))
        for name in columns
    }
    tensors |= {
        "cache": torch.frombuffer(bytearray(mark), dtype=torch.uint8),
        "digests": torch.frombuffer(bytearray(b"".join(samples)), dtype=torch.uint8),
        "sizes": torch.tensor([len(next(iter(rows.values()))) for rows in samples.values()]),
        "checksums": torch.tensor([_checksum(digest, rows) for digest, rows in samples.items()]),
    }
    replace_files({path: lambda temporary: write_tensors(temporary, tensors)})


def read_places(path: Path, columns: Columns, mark: bytes) -> dict[bytes, Place]:
    """The places of the targets of a part, by the digests of their samples.

    Raises:
        DataError: the part is damaged, holds other columns, or belongs to another cache.
    """
    try:
        with SafetensorsFile(path) as file:
            rows = _count_rows(file, columns)
            found, digests, sizes, checksums = (file.read(name).numpy() for name in _OWN)
    except CheckpointError as problem:
        raise DataError(f"{problem} {_again(path)}") from problem
    whole = len(digests) == DIGEST * len(sizes) and len(sizes) == len(checksums)
    if not whole or sizes.min(initial=0) < 0 or int(sizes.sum()) != rows:
        raise DataError(f"{path} is damaged: its samples do not add up. {_again(path)}")
    if found.tobytes() != mark:
        raise DataError(
            f"{path} belongs to another teacher cache than the directory it is in. Move it away."
        )
    stops = sizes.cumsum().tolist()
    return {
        digest.tobytes(): Place(path, start, stop, checksum)
        for digest, start, stop, checksum in zip(
            digests.reshape(-1, DIGEST), [0, *stops[:-1]], stops, checksums.tolist(), strict=True
        )
    }


def read_rows(file: SafetensorsFile, columns: Columns, digest: bytes, place: Place) -> Rows:
    """The targets of a sample: for each column (rows, *shape).

    Raises:
        DataError: the part is damaged.
    """
    try:
        rows = {name: file.read_rows(name, place.start, place.stop).numpy() for name in columns}
    except CheckpointError as problem:
        raise DataError(f"{problem} {_again(place.part)}") from problem
    if _checksum(digest, rows) != place.checksum:
        raise DataError(
            f"{place.part} is damaged: its rows {place.start} to {place.stop} are not those that "
            f"were written. {_again(place.part)}"
        )
    return rows


def open_part(path: Path) -> SafetensorsFile:
    """Opens a part, to read rows from it.

    Raises:
        DataError: the part cannot be read.
    """
    try:
        return SafetensorsFile(path)
    except CheckpointError as problem:
        raise DataError(f"{problem} {_again(path)}") from problem


def _count_rows(file: SafetensorsFile, columns: Columns) -> int:
    """The number of rows of a part, whose columns must be those of the cache."""
    missing = [name for name in _OWN if name not in file.tensors]
    if missing:
        raise CheckpointError(f"{file.path} is not a part of a teacher cache: no {missing[0]}.")
    counts = set()
    for name, column in columns.items():
        info = file.tensors.get(name)
        dtype = "" if info is None else str(info.dtype).removeprefix("torch.")
        same = dtype in _DTYPES and np.dtype(dtype) == column.dtype
        if info is None or not same or info.shape[1:] != column.shape:
            raise CheckpointError(
                f"{file.path} holds other targets than this run reads: {name} is "
                f"{'missing' if info is None else f'{dtype} {info.shape}'}."
            )
        counts.add(info.shape[0])
    if len(counts) != 1:
        raise CheckpointError(f"{file.path} is damaged: its columns differ in length.")
    return counts.pop()


def _checksum(digest: bytes, rows: Rows) -> int:
    value = zlib.crc32(digest)
    for name in sorted(rows):
        value = zlib.crc32(np.ascontiguousarray(rows[name]).data, value)
    return value


def _again(path: Path) -> str:
    return f"Remove {path.name}: its targets are computed again."
