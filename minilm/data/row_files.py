"""Files of rows with random access: a row can be read without the rows before it.

A row is what the end of the file's name says, unless a format is given:

    .jsonl .ndjson   a line with a JSON object
    .parquet         a row of the table; needs pyarrow
    .txt and others  a line of text

Every line of a text file is a row, even a blank one, so row n is line n + 1. Compressed files (.gz,
.xz, .bz2 after one of these) are read forward only.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self, TypeAlias, cast, get_args

import numpy as np

from minilm.data.records.base import RecordError
from minilm.data.records.json_lines import strict_json
from minilm.data.records.lines import suffix_of
from minilm.data.records.parquet import label_names, python_rows
from minilm.data.text_records import is_text, text_of
from minilm.errors import DataError, InputError, setting
from minilm.files.pyarrow_library import pyarrow_for

RowFormat: TypeAlias = Literal["text", "jsonl", "parquet"]

MAX_LINE = 2**24  # bytes
_BLOCK = 2**20  # bytes
_ROWS = 1024  # rows of a Parquet file that are decoded at once
_FORMATS: Mapping[str, RowFormat] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
_OTHERS = (".csv", ".tsv", ".tab", ".json", ".conll", ".iob", ".bio", ".conllu", ".xlsx", ".zip")
_OPEN: Mapping[str, Callable[[Path], Any]] = {
    ".gz": gzip.open,
    ".xz": lzma.open,
    ".bz2": bz2.open,
}
_FAULTS = (EOFError, lzma.LZMAError, zlib.error, OSError)


def is_rows(path: Path) -> bool:
    """Whether a file's name says that its rows are records."""
    return suffix_of(path) in _FORMATS


def row_format(path: Path) -> RowFormat:
    """The row format of a file, by its name.

    Raises:
        InputError: files with such a name cannot be read row by row.
    """
    suffix = suffix_of(path)
    if suffix in _OTHERS:
        raise InputError(
            f"{path}: {suffix} files cannot be read part by part. Convert it to JSON lines or "
            f"Parquet, or, if every line is a text, use {setting('format', 'text')}."
        )
    return _FORMATS.get(suffix, "text")


@dataclass(frozen=True)
class RowFile:
    """A file that has been read once, with the places where its rows begin.

    Attributes:
        path: the file.
        format: "text", "jsonl" or "parquet".
        rows: number of rows.
        step: the place of every `step`-th row is known.
        places: where these rows begin, in bytes of the uncompressed text; empty for Parquet.
        bytes, sha256: size and digest of the file as it is stored.
        modified: when it was last changed, in nanoseconds.
    """

    path: Path
    format: RowFormat
    rows: int
    step: int
    places: tuple[int, ...]
    bytes: int
    sha256: str
    modified: int

    @classmethod
    def scan(
        cls,
        path: Path,
        step: int,
        format: str | None = None,
        on_bytes: Callable[[int], object] = lambda _: None,
    ) -> Self:
        """Reads a file once.

        Args:
            path: the file.
            step: the place of every `step`-th row is kept.
            format: "text", "jsonl" or "parquet"; None = as the file's name says.
            on_bytes: called with the number of bytes of the stored file that were just read.

        Raises:
            DataError: it cannot be read, or is damaged.
            InputError: the format is unknown.
            DependencyError: it is a Parquet file and pyarrow is not installed.
        """
        if format is not None and format not in get_args(RowFormat):
            raise InputError(
                f"{setting('format', format)}: expected one of {', '.join(get_args(RowFormat))}."
            )
        kind = cast("RowFormat", format) if format is not None else row_format(path)
        compression = kind != "parquet" and path.suffix.lower() in _OPEN
        digest, places, rows = hashlib.sha256(), [0], 0
        position, ends_line = 0, True
        try:
            if not path.is_file():
                what = "is not a regular file" if path.exists() else "does not exist"
                raise DataError(f"{path} {what}: expected a file that can be read several times.")
            status = path.stat()
            with path.open("rb") as raw:
                while block := raw.read(_BLOCK):
                    digest.update(block)
                    on_bytes(len(block))
                    if kind != "parquet" and not compression:
                        rows = _count(block, position, rows, step, places)
                        position += len(block)
                        ends_line = block.endswith(b"\n")
            if compression:
                with _OPEN[path.suffix.lower()](path) as file:
                    while block := file.read(_BLOCK):
                        rows = _count(block, position, rows, step, places)
                        position += len(block)
                        ends_line = block.endswith(b"\n")
        except _FAULTS as problem:
            raise _unreadable(path, problem) from problem
        if kind == "parquet":
            with _parquet(path) as file:
                rows, places = file.metadata.num_rows, []
        elif not ends_line:
            rows += 1
        return cls(
            path=path,
            format=kind,
            rows=rows,
            step=step,
            places=tuple(places),
            bytes=status.st_size,
            sha256=digest.hexdigest(),
            modified=status.st_mtime_ns,
        )

    def check_unchanged(self) -> None:
        """Raises DataError if the file has changed since it was scanned."""
        try:
            status = self.path.stat()
        except OSError as problem:
            raise _unreadable(self.path, problem) from problem
        if (status.st_size, status.st_mtime_ns) != (self.bytes, self.modified):
            raise DataError(f"{self.path} was changed while it was being read: start again.")

    def place(self, row: int) -> str:
        """The place of a row for messages, counted from 1."""
        return f"{self.path}, {'row' if self.format == 'parquet' else 'line'} {row + 1}"


