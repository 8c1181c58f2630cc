"""A label for every word: named entities, parts of speech, slots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from minilm.data.records.base import RecordError, Skips
from minilm.data.records.tag_schemes import (
    Scheme,
    are_entities,
    canonical,
    scheme_of,
    to_iob2,
)
from minilm.errors import InputError, argument
from minilm.files.arrays import Floats, Integers
from minilm.files.progress import counted
from minilm.losses.elementary import IGNORED_LABEL
from minilm.metrics.classification import accuracy, precision_recall_f1
from minilm.metrics.entities import entities, entity_scores
from minilm.tasks.balance import weights_of_classes
from minilm.tasks.column_names import TAGS, TEXTS, WORDS
from minilm.tasks.fields import checked, class_names, in_order, labels_in, list_of, text_of
from minilm.tasks.layouts import Field, Layout, Layouts
from minilm.tasks.task import Prediction, Sample, Scores, Task, TaskBatch, Term, softmax
from minilm.tasks.windows import cut, max_context_window
from minilm.tasks.words import word_spans
from minilm.tokenization.tokenizer import Tokenizer

OUTSIDE = "O"
NO_TAG = ("", str(IGNORED_LABEL))  # of words that are neither learned nor scored
NO_ENTITY = ("X", "[PAD]")  # the same, among tags of entities
OVERLAP = 4  # windows begin a quarter of their room before the last one ends


@dataclass(frozen=True)
class WordsExample:
    """A text as words, with their labels.

    Attributes:
        text: the text that the words are parts of.
        spans: start and end of each word in it.
        tags: the label of each word; None = it has none, and is neither learned nor scored. None
            instead of a list = not given.
        intent: the intent of an utterance; see `minilm.tasks.utterances`.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    tags: tuple[str | None, ...] | None = None
    intent: str | None = None

    @property
    def words(self) -> list[str]:
        """The words themselves."""
        return [self.text[start:end] for start, end in self.spans]


@dataclass(frozen=True)
class WordWindow:
    """The words that a window decides about.

    Attributes:
        words: (n,) their numbers.
        tokens: (n,) position in the row of the first token of each.
        first: whether it is the first window of its example.
    """

    words: Integers
    tokens: Integers
    first: bool


