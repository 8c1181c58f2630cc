"""Pairs for sentence order and next sentence, against a plain transcription of the algorithm."""

import itertools
import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import numpy as np
import pytest

from memory_store import CLS, SEP, MemoryStore, wordpiece
from minilm.data.batches import SentenceTask
from minilm.data.masked_lm import MaskedLMData
from minilm.data.masking import TokenMasking
from minilm.data.ngram_masking import NGramMasking
from minilm.data.randomness import Stream, TokenDraw, heads
from minilm.data.segment_pairs import PairMode, PairSamples, SegmentPairs, pair_evaluation_batches
from minilm.data.vocabulary import Vocabulary
from minilm.errors import DataError, InputError

KINDS: list[tuple[SentenceTask, PairMode]] = [
    ("sentence_order", "pure"),
    ("sentence_order", "google"),
    ("next_sentence", "pure"),
]
ROOM = 29  # ordinary tokens of the longest sample


def store_of(documents: int = 300, seed: int = 0, longest: int = 14) -> MemoryStore:
    """Every token is its place in the store, so that a pair shows where it comes from."""
    random = np.random.default_rng(seed)
    sentences = [random.integers(1, longest, random.integers(1, 30)) for _ in range(documents)]
    ids = np.arange(sum(int(lengths.sum()) for lengths in sentences)) + 5
    bounds = np.cumsum([int(lengths.sum()) for lengths in sentences])[:-1]
    tokenizer = wordpiece(size=len(ids) + 5)
    return MemoryStore(
        tokenizer, np.split(ids, bounds), [lengths.tolist() for lengths in sentences]
    )


STORE = store_of()


def pairs_of(
    task: SentenceTask, mode: PairMode, store: MemoryStore = STORE, **changes: Any
) -> SegmentPairs:
    options: dict[str, Any] = {"max_length": ROOM + 3, "min_length": 0} | changes
    return SegmentPairs(store, task=task, mode=mode, **options)  # type: ignore[arg-type]


def segments(found: PairSamples, sample: int) -> tuple[list[int], list[int], int]:
    """The places of the tokens of both segments, and the label, from what a model would see."""
    packed = found.gather(np.array([sample]))
    ids, types = packed.ids, packed.token_type_ids
    assert types is not None
    assert packed.sentence_labels is not None
    first, second = ids[types == 0].tolist(), ids[types == 1].tolist()
    assert (np.diff(types) >= 0).all()
    assert (first[0], first[-1], second[-1]) == (CLS, SEP, SEP)
    places = [i - 5 for i in first[1:-1]], [i - 5 for i in second[:-1]]
    assert min(map(len, places)) > 0
    return *places, int(packed.sentence_labels[0])


def truncated(one: list[int], two: list[int], fronts: list[int]) -> tuple[list[int], list[int]]:
    """One token at a time from the longer; `fronts` of each are taken from the front."""
    sizes = [len(one), len(two)]
    while sum(sizes) > ROOM:
        sizes[0 if sizes[0] > sizes[1] else 1] -= 1
    shortened = [
        segment[front : front + size]
        for segment, front, size in zip((one, two), fronts, sizes, strict=True)
    ]
    return shortened[0], shortened[1]