class RowReader:
    """Reads rows of a file. In a compressed file, ascending order is fastest.

    Use it in a `with` statement, which closes the file.

    Args:
        file: the file.
    """

    def __init__(self, file: RowFile) -> None:
        self._file = file
        self._stream: BinaryIO | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def texts(self, start: int, stop: int, text_key: str) -> Iterator[str]:
        """The texts of rows [start, stop); `start` is a multiple of the file's step.

        Args:
            start, stop: the rows.
            text_key: the key of JSON objects, or the column, that holds the text.

        Raises:
            DataError: a row cannot be read; the message names it.
        """
        file = self._file
        if file.format == "text":
            yield from self.lines(start, stop)
        elif file.format == "jsonl":
            for row, line in enumerate(self.lines(start, stop), start):
                if not line.strip():
                    raise DataError(f"{file.place(row)}: a blank line. Every line is a row.")
                try:
                    yield text_of(strict_json(line), text_key)
                except (ValueError, RecordError) as problem:
                    reason = str(problem).rstrip(".")
                    raise DataError(f"{file.place(row)}: {reason}.") from problem
        else:
            with _parquet(file.path) as table:
                _check_column(file.path, table, text_key)
            for record in self._table(start, stop, [text_key]):
                yield record[text_key] or ""

    def records(
        self, start: int, stop: int, text_key: str = "text"
    ) -> Iterator[Mapping[str, Any] | RecordError | None]:
        """The rows [start, stop) as records; `start` is a multiple of the file's step.

        A blank line gives None, and a line that is not a record gives the reason. A line of text
        becomes a record with the key `text_key`.
        """
        if self._file.format == "parquet":
            with _parquet(self._file.path) as table:
                named = label_names(self._file.path, table.schema_arrow)
            for record in self._table(start, stop, None):
                yield record | {key: names(record[key]) for key, names in named.items()}
            return
        for line in self.lines(start, stop):
            if not line.strip():
                yield None
            elif self._file.format == "text":
                yield {text_key: line}
            else:
                yield _record(line)

    def lines(self, start: int, stop: int) -> Iterator[str]:
        """The lines [start, stop) of a file that is not Parquet, without their ends."""
        file = self._file
        assert start % file.step == 0 and file.format != "parquet"  # noqa: PT018
        row = start
        try:
            if self._stream is None:
                opened = _OPEN.get(file.path.suffix.lower())
                self._stream = opened(file.path) if opened else file.path.open("rb")
            self._stream.seek(file.places[start // file.step])
            for row in range(start, min(stop, file.rows)):
                data = self._stream.readline(MAX_LINE + 1)
                if len(data) > MAX_LINE:
                    raise DataError(
                        f"{file.place(row)}: more than {MAX_LINE:,} bytes in one line. Is it a "
                        "text file?"
                    )
                if row == 0:
                    data = data.removeprefix(b"\xef\xbb\xbf")
                yield data.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as problem:
            raise DataError(
                f"{file.place(row)}: byte {problem.start + 1} "
                f"(0x{problem.object[problem.start]:02x}) is not UTF-8. Convert the file first, "
                "e.g. iconv -f latin1 -t utf-8."
            ) from problem
        except _FAULTS as problem:
            raise _unreadable(file.path, problem) from problem

    def _table(self, start: int, stop: int, columns: list[str] | None) -> Iterator[dict[str, Any]]:
        """Rows of a Parquet file, without reading the row groups before them."""
        with _parquet(self._file.path) as table:
            index = [name for name in table.schema_arrow.names if name.startswith("__index_level_")]
            if columns is None:
                columns = [name for name in table.schema_arrow.names if name not in index]
            groups, before, at = [], 0, None
            for group in range(table.metadata.num_row_groups):
                rows = table.metadata.row_group(group).num_rows
                if before < stop and before + rows > start:
                    groups.append(group)
                    at = before if at is None else at
                before += rows
            row = at or 0  # the first one of the next batch
            for batch in table.iter_batches(_ROWS, row_groups=groups, columns=columns):
                begin, end = max(start - row, 0), min(stop - row, len(batch))
                row += len(batch)
                if begin < end:  # rows of other parts are decoded but not converted to Python
                    yield from python_rows(self._file.path, batch.slice(begin, end - begin))
                if row >= stop:
                    return


def _record(line: str) -> Mapping[str, Any] | RecordError:
    try:
        value = strict_json(line)
    except RecordError as problem:
        return problem
    if isinstance(value, Mapping):
        return value
    return RecordError("expected a JSON object {...}.", reason="no object")


def _count(block: bytes, position: int, rows: int, step: int, places: list[int]) -> int:
    """Counts the line ends of a block, and records where every `step`-th line begins."""
    ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
    first = step - 1 - rows % step  # the line end that completes a step
    places.extend((ends[first::step] + position + 1).tolist())
    return rows + len(ends)


def _check_column(path: Path, table: Any, column: str) -> None:
    arrow, _ = pyarrow_for(path)
    schema = table.schema_arrow
    if column not in schema.names:
        raise DataError(
            f"{path}: no column {column!r}; it has: {', '.join(schema.names)}. Name the right one: "
            f"{setting('text_key')}."
        )
    if not is_text(arrow, schema.field(column).type):
        raise DataError(
            f"{path}: column {column!r} must hold strings, not {schema.field(column).type}. Name "
            f"another: {setting('text_key')}."
        )


@contextmanager
def _parquet(path: Path) -> Iterator[Any]:
    """Opens a Parquet file; raises DataError if it is damaged."""
    arrow, library = pyarrow_for(path)
    try:
        with library.ParquetFile(path) as table:
            yield table
    except (arrow.ArrowException, UnicodeDecodeError, OSError) as problem:
        raise DataError(
            f"{path} cannot be read: {problem}. Is it a Parquet file? Make or fetch it again."
        ) from problem


def _unreadable(path: Path, problem: Exception) -> DataError:
    if isinstance(problem, OSError) and not isinstance(problem, gzip.BadGzipFile):
        return DataError(f"{path} cannot be read: {problem.strerror or problem}.")
    return DataError(f"{path} is damaged or cut off: {problem}. Make or fetch it again.")
