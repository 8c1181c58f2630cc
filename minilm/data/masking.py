"""Masked-LM targets: which positions are predicted, and what the model sees there.

    BERT         tokens at random                                    TokenMasking
    BERT, wwm    all pieces of words at random                       WholeWordMasking
    ALBERT       runs of words at random (ngram_masking.py)          NGramMasking
    DistilBERT   tokens at random, rare ones rather                  RareTokenMasking

All work on a packed batch at once, and every sequence's masks depend on its own numbers alone (see
`minilm.data.randomness`). Special tokens are never chosen, [UNK] among them: to predict it teaches
nothing (the released distillation code agrees; Google's chooses [UNK] like any other token).
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
            ids: (T,) the sequences in a row, special tokens included.
            lengths: (B,) their tokens.
            draw: uniform numbers for the tokens.
            ratios: (B,) the share of each sequence that is predicted, between 0 and 1; None = the
                masking's own probability.

        Returns:
            (T,) True where something is to be predicted.
        """


class TokenMasking:
    """BERT's choice: tokens, all equally likely.

    In a sequence of n tokens, special ones counted, max(1, round(probability * n)) are chosen, or
    all that are not special if these are fewer.

    Args:
        vocabulary: of the tokenizer.
        probability: share of a sequence that is predicted.
        max_predictions: at most this many in a sequence (Google's scripts: 20); None = no limit.

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
    """DistilBERT's choice: rare tokens more often, with the weight count ** -smoothing.

    In a sequence of n tokens, special ones counted, ceil(probability * n) are drawn without
    replacement, or all that are not special if these are fewer.

    Differs from the released code, which draws the positions of a whole batch together, so that
    sequences with rare tokens take predictions from their neighbours.

    Args:
        vocabulary: of the tokenizer.
        counts: (V,) how often each token is in the corpus; 0 counts as 1.
        probability: share of a sequence that is predicted.
        smoothing: 0 makes all tokens equally likely.
        max_predictions: at most this many in a sequence; None = no such limit.

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
    """All pieces of words, all words equally likely.

    The budget is that of `TokenMasking`, in tokens. Words are taken in random order; one that no
    longer fits is passed over. So a sequence may have a few predictions less, and one with none but
    very long words has none. The first piece of a sequence begins a word even where a document was
    cut inside one, and no word reaches over a special token.

    Args:
        vocabulary: of the tokenizer.
        probability: share of a sequence that is predicted.
        max_predictions: at most this many in a sequence; None = no such limit.

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
    """The words of a packed batch, in a row.

    Args:
        ids, lengths: see `Masking`.
        vocabulary: one that shows where words begin.

    Attributes:
        starts: (T,) True for the first token of every word.
        sizes: (words,) tokens of each word.
        counts: (B,) words of each sequence.
        stops: (words,) in its sequence, the number of the first word behind each word's segment.
    """

    def __init__(self, ids: Integers, lengths: Integers, vocabulary: Vocabulary) -> None:
        assert vocabulary.starts_word is not None
        ends = lengths.cumsum()
        self._ordinary: Flags = ~vocabulary.special[ids]
        boundary = np.ones(len(ids), dtype=np.bool_)
        boundary[1:] = ~self._ordinary[:-1]
        boundary[ends - lengths] = True
        self.starts: Flags = self._ordinary & (vocabulary.starts_word[ids] | boundary)
        self._number = self.starts.cumsum()  # of each token's word, from 1
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
    """What the model sees at the chosen positions, drawn for each one on its own.

    Otherwise than masked or kept, it sees a token drawn uniformly from the whole vocabulary (which
    may be a special one, or the original, as in Google's and in the released distillation code).

    Attributes:
        mask_share: share that becomes [MASK].
        keep_share: share that stays as it is.

    Raises:
        InputError: these are not shares of one whole.
    """

    mask_share: float = 0.8
    keep_share: float = 0.1

    def __post_init__(self) -> None:
        whole = self.mask_share + self.keep_share
        if min(self.mask_share, self.keep_share) < 0 or not whole <= 1 + 1e-9:
            raise InputError(
                f"mask_share is {self.mask_share!r} and keep_share {self.keep_share!r}; expected "
                "shares of at least 0 that do not exceed 1 together."
            )

    @classmethod
    def halved(cls, mask_share: float) -> Corruption:
        """Of what does not become [MASK], one half stays and the other becomes random tokens.

        References:
            Devlin et al. 2019, appendix C.2 (0.8 in pretraining); Wettig et al. 2023, "Should You
            Mask 15% in Masked Language Modeling?" (1 does as well or better).

        Raises:
            InputError: the share is not between 0 and 1.
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
        ids: (T,) the sequences in a row, special tokens included.
        lengths: (B,) their tokens.
        masking: chooses the positions.
        vocabulary: of the tokenizer.
        draw: uniform numbers for the tokens.
        corruption: what is seen at the chosen positions.
        ratios: (B,) the share of each sequence that is predicted; None = the masking's own.

    Returns:
        What the model sees, (T,), and the labels, (T,): the original id at the chosen positions,
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
    """How many positions of a sequence are predicted."""

    probability: float
    max_predictions: int | None

    def __post_init__(self) -> None:
        if not 0 < self.probability < 1:
            raise InputError(
                f"{by_place(python='probability', command=argument('mask_probability'))} is "
                f"{self.probability!r}; expected a share between 0 and 1, without these."
            )
        if self.max_predictions is not None and self.max_predictions < 1:
            raise InputError(
                f"max_predictions is {self.max_predictions!r}; expected at least 1, or None for no "
                "limit."
            )

    def rounded(self, lengths: Integers, ratios: Doubles | None = None) -> Integers:
        """(B,) the nearest number of tokens, at least 1; halves go to the even one."""
        shares = self.probability if ratios is None else ratios
        return self._capped(np.maximum(np.rint(shares * lengths), 1))

    def rounded_up(self, lengths: Integers, ratios: Doubles | None = None) -> Integers:
        """(B,) the next larger number of tokens."""
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
        """(B, longest), with `fill` behind the shorter rows."""
        table = np.full(self._inside.shape, fill, dtype=line.dtype)
        table[self._inside] = line
        return table

    def line(self, table: npt.NDArray[Number]) -> npt.NDArray[Number]:
        """The way back."""
        return table[self._inside]


def _race(weights: Doubles, uniform: Doubles, lengths: Integers, winners: Integers) -> Flags:
    """Draws tokens of every sequence without replacement, in proportion to their weights.

    Each token arrives after an exponentially distributed time of the rate that is its weight; the
    first ones win. Weight 0 never arrives.

    Args:
        weights, uniform: (T,) of each token.
        lengths: (B,) tokens of each sequence.
        winners: (B,) how many of each sequence are drawn, if that many have a weight.

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
