"""Understanding of an utterance for an assistant: its intent, and the slots that go with it.

One encoder, one pass: the first token predicts the intent, every word its slot. Both heads share
the matrix of a token classifier, slots first, then intents, so the checkpoint is an ordinary one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from torch import Tensor

from minilm.data.records.base import Skips
from minilm.data.records.tag_schemes import Scheme
from minilm.errors import DataError
from minilm.files.arrays import Floats, Integers
from minilm.losses.elementary import IGNORED_LABEL
from minilm.tasks.balance import weights_of_classes
from minilm.tasks.column_names import INTENTS, TAGS
from minilm.tasks.fields import class_order, label_name, labels_in
from minilm.tasks.layouts import Field, Layout
from minilm.tasks.scope import SCOPE_OPTIONS, set_scope, with_min_confidence
from minilm.tasks.tagging import Tagging, WordsExample, WordWindow, tags_in
from minilm.tasks.task import Prediction, Sample, Scores, TaskBatch, Term, softmax
from minilm.tasks.texts import check_some_known, classification_scores

INTENT = "intent="  # what the names of intents begin with among all labels


class Utterances(Tagging):
    """Intent and slots of one utterance, predicted together.

    A record has "tokens", "tags" and "intent"; for predictions a "text" is enough. The loss is the
    mean over words plus the mean over utterances.

    Options of `learn`: `out_of_scope`, the intent that means none of the others; `min_confidence`,
    or `tune_thresholds` to find it on the dev records.

    Attributes:
        out_of_scope: the intent that means none of the others, or None.
        min_confidence: an intent with a lower probability becomes `out_of_scope`.

    References: Chen et al. 2019, "BERT for Joint Intent Classification and Slot Filling".
    """

    name: ClassVar[str] = "utterances"
    metric: str = "both_right"
    parts: ClassVar[tuple[str, ...]] = ("tag", "intent")
    option_names: ClassVar[tuple[str, ...]] = SCOPE_OPTIONS
    threshold_names: ClassVar[Mapping[str, tuple[float, float]]] = {"min_confidence": (0.0, 1.0)}
    fields: ClassVar[tuple[Field, ...]] = (
        *(field for field in Tagging.fields if not field.labelled),
        Field("tags", TAGS, "tags", several="first", kind="list", labelled=True),
        Field("intent", INTENTS, "label_column", kind="scalar", labelled=True),
    )
    out_of_scope: str | None = None
    min_confidence: float = 0.0

    def __init__(self, labels: Sequence[str], max_length: int) -> None:
        super().__init__(labels, max_length)
        self.intents = tuple(
            label.removeprefix(INTENT) for label in self.labels if label.startswith(INTENT)
        )
        self.intent_numbers = {intent: number for number, intent in enumerate(self.intents)}
        self.slots = len(self.labels) - len(self.intents)  # how many labels are tags

    @classmethod
    def learn(
        cls, records: Sequence[Mapping[str, Any]], max_length: int, options: Mapping[str, Any]
    ) -> Self:
        layouts = cls.layouts_to_learn(records, options)
        intents = labels_in(records, layouts, _intent_of, field="intent")
        tags = tags_in(records, layouts)
        if clash := [tag for tag in tags if tag.startswith(INTENT)]:
            raise DataError(f"The tag {clash[0]!r} begins with {INTENT!r}, which intents do here.")
        ordered = class_order(intents, records, layouts, "intent")
        task = cls([*tags, *(INTENT + intent for intent in ordered)], max_length)
        set_scope(task, options, intents)
        return task.name_columns(options).read_from(layouts).note_tags()

    @classmethod
    def restore(cls, labels: Sequence[str], settings: Mapping[str, Any]) -> Self:
        task = super().restore(labels, settings)
        set_scope(task, settings, task.intents)
        return task

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "out_of_scope": self.out_of_scope}

    def _is_tag(self, label: str) -> bool:
        return not label.startswith(INTENT)

    def examples(
        self, records: Sequence[Mapping[str, Any]], skips: Skips, *, labelled: bool
    ) -> list[WordsExample]:
        found = super().examples(records, skips, labelled=labelled)
        if labelled:
            intents = [str(example.intent) for example in found]
            unknown = [() if name in self.intent_numbers else (name,) for name in intents]
            check_some_known(unknown, self.intents)
        return found

    def _example(
        self, layout: Layout, record: Mapping[str, Any], scheme: Scheme | None, labelled: bool
    ) -> WordsExample:
        example = super()._example(layout, record, scheme, labelled)
        if not labelled:
            return example
        (intent,) = _intent_of(layout, record)
        return WordsExample(example.text, example.spans, example.tags, intent)

    def classes_of(self, layout: Layout, record: Mapping[str, Any]) -> tuple[set[str], set[str]]:
        return set(_intent_of(layout, record)), super().classes_of(layout, record)[1]

    def unknown(self, examples: Sequence[WordsExample]) -> Counter[str]:
        intents = (str(example.intent) for example in examples)
        unknown = Counter(intent for intent in intents if intent not in self.intent_numbers)
        return super().unknown(examples) + unknown

    def _row_labels(self, example: WordsExample, location: WordWindow, length: int) -> Integers:
        labels = super()._row_labels(example, location, length)
        if location.first:
            labels[0] = self.numbers.get(f"{INTENT}{example.intent}", IGNORED_LABEL)
        return labels

    def without_label(self, sample: Sample) -> Integers:
        labels = super().without_label(sample)
        if sample.decode_info.first:
            labels[0] = self.slots  # the first intent
        return labels

    def class_weights(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        labels = np.concatenate([sample.label for sample in samples])
        labels = labels[labels != IGNORED_LABEL]
        tags, intents = labels[labels < self.slots], labels[labels >= self.slots] - self.slots
        return {
            "tag": weights_of_classes(tags, self.slots),
            "intent": weights_of_classes(intents, len(self.intents)),
        }

    def counts(self, batch: TaskBatch) -> dict[str, int]:
        labels, known = batch.labels, batch.known_tokens
        assert labels is not None
        if known is not None:
            labels = labels[known]
        return {
            "tag": int(((labels != IGNORED_LABEL) & (labels < self.slots)).sum()),
            "intent": int((labels >= self.slots).sum()),
        }

    def terms(self, logits: Tensor, batch: TaskBatch) -> list[Term]:
        labels = batch.labels
        assert labels is not None
        words = ((labels != IGNORED_LABEL) & (labels < self.slots)).nonzero()[:, 0]
        firsts = (labels >= self.slots).nonzero()[:, 0]
        known = batch.known_tokens
        known_words, known_firsts = (
            None if known is None else known[places] for places in (words, firsts)
        )
        return [
            Term(
                "tag",
                "classes",
                logits[words][:, : self.slots],
                labels[words],
                known=known_words,
            ),
            Term(
                "intent",
                "classes",
                logits[firsts][:, self.slots :],
                labels[firsts] - self.slots,
                known=known_firsts,
            ),
        ]

    def _tag_scores(self, output: Floats) -> Floats:
        return output[:, : self.slots]

    def decode(
        self,
        examples: Sequence[WordsExample],
        samples: Sequence[Sample],
        outputs: Sequence[Floats],
    ) -> list[Prediction]:
        found = super().decode(examples, samples, outputs)
        for sample, output in zip(samples, outputs, strict=True):
            if sample.decode_info.first:
                probabilities = softmax(output[0, self.slots :])
                best = int(probabilities.argmax())
                intent = self.intents[best]
                if self.out_of_scope is not None and probabilities[best] < self.min_confidence:
                    intent = self.out_of_scope
                found[sample.example] = {
                    "intent": intent,
                    "confidence": float(probabilities[best]),
                    **found[sample.example],
                }
        return found

    def scores(self, examples: Sequence[WordsExample], predictions: Sequence[Prediction]) -> Scores:
        slots = super().scores(examples, predictions)
        intents_of = [str(example.intent) for example in examples]
        gold = [self.intent_numbers.get(intent, intent) for intent in intents_of]
        found = np.array([self.intent_numbers[prediction["intent"]] for prediction in predictions])
        intents = classification_scores(
            gold, found, [p["confidence"] for p in predictions], self.intents, self.out_of_scope
        )
        same_slots = np.array(
            [
                all(
                    tag in (None, guess)
                    for tag, guess in zip(example.tags or (), prediction["tags"], strict=True)
                )
                for example, prediction in zip(examples, predictions, strict=True)
            ]
        )
        right = np.array([number == guess for number, guess in zip(gold, found, strict=True)])
        return {
            "both_right": float((right & same_slots).mean()),
            **{f"slot_{name}": slots[name] for name in ("f1", "token_accuracy") if name in slots},
            **{f"intent_{name}": value for name, value in intents.items()},
            "slot_classes": slots.get("classes", {}),
        }

    def tune(self, examples: Sequence[WordsExample], predictions: Sequence[Prediction]) -> Self:
        if self.out_of_scope is None:
            return self
        gold = [str(example.intent) for example in examples]
        return with_min_confidence(self, gold, [p["intent"] for p in predictions], predictions)

    def without_thresholds(self) -> Self:
        return with_min_confidence(self)


def _intent_of(layout: Layout, record: Mapping[str, Any]) -> tuple[str]:
    return (label_name(layout.need(record, "intent")),)
