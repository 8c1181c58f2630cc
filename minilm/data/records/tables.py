"""Tables: one record a row, as CSV or TSV.

Python's csv module is not used: it ends a row at a lone `\\r`, takes half a quoted field for a
whole one, and names lines only after they went wrong.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TypeAlias

from minilm.data.records.base import Record, RecordError, Records, Skips, collect
from minilm.data.records.lines import numbered_lines, read_text, suffix_of
from minilm.data.records.table_layout import likely_delimiters, needs_quoting
from minilm.errors import DataError, InputError, setting
from minilm.files.progress import counted

NumberedRow: TypeAlias = tuple[int, list[str] | RecordError]

MAX_FIELD = 2**20  # characters

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_ROW_END = re.compile(r"\r?(?:\n|\Z)")
_SAYS_DELIMITER = re.compile(r'"?sep=([^"\r\n])"?\r?(?:\n|\Z)', re.IGNORECASE)


def read_table(
    path: str | Path,
    *,
    delimiter: str | None = None,
    header: bool = True,
    quoting: bool | None = None,
    escape: str | None = None,
    skips: Skips | None = None,
    encoding: str = "utf-8",
    usual_delimiter: str | None = None,
) -> Records:
    """The rows of a table, each as `{column: field}` of strings.

    Only `\\n` and `\\r\\n` end a row, or `\\r` in a file without any `\\n`. Lines without any
    character are not rows, and neither are lines of white space if there are two columns or more.

    Args:
        path: the file, perhaps compressed.
        delimiter: the character between two fields. Unless given, what a first line "sep=;" says,
            as Excel writes it; else a comma in .csv and a tab in .tsv, or, if the header has none
            of these, the only other of comma, semicolon, tab and bar that cuts all rows into
            equally many fields. A warning says so.
        header: the first row names the columns. A column without a name is called "column N", and
            is left out where all its fields are empty. Without a header the columns are named
            "1", "2" and so on.
        quoting: fields may stand in quotes, then hold delimiters, line breaks and doubled quotes
            (RFC 4180). Without it a quote is a character like any other, as in the files of GLUE.
            Unless given, yes except between tabs; between tabs with a warning, if all quotes of
            the file are in their places and some field could not do without.
        escape: the character that takes its meaning from the delimiter, quote, line break or
            escape behind it, such as a backslash. Unless given, none.
        skips: what to do with rows with another number of fields than the header, with text
            behind a closing quote, or with a field of more than 2**20 characters.
        encoding: how characters are stored.
        usual_delimiter: instead of that of the file's name.

    Raises:
        DataError: the file cannot be read or has no rows, its header has a name twice, a quote is
            never closed, or a row is bad and `skips` says so.
        InputError: the delimiter, the escape or the encoding cannot be.
    """
    path = Path(path)
    usual = usual_delimiter or _DELIMITERS.get(suffix_of(path))
    if delimiter is None and usual is None:
        raise InputError(
            f"{path}: no .csv or .tsv, so the delimiter must be named, e.g. "
            f"{setting('delimiter', chr(9))}."
        )
    if delimiter is not None:
        _check_character("delimiter", delimiter)
    if escape is not None:
        _check_character("escape", escape)
    text = read_text(path, encoding)
    start = 0
    if said := _SAYS_DELIMITER.match(text):
        start = said.end()
        delimiter = delimiter or said[1]
    found = delimiter or _delimiter(path, text, usual or ",", header)
    if quoting is None:
        quoting = found != "\t" or (escape is None and _is_quoted(path, text, start))
    if quoting or escape is not None:
        rows = quoted_rows(text, found, path, quotes=quoting, escape=escape, start=start)
    else:
        rows = ((n, row) for n, row in plain_rows(text, found) if not start or n > 1)
    if header:
        columns, rows, unnamed = _header(path, rows)
    else:
        rows, columns = _counted(rows)
        unnamed = []
    advice = (
        f"Put fields with {found!r} in quotes, or name the right delimiter "
        f"({setting('delimiter')})."
        if quoting
        else f"Take {found!r} out of the fields; if they stand in quotes, say "
        f"{setting('quoting', True)}."
    )
    records = collect(path, named_rows(rows, columns, advice), skips or Skips())
    empty = [name for name in unnamed if not any(row[name].strip() for row in records)]
    for row in records if empty else ():
        for name in empty:
            del row[name]
    return records


def _check_character(name: str, character: str) -> None:
    if len(character) != 1 or character in '"\r\n':
        raise InputError(
            f"{name} must be one character and no quote or line break, not {character!r}."
        )


def _delimiter(path: Path, text: str, usual: str, header: bool) -> str:
    """The usual delimiter, or the one that a file without it certainly has."""
    first = next((line for _, line in numbered_lines(text) if line.strip()), "")
    if usual in first:
        return usual
    likely = likely_delimiters(text, usual)
    if not likely:
        return usual
    if header and len(likely) == 1:
        warnings.warn(
            f"{path}: {likely[0]!r} separates the columns, not {usual!r} "
            f"({setting('delimiter', likely[0])}).",
            stacklevel=3,
        )
        return likely[0]
    shown = " or ".join(setting("delimiter", one) for one in likely)
    warnings.warn(
        f"{path} has no {usual!r} in its first line, so it is read as one column. Is the "
        f"delimiter another: {shown}?",
        stacklevel=3,
    )
    return usual


def _is_quoted(path: Path, text: str, start: int) -> bool:
    if not needs_quoting(text[start:], "\t"):
        return False
    warnings.warn(
        f"{path}: fields stand in quotes, which are taken off ({setting('quoting', True)}). If "
        f"quotes are characters like any other here, say {setting('quoting', False)}.",
        stacklevel=3,
    )
    return True


def plain_rows(text: str, delimiter: str) -> Iterator[NumberedRow]:
    """Rows of a table in which quotes mean nothing."""
    return ((number, line.split(delimiter)) for number, line in numbered_lines(text) if line)


def quoted_rows(
    text: str,
    delimiter: str,
    path: Path,
    *,
    quotes: bool = True,
    escape: str | None = None,
    start: int = 0,
) -> Iterator[NumberedRow]:
    """Rows of a table whose fields may stand in quotes, with the number of their first line.

    A quote inside a field that does not begin with one is a character like any other.

    Args:
        text: of the file.
        delimiter: between two fields.
        path: of the file, for messages.
        quotes: they have this meaning; else only `escape` has one.
        escape: see `read_table`.
        start: where the first row begins; what stands before it is one line.

    Raises:
        DataError: a quote is never closed.
    """
    field = _field(delimiter, quotes, escape)
    about_quotes = _about_quotes(text, escape)
    escaped = re.compile(rf"{re.escape(escape)}([\s\S])") if escape else None
    place, number = start, 2 if start else 1
    while place < len(text):
        begin = place
        fields: list[str] = []
        while True:
            match = field.match(text, place)
            if match is None:
                line = number + text.count("\n", begin, place)
                raise DataError(
                    f"{path}, line {line}: the quote that begins field {len(fields) + 1} is never "
                    f"closed. {about_quotes}"
                )
            quoted, plain = match.groups()
            place = match.end()
            value = plain if quoted is None else quoted.replace('""', '"')
            if quoted is None and not text.startswith(delimiter, place):
                value = value.removesuffix("\r")
            fields.append(escaped.sub(r"\1", value) if escaped else value)
            if not text.startswith(delimiter, place):
                break
            place += 1
        end = _ROW_END.match(text, place)
        if end is None:
            bad = RecordError(
                f"text follows the closing quote of field {len(fields)}.",
                f"Double the quotes inside a field. {about_quotes}",
                reason="misplaced quote",
            )
            yield number, bad
            place = text.find("\n", place) + 1 or len(text)
        else:
            place = end.end()
            if fields != [""] or quoted is not None:
                yield number, fields
        number += text.count("\n", begin, place)


def _field(delimiter: str, quotes: bool, escape: str | None) -> re.Pattern[str]:
    """A field: its first group in quotes, its second one without."""
    mark = re.escape(escape or "")
    pair = rf"|{mark}[\s\S]" if escape else ""
    plain = rf"((?:[^{re.escape(delimiter)}\n{mark}]++{pair})*+)"
    if not quotes:
        return re.compile(rf"((?!))?{plain}")
    return re.compile(rf'"((?:[^"{mark}]++|""{pair})*+)"|(?!"){plain}')


def _about_quotes(text: str, escape: str | None) -> str:
    advice = f"If quotes mean nothing in this file, say {setting('quoting', False)}."
    if escape is None and '\\"' in text:
        backslash = setting("escape", "\\")
        advice = f"If a backslash stands before quotes inside a field, say {backslash}. {advice}"
    return advice


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
            problem = f"expected {counted(len(columns), 'field')}, found {len(fields)}."
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


def _header(
    path: Path, rows: Iterator[NumberedRow]
) -> tuple[list[str], Iterator[NumberedRow], list[str]]:
    """The names of the columns, from the first row that is not blank, and the rows behind it.

    Where every row has one field more than the header, the last field is a column without a name
    if it is empty everywhere (a delimiter at the end of the row), the first one if it counts the
    rows from 1 (as R writes tables).

    Returns:
        Names, rows, and those of the names that the file does not give.
    """
    for number, fields in rows:
        if isinstance(fields, RecordError):
            raise DataError(f"{path}, line {number}: {fields}")
        if len(fields) == 1 and not fields[0].strip():
            continue
        rest = list(rows)
        wide = [
            row for _, row in rest if isinstance(row, list) and (len(row) > 1 or row[0].strip())
        ]
        if wide and all(len(row) == len(fields) + 1 for row in wide):
            if not any(row[-1].strip() for row in wide):
                fields = [*fields, ""]
            elif all(row[0] == str(count) for count, row in enumerate(wide, 1)):
                fields = ["", *fields]
        columns = [name if name.strip() else f"column {i}" for i, name in enumerate(fields, 1)]
        name, count = Counter(columns).most_common(1)[0]
        if count > 1:
            raise DataError(
                f"{path}, line {number}: the header has {count} columns {name!r:.80}. Rename "
                f"them, or say {setting('header', False)}."
            )
        unnamed = [new for new, old in zip(columns, fields, strict=True) if new != old]
        return columns, iter(rest), unnamed
    return [], rows, []


def _counted(rows: Iterator[NumberedRow]) -> tuple[Iterator[NumberedRow], list[str]]:
    """All rows, and numbers for names, as many as the first good row has fields."""
    before: list[NumberedRow] = []
    for number, fields in rows:
        before.append((number, fields))
        if not isinstance(fields, RecordError):
            return chain(before, rows), [str(i) for i in range(1, len(fields) + 1)]
    return iter(before), []
