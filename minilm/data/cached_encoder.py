"""Encodes sentences as a tokenizers backend does, several times faster where that is safe.

BERT's and ALBERT's tokenizers never look across a space: the ids of a sentence are those of its
words, one word after the other. Text repeats its words, so each is encoded once and then looked up.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, count
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from minilm.errors import DataError
from minilm.files.arrays import Integers
from minilm.tokenization.files import guarded

if TYPE_CHECKING:
    import tokenizers

Item = TypeVar("Item")

_REMEMBERED = 2**22  # characters of words; with their ids about 100 MB
_CALL = 2**16  # characters that the library gets at once: it takes more than 100 bytes a token

_SPACES = {"Regex": " {2,}"}


class CachedEncoder:
    """Encodes sentences without special tokens; "[MASK]" in a text is ordinary text.

    Args:
        description: the backend's JSON.
    """

    def __init__(self, description: str) -> None:
        import tokenizers

        self._backend: tokenizers.Tokenizer = tokenizers.Tokenizer.from_str(description)
        self._backend.encode_special_tokens = True
        self._by_word = stops_at_spaces(json.loads(description))
        self._number: dict[str, int] = {}  # the number of every known word
        self._lengths = self._starts = self._ids = np.zeros(0, np.int64)  # by these numbers
        self._remembered = 0

    def __call__(self, sentences: Sequence[str]) -> tuple[Integers, Integers]:
        """Encodes sentences.

        Returns:
            The ids of all sentences, (N,) int64, and how many each has, (len(sentences),) int64.

        Raises:
            DataError: the library fails.
        """
        if not sentences or not self._by_word:
            return self._encode(sentences)
        lines = [sentence.split(" ") for sentence in sentences]
        self._learn(set(chain.from_iterable(lines)))
        words = np.fromiter(map(self._number.__getitem__, chain.from_iterable(lines)), np.int64)
        lengths = self._lengths[words]
        begins = _begins(lengths)
        # every id's position: that of its word's first id, plus the distance from there
        positions = np.repeat(self._starts[words] - begins, lengths) + np.arange(lengths.sum())
        first_words = _begins(np.fromiter(map(len, lines), np.int64, len(lines)))
        return self._ids[positions], np.add.reduceat(lengths, first_words)

    def _learn(self, words: set[str]) -> None:
        """Encodes and stores those of these words that are not known yet."""
        if self._remembered > _REMEMBERED:
            self._number.clear()
            self._lengths = self._starts = self._ids = np.zeros(0, np.int64)
            self._remembered = 0
        new = list(words - self._number.keys())
        ids, lengths = self._encode(new)
        self._ids = np.concatenate([self._ids, ids])
        self._lengths = np.concatenate([self._lengths, lengths])
        self._starts = _begins(self._lengths)
        self._number.update(zip(new, count(len(self._number))))
        self._remembered += sum(map(len, new))

    def _encode(self, texts: Sequence[str]) -> tuple[Integers, Integers]:
        lengths, parts = [], [np.zeros(0, np.int64)]
        for part in batched(texts, _CALL, len):
            with guarded(DataError, "text"):
                encodings = self._backend.encode_batch_fast(part, add_special_tokens=False)
            rows = [encoding.ids for encoding in encodings]
            lengths += [len(row) for row in rows]
            parts.append(np.fromiter(chain.from_iterable(rows), np.int64))
        return np.concatenate(parts), np.array(lengths, np.int64)


def batched(
    items: Iterable[Item], size: int, length: Callable[[Item], int]
) -> Iterator[list[Item]]:
    """Groups items into lists; a list ends with the item at which its length reaches `size`."""
    batch: list[Item] = []
    total = 0
    for item in items:
        batch.append(item)
        total += length(item)
        if total >= size:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


def stops_at_spaces(description: dict[str, Any]) -> bool:
    """Whether a tokenizer is one of those that are known never to look across a space.

    Args:
        description: the backend's JSON.
    """
    # other added tokens are searched for in the whole text and may contain spaces
    if not all(token["special"] for token in description["added_tokens"]):
        return False
    normalizers = _steps(description["normalizer"], "normalizers")
    splitters = _steps(description["pre_tokenizer"], "pretokenizers")
    kinds = [step["type"] for step in splitters]
    if description["model"]["type"] == "WordPiece":
        return kinds == ["BertPreTokenizer"] and all(
            step["type"] == "BertNormalizer" for step in normalizers
        )
    return (
        description["model"]["type"] == "Unigram"
        and kinds == ["WhitespaceSplit", "Metaspace"]
        and splitters[1]["prepend_scheme"] == "always"
        and all(map(_stays_in_word, normalizers))
    )


def _stays_in_word(normalizer: dict[str, Any]) -> bool:
    if normalizer["type"] == "Replace":
        pattern = normalizer["pattern"]
        return pattern == _SPACES or " " not in pattern.get("String", " ")
    return normalizer["type"] in ("NFKD", "StripAccents", "Lowercase", "Precompiled")


def _steps(part: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    if part is None:
        return []
    steps = part[name] if part["type"] == "Sequence" else [part]
    assert isinstance(steps, list)
    return steps


def _begins(lengths: Integers) -> Integers:
    """The start of each row when rows of these lengths are concatenated."""
    begins: Integers = np.cumsum(lengths) - lengths
    return begins
