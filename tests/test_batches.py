"""Steps, parts and batches: every sample once, within the budget, the same in every run."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from memory_store import CLS, SEP, MemoryStore, wordpiece
from minilm.data.batches import TokenBatch, cut_steps, split_evenly
from minilm.data.mask_ratios import ChangingRatio
from minilm.data.masked_lm import MaskedLMData, evaluation_batches
from minilm.data.masking import Corruption, RareTokenMasking, TokenMasking, WholeWordMasking
from minilm.data.sequences import Sequences
from minilm.data.vocabulary import Vocabulary
from minilm.errors import InputError

TOKENIZER = wordpiece(size=100)
VOCABULARY = Vocabulary.of(TOKENIZER)
LENGTHS = np.random.default_rng(4).integers(10, 70, 60)
STORE = MemoryStore(TOKENIZER, [5 + np.arange(length) % 95 for length in LENGTHS])
SEQUENCES = Sequences(STORE, max_length=32)


def data(seed: int = 0, **changes: Any) -> MaskedLMData:
    arguments = {"tokens_per_step": 200, **changes}
    masking = arguments.pop("masking", TokenMasking(VOCABULARY))
    return MaskedLMData(SEQUENCES, masking, VOCABULARY, seed=seed, **arguments)


def same(left: TokenBatch, right: TokenBatch) -> bool:
    return np.array_equal(left.samples, right.samples) and all(
        torch.equal(getattr(left, name), getattr(right, name))
        for name in ("input_ids", "lengths", "labels")
    )


# ---- steps ----


def test_an_epoch_is_every_sample_once_in_an_order_of_its_own() -> None:
    epochs = [np.concatenate(data().steps(epoch)) for epoch in range(3)]
    for order in epochs:
        assert np.array_equal(np.sort(order), np.arange(len(SEQUENCES)))
    assert len({tuple(order) for order in epochs}) == 3
    assert np.array_equal(epochs[1], np.concatenate(data().steps(1)))
    assert not np.array_equal(epochs[0], np.concatenate(data(seed=1).steps(0)))


@given(
    st.lists(st.integers(3, 50), max_size=40).flatmap(
        lambda lengths: st.tuples(st.just(lengths), st.permutations(range(len(lengths))))
    ),
    st.integers(1, 120),
)
def test_steps_are_as_full_as_their_order_allows(
    samples: tuple[list[int], list[int]], tokens: int
) -> None:
    lengths, order = (np.array(numbers, dtype=np.int64) for numbers in samples)
    expected: list[list[int]] = []
    room = 0
    for sample in order.tolist():
        if not expected or lengths[sample] > room:
            expected.append([])
            room = tokens
        expected[-1].append(sample)
        room -= lengths[sample]
    assert [step.tolist() for step in cut_steps(order, lengths, tokens)] == expected


def test_a_sample_longer_than_the_budget_is_a_step_of_its_own() -> None:
    steps = cut_steps(np.arange(4), np.array([5, 30, 5, 5]), 10)
    assert [step.tolist() for step in steps] == [[0], [1], [2, 3]]


# ---- parts ----


@given(st.lists(st.integers(3, 512), max_size=60), st.integers(1, 9))
def test_parts_are_the_samples_again_and_balanced(lengths: list[int], parts: int) -> None:
    numbers = np.array(lengths, dtype=np.int64)
    samples = np.arange(len(lengths))[::-1] + 100
    found = split_evenly(samples, numbers[::-1], parts)
    assert len(found) == parts
    assert sorted(np.concatenate(found).tolist()) == sorted(samples.tolist())
    for part in found:
        assert part.tolist() == sorted(part.tolist(), reverse=True)  # the order of the samples
    loads = [int(numbers[part - 100].sum()) for part in found]
    assert max(loads) - min(loads) <= max(lengths, default=0)
    if len(lengths) >= parts:
        assert min(loads) > 0
    again = split_evenly(samples, numbers[::-1], parts)
    assert all(np.array_equal(*pair) for pair in zip(found, again, strict=True))


# ---- batches ----


@pytest.mark.parametrize(
    "masking",
    [
        TokenMasking(VOCABULARY),
        WholeWordMasking(VOCABULARY),
        RareTokenMasking(VOCABULARY, STORE.counts()),
    ],
)
def test_a_batch_is_its_sequences_with_masks(masking: Any) -> None:
    source = data(masking=masking)
    samples = source.steps(0)[0]
    batch = source.batch(0, samples)
    packed = SEQUENCES.gather(samples)
    ids, lengths = packed.ids, packed.lengths
    original = torch.where(batch.labels == -100, batch.input_ids, batch.labels)
    assert original.tolist() == ids.tolist()
    assert batch.lengths.tolist() == lengths.tolist()
    assert batch.samples is samples
    assert batch.tokens == len(ids) <= 200
    ends = batch.lengths.cumsum(0)
    assert set(batch.input_ids[ends - 1].tolist()) == {SEP}
    assert set(batch.input_ids[ends - batch.lengths].tolist()) == {CLS}
    assert (batch.labels != -100).sum() > 0
    tensors = (batch.input_ids, batch.lengths, batch.labels)
    assert {tensor.dtype for tensor in tensors} == {torch.int64}


@settings(deadline=None)
@given(st.integers(0, 5), st.integers(1, 7))
def test_parts_of_a_step_have_the_masks_of_the_whole(step: int, parts: int) -> None:
    source = data()
    samples = source.steps(2)[step]
    whole = source.batch(2, samples)
    ends = whole.lengths.cumsum(0)
    rows = {
        int(sample): (whole.input_ids[end - length : end], whole.labels[end - length : end])
        for sample, end, length in zip(samples, ends, whole.lengths, strict=True)
    }
    split = source.split(0, samples, parts)
    assert len(split) == parts
    for part in split:
        batch = data().batch(2, part)
        found = [rows.pop(int(sample)) for sample in part]
        empty = torch.empty(0, dtype=torch.int64)
        assert torch.equal(batch.input_ids, torch.cat([empty, *[ids for ids, _ in found]]))
        assert torch.equal(batch.labels, torch.cat([empty, *[labels for _, labels in found]]))
    assert not rows


def test_masks_change_with_seed_and_epoch() -> None:
    samples = np.arange(10)
    chosen = [
        tuple((data(seed=seed).batch(epoch, samples).labels != -100).tolist())
        for seed, epoch in [(0, 0), (0, 1), (1, 0), (1, 1)]
    ]
    assert len(set(chosen)) == 4


def test_threads_get_the_same_batches() -> None:
    source = data()
    steps = source.steps(0)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda samples: source.batch(0, samples), steps))
    assert all(map(same, found, [source.batch(0, samples) for samples in steps]))


def test_a_batch_without_samples() -> None:
    batch = data().batch(0, np.empty(0, dtype=np.int64))
    assert batch.tokens == 0
    assert batch.input_ids.shape == batch.labels.shape == batch.lengths.shape == (0,)
    assert batch.input_ids.dtype == batch.labels.dtype == torch.int64


def test_a_batch_moves_with_everything_in_it() -> None:
    line = torch.arange(4)
    batch = TokenBatch(np.arange(2), line, torch.tensor([3, 1]), line, line, line[:2])
    moved = batch.to("meta")
    for name in ("input_ids", "lengths", "labels", "token_type_ids", "sentence_labels"):
        assert getattr(moved, name).device.type == "meta"
        assert getattr(moved, name).shape == getattr(batch, name).shape
    assert moved.samples is batch.samples
    plain = TokenBatch(np.arange(2), line, torch.tensor([3, 1]), line).to("cpu")
    assert plain.token_type_ids is None
    assert plain.sentence_labels is None


# ---- held-out text ----


def evaluate(**changes: Any) -> list[TokenBatch]:
    arguments = {"tokens_per_batch": 150, **changes}
    return evaluation_batches(SEQUENCES, TokenMasking(VOCABULARY), VOCABULARY, **arguments)


def test_evaluation_sees_every_sequence_once_and_always_the_same_masks() -> None:
    batches = evaluate()
    assert np.concatenate([batch.samples for batch in batches]).tolist() == [*range(len(SEQUENCES))]
    assert all(batch.tokens <= 150 for batch in batches)
    assert all(map(same, batches, evaluate()))
    other_sizes = evaluate(tokens_per_batch=10**6)
    assert torch.equal(other_sizes[0].labels, torch.cat([batch.labels for batch in batches]))
    assert not torch.equal(evaluate(seed=7)[0].labels, batches[0].labels)
    predicted = sum(int((batch.labels != -100).sum()) for batch in batches)
    assert predicted == np.maximum(1, np.rint(0.15 * SEQUENCES.lengths)).sum()


def test_evaluation_masks_are_not_those_of_an_epoch() -> None:
    samples = np.arange(len(SEQUENCES))
    (held_out,) = evaluate(tokens_per_batch=10**6)
    for seed in range(3):
        assert not torch.equal(data(seed=seed).batch(0, samples).labels, held_out.labels)


def test_limited_evaluation_takes_some_sequences_of_all() -> None:
    batches = evaluate(limit_tokens=600)
    samples = np.concatenate([batch.samples for batch in batches])
    assert 600 - 32 < sum(batch.tokens for batch in batches) <= 600
    assert np.array_equal(samples, np.unique(samples))
    assert samples.max() > len(SEQUENCES) // 2  # not the first ones
    (whole,) = evaluate(tokens_per_batch=10**6)
    rows = torch.split(whole.labels, whole.lengths.tolist())
    labels = torch.cat([batch.labels for batch in batches])
    assert torch.equal(labels, torch.cat([rows[sample] for sample in samples]))
    (one,) = evaluate(limit_tokens=1)
    assert len(one.samples) == 1
    assert sum(len(batch.samples) for batch in evaluate(limit_tokens=10**9)) == len(SEQUENCES)


def test_masks_come_back_after_their_rounds_and_the_order_does_not() -> None:
    samples = np.arange(len(SEQUENCES))
    rounds = data(mask_rounds=2)
    labels = [rounds.batch(epoch, samples).labels for epoch in range(4)]
    assert torch.equal(labels[0], labels[2])
    assert torch.equal(labels[1], labels[3])
    assert not torch.equal(labels[0], labels[1])
    assert torch.equal(labels[1], data().batch(1, samples).labels)
    assert [rounds.batch(epoch, samples).epoch for epoch in (0, 2)] == [0, 2]
    first, third = (np.concatenate(rounds.steps(epoch)) for epoch in (0, 2))
    assert not np.array_equal(first, third)


# ---- what a resumed run must find again, and wrong arguments ----


def test_the_fingerprint_changes_with_everything_that_changes_batches() -> None:
    counts = STORE.counts()
    shorter = Sequences(STORE, max_length=31)
    masking = TokenMasking(VOCABULARY)
    different = [
        data(),
        data(seed=1),
        data(tokens_per_step=201),
        data(mask_rounds=1),
        data(mask_rounds=2),
        data(ratio=ChangingRatio(first=0.3, last=0.15, epochs=2)),
        data(corruption=Corruption(0.7, 0.1)),
        data(masking=TokenMasking(VOCABULARY, 0.2)),
        data(masking=TokenMasking(VOCABULARY, max_predictions=20)),
        data(masking=WholeWordMasking(VOCABULARY)),
        data(masking=RareTokenMasking(VOCABULARY, counts)),
        data(masking=RareTokenMasking(VOCABULARY, counts, smoothing=0.5)),
        data(masking=RareTokenMasking(VOCABULARY, counts + 1)),
        MaskedLMData(shorter, masking, VOCABULARY, tokens_per_step=200, seed=0),
    ]
    written = [json.dumps(source.fingerprint, sort_keys=True) for source in different]
    assert len(set(written)) == len(written)
    assert json.loads(written[0]) == data().fingerprint


def test_wrong_arguments_are_refused() -> None:
    other = Vocabulary.of(wordpiece(size=101))
    with pytest.raises(InputError, match="vocabulary has 101 tokens, the token store 100"):
        MaskedLMData(SEQUENCES, TokenMasking(other), other, tokens_per_step=99, seed=0)
    with pytest.raises(InputError, match="vocabulary has 101 tokens"):
        evaluation_batches(SEQUENCES, TokenMasking(other), other, tokens_per_batch=99)
    with pytest.raises(InputError, match="tokens_per_step must be at least 1, not 0"):
        data(tokens_per_step=0)
    with pytest.raises(InputError, match="mask_rounds must be at least 1, not 0"):
        data(mask_rounds=0)
    changing = ChangingRatio(first=0.3, last=0.15, epochs=2)
    with pytest.raises(InputError, match="mask_rounds is 1, but the mask ratio changes"):
        data(mask_rounds=1, ratio=changing)
    with pytest.raises(InputError, match="at least 0, not -3"):
        data(seed=-3)
    with pytest.raises(InputError, match="parts must be at least 1, not 0"):
        data().split(0, np.arange(3), 0)
    for changes in ({"tokens_per_batch": 0}, {"limit_tokens": 0}):
        with pytest.raises(InputError, match="at least 1 token, not 0"):
            evaluate(**changes)
    with pytest.raises(InputError, match="samples go from 0"):
        data().batch(0, np.array([len(SEQUENCES)]))