@pytest.mark.parametrize(("task", "mode"), KINDS)
def test_the_pairs_are_those_of_the_plain_algorithm(task: SentenceTask, mode: PairMode) -> None:
    """Without randomness of other documents' choice: it is checked by its own rules."""
    found = pairs_of(task, mode).samples(3, 1)
    by_key = {int(key): sample for sample, key in enumerate(found.keys)}
    assert len(by_key) == len(found.keys)
    seen = 0
    for document in range(STORE.num_documents):
        starts = STORE.sentences(document)
        sentences = [list(range(a, b)) for a, b in itertools.pairwise(starts)]
        draw = TokenDraw(3, (Stream.SEGMENTS, 1), np.array([document]), np.array([len(starts)]))
        *drawn, (of_short, of_target, *_) = draw(6)
        cut, chance = np.array(drawn)[:, :2].T
        target = 2 + int(of_target * (ROOM - 1)) if of_short < 0.1 else ROOM
        at = number = 0
        while at < len(sentences):
            chunk: list[list[int]] = []
            for sentence in sentences[at:]:
                chunk.append(sentence)
                enough = sum(map(len, chunk)) >= target
                if enough and (len(chunk) > 1 or (task, mode) != KINDS[0]):
                    break
            middle = 1 + int(cut[at] * (len(chunk) - 1))
            one, two = list(chain(*chunk[:middle])), list(chain(*chunk[middle:]))
            label = bool(chance[at] < 0.5)
            single = len(chunk) == 1
            foreign = single if task == "sentence_order" else single or label
            key = (document << 24) + number
            following = at + (middle if foreign else len(chunk))
            if single and (task, mode) == KINDS[0]:
                assert key not in by_key
                assert following == len(sentences)
                break
            a, b, found_label = segments(found, by_key[key])
            assert found_label == (label or foreign)
            if foreign:
                whole = truncated(one, list(range(10**6, 10**6 + len(b))), [0, 0])[0]
                assert set(a) <= set(one)
                assert len(a) >= min(len(whole), len(one))
                assert not set(b) & set(range(starts[0], starts[-1]))
                other = np.searchsorted(STORE.document_starts, b[0], side="right") - 1
                assert b[-1] < STORE.document_starts[other + 1]
                assert b == list(range(b[0], b[-1] + 1))
            else:
                if label and task == "sentence_order":
                    one, two = two, one
                fronts = [one.index(a[0]), two.index(b[0])]
                assert (a, b) == truncated(one, two, fronts)
            assert len(a) + len(b) <= ROOM
            seen += 1
            at, number = following, number + 1
    assert seen == len(by_key) > 1000


def test_pure_pairs_are_of_one_document_and_lose_nothing_but_what_does_not_fit() -> None:
    found = pairs_of("sentence_order", "pure", short_probability=0.0).samples(0, 0)
    used: Counter[int] = Counter()
    for sample in range(len(found.keys)):
        a, b, label = segments(found, sample)
        document = int(found.keys[sample]) >> 24
        low, high = STORE.document_starts[document : document + 2]
        assert low <= min(a + b) <= max(a + b) < high
        assert (a[0] > b[0]) == label
        used.update(a + b)
    assert max(used.values()) == 1
    assert 0.7 < len(used) / STORE.num_tokens < 1


