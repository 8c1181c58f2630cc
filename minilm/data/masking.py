"""Masked-LM targets: the positions to predict, and the model's input there.

    BERT         random tokens                                       TokenMasking
    BERT, wwm    all pieces of random words                          WholeWordMasking
    ALBERT       random runs of words (ngram_masking.py)             NGramMasking
    DistilBERT   random tokens, rare ones more often                 RareTokenMasking

All work on a packed batch at once, and the masks of a sequence depend only on its own random
numbers (see `minilm.data.randomness`). Special tokens are never chosen, not even [UNK]: predicting
it teaches nothing (the released distillation code agrees; Google's chooses [UNK] like any token).
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from minilm.data.randomness import Draw
from minilm.data.vocabulary import Vocabulary
from minilm.errors import InputError, argument, by_place
from minilm.files.arrays import Doubles, Flags, Integers
from minilm.losses.elementary import IGNORED_LABEL

Number = TypeVar("Number", bound=np.generic)


class Masking(Protocol):
    """A way to choose the positions to predict."""

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Name and numbers as JSON values."""

    def choose(
        self, ids: Integers, lengths: Integers, draw: Draw, ratios: Doubles | None = None
    ) -> Flags:
        """Chooses positions in a packed batch.

        Args:
            ids: (T,) the sequences one after another, special tokens included.
            lengths: (B,) number of tokens of each.
            draw: uniform random numbers for the tokens.
            ratios: (B,) the fraction of each sequence that is predicted, between 0 and 1; None =
                the masking's own probability.

        Returns:
            (T,) True at the positions to predict.
        """


class TokenMasking:
    """BERT's choice: tokens, all equally likely.

    In a sequence of n tokens, special ones included, max(1, round(probability * n)) are chosen, or
    all that are not special if these are fewer.

    Args:
        vocabulary: the vocabulary of the tokenizer.
        probability: fraction of a sequence that is predicted.
        max_predictions: maximum number in a sequence (Google's scripts: 20); None = no limit.

    References:
        Devlin et al. 2019, section 3.1; google-research/bert, create_pretraining_data.py.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        probability: float = 0.15,
        max_predictions: int | None = None,
    ) -> None:
        self._budget = Budget(probability, max_predictions)
        self._weights = np.where(vocabulary.special, 0.0, 1.0)  # (V,)
        self.fingerprint: dict[str, Any] = {"name": "tokens", **asdict(self._budget)}

    def choose(
        self, ids: Integers, lengths: Integers, draw: Draw, ratios: Doubles | None = None
    ) -> Flags:
        """See `Masking`."""
        winners = self._budget.rounded(lengths, ratios)
        return _race(self._weights[ids], draw(1)[:, 0], lengths, winners)


class RareTokenMasking:
    """DistilBERT's choice: rare tokens more often, with weight count ** -smoothing.

    In a sequence of n tokens, special ones included, ceil(probability * n) are drawn without
    replacement, or all that are not special if these are fewer.

    Differs from the released code, which draws the positions of a whole batch together, so that
    sequences with rare tokens take predictions from their neighbours.

    Args:
        vocabulary: the vocabulary of the tokenizer.
        counts: (V,) how often each token occurs in the corpus; 0 counts as 1.
        probability: fraction of a sequence that is predicted.
        smoothing: 0 makes all tokens equally likely.
        max_predictions: maximum number in a sequence; None = no limit.

    Raises:
        InputError: an argument is out of range, or counts are not the vocabulary's.

    References:
        XLM (Lample and Conneau 2019, section 3.2) for the sampling; transformers'
        research_projects/distillation, distiller.py, prepare_batch_mlm.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        counts: Integers,
        probability: float = 0.15,
        smoothing: float = 0.7,
        max_predictions: int | None = None,
    ) -> None:
        if counts.shape != (vocabulary.size,) or counts.min() < 0:
            raise InputError(
                f"counts must be ({vocabulary.size},) numbers of at least 0, one for each token of "
                f"the vocabulary; it has the shape {counts.shape}"
                + (f" and the least is {counts.min()}." if counts.size else ".")
            )
        if not 0 <= smoothing <= 1:
            raise InputError(f"smoothing is {smoothing!r}; expected a number from 0 to 1.")
        self._budget = Budget(probability, max_predictions)
        weights = np.maximum(counts, 1).astype(np.float64) ** -smoothing
        self._weights: Doubles = np.where(vocabulary.special, 0.0, weights)  # (V,)
        self.fingerprint: dict[str, Any] = {
            "name": "rare_tokens",
            **asdict(self._budget),
            "smoothing": smoothing,
            "counts": hashlib.sha256(counts.astype("<i8").tobytes()).hexdigest(),
        }

    def choose(
        self, ids: Integers, lengths: Integers, draw: Draw, ratios: Doubles | None = None
    ) -> Flags:
        """See `Masking`."""
        winners = self._budget.rounded_up(lengths, ratios)
        return _race(self._weights[ids], draw(1)[:, 0], lengths, winners)


