"""The values of a record's fields: texts, names of labels, numbers; checked one by one."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from minilm.data.records.base import RecordError, Records, Skips, where
from minilm.data.records.frames import Rows
from minilm.errors import DataError, by_place
from minilm.files.progress import counted
from minilm.losses.elementary import IGNORED_LABEL
from minilm.tasks.layouts import Layout, Layouts, named

Record = Mapping[str, Any]

_QUOTED = r"'(?:[^'\\]|\\.)*+'" + r'|"(?:[^"\\]|\\.)*+"'
# lists that are written as texts: what numpy writes, and any part between commas
_ITEM = re.compile(rf"{_QUOTED}|True|False|nan|None|[-+]?\.?\d[-+.\de]*+", re.DOTALL)
_ARRAY = re.compile(rf"\[\s*(?:(?:{_ITEM.pattern})(?:\s+|(?=\])))++\]", re.DOTALL)
_SHORTENED = re.compile(r"""['"\w.]\s\.\.\.\s['"\w-]""")
_PART = re.compile(rf"\s*(?:{_QUOTED})\s*(?=,|\Z)|[^,]+", re.DOTALL)


def checked(records: Sequence[Record], skips: Skips) -> Iterator[tuple[int, str, Record, Checking]]:
    """Records one by one, each with a context in which its errors are handled.

    Yields:
        number, place, the record, and a context manager: a `RecordError` raised inside is handled
        as `skips` says.
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
    """Handles a `RecordError` as `skips` says."""

    def __init__(self, place: str, skips: Skips) -> None:
        self._place, self._skips = place, skips

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, problem: BaseException | None, __: object) -> bool:
        if not isinstance(problem, RecordError):
            return False
        self._skips.refuse(self._place, problem.problem, problem.advice, reason=problem.reason)
        return True


def text_of(value: Any, name: str) -> str:
    """The value, if it is a string that is not empty.

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
    """The name of a label; whole numbers, true and false are names, too.

    Raises:
        RecordError: it is none of these, or -100, which marks records without a label.
    """
    if isinstance(value, str) and value.strip():
        name = value.strip()
    elif isinstance(value, bool):
        name = json.dumps(value)
    elif isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        name = str(int(value))
    else:
        raise RecordError(
            f"The label is {value!r:.60}, expected a name or a whole number.",
            reason="no proper label",
        )
    if name == str(IGNORED_LABEL):
        raise RecordError(
            f"The label is {name}, which marks records without a label.",
            "Remove the record or skip it.",
            reason="no proper label",
        )
    return name


def list_of(value: Any) -> Any:
    """Parses a list that a table holds as text; returns anything else unchanged.

    It reads JSON, Python's lists and tuples, numpy's arrays (which have no commas), lists in
    brackets without quotes, and names separated by bars, semicolons or commas.

    Raises:
        RecordError: the text is an array that was abbreviated when it was written.

    Example:
        >>> list_of("['a', 'b']"), list_of("['a' 'b']"), list_of("a, b"), list_of([1])
        (['a', 'b'], ['a', 'b'], ['a', 'b'], [1])
    """
    if not isinstance(value, str):
        return value
    text = value.strip()
    if _ARRAY.fullmatch(text):  # Python would join strings without commas between them
        text = f"[{', '.join(_ITEM.findall(text))}]"
    if text[:1] + text[-1:] in ("[]", "()"):
        for read in (json.loads, ast.literal_eval):
            try:
                found = read(text)
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                continue
            if isinstance(found, list | tuple):
                return list(found)
    if not (text.startswith("[") and text.endswith("]")):
        mark = next((mark for mark in "|;" if mark in text), ",")
        return [part.strip() for part in text.split(mark) if part.strip()]
    if _SHORTENED.search(text):
        raise RecordError(
            f"{text!r:.60} is a list that was abbreviated when it was written (...).",
            "Write the file again with lists instead of arrays (tolist()).",
            reason="shortened list",
        )
    return [_item(part.strip()) for part in _PART.findall(text[1:-1]) if part.strip()]


def _item(text: str) -> Any:
    """A string in quotes, a number or a missing value of a list that is written as a text."""
    if text in ("nan", "None", "null"):
        return None
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    return found if isinstance(found, str | int | float) else text


def number_of(value: Any) -> float:
    """A finite number, perhaps written as text.

    Raises:
        RecordError: it is not a finite number.
    """
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or isinstance(value, bool):
        raise RecordError(
            f"The target is {value!r:.60}, expected a finite number.",
            by_place(
                python="Classes are learned by the task 'classification'.",
                command="Classes are learned by --task classification.",
            )
            if isinstance(value, str)
            else "",
            reason="target is not a number",
        )
    return number


def unknown_label(name: str, known: Iterable[str]) -> RecordError:
    """The error for a label that training did not have."""
    labels = list(known)
    some = ", ".join(labels[:8]) + (", ..." if len(labels) > 8 else "")
    return RecordError(
        f"The label {name!r:.60} is unknown: training knew {some}.",
        "Mend the label, or train with it.",
        reason="unknown label",
    )


def labels_in(
    records: Sequence[Record],
    layouts: Layouts,
    read: Callable[[Layout, Record], Iterable[str]],
    *,
    field: str,
    least: int = 2,
) -> set[str]:
    """The names of all labels in training records; records that have none are passed over.

    Args:
        records: the training records.
        layouts: their layouts.
        read: returns the names in one record, or raises `RecordError`.
        field: the field of the labels, for messages.
        least: the least number of labels.

    Raises:
        DataError: there are fewer. If records cannot be used, it says what is wrong with the first.
    """
    labels: set[str] = set()
    first = ""
    for number, record in enumerate(records):
        try:
            labels.update(read(layouts.of(record), record))
        except RecordError as problem:  # `examples` decides what to do with it
            first = first or f"{where(records, number)}: {problem}"  # type: ignore[arg-type]
    if len(labels) < least:
        if first and not labels:
            raise DataError(first)
        raise DataError(
            f"The training records have {counted(len(labels), 'label')} "
            f"({', '.join(labels) or 'none'}) under {field!r}: there is nothing to tell apart. "
            f"Say which field holds the label ({named('label_column')})."
            + (f" {first}" if first else "")
        )
    return labels


def class_order(
    labels: set[str], records: Sequence[Record], layouts: Layouts, field: str
) -> list[str]:
    """All classes of a data set in its own order, if it has one; else the labels `in_order`."""
    names = class_names(records, layouts, field)
    return in_order(labels) if names is None or not labels <= set(names) else names


def class_names(records: Sequence[Record], layouts: Layouts, field: str) -> list[str] | None:
    """The class names that the data set gives for a field, in their order."""
    layout = layouts.common()
    if not isinstance(records, Rows) or layout is None:
        return None
    (column, *_) = layout.columns.get(field, ("",))
    names = records.class_names.get(column)
    return None if names is None else list(names)


def in_order(labels: set[str]) -> list[str]:
    """Labels in numerical order if they are numbers, else in alphabetical order."""
    if all(label.removeprefix("-").isdecimal() for label in labels):
        return sorted(labels, key=lambda label: (int(label), label))
    return sorted(labels)
