"""Word vectors from co-occurrence counts of a corpus.

Words with similar neighbours get similar vectors. They come from one pass over the corpus and a
factorisation, in seconds, where a masked LM has to learn them from one token in seven.

References: Levy & Goldberg 2014, Neural Word Embedding as Implicit Matrix Factorization.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from minilm.data.token_store import TokenStore
from minilm.errors import InputError
from minilm.files.arrays import Floats, Integers

WEIGHTS = (1.0, 1.0, 0.7, 0.5, 0.3)  # of neighbours at a distance of 1, 2, ...
MOST_WORDS = 16_384  # the counts are a matrix of this many rows and columns: 1 GB in float32
MOST_TOKENS = 40_000_000
RAREST = 30  # occurrences; rarer words have too few neighbours for a vector
CHUNK = 2_000_000  # tokens that are counted at once


@dataclass(frozen=True, eq=False)
class WordVectors:
    """Vectors and counts of the words of a corpus.

    Attributes:
        vectors: (V, size) float32, zero where unknown; the mean norm of the others is 1.
        known: (V,) bool, which words have a vector.
        counts: (V,) int64, how often each word was seen.
    """

    vectors: Tensor
    known: Tensor
    counts: Tensor


def count_word_vectors(
    store: TokenStore,
    size: int,
    *,
    documents: range | None = None,
    most_tokens: int = MOST_TOKENS,
    seed: int = 0,
) -> WordVectors:
    """Factorises the positive pointwise mutual information of neighbouring tokens.

    All documents are read as one text: few neighbours are in different documents.

    Args:
        store: the corpus.
        size: dimension of the vectors.
        documents: which documents to read, from the first on; None = all.
        most_tokens: reading stops after about this many tokens.
        seed: random seed of the factorisation, which starts from random directions.

    Raises:
        InputError: `size` is not less than the number of words that occur often enough.
    """
    documents = range(store.num_documents) if documents is None else documents
    begin, end = (int(store.document_starts[n]) for n in (documents.start, documents.stop))
    stop = min(end, begin + most_tokens)
    counts = np.zeros(store.vocab_size, np.int64)
    for tokens in _chunks(store, begin, stop):
        counts += np.bincount(tokens, minlength=store.vocab_size)
    words = np.argsort(-counts, kind="stable")[:MOST_WORDS]
    words = np.sort(words[counts[words] >= RAREST])
    if not 1 <= size < len(words):
        raise InputError(
            f"size is {size}, but only {len(words)} words of {store.path} occur {RAREST} times or "
            "more: vectors need fewer numbers than there are words. Count in a larger corpus."
        )
    information = _mutual_information(_neighbours(store, begin, stop, words))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        left, values, _ = torch.svd_lowrank(information, q=min(size + 24, len(words)), niter=3)
    found = left[:, :size] * values[:size].sqrt()
    found -= found.mean(dim=0)
    vectors = torch.zeros(store.vocab_size, size)
    vectors[torch.from_numpy(words)] = found / found.norm(dim=1).mean()
    known = torch.zeros(store.vocab_size, dtype=torch.bool)
    known[torch.from_numpy(words)] = True
    return WordVectors(vectors, known, torch.from_numpy(counts))


def _chunks(store: TokenStore, begin: int, stop: int, overlap: int = 0) -> Iterator[Integers]:
    for start in range(begin, stop, CHUNK):
        yield store.tokens(start, min(start + CHUNK + overlap, stop)).astype(np.int64)


def _neighbours(store: TokenStore, begin: int, stop: int, words: Integers) -> Floats:
    """(words, words) co-occurrence counts, weighted by distance."""
    row = np.full(store.vocab_size, -1)
    row[words] = np.arange(len(words))
    near = np.zeros((len(words), len(words)), np.float32)
    reach = len(WEIGHTS)
    for tokens in _chunks(store, begin, stop, overlap=reach):
        rows = row[tokens]
        for distance, weight in enumerate(WEIGHTS, start=1):
            second = rows[distance : CHUNK + distance]
            first = rows[: len(second)]
            both = (first >= 0) & (second >= 0)
            pairs, times = np.unique(first[both] * len(words) + second[both], return_counts=True)
            near.ravel()[pairs] += weight * times.astype(np.float32)
    return near + near.T


def _mutual_information(near: Floats) -> Tensor:
    """max(0, log p(a, b) / (p(a) p(b)))."""
    found = torch.from_numpy(near)
    share = found.sum(dim=1).clamp_min(1e-9)
    found = found / share * share.sum() / share[:, None]
    return found.clamp_min(1.0).log()
