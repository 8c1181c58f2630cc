"""Search in files: finds the passages closest in meaning to a query, a chunk at a time."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np

from minilm.errors import InputError
from minilm.sentence.encoder import CHUNK, SentenceEncoder, Vectors
from minilm.sentence.similarity import Best

# texts -> (n, H) vectors
Encode: TypeAlias = Callable[[Sequence[str]], Vectors]


@dataclass(frozen=True)
class Passage:
    """A text and the place it comes from.

    Attributes:
        text: the text that is compared.
        path: the file.
        line: the number of its first line, or of its row or record, from 1.
    """

    text: str
    path: Path
    line: int


@dataclass(frozen=True)
class Hit:
    """A passage that was found.

    Attributes:
        passage: the text and its place.
        score: cosine with the query, -1 to 1.
    """

    passage: Passage
    score: float


@dataclass
class Found:
    """The result of a search.

    Attributes:
        hits: the hits of every query, the closest first.
        passages: number of passages that were compared.
        encoded: how many of them were encoded; the vectors of the others were stored.
        truncated: how many of those were longer than the model reads, and were cut.
    """

    hits: list[list[Hit]] = field(default_factory=list)
    passages: int = 0
    encoded: int = 0
    truncated: int = 0


class Store(Protocol):
    """Stores vectors of texts; see `minilm.sentence.index.VectorIndex`."""

    def vectors(self, texts: Sequence[str], encode: Encode) -> Vectors:
        """(n, H) vectors of texts, encoding those that are not stored."""


def search(
    encoder: SentenceEncoder,
    queries: Sequence[str],
    passages: Iterable[Passage],
    *,
    top_k: int = 10,
    store: Store | None = None,
    on_passages: Callable[[int], object] = lambda _: None,
) -> Found:
    """Finds the passages whose vectors are closest to those of queries.

    Passages are read once, some thousand at a time, and only the texts of the closest ones are
    kept, so memory does not grow with their number. If the model has prompts named "query" and
    "document", they are put before the texts.

    Args:
        encoder: encodes queries and passages.
        queries: at least one query.
        passages: the passages to search.
        top_k: number of hits for each query.
        store: stores vectors between searches; None = all passages are encoded.
        on_passages: called with the number of passages that were just encoded.

    Raises:
        InputError: there is no query, or top_k is below 1.
    """
    if not queries:
        raise InputError("There is no query.")
    found = Found()

    def encode(texts: Sequence[str]) -> Vectors:
        stream = encoder.encode_stream(texts, prompt_name="document")
        with warnings.catch_warnings():  # said once at the end, not for every chunk
            warnings.filterwarnings("ignore", message=".* longer than .* tokens? and")
            vectors = [(chunk, len(stream.truncated)) for chunk in stream]
        found.encoded += len(texts)
        found.truncated += sum(cut for _, cut in vectors)
        return np.concatenate([chunk for chunk, _ in vectors])

    best = Best(encoder.encode(list(queries), prompt_name="query"), top_k)
    kept: dict[int, Passage] = {}
    for chunk in _chunks(passages):
        texts = [passage.text for passage in chunk]
        rows = encode(texts) if store is None else store.vectors(texts, encode)
        for row in np.flatnonzero(best.add(rows)).tolist():
            kept[found.passages + row] = chunk[row]
        found.passages += len(chunk)
        among = {number for hits in best.hits() for number, _ in hits}
        kept = {number: passage for number, passage in kept.items() if number in among}
        on_passages(len(chunk))
    found.hits = [[Hit(kept[number], score) for number, score in hits] for hits in best.hits()]
    return found


def _chunks(passages: Iterable[Passage]) -> Iterator[list[Passage]]:
    rest = iter(passages)
    while chunk := list(islice(rest, CHUNK)):
        yield chunk
