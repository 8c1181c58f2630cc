"""Encodes documents to token ids, in this process or in several others."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from minilm.data.cached_encoder import CachedEncoder, batched
from minilm.data.sentence_splitting import split_sentences
from minilm.data.store_manifest import token_dtype
from minilm.data.text_files import Document
from minilm.data.token_store import Tokens
from minilm.errors import DataError, by_place
from minilm.files.arrays import Integers
from minilm.files.workers import prepare_worker

if TYPE_CHECKING:
    from minilm.tokenization.tokenizer import Tokenizer

_BATCH = 2**18  # characters of text that a process gets at a time


@dataclass(frozen=True, eq=False)
class EncodedDocuments:
    """Some documents as token ids.

    Attributes:
        tokens: (N,) the tokens of all documents.
        sentence_lengths: (S,) int64, number of tokens of each sentence; none is 0.
        document_lengths: (D,) int64, number of sentences of each document; 0 for an empty one.
    """

    tokens: Tokens
    sentence_lengths: Integers
    document_lengths: Integers

    def __len__(self) -> int:
        return len(self.document_lengths)

    def split(self, documents: int) -> tuple[EncodedDocuments, EncodedDocuments]:
        """Returns the first `documents` documents, and the rest."""
        sentences = int(self.document_lengths[:documents].sum())
        tokens = int(self.sentence_lengths[:sentences].sum())
        first = (
            self.tokens[:tokens],
            self.sentence_lengths[:sentences],
            self.document_lengths[:documents],
        )
        rest = (
            self.tokens[tokens:],
            self.sentence_lengths[sentences:],
            self.document_lengths[documents:],
        )
        return EncodedDocuments(*first), EncodedDocuments(*rest)

    def documents_with(self, tokens: int) -> int:
        """How many documents, from the first on, have this many tokens; all if all have fewer."""
        sentence_ends = np.cumsum(self.sentence_lengths)
        document_ends = np.append(0, sentence_ends)[np.cumsum(self.document_lengths)]
        return min(int(np.searchsorted(document_ends, tokens)) + 1, len(self))


@dataclass(frozen=True)
class DocumentEncoder:
    """All that a process needs to encode documents. The backend is built where it is used.

    Attributes:
        backend: the description of the tokenizer in JSON.
        vocab_size: the number of token ids.
        unk_id: the id of the unknown token.
        special_ids: the ids of the special tokens.
    """

    backend: str
    vocab_size: int
    unk_id: int
    special_ids: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> DocumentEncoder:
        """The encoder that gives the same ids as a tokenizer."""
        return cls(
            tokenizer.backend.to_str(),
            tokenizer.vocab_size,
            tokenizer.unk_token_id,
            tuple(tokenizer.all_special_ids),
        )

    def __call__(self, documents: Sequence[Document]) -> EncodedDocuments:
        """Encodes documents, every sentence on its own and without special tokens.

        Special tokens spelled out in the text ("[MASK]") are text.

        Raises:
            DataError: the tokenizers library fails; the message names the document.
        """
        texts = [split_sentences(document.text) for document in documents]
        try:
            tokens, lengths = self._encode(list(chain.from_iterable(texts)))
        except DataError:
            for document, sentences in zip(documents, texts, strict=True):
                try:
                    self._encode(sentences)
                except DataError as problem:
                    raise DataError(f"{document}: {problem}") from problem
            raise
        owners = np.repeat(np.arange(len(texts)), [len(sentences) for sentences in texts])
        kept = lengths > 0
        document_lengths = np.bincount(owners[kept], minlength=len(texts))
        return EncodedDocuments(tokens, lengths[kept], document_lengths)

    def _encode(self, sentences: Sequence[str]) -> tuple[Tokens, Integers]:
        """The tokens of all sentences, and the number of tokens of each."""
        ids, lengths = self._encode_sentences(sentences)
        # sentencepiece vocabularies have pieces such as "<pad>", which match text
        ids[self._is_special[ids]] = self.unk_id
        return ids.astype(token_dtype(self.vocab_size)), lengths

    @cached_property
    def _encode_sentences(self) -> CachedEncoder:
        return CachedEncoder(self.backend)

    @cached_property
    def _is_special(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        is_special = np.zeros(self.vocab_size, np.bool_)
        is_special[list(self.special_ids)] = True
        return is_special


def encode_documents(
    encoder: DocumentEncoder, documents: Iterable[Document], workers: int
) -> Generator[EncodedDocuments, None, None]:
    """Encodes documents in batches. Only a few batches are in memory at any time.

    Args:
        encoder: encodes them.
        documents: any number of documents.
        workers: number of processes; 0 or 1 = this one.

    Returns:
        An iterator over all documents, in order, some at a time. Close it if it is not used up.

    Raises:
        DataError: a document cannot be read or encoded, or a process died.
    """
    batches = batched(documents, _BATCH, lambda document: len(document.text))
    if workers > 1:
        yield from _encode_elsewhere(encoder, batches, workers)
    else:
        yield from map(encoder, batches)


def _encode_elsewhere(
    encoder: DocumentEncoder, batches: Iterable[list[Document]], workers: int
) -> Iterator[EncodedDocuments]:
    # spawned: the tokenizers library and forks do not go together
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _start_worker, (encoder,))
    running: deque[Future[EncodedDocuments]] = deque()
    try:
        for batch in batches:
            running.append(pool.submit(_encode_in_worker, batch))
            if len(running) == 3 * workers:  # enough for none to wait
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    except BrokenProcessPool as problem:
        raise DataError(
            "A process that tokenizes has died. Was it killed because memory ran out? Try fewer "
            "workers; the same command resumes after the last finished shard."
            + by_place(
                python=' In a script, start tokenizing under `if __name__ == "__main__":`, or with '
                "workers=1.",
                command="",
            )
        ) from problem
    finally:
        pool.shutdown(cancel_futures=True)


_encoder: DocumentEncoder  # of a worker process


def _start_worker(encoder: DocumentEncoder) -> None:
    global _encoder
    _encoder = encoder
    prepare_worker()


def _encode_in_worker(documents: list[Document]) -> EncodedDocuments:
    return _encoder(documents)
