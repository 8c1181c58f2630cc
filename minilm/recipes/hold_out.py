"""Records held out of the training records, and the figures of several runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from statistics import fmean
from typing import Any

import numpy as np

from minilm.data.records.base import RecordError, Records
from minilm.data.records.frames import Rows
from minilm.errors import InputError
from minilm.files.progress import counted
from minilm.learners.tasks import numbers_of
from minilm.tasks.catalogue import task_class
from minilm.tasks.layouts import SETTINGS

Record = Mapping[str, Any]
Class = tuple[str, str]  # the same name may be a class of the whole and another one
LENGTH = 128  # of rows, which no class depends on


def split_off(
    records: Sequence[Record],
    share: float,
    seed: int,
    *,
    task: str | None = None,
    columns: Mapping[str, Any] | None = None,
) -> tuple[Sequence[Record], Sequence[Record]]:
    """Holds out a share of records, drawn at random.

    Args:
        records: records of any task.
        share: fraction to hold out, above 0 and below 1; at least one record stays on either side.
        seed: random seed of the draw.
        task: the task of the records, as for `minilm.finetune`. If it has classes, no class loses
            its last record, even if fewer are then held out; and about the same share of each class
            of whole texts is held out (a stratified draw). None = classes are ignored.
        columns: a dictionary with "label_column", the columns of the classes; None = found by their
            names.

    Returns:
        The remaining and the held-out records, both in the original order.

    Raises:
        InputError: the share is out of range, there are fewer than two records, or every record is
            the only one of some class.
        DataError: the task cannot be learned from these records.
    """
    count = len(records)
    if not 0 < share < 1 or count < 2:
        raise InputError(
            f"A share of {share} of {counted(count, 'record')} cannot be held out: expected a "
            "number between 0 and 1, and two records or more."
        )
    wanted = min(max(round(share * count), 1), count - 1)
    order = np.random.default_rng([seed, count]).permutation(count).tolist()
    one, several = _classes(records, task, columns or {})
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


def _classes(
    records: Sequence[Record], task: str | None, columns: Mapping[str, Any]
) -> tuple[list[set[Class]], list[set[Class]]]:
    """For every record the class of the whole, in a set of at most one, and its other classes."""
    one: list[set[Class]] = [set() for _ in records]
    several: list[set[Class]] = [set() for _ in records]
    if task is None:
        return one, several
    named = {name: columns.get(name) for name in SETTINGS}
    made = task_class(task).learn(records, LENGTH, named)
    layouts = made.layouts(records, labelled=True)
    for number, record in enumerate(records):
        # what is wrong with a record is said when it is used
        with suppress(RecordError):
            whole, others = made.classes_of(layouts.of(record), record)
            one[number] = {("whole", name) for name in whole}
            several[number] = {("other", name) for name in others}
    return one, several


def _stratified(order: Sequence[int], classes: Sequence[set[Class]]) -> list[int]:
    """The same records, so that any first few have about the same share of each class."""
    sizes = Counter(name for names in classes for name in names)
    seen: Counter[Class] = Counter()
    places = []
    for number in order:
        name = next(iter(classes[number]), None)
        if name is None:
            return list(order)
        places.append((seen[name] + 0.5) / sizes[name])
        seen[name] += 1
    return [order[n] for n in np.argsort(places, kind="stable").tolist()]


def mean_and_deviation(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean, standard deviation (n - 1), lowest and highest value of each score that all runs have.

    Args:
        runs: the scores of each run, of at least one.
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
