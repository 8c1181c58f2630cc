"""Texts of records: JSON objects, rows of Parquet files, rows of `datasets`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from minilm.errors import DataError, by_place, setting
from minilm.files.progress import counted
from minilm.files.pyarrow_library import pyarrow_for

EncodingErrors: TypeAlias = Literal["strict", "replace", "ignore"]
Record: TypeAlias = Mapping[str, Any]

MAX_RECORD = 2**27  # characters of one JSON object in a list
_ROWS = 256  # rows of a Parquet file that are read at once
_PIECE = 2**20  # bytes

_FIRST = re.compile(r"\s*\[\s*(?=\{)")
_NEXT = re.compile(r"\s*,\s*(?=\{)")
_END = re.compile(r"\s*\]\s*")
_EMPTY = re.compile(r"\s*\[\s*\]\s*")


def text_of(record: object, key: str, encoding_errors: EncodingErrors = "strict") -> str:
    """The text of a record.

    Args:
        record: a mapping.
        key: the key of its text.
        encoding_errors: what to do with half surrogate pairs.

    Raises:
        ValueError: it has no text, or is not a mapping; the message names no file or line.
    """
    if not isinstance(record, Mapping):
        raise ValueError("expected a JSON object {...}")
    if key not in record:
        keys = ", ".join(sorted(map(str, record))[:10])
        raise ValueError(
            f"no key {key!r}; it has: {keys}. Name the right one: {setting('text_key')}"
        )
    text = record[key]
    if not isinstance(text, str):
        raise ValueError(f"{key!r} must be a string, not {text!r:.40}")
    try:
        text.encode()
    except UnicodeEncodeError as problem:
        if encoding_errors == "strict":
            raise ValueError(
                f"{key!r} has half a surrogate pair ({text[problem.start]!r}) at character "
                f"{problem.start + 1}, which is not valid Unicode text. {ways_to_be_lenient()}"
            ) from problem
        # "replace" when encoding would give "?"
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", encoding_errors)
    return text


def ways_to_be_lenient() -> str:
    """Advice about bytes that are not UTF-8, for messages."""
    option = by_place(python=setting("encoding_errors", "replace"), command="--errors replace")
    return f"Repair it, or choose what to do with such places: {option}, or ignore"


def json_list_records(path: Path, pieces: Iterable[str]) -> Iterator[Record]:
    """The objects of a JSON list, read a piece at a time.

    Args:
        path: the file, for messages.
        pieces: its text, a piece at a time.

    Raises:
        DataError: the text is not a list of objects.
    """
    decode = json.JSONDecoder().raw_decode
    text, number, enough = "", 0, 0
    problem: Exception | None = None
    for piece in pieces:
        text += piece
        if len(text) < enough and piece:  # the last piece is empty
            continue
        at = 0
        while mark := (_NEXT if number else _FIRST).match(text, at):
            try:
                record, at = decode(text, mark.end())
            except (ValueError, RecursionError) as found:  # perhaps more text follows
                problem = found
                break
            number += 1
            yield record
        text = text[at:]
        enough = 2 * len(text)
        if len(text) > MAX_RECORD:
            break
    if not (_END if number else _EMPTY).fullmatch(text):
        reason = (
            str(problem)
            if isinstance(problem, ValueError) and (_NEXT if number else _FIRST).match(text)
            else "expected a list of JSON objects [{...}, ...]"
        )
        raise DataError(f"{path}, after {counted(number, 'record')}: {reason}.")


def parquet_records(
    path: Path, column: str, on_bytes: Callable[[bytes], object]
) -> Iterator[Record]:
    """The rows of a Parquet file, with one column only; a missing value is an empty text.

    Args:
        path: the file.
        column: a column of strings.
        on_bytes: called with the bytes of the file as it is stored, in step with the rows.

    Raises:
        DataError: it is not a Parquet file, is damaged, or has no such column of strings.
        DependencyError: pyarrow is not installed.
    """
    arrow, parquet = pyarrow_for(path)
    done = 0
    try:
        with parquet.ParquetFile(path) as file, path.open("rb") as raw:
            size = path.stat().st_size
            schema = file.schema_arrow
            if column not in schema.names:
                raise DataError(
                    f"{path}: no column {column!r}; it has: {', '.join(schema.names)}. Name the "
                    f"right one: {setting('text_key')}."
                )
            kind = schema.field(column).type
            if not is_text(arrow, kind):
                raise DataError(
                    f"{path}: column {column!r} must hold strings, not {kind}. Name another: "
                    f"{setting('text_key')}."
                )
            for batch in file.iter_batches(batch_size=_ROWS, columns=[column]):
                for text in batch.column(0).to_pylist():
                    yield {column: text or ""}
                done += len(batch)
                while raw.tell() < size * done // file.metadata.num_rows:
                    on_bytes(raw.read(_PIECE))
            while data := raw.read(_PIECE):
                on_bytes(data)
    except (arrow.ArrowException, UnicodeDecodeError, OSError) as problem:
        raise DataError(
            f"{path} cannot be read after row {done:,}: {problem}. Is it a Parquet file? Make or "
            "fetch it again."
        ) from problem


def is_text(arrow: Any, kind: Any) -> bool:
    kinds = arrow.types
    if kinds.is_dictionary(kind):
        kind = kind.value_type
    return bool(kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind))
