"""Tables: one record a row, as CSV or TSV.

Python's csv module is not used: it ends a row at a lone `\\r`, takes half a quoted field for a
whole one, and names lines only after they went wrong.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TypeAlias

from minilm.data.records.base import Record, RecordError, Records, Skips, collect
from minilm.data.records.lines import numbered_lines, read_text, suffix_of
from minilm.errors import DataError, InputError, setting

NumberedRow: TypeAlias = tuple[int, list[str] | RecordError]

MAX_FIELD = 2**20  # characters

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_ROW_END = re.compile(r"\r?(?:\n|\Z)")


def read_table(
    path: str | Path,
    *,
    delimiter: str | None = None,
    header: bool = True,
    quoting: bool | None = None,
    skips: Skips | None = None,
    encoding: str = "utf-8",
) -> Records:
    """The rows of a table, each as `{column: field}` of strings.

    Only `\\n` and `\\r\\n` end a row. Lines without any character are not rows, and neither are
    lines of white space if there are two columns or more.

    Args:
        path: the file, perhaps .gz or .xz.
        delimiter: the character between two fields. Unless given, a comma in .csv and a tab in
            .tsv.
        header: the first row names the columns. An unnamed first column, as pandas writes it, is
            named "column 1". Without a header the columns are named "1", "2" and so on.
        quoting: fields may stand in quotes, then hold delimiters, line breaks and doubled quotes
            (RFC 4180). Without it a quote is a character like any other, as in the files of GLUE.
            Unless given, yes except between tabs.
        skips: what becomes of rows with another number of fields than the header, with text
            behind a closing quote, or with a field of more than 2**20 characters.
        encoding: how characters are stored.

    Raises:
        DataError: the file cannot be read or has no rows, its header has a column without a name
            or a name twice, a quote is never closed, or a row is bad and `skips` says so.
        InputError: the delimiter or the encoding cannot be.
    """
    path = Path(path)
    if delimiter is None:
        delimiter = _DELIMITERS.get(suffix_of(path))
    if delimiter is None:
        raise InputError(
            f"{path}: no .csv or .tsv, so the delimiter must be named, e.g. "
            f"{setting('delimiter', chr(9))}."
        )
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise InputError(
            f"delimiter must be one character and no quote or line break, not {delimiter!r}."
        )
    quoting = delimiter != "\t" if quoting is None else quoting
    text = read_text(path, encoding)
    rows = quoted_rows(text, delimiter, path) if quoting else plain_rows(text, delimiter)
    if header:
        columns = _header(path, rows)
    else:
        rows, columns = _counted(rows)
    advice = (
        f"Put fields with {delimiter!r} in quotes, or name the right delimiter "
        f"({setting('delimiter')})."
        if quoting
        else f"Take {delimiter!r} out of the fields; if they stand in quotes, say "
        f"{setting('quoting', True)}."
    )
    return collect(path, named_rows(rows, columns, advice), skips or Skips())


def plain_rows(text: str, delimiter: str) -> Iterator[NumberedRow]:
    """Rows of a table in which quotes mean nothing."""
    return ((number, line.split(delimiter)) for number, line in numbered_lines(text) if line)


def quoted_rows(text: str, delimiter: str, path: Path) -> Iterator[NumberedRow]:
    """Rows of a table whose fields may stand in quotes, with the number of their first line.

    A quote inside a field that does not begin with one is a character like any other.

    Raises:
        DataError: a quote is never closed.
    """
    field = re.compile(rf'"((?:[^"]++|"")*+)"|(?!")([^{re.escape(delimiter)}\n]*+)')
    place, number = 0, 1
    while place < len(text):
        begin = place
        fields: list[str] = []
        while True:
            match = field.match(text, place)
            if match is None:
                line = number + text.count("\n", begin, place)
                raise DataError(
                    f"{path}, line {line}: the quote that begins field {len(fields) + 1} is never "
                    "closed. If quotes mean nothing in this file, say "
                    f"{setting('quoting', False)}."
                )
            quoted, plain = match.groups()
            place = match.end()
            fields.append(plain if quoted is None else quoted.replace('""', '"'))
            if not text.startswith(delimiter, place):
                break
            place += 1
        if quoted is None:
            fields[-1] = plain.removesuffix("\r")
        end = _ROW_END.match(text, place)
        if end is None:
            bad = RecordError(
                f"text follows the closing quote of field {len(fields)}.",
                "Double the quotes inside a field; if quotes mean nothing, say "
                f"{setting('quoting', False)}.",
                reason="misplaced quote",
            )
            yield number, bad
            place = text.find("\n", place) + 1 or len(text)
        else:
            place = end.end()
            if fields != [""] or quoted is not None:
                yield number, fields
        number += text.count("\n", begin, place)


def named_rows(
    rows: Iterable[NumberedRow], columns: Sequence[str], advice: str
) -> Iterator[tuple[str, Record | RecordError]]:
    """Rows as dictionaries, for `collect`.

    Args:
        rows: those after the header.
        columns: the names of the fields.
        advice: what to do about a row with another number of fields.
    """
    for number, fields in rows:
        place = f"line {number}"
        if isinstance(fields, RecordError):
            yield place, fields
        elif len(fields) == len(columns):
            yield place, _named(columns, fields)
        elif len(fields) > 1 or fields[0].strip():
            problem = f"expected {len(columns)} fields, found {len(fields)}."
            yield place, RecordError(problem, advice, reason="ragged row")


def _named(columns: Sequence[str], fields: list[str]) -> Record | RecordError:
    longest = max(range(len(fields)), key=lambda i: len(fields[i]))
    if len(fields[longest]) > MAX_FIELD:
        return RecordError(
            f"field {longest + 1} has more than {MAX_FIELD:,} characters.",
            "Is a quote or a line break missing?",
            reason="long field",
        )
    return dict(zip(columns, fields, strict=True))


def _header(path: Path, rows: Iterator[NumberedRow]) -> list[str]:
    """Takes the names of the columns from the first row that is not blank."""
    for number, fields in rows:
        if isinstance(fields, RecordError):
            raise DataError(f"{path}, line {number}: {fields}")
        if len(fields) == 1 and not fields[0].strip():
            continue
        columns = [fields[0] if fields[0].strip() else "column 1", *fields[1:]]
        unnamed = [i for i, name in enumerate(columns, 1) if not name.strip()]
        if unnamed:
            raise DataError(
                f"{path}, line {number}: column {unnamed[0]} of the header has no name. Name it, "
                f"or say {setting('header', False)}."
            )
        name, count = Counter(columns).most_common(1)[0]
        if count > 1:
            raise DataError(
                f"{path}, line {number}: the header has {count} columns {name!r:.80}. Rename "
                f"them, or say {setting('header', False)}."
            )
        return columns
    return []


def _counted(rows: Iterator[NumberedRow]) -> tuple[Iterator[NumberedRow], list[str]]:
    """All rows, and numbers for names, as many as the first good row has fields."""
    before: list[NumberedRow] = []
    for number, fields in rows:
        before.append((number, fields))
        if not isinstance(fields, RecordError):
            return chain(before, rows), [str(i) for i in range(1, len(fields) + 1)]
    return iter(before), []
