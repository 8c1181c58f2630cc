"""Labelled data in Parquet, as pandas, `datasets` and the hub write it; read whole.

Corpora, of which one column is read a few rows at a time, are in minilm/data/text_records.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minilm.data.records.base import Record, Records, Skips, collect
from minilm.errors import DataError
from minilm.files.pyarrow_library import pyarrow_for

if TYPE_CHECKING:
    import pyarrow as pa


def read_parquet(path: str | Path, *, skips: Skips | None = None) -> Records:
    """The rows of a table, each as `{column: value}`.

    Columns that `datasets` stored as ClassLabel, or as lists of it, become names (None for -1, "no
    label"). An index that pandas stored is left out.

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
    except FileNotFoundError as problem:
        raise DataError(f"{path} does not exist.") from problem
    except (OSError, arrow.ArrowException) as problem:
        raise DataError(f"{path} is damaged, or no Parquet: {problem}.") from problem
    rows: list[Record] = table.to_pylist()
    index = [name for name in table.column_names if name.startswith("__index_level_")]
    names = label_names(table.schema)
    for row in rows:
        for name in index:
            del row[name]
        for column, named in names.items():
            row[column] = named(row[column])
    return collect(path, ((f"row {n}", row) for n, row in enumerate(rows, 1)), skips or Skips())


def label_names(schema: pa.Schema) -> dict[str, Callable[[Any], Any]]:
    """For columns of class numbers: what turns a value into names."""
    stored = (schema.metadata or {}).get(b"huggingface")
    if stored is None:
        return {}
    features = json.loads(stored).get("info", {}).get("features", {})
    found = {}
    for column, feature in features.items():
        if isinstance(feature, list) and len(feature) == 1:  # of older versions
            feature = feature[0]
        inner = feature.get("feature", feature) if isinstance(feature, Mapping) else feature
        if isinstance(inner, Mapping) and inner.get("_type") == "ClassLabel":
            found[column] = _names(inner["names"])
    return found


def _names(labels: list[str]) -> Callable[[Any], Any]:
    def named(value: Any) -> Any:
        if isinstance(value, list):
            return [named(one) for one in value]
        return labels[value] if isinstance(value, int) and 0 <= value < len(labels) else None

    return named
