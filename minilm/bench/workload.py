"""The texts to encode: of realistic lengths, in batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from minilm.config import EncoderConfig
from minilm.costs.counting import layer_flops

TEXTS = 512
SEED = 11
BATCH_SIZE = 32


def draw_lengths(texts: int = TEXTS, seed: int = SEED) -> list[int]:
    """Token counts of the standard draw, in arrival order."""
    drawn = np.random.default_rng(seed).lognormal(3.3, 0.9, texts)
    return [int(length) for length in np.clip(drawn, 6, 512)]


@dataclass(frozen=True)
class Batch:
    """The same texts in both forms.

    Attributes:
        input_ids: (B, S) int64, padded on the right.
        attention_mask: (B, S) int64.
        packed_ids: (T,) int64.
        lengths: (B,) int64.
    """

    input_ids: Tensor
    attention_mask: Tensor
    packed_ids: Tensor
    lengths: Tensor

    @property
    def tokens(self) -> int:
        """The number of tokens without padding."""
        return len(self.packed_ids)


def make_batches(
    lengths: Sequence[int], *, batch_size: int, vocab_size: int, seed: int
) -> list[Batch]:
    """Random ids for texts of these lengths, batched in the given order."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for start in range(0, len(lengths), batch_size):
        counts = torch.tensor(lengths[start : start + batch_size])
        mask = torch.arange(int(counts.max())) < counts[:, None]  # (B, S)
        ids = torch.randint(vocab_size, mask.shape, generator=generator) * mask
        batches.append(Batch(ids, mask.long(), ids[mask], counts))
    return batches


def draw_batches(
    config: EncoderConfig, *, texts: int, batch_size: int, seed: int
) -> dict[str, list[Batch]]:
    """The workload in "arrival" order and "sorted" by length, cut to what the model takes."""
    drawn = draw_lengths(texts, seed)
    lengths = [min(length, config.max_position_embeddings) for length in drawn]
    return {
        order: make_batches(ordered, batch_size=batch_size, vocab_size=config.vocab_size, seed=seed)
        for order, ordered in (("arrival", lengths), ("sorted", sorted(lengths)))
    }


def padding_ratio(batches: Iterable[Batch]) -> float:
    """The number of positions, padding included, for every token."""
    pairs = [(batch.input_ids.numel(), batch.tokens) for batch in batches]
    return sum(positions for positions, _ in pairs) / sum(tokens for _, tokens in pairs)


def encoder_flops(config: EncoderConfig, lengths: Iterable[int]) -> int:
    """Floating-point operations of the matrix products that encoding these texts takes.

    They are counted as in `minilm.cost`; heads and pooler are left out.
    """
    return sum(n * layer_flops(config, n) for n in lengths)
