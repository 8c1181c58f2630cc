"""Safetensors files: checked before they are opened, read by copy, replaced whole.

The format: 8 bytes with the length N of the header, N bytes of JSON (for each tensor its dtype,
shape and place in the data), then the data. The safetensors library decides what is valid; this
module checks the sizes before the library allocates anything, refuses a header with a duplicate
name (a reader could use either), and explains it in words if the library refuses a file.

References:
    https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import math
import stat
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from minilm.errors import CheckpointError
from minilm.files.atomic import replace_files
from minilm.files.json_file import parse_json

# The largest reasonable header, 128 layers with 16 tensors each, has about 0.3 MB.
MAX_HEADER_BYTES = 4_000_000
METADATA = {"format": "pt"}

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """The header's information on a tensor.

    Attributes:
        file: the file that stores it.
        dtype: dtype of its values.
        shape: its shape.
    """

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]


class SafetensorsFile(ExitStack):
    """An open safetensors file. Use it in a `with` statement; tensors that were read stay valid.

    Tensors are read with pread, not through a memory map: a file that is replaced, cut short or
    lost with its network share while it is open gives an error, not a crash, and never changes a
    tensor that was read.

    Args:
        path: the file.

    Attributes:
        tensors: the header's information on each tensor, by name.
        metadata: the free-form strings of the header.

    Raises:
        CheckpointError: the file cannot be read, is cut short, damaged, or holds a dtype or a
            tensor name that is refused.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        header, end, size = _read_header(path)
        try:
            self._file = cast(Any, safe_open(path, framework="pt", backend="pread"))
        except (SafetensorError, OSError) as problem:
            reason = _explain(header, end, size) or str(problem)
            raise CheckpointError(
                f"{path} is damaged: {reason}. Download or save it again."
            ) from problem
        self.push(self._file)
        try:
            self.metadata: Mapping[str, str] = self._file.metadata() or {}
            self.tensors: Mapping[str, TensorInfo] = {
                name: self._info(name) for name in self._file.offset_keys()
            }
        except BaseException:
            self.close()
            raise

    def read(self, name: str) -> Tensor:
        """Reads one tensor into memory of its own.

        Args:
            name: a key of `tensors`.

        Raises:
            CheckpointError: the file was changed while it was open, or memory ran out.
        """
        try:
            tensor: Tensor = self._file.get_tensor(name)
        except (SafetensorError, OSError, MemoryError) as problem:
            raise CheckpointError(
                f"{self.path}: tensor {name!r} cannot be read: {problem or 'out of memory'}. "
                "Was the file changed while it was open?"
            ) from problem
        return tensor

    def read_rows(self, name: str, start: int, stop: int) -> Tensor:
        """Reads some rows of a tensor into memory of their own.

        Args:
            name: a key of `tensors`.
            start, stop: the first row and the end; 0 <= start <= stop <= number of rows.

        Raises:
            CheckpointError: the file was changed while it was open, or memory ran out.
        """
        try:
            rows: Tensor = self._file.get_slice(name)[start:stop]
        except (SafetensorError, OSError, MemoryError) as problem:
            raise CheckpointError(
                f"{self.path}: rows {start} to {stop} of tensor {name!r} cannot be read: "
                f"{problem or 'out of memory'}. Was the file changed while it was open?"
            ) from problem
        return rows

    def _info(self, name: str) -> TensorInfo:
        if not name.isprintable():
            raise CheckpointError(
                f"{self.path}: the tensor name {name[:100]!r} has control characters. "
                "Do not trust this checkpoint."
            )
        header = self._file.get_slice(name)
        dtype = header.get_dtype()
        if dtype not in DTYPES:
            raise CheckpointError(
                f"{self.path}: tensor {name[:200]!r} has the dtype {dtype}; "
                f"minilm reads {', '.join(DTYPES)}."
            )
        return TensorInfo(self.path, DTYPES[dtype], tuple(header.get_shape()))


