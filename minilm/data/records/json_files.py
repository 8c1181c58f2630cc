"""Files called .json: SQuAD, a list of records, JSON lines, and the layouts of pandas."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minilm.data.records.base import Record, RecordError, Records, Skips, collect
from minilm.data.records.json_lines import json_objects, strict_json
from minilm.data.records.lines import read_text
from minilm.data.records.squad import squad_records
from minilm.errors import DataError, setting

_FORMS = "a file of SQuAD, a list of objects, or an object of equally long columns"


def read_json_file(
    path: str | Path,
    *,
    labelled: bool = True,
    repair_offsets: bool = False,
    skips: Skips | None = None,
    encoding: str = "utf-8",
) -> Records:
    """Reads the records of a JSON file of any accepted layout.

    The layouts are SQuAD (`read_squad`); a list of objects, alone or under the key "data"; an
    object in each line, as `datasets` writes it; and columns, `{"text": [...], "label": [...]}`,
    or pandas' orient="columns", "index", "split" and "table".

    Args:
        path: the file, perhaps compressed.
        labelled, repair_offsets: for SQuAD, see `read_squad`.
        skips: what to do with bad records.
        encoding: character encoding of the file.

    Raises:
        DataError: the file cannot be read, has none of these layouts or no records, or a record is
            bad and `skips` has the policy "raise".
        InputError: there is no such encoding.
    """
    path = Path(path)
    skips = skips or Skips()
    text = read_text(path, encoding)
    try:
        content = strict_json(text)
    except RecordError as problem:
        if not _is_json_lines(text):
            raise DataError(f"{path}: {problem}") from problem
        return collect(path, json_objects(text), skips)
    if _is_squad(content):
        return squad_records(
            path, content, labelled=labelled, repair_offsets=repair_offsets, skips=skips
        )
    rows = _rows(content)
    if rows is None:
        keys = f" with the keys {', '.join(content):.200}" if isinstance(content, dict) else ""
        raise DataError(
            f"{path}: {_kind(content)}{keys}. Expected {_FORMS}; for one object a line say "
            f"{setting('format', 'jsonl')}."
        )
    return collect(path, _objects(rows), skips)


def _is_json_lines(text: str) -> bool:
    """Whether the first line that is not blank is a JSON object of its own."""
    first = next((line for line in text.split("\n") if line.strip()), "")
    try:
        return isinstance(strict_json(first), dict)
    except RecordError:
        return False


def _is_squad(content: Any) -> bool:
    articles = content.get("data") if isinstance(content, dict) else None
    return isinstance(articles, list) and any(
        isinstance(article, dict) and "paragraphs" in article for article in articles
    )


def _rows(content: Any) -> list[Any] | None:
    """The records of a list, of columns, or of a table written by pandas; None for others."""
    if isinstance(content, list):
        return content if all(isinstance(row, dict) for row in content[:1]) else None
    if not isinstance(content, dict) or not content:
        return None
    rows, names = content.get("data"), content.get("columns")
    if isinstance(rows, list) and isinstance(names, list):
        return [_named(names, row) for row in rows]
    if isinstance(rows, list) and (not rows or isinstance(rows[0], dict)):
        return rows
    values = list(content.values())
    if all(isinstance(value, list) for value in values):
        if len({len(value) for value in values}) > 1:
            return None
        return [dict(zip(content, row, strict=True)) for row in zip(*values, strict=True)]
    if all(isinstance(value, dict) for value in values):
        return _of_objects(content)
    if not any(isinstance(value, dict | list) for value in values):
        return [content]  # one record
    return None


def _named(names: list[Any], row: Any) -> Any:
    if isinstance(row, list) and len(row) == len(names):
        return dict(zip(map(str, names), row, strict=True))
    return row


def _of_objects(content: Record) -> list[Any] | None:
    """Records from rows by number or from columns of values by row number; None if unclear."""
    inner = list(next(iter(content.values())))
    by_row = all(name.isdecimal() for name in content)
    by_column = bool(inner) and all(name.isdecimal() for name in inner)
    if by_row == by_column:
        return None
    if by_row:
        return list(content.values())
    if any(list(column) != inner for column in content.values()):
        return None
    return [{name: column[row] for name, column in content.items()} for row in inner]


def _objects(rows: list[Any]) -> Iterator[tuple[str, Record | RecordError]]:
    for number, row in enumerate(rows, 1):
        bad = RecordError(f"expected an object, not {row!r:.60}.", reason="no object")
        yield f"record {number}", row if isinstance(row, dict) else bad


def _kind(content: Any) -> str:
    if isinstance(content, list):
        first = f" that begins with {content[0]!r:.60}" if content else ""
        return f"a list{first}"
    return "an object" if isinstance(content, dict) else f"the value {content!r:.60}"
