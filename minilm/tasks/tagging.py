"""A label for every word: named entities, parts of speech, slots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from minilm.data.records.base import RecordError, Skips
from minilm.data.records.tag_schemes import Scheme, scheme_of, to_iob2
from minilm.errors import DataError, InputError
from minilm.files.arrays import Floats, Integers
from minilm.losses.elementary import IGNORED_LABEL
from minilm.metrics.classification import accuracy
from minilm.metrics.entities import entities, entity_scores
from minilm.tasks.balance import weights_of_classes
from minilm.tasks.fields import checked, find, label_number, need, text_of
from minilm.tasks.task import Prediction, Sample, Scores, Task, TaskBatch, Term, softmax
from minilm.tasks.windows import cut, max_context_window
from minilm.tasks.words import word_spans
from minilm.tokenization.tokenizer import Tokenizer

OUTSIDE = "O"
OVERLAP = 4  # windows begin a quarter of their room before the last one ends


@dataclass(frozen=True)
class WordsExample:
    """A text as words, with their labels.

    Attributes:
        text: what the words are parts of.
        spans: where each word is in it.
        tags: the label of each word; None = not known.
        intent: of an utterance; see `minilm.tasks.utterances`.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    tags: tuple[str, ...] | None = None
    intent: str | None = None

    @property
    def words(self) -> list[str]:
        """The words themselves."""
        return [self.text[start:end] for start, end in self.spans]


@dataclass(frozen=True)
class WordWindow:
    """Which words a window decides about.

    Attributes:
        words: (n,) their numbers.
        tokens: (n,) the first token of each, counted within the row.
        first: it is the first window of its example.
    """

    words: Integers
    tokens: Integers
    first: bool


