"""CSV and TSV tables with a record in each row.

Python's csv module is not used: it ends a row at a lone `\\r`, accepts half a quoted field as a
whole one, and names a line only after it has read past it.
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
    """Reads the rows of a table, each as `{column: field}` of strings.

    Only `\\n` and `\\r\\n` end a row, or `\\r` in a file without any `\\n`. Empty lines are not
    rows, and neither are lines of white space if there are two columns or more.

    Args:
        path: the file, perhaps compressed.
        delimiter: the character between two fields. None = the one in a first line "sep=;", as
            Excel writes it; else a comma in .csv and a tab in .tsv, or, with a warning, if the
            header does not contain it, the only other of comma, semicolon, tab and bar that
            splits all rows into equally many fields.
        header: whether the first row names the columns. A column without a name is called
            "column N", and is left out if all its fields are empty. Without a header the columns
            are named "1", "2" and so on.
        quoting: whether fields may be in quotes and then contain delimiters, line breaks and
            doubled quotes (RFC 4180). If not, a quote is an ordinary character, as in the files of
            GLUE. None = True, except with tabs; with tabs, True with a warning if all quotes of
            the file are well placed and some field needs them.
        escape: a character, such as a backslash, after which a delimiter, quote, line break or
            escape is an ordinary character. None = there is none.
        skips: what to do with rows whose number of fields differs from the header's, with text
            after a closing quote, or with a field of more than 2**20 characters.
        encoding: character encoding of the file.
        usual_delimiter: default of `delimiter`, instead of the one that the file's name says.

    Raises:
        DataError: the file cannot be read or has no rows, its header repeats a name, a quote is
            never closed, or a row is bad and `skips` has the policy "raise".
        InputError: the delimiter, the escape or the encoding is invalid.
    """
    path = Path(path)
    usual = usual_delimiter or _DELIMITERS.get(suffix_of(path))
    if delimiter is None and usual is None:
        raise InputError(
            f"{path} is neither .csv nor .tsv, so the delimiter must be given, e.g. "
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
        else f"Remove {found!r} from the fields; if they are in quotes, use "
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
            f"{name} must be one character, and not a quote or line break: {character!r}."
        )


def _delimiter(path: Path, text: str, usual: str, header: bool) -> str:
    """The usual delimiter, or the only possible one of a file that does not contain it."""
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
        f"{path}: fields are in quotes, which are removed ({setting('quoting', True)}). If quotes "
        f"are ordinary characters here, use {setting('quoting', False)}.",
        stacklevel=3,
    )
    return True


def plain_rows(text: str, delimiter: str) -> Iterator[NumberedRow]:
    """Rows of a table in which quotes are ordinary characters."""
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
    """Rows of a table whose fields may be in quotes, with the number of their first line.

    A quote inside a field that does not begin with one is an ordinary character.

    Args:
        text: text of the file.
        delimiter: the character between two fields.
        path: the file, for messages.
        quotes: whether fields may be in quotes; if not, only `escape` has a meaning.
        escape: see `read_table`.
        start: position of the first row; the text before it is one line.

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
    """Matches a field: group 1 if it is in quotes, group 2 if not."""
    mark = re.escape(escape or "")
    pair = rf"|{mark}[\s\S]" if escape else ""
    plain = rf"((?:[^{re.escape(delimiter)}\n{mark}]++{pair})*+)"
    if not quotes:
        return re.compile(rf"((?!))?{plain}")
    return re.compile(rf'"((?:[^"{mark}]++|""{pair})*+)"|(?!"){plain}')


def _about_quotes(text: str, escape: str | None) -> str:
    advice = f"If quotes are ordinary characters in this file, use {setting('quoting', False)}."
    if escape is None and '\\"' in text:
        backslash = setting("escape", "\\")
        advice = f"If a backslash precedes quotes inside a field, use {backslash}. {advice}"
    return advice


def named_rows(
    rows: Iterable[NumberedRow], columns: Sequence[str], advice: str
) -> Iterator[tuple[str, Record | RecordError]]:
    """Rows as dictionaries, for `collect`.

    Args:
        rows: the rows after the header.
        columns: the names of the fields.
        advice: advice about a row with a different number of fields.
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
    """The names of the columns, from the first row that is not blank, and the rows after it.

    If every row has one field more than the header, the last field is a column without a name if
    it is always empty (a delimiter at the end of the row), or the first one if it numbers the rows
    from 1 (as R writes tables).

    Returns:
        Names, rows, and the names that are not in the file.
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
                f"them, or use {setting('header', False)}."
            )
        unnamed = [new for new, old in zip(columns, fields, strict=True) if new != old]
        return columns, iter(rest), unnamed
    return [], rows, []


def _counted(rows: Iterator[NumberedRow]) -> tuple[Iterator[NumberedRow], list[str]]:
    """All rows, and numbers as names for the fields of the first good row."""
    before: list[NumberedRow] = []
    for number, fields in rows:
        before.append((number, fields))
        if not isinstance(fields, RecordError):
            return chain(before, rows), [str(i) for i in range(1, len(fields) + 1)]
    return iter(before), []
