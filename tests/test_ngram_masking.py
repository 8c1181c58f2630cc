"""Runs of words, against a plain transcription fed with the same random numbers."""

from itertools import chain

import numpy as np
import pytest

from memory_store import CLS, MASK, SEP, UNK, wordpiece
from minilm.data.masking import mask
from minilm.data.ngram_masking import NGramMasking
from minilm.data.randomness import TokenDraw
from minilm.data.vocabulary import Vocabulary
from minilm.errors import InputError
from minilm.files.arrays import Integers
from minilm.tokenization.tokenizer import Tokenizer

WORDS = [f"w{i}" for i in range(60)] + [f"##p{i}" for i in range(40)]
VOCABULARY = Vocabulary.of(wordpiece(*WORDS))
FIRST, PIECES = 5, 65  # ids of w0 and ##p0


def text(seed: int, sequences: int, longest: int = 128) -> tuple[Integers, Integers]:
    """Pairs of segments of words with 1 to 3 pieces, here and there an unknown one."""
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(sequences):
        length = int(random.integers(5, longest))
        row = np.where(
            random.random(length) < 0.35,
            random.integers(PIECES, PIECES + 40, length),
            random.integers(FIRST, PIECES, length),
        )
        row[random.random(length) < 0.02] = UNK
        row[0], row[-1], row[int(random.integers(1, length - 1))] = CLS, SEP, SEP
        rows.append(row)
    return np.concatenate(rows), np.array([len(row) for row in rows])


def draw_of(lengths: Integers, seed: int = 0) -> TokenDraw:
    return TokenDraw(seed, (1, 0), np.arange(len(lengths)), lengths)


def plain(
    ids: Integers, lengths: Integers, draw: TokenDraw, cap: int | None = None
) -> tuple[list[list[bool]], list[int]]:
    """One sequence after the other, one run after the other; and how many words each run had."""
    numbers = draw(2)
    begin, flags, runs = 0, [], []
    for length in lengths.tolist():
        row, chances = ids[begin : begin + length].tolist(), numbers[begin : begin + length]
        words: list[list[int]] = []
        segment_of: list[int] = []
        segment, open_word = 0, False
        for place, token in enumerate(row):
            if VOCABULARY.special[token]:
                segment, open_word = segment + 1, False
            elif open_word and token >= PIECES:
                words[-1].append(place)
            else:
                words.append([place])
                segment_of.append(segment)
                open_word = True
        budget = max(1, round(0.15 * length))
        left = budget if cap is None else min(budget, cap)
        taken: set[int] = set()
        for first in sorted(range(len(words)), key=lambda word: chances[words[word][0], 0]):
            if not left:
                break
            number = chances[words[first][0], 1]
            size = 1 + (number >= 6 / 11) + (number >= 9 / 11)
            run = [
                word
                for word in range(first, min(first + size, len(words)))
                if segment_of[word] == segment_of[first]
            ]
            while len(run) > 1 and sum(len(words[word]) for word in run) > left:
                run.pop()
            tokens = [place for word in run for place in words[word]]
            if len(tokens) > left or taken & set(tokens):
                continue
            taken |= set(tokens)
            left -= len(tokens)
            runs.append(len(run))
        flags.append([place in taken for place in range(length)])
        begin += length
    return flags, runs


@pytest.mark.parametrize("cap", [None, 6])
@pytest.mark.parametrize("seed", range(4))
def test_the_choice_is_that_of_the_plain_algorithm(seed: int, cap: int | None) -> None:
    ids, lengths = text(seed, 120)
    chosen = NGramMasking(VOCABULARY, max_predictions=cap).choose(
        ids, lengths, draw_of(lengths, seed)
    )
    wanted = plain(ids, lengths, draw_of(lengths, seed), cap)[0]
    assert chosen.tolist() == list(chain(*wanted))
    assert not (chosen & VOCABULARY.special[ids]).any()


def test_the_last_words_may_have_no_special_token_behind_them() -> None:
    lengths = np.full(20, 40)
    ids = FIRST + np.arange(lengths.sum()) % 60
    chosen = NGramMasking(VOCABULARY).choose(ids, lengths, draw_of(lengths))
    assert chosen.tolist() == list(chain(*plain(ids, lengths, draw_of(lengths))[0]))


