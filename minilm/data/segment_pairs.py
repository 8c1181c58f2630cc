"""Pairs of segments for sentence-order (ALBERT) and next-sentence prediction (BERT)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from minilm.data.batches import PackedSamples, SentenceTask, TokenBatch, token_batch
from minilm.data.masked_lm import EVALUATION_SEED, evaluation_steps
from minilm.data.randomness import Stream, TokenDraw, generator, heads
from minilm.data.sequences import check_documents, check_ids, check_samples
from minilm.errors import DataError, InputError, argument
from minilm.files.arrays import Doubles, Integers
from minilm.losses.elementary import IGNORED_LABEL

if TYPE_CHECKING:
    from minilm.data.token_store import TokenStore

PairMode = Literal["pure", "google"]

SPECIAL = 3  # [CLS], [SEP] and [SEP]
_DOCUMENT = 1 << 24  # a sample's key: its document times this, plus its place in the document
_BLOCK = 1 << 25  # tokens of the documents whose pairs are shuffled together, at least
_CHUNK = 1 << 20  # tokens of the documents whose pairs are made at once


class NoPairsError(DataError):
    """The documents give no pairs: there are too few of them, or too few sentences in them."""


class SegmentPairs:
    """The samples of ALBERT's and BERT's pretraining: [CLS] A [SEP] B [SEP].

    A document is read from its beginning. Sentences are collected until they have as many tokens as
    a sample may have (for one document in ten, a smaller number drawn for it); a random number of
    them, from the first on, become segment A, the others segment B. Then

    * "sentence_order": with probability 1/2 the two are swapped (label 1);
    * "next_sentence": with probability 1/2 sentences from a random other document replace B
      (label 1), and the sentences of B are used again for the next sample.

    A pair that is too long loses tokens, one at a time, from the front or the back of the longer
    segment. The pairs depend on (seed, epoch, document) alone. In every epoch, the documents of a
    large corpus are distributed at random over blocks of about equal size; pairs are made and
    shuffled block by block.

    A single sentence makes no pair. In "pure" mode at least two sentences are collected, however
    long the first one is, and the last sentence of a document is left out if it is alone. In
    "google" mode, as in the released code of both models, a single sentence gets a random partner
    and label 1, so a few sentence-order samples are really next-sentence samples.
    "next_sentence" does so in both modes.

    Differs from the released code, where one program makes the pairs of all epochs in advance from
    one sequence of random numbers.

    Args:
        store: the token store.
        task: "sentence_order" or "next_sentence", the meaning of the labels.
        mode: "pure" or "google", see above.
        max_length: longest sample in tokens, special tokens included.
        documents: which documents to use, also for random partners; None = all.
        short_probability: probability that the samples of a document get fewer ordinary tokens
            than possible: a number drawn from 2 to `max_length` - 3.
        min_length: shorter samples are left out; in tokens, special tokens included.
        block_tokens: minimum number of tokens of the documents of a block, if possible.

    Raises:
        InputError: an argument is out of range.
        DataError: random partners are needed and there is only one document.

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
        block_tokens: int = _BLOCK,
    ) -> None:
        documents = range(store.num_documents) if documents is None else documents
        _check(store, task, mode, max_length, documents, short_probability, min_length)
        if block_tokens < 1:
            raise InputError(f"block_tokens is {block_tokens}; expected at least 1.")
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
        self.drawn_anew = True
        first, stop = store.document_starts[[documents.start, documents.stop]].tolist()
        self.num_blocks = max(1, (stop - first) // block_tokens)
        self._dealt = lru_cache(2)(self._deal)  # an epoch may end while another begins
        self.no_samples = (
            f"{store.path}: documents {documents.start} to {documents.stop} give no pair of at "
            f"least min_length={min_length} tokens. Do their documents have more than one sentence?"
        )
        self.fingerprint: dict[str, Any] = {
            "store": store.fingerprint,
            "documents": [documents.start, documents.stop],
            "task": task,
            "mode": mode,
            "max_length": max_length,
            "short_probability": short_probability,
            "min_length": min_length,
            "block_tokens": block_tokens,
        }
        if not self._pure and len(documents) < 2:
            raise NoPairsError(
                f"{store.path}: {task} in {mode} mode takes segments from other documents, but "
                f"there is only {len(documents)} to choose from. Use more documents."
            )

    def samples(self, seed: int, epoch: int) -> PairSamples:
        """All pairs of an epoch, in the order of the documents.

        Raises:
            DataError: there are none.
        """
        return self._all(seed, (Stream.SEGMENTS, epoch))

    def fixed(self, seed: int) -> PairSamples:
        """Fixed pairs for evaluation, drawn from a random stream of their own.

        Raises:
            DataError: there are none.
        """
        return self._all(seed, (Stream.EVALUATION_SEGMENTS,))

    def block(self, seed: int, epoch: int, number: int) -> PairSamples:
        """The pairs of a random part of an epoch's documents; all blocks together have all pairs.

        Args:
            seed, epoch: the draws depend on these.
            number: 0 <= number < num_blocks.
        """
        return self._made(self._dealt(seed, epoch)[number], seed, (Stream.SEGMENTS, epoch))

    def _all(self, seed: int, key: tuple[int, ...]) -> PairSamples:
        found = self._made(np.arange(self._documents.start, self._documents.stop), seed, key)
        if not len(found.table):
            raise NoPairsError(self.no_samples)
        return found

    def _deal(self, seed: int, epoch: int) -> list[Integers]:
        """The documents of every block, each in order."""
        documents = np.arange(self._documents.start, self._documents.stop)
        if self.num_blocks == 1:
            return [documents]
        documents = generator(seed, Stream.BLOCKS, epoch).permutation(documents)
        starts = self.store.document_starts
        ends = (starts[documents + 1] - starts[documents]).cumsum()
        blocks = (ends - 1) * self.num_blocks // ends[-1]
        bounds = np.searchsorted(blocks, np.arange(1, self.num_blocks))
        return [np.sort(block) for block in np.split(documents, bounds)]

    def _made(self, documents: Integers, seed: int, key: tuple[int, ...]) -> PairSamples:
        """The pairs of some documents, which are in ascending order."""
        starts = self.store.document_starts
        chunks = (starts[documents + 1] - starts[documents]).cumsum() // _CHUNK
        bounds = np.flatnonzero(np.diff(chunks)) + 1
        parts = [
            self._pairs_of(chunk, seed, key) for chunk in np.split(documents, bounds) if len(chunk)
        ]
        return PairSamples(self, np.concatenate([np.empty((0, 6), np.int64), *parts]))

    def _pairs_of(self, documents: Integers, seed: int, key: tuple[int, ...]) -> Integers:
        """(pairs, 6): start and end of the first segment and of the second, label, key.

        The sentences of all documents are rows of one table; after those of each document comes a
        row for its end. The draws for a document depend on its number alone.
        """
        first = self.store.first_sentences(documents)
        rows = self.store.first_sentences(documents + 1) - first + 1
        ends = rows.cumsum() - 1
        owner = np.repeat(np.arange(len(documents)), rows)
        row = np.arange(len(owner))
        starts = self.store.sentence_starts(row + (first - (ends - rows + 1))[owner])  # in tokens
        draws = TokenDraw(seed, key, documents, rows)(6)
        cut, chance = draws[:, 0], draws[:, 1]
        # the row for its end has the draws for the document itself
        short = 2 + (draws[ends, 1] * (self._room - 1)).astype(np.int64)
        target = np.where(draws[ends, 0] < self._short_probability, short, self._room)

        # for each sentence: what would be done if a sample began with it
        stop = np.searchsorted(starts, starts + target[owner])
        if self._pure:
            stop = np.maximum(stop, row + 2)
        stop = np.minimum(stop, ends[owner])
        single = stop == row + 1
        middle = row + 1 + (cut * (stop - row - 1)).astype(np.int64)  # where B begins
        label = chance < 0.5
        foreign = single & (not self._pure) if self._swaps else single | label
        following = np.where(foreign, middle, stop)
        following[ends] = ends + 1  # the next document

        chosen = _walk(following)
        chosen = chosen[chosen != ends[owner[chosen]]]
        place = np.arange(len(chosen)) - np.searchsorted(chosen, ends - rows + 1)[owner[chosen]]
        keys = documents[owner[chosen]] * _DOCUMENT + place
        if self._pure:
            kept = ~single[chosen]
            chosen, keys = chosen[kept], keys[kept]

        one = np.stack([starts[chosen], starts[middle[chosen]]])  # begins and ends of A
        two = np.stack([starts[middle[chosen]], starts[stop[chosen]]])
        foreign = foreign[chosen]
        left = target[owner[chosen]] - (one[1] - one[0])
        two[:, foreign] = self._elsewhere(
            keys[foreign] // _DOCUMENT, left[foreign], draws[chosen[foreign], 2:4]
        )
        label = label[chosen] | foreign
        swapped = label & ~foreign & self._swaps
        one, two = np.where(swapped, two, one), np.where(swapped, one, two)
        self._truncate(one, two, draws[chosen, 4:])
        table: Integers = np.stack([*one, *two, label, keys], axis=1)
        return np.compress(_lengths(table) >= self._min_length, table, axis=0)

    def _elsewhere(self, documents: Integers, tokens: Integers, draws: Doubles) -> Integers:
        """Takes sentences of random other documents, from a random one on, until there are enough.

        Args:
            documents: (N,) the documents to avoid.
            tokens: (N,) number of tokens wanted.
            draws: (N, 2) random numbers for the document and the sentence.

        Returns:
            (2, N) starts and ends, in tokens.
        """
        others = self._documents.start + (draws[:, 0] * (len(self._documents) - 1)).astype(np.int64)
        others += others >= documents
        first, end = self.store.first_sentences(others), self.store.first_sentences(others + 1)
        first += (draws[:, 1] * (end - first)).astype(np.int64)
        begins = self.store.sentence_starts(first)
        enough = begins + np.maximum(tokens, 1)
        # bisection: the first sentence that begins after enough tokens, or the end
        low = first + 1
        while (low < end).any():
            middle = (low + end) // 2
            behind = self.store.sentence_starts(middle) >= enough
            low, end = (
                np.where(behind, low, np.minimum(middle + 1, end)),
                np.where(behind, middle, end),
            )
        return np.stack([begins, self.store.sentence_starts(end)])

    def _truncate(self, one: Integers, two: Integers, draws: Doubles) -> None:
        """Shortens pairs that are too long, in place.

        The result is that of removing single tokens from the longer segment (from the second if
        they are equal), each from the front with probability 1/2.

        Args:
            one, two: (2, N) starts and ends.
            draws: (N, 2) random numbers for how many tokens the front of each segment loses.
        """
        lengths = one[1] - one[0], two[1] - two[0]
        most = np.minimum(lengths[0], np.maximum(self._room - lengths[1], (self._room + 1) // 2))
        fits = lengths[0] + lengths[1] <= self._room
        kept_one = np.where(fits, lengths[0], most)
        kept_two = np.minimum(lengths[1], self._room - kept_one)
        for segment, kept, draw in ((one, kept_one, draws[:, 0]), (two, kept_two, draws[:, 1])):
            segment[0] += heads(segment[1] - segment[0] - kept, draw)
            segment[1] = segment[0] + kept


@dataclass(frozen=True, eq=False)
class PairSamples:
    """The pairs of an epoch or of a block.

    Attributes:
        pairs: the `SegmentPairs` that they come from.
        table: (N, 6), for every pair start and end of both segments in the store, label, key.
    """

    pairs: SegmentPairs
    table: Integers

    @property
    def lengths(self) -> Integers:
        """(N,) number of tokens of each pair, special tokens included."""
        return _lengths(self.table)

    @property
    def keys(self) -> Integers:
        """(N,) a number for each pair, made of its document and its place in it."""
        return self.table[:, 5]

    def gather(self, samples: Integers) -> PackedSamples:
        """Reads pairs, one after another.

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


def _walk(following: Integers) -> Integers:
    """The rows visited from row 0 on, where each row names the next one, until there is none."""
    successors = following.tolist()
    row, found = 0, []
    while row < len(successors):
        found.append(row)
        row = successors[row]
    return np.array(found, np.int64)


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
    """Batches of held-out pairs with their labels, unmasked; the same in every run.

    Args:
        pairs: the pairs of held-out documents.
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
            f"{argument('max_length')} is {max_length}; [CLS] a [SEP] b [SEP] need "
            f"at least {SPECIAL + 2}."
        )
    if not 0 <= short_probability <= 1 or math.isnan(short_probability):
        raise InputError(
            f"short_probability is {short_probability!r}; expected a number from 0 to 1."
        )
    if not 0 <= min_length <= max_length:
        raise InputError(f"min_length is {min_length}; expected 0 to max_length={max_length}.")
    check_documents(documents, store)
