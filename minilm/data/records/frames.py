"""Records of other libraries: data frames, and data sets of the `datasets` library.

None of them is imported here; they are recognised by their methods.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, SupportsIndex, overload

from minilm.data.records.base import Record, Records
from minilm.errors import InputError

NO_CLASS = -1  # the label in data sets whose labels are not published


class Rows(list[Record]):
    """Records with the names of their classes.

    Attributes:
        class_names: for each column of classes, all names in their order.
    """

    def __init__(
        self, rows: Iterable[Record], class_names: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        super().__init__(rows)
        self.class_names = dict(class_names or {})

    @overload
    def __getitem__(self, index: SupportsIndex) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> Rows: ...

    def __getitem__(self, index: SupportsIndex | slice) -> Record | Rows:
        found = super().__getitem__(index)
        return Rows(found, self.class_names) if isinstance(found, list) else found


def as_records(data: Any, name: str) -> Sequence[Mapping[str, Any]]:
    """Converts data of any accepted type to records.

    Args:
        data: a sequence of dictionaries, which is returned as it is; a data frame of pandas or
            polars, whose missing values become None; a `Dataset` of the datasets library, or an
            `IterableDataset`, which is read to its end: the numbers of a `ClassLabel` become their
            names, and -1 becomes None; or another iterable of dictionaries.
        name: name of the argument, for messages.

    Raises:
        InputError: it is something else.

    Example:
        >>> as_records(({"text": text} for text in "ab"), "train")
        [{'text': 'a'}, {'text': 'b'}]
    """
    if isinstance(data, Records | list | tuple):
        return data
    if hasattr(data, "to_dicts"):  # polars
        return Rows(data.to_dicts())
    if hasattr(data, "notna") and hasattr(data, "to_dict"):  # pandas
        if not hasattr(data, "columns"):
            raise InputError(f"{name} is one column of a data frame: expected the data frame.")
        known = data.astype(object).where(data.notna(), None)
        known.columns = [str(column) for column in data.columns]
        return Rows(known.to_dict("records"))
    if isinstance(data, Mapping):
        keys = ", ".join(map(repr, list(data)[:8]))
        what = "Give one of its splits" if hasattr(data, "num_rows") else "Expected a list"
        raise InputError(
            f"{name} is a {type(data).__name__} of {keys}. {what}: a sequence of records, which "
            "are dictionaries."
        )
    if isinstance(data, str | bytes) or hasattr(data, "__fspath__"):
        raise InputError(
            f"{name} is {data!r:.80}: expected records. Read a file first, with "
            "minilm.data.records.files.read_records."
        )
    if hasattr(data, "features"):
        return _of_data_set(data)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        found: Sequence[Mapping[str, Any]] = data
        return found
    if isinstance(data, Iterable):
        return Rows(data)
    raise InputError(f"{name} is a {type(data).__name__}: expected a sequence of dictionaries.")


def _of_data_set(data: Any) -> Rows:
    names = {
        column: found
        for column, feature in (data.features or {}).items()
        if (found := _class_names(feature)) is not None
    }
    rows = data.with_format(None) if hasattr(data, "with_format") else data
    if not names:
        return Rows(rows, names)
    return Rows(
        (
            {
                column: _named(value, names[column]) if column in names else value
                for column, value in row.items()
            }
            for row in rows
        ),
        names,
    )


def _class_names(feature: Any) -> list[str] | None:
    """The names of a `ClassLabel`, or of a list of them; None for anything else."""
    if isinstance(feature, list) and len(feature) == 1:
        return _class_names(feature[0])
    if type(feature).__name__ == "ClassLabel" and feature.names:
        return list(feature.names)
    inner = getattr(feature, "feature", None)
    return None if inner is None else _class_names(inner)


def _named(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [_named(part, names) for part in value]
    if isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    return None if value == NO_CLASS else value
