"""Classes, several labels or a number for a text or a pair of texts."""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from minilm.data.records.base import RecordError, Skips
from minilm.errors import DataError, by_place
from minilm.files.arrays import Doubles, Flags, Floats, Integers
from minilm.losses.elementary import IGNORED_LABEL
from minilm.losses.soft_targets import Kind
from minilm.metrics.classification import (
    accuracy,
    confusion_matrix,
    expected_calibration_error,
    matthews,
    multilabel_precision_recall_f1,
    precision_recall_f1,
    subset_accuracy,
)
from minilm.metrics.correlation import pearson, spearman
from minilm.models.pretrained import PretrainedModel
from minilm.tasks.balance import weights_of_classes, weights_of_positives
from minilm.tasks.column_names import CLASSES, LABEL_SETS, TEXTS, VALUES
from minilm.tasks.fields import (
    checked,
    class_order,
    label_name,
    labels_in,
    list_of,
    number_of,
    text_of,
    unknown_label,
)
from minilm.tasks.layouts import FLAGS, PAIR, Field, Layout, Layouts, plain
from minilm.tasks.long_texts import WINDOW_OPTIONS, LongTexts
from minilm.tasks.scope import SCOPE_OPTIONS, set_scope, with_min_confidence
from minilm.tasks.task import (
    Prediction,
    Sample,
    Scores,
    Task,
    TaskBatch,
    Term,
    softmax,
    split_packed,
)
from minilm.tasks.thresholds import best_f1_threshold
from minilm.tokenization.tokenizer import Tokenizer

Target = TypeVar("Target")
TEXT = Field("text", TEXTS, "text_column", several="pair", kind="text")
NO_CLASS = ("-1", "-")  # what some data sets have where a label is missing
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)")
SHOWN = 10  # classes for which a prediction lists the probability


@dataclass(frozen=True)
class TextExample:
    """A text or a pair with what is to be said of it.

    Attributes:
        text, pair: the texts.
        label: a class's number, an array of zeros and ones, or a number; None = not given. -100 = a
            class that training did not have.
        unknown: names of its labels that training did not have.
    """

    text: str
    pair: str | None
    label: Any = None
    unknown: tuple[str, ...] = ()


class TextTask(Task[TextExample]):
    """What the three tasks on whole texts share.

    Options of `learn` are `windows` ("mean" or "max") and `doc_stride`, see `LongTexts`; without
    them a text that is too long is cut.
    """

    head: ClassVar[str] = "ForSequenceClassification"
    problem_type: ClassVar[str]
    kind: ClassVar[Kind]
    option_names: ClassVar[tuple[str, ...]] = WINDOW_OPTIONS
    long_texts: LongTexts | None = None

    @classmethod
    def restore(cls, labels: Sequence[str], settings: Mapping[str, Any]) -> Self:
        task = cls(labels, settings["max_length"])
        task.long_texts = LongTexts.of(settings)
        return task

    def settings(self) -> dict[str, Any]:
        if self.long_texts is None:
            return super().settings()
        chosen = (self.long_texts.pooling, self.long_texts.doc_stride)
        return {**super().settings(), **dict(zip(WINDOW_OPTIONS, chosen, strict=True))}

    def config(self) -> dict[str, Any]:
        return {**super().config(), "problem_type": self.problem_type}

    @abstractmethod
    def label(self, layout: Layout, record: Mapping[str, Any]) -> tuple[Any, tuple[str, ...]]:
        """The label of a record, checked, and the names in it that training did not have.

        Raises:
            RecordError: it has none, or not a proper one.
        """

    def examples(
        self, records: Sequence[Mapping[str, Any]], skips: Skips, *, labelled: bool
    ) -> list[TextExample]:
        found = []
        layouts = self.layouts(records, labelled=labelled)
        for _, _, record, checking in checked(records, skips):
            with checking:
                layout = layouts.of(record)
                text = text_of(layout.need(record, "text"), "text")
                pair = layout.get(record, PAIR)
                pair = None if pair is None else text_of(pair, PAIR)
                label, unknown = self.label(layout, record) if labelled else (None, ())
                found.append(TextExample(text, pair, label, unknown))
        self.note(*layouts.describe())
        return found

    def unknown(self, examples: Sequence[TextExample]) -> Counter[str]:
        return Counter(name for example in examples for name in example.unknown)

    def samples(self, examples: Sequence[TextExample], tokenizer: Tokenizer) -> list[Sample]:
        if self.long_texts is not None:
            return self._windows(self.long_texts, examples, tokenizer)
        samples: list[Sample | None] = [None] * len(examples)
        for paired in (False, True):
            numbers = [n for n, example in enumerate(examples) if (example.pair is None) != paired]
            if not numbers:
                continue
            batch = tokenizer(
                [examples[n].text for n in numbers],
                [examples[n].pair or "" for n in numbers] if paired else None,
                max_length=self.max_length,
                layout="packed",
            )
            cut = set(batch.truncated)
            for position, (n, row) in enumerate(zip(numbers, split_packed(batch), strict=True)):
                samples[n] = Sample(n, (row,), examples[n].label, position in cut)
        return [sample for sample in samples if sample is not None]

    def _windows(
        self, how: LongTexts, examples: Sequence[TextExample], tokenizer: Tokenizer
    ) -> list[Sample]:
        """Samples with a row for each window."""
        texts = sorted({text for e in examples for text in (e.text, e.pair) if text is not None})
        ids = {text: found.ids for text, found in zip(texts, tokenizer.pieces(texts), strict=True)}
        samples = []
        for number, example in enumerate(examples):
            second = None if example.pair is None else ids[example.pair]
            rows, lost = how.rows(tokenizer, self.max_length, ids[example.text], second)
            samples.append(Sample(number, rows, example.label, lost))
        return samples

    def logits(self, model: PretrainedModel, batch: TaskBatch) -> Tensor:
        logits = super().logits(model, batch)
        return logits if self.long_texts is None else self.long_texts.pool(logits, batch.rows)

    def is_truncated(self, sample: Sample) -> bool:
        return bool(sample.decode_info)

    def counts(self, batch: TaskBatch) -> dict[str, int]:
        return {"label": len(batch.samples)}

    def terms(self, logits: Tensor, batch: TaskBatch) -> list[Term]:
        return [Term("label", self.kind, logits, batch.labels)]

    def outputs(self, logits: Tensor, batch: TaskBatch) -> list[Floats]:
        return list(logits.float().cpu().numpy())


