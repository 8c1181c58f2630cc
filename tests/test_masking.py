"""Masking: exact properties, and statistics against the probabilities that the rules give."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings, strategies as st
from tokenizers import Tokenizer as Backend, models

from memory_store import CLS, MASK, PAD, SEP, SPECIAL_TOKENS, UNK, wordpiece
from minilm import Tokenizer
from minilm.data.masking import (
    Corruption,
    Masking,
    RareTokenMasking,
    TokenMasking,
    WholeWordMasking,
    mask,
)
from minilm.data.ngram_masking import NGramMasking
from minilm.data.randomness import Stream, TokenDraw, generator
from minilm.data.vocabulary import Vocabulary
from minilm.errors import InputError, TokenizerFileError
from minilm.files.arrays import Integers

# ids 5 to 24 begin a word, 25 to 34 go on with one
VOCABULARY = Vocabulary.of(
    wordpiece(*[f"w{index}" for index in range(20)], *[f"##p{index}" for index in range(10)])
)
COUNTS = np.arange(VOCABULARY.size) ** 3
MASKINGS: list[Masking] = [
    TokenMasking(VOCABULARY),
    TokenMasking(VOCABULARY, 0.4, max_predictions=3),
    WholeWordMasking(VOCABULARY, 0.3),
    WholeWordMasking(VOCABULARY, 0.5, max_predictions=4),
    RareTokenMasking(VOCABULARY, COUNTS, 0.3),
]
SIGMAS = 5  # of a binomial: one failure in two million for a right program, and the seeds are fixed

contents = st.lists(
    st.one_of(st.integers(5, 34), st.integers(25, 34), st.just(UNK), st.just(SEP)), max_size=30
)
batches = st.lists(contents, max_size=6)


def pack(rows: Sequence[Sequence[int]]) -> tuple[Integers, Integers]:
    """Sequences with [CLS] and [SEP] in a row, and their lengths."""
    framed = [[CLS, *row, SEP] for row in rows]
    ids = np.array(list(itertools.chain(*framed)), dtype=np.int64)
    return ids, np.array([len(row) for row in framed], dtype=np.int64)


def draw_for(lengths: Integers, first: int = 0, seed: int = 0) -> TokenDraw:
    samples = np.arange(first, first + len(lengths))
    return TokenDraw(seed, (Stream.MASKS, 0), samples, lengths)


def choose(
    masking: Masking, rows: Sequence[Sequence[int]], seed: int = 0
) -> list[npt.NDArray[np.bool_]]:
    ids, lengths = pack(rows)
    chosen = masking.choose(ids, lengths, draw_for(lengths, seed=seed))
    return np.split(chosen, lengths.cumsum()[:-1]) if len(lengths) else []


def check_share(hits: int, trials: int, probability: float) -> None:
    deviation = math.sqrt(trials * probability * (1 - probability))
    assert abs(hits - trials * probability) <= SIGMAS * deviation, (hits / trials, probability)


# ---- vocabulary ----


def test_special_tokens_and_word_starts_of_wordpiece() -> None:
    assert np.flatnonzero(VOCABULARY.special).tolist() == [PAD, UNK, CLS, SEP, MASK]
    ids = (VOCABULARY.cls_id, VOCABULARY.sep_id, VOCABULARY.unk_id, VOCABULARY.mask_id)
    assert ids == (CLS, SEP, UNK, MASK)
    assert VOCABULARY.starts_word is not None
    assert np.flatnonzero(~VOCABULARY.starts_word).tolist() == list(range(25, 35))


# What google-research/albert's rule says of these pieces.
STARTING = ["▁the", "▁", "<x>", ",", "'", "'s", "2", "19", "é", "naïve", "東", "–", "£"]
CONTINUING = ["ing", "s", "Ing", "a.b", "--", "-t"]


def test_word_starts_of_sentencepiece() -> None:
    roles = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*roles, *STARTING, *CONTINUING]
    backend = Backend(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=1))
    vocabulary = Vocabulary.of(Tokenizer(backend))
    assert vocabulary.starts_word is not None
    starts = dict(zip(pieces, vocabulary.starts_word.tolist(), strict=True))
    assert [piece for piece in STARTING if not starts[piece]] == []
    assert [piece for piece in CONTINUING if starts[piece]] == []
    assert np.flatnonzero(vocabulary.special).tolist() == [0, 1, 2, 3, 4]


def test_every_token_of_a_word_level_vocabulary_is_a_word() -> None:
    ids = {token: index for index, token in enumerate([*SPECIAL_TOKENS, "C", "##C"])}
    vocabulary = Vocabulary.of(Tokenizer(Backend(models.WordLevel(ids, unk_token="[UNK]"))))
    assert vocabulary.starts_word is not None
    assert vocabulary.starts_word.all()


def test_words_that_leave_no_mark_are_refused() -> None:
    ids = {token: index for index, token in enumerate([*SPECIAL_TOKENS, "a", "b"])}
    vocabulary = Vocabulary.of(Tokenizer(Backend(models.BPE(ids, [], unk_token="[UNK]"))))
    assert vocabulary.starts_word is None
    for make in (WholeWordMasking, NGramMasking):
        with pytest.raises(InputError, match="does not show where words begin.*Use TokenMasking"):
            make(vocabulary)


def test_a_tokenizer_without_a_mask_token_is_refused() -> None:
    ids = {token: index for index, token in enumerate([*SPECIAL_TOKENS[:4], "a"])}
    tokenizer = Tokenizer(Backend(models.WordPiece(ids, unk_token="[UNK]")))
    with pytest.raises(TokenizerFileError, match="no mask token"):
        Vocabulary.of(tokenizer)


# ---- which positions ----


@pytest.mark.parametrize("masking", MASKINGS)
@settings(deadline=None)
@given(rows=batches, seed=st.integers(0, 2**40))
def test_special_tokens_are_never_touched(
    masking: Masking, rows: list[list[int]], seed: int
) -> None:
    ids, lengths = pack(rows)
    inputs, labels = mask(ids, lengths, masking, VOCABULARY, draw_for(lengths, seed=seed))
    special = VOCABULARY.special[ids]
    assert (labels[special] == -100).all()
    chosen = labels != -100
    assert (inputs[~chosen] == ids[~chosen]).all()
    assert (labels[chosen] == ids[chosen]).all()
    assert inputs.dtype == labels.dtype == np.int64
    assert ((inputs >= 0) & (inputs < VOCABULARY.size)).all()


@settings(deadline=None)
@given(batches)
def test_as_many_tokens_are_chosen_as_the_rule_says(rows: list[list[int]]) -> None:
    plain = choose(TokenMasking(VOCABULARY), rows)
    capped = choose(TokenMasking(VOCABULARY, 0.4, max_predictions=3), rows)
    rare = choose(RareTokenMasking(VOCABULARY, COUNTS), rows)
    for index, row in enumerate(rows):
        n = len(row) + 2
        able = sum(token >= 5 for token in row)
        assert plain[index].sum() == min(max(1, round(0.15 * n)), able)
        assert capped[index].sum() == min(max(1, round(0.4 * n)), 3, able)
        assert rare[index].sum() == min(math.ceil(0.15 * n), able)


def test_google_rounds_halves_to_even_numbers() -> None:
    (ten,) = choose(TokenMasking(VOCABULARY), [[5] * 8])  # 1.5 tokens
    (thirty,) = choose(TokenMasking(VOCABULARY), [[5] * 28])  # 4.5 tokens
    assert (ten.sum(), thirty.sum()) == (2, 4)


def whole_words_one_by_one(rows: list[list[int]], probability: float, cap: int) -> list[list[int]]:
    """The rule of `WholeWordMasking` with the same draws, written as Google's script does it."""
    _, lengths = pack(rows)
    uniform = draw_for(lengths)(1)[:, 0]
    chosen_of_all = []
    begin = 0
    for row, length in zip(rows, lengths.tolist(), strict=True):
        words: list[list[int]] = []
        for position, token in enumerate(row, 1):
            if token < 5:
                continue
            after_special = position == 1 or row[position - 2] < 5
            if token < 25 or after_special:
                words.append([])
            words[-1].append(position)
        words.sort(key=lambda word: uniform[begin + word[0]])
        budget = min(cap, max(1, round(probability * length)))
        chosen: list[int] = []
        for word in words:
            if len(chosen) >= budget:
                break
            if len(chosen) + len(word) <= budget:
                chosen += word
        chosen_of_all.append(sorted(chosen))
        begin += length
    return chosen_of_all


