"""Documents of a token store, cut into sequences of at most `max_length` tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from minilm.data.batches import PackedSamples, SentenceTask
from minilm.errors import DataError, InputError, argument
from minilm.files.arrays import Integers

if TYPE_CHECKING:
    from minilm.data.token_store import TokenStore


SPECIAL = 2  # [CLS] and [SEP]
_BLOCK = 1 << 24  # tokens examined at once


class Sequences:
    """The samples of masked-LM training: [CLS], a chunk of one document, [SEP].

    A document gives chunks of `max_length - 2` tokens, the last one shorter; no sequence spans two
    documents. Short sequences and those full of unknown tokens are left out. The cuts are made
    once, from the store's offsets; tokens are read when a sequence is requested. Threads may share
    an object.

    Args:
        store: the token store.
        max_length: longest sequence in tokens, [CLS] and [SEP] included.
        documents: which documents; None = all. Two ranges that do not overlap have no text in
            common.
        min_length: shorter sequences are left out; in tokens, [CLS] and [SEP] included.
        max_unknown: a sequence is left out if this fraction of its tokens ([CLS] and [SEP]
            included) or more is unknown; 1 keeps all.

    Attributes:
        lengths: (samples,) number of tokens of each sequence, [CLS] and [SEP] included; read-only.
        keys: (samples,) the numbers of the sequences; read-only.
        vocab_size: vocabulary size of the store.

    Raises:
        DataError: no sequence is left.
        InputError: an argument is out of range.

    References:
        Sanh et al. 2019; the rules and their defaults are those of the released
        distillation/lm_seqs_dataset.py.
    """

    def __init__(
        self,
        store: TokenStore,
        *,
        max_length: int,
        documents: range | None = None,
        min_length: int = 12,
        max_unknown: float = 0.5,
    ) -> None:
        documents = range(store.num_documents) if documents is None else documents
        _check(store, max_length, documents, min_length, max_unknown)
        tokenizer = store.tokenizer()
        self._cls_id, self._sep_id = tokenizer.cls_token_id, tokenizer.sep_token_id
        self._store = store
        self.vocab_size = store.vocab_size
        self.sentence_task: SentenceTask | None = None
        self.drawn_anew = False
        self.num_blocks = 1
        self.fingerprint: dict[str, Any] = {
            "store": store.fingerprint,
            "documents": [documents.start, documents.stop],
            "max_length": max_length,
            "min_length": min_length,
            "max_unknown": max_unknown,
        }
        bounds = store.document_starts[documents.start : documents.stop + 1]
        begins, sizes = _cut(bounds, max_length - SPECIAL)
        lengths = sizes + SPECIAL
        kept = lengths >= min_length
        if max_unknown < 1:
            unknown = _count(store, tokenizer.unk_token_id, begins, bounds)
            kept &= unknown < max_unknown * lengths
        self._begins, self.lengths = begins[kept], lengths[kept]
        self.keys = np.arange(len(self.lengths))
        self.lengths.flags.writeable = self.keys.flags.writeable = False
        self.no_samples = (
            f"{store.path}: documents {documents.start} to {documents.stop} give no sequence of at "
            f"least min_length={min_length} tokens of which less than max_unknown={max_unknown:g} "
            f"are unknown ({len(lengths):,} were looked at). Is the text in the tokenizer's "
            "language and one document a paragraph or more?"
        )
        if not len(self):
            raise DataError(self.no_samples)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, sample: int) -> Integers:
        """(n,) the ids of one sequence, with [CLS] and [SEP]."""
        return self.gather(np.array([sample])).ids

    def __iter__(self) -> Iterator[Integers]:
        return (self[sample] for sample in range(len(self)))

    def block(self, seed: int, epoch: int, number: int) -> Sequences:
        """Returns this object: its sequences are one block, the same in every epoch."""
        return self

    def gather(self, samples: Integers) -> PackedSamples:
        """Reads sequences, one after another.

        Args:
            samples: (B,) numbers of sequences.

        Raises:
            InputError: there is no such sequence.
            DataError: the store is damaged.
        """
        check_samples(samples, len(self))
        lengths = self.lengths[samples]
        ends = lengths.cumsum()
        begins = self._begins[samples]
        ids = np.empty(int(lengths.sum()), dtype=np.int64)
        ids[ends - lengths] = self._cls_id
        ids[ends - 1] = self._sep_id
        stops = begins + lengths - SPECIAL
        for begin, stop, end in zip(begins.tolist(), stops.tolist(), ends.tolist(), strict=True):
            ids[end - 1 - (stop - begin) : end - 1] = self._store.tokens(begin, stop)
        check_ids(ids, self._store)
        return PackedSamples(ids, lengths)


def check_samples(samples: Integers, count: int) -> None:
    """Raises InputError unless all samples are numbers below `count`."""
    if samples.size and not 0 <= samples.min() <= samples.max() < count:
        raise InputError(
            f"samples go from 0 to {count - 1}, not from {samples.min()} to {samples.max()}."
        )


def check_ids(ids: Integers, store: TokenStore) -> None:
    """Raises DataError for ids that the store's vocabulary does not have."""
    if ids.max(initial=0) >= store.vocab_size:
        raise DataError(
            f"{store.path} is damaged: it holds the token {ids.max()}, but its vocabulary has "
            f"{store.vocab_size} tokens. Tokenize the corpus again."
        )


def check_documents(documents: range, store: TokenStore) -> None:
    """Raises InputError unless the store has all these documents."""
    if documents.step != 1 or not 0 <= documents.start <= documents.stop <= store.num_documents:
        raise InputError(
            f"documents is {documents!r}; {store.path} has the documents "
            f"{range(store.num_documents)!r}, and a part of it has the step 1."
        )


def _check(
    store: TokenStore, max_length: int, documents: range, min_length: int, max_unknown: float
) -> None:
    if max_length <= SPECIAL:
        raise InputError(
            f"{argument('max_length')} is {max_length}; [CLS], one token and [SEP] need "
            f"at least {SPECIAL + 1}."
        )
    if not SPECIAL < min_length <= max_length:
        raise InputError(
            f"min_length is {min_length}; with [CLS] and [SEP] it must be from {SPECIAL + 1} to "
            f"max_length={max_length}."
        )
    if not 0 < max_unknown <= 1:
        raise InputError(f"max_unknown is {max_unknown!r}; expected a fraction above 0, at most 1.")
    check_documents(documents, store)


def _cut(bounds: Integers, size: int) -> tuple[Integers, Integers]:
    """The start of each chunk of documents, and its number of tokens.

    Args:
        bounds: (documents + 1,) the start of each document, and the end of the last one.
        size: number of tokens of a full chunk.
    """
    starts, stops = bounds[:-1], bounds[1:]
    chunks = -((starts - stops) // size)  # of each document, rounded up
    first = np.repeat(chunks.cumsum() - chunks, chunks)
    begins = np.repeat(starts, chunks) + size * (np.arange(len(first)) - first)
    return begins, np.minimum(size, np.repeat(stops, chunks) - begins)


def _count(store: TokenStore, token: int, begins: Integers, bounds: Integers) -> Integers:
    """How often a token occurs in each chunk of consecutive documents."""
    counts = np.zeros(len(begins), dtype=np.int64)
    stop = int(bounds[-1])
    for begin in range(int(bounds[0]), stop, _BLOCK):
        found = np.flatnonzero(store.tokens(begin, min(begin + _BLOCK, stop)) == token) + begin
        chunk = np.searchsorted(begins, found, side="right") - 1
        counts += np.bincount(chunk, minlength=len(begins))
    return counts
