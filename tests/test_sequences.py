"""Documents cut to sequences, and what is left out."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from memory_store import CLS, SEP, UNK, MemoryStore, wordpiece
from minilm.data import sequences as sequences_module
from minilm.data.sequences import Sequences
from minilm.errors import DataError, InputError

TOKENIZER = wordpiece(size=200)


def document(length: int, first: int = 5) -> list[int]:
    return [5 + (first + position) % 195 for position in range(length)]


def store(*lengths: int) -> MemoryStore:
    documents = [document(length, 7 * number) for number, length in enumerate(lengths)]
    return MemoryStore(TOKENIZER, documents)


def content(sequences: Sequences) -> list[list[int]]:
    """The sequences without [CLS] and [SEP]."""
    for ids in sequences:
        assert ids[0] == CLS
        assert ids[-1] == SEP
        assert ids.dtype == np.int64
    return [ids[1:-1].tolist() for ids in sequences]


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(3, 17))
def test_chunks_in_a_row_are_the_documents(lengths: list[int], max_length: int) -> None:
    documents = [document(length, 3 * length) for length in lengths]
    if not any(lengths):
        return
    found = Sequences(
        MemoryStore(TOKENIZER, documents), max_length=max_length, min_length=3, max_unknown=1
    )
    size = max_length - 2
    chunks = [
        text[start : start + size] for text in documents for start in range(0, len(text), size)
    ]
    assert content(found) == chunks
    assert found.lengths.tolist() == [len(chunk) + 2 for chunk in chunks]


def test_short_sequences_are_left_out() -> None:
    """The released code keeps lengths above 11, [CLS] and [SEP] counted."""
    found = Sequences(store(9, 10, 0, 30 + 9, 30 + 10), max_length=32)
    assert found.lengths.tolist() == [12, 32, 32, 12]
    assert content(found)[0] == document(10, 7)


def test_sequences_half_unknown_are_left_out() -> None:
    """Half of all tokens, [CLS] and [SEP] counted."""
    lines = [[UNK] * unknown + document(18 - unknown) for unknown in (8, 9, 10, 11)]
    kept = Sequences(MemoryStore(TOKENIZER, lines), max_length=20)
    assert content(kept) == lines[:2]
    strict = Sequences(MemoryStore(TOKENIZER, lines), max_length=20, max_unknown=0.45)
    assert content(strict) == lines[:1]
    everything = Sequences(MemoryStore(TOKENIZER, lines), max_length=20, max_unknown=1)
    assert content(everything) == lines


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_unknown_tokens_count_for_their_own_chunk(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequences_module, "_BLOCK", block)
    clean, unknown = document(10), [UNK] * 10
    texts = [clean, unknown + clean, [], clean + unknown + clean[:1], unknown]
    for documents, kept in [(None, 3), (range(1, 4), 2), (range(1, 2), 1)]:
        found = Sequences(
            MemoryStore(TOKENIZER, texts), max_length=12, documents=documents, min_length=12
        )
        assert content(found) == [clean] * kept


def test_ranges_of_documents_have_nothing_in_common() -> None:
    whole = store(30, 12, 50, 11, 29)
    for border in range(1, 5):
        train = Sequences(whole, max_length=16, documents=range(border))
        held_out = Sequences(whole, max_length=16, documents=range(border, 5))
        both = content(train) + content(held_out)
        assert both == content(Sequences(whole, max_length=16))
        assert train.fingerprint != held_out.fingerprint


def test_packed_sequences_are_the_single_ones() -> None:
    found = Sequences(store(30, 12, 50), max_length=16)
    samples = np.array([3, 0, 4, 3])
    packed = found.gather(samples)
    ids, lengths = packed.ids, packed.lengths
    assert ids.tolist() == np.concatenate([found[int(sample)] for sample in samples]).tolist()
    assert lengths.tolist() == found.lengths[samples].tolist()
    packed = found.gather(samples[:0])
    ids, lengths = packed.ids, packed.lengths
    assert ids.shape == lengths.shape == (0,)
    for sample in (-1, len(found)):
        with pytest.raises(InputError, match=f"samples go from 0 to {len(found) - 1}"):
            found[sample]


def test_lengths_cannot_be_changed_by_accident() -> None:
    with pytest.raises(ValueError, match="read-only"):
        Sequences(store(30), max_length=16).lengths[0] = 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_length": 2, "min_length": 2}, "max_length is 2; .* need at least 3"),
        ({"max_length": 11}, "min_length is 12; .* from 3 to max_length=11"),
        ({"max_length": 16, "min_length": 2}, "min_length is 2;"),
        ({"max_length": 16, "max_unknown": 0.0}, "max_unknown is 0.0"),
        ({"max_length": 16, "max_unknown": float("nan")}, "max_unknown is nan"),
        ({"max_length": 16, "documents": range(1, 4)}, r"range\(1, 4\); memory has .* range\(0, 3"),
        ({"max_length": 16, "documents": range(-1, 2)}, r"range\(-1, 2\)"),
        ({"max_length": 16, "documents": range(0, 3, 2)}, r"range\(0, 3, 2\)"),
        ({"max_length": 16, "documents": range(2, 1)}, r"range\(2, 1\)"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Sequences(store(30, 30, 30), **arguments)


@pytest.mark.parametrize(
    ("documents", "chosen"),
    [([], None), ([document(9)], None), ([[UNK] * 30], None), ([document(30)], range(0))],
)
def test_a_store_without_a_usable_sequence_is_refused(
    documents: list[list[int]], chosen: range | None
) -> None:
    with pytest.raises(DataError, match="memory: documents 0 to .* give no sequence"):
        Sequences(MemoryStore(TOKENIZER, documents), max_length=32, documents=chosen)


def test_a_token_outside_the_vocabulary_is_noticed() -> None:
    found = Sequences(MemoryStore(TOKENIZER, [[*document(20), 200]]), max_length=32)
    with pytest.raises(DataError, match="memory is damaged: it holds the token 200"):
        found[0]