def test_statistics() -> None:
    """Labels, short documents, the place of the cut, and the side that is shortened."""
    store = store_of(documents=3000, seed=5)
    found = pairs_of("sentence_order", "pure", store).samples(0, 0)
    count = len(found.keys)
    assert count > 10_000
    assert abs(found.table[:, 4].mean() - 0.5) < 4 * 0.5 / np.sqrt(count)
    # sentences in a chunk of three: the cut is after the first or the second
    documents = [[4, 4, 21, 4, 4, 21]] * 3000
    three = MemoryStore(wordpiece(size=100), [np.full(58, 7)] * 3000, documents)
    table = pairs_of("sentence_order", "pure", three, short_probability=0.0).samples(0, 0).table
    starts = np.where(table[:, 4] == 1, table[:, 2], table[:, 0]) % 58 % 29
    ends = np.where(table[:, 4] == 1, table[:, 3], table[:, 1]) % 58 % 29
    assert set(starts) == {0}
    assert set(ends) == {4, 8}
    assert abs((ends == 4).mean() - 0.5) < 4 * 0.5 / np.sqrt(len(ends))
    # documents of one size: the share of those with another target
    even = MemoryStore(wordpiece(size=100), [np.full(300, 7)] * 3000, 1)
    keys = pairs_of("sentence_order", "pure", even).samples(0, 0).keys
    pieces = np.unique(keys >> 24, return_counts=True)[1]
    usual = -(-300 // ROOM)
    assert abs((pieces > usual).mean() - 0.1 * 27 / 28) < 4 * np.sqrt(0.1 * 0.9 / 3000)
    # of 11 tokens that do not fit, half are taken from the front
    long = MemoryStore(wordpiece(size=100), [np.full(40, 7)] * 3000, [[20, 20]] * 3000)
    table = pairs_of("sentence_order", "pure", long, short_probability=0.0).samples(0, 0).table
    fronts = np.concatenate([table[:, 0], table[:, 2]]) % 20
    assert set((table[:, 1] - table[:, 0]).tolist()) == {15}
    assert set((table[:, 3] - table[:, 2]).tolist()) == {14}
    assert abs(fronts.mean() - 5.5 / 2) < 4 * np.sqrt(11 / 4 / 2) / np.sqrt(6000)


def test_random_partners_are_spread_over_all_other_documents() -> None:
    found = pairs_of("next_sentence", "pure").samples(0, 0)
    random_ones = found.table[found.table[:, 4] == 1]
    share = len(random_ones) / len(found.table)
    assert 0.5 < share < 0.65  # half, and all leftovers
    others = np.searchsorted(STORE.document_starts, random_ones[:, 2], side="right") - 1
    assert (others != random_ones[:, 5] >> 24).all()
    assert len(np.unique(others)) > 0.9 * STORE.num_documents


@pytest.mark.parametrize(("task", "mode"), KINDS)
def test_pairs_depend_on_seed_epoch_and_document(task: SentenceTask, mode: PairMode) -> None:
    table = pairs_of(task, mode).samples(1, 2).table
    assert np.array_equal(table, pairs_of(task, mode).samples(1, 2).table)
    for seed, epoch in ((1, 3), (2, 2)):
        assert not np.array_equal(table, pairs_of(task, mode).samples(seed, epoch).table)
    if mode == "pure" and task == "sentence_order":
        part = pairs_of(task, mode, documents=range(50, 120)).samples(1, 2).table
        documents = table[:, 5] >> 24
        assert np.array_equal(part, table[(documents >= 50) & (documents < 120)])


def test_short_pairs_are_left_out() -> None:
    whole = pairs_of("sentence_order", "pure").samples(0, 0)
    part = pairs_of("sentence_order", "pure", min_length=20).samples(0, 0)
    assert part.lengths.min() == 20 > whole.lengths.min()
    assert np.array_equal(part.table, whole.table[whole.lengths >= 20])


def test_training_data_of_pairs() -> None:
    """The masks of a sample do not depend on its batch; types and labels belong to it."""
    vocabulary = Vocabulary.of(STORE.tokenizer())
    pairs = pairs_of("sentence_order", "pure")
    data = MaskedLMData(pairs, NGramMasking(vocabulary), vocabulary, tokens_per_step=200, seed=6)
    assert data.fingerprint["sequences"]["task"] == "sentence_order"
    found = pairs.samples(6, 1)
    steps = data.steps(1)
    assert sorted(np.concatenate(steps).tolist()) == list(range(len(found.keys)))
    assert len(data.steps(0)) != 0
    assert not np.array_equal(data.steps(0)[0], steps[0])
    for step in steps[:5]:
        whole = data.batch(1, step)
        assert whole.tokens <= 200
        assert whole.sentence_task == "sentence_order"
        assert whole.sentence_labels is not None
        assert whole.token_type_ids is not None
        assert whole.sentence_labels.tolist() == found.table[step, 4].tolist()
        begins = np.cumsum(whole.lengths.numpy()) - whole.lengths.numpy()
        parts = data.split(1, step, 2)
        assert sorted(np.concatenate(parts).tolist()) == sorted(step.tolist())
        for part in parts:
            for sample in part:
                alone = data.batch(1, np.array([sample]))
                at = begins[step.tolist().index(sample)]
                inside = slice(at, at + alone.tokens)
                assert alone.input_ids.tolist() == whole.input_ids[inside].tolist()
                assert alone.labels.tolist() == whole.labels[inside].tolist()
                assert alone.token_type_ids is not None
                types = whole.token_type_ids[inside]
                assert alone.token_type_ids.tolist() == types.tolist()
    empty = data.batch(1, np.empty(0, np.int64))
    assert empty.tokens == 0
    assert empty.sentence_labels is not None


def test_threads_may_share_the_data() -> None:
    vocabulary = Vocabulary.of(STORE.tokenizer())
    data = MaskedLMData(
        pairs_of("next_sentence", "pure"),
        TokenMasking(vocabulary),
        vocabulary,
        tokens_per_step=200,
        seed=0,
    )
    work = [(epoch, step) for epoch in range(3) for step in data.steps(epoch)[:20]]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda item: data.batch(*item).input_ids.tolist(), work))
    assert together == [data.batch(*item).input_ids.tolist() for item in work]