@settings(deadline=None, max_examples=150)
@given(batches, st.sampled_from([0.15, 0.5]), st.sampled_from([2, 100]))
def test_whole_words_are_those_of_a_plain_loop(
    rows: list[list[int]], probability: float, cap: int
) -> None:
    found = choose(WholeWordMasking(VOCABULARY, probability, cap), rows)
    positions = [np.flatnonzero(chosen).tolist() for chosen in found]
    assert positions == whole_words_one_by_one(rows, probability, cap)


def test_all_words_are_equally_likely() -> None:
    """Of three words of two pieces one fits, whatever else is in the sequence."""
    found = np.array(choose(WholeWordMasking(VOCABULARY, 0.25), [[5, 25, 6, 26, 7, 27]] * 20_000))
    assert (found[:, 1::2][:, :3] == found[:, 2::2][:, :3]).all()
    for word in (1, 3, 5):
        check_share(int(found[:, word].sum()), len(found), 1 / 3)


def test_a_word_too_long_for_the_budget_is_never_chosen() -> None:
    found = choose(WholeWordMasking(VOCABULARY), [[5, *[25] * 9]] * 50)
    assert not np.any(found)


def test_all_tokens_are_equally_likely() -> None:
    row = [5, 30, UNK, 6, 6, 24, 25, 7]  # 2 of 7 that are not special
    found = np.array(choose(TokenMasking(VOCABULARY, 0.2), [row] * 20_000))
    for position, token in enumerate(row, 1):
        if token != UNK:
            check_share(int(found[:, position].sum()), len(found), 2 / 7)


