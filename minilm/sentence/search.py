"""Search in files: which passages are closest in meaning to a query, a chunk at a time."""

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
        text: what is compared.
        path: the file.
        line: the number of its first line, from 1; of its row or record in other files.
    """

    text: str
    path: Path
    line: int


@dataclass(frozen=True)
class Hit:
    """A passage that was found.

    Attributes:
        passage: text and place.
        score: cosine with the query, -1 to 1.
    """

    passage: Passage
    score: float


@dataclass
class Found:
    """What a search gives.

    Attributes:
        hits: for every query, the closest first.
        passages: how many were compared.
        encoded: how many of them went through the model; the others' vectors were kept.
        truncated: how many of these were longer than the model reads, and were cut.
    """

    hits: list[list[Hit]] = field(default_factory=list)
    passages: int = 0
    encoded: int = 0
    truncated: int = 0


class Store(Protocol):
    """Keeps vectors of texts; see `minilm.sentence.index.VectorIndex`."""

    def vectors(self, texts: Sequence[str], encode: Encode) -> Vectors:
        """(n, H) vectors of texts, encoding those that are not kept."""


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

    Passages are read once, some thousand at a time; of their texts only those among the closest
    are kept, so memory does not grow with their number. Prompts named "query" and "document", if
    the model has them, are put before the texts.

    Args:
        encoder: of queries and passages.
        queries: at least one.
        passages: what is searched.
        top_k: how many are wanted for each query.
        store: keeps vectors between searches; None = all passages are encoded.
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
