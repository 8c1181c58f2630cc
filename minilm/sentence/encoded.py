"""Reads the vectors that `minilm encode` has written in parts."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from minilm.data.parts import Parts
from minilm.errors import DataError
from minilm.files.pyarrow_library import pyarrow_for
from minilm.sentence.encoder import Vectors

_OPEN = 64  # parts whose files are kept open; a process may open about a thousand


class EncodedTexts:
    """The vectors of all rows of a file, in their order, as one (N, H) float32 array.

    The parts are memory-mapped when they are read (Parquet parts are loaded, one at a time).
    Indexing returns an array, as in numpy: `vectors[5]`, `vectors[100:200]`,
    `vectors[[3, 1, 4]]`; `numpy.asarray(vectors)` loads all rows.

    Args:
        parts: the directory, in which no part is missing.

    Attributes:
        parts: as given.
        shape: (N, H).
        dtype: float32.
        truncated: number of texts that were cut.

    Raises:
        DataError: parts are missing, or they are not vectors.

    Example:
        >>> vectors = minilm.EncodedTexts.open("vectors")  # doctest: +SKIP
        >>> for start, chunk in vectors.chunks():  # doctest: +SKIP
        ...     index.add(chunk)
    """

    ndim = 2

    def __init__(self, parts: Parts) -> None:
        manifest = parts.manifest
        if manifest.kind != "vectors":
            raise DataError(f"{parts.directory} holds {manifest.kind}, expected vectors.")
        counts = parts.require_complete()
        self.parts = parts
        self.shape = (manifest.rows, int(manifest.settings["width"]))
        self.dtype = np.dtype(np.float32)
        self.truncated = counts.get("truncated", 0)
        self._opened: OrderedDict[int, Vectors] = OrderedDict()
        self._keep = _OPEN if manifest.suffix == "npy" else 1

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> Self:
        """Opens a directory of vectors.

        Raises:
            DataError: it is something else, or a part is missing; the message names it.
        """
        return cls(Parts.open(directory))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Vectors:
        """Returns some of the rows; rows from several parts are copied."""
        rows: npt.NDArray[Any]
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1 and start < stop:
                return self._range(start, stop)
            rows = np.arange(start, stop, step)
        else:
            rows = np.asarray(index) if not isinstance(index, tuple) else np.zeros((0, 0))
            if rows.dtype == np.bool_ and rows.shape == (len(self),):
                rows = np.flatnonzero(rows)
            if rows.size == 0 and rows.ndim == 1:
                rows = rows.astype(np.int64)
            if rows.dtype.kind not in "iu" or rows.ndim > 1:
                raise IndexError("expected a number, a slice, or one list of numbers or flags")
            if rows.size and not -len(self) <= rows.min() <= rows.max() < len(self):
                raise IndexError(
                    f"there are {len(self)} rows; asked for {rows.min()}..{rows.max()}"
                )
            rows = np.where(rows < 0, rows + len(self), rows)
        size = self.parts.manifest.part_rows
        if rows.ndim == 0:
            found: Vectors = self._part(int(rows) // size)[int(rows) % size]
            return found
        result = np.empty((len(rows), self.shape[1]), self.dtype)
        numbers = rows // size
        for part in np.unique(numbers):
            here = numbers == part
            result[here] = self._part(int(part))[rows[here] % size]
        return result

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("the vectors are in several files: an array of all is a copy")
        return np.array(self[:], dtype=dtype)

    def chunks(self) -> Iterator[tuple[int, Vectors]]:
        """The number of the first row of every part, and its (n, H) vectors."""
        for part in range(self.parts.manifest.num_parts):
            yield self.parts.manifest.rows_of(part)[0], self._part(part)

    def _range(self, start: int, stop: int) -> Vectors:
        size = self.parts.manifest.part_rows
        pieces = []
        for part in range(start // size, (stop - 1) // size + 1):
            first = part * size
            pieces.append(self._part(part)[max(start - first, 0) : stop - first])
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _part(self, part: int) -> Vectors:
        if part in self._opened:
            self._opened.move_to_end(part)
            return self._opened[part]
        path = self.parts.path(part)
        first, end = self.parts.manifest.rows_of(part)
        try:
            if self.parts.manifest.suffix == "npy":
                found: Vectors = np.load(path, mmap_mode="r", allow_pickle=False)
            else:
                _, parquet = pyarrow_for(path)
                column = parquet.read_table(path, columns=["vector"])["vector"].combine_chunks()
                found = column.flatten().to_numpy().reshape(-1, self.shape[1])
        except (OSError, ValueError, EOFError) as problem:
            raise DataError(f"{path} cannot be read: {problem}.") from problem
        if found.shape != (end - first, self.shape[1]) or found.dtype != self.dtype:
            raise DataError(
                f"{path} holds {found.dtype} of shape {found.shape}, expected float32 of shape "
                f"{(end - first, self.shape[1])}."
            )
        self._opened[part] = found
        while len(self._opened) > self._keep:
            self._opened.popitem(last=False)
        return found