@pytest.mark.parametrize("smoothing", [0.0, 0.7, 1.0])
def test_rare_tokens_are_chosen_as_often_as_their_weights_say(smoothing: float) -> None:
    """Two of four drawn without replacement: every ordered pair has a closed-form probability."""
    counts = np.zeros(VOCABULARY.size, dtype=np.int64)
    counts[[5, 6, 7, 8]] = [0, 10, 100, 1000]
    weights = np.array([1.0, 10.0, 100.0, 1000.0]) ** -smoothing
    expected = np.zeros(4)
    for first, second in itertools.permutations(range(4), 2):
        rest = weights.sum() - weights[first]
        expected[[first, second]] += weights[first] / weights.sum() * weights[second] / rest
    assert expected.sum() == pytest.approx(2)

    masking = RareTokenMasking(VOCABULARY, counts, 0.3, smoothing)  # ceil(0.3 * 6) = 2
    found = np.array(choose(masking, [[5, 6, 7, 8]] * 40_000))
    for position in range(4):
        check_share(int(found[:, position + 1].sum()), len(found), expected[position])


def test_counts_of_zero_weigh_as_one() -> None:
    counts = np.ones(VOCABULARY.size, dtype=np.int64)
    rows = [list(range(5, 30))] * 10
    ones = choose(RareTokenMasking(VOCABULARY, counts), rows)
    zeros = choose(RareTokenMasking(VOCABULARY, counts * 0), rows)
    assert np.array_equal(ones, zeros)


# ---- what the model sees there ----


@pytest.mark.parametrize("masking", [MASKINGS[0], MASKINGS[2], MASKINGS[4]])
def test_80_10_10(masking: Masking) -> None:
    rows = [[5 + (index + shift) % 30 for index in range(60)] for shift in range(3000)]
    ids, lengths = pack(rows)
    inputs, labels = mask(ids, lengths, masking, VOCABULARY, draw_for(lengths))
    chosen = labels != -100
    seen, original = inputs[chosen], ids[chosen]
    uniform = 0.1 / VOCABULARY.size  # a random token may be any, the mask and the original too
    check_share(int((seen == MASK).sum()), len(seen), 0.8 + uniform)
    check_share(int((seen == original).sum()), len(seen), 0.1 + uniform)
    other = (seen != MASK) & (seen != original)
    check_share(int(other.sum()), len(seen), 0.1 - 2 * uniform)
    for token in range(VOCABULARY.size):
        if token != MASK:
            trials = original != token
            check_share(int((seen[trials] == token).sum()), int(trials.sum()), uniform)


@pytest.mark.parametrize("masking", [MASKINGS[0], MASKINGS[2]])
def test_what_is_seen_has_nothing_to_do_with_what_was_chosen(masking: Masking) -> None:
    """Neighbouring pieces of one word, and first and last choices, meet their fates alone."""
    rows = [[5, 25] * 15] * 4000
    ids, lengths = pack(rows)
    inputs, labels = mask(ids, lengths, masking, VOCABULARY, draw_for(lengths))
    both = np.flatnonzero((labels[:-1] != -100) & (labels[1:] != -100))
    masked = inputs == MASK
    probability = 0.8 + 0.1 / VOCABULARY.size
    check_share(int((masked[both] & masked[both + 1]).sum()), len(both), probability**2)
    for position in range(1, 31):
        here = labels.reshape(-1, 32)[:, position] != -100
        hits = masked.reshape(-1, 32)[here, position]
        check_share(int(hits.sum()), len(hits), probability)


@pytest.mark.parametrize(
    ("corruption", "masked", "kept"),
    [(Corruption(1.0, 0.0), True, False), (Corruption(0.0, 1.0), False, True)],
)
def test_shares_of_one_leave_nothing_else(corruption: Corruption, masked: bool, kept: bool) -> None:
    ids, lengths = pack([list(range(5, 35))] * 50)
    inputs, labels = mask(ids, lengths, MASKINGS[0], VOCABULARY, draw_for(lengths), corruption)
    chosen = labels != -100
    assert (inputs[chosen] == MASK).all() == masked
    assert (inputs[chosen] == ids[chosen]).all() == kept


