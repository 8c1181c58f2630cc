"""The sentences of a text file, or some of them drawn at random."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from minilm.data.randomness import Stream, generator
from minilm.data.sentence_splitting import split_sentences
from minilm.data.text_files import TextFormat, read_documents
from minilm.errors import DataError

_DRAWN_AT_ONCE = 65_536


def read_sentences(
    path: Path,
    *,
    min_words: int = 1,
    max_words: int = 1_000_000,
    most: int | None = None,
    seed: int = 0,
) -> list[str]:
    """Reads the different sentences of a file, or a random sample of them.

    Args:
        path: a .txt file, whose lines are split into sentences, or another file that
            `minilm.data.text_files.read_documents` reads.
        min_words, max_words: sentences with fewer or more words are left out.
        most: size of the sample, drawn uniformly; None = all sentences.
        seed: random seed of the sample.

    Returns:
        The sentences: all of them in the order of the file, or the sample in the order in which
        its sentences were drawn. Of sentences that differ only in capitals the first is taken.

    Raises:
        DataError: the file cannot be read, or no sentence fits.
    """
    # Vitter 1985, algorithm R: each of the first n sentences is in the sample with chance most / n
    kept: list[str] = []
    draws = _uniform(seed)
    for seen, sentence in enumerate(_different(path, min_words, max_words), 1):
        if most is None or len(kept) < most:
            kept.append(sentence)
        elif (place := int(next(draws) * seen)) < most:
            kept[place] = sentence
    if not kept:
        raise DataError(
            f"{path} has no sentence of {min_words} to {max_words} words. Give another file, or "
            "other limits."
        )
    return kept


def _different(path: Path, min_words: int, max_words: int) -> Iterator[str]:
    """The sentences within these numbers of words, each once."""
    known: set[bytes] = set()
    for document in read_documents(path, TextFormat(document_per_line=True)):
        for sentence in split_sentences(document.text):
            if min_words <= len(sentence.split()) <= max_words:
                name = hashlib.blake2b(sentence.lower().encode(), digest_size=8).digest()
                if name not in known:
                    known.add(name)
                    yield sentence


def _uniform(seed: int) -> Iterator[float]:
    """An endless stream of random numbers in [0, 1)."""
    random = generator(seed, Stream.BLOCKS)
    while True:
        yield from random.random(_DRAWN_AT_ONCE)
