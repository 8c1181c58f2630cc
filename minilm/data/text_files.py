"""Reads documents from text files.

The end of a file's name tells its format:

    .txt      a paragraph or sentence in each line; a blank line ends a document
    .jsonl    a JSON object in each line, one for each document, its text under the key "text"
    .json     the same, or a list of such objects
    .gz .xz   after one of these: compressed
    .parquet  a row for each document, its text in the column "text"; needs pyarrow

Text is UTF-8. Files are read a piece at a time, so they may be larger than memory. A document ends
with its file.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import lzma
import os
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, get_args

from minilm.data.text_records import (
    EncodingErrors,
    Record,
    json_list_records,
    parquet_records,
    text_of,
    ways_to_be_lenient,
)
from minilm.errors import DataError, InputError, setting

MAX_LINE = 2**24  # bytes
MAX_DOCUMENT = 2**26  # characters

_SUFFIXES = (".txt", ".jsonl", ".json", ".md", ".parquet")
_COMPRESSED = (".gz", ".xz")
_BLOCK = 2**18  # bytes read at once

# First bytes of files that are not what their names say.
_SIGNATURES = {
    b"\x1f\x8b": "It is compressed by gzip: add .gz to its name.",
    b"\xfd7zXZ": "It is compressed by xz: add .xz to its name.",
    b"\xff\xfe": "It is UTF-16: convert it first, e.g. iconv -f utf-16 -t utf-8.",
    b"\xfe\xff": "It is UTF-16: convert it first, e.g. iconv -f utf-16 -t utf-8.",
}


@dataclass(frozen=True)
class TextFormat:
    """How to read text files.

    Attributes:
        encoding_errors: what to do with bytes that are not UTF-8, and with half surrogate pairs in
            JSON: "strict" raises an error, "replace" turns them into U+FFFD, "ignore" drops them.
        text_key: the key of a JSON object, or the column of a Parquet file, that holds the text.
        document_per_line: whether every line of a .txt file is a document.
    """

    encoding_errors: EncodingErrors = "strict"
    text_key: str = "text"
    document_per_line: bool = False

    def __post_init__(self) -> None:
        if self.encoding_errors not in get_args(EncodingErrors):
            raise InputError(
                f"encoding_errors must be one of {', '.join(get_args(EncodingErrors))}, not "
                f"{self.encoding_errors!r}."
            )


@dataclass(frozen=True)
class Document:
    """A text and the place it comes from.

    Attributes:
        text: its lines, joined by line breaks; an empty document has nothing but white space.
        path: the file.
        line: the number of its first line, or of its row or record, from 1.
        unit: what `line` counts: "line", "row" or "record".
    """

    text: str
    path: Path
    line: int
    unit: str = "line"

    def __str__(self) -> str:
        return f"{self.path}, {self.unit} {self.line}"


def file_names(
    files: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
) -> list[str | os.PathLike[str]]:
    """The files given by a caller, one or several, as a list."""
    return [files] if isinstance(files, (str, os.PathLike)) else list(files)


def check_text_file(path: Path) -> int:
    """Checks that a file exists and that `read_documents` can read its kind.

    Returns:
        Its size in bytes.

    Raises:
        DataError: there is no such file, or it is of another kind.
    """
    _kind(path)
    try:
        status = path.stat()
    except FileNotFoundError as problem:
        raise DataError(f"{path} does not exist.") from problem
    except OSError as problem:
        raise DataError(f"{path} cannot be read: {problem.strerror or problem}.") from problem
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "no regular file"
        raise DataError(f"{path} is {kind}, expected a text file.")
    return status.st_size


def read_documents(
    path: Path,
    text_format: TextFormat | None = None,
    *,
    on_bytes: Callable[[bytes], object] = lambda _: None,
) -> Iterator[Document]:
    """Reads the documents of a file, in order.

    Only `\\n` and `\\r\\n` end a line of a file. A byte order mark is skipped.

    Args:
        path: a .txt, .md, .jsonl or .json file, also .gz or .xz, or a .parquet file.
        text_format: how to read it.
        on_bytes: called with every block of the file, as stored.

    Raises:
        DataError: the file cannot be read, is damaged, or is not UTF-8 or not JSON, or a line or a
            document is too long or lacks the key or column. The message names the line.
        DependencyError: it is a .parquet file and pyarrow is not installed.
    """
    text_format = text_format or TextFormat()
    check_text_file(path)
    suffix, compression = _kind(path)
    if suffix == ".parquet":
        rows = parquet_records(path, text_format.text_key, on_bytes)
        return _from_records(path, "row", rows, text_format)
    if suffix == ".json" and _is_list(path, compression):
        pieces = _read_pieces(path, compression, text_format.encoding_errors, on_bytes)
        return _from_records(path, "record", json_list_records(path, pieces), text_format)
    lines = _read_lines(path, compression, text_format.encoding_errors, on_bytes)
    if suffix != ".txt":
        return _from_jsonl(path, lines, text_format)
    if text_format.document_per_line:
        return (Document(line, path, number) for number, line in lines if line.strip())
    return _from_txt(path, lines)


def _kind(path: Path) -> tuple[str, str]:
    """The suffixes of the format and of the compression ("" if there is none)."""
    name = path.name.lower()
    compression = next((end for end in _COMPRESSED if name.endswith(end)), "")
    suffix = Path(name.removesuffix(compression)).suffix
    if suffix not in _SUFFIXES or (compression and suffix == ".parquet"):
        *texts, parquet = _SUFFIXES
        raise DataError(
            f"{path}: text files end in {', '.join(texts)}, optionally followed by "
            f"{' or '.join(_COMPRESSED)}, or in {parquet}. Rename or convert it."
        )
    # Markdown is plain text with blank lines between paragraphs
    return ".txt" if suffix == ".md" else suffix, compression


def _from_txt(path: Path, lines: Iterator[tuple[int, str]]) -> Iterator[Document]:
    document: list[str] = []
    length = first = 0
    for number, line in lines:
        if line.strip():
            first = first if document else number
            document.append(line)
            length += len(line)
            if length > MAX_DOCUMENT:
                raise DataError(
                    f"{path}, line {number}: the document that begins at line {first} has more "
                    f"than {MAX_DOCUMENT:,} characters. A blank line ends a document; if every "
                    f"line is a document, use {setting('document_per_line', True)}."
                )
        elif document:
            yield Document("\n".join(document), path, first)
            document, length = [], 0
    if document:
        yield Document("\n".join(document), path, first)


def _from_jsonl(
    path: Path, lines: Iterator[tuple[int, str]], text_format: TextFormat
) -> Iterator[Document]:
    for number, line in lines:
        if line.strip():
            try:
                text = text_of(json.loads(line), text_format.text_key, text_format.encoding_errors)
            except (ValueError, RecursionError) as problem:
                reason = "nested too deeply" if isinstance(problem, RecursionError) else problem
                raise DataError(f"{path}, line {number}: {reason}.") from problem
            yield Document(text, path, number)


def _from_records(
    path: Path, unit: str, records: Iterator[Record], text_format: TextFormat
) -> Iterator[Document]:
    for number, record in enumerate(records, start=1):
        try:
            text = text_of(record, text_format.text_key, text_format.encoding_errors)
        except ValueError as problem:
            raise DataError(f"{path}, {unit} {number}: {problem}.") from problem
        yield Document(text, path, number, unit)


def _read_lines(
    path: Path,
    compression: str,
    encoding_errors: EncodingErrors,
    on_bytes: Callable[[bytes], object],
) -> Iterator[tuple[int, str]]:
    """The numbered lines of a file, without line ends."""
    number = 0
    try:
        with path.open("rb", buffering=0) as raw:
            tap = _Tap(raw, on_bytes)
            with _decompress(io.BufferedReader(tap, _BLOCK), compression) as file:
                while data := file.readline(MAX_LINE + 1):
                    number += 1
                    if number == 1:
                        data = data.removeprefix(b"\xef\xbb\xbf")
                    if len(data) > MAX_LINE:
                        raise DataError(
                            f"{path}, line {number}: more than {MAX_LINE:,} bytes in one line. "
                            "Break it up; is it a text file?"
                        )
                    yield number, _decode(data, path, number, encoding_errors)
    except _FAULTS as problem:
        raise _unreadable(path, f"line {number}", problem) from problem


def _is_list(path: Path, compression: str) -> bool:
    """Whether a JSON file begins with a bracket."""
    try:
        with path.open("rb") as raw, _decompress(raw, compression) as file:
            return file.read(_BLOCK).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["
    except _FAULTS as problem:
        raise _unreadable(path, "its beginning", problem) from problem


def _read_pieces(
    path: Path,
    compression: str,
    encoding_errors: EncodingErrors,
    on_bytes: Callable[[bytes], object],
) -> Iterator[str]:
    """The text of a file, a piece at a time."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")(encoding_errors)
    done = 0
    try:
        with path.open("rb", buffering=0) as raw:
            tap = _Tap(raw, on_bytes)
            with _decompress(io.BufferedReader(tap, _BLOCK), compression) as file:
                while data := file.read(_BLOCK):
                    yield decoder.decode(data)
                    done += len(data)
                yield decoder.decode(b"", final=True)
    except UnicodeDecodeError as problem:
        raise DataError(
            f"{path}: byte 0x{problem.object[problem.start]:02x} after byte {done:,} is not UTF-8. "
            f"{ways_to_be_lenient()}."
        ) from problem
    except _FAULTS as problem:
        raise _unreadable(path, f"byte {done:,}", problem) from problem