# ---- randomness ----


@pytest.mark.parametrize("masking", MASKINGS)
@settings(deadline=None)
@given(rows=batches, data=st.data())
def test_masks_do_not_depend_on_the_rest_of_the_batch(
    masking: Masking, rows: list[list[int]], data: st.DataObject
) -> None:
    ids, lengths = pack(rows)
    together = mask(ids, lengths, masking, VOCABULARY, draw_for(lengths))
    ends = lengths.cumsum()
    for sample in data.draw(st.permutations(range(len(rows)))):
        here = slice(ends[sample] - lengths[sample], ends[sample])
        one = np.array([lengths[sample]])
        alone = mask(ids[here], one, masking, VOCABULARY, draw_for(one, first=sample))
        for found, expected in zip(alone, together, strict=True):
            assert np.array_equal(found, expected[here])


def test_every_part_of_the_key_matters() -> None:
    lengths = np.array([3, 3])
    samples = np.array([0, 1])
    seen = set()
    for seed, key in [(0, (1, 0)), (1, (1, 0)), (0, (2, 0)), (0, (1, 1)), (0, (1,)), (0, ())]:
        draw = TokenDraw(seed, key, samples, lengths)
        for numbers in (draw(1), draw(1)):
            assert numbers.shape == (6, 1)
            seen |= set(numbers.ravel().tolist())
    assert len(seen) == 6 * 2 * 6
    assert all(0 <= number < 1 for number in seen)


def test_generators_differ_with_the_length_of_their_key() -> None:
    firsts = {generator(5, *key).random() for key in [(), (0,), (0, 0), (1,), (1, 0)]}
    assert len(firsts) == 5
    assert generator(5, 1).random() == generator(5, 1).random()


def test_numbers_never_change() -> None:
    """A run that goes on after an upgrade must find the same order and the same masks.

    The values are those of this code on numpy 2.4.6.
    """
    assert generator(1, Stream.ORDER, 0).permutation(8).tolist() == [3, 6, 4, 5, 7, 1, 2, 0]
    draw = TokenDraw(1, (Stream.MASKS, 2), np.array([3, 70000]), np.array([2, 1]))
    assert draw(1).ravel().tolist() == [0.11838056380914885, 0.9225531353762946, 0.5642564287519753]
    assert draw(2)[2].tolist() == [0.4718659285232554, 0.7460750374490769]


# ---- wrong arguments ----


@pytest.mark.parametrize("probability", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_probability_outside_0_and_1_is_refused(probability: float) -> None:
    for make in (TokenMasking, WholeWordMasking):
        with pytest.raises(InputError, match="probability is .*between 0 and 1"):
            make(VOCABULARY, probability)
    with pytest.raises(InputError, match="probability is .*between 0 and 1"):
        RareTokenMasking(VOCABULARY, COUNTS, probability)


def test_other_wrong_arguments_are_refused() -> None:
    with pytest.raises(InputError, match="max_predictions is 0"):
        TokenMasking(VOCABULARY, max_predictions=0)
    with pytest.raises(InputError, match=r"one for each token .* shape \(3,\)"):
        RareTokenMasking(VOCABULARY, COUNTS[:3])
    with pytest.raises(InputError, match=r"shape \(0,\)\."):
        RareTokenMasking(VOCABULARY, COUNTS[:0])
    with pytest.raises(InputError, match="the least is -1"):
        RareTokenMasking(VOCABULARY, COUNTS - 1)
    with pytest.raises(InputError, match="smoothing is -0.7"):
        RareTokenMasking(VOCABULARY, COUNTS, smoothing=-0.7)
    for shares in [(0.9, 0.2), (-0.1, 0.5), (0.5, -0.1), (float("nan"), 0.1)]:
        with pytest.raises(InputError, match="mask_share is"):
            Corruption(*shares)
    for share in [-0.1, 1.1, float("nan")]:
        with pytest.raises(InputError, match="mask_replace_probability is"):
            Corruption.with_mask_share(share)


def test_what_is_not_masked_is_halved() -> None:
    assert Corruption.with_mask_share(0.8) == Corruption()  # to the bit: runs compare the shares
    assert Corruption.with_mask_share(0.5) == Corruption(0.5, 0.25)
    assert Corruption.with_mask_share(1) == Corruption(1, 0)


@pytest.mark.parametrize("seed", [-1, 0.5, "1"])
def test_what_is_no_seed_is_refused(seed: object) -> None:
    with pytest.raises(InputError, match="must be integers of at least 0"):
        generator(seed)  # type: ignore[arg-type]