class Classification(TextTask):
    """One class for each text.

    Options of `learn`: `out_of_scope`, the class that means none of the others; `min_confidence`,
    or `tune_thresholds` to find it on the dev records.

    Attributes:
        out_of_scope: that class, or None.
        min_confidence: predictions of a smaller probability become `out_of_scope`.
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
        return {"label": int((batch.labels != IGNORED_LABEL).sum())}

    def labels_of(self, samples: Sequence[Sample]) -> Tensor:
        return torch.tensor([sample.label for sample in samples])

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


class MultiLabel(TextTask):
    """Any number of labels for each text.

    A record has them under "labels": a list of names, perhaps empty; one string with bars,
    semicolons or commas between them; or zeros and ones, as many in all records, one for each
    class. Or it has a column of zeros and ones for each label, perhaps for one alone.

    Options of `learn`: `threshold`, or `tune_thresholds` to find the one with the highest micro F1
    on the dev records.

    Attributes:
        threshold: a label is given if its probability is at least this.
        indicator: the labels of training were lists of zeros and ones.
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
        width = None if columns else indicator_width(records, layouts)
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
    """NaN where no prediction could have one; a constant prediction shows none, which is 0."""
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
    """What is usually said of a classifier.

    Args:
        gold: (N,) numbers of classes, or names of classes that it does not have: whatever it gives
            for them is wrong.
        found: (N,) numbers of classes.
        confidence: (N,) the probability of the best class.
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


def _several(layout: Layout, record: Mapping[str, Any]) -> list[str]:
    value = list_of(layout.need(record, "labels"))
    if not isinstance(value, list | tuple):
        raise RecordError(
            f"labels is {value!r:.60}, expected a list of names.", reason="no list of labels"
        )
    return [label_name(name) for name in value]


def _flag(value: Any, what: str) -> bool:
    """Whether a label is given, from 0 or 1.

    Raises:
        RecordError: it is neither.
    """
    if value not in FLAGS:
        raise RecordError(
            f"{what} labels is {value!r:.60}, expected 0 or 1.", reason="no list of labels"
        )
    return value not in ("0", "0.0") and bool(value)


def _only_flags(records: Sequence[Mapping[str, Any]], layouts: Layouts) -> tuple[str, ...]:
    """The one column of the labels, if it has nothing but zeros and ones; else ()."""
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


def indicator_width(records: Sequence[Mapping[str, Any]], layouts: Layouts) -> int | None:
    """How many zeros and ones the labels of all records are; None if they are not."""
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