class Tagging(Task[WordsExample]):
    """A label for each word.

    The label belongs to a word's first token, the others have none. A sentence that is too long is
    cut into windows that overlap; a word is learned and predicted where it has the most context, so
    exactly once. Tags with B- and I- are entities: every scheme is read as IOB2, and predictions
    are IOB2.

    A record has "tokens" and "tags", or, for predictions, a "text", which is split into words and
    signs of punctuation.
    """

    name: ClassVar[str] = "tagging"
    head: ClassVar[str] = "ForTokenClassification"
    metric: ClassVar[str] = "f1"
    parts: ClassVar[tuple[str, ...]] = ("tag",)

    def __init__(self, labels: Sequence[str], max_length: int) -> None:
        super().__init__(labels, max_length)
        self.has_entities = any(label[:2] in ("B-", "I-") for label in self.labels)

    @classmethod
    def learn(
        cls, records: Sequence[Mapping[str, Any]], max_length: int, options: Mapping[str, Any]
    ) -> Self:
        return cls(tag_order(tags_in(records)), max_length)

    @classmethod
    def restore(cls, labels: Sequence[str], settings: Mapping[str, Any]) -> Self:
        return cls(labels, settings["max_length"])

    def examples(
        self, records: Sequence[Mapping[str, Any]], skips: Skips, *, labelled: bool
    ) -> list[WordsExample]:
        scheme = _scheme(records) if labelled and self.has_entities else None
        found = []
        for _, _, record, checking in checked(records, skips):
            with checking:
                found.append(self._example(record, scheme, labelled))
        return found

    def _example(
        self, record: Mapping[str, Any], scheme: Scheme | None, labelled: bool
    ) -> WordsExample:
        if not labelled and find(record, "tokens") is None:
            text = text_of(need(record, "text", "--text-column"), "text")
            return WordsExample(text, tuple(word_spans(text)))
        words = need(record, "tokens", "a list of words")
        if not isinstance(words, list | tuple) or not words:
            raise RecordError(
                f"tokens is {words!r:.60}, expected a list of at least one word.",
                reason="no list of words",
            )
        for word in words:
            text_of(word, "a word of tokens")
        ends = np.cumsum([len(word) + 1 for word in words]).tolist()
        spans = tuple((end - 1 - len(word), end - 1) for word, end in zip(words, ends, strict=True))
        tags = _tags_of(record, len(words), scheme) if labelled else None
        for tag in tags or ():
            label_number(tag, self.numbers)
        return WordsExample(" ".join(words), spans, tags)

    def samples(self, examples: Sequence[WordsExample], tokenizer: Tokenizer) -> list[Sample]:
        if not examples:
            return []
        room = self.max_length - tokenizer.num_special_tokens()
        if room < 1:
            raise InputError(f"max_length is {self.max_length}: there is no room for any token.")
        samples = []
        for number, (example, pieces) in enumerate(
            zip(examples, tokenizer.pieces([e.text for e in examples]), strict=True)
        ):
            firsts = _first_tokens(example.spans, pieces.offsets)  # (words,), -1 = none
            windows = cut(len(pieces.ids), room, max(1, room - room // OVERLAP))
            window_of = np.array(max_context_window(windows, len(pieces.ids)), np.int64)
            for part, window in enumerate(windows):
                row = tokenizer.join(pieces.ids[window.start : window.end])
                words = np.flatnonzero(firsts >= 0)
                words = words[window_of[firsts[words]] == part]
                location = WordWindow(
                    words, firsts[words] - window.start + row.starts[0], part == 0
                )
                label = None
                if example.tags is not None:
                    label = self._row_labels(example, location, len(row.ids))
                samples.append(Sample(number, (row,), label, location))
        return samples

    def _row_labels(self, example: WordsExample, location: WordWindow, length: int) -> Integers:
        labels = np.full(length, IGNORED_LABEL)
        assert example.tags is not None
        labels[location.tokens] = [self.numbers[example.tags[word]] for word in location.words]
        return labels

    def labels_of(self, samples: Sequence[Sample]) -> Tensor:
        return torch.from_numpy(np.concatenate([sample.label for sample in samples]))

    def class_weights(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        labels = np.concatenate([sample.label for sample in samples])
        return {"tag": weights_of_classes(labels[labels != IGNORED_LABEL], len(self.labels))}

    def counts(self, batch: TaskBatch) -> dict[str, int]:
        return {"tag": 0 if batch.labels is None else int((batch.labels != IGNORED_LABEL).sum())}

    def terms(self, logits: Tensor, batch: TaskBatch) -> list[Term]:
        assert batch.labels is not None
        where = (batch.labels != IGNORED_LABEL).nonzero()[:, 0]
        return [Term("tag", "classes", logits[where], batch.labels[where])]

    def outputs(self, logits: Tensor, batch: TaskBatch) -> list[Floats]:
        rows = torch.split(logits.float().cpu(), batch.lengths.tolist())
        return [row.numpy() for row in rows]

    def decode(
        self,
        examples: Sequence[WordsExample],
        samples: Sequence[Sample],
        outputs: Sequence[Floats],
    ) -> list[Prediction]:
        # a word without any token is what its neighbours make it
        tags: list[list[str]] = [[""] * len(example.spans) for example in examples]
        sure = [np.ones(len(example.spans)) for example in examples]
        for sample, output in zip(samples, outputs, strict=True):
            probabilities = softmax(self._tag_scores(output[sample.decode_info.tokens]))
            for word, row in zip(sample.decode_info.words, probabilities, strict=True):
                tags[sample.example][word] = self.labels[int(row.argmax())]
                sure[sample.example][word] = row.max()
        tags = [self._filled(found) for found in tags]
        return [self._prediction(*found) for found in zip(examples, tags, sure, strict=True)]

    def _filled(self, tags: Sequence[str]) -> list[str]:
        """The tags with those of words that the model did not see, which are "" here.

        Within an entity they are part of it, elsewhere outside.
        """
        nothing = OUTSIDE if OUTSIDE in self.numbers else self.labels[0]
        filled = list(tags)
        seen = [number for number, tag in enumerate(tags) if tag]
        for before, after in pairwise([-1, *seen, len(tags)]):
            within = False
            if self.has_entities and before >= 0 and after < len(tags):
                first, second = tags[before], tags[after]
                within = first != OUTSIDE and second[0] == "I" and first[2:] == second[2:]
            gap = after - before - 1
            filled[before + 1 : after] = [tags[after] if within else nothing] * gap
        return filled

    def _tag_scores(self, output: Floats) -> Floats:
        """The logits of tags among all logits."""
        return output

    def _prediction(
        self, example: WordsExample, tags: list[str], sure: np.ndarray[Any, Any]
    ) -> Prediction:
        prediction: Prediction = {"tokens": example.words, "tags": tags}
        if self.has_entities:
            prediction["entities"] = [
                {
                    "type": entity.type,
                    "text": example.text[start:end],
                    "start": start,
                    "end": end,
                    "confidence": float(sure[entity.start : entity.end].min()),
                }
                for entity in entities(tags)
                for start, end in [
                    (example.spans[entity.start][0], example.spans[entity.end - 1][1])
                ]
            ]
        return prediction

    def scores(self, examples: Sequence[WordsExample], predictions: Sequence[Prediction]) -> Scores:
        gold = [list(example.tags or ()) for example in examples]
        found = [prediction["tags"] for prediction in predictions]
        flat = [
            np.array([self.numbers[tag] for tags in side for tag in tags]) for side in (gold, found)
        ]
        scores: Scores = {"token_accuracy": accuracy(*flat)}
        if not self.has_entities:
            return {"f1": scores["token_accuracy"], **scores}
        entity = entity_scores(gold, found)
        return {
            "f1": entity.micro.f1,
            "precision": entity.micro.precision,
            "recall": entity.micro.recall,
            "macro_f1": entity.macro.f1,
            **scores,
            "classes": {name: asdict(part) for name, part in entity.types.items()},
        }


def _first_tokens(spans: Sequence[tuple[int, int]], offsets: Integers) -> Integers:
    """For every word the number of its first token; -1 if it has none."""
    starts = np.array([start for start, _ in spans])
    word = np.searchsorted(starts, offsets[:, 1] - 1, side="right") - 1  # of each token
    firsts = np.full(len(spans), -1)
    for token in range(len(offsets) - 1, -1, -1):
        begin, end = offsets[token]
        if word[token] >= 0 and begin < spans[word[token]][1] and begin < end:
            firsts[word[token]] = token
    return firsts


def _tags_of(record: Mapping[str, Any], words: int, scheme: Scheme | None) -> tuple[str, ...]:
    tags = need(record, "tags", "a list of labels")
    if not isinstance(tags, list | tuple) or not all(isinstance(tag, str | int) for tag in tags):
        raise RecordError(
            f"tags is {tags!r:.60}, expected a list of labels.", reason="no list of labels"
        )
    if len(tags) != words:
        raise RecordError(
            f"There are {words} tokens, but {len(tags)} tags.", reason="tokens and tags differ"
        )
    named = [str(tag) for tag in tags]
    try:
        return tuple(named if scheme is None else to_iob2(named, scheme))
    except InputError as problem:
        raise RecordError(str(problem), reason="malformed tag") from problem


def tags_in(records: Sequence[Mapping[str, Any]]) -> set[str]:
    """All labels of training records, in IOB2 if they are entities.

    Raises:
        DataError: there are fewer than two.
    """
    scheme = _scheme(records)
    labels: set[str] = set()
    for record in records:
        try:
            tags = find(record, "tags")
            labels.update(_tags_of(record, len(tags) if tags is not None else 0, scheme))
        except (RecordError, TypeError):  # `examples` will say so
            continue
    if len(labels) < 2:
        raise DataError(
            f"The training records have {len(labels)} labels ({', '.join(labels) or 'none'}) under "
            "'tags': there is nothing to tell apart."
        )
    return labels


def _scheme(records: Sequence[Mapping[str, Any]]) -> Scheme | None:
    """The scheme of the tags; None if they are not entities."""
    sequences = [
        [str(tag) for tag in tags]
        for record in records
        if isinstance(tags := find(record, "tags"), list | tuple)
    ]
    if not any(tag[:2] in ("B-", "I-", "E-", "S-") for tags in sequences for tag in tags):
        return None
    try:
        return scheme_of(sequences)
    except InputError:  # a malformed tag, which `examples` will complain about
        return "IOB2"


def tag_order(labels: set[str]) -> list[str]:
    """O first, then by type, B before I; every type has both."""
    types = {label[2:] for label in labels if label[:2] in ("B-", "I-")}
    labels = labels | {f"{letter}-{kind}" for letter in "BI" for kind in types}
    return sorted(labels, key=lambda label: (label != OUTSIDE, label[2:], label))
