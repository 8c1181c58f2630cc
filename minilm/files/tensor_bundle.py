"""Reads TensorFlow's checkpoint format ("tensor bundle") without TensorFlow.

A checkpoint `model.ckpt` is a file `model.ckpt.index`, a sorted table (see
`minilm.files.sorted_table`) from variable names to the places of their values, and one or more
files `model.ckpt.data-00000-of-00001` with the values, one after another. The entry under the empty
name holds the number of data files. Entries are protocol-buffer messages of a few numbers each, so
they are parsed here.

Sizes are compared with shapes and with the files before anything is allocated, and every tensor is
compared with its checksum.

References:
    tensorflow/core/protobuf/tensor_bundle.proto, tensorflow/core/framework/tensor_shape.proto and
    types.proto (numbers of fields and types); tensorflow/core/util/tensor_bundle
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from minilm.errors import CheckpointError
from minilm.files.crc32c import masked_crc32c
from minilm.files.sorted_table import read_sorted_table, read_varint

INDEX_SUFFIX = ".index"
MAX_SHARDS = 1000
MAX_DIMENSIONS = 16

# types.proto
_DTYPES = {
    1: torch.float32,
    2: torch.float64,
    3: torch.int32,
    4: torch.uint8,
    5: torch.int16,
    6: torch.int8,
    9: torch.int64,
    10: torch.bool,
    14: torch.bfloat16,
    17: torch.uint16,
    19: torch.float16,
    22: torch.uint32,
    23: torch.uint64,
}
_STRING = 7
# fields of BundleHeaderProto, BundleEntryProto, TensorShapeProto and its Dim
_NUM_SHARDS, _ENDIANNESS = 1, 2
_DTYPE, _SHAPE, _SHARD, _OFFSET, _SIZE, _CHECKSUM, _SLICES = 1, 2, 3, 4, 5, 6, 7
_DIM, _UNKNOWN_RANK = 2, 3
_DIM_SIZE = 1


@dataclass(frozen=True, slots=True)
class Stored:
    """The place of the values of a variable.

    Attributes:
        dtype: dtype of the values; None = strings or another type that weights do not have.
        shape: shape of the variable.
        shard: number of the data file.
        offset, size: place in it, in bytes.
        checksum: masked CRC-32C of these bytes.
        sliced: whether the values are in several pieces, under other names.
    """

    dtype: torch.dtype | None
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int
    sliced: bool


class TensorBundle:
    """A TensorFlow checkpoint. The constructor reads only the index.

    Args:
        prefix: the common part of the file names, such as `albert_base/model.ckpt-best`.

    Attributes:
        variables: the places of the variables, by name.

    Raises:
        CheckpointError: a file is missing, damaged, or not of this format.
    """

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        self.index = prefix.with_name(prefix.name + INDEX_SUFFIX)
        entries = dict(read_sorted_table(self.index))
        try:
            self._shards = _read_header(entries.pop(b"", None))
            self.variables: Mapping[str, Stored] = {
                _name(key): _read_entry(key, value)
                for key, value in entries.items()
                if not key.startswith(b"\0")  # a piece of a sliced variable
            }
        except ValueError as problem:
            raise CheckpointError(
                f"{self.index} is damaged: {problem}. Download it again."
            ) from problem
        self._check_places()

    def shard_path(self, shard: int) -> Path:
        """The path of the data file with this number."""
        return self.prefix.with_name(f"{self.prefix.name}.data-{shard:05}-of-{self._shards:05}")

    def read(self, name: str) -> Tensor:
        """Reads one variable into memory of its own, on the CPU and in its stored dtype.

        Args:
            name: a key of `variables`.

        Raises:
            CheckpointError: the values are damaged, in several slices, or not numbers.
        """
        stored = self.variables[name]
        path = self.shard_path(stored.shard)
        if stored.sliced:
            raise CheckpointError(
                f"{self.index}: variable {name!r} is stored in several slices (a partitioned "
                "variable), which minilm does not read. Save the checkpoint again without a "
                "partitioner."
            )
        if stored.dtype is None:
            raise CheckpointError(f"{self.index}: variable {name!r} does not hold numbers.")
        values = bytearray(stored.size)
        try:
            with path.open("rb") as file:
                file.seek(stored.offset)
                found = file.readinto(values)
        except OSError as problem:
            raise CheckpointError(f"{path} cannot be read: {problem.strerror}.") from problem
        if found != stored.size or masked_crc32c(values) != stored.checksum:
            raise CheckpointError(
                f"{path} is damaged: the checksum of variable {name!r} does not match its values. "
                "Download it again."
            )
        if not values:
            return torch.empty(stored.shape, dtype=stored.dtype)
        return torch.frombuffer(values, dtype=stored.dtype).view(stored.shape)

    def _check_places(self) -> None:
        """Checks that every variable is within its data file and that none overlap."""
        sizes: dict[int, int] = {}
        for shard in sorted({stored.shard for stored in self.variables.values()}):
            if shard >= self._shards:
                raise CheckpointError(
                    f"{self.index} is damaged: it names data file {shard} of {self._shards}. "
                    "Download it again."
                )
            path = self.shard_path(shard)
            if not path.is_file():
                raise CheckpointError(
                    f"{path} is missing: {self.index.name} says that values are in it. Download it "
                    "into the same directory."
                )
            sizes[shard] = path.stat().st_size
        places = []
        for name, stored in self.variables.items():
            end = stored.offset + stored.size
            if end > sizes[stored.shard]:
                raise CheckpointError(
                    f"{self.shard_path(stored.shard)} is cut short: variable {name!r} ends at byte "
                    f"{end:,}, the file has {sizes[stored.shard]:,}. Download it again."
                )
            if stored.size:
                places.append((stored.shard, stored.offset, end, name))
        for (shard, _, end, name), (next_shard, start, _, other) in pairwise(sorted(places)):
            if shard == next_shard and start < end:
                raise CheckpointError(
                    f"{self.index}: the values of {name!r} and {other!r} overlap. Do not trust "
                    "this checkpoint."
                )


def _name(key: bytes) -> str:
    name = key.decode("utf-8")  # UnicodeDecodeError is a ValueError
    if not name.isprintable():
        raise ValueError(f"the variable name {name[:100]!r} has control characters")
    return name


def _read_header(message: bytes | None) -> int:
    """Reads the number of data files."""
    if message is None:
        raise ValueError("it has no header, the entry under the empty name")
    shards = 1
    for field, value in _fields(message):
        if field == _NUM_SHARDS and isinstance(value, int):
            shards = value
        elif field == _ENDIANNESS and value:
            raise ValueError("it was written on a big-endian machine, which minilm does not read")
    if not 1 <= shards <= MAX_SHARDS:
        raise ValueError(f"it names {shards:,} data files, expected 1 to {MAX_SHARDS:,}")
    return shards


def _read_entry(key: bytes, message: bytes) -> Stored:
    numbers = {_DTYPE: 0, _SHARD: 0, _OFFSET: 0, _SIZE: 0, _CHECKSUM: 0}
    shape: tuple[int, ...] = ()
    sliced = False
    for field, value in _fields(message):
        if field in numbers and isinstance(value, int):
            numbers[field] = value
        elif field == _SHAPE and isinstance(value, bytes):
            shape = _read_shape(value)
        elif field == _SLICES:
            sliced = True
    dtype = _DTYPES.get(numbers[_DTYPE])
    size = numbers[_SIZE]
    if numbers[_DTYPE] not in (*_DTYPES, _STRING):
        raise ValueError(f"variable {key[:100]!r} has the type number {numbers[_DTYPE]}")
    if dtype is not None and not sliced and size != math.prod(shape) * dtype.itemsize:
        raise ValueError(
            f"variable {key[:100]!r} of shape {str(shape)[:200]} and {dtype} needs "
            f"{math.prod(shape) * dtype.itemsize:,} bytes, its place has {size:,}"
        )
    return Stored(dtype, shape, numbers[_SHARD], numbers[_OFFSET], size, numbers[_CHECKSUM], sliced)


def _read_shape(message: bytes) -> tuple[int, ...]:
    shape = []
    for field, value in _fields(message):
        if field == _UNKNOWN_RANK and value:
            raise ValueError("a variable has a shape of unknown rank")
        if field == _DIM and isinstance(value, bytes):
            size = next((n for number, n in _fields(value) if number == _DIM_SIZE), 0)
            if not isinstance(size, int) or size >= 2**48:
                raise ValueError("a variable has a dimension that is negative or too large")
            shape.append(size)
    if len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"a variable has {len(shape)} dimensions")
    return tuple(shape)


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protocol-buffer message in order, each as number and value."""
    position = 0
    while position < len(message):
        tag, position = read_varint(message, position)
        field, kind = tag >> 3, tag & 7
        if kind == 0:
            value, position = read_varint(message, position)
            yield field, value
            continue
        length = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            length, position = read_varint(message, position)
        if length is None:
            raise ValueError(f"a message has a field of the unknown kind {kind}")
        if position + length > len(message):
            raise ValueError("a message is cut short")
        content = message[position : position + length]
        yield field, content if kind == 2 else int.from_bytes(content, "little")
        position += length
