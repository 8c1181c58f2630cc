"""Several labels of a text: names, indicator vectors, or a column of zeros and ones for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from minilm.data.records.base import RecordError
from minilm.files.arrays import Floats
from minilm.losses.soft_targets import Kind
from minilm.metrics.classification import (
    multilabel_precision_recall_f1,
    subset_accuracy,
)
from minilm.tasks.balance import weights_of_positives
from minilm.tasks.column_names import LABEL_SETS
from minilm.tasks.fields import (
    class_order,
    label_name,
    labels_in,
    list_of,
)
from minilm.tasks.layouts import FLAGS, Field, Layout, Layouts, plain
from minilm.tasks.long_texts import WINDOW_OPTIONS, LongTexts
from minilm.tasks.task import (
    Prediction,
    Sample,
    Scores,
)
from minilm.tasks.text_task import TEXT, TextExample, TextTask
from minilm.tasks.thresholds import best_f1_threshold


class MultiLabel(TextTask):
    """Any number of labels for each text.

    A record has them under "labels": a list of names, which may be empty; one string with names
    separated by bars, semicolons or commas; or a list of zeros and ones, one for each class. Or it
    has a column of zeros and ones for each label, or for one label only.

    Options of `learn`: `threshold`, or `tune_thresholds` to find the one with the highest micro F1
    on the dev records.

    Attributes:
        threshold: least probability for which a label is given.
        indicator: whether the labels in training were lists of zeros and ones.
    """

    name: ClassVar[str] = "multi-label"
    metric: str = "micro_f1"
    problem_type: ClassVar[str] = "multi_label_classification"
    kind: ClassVar[Kind] = "independent"
    option_names: ClassVar[tuple[str, ...]] = (
        "threshold",
        "tune_thresholds",
        *WINDOW_OPTIONS,
    )
    threshold_names: ClassVar[Mapping[str, tuple[float, float]]] = {"threshold": (0.0, 1.0)}
    threshold: float = 0.5
    fields: ClassVar[tuple[Field, ...]] = (
        TEXT,
        Field("labels", LABEL_SETS, "label_column", labelled=True),
    )
    indicator: bool = False

    @classmethod
    def learn(
        cls, records: Sequence[Mapping[str, Any]], max_length: int, options: Mapping[str, Any]
    ) -> Self:
        layouts = cls.layouts_to_learn(records, options)
        if options.get("label_column") is None and not layouts.has("labels"):
            columns = layouts.flags(records)
            if len(columns) > 1:
                options = {**options, "label_column": columns}
                layouts = cls.layouts_to_learn(records, options)
        columns = layouts.several("labels") or _only_flags(records, layouts)
        width = None if columns else _indicator_width(records, layouts)
        if columns:
            labels = list(columns)
        elif width is not None:
            labels = [str(number) for number in range(width)]
        else:
            found = labels_in(records, layouts, _several, field="labels", least=1)
            labels = class_order(found, records, layouts, "labels")
        task = cls(labels, max_length).name_columns(options).read_from(layouts)
        task.indicator = width is not None
        task.long_texts = LongTexts.of(options)
        if width is not None:
            task.note(f"labels are zeros and ones for {width} classes, called 0 to {width - 1}")
        task.set_thresholds(options)
        task.tune_thresholds = bool(options.get("tune_thresholds"))
        return task

    @classmethod
    def restore(cls, labels: Sequence[str], settings: Mapping[str, Any]) -> Self:
        task = super().restore(labels, settings)
        task.indicator = bool(settings.get("indicator", False))
        task.set_thresholds(settings)
        return task

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "indicator": self.indicator}

    def classes_of(self, layout: Layout, record: Mapping[str, Any]) -> tuple[set[str], set[str]]:
        row, _ = self.label(layout, record)
        return set(), {self.labels[number] for number in np.flatnonzero(row)}

    def label(self, layout: Layout, record: Mapping[str, Any]) -> tuple[Floats, tuple[str, ...]]:
        columns = layout.columns.get("labels", ())
        if len(columns) > 1 or columns == self.labels:
            names = [
                column for column in columns if _flag(plain(record.get(column)), f"{column} of")
            ]
        elif self.indicator:
            values = list_of(layout.need(record, "labels"))
            if not isinstance(values, list | tuple) or len(values) != len(self.labels):
                raise RecordError(
                    f"labels is {values!r:.60}, expected {len(self.labels)} zeros and ones.",
                    reason="no list of labels",
                )
            flags = [_flag(value, "one of") for value in values]
            names = [name for name, flag in zip(self.labels, flags, strict=True) if flag]
        else:
            names = _several(layout, record)
        row = np.zeros(len(self.labels), np.float32)
        row[[self.numbers[name] for name in names if name in self.numbers]] = 1
        return row, tuple(dict.fromkeys(name for name in names if name not in self.numbers))

    def labels_of(self, samples: Sequence[Sample]) -> Tensor:
        return torch.from_numpy(np.stack([sample.label for sample in samples]))

    def without_label(self, sample: Sample) -> Floats:
        return np.zeros(len(self.labels), np.float32)

    def class_weights(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        return {"label": weights_of_positives(np.stack([sample.label for sample in samples]))}

    def decode(
        self,
        examples: Sequence[TextExample],
        samples: Sequence[Sample],
        outputs: Sequence[Floats],
    ) -> list[Prediction]:
        found = []
        for output in outputs:
            probabilities = 1 / (1 + np.exp(-output.astype(np.float64)))
            shown = dict(zip(self.labels, probabilities.tolist(), strict=True))
            labels = [name for name, probability in shown.items() if probability >= self.threshold]
            found.append({"labels": labels, "probabilities": shown})
        return found

    def scores(self, examples: Sequence[TextExample], predictions: Sequence[Prediction]) -> Scores:
        gold = np.stack([example.label for example in examples]).astype(np.int64)
        if unknown := sorted(self.unknown(examples)):  # a column each, which nobody predicts
            more = [[name in example.unknown for name in unknown] for example in examples]
            gold = np.concatenate([gold, np.array(more, np.int64)], axis=1)
        found = np.zeros_like(gold)
        for row, prediction in zip(found, predictions, strict=True):
            row[[self.numbers[name] for name in prediction["labels"]]] = 1
        return {
            "subset_accuracy": subset_accuracy(gold, found),
            "micro_f1": multilabel_precision_recall_f1(gold, found, "micro").f1,
            "macro_f1": multilabel_precision_recall_f1(gold, found, "macro").f1,
        }

    def tune(self, examples: Sequence[TextExample], predictions: Sequence[Prediction]) -> Self:
        if not any(example.label.any() for example in examples):
            return self  # F1 is 0 whatever the threshold
        found = [[p["probabilities"][label] for label in self.labels] for p in predictions]
        tuned = copy(self)
        tuned.threshold = best_f1_threshold(
            np.array(found), np.stack([example.label for example in examples]).astype(np.int64)
        )
        return tuned


def _several(layout: Layout, record: Mapping[str, Any]) -> list[str]:
    value = list_of(layout.need(record, "labels"))
    if not isinstance(value, list | tuple):
        raise RecordError(
            f"labels is {value!r:.60}, expected a list of names.", reason="no list of labels"
        )
    return [label_name(name) for name in value]


def _flag(value: Any, what: str) -> bool:
    """Whether a label is given: 0 or 1 as a boolean.

    Raises:
        RecordError: it is neither.
    """
    if value not in FLAGS:
        raise RecordError(
            f"{what} labels is {value!r:.60}, expected 0 or 1.", reason="no list of labels"
        )
    return value not in ("0", "0.0") and bool(value)


def _only_flags(records: Sequence[Mapping[str, Any]], layouts: Layouts) -> tuple[str, ...]:
    """The one column of labels, if it has zeros and ones only; else ()."""
    columns = set()
    for record in records:
        try:
            layout = layouts.of(record)
        except RecordError:
            continue
        value = layout.get(record, "labels")
        if value is None:
            continue
        if isinstance(value, list | tuple) or value not in FLAGS:
            return ()
        columns.add(layout.columns["labels"])
    return columns.pop() if len(columns) == 1 else ()


def _indicator_width(records: Sequence[Mapping[str, Any]], layouts: Layouts) -> int | None:
    """The common length of all labels, if they are lists of zeros and ones; else None."""
    widths = set()
    for record in records:
        try:
            value = list_of(layouts.of(record).get(record, "labels"))
        except RecordError:
            continue
        if value is None:
            continue
        if not isinstance(value, list | tuple) or any(part not in FLAGS for part in value):
            return None
        widths.add(len(value))
    # one alone is rather a class's number than a list of classes
    return widths.pop() if len(widths) == 1 and max(widths) > 1 else None
