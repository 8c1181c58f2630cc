"""Pretraining data: steps of packed sequences or pairs, masked anew in every epoch or round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from minilm.data.batches import (
    PackedSamples,
    SampleSource,
    TokenBatch,
    cut_steps,
    split_evenly,
    token_batch,
)
from minilm.data.epochs import Epochs
from minilm.data.mask_ratios import ChangingRatio
from minilm.data.masking import BERT, Corruption, Masking, mask
from minilm.data.randomness import Stream, TokenDraw, generator
from minilm.data.sequences import Sequences
from minilm.data.vocabulary import Vocabulary
from minilm.errors import InputError, argument
from minilm.files.arrays import Doubles, Integers

EVALUATION_SEED = 0


class MaskedLMData:
    """The training data of a masked LM; `minilm.training` takes steps and batches from it.

    An epoch has every sample once, in an order drawn from (seed, epoch). Masks are drawn from
    (seed, epoch, the sample's key), so they do not depend on how a step is split. With
    `mask_rounds` K, epoch e has the masks of epoch e mod K: results computed for the masks of one
    epoch can be reused K epochs later, at the price of seeing each mask more than once.

    Differs from the released distillation code, which draws the positions of a whole batch
    together: there the number of predictions in a sequence depends on its neighbours.

    Args:
        source: the source of the samples: `Sequences` or `SegmentPairs`.
        masking: chooses the positions to predict.
        vocabulary: the vocabulary of the tokenizer that the store was made with.
        tokens_per_step: a step has at most this many tokens (a single longer sequence is a step of
            its own). The last, shorter step of an epoch is kept.
        seed: random seed of order, masks and pairs.
        corruption: the fractions of chosen positions that are masked, kept or replaced.
        ratio: the mask ratio, if it changes in the course of the run; None = the masking's own
            throughout.
        mask_rounds: number of epochs after which the masks repeat; None = every epoch has its own.

    Attributes:
        fingerprint: JSON values that must be the same when a run resumes.

    Raises:
        InputError: an argument is out of range, the vocabulary is not the store's, or
            `mask_rounds` is combined with a ratio that changes.

    References:
        Liu et al. 2019 (RoBERTa), section 4.1: static masks, ten for each sequence, against masks
        that are drawn anew.
    """

    def __init__(
        self,
        source: SampleSource,
        masking: Masking,
        vocabulary: Vocabulary,
        *,
        tokens_per_step: int,
        seed: int,
        corruption: Corruption = BERT,
        ratio: ChangingRatio | None = None,
        mask_rounds: int | None = None,
    ) -> None:
        if tokens_per_step < 1:
            raise InputError(f"tokens_per_step must be at least 1, not {tokens_per_step}.")
        if mask_rounds is not None and mask_rounds < 1:
            raise InputError(f"{argument('mask_rounds')} must be at least 1, not {mask_rounds}.")
        if mask_rounds is not None and ratio is not None:
            raise InputError(
                f"{argument('mask_rounds')} is {mask_rounds}, but the mask ratio changes in the "
                "course of the run, so that no mask comes back. Leave out one of the two."
            )
        generator(seed)  # refuses an invalid seed now rather than at the first step
        self._source = source
        self._masked = _Masked(source, masking, vocabulary, corruption)
        self._seed = seed
        self._ratio = ratio
        self._epochs = Epochs(source, tokens_per_step=tokens_per_step, seed=seed)
        self.fingerprint: dict[str, Any] = {
            "sequences": source.fingerprint,
            "masking": masking.fingerprint,
            "corruption": asdict(corruption),
            "tokens_per_step": tokens_per_step,
            "seed": seed,
        }
        if ratio is not None:  # runs of earlier versions have no such entry
            self.fingerprint["ratio"] = ratio.fingerprint
        self._mask_rounds = mask_rounds
        if mask_rounds is not None:
            self.fingerprint["mask_rounds"] = mask_rounds

    def steps(self, epoch: int) -> Sequence[Integers]:
        """The samples of every step of an epoch, made as they are needed; see `Epochs`."""
        return self._epochs[epoch]

    def count_steps(self, epochs: int) -> int:
        """The number of steps of `epochs` epochs, without making samples that are not needed yet.

        Exact for sequences. For pairs, which every epoch draws anew, all epochs are counted like
        the first one; in a corpus of several blocks, all blocks like the first one. The actual
        number differs from that by less than one step in a hundred.
        """
        if not self._source.drawn_anew:
            return sum(len(self.steps(epoch)) for epoch in range(epochs))
        return max(1, round(epochs * self._epochs[0].expected_steps()))

    def count_samples(self) -> int:
        """Number of samples of an epoch; estimated for pairs, as in `count_steps`."""
        return self._epochs[0].expected_samples()

    def count_tokens(self) -> int:
        """Number of tokens of an epoch; estimated for pairs, as in `count_steps`."""
        return self._epochs[0].expected_tokens()

    def split(self, epoch: int, samples: Integers, parts: int) -> list[Integers]:
        """Splits a step into exactly `parts` parts, balanced by tokens; some may be empty."""
        return split_evenly(samples, self._epochs[epoch].lengths(samples), parts)

    def batch(self, epoch: int, samples: Integers) -> TokenBatch:
        """The masked batch of some samples of an epoch, perhaps none. Safe to call in threads."""
        found = self._epochs[epoch]
        key = (Stream.MASKS, epoch if self._mask_rounds is None else epoch % self._mask_rounds)
        batch = self._masked.batch(
            samples,
            found.gather(samples),
            found.keys(samples),
            self._seed,
            key,
            self._ratios(epoch, samples),
        )
        return replace(batch, epoch=epoch)

    def _ratios(self, epoch: int, samples: Integers) -> Doubles | None:
        """(B,) the mask ratio of each sample; None if the ratio does not change."""
        if self._ratio is None:
            return None
        steps = self._epochs[epoch].steps_of(samples)
        return self._ratio.at(epoch, steps, self._steps_per_epoch)

    @cached_property
    def _steps_per_epoch(self) -> float:
        return self._epochs[0].expected_steps()


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
    """Batches of held-out text with fixed masks.

    The masks have their own seed and random stream, so runs with different seeds are evaluated on
    the same predictions.

    Args:
        sequences: held-out samples.
        masking: chooses the positions to predict; `TokenMasking(vocabulary)` makes results
            comparable across runs that train with different masks.
        vocabulary: the vocabulary of the tokenizer that the store was made with.
        tokens_per_batch: maximum number of tokens of a batch, as in `MaskedLMData`.
        seed: random seed of the masks and of the choice for `limit_tokens`.
        limit_tokens: maximum number of tokens in all, from sequences drawn at random; at least one
            sequence is taken. None = all sequences.
        corruption: the fractions of chosen positions that are masked, kept or replaced.

    Raises:
        InputError: an argument is out of range, or the vocabulary is not the store's.
    """
    masked = _Masked(sequences, masking, vocabulary, corruption)
    return [
        masked.batch(
            samples,
            sequences.gather(samples),
            sequences.keys[samples],
            seed,
            (Stream.EVALUATION_MASKS,),
        )
        for samples in evaluation_steps(sequences.lengths, tokens_per_batch, seed, limit_tokens)
    ]


def evaluation_steps(
    lengths: Integers, tokens_per_batch: int, seed: int, limit_tokens: int | None
) -> list[Integers]:
    """The samples of every evaluation batch; see `evaluation_batches`."""
    chosen = np.arange(len(lengths))
    if limit_tokens is not None:
        order = generator(seed, Stream.EVALUATION_ORDER).permutation(len(lengths))
        chosen = np.sort(cut_steps(order, lengths, limit_tokens)[0])
    return cut_steps(chosen, lengths, tokens_per_batch)


@dataclass(frozen=True)
class _Masked:
    """Masks the samples of a source."""

    source: SampleSource
    masking: Masking
    vocabulary: Vocabulary
    corruption: Corruption

    def __post_init__(self) -> None:
        if self.vocabulary.size != self.source.vocab_size:
            raise InputError(
                f"The vocabulary has {self.vocabulary.size} tokens, the token store "
                f"{self.source.vocab_size}. Use Vocabulary.of(store.tokenizer())."
            )

    def batch(
        self,
        samples: Integers,
        found: PackedSamples,
        keys: Integers,
        seed: int,
        key: tuple[int, ...],
        ratios: Doubles | None = None,
    ) -> TokenBatch:
        """Masks a batch, depending on seed, key, and the key and the mask ratio of each sample."""
        draw = TokenDraw(seed, key, keys, found.lengths)
        inputs, labels = mask(
            found.ids, found.lengths, self.masking, self.vocabulary, draw, self.corruption, ratios
        )
        return token_batch(samples, found, inputs, labels, self.source.sentence_task)
