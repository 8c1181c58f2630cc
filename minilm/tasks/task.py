"""What a task is.

    records -> examples -> samples -> batches -> logits -> outputs -> predictions -> scores

Records are dictionaries, read from a file or given. A task checks them and makes *examples*, in its
own words; an example becomes one or several *samples* (windows of a long text), a sample one or
several *rows* of tokens (the choices of a question). Batches of samples go through the model
without padding. What comes out goes the way back: outputs of samples to one *prediction* for each
example, a dictionary that is JSON, and predictions to scores.

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
        label: whatever the task makes of the label; None without one.
        decode_info: what the task needs to decode the outputs of this sample.
        known: False = nobody said what is right: `label` is a stand-in, see `Task.without_label`.
    """

    example: int
    rows: tuple[Joined, ...]
    label: Any = None
    decode_info: Any = None
    known: bool = True

    @property
    def tokens(self) -> int:
        """Of all rows."""
        return sum(len(row.ids) for row in self.rows)


@dataclass(frozen=True, eq=False)
class TaskBatch:
    """Samples of a task, packed.

    Attributes:
        samples: (B,) their numbers.
        input_ids: (T,) int64, all rows in a line.
        token_type_ids: (T,) int64.
        lengths: (R,) int64 tokens of each row; they sum to T.
        rows: (B,) int64 rows of each sample; they sum to R.
        labels: of the task's own shape; None without labels.
        known: (B,) bool, which samples have labels that somebody gave; those of the others are
            stand-ins. None = all of them.
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
        """T."""
        return self.input_ids.shape[0]

    @property
    def known_tokens(self) -> Tensor | None:
        """(T,) bool, which tokens are of samples with labels; None = all of them."""
        if self.known is None:
            return None
        rows = self.known.repeat_interleave(self.rows)  # (R,)
        return rows.repeat_interleave(self.lengths)

    def count_known(self) -> int:
        """How many samples have labels."""
        return len(self.samples) if self.known is None else int(self.known.sum())

    def whole(self) -> TaskBatch:
        """The same batch with all its predictions, as a teacher makes them."""
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
        name: for the log, and of what they are counted as.
        kind: see `minilm.losses.soft_targets`.
        logits: (N, C).
        labels: see `label_loss`; None without labels.
        weight: of their mean in the loss.
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
    """One kind of question to a model. Instances know their labels.

    Args:
        labels: their names, in the order of the head's outputs.
        max_length: longest row in tokens, special ones included.

    Class attributes:
        name: as in `minilm finetune --task`.
        head: the end of the name of the model classes that have the head for it.
        metric: the score by which the best evaluation is chosen.
        best_score: its highest value.
        parts: the names of the terms of the loss.
        option_names: what `learn` takes as options, beside those that name columns.
        threshold_names: attributes that decide between answers: with the lowest and the highest
            value of each. They are stored with the model.
        fields: what is read of a record.
        of_examples: there is one prediction for each example, whatever its tokens, so that a model
            with another vocabulary can make the same ones.

    Attributes:
        tune_thresholds: fine-tuning sets them to what is best for the dev records.
        chosen: columns that the user named, by field.
        known: columns that training read, by field.
        texts: how many texts training records had, 1 or 2 or both; () = not known, or no pairs.
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
        """Which columns of training records are read as what; for `learn`."""
        chosen = chosen_columns(cls.fields, options, cls.name)
        return Layouts(records, cls.fields, chosen=chosen, labelled=True)

    def layouts(self, records: Sequence[Mapping[str, Any]], *, labelled: bool) -> Layouts:
        """Which columns of these records are read as what."""
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
        """This task, which knows what training read, for records to come."""
        if (common := layouts.common()) is not None:
            self.known, self.texts = common.columns, layouts.texts()
        return self

    def remember(self, settings: Mapping[str, Any]) -> Self:
        """This task, which knows what training read.

        Args:
            settings: as `settings` gives them.

        Raises:
            TypeError, ValueError: they are not.
        """
        self.known = {
            str(name): tuple(map(str, columns))
            for name, columns in dict(settings.get("fields", {})).items()
        }
        self.texts = tuple(map(int, settings.get("texts", ())))
        return self

    def note(self, *texts: str) -> None:
        """Something that the user should know of the records."""
        self._notes += [text for text in texts if text not in self._notes]

    def take_notes(self) -> list[str]:
        """What is to be said of the records that were read since the last call."""
        notes, self._notes = self._notes, []
        return notes

    @classmethod
    @abstractmethod
    def learn(
        cls, records: Sequence[Mapping[str, Any]], max_length: int, options: Mapping[str, Any]
    ) -> Self:
        """The task that training records describe: it finds the labels in them.

        Args:
            records: of training.
            max_length: longest row in tokens.
            options: of this task; see each task's `options`.

        Raises:
            DataError: a record without what the task needs, or nothing to tell apart.
        """

    @classmethod
    @abstractmethod
    def restore(cls, labels: Sequence[str], settings: Mapping[str, Any]) -> Self:
        """The task of a checkpoint.

        Args:
            labels: by number, from its config.json.
            settings: what `settings` gave, or less: a checkpoint from elsewhere has none.
        """

    def settings(self) -> dict[str, Any]:
        """JSON values that `restore` needs beside the labels."""
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
            values: by name; other names, and thresholds that are None, are left alone.

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
        """Checks records and puts them into the task's words.

        Args:
            records: of any kind of sequence.
            skips: what to do with bad ones.
            labelled: labels are needed; otherwise they may be missing.
        """

    @abstractmethod
    def samples(self, examples: Sequence[Example], tokenizer: Tokenizer) -> list[Sample]:
        """What the model sees of examples, in their order; at least one sample for each."""

    def unknown(self, examples: Sequence[Example]) -> Counter[str]:
        """How often examples have which labels that training did not have."""
        return Counter()

    def is_truncated(self, sample: Sample) -> bool:
        """Whether tokens of the example are in no sample; never where windows cover it."""
        return False

    def truncated(self, samples: Sequence[Sample]) -> int:
        """How many examples lost tokens for good."""
        return len({sample.example for sample in samples if self.is_truncated(sample)})

    @property
    def limit(self) -> int:
        """The tokens at which an example is cut."""
        return self.max_length

    @abstractmethod
    def labels_of(self, samples: Sequence[Sample]) -> Tensor:
        """The labels of a batch, of samples that have some."""

    @abstractmethod
    def without_label(self, sample: Sample) -> Any:
        """A label that says where the predictions of a sample are, and not what is right."""

    def unlabelled(self, samples: Sequence[Sample]) -> list[Sample]:
        """Samples without labels, for learning from a teacher alone."""
        return [
            replace(sample, label=self.without_label(sample), known=False) for sample in samples
        ]

    def logits(self, model: PretrainedModel, batch: TaskBatch) -> Tensor:
        """What the model gives: (B, C), (T, C) or, for spans, (T, 2)."""
        return run_model(model, batch, batch.lengths)[0]

    @abstractmethod
    def counts(self, batch: TaskBatch) -> dict[str, int]:
        """How many predictions with a label each term of a batch has, by its name."""

    @abstractmethod
    def terms(self, logits: Tensor, batch: TaskBatch) -> list[Term]:
        """The predictions that are learned from."""

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
        """One prediction for each example, of JSON values."""

    @abstractmethod
    def scores(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> Scores:
        """How good predictions are: floats, and tables of them. Examples must have labels."""

    def tune(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> Self:
        """The task with its thresholds set to what is best for these predictions.

        Args:
            examples: with labels.
            predictions: made by a task without thresholds, see `without_thresholds`.
        """
        return self

    def without_thresholds(self) -> Self:
        """The task that gives its likeliest answer whatever its confidence."""
        return self

    def classes_of(self, layout: Layout, record: Mapping[str, Any]) -> tuple[set[str], set[str]]:
        """The classes that a labelled record names: that of the whole, if it has one, and others.

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
            samples: of training.

        Returns:
            For every term of the loss (C,), see `minilm.losses.soft_targets.label_loss`.

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
        task: whose they are.
        samples: all of them.
        numbers: (B,) which of them, at least one.
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
    """What the model gives for a batch.

    Args:
        model: with a task's head, and perhaps with exits.
        batch: packed.
        lengths: (R,), or (R, C) for questions of C choices each.
        names: of the outputs that are wanted, one for each row or one for each token.
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
    """How many tokens are missing to a round number.

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
    """From a line to rows: (N, ...) -> (B, longest, ...), the smallest number where nothing is."""
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
