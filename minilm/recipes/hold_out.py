"""Records held out of the training records, and the figures of several runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from minilm.data.records.base import RecordError, Records
from minilm.data.records.frames import Rows
from minilm.errors import InputError
from minilm.learners.tasks import numbers_of
from minilm.tasks.catalogue import task_class
from minilm.tasks.fields import list_of
from minilm.tasks.layouts import Layouts, plain
from minilm.tasks.multi_label import indicator_width

Record = Mapping[str, Any]
# the field with a record's one class, or with its several classes
CLASS_FIELDS = {"classification": "label", "utterances": "intent"}
GIVEN = ("1", "1.0", "True")  # a label of a column of its own
SEVERAL_CLASSES = {"multi-label": ("labels",), "tagging": ("tags",), "utterances": ("tags",)}


def split_off(
    records: Sequence[Record],
    share: float,
    seed: int,
    *,
    task: str | None = None,
    columns: Mapping[str, Any] | None = None,
) -> tuple[Sequence[Record], Sequence[Record]]:
    """Takes a share of records away, drawn at random.

    Args:
        records: of any kind.
        share: above 0 and below 1; at least one record is on either side.
        seed: of the draw.
        task: of the records, as for `minilm.finetune`. If it has classes, no class loses its last
            record, even if then fewer are taken; and of each class of whole texts about the same
            share is taken (a stratified draw). None = the classes are not looked at.
        columns: with "label_column", the columns of the classes; None = found by their names.

    Returns:
        The rest, and the records taken; both in the old order.

    Raises:
        InputError: the share is out of range, there are fewer than two records, or every record is
            the only one of some class.
    """
    count = len(records)
    if not 0 < share < 1 or count < 2:
        raise InputError(
            f"A share of {share} of {count} records cannot be held out: expected a number between "
            "0 and 1, and two records or more."
        )
    wanted = min(max(round(share * count), 1), count - 1)
    order = np.random.default_rng([seed, count]).permutation(count).tolist()
    layouts = None if task is None else _layouts(task, records, columns or {})
    indicators = (
        task == "multi-label"
        and layouts is not None
        and not layouts.several("labels")
        and indicator_width(records, layouts) is not None
    )
    one = [_classes(record, CLASS_FIELDS.get(task or ""), layouts) for record in records]
    several = [
        {
            name
            for field in SEVERAL_CLASSES.get(task or "", ())
            for name in _classes(record, field, layouts, indicators=indicators)
        }
        for record in records
    ]
    left = Counter(name for names in (*one, *several) for name in names)
    taken: set[int] = set()
    for number in _stratified(order, one):
        names = {*one[number], *several[number]}
        if len(taken) < wanted and all(left[name] > 1 for name in names):
            taken.add(number)
            left.subtract(names)
    if not taken:
        raise InputError(
            f"None of {count} records can be held out: each is the only one of some class. Give "
            "more records, or dev records of their own."
        )
    numbers = [n for n in range(count) if n not in taken], sorted(taken)
    if isinstance(records, Records):
        return records.pick(numbers[0]), records.pick(numbers[1])
    if isinstance(records, Rows):
        rest, held_out = (Rows((records[n] for n in ns), records.class_names) for ns in numbers)
        return rest, held_out
    return [records[n] for n in numbers[0]], [records[n] for n in numbers[1]]


def _layouts(task: str, records: Sequence[Record], columns: Mapping[str, Any]) -> Layouts:
    cls = task_class(task)
    layouts = cls.layouts_to_learn(records, columns)
    if task == "multi-label" and not layouts.has("labels"):
        flags = layouts.flags(records)
        layouts = cls.layouts_to_learn(records, {**columns, "label_column": flags or None})
    return layouts


def _classes(
    record: Record, field: str | None, layouts: Layouts | None, *, indicators: bool = False
) -> set[tuple[str, str]]:
    """The classes that a field of a record names, each with the field.

    Args:
        record: one of them.
        field: with the classes.
        layouts: of all records.
        indicators: the field holds zeros and ones, one for each class.
    """
    if field is None or layouts is None or not isinstance(record, Mapping):
        return set()
    try:
        layout = layouts.of(record)
    except RecordError:  # said when the record is used
        return set()
    columns = layout.columns.get(field, ())
    if len(columns) > 1:  # of zeros and ones
        return {(field, column) for column in columns if str(plain(record.get(column))) in GIVEN}
    value = layout.get(record, field)
    if value is None:
        return set()
    if field == "tags" and isinstance(value, str) and not value.strip().startswith("["):
        value = value.split()  # as many as the words of the text
    elif field not in CLASS_FIELDS.values():
        try:
            value = list_of(value)
        except RecordError:
            return set()
    if indicators:
        value = [number for number, given in enumerate(value) if str(given) in GIVEN]
    return {(field, str(name)) for name in (value if isinstance(value, list | tuple) else [value])}


def _stratified(order: Sequence[int], classes: Sequence[set[tuple[str, str]]]) -> list[int]:
    """The same records, so that any first few have about the same share of each class."""
    sizes = Counter(name for names in classes for name in names)
    seen: Counter[tuple[str, str]] = Counter()
    places = []
    for number in order:
        name = next(iter(classes[number]), None)
        if name is None:
            return list(order)
        places.append((seen[name] + 0.5) / sizes[name])
        seen[name] += 1
    return [order[n] for n in np.argsort(places, kind="stable").tolist()]


def mean_and_deviation(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Of scores that all runs have: mean, standard deviation (n - 1), lowest and highest.

    Args:
        runs: scores of at least one run.
    """
    shared = [name for name in numbers_of(dict(runs[0])) if all(name in run for run in runs)]
    summary = {}
    for name in shared:
        values = [float(run[name]) for run in runs]
        summary[name] = {
            "mean": fmean(values),
            "deviation": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
            "lowest": min(values),
            "highest": max(values),
        }
    return summary
