"""A tokenized corpus on disk: memory-mapped tokens with their documents and sentences.

A store is a directory:

    store.json                 the manifest; written last, so a store without it is unfinished
    tokenizer.json, tokenizer_config.json    the tokenizer it was made with
    counts.npy                 (V,) int64, how often every token occurs
    shard-00000.tokens.npy     (N,) uint16 or uint32, tokens; no special tokens are added
    shard-00000.sentences.npy  (sentences + 1,) int64, the token at which each sentence begins
    shard-00000.documents.npy  (documents + 1,) int64, the sentence at which each document begins
    shard-00001...

Offsets in the files count from the beginning of their shard and end with its length. No document
crosses shards, and no sentence or document is empty. `TokenStore` numbers them across all shards.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import os
from collections.abc import Iterable
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from minilm.data.store_manifest import AGAIN, COUNTS, Manifest, shard_file, token_dtype
from minilm.errors import DataError, InputError
from minilm.files.arrays import Integers
from minilm.files.json_file import json_bytes
from minilm.files.progress import counted

if TYPE_CHECKING:
    from minilm.tokenization.tokenizer import Tokenizer

Tokens: TypeAlias = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]

_MAPPED = 256  # files that are held open at once

# The parts of tokenizer.json that determine ids.
_DECISIVE = ("normalizer", "pre_tokenizer", "model", "added_tokens")


def tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    """The sha256 of the parts of a tokenizer that determine the ids of a text's tokens.

    Templates, truncation, padding and decoding are left out: they change no stored token.
    """
    description = json.loads(tokenizer.backend.to_str())
    decisive = {part: description[part] for part in _DECISIVE}
    return hashlib.sha256(json_bytes(decisive)).hexdigest()


class TokenStore:
    """A finished token store. Use `open` to get one.

    Tokens stay on disk until they are requested; memory holds 8 bytes for every document. Threads
    may share a store, and it can be pickled: the other process opens it again.

    Attributes:
        path: the directory.
        vocab_size: the number of token ids, V.
        num_documents, num_sentences, num_tokens: their numbers.
        num_unknown: how often the unknown token occurs.
        num_empty_documents: number of documents without any token, which were left out.
        fingerprint: a digest of the whole content.
        tokenizer_fingerprint: fingerprint of the tokenizer it was made with.
        document_starts: (num_documents + 1,) int64, the token at which each document begins; the
            last is num_tokens. Read-only.

    Example:
        >>> store = TokenStore.open("wiki.store")  # doctest: +SKIP
        >>> store.tokens(*store.document_starts[:2])  # the first document; doctest: +SKIP
        array([3000, 1996, ...], dtype=uint16)
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.vocab_size = manifest.vocab_size
        self.num_documents = manifest.documents
        self.num_sentences = manifest.sentences
        self.num_tokens = manifest.tokens
        self.num_unknown = manifest.unknown_tokens
        self.num_empty_documents = manifest.empty_documents
        self.fingerprint = manifest.fingerprint
        self.tokenizer_fingerprint = manifest.tokenizer_fingerprint
        self._shards = manifest.shards
        self._shard_tokens = _starts(shard.tokens for shard in self._shards)
        self._shard_sentences = _starts(shard.sentences for shard in self._shards)
        self._shard_documents = _starts(shard.documents for shard in self._shards)
        self._mapped = lru_cache(_MAPPED)(self._map)
        self.document_starts = self._read_document_starts()

    @classmethod
    def open(cls, directory: str | os.PathLike[str], *, verify: bool = False) -> TokenStore:
        """Opens a store after checking that it is complete.

        Args:
            directory: a directory made by `minilm tokenize`.
            verify: also read all files and compare their sha256.

        Raises:
            DataError: there is no store, it is unfinished, or a file is missing or damaged.
        """
        path = Path(directory)
        manifest = Manifest.read(path)
        for name, record in manifest.files.items():
            record.check(path / name, content=verify)
        for number, shard in enumerate(manifest.shards):
            shard.check(path, number, content=verify)
        return cls(path, manifest)

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenStore.open, (self.path,)

    def __repr__(self) -> str:
        return (
            f"TokenStore({str(self.path)!r}, {self.num_documents:,} documents, "
            f"{self.num_sentences:,} sentences, {self.num_tokens:,} tokens)"
        )

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the store was made with."""
        from minilm.tokenization.tokenizer import Tokenizer

        return Tokenizer.from_pretrained(self.path)

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Checks that the ids of the store mean the same to a tokenizer.

        Raises:
            DataError: the tokenizer is not the store's.
        """
        given = tokenizer_fingerprint(tokenizer)
        # a newer tokenizers library may describe the same tokenizer differently
        if given not in (self.tokenizer_fingerprint, tokenizer_fingerprint(self.tokenizer())):
            raise DataError(
                f"{self.path} was made with another tokenizer: its fingerprint is "
                f"{self.tokenizer_fingerprint[:16]}, that of {tokenizer!r} is {given[:16]}. "
                "Tokenize the corpus with this tokenizer, or use the one in the store."
            )

    def counts(self) -> Integers:
        """(V,) int64, how often every token occurs."""
        return np.array(_load(self.path / COUNTS, np.dtype(np.int64), self.vocab_size))

    def tokens(self, start: int, stop: int) -> Tokens:
        """The tokens from `start` up to `stop`, in the order of the corpus.

        Args:
            start: the first token.
            stop: the end; 0 <= start <= stop <= num_tokens.

        Returns:
            (stop - start,) uint16 or uint32. Within a shard it is a read-only view of the file.

        Raises:
            InputError: there are no such tokens.
        """
        if not 0 <= start <= stop <= self.num_tokens:
            raise InputError(
                f"tokens({start}, {stop}): the tokens of {self.path} are 0 to {self.num_tokens}."
            )
        first = self._find(self._shard_tokens, start)
        last = first if start == stop else self._find(self._shard_tokens, stop - 1)
        parts = []
        for number in range(first, last + 1):
            base = self._shard_tokens[number]
            parts.append(self._mapped(number, "tokens")[max(start - base, 0) : stop - base])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def sentences(self, document: int) -> Integers:
        """The starts of the sentences of a document.

        Args:
            document: 0 <= document < num_documents.

        Returns:
            (n + 1,) int64 for n sentences: offsets for `tokens`; the last is the document's end.

        Raises:
            InputError: there is no such document.
        """
        if not 0 <= document < self.num_documents:
            raise InputError(
                f"sentences({document}): {self.path} has {counted(self.num_documents, 'document')}."
            )
        first, last = self.first_sentences(np.array([document, document + 1]))
        return self.sentence_starts(np.arange(first, last + 1))

    def first_sentences(self, documents: Integers) -> Integers:
        """The first sentence of each document; sentences are numbered across the whole store.

        Args:
            documents: (D,) from 0 to num_documents; num_documents gives num_sentences.

        Returns:
            (D,) int64, numbers for `sentence_starts`.
        """
        return self._look_up("documents", documents, self._shard_documents, self._shard_sentences)

    def sentence_starts(self, sentences: Integers) -> Integers:
        """The tokens at which sentences begin.

        Args:
            sentences: (S,) from 0 to num_sentences; num_sentences gives num_tokens.

        Returns:
            (S,) int64, offsets for `tokens`.
        """
        return self._look_up("sentences", sentences, self._shard_sentences, self._shard_tokens)

    def _look_up(
        self, kind: str, positions: Integers, bounds: list[int], bases: list[int]
    ) -> Integers:
        """Reads the offsets at these positions in files of one kind, across all shards."""
        found = np.empty(positions.shape, np.int64)
        numbers = np.searchsorted(bounds, positions, side="right") - 1
        numbers = np.minimum(numbers, len(self._shards) - 1)
        for number in np.unique(numbers).tolist():
            here = numbers == number
            found[here] = self._mapped(number, kind)[positions[here] - bounds[number]]
            found[here] += bases[number]
        return found

    def _find(self, starts: list[int], position: int) -> int:
        """The shard of a token or document; for the end of the store, the last shard."""
        return min(bisect.bisect_right(starts, position), len(self._shards)) - 1

    def _map(self, number: int, kind: str) -> npt.NDArray[Any]:
        shard = self._shards[number]
        dtype = token_dtype(self.vocab_size) if kind == "tokens" else np.dtype(np.int64)
        lengths = {
            "tokens": shard.tokens,
            "sentences": shard.sentences + 1,
            "documents": shard.documents + 1,
        }
        return _load(shard_file(self.path, number, kind), dtype, lengths[kind])

    def _read_document_starts(self) -> Integers:
        starts = np.empty(self.num_documents + 1, np.int64)
        starts[-1] = self.num_tokens
        for number, shard in enumerate(self._shards):
            documents = self._map(number, "documents")
            _check_offsets(shard_file(self.path, number, "documents"), documents, shard.sentences)
            offsets = self._map(number, "sentences")[documents]
            _check_offsets(shard_file(self.path, number, "sentences"), offsets, shard.tokens)
            first = self._shard_documents[number]
            starts[first : first + shard.documents] = offsets[:-1] + self._shard_tokens[number]
        starts.flags.writeable = False
        return starts


def _starts(lengths: Iterable[int]) -> list[int]:
    return list(accumulate(lengths, initial=0))


def _load(path: Path, dtype: np.dtype[Any], length: int) -> npt.NDArray[Any]:
    """Maps a .npy file, read-only."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as problem:
        raise DataError(f"{path} is damaged: {problem}. {AGAIN}") from problem
    if array.dtype != dtype or array.shape != (length,):
        raise DataError(
            f"{path} holds {array.dtype} {array.shape}, expected {dtype} ({length},). {AGAIN}"
        )
    return np.asarray(array)  # slicing numpy's memmap costs several times as much


def _check_offsets(path: Path, offsets: Integers, total: int) -> None:
    if offsets[0] != 0 or offsets[-1] != total or (offsets[1:] <= offsets[:-1]).any():
        raise DataError(f"{path} is damaged: its offsets do not increase up to {total}. {AGAIN}")