def test_evaluation_pairs_are_fixed_and_not_masked() -> None:
    pairs = pairs_of("sentence_order", "pure", documents=range(200, 300))
    batches = pair_evaluation_batches(pairs, tokens_per_batch=300, limit_tokens=2000)
    again = pair_evaluation_batches(pairs, tokens_per_batch=2000, limit_tokens=2000)
    assert sum(batch.tokens for batch in batches) == sum(batch.tokens for batch in again) <= 2000
    samples = np.concatenate([batch.samples for batch in batches])
    assert np.array_equal(samples, again[0].samples)
    for batch in batches:
        assert (batch.labels == -100).all()
        assert batch.sentence_task == "sentence_order"
        assert batch.tokens <= 300
    assert not np.array_equal(pairs.fixed(0).table, pairs.samples(0, 0).table)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_length": 4}, "max_length is 4"),
        ({"short_probability": 1.5}, "short_probability is 1.5"),
        ({"short_probability": float("nan")}, "short_probability is nan"),
        ({"min_length": 33}, "min_length is 33"),
        ({"documents": range(0, 301)}, "documents is range"),
        ({"block_tokens": 0}, "block_tokens is 0"),
        ({"task": "order"}, "task is 'order'"),
        ({"mode": "bert"}, "mode is 'bert'"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    options: dict[str, Any] = {"task": "sentence_order", "mode": "pure", **changes}
    with pytest.raises(InputError, match=message):
        pairs_of(options.pop("task"), options.pop("mode"), **options)


def test_texts_without_pairs_are_refused() -> None:
    lonely = MemoryStore(wordpiece(size=20), [[7, 8, 9], [7, 8]], [[3], [2]])
    with pytest.raises(DataError, match="more than one sentence"):
        pairs_of("sentence_order", "pure", lonely).samples(0, 0)
    for task, mode in KINDS[1:]:
        with pytest.raises(DataError, match="only 1 to choose from"):
            pairs_of(task, mode, lonely, documents=range(1))


def test_heads_of_coins_follow_the_binomial_distribution() -> None:
    uniform = (np.arange(20_000) + 0.5) / 20_000
    for flips in (1, 2, 11, 60):
        found = heads(np.full(len(uniform), flips), uniform)
        share = np.bincount(found, minlength=flips + 1) / len(uniform)
        exact = [math.comb(flips, number) / 2**flips for number in range(flips + 1)]
        assert np.abs(share - exact).max() < 2 / len(uniform)
    many = heads(np.full(len(uniform), 10**6), uniform)  # a sentence without an end
    assert abs(many.mean() - 5e5) < 1
    assert abs(many.std() - 500) < 1
    mixed = heads(np.array([3, 0, 10**5, 3]), np.array([0.9999, 0.5, 0.5, 0.0]))
    assert mixed.tolist() == [3, 0, 50_000, 0]
    assert heads(np.empty(0, np.int64), np.empty(0)).tolist() == []
