"""Classes, several labels or a number for a text or a pair of texts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from minilm.data.records.base import RecordError, Skips
from minilm.errors import DataError, by_place
from minilm.files.arrays import Flags, Floats, Integers
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
from minilm.tasks.fields import (
    checked,
    find,
    in_order,
    label_name,
    label_number,
    need,
    number_of,
    text_of,
)
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
SHOWN = 10  # classes for which a prediction lists the probability


@dataclass(frozen=True)
class TextExample:
    """A text or a pair with what is to be said of it.

    Attributes:
        text, pair: the texts.
        label: a class's number, an array of zeros and ones, or a number; None = not known.
    """

    text: str
    pair: str | None
    label: Any = None


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
    def label(self, record: Mapping[str, Any]) -> Any:
        """The label of a record, checked.

        Raises:
            RecordError: it has none, or an unknown one.
        """

    def examples(
        self, records: Sequence[Mapping[str, Any]], skips: Skips, *, labelled: bool
    ) -> list[TextExample]:
        found = []
        for _, _, record, checking in checked(records, skips):
            with checking:
                text = text_of(need(record, "text", "--text-column"), "text")
                pair = find(record, "text_pair")
                pair = None if pair is None else text_of(pair, "text_pair")
                found.append(TextExample(text, pair, self.label(record) if labelled else None))
        return found

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
    metric: ClassVar[str] = "accuracy"
    problem_type: ClassVar[str] = "single_label_classification"
    kind: ClassVar[Kind] = "classes"
    option_names: ClassVar[tuple[str, ...]] = (*SCOPE_OPTIONS, *WINDOW_OPTIONS)
    threshold_names: ClassVar[Mapping[str, tuple[float, float]]] = {"min_confidence": (0.0, 1.0)}
    out_of_scope: str | None = None
    min_confidence: float = 0.0

    @classmethod
    def learn(
        cls, records: Sequence[Mapping[str, Any]], max_length: int, options: Mapping[str, Any]
    ) -> Self:
        labels = known_labels(records, "label")
        task = cls(in_order(labels), max_length)
        task.long_texts = LongTexts.of(options)
        set_scope(task, options, labels)
        return task

    @classmethod
    def restore(cls, labels: Sequence[str], settings: Mapping[str, Any]) -> Self:
        task = super().restore(labels, settings)
        set_scope(task, settings, labels)
        return task

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "out_of_scope": self.out_of_scope}

    def label(self, record: Mapping[str, Any]) -> int:
        return label_number(label_name(need(record, "label", "--label-column")), self.numbers)

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
        gold = np.array([example.label for example in examples])
        found = np.array([self.numbers[prediction["label"]] for prediction in predictions])
        return classification_scores(
            gold, found, [p["confidence"] for p in predictions], self.labels, self.out_of_scope
        )

    def tune(self, examples: Sequence[TextExample], predictions: Sequence[Prediction]) -> Self:
        if self.out_of_scope is None:
            return self
        gold = [self.labels[example.label] for example in examples]
        return with_min_confidence(self, gold, [p["label"] for p in predictions], predictions)

    def without_thresholds(self) -> Self:
        return with_min_confidence(self)

    def imbalance(self, samples: Sequence[Sample]) -> Integers:
        return np.array([sample.label for sample in samples])

    def class_weights(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        return {"label": weights_of_classes(self.imbalance(samples), len(self.labels))}


class MultiLabel(TextTask):
    """Any number of labels for each text.

    A record has them under "labels": a list of names, or one string with commas between them; an
    empty list is none of them.

    Options of `learn`: `threshold`, or `tune_thresholds` to find the one with the highest micro F1
    on the dev records.

    Attributes:
        threshold: a label is given if its probability is at least this.
    """

    name: ClassVar[str] = "multi-label"
    metric: ClassVar[str] = "micro_f1"
    problem_type: ClassVar[str] = "multi_label_classification"
    kind: ClassVar[Kind] = "independent"
    option_names: ClassVar[tuple[str, ...]] = (
        "threshold",
        "tune_thresholds",
        *WINDOW_OPTIONS,
    )
    threshold_names: ClassVar[Mapping[str, tuple[float, float]]] = {"threshold": (0.0, 1.0)}
    threshold: float = 0.5

    @classmethod
    def learn(
        cls, records: Sequence[Mapping[str, Any]], max_length: int, options: Mapping[str, Any]
    ) -> Self:
        labels: set[str] = set()
        for record in records:
            try:
                labels.update(_several(record))
            except RecordError:  # `examples` will say so
                continue
        if not labels:
            raise DataError('The training records have no labels ("labels": a list of names).')
        task = cls(in_order(labels), max_length)
        task.long_texts = LongTexts.of(options)
        task.set_thresholds(options)
        task.tune_thresholds = bool(options.get("tune_thresholds"))
        return task

    @classmethod
    def restore(cls, labels: Sequence[str], settings: Mapping[str, Any]) -> Self:
        task = super().restore(labels, settings)
        task.set_thresholds(settings)
        return task

    def label(self, record: Mapping[str, Any]) -> Floats:
        row = np.zeros(len(self.labels), np.float32)
        row[[label_number(name, self.numbers) for name in _several(record)]] = 1
        return row

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


class Regression(TextTask):
    """A number for each text or pair, such as a similarity."""

    name: ClassVar[str] = "regression"
    metric: ClassVar[str] = "spearman"
    problem_type: ClassVar[str] = "regression"
    kind: ClassVar[Kind] = "value"

    @classmethod
    def learn(
        cls, records: Sequence[Mapping[str, Any]], max_length: int, options: Mapping[str, Any]
    ) -> Self:
        task = cls(["value"], max_length)
        task.long_texts = LongTexts.of(options)
        return task

    def label(self, record: Mapping[str, Any]) -> float:
        return number_of(need(record, "label", "--label-column"))

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
        # of a constant no correlation is defined; it shows none
        return {
            "pearson": float(np.nan_to_num(pearson(gold, found))),
            "spearman": float(np.nan_to_num(spearman(gold, found))),
            "mean_squared_error": float(np.square(gold - found).mean()),
        }


def classification_scores(
    gold: Integers,
    found: Integers,
    confidence: Sequence[float],
    labels: Sequence[str],
    out_of_scope: str | None = None,
) -> Scores:
    """What is usually said of a classifier.

    Args:
        gold, found: (N,) numbers of classes.
        confidence: (N,) the probability of the best class.
        labels: names of the classes.
        out_of_scope: the class that means none of the others.
    """
    classes = len(labels)
    each = precision_recall_f1(gold, found, classes)
    sure = np.array(confidence)
    probabilities = np.repeat((1 - sure[:, None]) / max(classes - 1, 1), classes, axis=1)
    probabilities[np.arange(len(found)), found] = sure  # the others do not matter
    scores: Scores = {
        "accuracy": accuracy(gold, found),
        "macro_f1": precision_recall_f1(gold, found, classes, "macro").f1,
        "matthews": matthews(gold, found),
        "calibration_error": expected_calibration_error(probabilities, gold),
    }
    if classes == 2:
        scores["f1"] = each[1].f1
    if out_of_scope is not None:
        is_out, said_out = (x == labels.index(out_of_scope) for x in (gold, found))
        right = gold == found
        scores["in_scope_accuracy"] = _share(right[~is_out])
        scores["out_of_scope_recall"] = _share(said_out[is_out])
        scores["out_of_scope_precision"] = _share(is_out[said_out])
    scores["classes"] = {label: asdict(part) for label, part in zip(labels, each, strict=True)}
    scores["confusion"] = confusion_matrix(gold, found, classes).tolist()
    return scores


def _share(right: Flags) -> float:
    return float(right.mean()) if len(right) else 0.0


def known_labels(records: Sequence[Mapping[str, Any]], field: str) -> set[str]:
    """The names of all labels in training records.

    Raises:
        DataError: fewer than two.
    """
    labels = set()
    for record in records:
        value = find(record, field)
        try:
            if value is not None:
                labels.add(label_name(value))
        except RecordError:  # `examples` will say so
            continue
    if len(labels) < 2:
        raise DataError(
            f"The training records have {len(labels)} labels ({', '.join(labels) or 'none'}) under "
            f"{field!r}: there is nothing to tell apart. "
            + by_place(
                python=f"Give the field that holds the label the name {field!r}.",
                command="Say which field holds the label (--label-column).",
            )
        )
    return labels


def _several(record: Mapping[str, Any]) -> list[str]:
    value = need(record, "labels", "--label-column")
    if isinstance(value, str):
        value = [name for name in value.split(",") if name.strip()]
    if not isinstance(value, list | tuple):
        raise RecordError(
            f"labels is {value!r:.60}, expected a list of names.", reason="no list of labels"
        )
    return [label_name(name) for name in value]
