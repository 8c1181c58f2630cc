"""Reads passages from files and directories, each with the place it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from minilm.data.records.base import Skips
from minilm.data.records.tables import read_table
from minilm.data.text_files import TextFormat, check_text_file, read_documents
from minilm.errors import DataError, setting
from minilm.sentence.search import Passage

# the files that are read from a directory; other files must be named
IN_DIRECTORIES = (".txt", ".md", ".txt.gz", ".txt.xz", ".md.gz", ".md.xz")
_TABLES = (".csv", ".tsv")


def files_of(paths: Sequence[Path]) -> list[Path]:
    """Lists files, and for a directory its plain text files, sorted by name.

    Raises:
        DataError: a file does not exist or has an unknown format, or a directory has no text file.
    """
    found = []
    for path in paths:
        if path.is_dir():
            inside = sorted(
                each
                for each in path.rglob("*")
                if each.name.lower().endswith(IN_DIRECTORIES) and each.is_file()
            )
            if not inside:
                raise DataError(
                    f"{path} is a directory without {' or '.join(IN_DIRECTORIES[:2])} files "
                    "(compressed or not). Name the files themselves."
                )
            found += inside
        elif path.name.lower().endswith(_TABLES):
            if not path.is_file():
                raise DataError(f"{path} does not exist.")
            found.append(path)
        else:
            check_text_file(path)
            found.append(path)
    return found


def read_passages(
    files: Sequence[Path], text_format: TextFormat | None = None
) -> Iterator[Passage]:
    """Yields the texts of files, one after another.

    Args:
        files: .txt and .md (each paragraph, or each line, is a text), .jsonl, .json and .parquet
            (each record), compressed or not; .csv and .tsv (each row; the rows are held in memory).
        text_format: how to read the files; `text_key` is also the column of a table.

    Yields:
        Texts that are not empty, without white space around them.

    Raises:
        DataError: a file cannot be read or is damaged; the message names the line.
    """
    text_format = text_format or TextFormat()
    for path in files:
        if path.name.lower().endswith(_TABLES):
            yield from _rows(path, text_format.text_key)
            continue
        for document in read_documents(path, text_format):
            if text := document.text.strip():
                yield Passage(text, path, document.line)


def _rows(path: Path, column: str) -> Iterator[Passage]:
    rows = read_table(path, skips=Skips("raise"))
    for number in range(len(rows)):
        if column not in rows[number]:
            raise DataError(
                f"{path} has no column {column!r}; it has: {', '.join(rows[number])}. Name the "
                f"right one: {setting('text_key')}"
            )
        if text := rows[number][column].strip():
            yield Passage(text, path, int(rows.where(number).rpartition(" ")[2]))
