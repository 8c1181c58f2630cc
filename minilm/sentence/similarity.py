"""Cosines between vectors, and exact search for the closest ones, a chunk at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from minilm.errors import InputError, argument
from minilm.files.progress import counted


def as_rows(vectors: Any, name: str) -> Tensor:
    """Converts vectors to (N, H) float32: an array, a tensor, a list of either, or one vector.

    Raises:
        InputError: the vectors have different dimensions.
    """
    if isinstance(vectors, Sequence) and len(vectors):
        vectors = torch.stack([torch.as_tensor(vector) for vector in vectors])
    rows = torch.as_tensor(vectors, dtype=torch.float32)
    rows = rows[None] if rows.ndim == 1 and len(rows) else rows
    if rows.ndim != 2:
        raise InputError(
            f"{argument(name)} is of shape {tuple(rows.shape)}: expected (N, H), one vector a row."
        )
    return rows


def cosine_similarity(first: Any, second: Any) -> Tensor:
    """The cosine of every vector of one set with every vector of another.

    Args:
        first: (N, H) vectors of any norm.
        second: (M, H) vectors.

    Returns:
        (N, M) float32, -1 to 1; 0 for zero vectors.

    Raises:
        InputError: the vectors have different dimensions.

    Example:
        >>> cosine_similarity([[1.0, 0.0]], [[2.0, 0.0], [0.0, 1.0]]).tolist()
        [[1.0, 0.0]]
    """
    a, b = _pair(first, second)
    return F.normalize(a, dim=1) @ F.normalize(b, dim=1).T


def pairwise_cosine_similarity(first: Any, second: Any) -> Tensor:
    """The cosine of each vector with the one at the same position.

    Args:
        first, second: (N, H) vectors.

    Returns:
        (N,) float32, -1 to 1.

    Raises:
        InputError: the shapes differ.
    """
    a, b = _pair(first, second)
    if len(a) != len(b):
        raise InputError(f"There are {len(a)} and {counted(len(b), 'vector')}: pairs need as many.")
    return (F.normalize(a, dim=1) * F.normalize(b, dim=1)).sum(1)


def _pair(first: Any, second: Any) -> tuple[Tensor, Tensor]:
    a, b = as_rows(first, "embeddings1"), as_rows(second, "embeddings2")
    if a.shape[1] != b.shape[1]:
        raise InputError(
            f"The vectors are {a.shape[1]} and {b.shape[1]} wide: take both from one model."
        )
    return a, b.to(a.device)


def semantic_search(
    query_embeddings: Any,
    corpus_embeddings: Any,
    *,
    top_k: int = 10,
    query_chunk_size: int = 100,
    corpus_chunk_size: int = 100_000,
) -> list[list[dict[str, float | int]]]:
    """The closest vectors of a corpus for every query, by cosine.

    Arguments and results are those of `sentence_transformers.util.semantic_search`.

    Args:
        query_embeddings: (Q, H) vectors.
        corpus_embeddings: (N, H) vectors; an array may be memory-mapped.
        top_k: number of results for each query; fewer if the corpus is smaller.
        query_chunk_size, corpus_chunk_size: number of vectors of each that are compared at once.

    Returns:
        For every query up to top_k dictionaries {"corpus_id", "score"}, the closest first; equal
        scores are in the order of the corpus.

    Raises:
        InputError: a number is below 1, or the vectors have different dimensions.

    Example:
        >>> semantic_search([[1.0, 0.0]], [[0.0, 1.0], [1.0, 1.0]], top_k=1)[0][0]["corpus_id"]
        1
    """
    sizes = {"query_chunk_size": query_chunk_size, "corpus_chunk_size": corpus_chunk_size}
    for name, value in {"top_k": top_k, **sizes}.items():
        if value < 1:
            raise InputError(f"{argument(name)} is {value}: expected at least 1.")
    queries = as_rows(query_embeddings, "query_embeddings")
    found: list[list[dict[str, float | int]]] = []
    for part in torch.split(queries, query_chunk_size) if len(queries) else ():
        best = Best(part, top_k)
        for begin in range(0, len(corpus_embeddings), corpus_chunk_size):
            best.add(corpus_embeddings[begin : begin + corpus_chunk_size])
        found += [
            [{"corpus_id": number, "score": score} for number, score in hits]
            for hits in best.hits()
        ]
    return found


class Best:
    """Collects the vectors closest to queries, from chunks that are added.

    Args:
        queries: (Q, H) vectors.
        top_k: number of vectors kept for each query.

    Raises:
        InputError: top_k is below 1.
    """

    def __init__(self, queries: Any, top_k: int) -> None:
        if top_k < 1:
            raise InputError(f"{argument('top_k')} is {top_k}: expected at least 1.")
        self._queries = F.normalize(as_rows(queries, "queries"), dim=1)
        self._top_k = top_k
        self._seen = 0
        self._scores = torch.empty(len(self._queries), 0)
        self._numbers = torch.empty(len(self._queries), 0, dtype=torch.int64)

    def add(self, vectors: Any) -> npt.NDArray[np.bool_]:
        """Compares the queries with more vectors, (n, H).

        Returns:
            (n,) True for those now among the closest of some query.
        """
        rows = as_rows(vectors, "vectors")
        if not len(rows):
            return np.zeros(0, np.bool_)
        if rows.shape[1] != self._queries.shape[1]:
            raise InputError(
                f"Queries are {self._queries.shape[1]} wide, texts {rows.shape[1]}: take both "
                "vectors from one model."
            )
        scores = self._queries @ F.normalize(rows, dim=1).T.to(self._queries)  # (Q, n)
        numbers = torch.arange(self._seen, self._seen + len(rows)).expand(len(scores), -1)
        scores = torch.cat([self._scores, scores.cpu()], dim=1)
        numbers = torch.cat([self._numbers, numbers], dim=1)
        # a stable sort: for equal scores the earlier text stays in front
        order = scores.sort(dim=1, descending=True, stable=True).indices[:, : self._top_k]
        self._scores, self._numbers = scores.gather(1, order), numbers.gather(1, order)
        kept = np.zeros(len(rows), np.bool_)
        new = self._numbers.flatten() - self._seen
        kept[new[new >= 0].numpy()] = True
        self._seen += len(rows)
        return kept

    def hits(self) -> list[list[tuple[int, float]]]:
        """For each query the numbers and scores of the closest vectors, the closest first."""
        pairs = zip(self._numbers.tolist(), self._scores.tolist(), strict=True)
        return [list(zip(numbers, scores, strict=True)) for numbers, scores in pairs]
