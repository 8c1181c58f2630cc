"""Classification and regression of a text or a pair of texts."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from minilm.data.records.base import Skips
from minilm.errors import DataError, by_place
from minilm.files.arrays import Doubles, Flags, Floats, Integers
from minilm.losses.elementary import IGNORED_LABEL
from minilm.losses.soft_targets import Kind
from minilm.metrics.classification import (
    accuracy,
    confusion_matrix,
    expected_calibration_error,
    matthews,
    precision_recall_f1,
)
from minilm.metrics.correlation import pearson, spearman
from minilm.tasks.balance import weights_of_classes
from minilm.tasks.column_names import CLASSES, VALUES
from minilm.tasks.fields import (
    class_order,
    label_name,
    labels_in,
    number_of,
    unknown_label,
)
from minilm.tasks.layouts import Field, Layout
from minilm.tasks.long_texts import WINDOW_OPTIONS, LongTexts
from minilm.tasks.scope import SCOPE_OPTIONS, set_scope, with_min_confidence
from minilm.tasks.task import (
    Prediction,
    Sample,
    Scores,
    TaskBatch,
    softmax,
)
from minilm.tasks.text_task import TEXT, TextExample, TextTask

NO_CLASS = ("-1", "-")  # what some data sets have where a label is missing
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)")
SHOWN = 10  # classes for which a prediction lists the probability


class Classification(TextTask):
    """One class for each text.

    Options of `learn`: `out_of_scope`, the class that means none of the others; `min_confidence`,
    or `tune_thresholds` to find it on the dev records.

    Attributes:
        out_of_scope: the class that means none of the others, or None.
        min_confidence: predictions with a lower probability become `out_of_scope`.
    """

    name: ClassVar[str] = "classification"
    metric: str = "accuracy"
    problem_type: ClassVar[str] = "single_label_classification"
    kind: ClassVar[Kind] = "classes"
    option_names: ClassVar[tuple[str, ...]] = (*SCOPE_OPTIONS, *WINDOW_OPTIONS)
    threshold_names: ClassVar[Mapping[str, tuple[float, float]]] = {"min_confidence": (0.0, 1.0)}
    fields: ClassVar[tuple[Field, ...]] = (
        TEXT,
        Field("label", CLASSES, "label_column", kind="scalar", labelled=True),
    )
    out_of_scope: str | None = None
    min_confidence: float = 0.0

    @classmethod
    def learn(
        cls, records: Sequence[Mapping[str, Any]], max_length: int, options: Mapping[str, Any]
    ) -> Self:
        layouts = cls.layouts_to_learn(records, options)
        labels = labels_in(records, layouts, _class_of, field="label")
        ordered = class_order(labels, records, layouts, "label")
        task = cls(ordered, max_length).name_columns(options).read_from(layouts)
        if numbers := _as_measured(ordered):
            task.note(numbers)
        task.long_texts = LongTexts.of(options)
        set_scope(task, options, labels)
        if len(labels) > 2 and (mark := next((m for m in NO_CLASS if m in labels), None)):
            task.note(
                f"{mark!r} is learned as a class like any other; where it marks records without a "
                "label, take them out"
            )
        return task

    def classes_of(self, layout: Layout, record: Mapping[str, Any]) -> tuple[set[str], set[str]]:
        return set(_class_of(layout, record)), set()

    @classmethod
    def restore(cls, labels: Sequence[str], settings: Mapping[str, Any]) -> Self:
        task = super().restore(labels, settings)
        set_scope(task, settings, labels)
        return task

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "out_of_scope": self.out_of_scope}

    def examples(
        self, records: Sequence[Mapping[str, Any]], skips: Skips, *, labelled: bool
    ) -> list[TextExample]:
        found = super().examples(records, skips, labelled=labelled)
        check_some_known([example.unknown for example in found], self.labels)
        return found

    def label(self, layout: Layout, record: Mapping[str, Any]) -> tuple[int, tuple[str, ...]]:
        (name,) = _class_of(layout, record)
        if name in self.numbers:
            return self.numbers[name], ()
        return IGNORED_LABEL, (name,)

    def counts(self, batch: TaskBatch) -> dict[str, int]:
        if batch.labels is None:
            return super().counts(batch)
        has_label = batch.labels != IGNORED_LABEL
        return {"label": int((has_label if batch.known is None else has_label & batch.known).sum())}

    def labels_of(self, samples: Sequence[Sample]) -> Tensor:
        return torch.tensor([sample.label for sample in samples])

    def without_label(self, sample: Sample) -> int:
        return 0

    def decode(
        self,
        examples: Sequence[TextExample],
        samples: Sequence[Sample],
        outputs: Sequence[Floats],
    ) -> list[Prediction]:
        found = []
        for probabilities in map(softmax, outputs):
            best = int(probabilities.argmax())
            label = self.labels[best]
            if self.out_of_scope is not None and probabilities[best] < self.min_confidence:
                label = self.out_of_scope
            order = np.argsort(-probabilities, kind="stable")[:SHOWN]
            found.append(
                {
                    "label": label,
                    "confidence": float(probabilities[best]),
                    "probabilities": {self.labels[n]: float(probabilities[n]) for n in order},
                }
            )
        return found

    def scores(self, examples: Sequence[TextExample], predictions: Sequence[Prediction]) -> Scores:
        gold = [example.unknown[0] if example.unknown else example.label for example in examples]
        found = np.array([self.numbers[prediction["label"]] for prediction in predictions])
        return classification_scores(
            gold, found, [p["confidence"] for p in predictions], self.labels, self.out_of_scope
        )

    def tune(self, examples: Sequence[TextExample], predictions: Sequence[Prediction]) -> Self:
        if self.out_of_scope is None:
            return self
        gold = [e.unknown[0] if e.unknown else self.labels[e.label] for e in examples]
        return with_min_confidence(self, gold, [p["label"] for p in predictions], predictions)

    def without_thresholds(self) -> Self:
        return with_min_confidence(self)

    def imbalance(self, samples: Sequence[Sample]) -> Integers:
        return np.array([sample.label for sample in samples])

    def class_weights(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        return {"label": weights_of_classes(self.imbalance(samples), len(self.labels))}


def _as_measured(labels: Sequence[str]) -> str:
    """A remark where classes are numbers with decimals, as of a similarity; else ""."""
    if len(labels) < 3 or not all(map(_NUMBER.fullmatch, labels)):
        return ""
    if all(float(label).is_integer() for label in labels):
        return ""
    some = ", ".join(labels[:4])
    task = by_place(python="the task 'regression'", command="--task regression")
    return (
        f"the labels are numbers ({some}, ...), of which each becomes one of {len(labels)} classes "
        f"without any order; {task} predicts the number itself"
    )


class Regression(TextTask):
    """A number for each text or pair, such as a similarity."""

    name: ClassVar[str] = "regression"
    metric: str = "spearman"
    problem_type: ClassVar[str] = "regression"
    kind: ClassVar[Kind] = "value"
    fields: ClassVar[tuple[Field, ...]] = (
        TEXT,
        Field("label", VALUES, "label_column", kind="scalar", labelled=True, own_first=False),
    )

    @classmethod
    def learn(
        cls, records: Sequence[Mapping[str, Any]], max_length: int, options: Mapping[str, Any]
    ) -> Self:
        layouts = cls.layouts_to_learn(records, options)
        task = cls(["value"], max_length).name_columns(options).read_from(layouts)
        task.long_texts = LongTexts.of(options)
        return task

    def label(self, layout: Layout, record: Mapping[str, Any]) -> tuple[float, tuple[str, ...]]:
        return number_of(layout.need(record, "label")), ()

    def labels_of(self, samples: Sequence[Sample]) -> Tensor:
        return torch.tensor([sample.label for sample in samples], dtype=torch.float32)

    def without_label(self, sample: Sample) -> float:
        return 0.0

    def decode(
        self,
        examples: Sequence[TextExample],
        samples: Sequence[Sample],
        outputs: Sequence[Floats],
    ) -> list[Prediction]:
        return [{"value": float(output[0])} for output in outputs]

    def scores(self, examples: Sequence[TextExample], predictions: Sequence[Prediction]) -> Scores:
        gold = np.array([example.label for example in examples])
        found = np.array([prediction["value"] for prediction in predictions])
        return {
            "pearson": _correlation(pearson, gold, found),
            "spearman": _correlation(spearman, gold, found),
            "mean_squared_error": float(np.square(gold - found).mean()),
        }


def _correlation(measure: Callable[[Doubles, Doubles], float], gold: Any, found: Any) -> float:
    """The correlation; NaN where it does not exist, but 0 for constant predictions."""
    if len(gold) < 2 or (gold == gold[0]).all() or not np.isfinite(found).all():
        return math.nan
    return float(np.nan_to_num(measure(gold, found)))


def classification_scores(
    gold: Sequence[int | str],
    found: Integers,
    confidence: Sequence[float],
    labels: Sequence[str],
    out_of_scope: str | None = None,
) -> Scores:
    """The usual scores of a classifier.

    Args:
        gold: (N,) numbers of classes, or names of classes that it does not know, for which every
            prediction is wrong.
        found: (N,) numbers of classes.
        confidence: (N,) the probability of the likeliest class.
        labels: names of the classes.
        out_of_scope: the class that means none of the others.
    """
    binary = len(labels) == 2
    labels = [*labels, *sorted({name for name in gold if isinstance(name, str)})]
    numbers = np.array([labels.index(x) if isinstance(x, str) else x for x in gold])
    classes = len(labels)
    each = precision_recall_f1(numbers, found, classes)
    sure = np.array(confidence)
    probabilities = np.repeat((1 - sure[:, None]) / max(classes - 1, 1), classes, axis=1)
    probabilities[np.arange(len(found)), found] = sure  # the others do not matter
    scores: Scores = {
        "accuracy": accuracy(numbers, found),
        "macro_f1": precision_recall_f1(numbers, found, classes, "macro").f1,
        "matthews": matthews(numbers, found),
        "calibration_error": expected_calibration_error(probabilities, numbers),
    }
    if binary:
        scores["f1"] = each[1].f1
    if out_of_scope is not None:
        is_out, said_out = (x == labels.index(out_of_scope) for x in (numbers, found))
        right = numbers == found
        scores["in_scope_accuracy"] = _share(right[~is_out])
        scores["out_of_scope_recall"] = _share(said_out[is_out])
        scores["out_of_scope_precision"] = _share(is_out[said_out])
    scores["classes"] = {label: asdict(part) for label, part in zip(labels, each, strict=True)}
    scores["confusion"] = confusion_matrix(numbers, found, classes).tolist()
    return scores


def _share(right: Flags) -> float:
    return float(right.mean()) if len(right) else 0.0


def check_some_known(unknown: Sequence[Sequence[str]], labels: Sequence[str]) -> None:
    """Raise DataError if every example has a label that training did not have."""
    if unknown and all(unknown):
        raise DataError(
            f"None of the {len(unknown):,} records has a label of training. "
            f"{unknown_label(unknown[0][0], labels)}"
        )


def _class_of(layout: Layout, record: Mapping[str, Any]) -> tuple[str]:
    return (label_name(layout.need(record, "label")),)
