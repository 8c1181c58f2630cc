"""Masked-LM training data: steps of packed sequences, masked anew in every epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from minilm.data.batches import TokenBatch, cut_steps, split_evenly
from minilm.data.masking import BERT, Corruption, Masking, mask
from minilm.data.randomness import Stream, TokenDraw, generator
from minilm.data.sequences import Sequences
from minilm.data.vocabulary import Vocabulary
from minilm.errors import InputError

Integers = npt.NDArray[np.int64]

EVALUATION_SEED = 0


class MaskedLMData:
    """What a masked language model learns from; `minilm.training` asks it for steps and batches.

    An epoch is every sequence once, in an order drawn from (seed, epoch). Masks are drawn from
    (seed, epoch, sequence), so they do not depend on how a step is split.

    Differs from the released distillation code, which draws the positions of a whole batch
    together: there the number of predictions in a sequence depends on its neighbours.

    Args:
        sequences: the samples.
        masking: which positions are predicted.
        vocabulary: of the tokenizer that the store was made with.
        tokens_per_step: a step has at most so many tokens (a single longer sequence is a step of
            its own). The last, shorter step of an epoch is kept.
        seed: of order and masks.
        corruption: what happens to the chosen positions.

    Attributes:
        fingerprint: JSON values that a run which goes on must find again.

    Raises:
        InputError: an argument is out of range, or the vocabulary is not the store's.
    """

    def __init__(
        self,
        sequences: Sequences,
        masking: Masking,
        vocabulary: Vocabulary,
        *,
        tokens_per_step: int,
        seed: int,
        corruption: Corruption = BERT,
    ) -> None:
        if tokens_per_step < 1:
            raise InputError(f"tokens_per_step must be at least 1, not {tokens_per_step}.")
        generator(seed)  # refuses what is no seed now rather than at the first step
        self._source = _Source(sequences, masking, vocabulary, corruption)
        self._lengths = sequences.lengths
        self._tokens_per_step = tokens_per_step
        self._seed = seed
        self.fingerprint: dict[str, Any] = {
            "sequences": sequences.fingerprint,
            "masking": masking.fingerprint,
            "corruption": asdict(corruption),
            "tokens_per_step": tokens_per_step,
            "seed": seed,
        }

    def steps(self, epoch: int) -> Sequence[Integers]:
        """The samples of every step of an epoch."""
        order = generator(self._seed, Stream.ORDER, epoch).permutation(len(self._lengths))
        return cut_steps(order, self._lengths, self._tokens_per_step)

    def split(self, samples: Integers, parts: int) -> list[Integers]:
        """Samples of a step in exactly so many parts, balanced by tokens; some may be empty."""
        return split_evenly(samples, self._lengths[samples], parts)

    def batch(self, epoch: int, samples: Integers) -> TokenBatch:
        """The masked batch of these samples in an epoch; there may be none. Threads may call it."""
        return self._source.batch(self._seed, (Stream.MASKS, epoch), samples)


def evaluation_batches(
    sequences: Sequences,
    masking: Masking,
    vocabulary: Vocabulary,
    *,
    tokens_per_batch: int,
    seed: int = EVALUATION_SEED,
    limit_tokens: int | None = None,
    corruption: Corruption = BERT,
) -> list[TokenBatch]:
    """Batches of held-out text, masked once and for all.

    The masks come from a seed and a stream of their own: runs with other seeds are judged on the
    same predictions.

    Args:
        sequences: held-out samples.
        masking: which positions are predicted; `TokenMasking(vocabulary)` makes results
            comparable across runs that learn with other masks.
        vocabulary: of the tokenizer that the store was made with.
        tokens_per_batch: at most so many tokens in a batch, as in `MaskedLMData`.
        seed: of the masks and of the choice that `limit_tokens` asks for.
        limit_tokens: at most so many tokens in all, from sequences drawn at random; at least one
            sequence is taken. None takes all sequences.
        corruption: what happens to the chosen positions.

    Raises:
        InputError: an argument is out of range, or the vocabulary is not the store's.
    """
    source = _Source(sequences, masking, vocabulary, corruption)
    chosen = np.arange(len(sequences))
    if limit_tokens is not None:
        order = generator(seed, Stream.EVALUATION_ORDER).permutation(len(sequences))
        chosen = np.sort(cut_steps(order, sequences.lengths, limit_tokens)[0])
    return [
        source.batch(seed, (Stream.EVALUATION_MASKS,), samples)
        for samples in cut_steps(chosen, sequences.lengths, tokens_per_batch)
    ]


@dataclass(frozen=True)
class _Source:
    """Sequences and how they are masked."""

    sequences: Sequences
    masking: Masking
    vocabulary: Vocabulary
    corruption: Corruption

    def __post_init__(self) -> None:
        if self.vocabulary.size != self.sequences.vocab_size:
            raise InputError(
                f"The vocabulary has {self.vocabulary.size} tokens, the token store "
                f"{self.sequences.vocab_size}. Use Vocabulary.of(store.tokenizer())."
            )

    def batch(self, seed: int, key: tuple[int, ...], samples: Integers) -> TokenBatch:
        """A batch whose masks depend on seed, key and the number of each sample."""
        ids, lengths = self.sequences.gather(samples)
        draw = TokenDraw(seed, key, samples, lengths)
        inputs, labels = mask(ids, lengths, self.masking, self.vocabulary, draw, self.corruption)
        return TokenBatch(
            samples, torch.from_numpy(inputs), torch.from_numpy(lengths), torch.from_numpy(labels)
        )
