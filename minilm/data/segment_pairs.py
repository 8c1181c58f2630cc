"""Pairs of segments: are they in order (ALBERT), does the second follow the first (BERT)?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from minilm.data.batches import PackedSamples, SentenceTask, TokenBatch, token_batch
from minilm.data.masked_lm import EVALUATION_SEED, evaluation_steps
from minilm.data.randomness import Stream, generator
from minilm.data.sequences import check_documents, check_ids, check_samples
from minilm.errors import DataError, InputError
from minilm.files.arrays import Integers
from minilm.losses.heads import IGNORED_LABEL

if TYPE_CHECKING:
    from minilm.data.token_store import TokenStore

PairMode = Literal["pure", "google"]

SPECIAL = 3  # [CLS], [SEP] and [SEP]
_DOCUMENT = 1 << 24  # a sample's key: its document times this, plus its place in the document


class SegmentPairs:
    """The samples of ALBERT's and BERT's pretraining: [CLS] A [SEP] B [SEP].

    A document is read from its beginning. Sentences are collected until they have as many tokens as
    a sample may have (a document in ten has a smaller number, drawn for it); the first few of them,
    how many is drawn, become segment A, the others B. Then

    * "sentence_order": with probability 1/2 the two are swapped (label 1);
    * "next_sentence": with probability 1/2 sentences from a random other document take B's place
      (label 1), and B's own are read again for the next sample.

    A pair that is too long loses tokens, one at a time, always of the longer segment, at its front
    or at its back. Which pairs there are depends on (seed, epoch, document) alone.

    A single sentence makes no pair. In "pure" mode at least two sentences are collected, however
    long the first one is, and the last sentence of a document is left out if it is alone. In
    "google" mode, as in the released code of both models, a single sentence gets a random partner
    and the label 1: of sentence-order samples a few are then next-sentence samples in truth.
    "next_sentence" does so in both modes.

    Differs from the released code, where a run of one program makes all epochs' pairs in advance,
    from one sequence of random numbers.

    Args:
        store: where the documents are.
        task: what the label says.
        mode: of "sentence_order", see above.
        max_length: longest sample in tokens, special ones counted.
        documents: which documents; None = all. Random partners are among them, too.
        short_probability: of a document whose samples are to have only 2 to `max_length` - 3
            ordinary tokens, how many is drawn.
        min_length: shorter samples are left out; special tokens counted.

    Raises:
        InputError: an argument is out of range.
        DataError: random partners are needed and there is one document only.

    References:
        Lan et al. 2020, section 3.1; Devlin et al. 2019, section 3.1 and appendix A.2;
        create_pretraining_data.py of google-research/albert and google-research/bert.
    """

    def __init__(
        self,
        store: TokenStore,
        *,
        task: SentenceTask,
        mode: PairMode = "pure",
        max_length: int,
        documents: range | None = None,
        short_probability: float = 0.1,
        min_length: int = 12,
    ) -> None:
        documents = range(store.num_documents) if documents is None else documents
        _check(store, task, mode, max_length, documents, short_probability, min_length)
        tokenizer = store.tokenizer()
        self.store = store
        self.vocab_size = store.vocab_size
        self.cls_id, self.sep_id = tokenizer.cls_token_id, tokenizer.sep_token_id
        self.sentence_task: SentenceTask | None = task
        self._swaps = task == "sentence_order"
        self._pure = self._swaps and mode == "pure"
        self._documents = documents
        self._room = max_length - SPECIAL
        self._short_probability = short_probability
        self._min_length = min_length
        self._lock = Lock()
        self._table = lru_cache(2)(self._make_table)  # an epoch may end while another begins
        self.fingerprint: dict[str, Any] = {
            "store": store.fingerprint,
            "documents": [documents.start, documents.stop],
            "task": task,
            "mode": mode,
            "max_length": max_length,
            "short_probability": short_probability,
            "min_length": min_length,
        }
        if not self._pure and len(documents) < 2:
            raise DataError(
                f"{store.path}: {task} in {mode} mode takes segments from other documents, but "
                f"there is only {len(documents)} to choose from. Use more documents."
            )

    def samples(self, seed: int, epoch: int) -> PairSamples:
        """The pairs of an epoch.

        Raises:
            DataError: there are none.
        """
        return self._samples(seed, Stream.SEGMENTS, epoch)

    def fixed(self, seed: int) -> PairSamples:
        """Pairs for evaluation, drawn once and for all from a stream of their own.

        Raises:
            DataError: there are none.
        """
        return self._samples(seed, Stream.EVALUATION_SEGMENTS)

    def _samples(self, seed: int, *key: int) -> PairSamples:
        with self._lock:  # lest two threads make the same table
            return self._table(seed, key)

    def _make_table(self, seed: int, key: tuple[int, ...]) -> PairSamples:
        parts = [
            self._pairs_of(document, generator(seed, *key, document))
            for document in self._documents
        ]
        table = np.concatenate([np.empty((0, 6), np.int64), *parts])
        if not len(table):
            raise DataError(
                f"{self.store.path}: documents {self._documents.start} to {self._documents.stop} "
                f"give no pair of at least min_length={self._min_length} tokens. Do their "
                "documents have more than one sentence?"
            )
        return PairSamples(self, table)

    def _pairs_of(self, document: int, random: np.random.Generator) -> Integers:
        """(pairs, 6): begin and end of the first segment and of the second, label, key."""
        target = self._room
        if random.random() < self._short_probability:
            target = int(random.integers(2, self._room, endpoint=True))
        starts = self.store.sentences(document)  # (n + 1,) in tokens
        first = np.arange(len(starts) - 1)
        cut, chance = random.random((2, len(first)))

        # for each sentence: what would be done if a sample began with it
        stop = np.searchsorted(starts, starts[:-1] + target)
        if self._pure:
            stop = np.maximum(stop, first + 2)
        stop = np.minimum(stop, len(first))
        single = stop == first + 1
        middle = first + 1 + (cut * (stop - first - 1)).astype(np.int64)  # where B begins
        label = chance < 0.5
        foreign = single & (not self._pure) if self._swaps else single | label
        following = np.where(foreign, middle, stop).tolist()

        begun = [0]
        while (begin := following[begun[-1]]) < len(first):
            begun.append(begin)
        chosen = np.array(begun)
        keys = document * _DOCUMENT + np.arange(len(chosen))
        if self._pure:
            kept = ~single[chosen]
            chosen, keys = chosen[kept], keys[kept]

        one = np.stack([starts[chosen], starts[middle[chosen]]])  # begins and ends of A
        two = np.stack([starts[middle[chosen]], starts[stop[chosen]]])
        for place in np.flatnonzero(foreign[chosen]):
            length = int(one[1, place] - one[0, place])
            two[:, place] = self._elsewhere(document, target - length, random)
        label = (label | foreign)[chosen]
        swapped = label & ~foreign[chosen] & self._swaps
        one, two = np.where(swapped, two, one), np.where(swapped, one, two)
        self._truncate(one, two, random)
        table: Integers = np.stack([*one, *two, label, keys], axis=1)
        long_enough = _lengths(table) >= self._min_length
        return np.compress(long_enough, table, axis=0)

    def _elsewhere(
        self, document: int, tokens: int, random: np.random.Generator
    ) -> tuple[int, int]:
        """Sentences of a random other document, from a random one on, until there are enough."""
        other = self._documents.start + int(random.integers(len(self._documents) - 1))
        starts = self.store.sentences(other + (other >= document))
        begin = starts[random.integers(len(starts) - 1)]
        enough = min(int(np.searchsorted(starts, begin + max(tokens, 1))), len(starts) - 1)
        return int(begin), int(starts[enough])

    def _truncate(self, one: Integers, two: Integers, random: np.random.Generator) -> None:
        """Shortens pairs that are too long, in place.

        Where they end up is what taking single tokens from the longer one (of equal ones from the
        second) leads to; each of them is taken from the front with probability 1/2.
        """
        lengths = one[1] - one[0], two[1] - two[0]
        most = np.minimum(lengths[0], np.maximum(self._room - lengths[1], (self._room + 1) // 2))
        fits = lengths[0] + lengths[1] <= self._room
        kept_one = np.where(fits, lengths[0], most)
        kept_two = np.minimum(lengths[1], self._room - kept_one)
        for segment, kept in ((one, kept_one), (two, kept_two)):
            segment[0] += random.binomial(segment[1] - segment[0] - kept, 0.5)
            segment[1] = segment[0] + kept


@dataclass(frozen=True, eq=False)
class PairSamples:
    """The pairs of an epoch.

    Attributes:
        pairs: where they come from.
        table: (N, 6), for every pair begin and end of its segments in the store, label, key.
    """

    pairs: SegmentPairs
    table: Integers

    @property
    def lengths(self) -> Integers:
        """(N,) tokens of each pair, special ones counted."""
        return _lengths(self.table)

    @property
    def keys(self) -> Integers:
        """(N,) a number for each pair, made of its document and its place there."""
        return self.table[:, 5]

    def gather(self, samples: Integers) -> PackedSamples:
        """Reads pairs in a row.

        Args:
            samples: (B,) numbers of pairs.

        Raises:
            InputError: there is no such pair.
            DataError: the store is damaged.
        """
        check_samples(samples, len(self.table))
        rows = self.table[samples]
        lengths = _lengths(rows)
        total = int(lengths.sum())
        ids, types = np.empty(total, np.int64), np.ones(total, np.int64)
        at = 0
        tokens = self.pairs.store.tokens
        for begin, end, other_begin, other_end in rows[:, :4].tolist():
            middle = at + end - begin + 2  # after the first [SEP]
            stop = middle + other_end - other_begin + 1
            ids[at] = self.pairs.cls_id
            ids[at + 1 : middle - 1] = tokens(begin, end)
            ids[middle - 1] = ids[stop - 1] = self.pairs.sep_id
            ids[middle : stop - 1] = tokens(other_begin, other_end)
            types[at:middle] = 0
            at = stop
        check_ids(ids, self.pairs.store)
        return PackedSamples(ids, lengths, types, rows[:, 4])


def _lengths(table: Integers) -> Integers:
    lengths: Integers = table[:, 1] - table[:, 0] + table[:, 3] - table[:, 2] + SPECIAL
    return lengths


def pair_evaluation_batches(
    pairs: SegmentPairs,
    *,
    tokens_per_batch: int,
    seed: int = EVALUATION_SEED,
    limit_tokens: int | None = None,
) -> list[TokenBatch]:
    """Batches of held-out pairs with their labels, nothing masked; the same in every run.

    Args:
        pairs: of held-out documents.
        tokens_per_batch, seed, limit_tokens: as for `evaluation_batches`.

    Raises:
        DataError: there are no pairs.
    """
    found = pairs.fixed(seed)
    batches = []
    for samples in evaluation_steps(found.lengths, tokens_per_batch, seed, limit_tokens):
        packed = found.gather(samples)
        labels = np.full(len(packed.ids), IGNORED_LABEL)
        batches.append(token_batch(samples, packed, packed.ids, labels, pairs.sentence_task))
    return batches


def _check(
    store: TokenStore,
    task: str,
    mode: str,
    max_length: int,
    documents: range,
    short_probability: float,
    min_length: int,
) -> None:
    if task not in ("sentence_order", "next_sentence"):
        raise InputError(f"task is {task!r}: expected 'sentence_order' or 'next_sentence'.")
    if mode not in ("pure", "google"):
        raise InputError(f"mode is {mode!r}: expected 'pure' or 'google'.")
    if max_length < SPECIAL + 2:
        raise InputError(
            f"max_length is {max_length}; [CLS] a [SEP] b [SEP] need at least {SPECIAL + 2}."
        )
    if not 0 <= short_probability <= 1 or math.isnan(short_probability):
        raise InputError(
            f"short_probability is {short_probability!r}; expected a number from 0 to 1."
        )
    if not 0 <= min_length <= max_length:
        raise InputError(f"min_length is {min_length}; expected 0 to max_length={max_length}.")
    check_documents(documents, store)
