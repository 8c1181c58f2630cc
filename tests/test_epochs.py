"""Steps made block by block: each sample once, in the same order however they are asked for."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import pytest

from memory_store import MemoryStore, wordpiece
from minilm.data import segment_pairs
from minilm.data.epochs import KEPT, Epoch, Epochs
from minilm.data.masked_lm import MaskedLMData
from minilm.data.masking import TokenMasking
from minilm.data.segment_pairs import PairSamples, SegmentPairs
from minilm.data.sequences import Sequences
from minilm.data.vocabulary import Vocabulary
from minilm.errors import DataError, InputError
from minilm.training.distributed import Processes
from minilm.training.settings import TrainingSettings
from minilm.training.steps import DataPosition, prepared_steps
from toy import ALONE

LENGTHS = np.random.default_rng(0).integers(1, 60, 400)
STORE = MemoryStore(
    wordpiece(size=200), [5 + np.arange(length) % 195 for length in LENGTHS], sentence=4
)
VOCABULARY = Vocabulary.of(STORE.tokenizer())


class Counted(SegmentPairs):
    """Pairs that count how often each of their blocks is made."""

    def __init__(self, **changes: Any) -> None:
        options: dict[str, Any] = {"block_tokens": 1000, "max_length": 24, "min_length": 0}
        super().__init__(STORE, **{"task": "sentence_order", **options, **changes})
        self.made: Counter[tuple[int, int]] = Counter()

    def block(self, seed: int, epoch: int, number: int) -> PairSamples:
        self.made[epoch, number] += 1
        return super().block(seed, epoch, number)


def data_of(source: SegmentPairs | Sequences, tokens_per_step: int = 120) -> MaskedLMData:
    masking = TokenMasking(VOCABULARY)
    return MaskedLMData(source, masking, VOCABULARY, tokens_per_step=tokens_per_step, seed=3)


def epoch_of(source: SegmentPairs, epoch: int = 0, tokens_per_step: int = 120) -> Epoch:
    return Epochs(source, tokens_per_step=tokens_per_step, seed=3)[epoch]


def keys_of(epoch: Epoch) -> list[list[int]]:
    return [epoch.keys(step).tolist() for step in epoch]


def test_blocks_are_all_pairs_of_the_epoch_and_of_equal_size() -> None:
    pairs = Counted()
    assert pairs.num_blocks == LENGTHS.sum() // 1000 > 8
    blocks = [pairs.block(3, 1, number) for number in range(pairs.num_blocks)]
    together = np.concatenate([block.table for block in blocks])
    whole = pairs.samples(3, 1).table
    assert np.array_equal(together[together[:, 5].argsort()], whole)
    tokens = [int(block.lengths.sum()) for block in blocks]
    assert max(tokens) < 1.5 * min(tokens)
    # documents are dealt out anew in every epoch, far from their order in the store
    documents = [set((block.keys >> 24).tolist()) for block in blocks]
    assert max(documents[0]) - min(documents[0]) > 300
    assert documents[0] != set((pairs.block(3, 2, 0).keys >> 24).tolist())


@pytest.mark.parametrize("tokens_per_step", [30, 120, 2500, 10**6])
def test_steps_are_every_pair_once_and_full_across_blocks(tokens_per_step: int) -> None:
    pairs = Counted()
    epoch = epoch_of(pairs, 2, tokens_per_step)
    steps = list(epoch)
    assert np.array_equal(np.sort(np.concatenate(steps)), np.arange(len(pairs.samples(3, 2).table)))
    keys = np.concatenate([epoch.keys(step) for step in steps])
    assert np.array_equal(np.sort(keys), pairs.samples(3, 2).keys)
    sizes = [int(epoch.lengths(step).sum()) for step in steps]
    assert max(sizes) <= tokens_per_step
    # no step but the last has room for the first sample of the next one
    for size, following in zip(sizes, steps[1:], strict=False):
        assert size + epoch.lengths(following[:1])[0] > tokens_per_step
    assert len(epoch) == len(steps)


def test_steps_do_not_depend_on_how_they_are_asked_for() -> None:
    in_order = epoch_of(Counted())
    keys = keys_of(in_order)
    backwards = epoch_of(Counted())
    for number in reversed(range(len(keys))):
        step = backwards[number]
        assert backwards.keys(step).tolist() == keys[number]
        assert backwards.gather(step).lengths.tolist() == in_order.lengths(step).tolist()
    assert epoch_of(Counted()).keys(in_order[50]).tolist() == keys[50]  # samples before any step
    assert [step.tolist() for step in in_order[3:9:2]] == [in_order[n].tolist() for n in (3, 5, 7)]
    assert in_order[-1].tolist() == in_order[len(keys) - 1].tolist()
    with pytest.raises(IndexError):
        in_order[len(keys)]
    with pytest.raises(InputError, match="samples go from 0"):
        in_order.keys(np.array([10**6]))


def test_samples_of_several_blocks_are_read_in_the_order_asked_for() -> None:
    epoch = epoch_of(Counted())
    samples = np.random.default_rng(1).permutation(sum(map(len, epoch)))[:40]
    packed = epoch.gather(samples)
    assert packed.token_type_ids is not None
    assert packed.sentence_labels is not None
    ends = packed.lengths.cumsum()
    for sample, end, length, label in zip(
        samples, ends, packed.lengths, packed.sentence_labels, strict=True
    ):
        alone = epoch.gather(np.array([sample]))
        assert alone.ids.tolist() == packed.ids[end - length : end].tolist()
        assert alone.token_type_ids is not None
        assert alone.token_type_ids.tolist() == packed.token_type_ids[end - length : end].tolist()
        assert alone.sentence_labels is not None
        assert alone.sentence_labels.tolist() == [label]


def test_no_block_is_made_twice_and_none_long_before_it_is_needed() -> None:
    pairs = Counted()
    data = data_of(pairs)
    asked = data.count_steps(6)
    assert sum(pairs.made.values()) == 1
    taken = 0
    for _, batches in islice(prepared_steps(data, settings(asked), ALONE), asked):
        taken += sum(micro.batch.tokens for micro in batches)
        assert len(pairs.made) <= taken / 900 + 3
    assert set(pairs.made.values()) == {1}
    exact = sum(len(data.steps(epoch)) for epoch in range(6))
    assert abs(asked - exact) < 0.05 * exact


def settings(steps: int, **changes: Any) -> TrainingSettings:
    return TrainingSettings(steps=steps, learning_rate=1e-3, **changes)


def test_a_single_block_of_pairs_is_made_once_an_epoch_and_counted_exactly() -> None:
    pairs = Counted(block_tokens=10**6)
    data = data_of(pairs)
    assert data.count_steps(1) == len(data.steps(0))
    assert data.count_steps(5) == 5 * len(data.steps(0))
    for epoch in range(5):
        for step in data.steps(epoch):
            data.batch(epoch, step)
    assert {pairs.made[epoch, 0] for epoch in range(5)} == {1}


def test_sequences_are_counted_exactly() -> None:
    data = data_of(Sequences(STORE, max_length=24), tokens_per_step=90)
    exact = [len(data.steps(epoch)) for epoch in range(12)]
    assert len(set(exact)) > 1
    assert data.count_steps(12) == sum(exact)


def test_samples_are_counted_without_all_blocks() -> None:
    sequences = Sequences(STORE, max_length=24, min_length=4)
    assert data_of(sequences).count_samples() == len(sequences)
    pairs = Counted(block_tokens=10**6)
    assert data_of(pairs).count_samples() == len(pairs.samples(3, 0).table)
    several = Counted()
    counted = data_of(several).count_samples()
    assert several.made == {(0, 0): 1}
    assert counted == pytest.approx(len(several.samples(3, 0).table), rel=0.1)


@pytest.mark.parametrize("workers", [0, 3])
def test_going_on_gives_the_same_batches_in_every_process(workers: int) -> None:
    def taken(start: DataPosition, count: int, rank: int, world: int) -> list[Any]:
        processes = Processes(rank, world, ALONE.device)
        steps = prepared_steps(data_of(Counted()), settings(99, workers=workers), processes, start)
        return [
            (position, [micro.batch.input_ids.tolist() for micro in batches])
            for position, batches in islice(steps, count)
        ]

    whole = taken(DataPosition(), 2 * len(data_of(Counted()).steps(0)), 0, 2)
    assert whole[-1][0].epoch == 1
    for at in (1, 70, len(whole) // 2 - 1, len(whole) - 3):
        assert taken(whole[at - 1][0], 3, 0, 2) == whole[at : at + 3]
    other = taken(DataPosition(), 5, 1, 2)
    assert [position for position, _ in other] == [position for position, _ in whole[:5]]
    assert all(one != two for (_, one), (_, two) in zip(other, whole, strict=False))


def test_threads_may_share_an_epoch() -> None:
    keys = keys_of(epoch_of(Counted()))
    epoch = epoch_of(Counted())
    with ThreadPoolExecutor(6) as pool:
        numbers = np.random.default_rng(0).permutation(len(keys)).tolist()
        found = list(pool.map(lambda number: epoch.keys(epoch[number]).tolist(), numbers))
    assert found == [keys[number] for number in numbers]


def test_few_blocks_are_in_memory() -> None:
    epoch = epoch_of(Counted())
    assert len(list(epoch)) > 50
    assert len(epoch._blocks) == KEPT


@pytest.mark.parametrize("chunk", [1, 50, 700])
def test_pairs_do_not_depend_on_how_many_documents_are_made_at_once(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for task in ("sentence_order", "next_sentence"):
        whole = Counted(task=task).samples(1, 1).table
        with monkeypatch.context() as patch:
            patch.setattr(segment_pairs, "_CHUNK", chunk)
            assert np.array_equal(Counted(task=task).samples(1, 1).table, whole)


def test_an_epoch_without_pairs_says_so() -> None:
    lonely = MemoryStore(wordpiece(size=20), [[7, 8, 9]] * 40, 3)
    pairs = SegmentPairs(lonely, task="sentence_order", max_length=24, block_tokens=30)
    assert pairs.num_blocks == 4
    with pytest.raises(DataError, match="more than one sentence"):
        epoch_of(pairs)[0]


def test_a_block_without_pairs_is_passed_over() -> None:
    """Most documents make no pair, and blocks are of one document."""
    mixed = MemoryStore(wordpiece(size=20), [[7] * 9] * 30, [[9]] * 12 + [[3, 6]] * 3 + [[9]] * 15)
    pairs = SegmentPairs(mixed, task="sentence_order", max_length=24, block_tokens=9, min_length=0)
    epoch = epoch_of(pairs, tokens_per_step=24)
    assert sorted(np.concatenate(list(epoch)).tolist()) == [0, 1, 2]
    assert sorted(np.concatenate(keys_of(epoch)) >> 24) == [12, 13, 14]
