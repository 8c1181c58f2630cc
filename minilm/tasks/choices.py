"""Multiple choice: which of several answers or endings is the right one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from minilm.data.records.base import RecordError, Skips
from minilm.files.arrays import Floats
from minilm.metrics.classification import accuracy
from minilm.models.pretrained import PretrainedModel
from minilm.tasks.fields import checked, find, need, text_of
from minilm.tasks.task import (
    Prediction,
    Sample,
    Scores,
    Task,
    TaskBatch,
    Term,
    as_rows,
    run_model,
    softmax,
    split_packed,
)
from minilm.tokenization.tokenizer import Tokenizer


@dataclass(frozen=True)
class ChoiceExample:
    """A question with its choices.

    Attributes:
        prompt: what comes before each of them.
        choices: at least two.
        label: the number of the right one, from 0; None = not known.
    """

    prompt: str
    choices: tuple[str, ...]
    label: int | None = None


class MultipleChoice(Task[ChoiceExample]):
    """The right one of several choices, each read together with the prompt.

    A record has a "prompt", "choices" (a list of at least two) and a "label", the number of the
    right one, from 0. Records may have different numbers of choices.
    """

    name: ClassVar[str] = "choice"
    head: ClassVar[str] = "ForMultipleChoice"
    metric: ClassVar[str] = "accuracy"

    @classmethod
    def learn(
        cls, records: Sequence[Mapping[str, Any]], max_length: int, options: Mapping[str, Any]
    ) -> Self:
        return cls((), max_length)

    @classmethod
    def restore(cls, labels: Sequence[str], settings: Mapping[str, Any]) -> Self:
        return cls((), settings["max_length"])

    def config(self) -> dict[str, Any]:
        return {}

    def examples(
        self, records: Sequence[Mapping[str, Any]], skips: Skips, *, labelled: bool
    ) -> list[ChoiceExample]:
        found = []
        for _, _, record, checking in checked(records, skips):
            with checking:
                prompt = text_of(need(record, "prompt", "what comes before the choices"), "prompt")
                choices = need(record, "choices", "a list of texts")
                if not isinstance(choices, list | tuple) or len(choices) < 2:
                    raise RecordError(
                        f"choices is {choices!r:.60}, expected a list of at least two texts.",
                        reason="no list of choices",
                    )
                texts = tuple(text_of(choice, "a choice") for choice in choices)
                label = _label(record, len(texts)) if labelled else None
                found.append(ChoiceExample(prompt, texts, label))
        return found

    def samples(self, examples: Sequence[ChoiceExample], tokenizer: Tokenizer) -> list[Sample]:
        if not examples:
            return []
        batch = tokenizer(
            [example.prompt for example in examples for _ in example.choices],
            [choice for example in examples for choice in example.choices],
            max_length=self.max_length,
            layout="packed",
        )
        rows = split_packed(batch)
        cut, samples, done = set(batch.truncated), [], 0
        for number, example in enumerate(examples):
            end = done + len(example.choices)
            lost = not cut.isdisjoint(range(done, end))
            samples.append(Sample(number, tuple(rows[done:end]), example.label, lost))
            done = end
        return samples

    def is_truncated(self, sample: Sample) -> bool:
        return bool(sample.decode_info)

    def labels_of(self, samples: Sequence[Sample]) -> Tensor:
        return torch.tensor([sample.label for sample in samples])

    def logits(self, model: PretrainedModel, batch: TaskBatch) -> Tensor:
        # questions of one choice: the scores, one by one
        (scores,) = run_model(model, batch, batch.lengths[:, None])  # (R, 1)
        return as_rows(scores[:, 0], batch.rows)  # (B, C)

    def counts(self, batch: TaskBatch) -> dict[str, int]:
        return {"label": len(batch.samples)}

    def terms(self, logits: Tensor, batch: TaskBatch) -> list[Term]:
        return [Term("label", "classes", logits, batch.labels)]

    def outputs(self, logits: Tensor, batch: TaskBatch) -> list[Floats]:
        counts = batch.rows.tolist()
        rows = logits.float().cpu().numpy()
        return [row[:count] for row, count in zip(rows, counts, strict=True)]

    def decode(
        self,
        examples: Sequence[ChoiceExample],
        samples: Sequence[Sample],
        outputs: Sequence[Floats],
    ) -> list[Prediction]:
        found = []
        for example, output in zip(examples, outputs, strict=True):
            probabilities = softmax(output)
            best = int(probabilities.argmax())
            found.append(
                {
                    "label": best,
                    "choice": example.choices[best],
                    "confidence": float(probabilities[best]),
                    "probabilities": probabilities.tolist(),
                }
            )
        return found

    def scores(
        self, examples: Sequence[ChoiceExample], predictions: Sequence[Prediction]
    ) -> Scores:
        gold = np.array([example.label for example in examples])
        found = np.array([prediction["label"] for prediction in predictions])
        chance = float(np.mean([1 / len(example.choices) for example in examples]))
        return {"accuracy": accuracy(gold, found), "chance": chance}


def _label(record: Mapping[str, Any], choices: int) -> int:
    label = find(record, "label")
    if isinstance(label, str) and label.strip().isdecimal():
        label = int(label)
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < choices:
        raise RecordError(
            f"The label is {label!r:.60}, expected the number of the right choice, 0 to "
            f"{choices - 1}.",
            reason="no proper label",
        )
    return label