class Tagging(Task[WordsExample]):
    """A label for each word.

    A word's first token has its label, the others have none. A sentence that is too long is cut
    into overlapping windows; a word is learned and predicted exactly once, in the window where it
    has the most context. Tags with the letters of a scheme (B, I, O, ...) are entities: every
    scheme is read as IOB2, and predictions are IOB2. They are scored as whole entities; all other
    tags, such as parts of speech, numbers, or types without letters, are scored word by word.

    A record has "tokens" and "tags", or, for predictions, a "text", which is split into words and
    signs of punctuation (`minilm.tasks.words`; give "tokens" where words have no blanks between
    them, as in Thai). A word whose tag is -100, None or empty has none; among tags of entities, "X"
    and "[PAD]" mean the same.
    """

    name: ClassVar[str] = "tagging"
    head: ClassVar[str] = "ForTokenClassification"
    metric: str = "f1"
    parts: ClassVar[tuple[str, ...]] = ("tag",)
    fields: ClassVar[tuple[Field, ...]] = (
        Field("tokens", WORDS, "text_column", kind="list"),
        Field("text", TEXTS, "text_column", several="first", kind="text"),
        Field("tags", TAGS, "label_column", several="first", kind="list", labelled=True),
    )

    def __init__(self, labels: Sequence[str], max_length: int) -> None:
        super().__init__(labels, max_length)
        tags = [label for label in self.labels if self._is_tag(label)]
        self.has_entities = are_entities(tags)
        self.tags = tuple(map(canonical, tags)) if self.has_entities and _all_read(tags) else tags
        # A checkpoint from elsewhere may mark ends, or have outputs that are no tags, such as
        # "[CLS]", which are outside of entities. What is learned here is IOB2.
        self.entity_tags = {tag: _tag_or_outside(tag) for tag in self.tags}
        self.marks_ends = self.has_entities and any(
            tag[:1] in ("E", "S") for tag in self.entity_tags.values()
        )
        self.tag_numbers = {tag: number for number, tag in enumerate(self.tags)}
        if not self.has_entities and self.metric == "f1":
            self.metric = "token_accuracy"

    def _is_tag(self, label: str) -> bool:
        """Whether an output of the head is a tag."""
        return True

    @classmethod
    def learn(
        cls, records: Sequence[Mapping[str, Any]], max_length: int, options: Mapping[str, Any]
    ) -> Self:
        layouts = cls.layouts_to_learn(records, options)
        task = cls(tags_in(records, layouts), max_length)
        return task.name_columns(options).read_from(layouts).note_tags()

    def note_tags(self) -> Self:
        """Notes how tags are scored, unless they are entities, and returns this task."""
        if not self.has_entities:
            what = "numbers without names" if _are_numbers(self.tags) else "without B- and I-"
            self.note(f"tags are {what}: they are scored word by word, not as entities")
        return self

    @classmethod
    def restore(cls, labels: Sequence[str], settings: Mapping[str, Any]) -> Self:
        return cls(labels, settings["max_length"])

    def examples(
        self, records: Sequence[Mapping[str, Any]], skips: Skips, *, labelled: bool
    ) -> list[WordsExample]:
        layouts = self.layouts(records, labelled=labelled)
        scheme = None
        if labelled and self.has_entities:
            scheme = _scheme(records, layouts) or "IOB2"
        found = []
        for _, _, record, checking in checked(records, skips):
            with checking:
                found.append(self._example(layouts.of(record), record, scheme, labelled))
        self.note(*layouts.describe())
        return found

    def _example(
        self, layout: Layout, record: Mapping[str, Any], scheme: Scheme | None, labelled: bool
    ) -> WordsExample:
        words = layout.get(record, "tokens")
        if isinstance(words, str) and words.strip().startswith("["):
            words = list_of(words)
        if not labelled and (
            words is None or (isinstance(words, str) and layout.columns["tokens"] != ("tokens",))
        ):
            text = text_of(words or layout.need(record, "text"), "text")
            return WordsExample(text, tuple(word_spans(text)))
        if words is None and isinstance(layout.get(record, "tags"), str):
            words = text_of(layout.need(record, "text"), "text").split()
        words = layout.need(record, "tokens") if words is None else words
        if not isinstance(words, list | tuple) or not words:
            raise RecordError(
                f"tokens is {words!r:.60}, expected a list of at least one word.",
                reason="no list of words",
            )
        for word in words:
            text_of(word, "a word of tokens")
        ends = np.cumsum([len(word) + 1 for word in words]).tolist()
        spans = tuple((end - 1 - len(word), end - 1) for word, end in zip(words, ends, strict=True))
        tags = _tags_of(layout, record, len(words), scheme) if labelled else None
        return WordsExample(" ".join(words), spans, tags)

    def classes_of(self, layout: Layout, record: Mapping[str, Any]) -> tuple[set[str], set[str]]:
        tags = _tags_of(layout, record, None, None)
        return set(), {tag for tag in tags if tag is not None}

    def unknown(self, examples: Sequence[WordsExample]) -> Counter[str]:
        return Counter(
            tag
            for example in examples
            for tag in example.tags or ()
            if tag is not None and tag not in self.tag_numbers
        )

    def samples(self, examples: Sequence[WordsExample], tokenizer: Tokenizer) -> list[Sample]:
        if not examples:
            return []
        room = self.max_length - tokenizer.num_special_tokens()
        if room < 1:
            raise InputError(
                f"{argument('max_length')} is {self.max_length}: there is no room for any token."
            )
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
        labels[location.tokens] = [
            IGNORED_LABEL if tag is None else self.tag_numbers.get(tag, IGNORED_LABEL)
            for tag in (example.tags[word] for word in location.words)
        ]
        return labels

    def labels_of(self, samples: Sequence[Sample]) -> Tensor:
        return torch.from_numpy(np.concatenate([sample.label for sample in samples]))

    def without_label(self, sample: Sample) -> Integers:
        labels = np.full(len(sample.rows[0].ids), IGNORED_LABEL)
        labels[sample.decode_info.tokens] = 0
        return labels

    def class_weights(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        labels = np.concatenate([sample.label for sample in samples])
        return {"tag": weights_of_classes(labels[labels != IGNORED_LABEL], len(self.labels))}

    def counts(self, batch: TaskBatch) -> dict[str, int]:
        if batch.labels is None:
            return {"tag": 0}
        tagged, known = batch.labels != IGNORED_LABEL, batch.known_tokens
        return {"tag": int((tagged if known is None else tagged & known).sum())}

    def terms(self, logits: Tensor, batch: TaskBatch) -> list[Term]:
        assert batch.labels is not None
        where = (batch.labels != IGNORED_LABEL).nonzero()[:, 0]
        known = batch.known_tokens
        known = None if known is None else known[where]
        return [Term("tag", "classes", logits[where], batch.labels[where], known=known)]

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
                tags[sample.example][word] = self.tags[int(row.argmax())]
                sure[sample.example][word] = row.max()
        tags = [self._filled(found) for found in tags]
        if self.marks_ends:
            tags = [to_iob2([self.entity_tags[tag] for tag in found], "BIOES") for found in tags]
        return [self._prediction(*found) for found in zip(examples, tags, sure, strict=True)]

    def _filled(self, tags: Sequence[str]) -> list[str]:
        """Fills in the tags of words that the model did not see, which are "" here.

        Within an entity they become part of it, elsewhere they are outside.
        """
        nothing = OUTSIDE if OUTSIDE in self.tag_numbers else self.tags[0]
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
                for entity in entities([self.entity_tags.get(tag, tag) for tag in tags])
                for start, end in [
                    (example.spans[entity.start][0], example.spans[entity.end - 1][1])
                ]
            ]
        return prediction

    def scores(self, examples: Sequence[WordsExample], predictions: Sequence[Prediction]) -> Scores:
        gold, found = [], []
        for example, prediction in zip(examples, predictions, strict=True):
            pairs = zip(example.tags or (), prediction["tags"], strict=True)
            scored = [(tag, guess) for tag, guess in pairs if tag is not None]
            gold.append([tag for tag, _ in scored])
            found.append([guess for _, guess in scored])
        seen = {tag for side in (gold, found) for tags in side for tag in tags}
        names = [*self.tags, *sorted(seen - set(self.tags))]
        numbers = {name: number for number, name in enumerate(names)}
        right, guessed = (
            np.array([numbers[tag] for tags in side for tag in tags]) for side in (gold, found)
        )
        scores: Scores = {"token_accuracy": accuracy(right, guessed)}
        if not self.has_entities:
            each = precision_recall_f1(right, guessed, len(names))
            return {
                **scores,
                "macro_f1": precision_recall_f1(right, guessed, len(names), "macro").f1,
                "classes": {name: asdict(part) for name, part in zip(names, each, strict=True)},
            }
        found = [[self.entity_tags.get(tag, tag) for tag in tags] for tags in found]
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


