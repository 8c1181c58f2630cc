"""ALBERT's n-gram masking: runs of words, short ones more often than long ones."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from minilm.data.masking import Budget, Rows, Words
from minilm.data.randomness import Draw
from minilm.data.vocabulary import Vocabulary
from minilm.errors import InputError
from minilm.files.arrays import Doubles, Flags, Integers


class NGramMasking:
    """Runs of n words, n = 1 to `max_ngram`, with probabilities in proportion to 1 / n.

    The budget is that of `TokenMasking`, in tokens. The words of a sequence are visited in random
    order; each begins a run of a length that is drawn for it. A run with more tokens than are left
    in the budget loses words at its end until it fits; if not even its first word fits, or if it
    overlaps words already chosen, it is skipped. A run ends with its segment. Whether a token is
    masked, kept or replaced is drawn for every token independently (see `Corruption`).

    Differs from the released code, whose runs may reach over [SEP] into the next segment.

    Args:
        vocabulary: the vocabulary of the tokenizer; it must show where words begin.
        probability: fraction of a sequence that is predicted.
        max_ngram: longest run in words; 3 gives 1, 2 and 3 the probabilities 6/11, 3/11, 2/11.
        max_predictions: maximum number of tokens in a sequence; None = no limit. Google's flag is
            20, which in sequences of 512 tokens leaves 3.9 % instead of 15 %.

    Raises:
        InputError: an argument is out of range, or the vocabulary does not show where words begin.

    References:
        Lan et al. 2020, section 4.1 (after Joshi et al. 2019, SpanBERT);
        google-research/albert, create_pretraining_data.py.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        probability: float = 0.15,
        max_ngram: int = 3,
        max_predictions: int | None = None,
    ) -> None:
        vocabulary.require_words()
        if not isinstance(max_ngram, int) or max_ngram < 1:
            raise InputError(f"max_ngram is {max_ngram!r}; expected a whole number from 1.")
        self._budget = Budget(probability, max_predictions)
        self._vocabulary = vocabulary
        shares = 1 / np.arange(1, max_ngram + 1)
        self._ends = (shares / shares.sum()).cumsum()[:-1]  # a uniform number to n - 1
        self._max_ngram = max_ngram
        self.fingerprint: dict[str, Any] = {
            "name": "ngrams",
            **asdict(self._budget),
            "max_ngram": max_ngram,
        }

    def choose(
        self, ids: Integers, lengths: Integers, draw: Draw, ratios: Doubles | None = None
    ) -> Flags:
        """See `Masking`."""
        words = Words(ids, lengths, self._vocabulary)
        rows = Rows(words.counts)
        places, number = draw(2)[words.starts].T
        order = rows.table(places, np.inf).argsort(axis=1)  # (B, words)
        drawn = rows.table(1 + np.searchsorted(self._ends, number, side="right"), 1)
        sizes = rows.table(words.sizes, 0)
        # tokens of the first words of every sequence; one more column, so that [last + 1] exists
        before = np.zeros((len(sizes), sizes.shape[1] + 1), np.int64)
        sizes.cumsum(axis=1, out=before[:, 1:])
        stop = rows.table(words.stops, 0)  # where each word's segment ends
        left = self._budget.rounded(lengths, ratios)
        taken = np.zeros(sizes.shape, dtype=np.bool_)
        row = np.arange(len(sizes))
        offsets = np.arange(self._max_ngram)
        # one run of every sequence at a time; after a sequence's last word the sizes are 0
        for rank in range(order.shape[1]):
            open_rows = row[(left > 0) & (rank < words.counts)]
            if not len(open_rows):
                break
            first = order[open_rows, rank]
            end = np.minimum(first + drawn[open_rows, first], stop[open_rows, first])
            begun, room = before[open_rows, first], left[open_rows]
            # the longest run that fits, n by n
            for _ in offsets[1:]:
                end -= (before[open_rows, end] - begun > room) & (end > first + 1)
            spent = before[open_rows, end] - begun
            run = first[:, None] + offsets  # (rows, max_ngram)
            inside = run < end[:, None]
            cells = open_rows[:, None], np.minimum(run, sizes.shape[1] - 1)
            free = ~(taken[cells] & inside).any(axis=1)
            good = (spent <= room) & free
            left[open_rows[good]] -= spent[good]
            chosen = inside & good[:, None]
            taken[np.broadcast_to(cells[0], run.shape)[chosen], run[chosen]] = True
        return words.tokens(rows.line(taken))
