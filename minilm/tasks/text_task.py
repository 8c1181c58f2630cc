"""What tasks on whole texts have in common: a text or a pair of texts, one label for it."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from minilm.data.records.base import Skips
from minilm.files.arrays import Floats
from minilm.losses.soft_targets import Kind
from minilm.models.pretrained import PretrainedModel
from minilm.tasks.column_names import TEXTS
from minilm.tasks.fields import (
    checked,
    text_of,
)
from minilm.tasks.layouts import PAIR, Field, Layout
from minilm.tasks.long_texts import WINDOW_OPTIONS, LongTexts
from minilm.tasks.task import (
    Sample,
    Task,
    TaskBatch,
    Term,
    split_packed,
)
from minilm.tokenization.tokenizer import Tokenizer

TEXT = Field("text", TEXTS, "text_column", several="pair", kind="text")


@dataclass(frozen=True)
class TextExample:
    """A text or a pair of texts with its label.

    Attributes:
        text, pair: the texts.
        label: the number of a class, an array of zeros and ones, or a number; None = not given,
            -100 = a class that training did not have.
        unknown: names of those labels that training did not have.
    """

    text: str
    pair: str | None
    label: Any = None
    unknown: tuple[str, ...] = ()


class TextTask(Task[TextExample]):
    """The common part of the three tasks on whole texts.

    Options of `learn` are `windows` ("mean" or "max") and `doc_stride`, see `LongTexts`; without
    them, texts that are too long are cut.
    """

    head: ClassVar[str] = "ForSequenceClassification"
    problem_type: ClassVar[str]
    kind: ClassVar[Kind]
    option_names: ClassVar[tuple[str, ...]] = WINDOW_OPTIONS
    of_examples: ClassVar[bool] = True
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
            RecordError: it has no label, or an invalid one.
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
        return {"label": batch.count_known()}

    def terms(self, logits: Tensor, batch: TaskBatch) -> list[Term]:
        return [Term("label", self.kind, logits, batch.labels, known=batch.known)]

    def outputs(self, logits: Tensor, batch: TaskBatch) -> list[Floats]:
        return list(logits.float().cpu().numpy())

    def logits_of(self, outputs: Sequence[Floats], batch: TaskBatch) -> Tensor:
        return torch.from_numpy(np.stack(outputs))  # (B, C)