_FAULTS = (EOFError, lzma.LZMAError, zlib.error, OSError)


def _unreadable(path: Path, place: str, problem: Exception) -> DataError:
    if isinstance(problem, OSError) and not isinstance(problem, gzip.BadGzipFile):
        return DataError(f"{path} cannot be read after {place}: {problem.strerror or problem}.")
    return DataError(
        f"{path} is damaged or cut off after {place}: {problem}. Make or fetch it again."
    )


def _decode(data: bytes, path: Path, number: int, encoding_errors: EncodingErrors) -> str:
    try:
        return data.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8", encoding_errors)
    except UnicodeDecodeError as problem:
        hints = (hint for start, hint in _SIGNATURES.items() if data.startswith(start))
        hint = next(hints, None) if number == 1 else None
        raise DataError(
            f"{path}, line {number}: byte {problem.start + 1} (0x{data[problem.start]:02x}) is not "
            f"UTF-8. {hint or ways_to_be_lenient() + '.'}"
        ) from problem


def _decompress(stored: BinaryIO, compression: str) -> BinaryIO:
    if compression == ".gz":
        return io.BufferedReader(gzip.GzipFile(fileobj=stored))
    if compression == ".xz":
        return io.BufferedReader(lzma.LZMAFile(stored))
    return stored


class _Tap(io.RawIOBase):
    """A file that passes everything that is read from it to a function."""

    def __init__(self, file: io.FileIO, on_bytes: Callable[[bytes], object]) -> None:
        self._file = file
        self._on_bytes = on_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = self._file.readinto(buffer) or 0
        self._on_bytes(bytes(buffer[:count]))
        return count