def test_lengths_of_runs_follow_one_over_n() -> None:
    """In long sequences, where few runs are shortened or in each other's way."""
    lengths = np.full(400, 502)
    row = np.concatenate([[CLS], np.arange(500) % 60 + FIRST, [SEP]])
    _, runs = plain(np.tile(row, 400), lengths, draw_of(lengths))
    counts = np.bincount(runs, minlength=4)[1:]
    shares = counts / counts.sum()
    # longer runs meet others more often, and the last one is shortened: not exactly 6, 3 and 2
    assert np.abs(shares - np.array([6, 3, 2]) / 11).max() < 0.03
    assert shares[0] > 6 / 11
    single = NGramMasking(VOCABULARY, max_ngram=1)
    chosen = single.choose(np.tile(row, 400), lengths, draw_of(lengths))
    assert chosen.sum() == 400 * 75


def test_the_budget_is_met() -> None:
    ids, lengths = text(9, 500)
    chosen = NGramMasking(VOCABULARY).choose(ids, lengths, draw_of(lengths))
    numbers = np.add.reduceat(chosen, np.cumsum(lengths) - lengths, dtype=np.int64)
    budget = np.maximum(np.rint(0.15 * lengths), 1)
    assert (numbers <= budget).all()
    assert numbers.sum() > 0.99 * budget.sum()
    long = np.tile(np.concatenate([[CLS], np.full(510, FIRST), [SEP]]), 20)
    capped = NGramMasking(VOCABULARY, max_predictions=20)
    chosen = capped.choose(long, np.full(20, 512), draw_of(np.full(20, 512)))
    assert chosen.mean() == pytest.approx(20 / 512)  # Google's flag at full length: 3.9 %


def test_masked_kept_or_replaced_is_decided_token_by_token() -> None:
    lengths = np.full(400, 258)
    row = np.concatenate([[CLS], np.arange(256) % 60 + FIRST, [SEP]])
    ids = np.tile(row, 400)
    inputs, labels = mask(ids, lengths, NGramMasking(VOCABULARY), VOCABULARY, draw_of(lengths))
    chosen = labels != -100
    count = int(chosen.sum())
    masked = inputs[chosen] == MASK
    kept = inputs[chosen] == ids[chosen]
    # a replaced token may by chance be [MASK] or the original, one in 105 each
    for found, share in ((masked.mean(), 0.8 + 0.1 / 105), (kept.mean(), 0.1 + 0.1 / 105)):
        assert abs(found - share) < 4 * np.sqrt(share * (1 - share) / count)
    # in runs of two and more, neighbours decide independently
    together = chosen[1:] & chosen[:-1]
    both = (inputs[1:] == MASK) & (inputs[:-1] == MASK) & together
    assert abs(both.sum() / together.sum() - 0.64) < 4 * np.sqrt(0.64 * 0.36 / together.sum())


def test_pieces_of_sentencepiece_vocabularies_stay_together() -> None:
    from tokenizers import Tokenizer as Backend, models

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "▁un", "do", "▁the", "7", "."]
    backend = Backend(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=1))
    vocabulary = Vocabulary.of(Tokenizer(backend))
    row = [2, 5, 6, 7, 8, 5, 6, 9, 7, 3]
    ids, lengths = np.array(row * 300), np.full(300, 10)
    masking = NGramMasking(vocabulary, probability=0.3)
    chosen = masking.choose(ids, lengths, draw_of(lengths)).reshape(300, 10)
    assert (chosen[:, 1] == chosen[:, 2]).all()
    assert (chosen[:, 5] == chosen[:, 6]).all()
    assert 0 < chosen[:, 4].mean() < 1


def test_no_sequence_and_no_word() -> None:
    nothing = np.empty(0, np.int64)
    masking = NGramMasking(VOCABULARY)
    assert len(masking.choose(nothing, nothing, draw_of(nothing))) == 0
    ids, lengths = np.array([CLS, SEP, CLS, FIRST, SEP]), np.array([2, 3])
    assert masking.choose(ids, lengths, draw_of(lengths)).tolist() == [False] * 3 + [True, False]


@pytest.mark.parametrize("max_ngram", [0, 1.5])
def test_wrong_arguments_are_named(max_ngram: int) -> None:
    with pytest.raises(InputError, match=f"max_ngram is {max_ngram}"):
        NGramMasking(VOCABULARY, max_ngram=max_ngram)
