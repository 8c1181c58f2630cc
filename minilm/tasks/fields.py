"""What the fields of a record are called, and how a task gets at them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from minilm.data.records.base import RecordError, Records, Skips, where
from minilm.errors import DataError, by_place

Record = Mapping[str, Any]

# our name for a field -> other names that data sets have for it
ALIASES: Mapping[str, tuple[str, ...]] = {
    "text": ("sentence", "sentence1", "premise", "question1"),
    "text_pair": ("sentence2", "hypothesis", "question2"),
    "label": ("intent", "score", "class"),
    "labels": ("label",),
    "tokens": ("words",),
    "tags": ("ner_tags", "slots", "labels"),
    "intent": ("label",),
    "prompt": ("question", "sent1", "context"),
    "choices": ("endings", "options"),
}


def renamed(records: Sequence[Record], columns: Mapping[str, str | None]) -> Sequence[Record]:
    """The same records with some fields under our names.

    Args:
        records: of any kind.
        columns: our name to the name in the records; None = leave it.

    Raises:
        DataError: the first record has no such field.
    """
    wanted = {name: column for name, column in columns.items() if column is not None}
    if not wanted or not len(records):
        return records
    for name, column in wanted.items():
        if column not in records[0]:
            raise DataError(
                f"{where(records, 0)}: there is no field {column!r} for {name}; it has "  # type: ignore[arg-type]
                f"{', '.join(map(repr, records[0]))}."
            )
    if isinstance(records, Records):
        return records.map(lambda record: under_our_names(record, wanted))
    return [under_our_names(record, wanted) for record in records]


def under_our_names(record: Record, columns: Mapping[str, str | None]) -> dict[str, Any]:
    """The same record; see `renamed`. Fields that it does not have are left out.

    "label" means what the task calls so: a list becomes "labels" and "tags" as well, anything else
    "labels" and "intent", whatever else the record has under these names.
    """
    found = {
        name: record[column] for name, column in columns.items() if column and column in record
    }
    if "label" in found:
        value = found["label"]
        others = ("labels", "tags" if isinstance(value, list | tuple) else "intent")
        found |= dict.fromkeys(others, value)
    return {**record, **found}


def checked(records: Sequence[Record], skips: Skips) -> Iterator[tuple[int, str, Record, Checking]]:
    """Records one by one, with a place to complain about them.

    Yields:
        number, where it is, the record, and a context manager: a `RecordError` raised inside is
        refused, and the record so left out.
    """
    for number in range(len(records)):
        if not isinstance(records, Records):  # whose reader has counted them
            skips.total += 1
        place = where(records, number)  # type: ignore[arg-type]
        record = records[number]
        _check_dictionary(record, place)
        yield number, place, record, Checking(place, skips)


def check_dictionaries(records: Sequence[Record]) -> None:
    """Raise DataError unless all records are dictionaries."""
    for number in range(len(records)):
        _check_dictionary(records[number], where(records, number))  # type: ignore[arg-type]


def _check_dictionary(record: Any, place: str) -> None:
    if not isinstance(record, Mapping):
        raise DataError(f"{place} is a {type(record).__name__}: expected a dictionary.")


class Checking:
    """Turns a `RecordError` into what `skips` makes of it."""

    def __init__(self, place: str, skips: Skips) -> None:
        self._place, self._skips = place, skips

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, problem: BaseException | None, __: object) -> bool:
        if not isinstance(problem, RecordError):
            return False
        self._skips.refuse(self._place, problem.problem, problem.advice, reason=problem.reason)
        return True


def find(record: Record, name: str) -> Any:
    """The value of a field, under our name or another one; None if it is missing."""
    for key in (name, *ALIASES.get(name, ())):
        if record.get(key) is not None:
            return record[key]
    return None


def need(record: Record, name: str, option: str) -> Any:
    """The value of a field that must be there.

    Raises:
        RecordError: it is not.
    """
    value = find(record, name)
    if value is None:
        has = ", ".join(map(repr, record)) or "nothing"
        raise RecordError(
            f"There is no {name!r}; the record has {has}.",
            by_place(
                python=f"Give the field that holds it the name {name!r}.",
                command=f"Say which field it is ({option}).",
            ),
            reason=f"no {name}",
        )
    return value


def text_of(value: Any, name: str) -> str:
    """A text that is one, and not empty.

    Raises:
        RecordError: it is not.
    """
    if not isinstance(value, str):
        raise RecordError(
            f"{name} is a {type(value).__name__} ({value!r:.40}), expected a string.",
            reason=f"{name} is not a string",
        )
    if not value.strip():
        raise RecordError(
            f"{name} is empty.", "Remove the record or skip it.", reason=f"empty {name}"
        )
    try:
        value.encode()
    except UnicodeEncodeError as problem:
        raise RecordError(
            f"{name} has half a surrogate pair at character {problem.start}.",
            "Read the file with its right encoding.",
            reason=f"{name} is not valid Unicode",
        ) from problem
    return value


def label_name(value: Any) -> str:
    """A label as a name; whole numbers are names, too.

    Raises:
        RecordError: it is neither.
    """
    if isinstance(value, str) and value.strip():
        return value.strip()
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    raise RecordError(
        f"The label is {value!r:.60}, expected a name or a whole number.", reason="no proper label"
    )


def number_of(value: Any) -> float:
    """A finite number, perhaps written as text.

    Raises:
        RecordError: it is none.
    """
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or isinstance(value, bool):
        raise RecordError(
            f"The target is {value!r:.60}, expected a finite number.",
            reason="target is not a number",
        )
    return number


def label_number(name: str, numbers: Mapping[str, int]) -> int:
    """The number of a label.

    Raises:
        RecordError: there is no such label.
    """
    if name not in numbers:
        some = ", ".join(list(numbers)[:8]) + (", ..." if len(numbers) > 8 else "")
        raise RecordError(
            f"The label {name!r:.60} is unknown: training knew {some}.",
            "Mend the label, or train with it.",
            reason="unknown label",
        )
    return numbers[name]


def in_order(labels: set[str]) -> list[str]:
    """Labels in the order of their numbers if they are numbers, else of the alphabet."""
    if all(label.removeprefix("-").isdecimal() for label in labels):
        return sorted(labels, key=lambda label: (int(label), label))
    return sorted(labels)
