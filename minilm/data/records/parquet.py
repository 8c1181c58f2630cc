"""Labelled data in Parquet, as pandas, `datasets` and the hub write it; read whole.

For corpora, minilm/data/text_records.py reads one column, a few rows at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minilm.data.records.base import Record, Records, Skips, collect
from minilm.errors import DataError
from minilm.files.json_file import parse_json
from minilm.files.pyarrow_library import pyarrow_for

if TYPE_CHECKING:
    import pyarrow as pa


def read_parquet(path: str | Path, *, skips: Skips | None = None) -> Records:
    """Reads the rows of a table, each as `{column: value}`.

    Columns that `datasets` stored as ClassLabel, or as lists of it, become names (None for -1, "no
    label"). An index stored by pandas is left out.

    Args:
        path: the file.
        skips: counts the records; none is bad.

    Raises:
        DataError: the file cannot be read or has no rows.
        DependencyError: pyarrow is not installed.
    """
    path = Path(path)
    arrow, parquet = pyarrow_for(path)
    try:
        table = parquet.ParquetFile(path).read()
        rows = python_rows(path, table)
        names = label_names(path, table.schema)
    except FileNotFoundError as problem:
        raise DataError(f"{path} does not exist.") from problem
    except (OSError, arrow.ArrowException, ValueError) as problem:  # names need not be UTF-8
        raise DataError(f"{path} is damaged, or no Parquet: {problem}.") from problem
    index = [name for name in table.column_names if name.startswith("__index_level_")]
    for row in rows:
        for name in index:
            row.pop(name, None)
        for column, named in names.items():
            row[column] = named(row[column])
    return collect(path, ((f"row {n}", row) for n, row in enumerate(rows, 1)), skips or Skips())


def python_rows(path: Path, rows: pa.Table | pa.RecordBatch) -> list[Record]:
    """Rows of a table as dictionaries.

    Raises:
        DataError: a value does not exist in Python, such as a time after the year 9999 or a text
            that is not UTF-8; the message names the column.
    """
    try:
        return list(rows.to_pylist())
    except (ValueError, OverflowError):
        for number, name in enumerate(rows.schema.names):
            try:
                rows.column(number).to_pylist()
            except (ValueError, OverflowError) as problem:
                raise DataError(
                    f"{path}: column {name!r:.80} ({rows.schema.field(number).type}) has a value "
                    f"that cannot be read: {problem}. Leave the column out, or correct it."
                ) from problem
        raise


def label_names(path: Path, schema: pa.Schema) -> dict[str, Callable[[Any], Any]]:
    """Functions that turn the values of columns of class numbers into names, by column.

    Raises:
        DataError: the metadata stored by `datasets` is damaged.
    """
    stored = (schema.metadata or {}).get(b"huggingface")
    if stored is None:
        return {}
    try:
        description: Any = parse_json(stored)
    except ValueError as problem:
        raise DataError(f"{path}: its metadata of datasets is no JSON: {problem}.") from problem
    for key in ("info", "features"):
        description = description.get(key) if isinstance(description, Mapping) else None
    found = {}
    for column, feature in (description if isinstance(description, Mapping) else {}).items():
        if column not in schema.names:
            continue
        if isinstance(feature, list) and len(feature) == 1:  # written by older versions
            feature = feature[0]
        inner = feature.get("feature", feature) if isinstance(feature, Mapping) else feature
        if isinstance(inner, Mapping) and inner.get("_type") == "ClassLabel":
            labels = inner.get("names")
            if not isinstance(labels, list) or not all(isinstance(one, str) for one in labels):
                raise DataError(
                    f"{path}: its metadata of datasets gives the classes of {column!r:.80} no "
                    "list of names. Write the file again."
                )
            found[column] = _names(labels)
    return found


def _names(labels: list[str]) -> Callable[[Any], Any]:
    def named(value: Any) -> Any:
        if isinstance(value, list):
            return [named(one) for one in value]
        return labels[value] if isinstance(value, int) and 0 <= value < len(labels) else None

    return named