class WholeWordMasking:
    """Whole word masking: all pieces of the chosen words, all words equally likely.

    The budget is that of `TokenMasking`, in tokens. Words are taken in random order; one that no
    longer fits is skipped. So a sequence may have a few predictions fewer, and none if all its
    words are very long. The first piece of a sequence begins a word even where a document was cut
    inside one, and no word extends past a special token.

    Args:
        vocabulary: the vocabulary of the tokenizer.
        probability: fraction of a sequence that is predicted.
        max_predictions: maximum number in a sequence; None = no limit.

    Raises:
        InputError: an argument is out of range, or the vocabulary does not show where words begin.

    References:
        google-research/bert, create_pretraining_data.py with do_whole_word_mask.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        probability: float = 0.15,
        max_predictions: int | None = None,
    ) -> None:
        vocabulary.require_words()
        self._budget = Budget(probability, max_predictions)
        self._vocabulary = vocabulary
        self.fingerprint: dict[str, Any] = {"name": "whole_words", **asdict(self._budget)}

    def choose(
        self, ids: Integers, lengths: Integers, draw: Draw, ratios: Doubles | None = None
    ) -> Flags:
        """See `Masking`."""
        words = Words(ids, lengths, self._vocabulary)
        rows = Rows(words.counts)
        order = rows.table(draw(1)[words.starts, 0], np.inf).argsort(axis=1)  # (B, words)
        sizes = np.take_along_axis(rows.table(words.sizes, 0), order, axis=1)
        left = self._budget.rounded(lengths, ratios)
        taken = np.zeros(order.shape, dtype=np.bool_)
        # one word of every sequence at a time; where a sequence has no more, the size is 0
        for rank in range(order.shape[1]):
            if not left.any():
                break
            fits = sizes[:, rank] <= left
            left -= sizes[:, rank] * fits
            taken[:, rank] = fits
        return words.tokens(rows.line(unsort(taken, order)))


class Words:
    """The words of a packed batch, one after another.

    Args:
        ids, lengths: see `Masking`.
        vocabulary: a vocabulary that shows where words begin.

    Attributes:
        starts: (T,) True for the first token of every word.
        sizes: (words,) number of tokens of each word.
        counts: (B,) number of words of each sequence.
        stops: (words,) for each word, the number in its sequence of the first word after its
            segment.
    """

    def __init__(self, ids: Integers, lengths: Integers, vocabulary: Vocabulary) -> None:
        assert vocabulary.starts_word is not None
        ends = lengths.cumsum()
        self._ordinary: Flags = ~vocabulary.special[ids]
        boundary = np.ones(len(ids), dtype=np.bool_)
        boundary[1:] = ~self._ordinary[:-1]
        boundary[ends - lengths] = True
        self.starts: Flags = self._ordinary & (vocabulary.starts_word[ids] | boundary)
        self._number = self.starts.cumsum()  # the number of each token's word, from 1
        words = int(self._number[-1]) if len(ids) else 0
        self.sizes: Integers = np.bincount(self._number[self._ordinary], minlength=words + 1)[1:]
        self.counts: Integers = np.diff(self._number[ends - 1], prepend=0)
        special = np.flatnonzero(~self._ordinary)
        behind = np.append(self._number[special], words)
        behind = behind[np.searchsorted(special, np.flatnonzero(self.starts))]
        behind -= np.repeat(self.counts.cumsum() - self.counts, self.counts)
        self.stops: Integers = np.minimum(behind, np.repeat(self.counts, self.counts))

    def tokens(self, chosen: Flags) -> Flags:
        """(T,) the tokens of the chosen words; `chosen` is (words,)."""
        by_number = np.zeros(len(chosen) + 1, dtype=np.bool_)
        by_number[1:] = chosen
        tokens: Flags = by_number[self._number] & self._ordinary
        return tokens


@dataclass(frozen=True)
class Corruption:
    """The model's input at the chosen positions, drawn independently for each of them.

    A position that is neither masked nor kept gets a token drawn uniformly from the whole
    vocabulary (which may be a special token, or the original one, as in Google's and in the
    released distillation code).

    Attributes:
        mask_share: fraction of the positions that become [MASK].
        keep_share: fraction of the positions that keep their token.

    Raises:
        InputError: a fraction is below 0, or their sum exceeds 1.
    """

    mask_share: float = 0.8
    keep_share: float = 0.1

    def __post_init__(self) -> None:
        whole = self.mask_share + self.keep_share
        if min(self.mask_share, self.keep_share) < 0 or not whole <= 1 + 1e-9:
            raise InputError(
                f"mask_share is {self.mask_share!r} and keep_share {self.keep_share!r}; expected "
                "fractions of at least 0 whose sum does not exceed 1."
            )

    @classmethod
    def with_mask_share(cls, mask_share: float) -> Corruption:
        """Half of the positions that do not become [MASK] stay, half become random tokens.

        References:
            Devlin et al. 2019, appendix C.2 (0.8 in pretraining); Wettig et al. 2023, "Should You
            Mask 15% in Masked Language Modeling?" (1 does as well or better).

        Raises:
            InputError: the fraction is not between 0 and 1.
        """
        if not 0 <= mask_share <= 1:
            raise InputError(
                f"{argument('mask_replace_probability')} is {mask_share!r}; expected a fraction "
                "between 0 and 1."
            )
        return cls(mask_share, round((1 - mask_share) / 2, 12))


BERT = Corruption()


def mask(
    ids: Integers,
    lengths: Integers,
    masking: Masking,
    vocabulary: Vocabulary,
    draw: Draw,
    corruption: Corruption = BERT,
    ratios: Doubles | None = None,
) -> tuple[Integers, Integers]:
    """Masks a packed batch.

    Args:
        ids: (T,) the sequences one after another, special tokens included.
        lengths: (B,) number of tokens of each.
        masking: chooses the positions.
        vocabulary: the vocabulary of the tokenizer.
        draw: uniform random numbers for the tokens.
        corruption: the fractions of chosen positions that are masked, kept or replaced.
        ratios: (B,) the fraction of each sequence that is predicted; None = the masking's own.

    Returns:
        The model's input ids, (T,), and the labels, (T,): the original id at the chosen positions,
        -100 elsewhere.
    """
    chosen = masking.choose(ids, lengths, draw, ratios)
    fate, other = draw(2).T
    masked = chosen & (fate < corruption.mask_share)
    replaced = chosen & (fate >= corruption.mask_share + corruption.keep_share)
    inputs = ids.copy()
    inputs[masked] = vocabulary.mask_id
    inputs[replaced] = other[replaced] * vocabulary.size
    return inputs, np.where(chosen, ids, IGNORED_LABEL)


@dataclass(frozen=True)
class Budget:
    """The number of positions to predict in a sequence."""

    probability: float
    max_predictions: int | None

    def __post_init__(self) -> None:
        if not 0 < self.probability < 1:
            raise InputError(
                f"{by_place(python='probability', command=argument('mask_probability'))} is "
                f"{self.probability!r}; expected a fraction between 0 and 1, both excluded."
            )
        if self.max_predictions is not None and self.max_predictions < 1:
            raise InputError(
                f"max_predictions is {self.max_predictions!r}; expected at least 1, or None for no "
                "limit."
            )

    def rounded(self, lengths: Integers, ratios: Doubles | None = None) -> Integers:
        """(B,) ratio times length rounded to the nearest number, half to even, at least 1."""
        shares = self.probability if ratios is None else ratios
        return self._capped(np.maximum(np.rint(shares * lengths), 1))

    def rounded_up(self, lengths: Integers, ratios: Doubles | None = None) -> Integers:
        """(B,) ratio times length, rounded up."""
        shares = self.probability if ratios is None else ratios
        return self._capped(np.ceil(shares * lengths))

    def _capped(self, numbers: Doubles) -> Integers:
        cap = np.inf if self.max_predictions is None else self.max_predictions
        return np.minimum(numbers, cap).astype(np.int64)


class Rows:
    """Turns a packed array into a table with one row for each sequence."""

    def __init__(self, lengths: Integers) -> None:
        self._inside = np.arange(lengths.max(initial=0)) < lengths[:, None]  # (B, longest)

    def table(self, line: npt.NDArray[Number], fill: float) -> npt.NDArray[Number]:
        """(B, longest), with `fill` at the end of shorter rows."""
        table = np.full(self._inside.shape, fill, dtype=line.dtype)
        table[self._inside] = line
        return table

    def line(self, table: npt.NDArray[Number]) -> npt.NDArray[Number]:
        """The inverse of `table`."""
        return table[self._inside]


def _race(weights: Doubles, uniform: Doubles, lengths: Integers, winners: Integers) -> Flags:
    """Draws tokens of every sequence without replacement, in proportion to their weights.

    Each token arrives after an exponentially distributed time whose rate is its weight; the first
    ones win. A token of weight 0 never arrives.

    Args:
        weights, uniform: (T,) weight and random number of each token.
        lengths: (B,) number of tokens of each sequence.
        winners: (B,) how many are drawn from each sequence, if that many have a weight above 0.

    Returns:
        (T,) True for the winners.

    References:
        Efraimidis and Spirakis 2006, weighted random sampling with a reservoir.
    """
    times = np.full(len(weights), np.inf)
    np.divide(-np.log1p(-uniform), weights, out=times, where=weights > 0)
    rows = Rows(lengths)
    table = rows.table(times, np.inf)
    order = table.argsort(axis=1)
    wins = np.arange(order.shape[1]) < winners[:, None]
    return rows.line(unsort(wins, order) & (table < np.inf))


def unsort(values: Flags, order: npt.NDArray[np.intp]) -> Flags:
    """Scatters values from their ranks back to their original places; both (B, n)."""
    unsorted = np.empty_like(values)
    np.put_along_axis(unsorted, order, values, axis=1)
    return unsorted
