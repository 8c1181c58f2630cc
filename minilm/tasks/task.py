"""What a task is.

    records -> examples -> samples -> batches -> logits -> outputs -> predictions -> scores

Records are dictionaries, read from a file or given. A task checks them and converts them to
*examples* of its own type; an example becomes one or several *samples* (windows of a long text), a
sample one or several *rows* of tokens (the choices of a question). Batches of samples go through
the model without padding. Outputs then go the way back: those of samples become one *prediction*
for each example, a JSON dictionary, and predictions become scores.

Everything that differs between tasks is a method of `Task`; learning, distillation, evaluation and
prediction are written once, for all of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from minilm.data.records.base import Skips
from minilm.errors import InputError
from minilm.files.arrays import Doubles, Floats, Integers
from minilm.losses.soft_targets import Kind
from minilm.models.early_exit import EarlyExit, EveryExit
from minilm.models.pretrained import PretrainedModel
from minilm.tasks.layouts import Columns, Field, Layout, Layouts, chosen_columns
from minilm.tokenization.tokenizer import Batch, Joined, Tokenizer

Prediction = dict[str, Any]
Scores = dict[str, Any]

Example = TypeVar("Example")

ROUND = 32  # tokens, see `_filler`


@dataclass(frozen=True, eq=False)
class Sample:
    """What the model sees of an example.

    Attributes:
        example: the number of the example.
        rows: sequences of tokens.
        label: the label in the task's own form; None without one.
        decode_info: what the task needs to decode the outputs of this sample.
        known: False = there is no right answer, and `label` is a placeholder, see
            `Task.without_label`.
    """

    example: int
    rows: tuple[Joined, ...]
    label: Any = None
    decode_info: Any = None
    known: bool = True

    @property
    def tokens(self) -> int:
        """The number of tokens in all rows."""
        return sum(len(row.ids) for row in self.rows)


@dataclass(frozen=True, eq=False)
class TaskBatch:
    """Samples of a task, packed.

    Attributes:
        samples: (B,) their numbers.
        input_ids: (T,) int64, all rows one after another.
        token_type_ids: (T,) int64.
        lengths: (R,) int64 tokens of each row; they sum to T.
        rows: (B,) int64 rows of each sample; they sum to R.
        labels: in the task's own shape; None without labels.
        known: (B,) bool, which samples have given labels; those of the others are placeholders.
            None = all of them.
    """

    samples: Integers
    input_ids: Tensor
    token_type_ids: Tensor
    lengths: Tensor
    rows: Tensor
    labels: Tensor | None
    known: Tensor | None = None

    @property
    def tokens(self) -> int:
        """The number of tokens, T."""
        return self.input_ids.shape[0]

    @property
    def known_tokens(self) -> Tensor | None:
        """(T,) bool, which tokens belong to samples with labels; None = all of them."""
        if self.known is None:
            return None
        rows = self.known.repeat_interleave(self.rows)  # (R,)
        return rows.repeat_interleave(self.lengths)

    def count_known(self) -> int:
        """How many samples have labels."""
        return len(self.samples) if self.known is None else int(self.known.sum())

    def whole(self) -> TaskBatch:
        """The same batch as if all samples had labels, for a teacher that predicts them all."""
        return self if self.known is None else replace(self, known=None)

    def to(self, device: torch.device) -> TaskBatch:
        """The same batch on a device."""
        return TaskBatch(
            self.samples,
            self.input_ids.to(device),
            self.token_type_ids.to(device),
            self.lengths.to(device),
            self.rows.to(device),
            None if self.labels is None else self.labels.to(device),
            None if self.known is None else self.known.to(device),
        )


@dataclass(frozen=True, eq=False)
class Term:
    """Predictions that enter a loss.

    Attributes:
        name: the term's name in the log and in `counts`.
        kind: see `minilm.losses.soft_targets`.
        logits: (N, C) logits.
        labels: see `label_loss`; None without labels.
        weight: weight of their mean in the loss.
        known: (N,) bool, which predictions have a label; None = all of them.
    """

    name: str
    kind: Kind
    logits: Tensor
    labels: Tensor | None
    weight: float = 1.0
    known: Tensor | None = None

    def of_labels(self) -> tuple[Tensor, Tensor]:
        """The logits of predictions with a label, and these labels."""
        assert self.labels is not None
        if self.known is None:
            return self.logits, self.labels
        return self.logits[self.known], self.labels[self.known]


class Task(ABC, Generic[Example]):
    """A kind of task for a model. Instances know their labels.

    Args:
        labels: names of the labels, in the order of the head's outputs.
        max_length: maximum length of a row in tokens, special ones included.

    Class attributes:
        name: name of the task, as in `minilm finetune --task`.
        head: the ending of the names of model classes that have the head for it.
        metric: the score that selects the best evaluation.
        best_score: its highest possible value.
        parts: the names of the terms of the loss.
        option_names: names of the options of `learn`, besides those that name columns.
        threshold_names: attributes that decide between answers, with the lowest and the highest
        value of each. They are stored with the model. fields: the fields that are read from a
        record. of_examples: whether there is one prediction for each example, whatever its tokens,
        so that a model with another vocabulary can make the same predictions.

    Attributes:
        tune_thresholds: whether fine-tuning sets the thresholds to the best values for the dev
            records.
        chosen: columns that the user named, by field.
        known: columns that training read, by field.
        texts: numbers of texts that training records had: 1, 2 or both; () = not known, or no
            pairs.
    """

    name: ClassVar[str]
    head: ClassVar[str]
    metric: str
    best_score: ClassVar[float] = 1.0
    parts: ClassVar[tuple[str, ...]] = ("label",)
    option_names: ClassVar[tuple[str, ...]] = ()
    threshold_names: ClassVar[Mapping[str, tuple[float, float]]] = {}
    tune_thresholds: bool = False
    fields: ClassVar[tuple[Field, ...]]
    of_examples: ClassVar[bool] = False

    def __init__(self, labels: Sequence[str], max_length: int) -> None:
        self.labels = tuple(labels)
        self.max_length = max_length
        self.numbers = {label: number for number, label in enumerate(self.labels)}
        self.chosen: Columns = {}  # columns that the user named, by field
        self.known: Columns = {}  # columns that training read
        self.texts: tuple[int, ...] = ()
        self._notes: list[str] = []

    @classmethod
    def layouts_to_learn(
        cls, records: Sequence[Mapping[str, Any]], options: Mapping[str, Any]
    ) -> Layouts:
        """Which columns of training records are read as which field; for `learn`."""
        chosen = chosen_columns(cls.fields, options, cls.name)
        return Layouts(records, cls.fields, chosen=chosen, labelled=True)

    def layouts(self, records: Sequence[Mapping[str, Any]], *, labelled: bool) -> Layouts:
        """Which columns of these records are read as which field."""
        return Layouts(
            records,
            self.fields,
            chosen=self.chosen,
            known=self.known,
            texts=self.texts,
            labelled=labelled,
        )

    def name_columns(self, options: Mapping[str, Any]) -> Self:
        """This task, with records read from the columns that the user named.

        Args:
            options: "text_column", "pair_column" and "label_column"; None = not named.

        Raises:
            InputError: the task has no such field.
        """
        self.chosen = {**self.chosen, **chosen_columns(self.fields, options, self.name)}
        return self

    def read_from(self, layouts: Layouts) -> Self:
        """Remembers which columns training read, for later records; returns this task."""
        if (common := layouts.common()) is not None:
            self.known, self.texts = common.columns, layouts.texts()
        return self

    def remember(self, settings: Mapping[str, Any]) -> Self:
        """Remembers which columns training read; returns this task.

        Args:
            settings: JSON values, as in `settings`.

        Raises:
            TypeError, ValueError: they are malformed.
        """
        self.known = {
            str(name): tuple(map(str, columns))
            for name, columns in dict(settings.get("fields", {})).items()
        }
        self.texts = tuple(map(int, settings.get("texts", ())))
        return self

    def note(self, *texts: str) -> None:
        """Notes something that the user should know about the records."""
        self._notes += [text for text in texts if text not in self._notes]

    def take_notes(self) -> list[str]:
        """The notes about the records that were read since the last call."""
        notes, self._notes = self._notes, []
        return notes

    @classmethod
    @abstractmethod
    def learn(
        cls, records: Sequence[Mapping[str, Any]], max_length: int, options: Mapping[str, Any]
    ) -> Self:
        """The task that training records describe, with the labels found in them.

        Args:
            records: the training records.
            max_length: maximum length of a row in tokens.
            options: options of this task; see each task's class.

        Raises:
            DataError: a record lacks what the task needs, or there are too few labels.
        """

    @classmethod
    @abstractmethod
    def restore(cls, labels: Sequence[str], settings: Mapping[str, Any]) -> Self:
        """The task of a checkpoint.

        Args:
            labels: names of the labels by number, from its config.json.
            settings: what `settings` returned; fewer or none for checkpoints of other programs.
        """

    def settings(self) -> dict[str, Any]:
        """JSON values that `restore` needs besides the labels."""
        fields = {name: list(columns) for name, columns in self.known.items()}
        texts = {"texts": list(self.texts)} if self.texts else {}
        return {"max_length": self.max_length, "fields": fields, **texts, **self.thresholds}

    @property
    def thresholds(self) -> dict[str, float]:
        """The thresholds by their names."""
        return {name: getattr(self, name) for name in self.threshold_names}

    def set_thresholds(self, values: Mapping[str, Any]) -> None:
        """Sets some of the thresholds.

        Args:
            values: thresholds by name; other names, and values that are None, are ignored.

        Raises:
            InputError: a value is not a number in the threshold's range.
        """
        for name, (lowest, highest) in self.threshold_names.items():
            value = values.get(name)
            if value is None:
                continue
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not lowest <= value <= highest:
                expected = f"a number from {lowest:g} to {highest:g}"
                raise InputError(f"{name} is {value!r:.60}: expected {expected}.")
            setattr(self, name, float(value))

    def config(self) -> dict[str, Any]:
        """Fields of the configuration of a model for this task."""
        return {"id2label": dict(enumerate(self.labels))}

    @abstractmethod
    def examples(
        self, records: Sequence[Mapping[str, Any]], skips: Skips, *, labelled: bool
    ) -> list[Example]:
        """Checks records and converts them to examples.

        Args:
            records: any sequence of records.
            skips: what to do with bad records.
            labelled: whether labels are needed; otherwise they may be missing.
        """

    @abstractmethod
    def samples(self, examples: Sequence[Example], tokenizer: Tokenizer) -> list[Sample]:
        """The samples of examples, in their order; at least one for each."""

    def unknown(self, examples: Sequence[Example]) -> Counter[str]:
        """How often each label that training did not have occurs in examples."""
        return Counter()

    def is_truncated(self, sample: Sample) -> bool:
        """Whether tokens of the example are in no sample; never where windows cover it."""
        return False

    def truncated(self, samples: Sequence[Sample]) -> int:
        """The number of examples with tokens that are in no sample."""
        return len({sample.example for sample in samples if self.is_truncated(sample)})

    @property
    def limit(self) -> int:
        """The number of tokens at which an example is cut."""
        return self.max_length

    @abstractmethod
    def labels_of(self, samples: Sequence[Sample]) -> Tensor:
        """The labels of a batch of labelled samples."""

    @abstractmethod
    def without_label(self, sample: Sample) -> Any:
        """A placeholder that says where the predictions of a sample are, not what is right."""

    def unlabelled(self, samples: Sequence[Sample]) -> list[Sample]:
        """Samples without labels, for learning from a teacher alone."""
        return [
            replace(sample, label=self.without_label(sample), known=False) for sample in samples
        ]

    def logits(self, model: PretrainedModel, batch: TaskBatch) -> Tensor:
        """The logits of a model: (B, C), (T, C) or, for spans, (T, 2)."""
        return run_model(model, batch, batch.lengths)[0]

    @abstractmethod
    def counts(self, batch: TaskBatch) -> dict[str, int]:
        """The number of labelled predictions in each term of a batch, by the term's name."""

    @abstractmethod
    def terms(self, logits: Tensor, batch: TaskBatch) -> list[Term]:
        """The predictions that enter the loss."""

    @abstractmethod
    def outputs(self, logits: Tensor, batch: TaskBatch) -> list[Floats]:
        """What is kept of the logits, for each sample."""

    def logits_of(self, outputs: Sequence[Floats], batch: TaskBatch) -> Tensor:
        """The logits of a batch in float32, from what `outputs` kept for each of its samples."""
        return torch.from_numpy(np.concatenate(outputs))

    @abstractmethod
    def decode(
        self, examples: Sequence[Example], samples: Sequence[Sample], outputs: Sequence[Floats]
    ) -> list[Prediction]:
        """One prediction for each example, in JSON values."""

    @abstractmethod
    def scores(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> Scores:
        """The scores of predictions: floats, and tables of them. Examples must have labels."""

    def tune(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> Self:
        """The task with its thresholds set to the best values for these predictions.

        Args:
            examples: labelled examples.
            predictions: made by a task without thresholds, see `without_thresholds`.
        """
        return self

    def without_thresholds(self) -> Self:
        """The task that always gives its likeliest answer, whatever its confidence."""
        return self

    def classes_of(self, layout: Layout, record: Mapping[str, Any]) -> tuple[set[str], set[str]]:
        """The classes that a labelled record names: that of the whole, if any, and the others.

        Raises:
            RecordError: it has no usable label.
        """
        return set(), set()

    def imbalance(self, samples: Sequence[Sample]) -> Integers:
        """(N,) the class of every sample, for drawing all classes equally often.

        Raises:
            InputError: samples of this task have no classes.
        """
        raise InputError(
            f"balance 'sampling': {self.name} has not one class for each sample. Only "
            "classification can be sampled so; leave it out."
        )

    def class_weights(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Weights of the loss that make up for unequal frequencies; see `minilm.tasks.balance`.

        Args:
            samples: the training samples.

        Returns:
            (C,) weights for every term of the loss, see `minilm.losses.soft_targets.label_loss`.

        Raises:
            InputError: this task has no classes.
        """
        raise InputError(
            f"balance 'weights': {self.name} has no classes of unequal frequency. Classification, "
            "multi-label, tagging and utterances can be weighted; leave it out."
        )


def collate(task: Task[Any], samples: Sequence[Sample], numbers: Integers) -> TaskBatch:
    """A batch of samples.

    Args:
        task: the task of the samples.
        samples: all samples.
        numbers: (B,) the numbers of those in the batch, at least one.
    """
    chosen = [samples[number] for number in numbers.tolist()]
    rows = [row for sample in chosen for row in sample.rows]
    labelled = all(sample.label is not None for sample in chosen)
    known = [sample.known for sample in chosen]
    return TaskBatch(
        numbers,
        torch.from_numpy(np.concatenate([row.ids for row in rows])),
        torch.from_numpy(np.concatenate([row.type_ids for row in rows])),
        torch.tensor([len(row.ids) for row in rows]),
        torch.tensor([len(sample.rows) for sample in chosen]),
        task.labels_of(chosen) if labelled else None,
        None if all(known) else torch.tensor(known),
    )


def run_model(
    model: PretrainedModel | EarlyExit | EveryExit,
    batch: TaskBatch,
    lengths: Tensor,
    names: Sequence[str] = ("logits",),
) -> list[Tensor]:
    """The outputs of a model for a batch.

    Args:
        model: a model with a task's head, perhaps with exits.
        batch: a packed batch.
        lengths: (R,), or (R, C) for questions of C choices each.
        names: names of the outputs to return, one for each row or one for each token.
    """
    ids, types = batch.input_ids, batch.token_type_ids
    filler = _filler(model, len(ids))
    rows, tokens = len(lengths), len(ids)
    if filler:  # one more row, which no other sees
        ids, types = (torch.cat([x, x.new_zeros(filler)]) for x in (ids, types))
        lengths = torch.cat([lengths, torch.full_like(lengths[:1], filler)])
    has_types = model.base.embeddings.token_type is not None
    found = model(ids, None, types if has_types else None, lengths=lengths)
    values = [getattr(found, name) for name in names]
    return [value[: rows if len(value) == len(lengths) else tokens] for value in values]


def _filler(model: PretrainedModel | EarlyExit | EveryExit, tokens: int) -> int:
    """The number of tokens to add to reach a round number.

    For every new number of tokens, oneDNN prepares its products in bfloat16 anew, for 10 to 30 ms
    of a step, and keeps a thousand of them, for a gigabyte of memory.
    """
    if model.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return 0
    missing = -tokens % ROUND
    return missing if missing <= model.config.max_position_embeddings else 0


def split_packed(batch: Batch) -> list[Joined]:
    """The texts of a packed batch one by one, where [CLS] is all that stands before them."""
    ends = batch["lengths"].cumsum(0).numpy()[:-1]
    parts = (np.split(batch[name].numpy(), ends) for name in ("input_ids", "token_type_ids"))
    return [Joined(ids, types, (1, 1)) for ids, types in zip(*parts, strict=True)]


def as_rows(values: Tensor, lengths: Tensor) -> Tensor:
    """Packed to padded rows: (N, ...) -> (B, longest, ...), padded with the lowest value."""
    rows = torch.arange(len(lengths), device=values.device).repeat_interleave(lengths)
    begins = (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
    columns = torch.arange(len(values), device=values.device) - begins
    shape = (len(lengths), int(lengths.max()), *values.shape[1:])
    filled = values.new_full(shape, torch.finfo(values.dtype).min)
    return filled.index_put((rows, columns), values)


def softmax(logits: Floats) -> Doubles:
    """(..., C) probabilities."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    result: Doubles = shifted / shifted.sum(axis=-1, keepdims=True)
    return result