def write_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors to a safetensors file, replacing it whole.

    The same tensors always give the same bytes. They may come from the file that is replaced.

    Args:
        path: the file; its directory exists.
        tensors: the tensors by name, on any device and with any memory layout.

    Raises:
        CheckpointError: the file cannot be written; an older one stays as it was.
    """
    replace_files({path: lambda temporary: write_tensors(temporary, tensors)})


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a safetensors file in place; `replace_files` makes it atomic.

    Raises:
        OSError: the file cannot be written.
    """
    plain: dict[str, Tensor] = {}
    memory: set[int] = set()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        address = tensor.untyped_storage().data_ptr()
        # the library refuses tensors that share memory
        plain[name] = tensor.clone() if address in memory else tensor
        memory.add(address)
    try:
        save_file(plain, path, metadata=METADATA)
    except SafetensorError as problem:
        raise OSError(str(problem)) from problem


def _read_header(path: Path) -> tuple[dict[str, Any], int, int]:
    """The header, the offset of its end and the size of the file, checked against each other."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "no regular file"
            raise CheckpointError(f"{path} is {kind}, expected a safetensors file.")
        with path.open("rb") as file:
            start = file.read(8)
            length = _header_length(path, start, status.st_size)
            text = file.read(length)
    except FileNotFoundError as problem:
        broken = ": the link is broken" if path.is_symlink() else ""
        raise CheckpointError(f"{path} does not exist{broken}.") from problem
    except OSError as problem:
        raise CheckpointError(
            f"{path} cannot be read: {problem.strerror or problem}. Check its permissions."
        ) from problem
    try:
        header = parse_json(text)
        if not isinstance(header, dict):
            raise ValueError("expected an object {...} at the top level")
    except ValueError as problem:
        raise CheckpointError(
            f"{path} is damaged: its header is not valid JSON: {problem}. Download or save it "
            "again."
        ) from problem
    return header, 8 + length, status.st_size


def _header_length(path: Path, start: bytes, size: int) -> int:
    if len(start) < 8:
        raise CheckpointError(
            f"{path} has {size} bytes; a safetensors file has at least 8. The download or the copy "
            "was cut short: download it again."
        )
    if start == b"version ":
        raise CheckpointError(
            f"{path} is a Git LFS pointer, not the weights themselves. Run `git lfs pull`."
        )
    if start.startswith((b"PK\x03\x04", b"\x80\x02")):
        raise CheckpointError(
            f"{path} is a pickle file with the name of a safetensors file. It is not read: pickles "
            "can run code. Rename it to pytorch_model.bin and use `minilm convert --from-pickle`."
        )
    length = int.from_bytes(start, "little")
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"{path} announces a header of {length:,} bytes; at most {MAX_HEADER_BYTES:,} are "
            "accepted. It is damaged or not a safetensors file: download it again."
        )
    if 8 + length > size:
        raise CheckpointError(
            f"{path} is cut short: its header alone ends at byte {8 + length:,}, found {size:,} "
            "bytes. Download it again."
        )
    return length


def _explain(header: dict[str, Any], end_of_header: int, size: int) -> str | None:
    """Explains what is wrong with a file that the library refused; None if nothing is found."""
    places = []
    for name, entry in header.items():
        match entry:
            case dict() if name == "__metadata__":
                if not all(isinstance(value, str) for value in entry.values()):
                    return "the values of __metadata__ are not all strings"
            case {
                "dtype": str(dtype),
                "shape": [*shape],
                "data_offsets": [int(begin), int(end)],
            } if len(shape) <= 64 and all(isinstance(n, int) and n >= 0 for n in shape):
                if dtype not in DTYPES:
                    return f"tensor {name[:200]!r} has the dtype {dtype[:50]!r}, not a known one"
                needed = math.prod(shape) * DTYPES[dtype].itemsize
                if needed != end - begin:
                    return (
                        f"tensor {name[:200]!r} of shape {str(shape)[:200]} and dtype {dtype} "
                        f"needs {needed:,} bytes, its place in the file has {end - begin:,}"
                    )
                places.append((begin, end, name))
            case _:
                return f"the header's entry for tensor {name[:200]!r} is malformed"
    position = 0
    for begin, end, name in sorted(places):
        if begin != position:
            return (
                f"tensor {name[:200]!r} begins at byte {begin:,} of the data, expected "
                f"{position:,}: tensors overlap or leave a hole"
            )
        position = end
    expected = end_of_header + position
    if size != expected:
        what = "it is cut short" if size < expected else "something was appended to it"
        return f"{what}, expected {expected:,} bytes, found {size:,}"
    return None