def _tags_of(
    layout: Layout, record: Mapping[str, Any], words: int | None, scheme: Scheme | None
) -> tuple[str | None, ...]:
    """The tags of a record, in IOB2 if they have a scheme; None where a word has none.

    Args:
        layout: layout of the record.
        record: a record with tags.
        words: number of its words; None = as many as tags.
        scheme: scheme of the tags; None = they are not entities.

    Raises:
        RecordError: there are no tags, too many or too few, or one is malformed.
    """
    tags = layout.need(record, "tags")
    if isinstance(tags, str) and layout.get(record, "tokens") is None:
        tags = tags.split()  # as many as the words of the text
    elif isinstance(tags, str) and tags.strip().startswith("["):
        tags = list_of(tags)
    if not isinstance(tags, list | tuple) or not all(
        isinstance(tag, str | int | None) and not isinstance(tag, bool) for tag in tags
    ):
        raise RecordError(
            f"tags is {tags!r:.60}, expected a list of labels.", reason="no list of labels"
        )
    if words is not None and len(tags) != words:
        raise RecordError(
            f"tokens and tags differ: {counted(words, 'token')}, {counted(len(tags), 'tag')}.",
            reason="tokens and tags differ",
        )
    given = [_tag_or_none(tag, scheme is not None) for tag in tags]
    if scheme is None:
        return tuple(given)
    try:  # words without a tag, such as later pieces of a word, are as if they were not there
        read = iter(to_iob2([tag for tag in given if tag is not None], scheme))
    except InputError as problem:
        raise RecordError(str(problem), reason="malformed tag") from problem
    return tuple(None if tag is None else next(read) for tag in given)


