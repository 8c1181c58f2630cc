"""Plain text files with a text in each line."""

from __future__ import annotations

from pathlib import Path

from minilm.data.records.base import Records, Skips, collect
from minilm.data.records.lines import numbered_lines, read_text


def read_texts(path: str | Path, *, skips: Skips | None = None, encoding: str = "utf-8") -> Records:
    """Reads the lines of a file, each as `{"text": line}`.

    A blank line gives the record `{"text": "", "blank": True}`, so that record n is line n.

    Args:
        path: the file, perhaps compressed.
        skips: counts the records; none is bad.
        encoding: character encoding of the file.

    Raises:
        DataError: the file cannot be read or is empty.
        InputError: there is no such encoding.
    """
    path = Path(path)
    lines = numbered_lines(read_text(path, encoding))
    found = (
        (f"line {number}", {"text": line} if line.strip() else {"text": "", "blank": True})
        for number, line in lines
    )
    return collect(path, found, skips or Skips())
