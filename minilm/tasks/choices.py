"""Multiple choice: which of several answers or endings is the right one."""

from __future__ import annotations

import re
from collections import Counter
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
from minilm.tasks.column_names import CHOICES, ONE_CHOICE_A_COLUMN, PROMPTS, RIGHT_CHOICE
from minilm.tasks.fields import checked, list_of, text_of
from minilm.tasks.layouts import Field, Layout, plain
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

_BLANK = re.compile(r"(?<!\w)_+(?!\w)")  # of a cloze, as RACE has some


@dataclass(frozen=True)
class ChoiceExample:
    """A question with its choices.

    Attributes:
        prompt: the first text of each row.
        choices: at least two.
        label: the number of the right choice, from 0; None = not known.
        question: text that precedes each choice in the second text; a blank (_) in it marks where
            the choice belongs.
    """

    prompt: str
    choices: tuple[str, ...]
    label: int | None = None
    question: str = ""

    @property
    def endings(self) -> list[str]:
        """The second text of each row."""
        if not self.question:
            return list(self.choices)
        if _BLANK.search(self.question):
            parts = _BLANK.split(self.question)
            return [choice.join(parts) for choice in self.choices]
        return [f"{self.question} {choice}" for choice in self.choices]


class MultipleChoice(Task[ChoiceExample]):
    """Picks the right one of several choices, each read together with the prompt.

    A record has a "prompt", "choices" (a list of at least two) and a "label", the number of the
    right choice, from 0, or its letter, key or text. Records may have different numbers of choices.
    Where several fields come before the choices, such as an article and a question, the first is
    the prompt, and the others come before each choice: rows are (article, question and choice),
    (first sentence, second sentence and ending).

    Attributes:
        first: the number of the first choice in the records of training: 1 where no label is 0 and
            one in twenty or more is as large as there are choices.
        by_text: whether every label in training was the text of one of its choices, so that "3"
            among the choices 1, 2, 3 and 4 is the third one.

    References: Devlin et al. 2019, section 4.4 (SWAG); Lan et al. 2020, appendix A.3 (RACE).
    """

    name: ClassVar[str] = "choice"
    head: ClassVar[str] = "ForMultipleChoice"
    metric: str = "accuracy"
    fields: ClassVar[tuple[Field, ...]] = (
        Field("prompt", PROMPTS, "text_column", several="all", kind="text"),
        Field("choices", CHOICES, "pair_column", kind="list", pattern=ONE_CHOICE_A_COLUMN),
        Field("label", RIGHT_CHOICE, "label_column", kind="scalar", labelled=True),
    )
    of_examples: ClassVar[bool] = True
    first: int = 0
    by_text: bool = False

    @classmethod
    def learn(
        cls, records: Sequence[Mapping[str, Any]], max_length: int, options: Mapping[str, Any]
    ) -> Self:
        layouts = cls.layouts_to_learn(records, options)
        task = cls((), max_length).name_columns(options).read_from(layouts)
        labels, largest = [], 0
        texts = Counter[bool]()  # whether labels are texts of choices
        for record in records:
            try:
                layout = layouts.of(record)
                keys, choices = _choices(layout, record)
            except RecordError:
                continue
            label = layout.get(record, "label")
            if label is not None:
                name = label.strip() if isinstance(label, str) else None
                texts[not keys and list(choices).count(name) == 1] += 1
            number = _whole(label)
            if number is not None and not keys:
                labels.append(number)
                largest += number == len(choices)
        # a few labels that are too large are faults
        if texts[True] and not texts[False]:
            task.by_text = True
        elif labels and min(labels) == 1 and largest >= max(2, len(labels) / 20):
            task.first = 1
            task.note("labels count the choices from 1")
        return task

    @classmethod
    def restore(cls, labels: Sequence[str], settings: Mapping[str, Any]) -> Self:
        task = cls((), settings["max_length"])
        task.first = int(settings.get("first", 0))
        task.by_text = bool(settings.get("by_text", False))
        return task

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "first": self.first, "by_text": self.by_text}

    def config(self) -> dict[str, Any]:
        return {}

    def examples(
        self, records: Sequence[Mapping[str, Any]], skips: Skips, *, labelled: bool
    ) -> list[ChoiceExample]:
        found = []
        layouts = self.layouts(records, labelled=labelled)
        for _, _, record, checking in checked(records, skips):
            with checking:
                layout = layouts.of(record)
                layout.need(record, "prompt")
                prompt, *rest = [
                    text_of(text, "prompt") for text in layout.values(record, "prompt")
                ]
                keys, choices = _choices(layout, record)
                texts = tuple(text_of(choice, "a choice") for choice in choices)
                label = None
                if labelled:
                    given = layout.get(record, "label")
                    if self.by_text and given in texts:
                        label = texts.index(given)
                    else:
                        label = _label(given, keys, texts, self.first)
                found.append(ChoiceExample(prompt, texts, label, " ".join(rest)))
        self.note(*layouts.describe())
        return found

    def samples(self, examples: Sequence[ChoiceExample], tokenizer: Tokenizer) -> list[Sample]:
        if not examples:
            return []
        batch = tokenizer(
            [example.prompt for example in examples for _ in example.choices],
            [ending for example in examples for ending in example.endings],
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

    def without_label(self, sample: Sample) -> int:
        return 0

    def logits(self, model: PretrainedModel, batch: TaskBatch) -> Tensor:
        # questions of one choice: the scores, one by one
        (scores,) = run_model(model, batch, batch.lengths[:, None])  # (R, 1)
        return as_rows(scores[:, 0], batch.rows)  # (B, C)

    def counts(self, batch: TaskBatch) -> dict[str, int]:
        return {"label": batch.count_known()}

    def terms(self, logits: Tensor, batch: TaskBatch) -> list[Term]:
        return [Term("label", "classes", logits, batch.labels, known=batch.known)]

    def outputs(self, logits: Tensor, batch: TaskBatch) -> list[Floats]:
        counts = batch.rows.tolist()
        rows = logits.float().cpu().numpy()
        return [row[:count] for row, count in zip(rows, counts, strict=True)]

    def logits_of(self, outputs: Sequence[Floats], batch: TaskBatch) -> Tensor:
        return as_rows(super().logits_of(outputs, batch).to(batch.rows.device), batch.rows)

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


def _choices(layout: Layout, record: Mapping[str, Any]) -> tuple[list[str], Sequence[Any]]:
    """The keys of the choices, if they have some, and the choices.

    Raises:
        RecordError: there are none, or fewer than two.
    """
    columns, keys = layout.columns.get("choices", ()), list[str]()
    choices: Any
    if len(columns) > 1:
        choices = [plain(record.get(column)) for column in columns]
    else:
        choices = layout.need(record, "choices")
        if isinstance(choices, Mapping) and isinstance(choices.get("text"), list):
            keys = [str(key) for key in choices.get("label") or ()]
            choices = choices["text"]
        elif isinstance(choices, str) and choices.startswith("["):
            choices = list_of(choices)
    if not isinstance(choices, list | tuple) or len(choices) < 2:
        raise RecordError(
            f"choices is {choices!r:.60}, expected a list of at least two texts.",
            reason="no list of choices",
        )
    return keys if len(keys) == len(choices) else [], choices


def _label(label: Any, keys: Sequence[str], choices: Sequence[str], first: int) -> int:
    """The number of the right choice, from its number, letter, key or text.

    Raises:
        RecordError: it is none of these.
    """
    name = label.strip() if isinstance(label, str) else label
    if keys and str(name) in keys:
        return keys.index(str(name))
    number = _whole(label)
    if number is not None:
        number -= first
    elif isinstance(name, str) and choices.count(name) == 1:
        number = choices.index(name)
    elif isinstance(name, str) and len(name) == 1 and name.isascii() and name.isupper():
        number = ord(name) - ord("A")
    if number is None or not 0 <= number < len(choices):
        raise RecordError(
            f"The label is {label!r:.60}, expected the number of the right choice, {first} to "
            f"{len(choices) - 1 + first}.",
            reason="no proper label",
        )
    return number


def _whole(label: Any) -> int | None:
    """A whole number, perhaps written as text; None for anything else."""
    if isinstance(label, str) and label.strip().isdecimal():
        return int(label)
    if isinstance(label, float) and label.is_integer():  # beside missing ones, pandas has no other
        return int(label)
    return label if isinstance(label, int) and not isinstance(label, bool) else None
