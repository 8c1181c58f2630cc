"""LevelDB's sorted table, in which TensorFlow keeps the index of a checkpoint.

The file is a sequence of blocks, and a footer. A block holds pairs of key and value, sorted by key.
A key is stored as the number of bytes that it shares with the key before it, and the rest. After
the pairs come the places of keys that are stored whole ("restarts", which only a search needs) and
their number, then one byte for the compression and a checksum. The footer gives the place of the
block whose values are the places of the data blocks.

Nothing is trusted: places and lengths are compared with the size of the file before anything is
sliced from it, and since keys must increase, no block can be named twice.

References:
    leveldb, doc/table_format.md
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from minilm.errors import CheckpointError
from minilm.files.crc32c import masked_crc32c

MAX_BYTES = 64 * 2**20
MAX_PAIRS = 20_000
MAX_KEY_BYTES = 1000

_FOOTER = 48
_MAGIC = bytes.fromhex("57fb808b247547db")
_TRAILER = 5  # compression and checksum
_COMPRESSIONS = {1: "snappy", 2: "zlib", 4: "zstd"}


def read_varint(data: bytes, start: int) -> tuple[int, int]:
    """Reads a number of seven bits a byte, lowest first; returns it and the position after it.

    Raises:
        ValueError: the number does not end, or has more than 64 bits.
    """
    value = 0
    for index in range(10):
        if start + index >= len(data):
            raise ValueError(f"a number is cut off at byte {start}")
        byte = data[start + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if value >= 2**64:
                break
            return value, start + index + 1
    raise ValueError(f"the number at byte {start} has more than 64 bits")


def read_sorted_table(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Reads the pairs of key and value in a table, in the order of their keys.

    Args:
        path: a file such as model.ckpt.index.

    Raises:
        CheckpointError: the file cannot be read, is damaged, or is compressed.
    """
    data = _read(path)
    if len(data) < _FOOTER or not data.endswith(_MAGIC):
        raise CheckpointError(
            f"{path} is not a TensorFlow index, or is cut short: its last 8 bytes are not those of "
            "a sorted table. Download it again."
        )
    try:
        footer = data[-_FOOTER:]
        _, after = _read_place(footer, 0)
        index, _ = _read_place(footer, after)
        yield from _read_table(data, index)
    except ValueError as problem:
        raise CheckpointError(f"{path} is damaged: {problem}. Download it again.") from problem


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise CheckpointError(f"{path} is not a file, expected the index of a checkpoint.")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise CheckpointError(
                f"{path} has {size:,} bytes, more than the index of a checkpoint ever needs "
                f"({MAX_BYTES:,}). Is it the right file?"
            )
        return path.read_bytes()
    except OSError as problem:
        raise CheckpointError(f"{path} cannot be read: {problem.strerror}.") from problem


def _read_table(data: bytes, index: tuple[int, int]) -> Iterator[tuple[bytes, bytes]]:
    """Yields all pairs. Raises ValueError if something is wrong."""
    before: bytes | None = None
    count = 0
    for _, place in _pairs(_block(data, *index)):
        for key, value in _pairs(_block(data, *_read_place(place, 0)[0])):
            if before is not None and key <= before:
                raise ValueError(f"key {key[:100]!r} does not come after {before[:100]!r}")
            if (count := count + 1) > MAX_PAIRS:
                raise ValueError(f"it has more than {MAX_PAIRS:,} entries")
            yield key, value
            before = key


def _read_place(data: bytes, start: int) -> tuple[tuple[int, int], int]:
    """The place of a block, (offset, size), and the position after it."""
    offset, start = read_varint(data, start)
    size, start = read_varint(data, start)
    return (offset, size), start


def _block(data: bytes, offset: int, size: int) -> bytes:
    """The content of a block, after checking it."""
    end = offset + size
    if end + _TRAILER > len(data) - _FOOTER:
        raise ValueError(
            f"a block of {size:,} bytes at byte {offset:,} ends after the {len(data):,} bytes "
            "of the file"
        )
    compression = data[end]
    stored = int.from_bytes(data[end + 1 : end + _TRAILER], "little")
    if masked_crc32c(data[offset : end + 1]) != stored:
        raise ValueError(f"the checksum of the block at byte {offset:,} does not match")
    if compression:
        name = _COMPRESSIONS.get(compression, f"of kind {compression}")
        raise ValueError(
            f"the block at byte {offset:,} is compressed ({name}), which TensorFlow never does: "
            "save the checkpoint again with TensorFlow's own Saver"
        )
    return data[offset:end]


def _pairs(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The pairs of key and value in a block."""
    if len(block) < 4:
        raise ValueError("a block has no room for its own number of restarts")
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 - 4 * restarts
    if end < 0:
        raise ValueError(f"a block of {len(block):,} bytes has {restarts:,} restarts")
    position, key = 0, b""
    while position < end:
        shared, position = read_varint(block, position)
        rest, position = read_varint(block, position)
        length, position = read_varint(block, position)
        if shared > len(key) or shared + rest > MAX_KEY_BYTES:
            raise ValueError(f"a key shares {shared:,} bytes and has {rest:,} more")
        if position + rest + length > end:
            raise ValueError(f"the pair at byte {position:,} of a block ends after the block")
        key = key[:shared] + block[position : position + rest]
        position += rest
        yield key, block[position : position + length]
        position += length