def _tag_or_none(tag: str | int | None, of_entities: bool) -> str | None:
    name = "" if tag is None else str(tag).strip()
    return None if name in NO_TAG or (of_entities and name in NO_ENTITY) else name


def tags_in(records: Sequence[Mapping[str, Any]], layouts: Layouts) -> list[str]:
    """All labels of training records in order, in IOB2 if they are entities.

    Raises:
        DataError: there are fewer than two, or no record can be used.
    """
    scheme = _scheme(records, layouts)

    def read(layout: Layout, record: Mapping[str, Any]) -> Iterator[str]:
        return (tag for tag in _tags_of(layout, record, None, scheme) if tag is not None)

    labels = labels_in(records, layouts, read, field="tags")
    names = class_names(records, layouts, "tags")
    wanted = tag_order(labels) if scheme else in_order(labels)
    if names is not None and set(names).issuperset(wanted):
        return names
    return sorted(wanted, key=lambda tag: tag != OUTSIDE)


def _scheme(records: Sequence[Mapping[str, Any]], layouts: Layouts) -> Scheme | None:
    """The scheme of the tags; None if they are not entities."""
    sequences = []
    for record in records:
        with suppress(RecordError):
            tags = _tags_of(layouts.of(record), record, None, None)
            sequences.append([tag for tag in tags if tag is not None])
    distinct = {tag for tags in sequences for tag in tags}
    if not distinct or not are_entities(distinct - set(NO_ENTITY)):
        return None
    try:
        return scheme_of([[tag for tag in tags if tag not in NO_ENTITY] for tags in sequences])
    except InputError:  # a malformed tag, which `examples` will complain about
        return "BIOES" if any(tag[:2] in ("E-", "S-", "L-", "U-") for tag in distinct) else "IOB2"


def tag_order(labels: set[str]) -> list[str]:
    """Tags of IOB2: O first, then by type, B before I; every type has both."""
    types = {label[2:] for label in labels if label != OUTSIDE}
    labels = labels | {f"{letter}-{kind}".rstrip("-") for letter in "BI" for kind in types}
    return sorted(labels, key=lambda label: (label != OUTSIDE, label[2:], label))


def _all_read(tags: Sequence[str]) -> bool:
    """Whether all outputs of a head can be read as tags."""
    try:
        return len(set(map(canonical, tags))) == len(tags)
    except InputError:
        return False


def _tag_or_outside(tag: str) -> str:
    try:
        return canonical(tag)
    except InputError:
        return OUTSIDE


def _are_numbers(tags: Sequence[str]) -> bool:
    return all(tag.removeprefix("-").isdecimal() for tag in tags)
