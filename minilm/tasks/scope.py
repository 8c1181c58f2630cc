"""Classes that mean none of the others, and the confidence below which a prediction becomes one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from copy import copy
from typing import Any, Protocol, TypeVar

import numpy as np

from minilm.errors import DataError, InputError, argument, setting
from minilm.tasks.task import Prediction
from minilm.tasks.thresholds import best_threshold

SCOPE_OPTIONS = ("out_of_scope", "min_confidence", "tune_thresholds")


class Scoped(Protocol):
    """A task that may have a class that means none of the others."""

    out_of_scope: str | None
    min_confidence: float
    tune_thresholds: bool

    def set_thresholds(self, values: Mapping[str, Any]) -> None: ...


def set_scope(task: Scoped, options: Mapping[str, Any], labels: Collection[str]) -> None:
    """Sets `out_of_scope` and the minimum confidence.

    Raises:
        DataError: the class is not among the labels.
        InputError: the minimum confidence is out of range, or given without such a class.
    """
    name = options.get("out_of_scope")
    if name is not None and name not in labels:
        some = ", ".join(map(str, list(labels)[:8])) + (", ..." if len(labels) > 8 else "")
        raise DataError(
            f"{argument('out_of_scope')} is {name!r}, but no training record has this label. They "
            f"have {some}."
        )
    task.out_of_scope = name
    task.set_thresholds(options)
    task.tune_thresholds = bool(options.get("tune_thresholds"))
    if name is None and (task.min_confidence or task.tune_thresholds):
        given = (
            setting("min_confidence") if task.min_confidence else setting("tune_thresholds", True)
        )
        raise InputError(
            f"{given} is about a smallest confidence, below which a text belongs to none of the "
            f"classes. Say which label such texts have ({setting('out_of_scope')}), or leave "
            f"it out."
        )


AnyScoped = TypeVar("AnyScoped", bound=Scoped)


def with_min_confidence(
    task: AnyScoped,
    gold: Sequence[str] = (),
    found: Sequence[str] = (),
    predictions: Sequence[Prediction] = (),
) -> AnyScoped:
    """The task with the minimum confidence of the highest accuracy; 0 for no predictions.

    Args:
        task: a task with an out-of-scope label.
        gold, found: names of the right and of the likeliest labels.
        predictions: the predictions, with the confidence in `found`.
    """
    tuned = copy(task)
    tuned.min_confidence = 0.0
    if predictions:
        # what is won by each text becoming out of scope
        gains = [
            float(right == task.out_of_scope) - float(right == likeliest)
            for right, likeliest in zip(gold, found, strict=True)
        ]
        sure = np.array([prediction["confidence"] for prediction in predictions])
        tuned.min_confidence = float(np.clip(best_threshold(sure, np.array(gains)), 0, 1))
    return tuned
