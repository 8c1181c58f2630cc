"""A token store in memory, with the methods of `minilm.data.token_store.TokenStore`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer as Backend, models, pre_tokenizers

from minilm import Tokenizer

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PAD, UNK, CLS, SEP, MASK = range(5)


def wordpiece(*words: str, size: int = 0) -> Tokenizer:
    """A WordPiece tokenizer of these words behind the special ones (ids from 5), filled up."""
    tokens = [*SPECIAL_TOKENS, *words]
    tokens += [f"word{index}" for index in range(len(tokens), size)]
    ids = {token: index for index, token in enumerate(tokens)}
    backend = Backend(models.WordPiece(ids, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return Tokenizer(backend)


class MemoryStore:
    """Documents given as ids.

    Args:
        tokenizer: theirs.
        documents: the ids of each.
        sentence: tokens of every sentence but the last ones of documents; or, for each document,
            the tokens of its sentences.
    """

    path = Path("memory")
    fingerprint = "f00d"

    def __init__(
        self,
        tokenizer: Tokenizer,
        documents: Sequence[npt.ArrayLike],
        sentence: int | Sequence[Sequence[int]] = 5,
    ) -> None:
        lines = [np.asarray(document, dtype=np.uint16) for document in documents]
        self._tokenizer = tokenizer
        self._tokens = np.concatenate([*lines, np.empty(0, dtype=np.uint16)])
        self.vocab_size = tokenizer.vocab_size
        self.num_documents = len(lines)
        self.num_tokens = len(self._tokens)
        self.document_starts = np.cumsum([0, *map(len, lines)])
        self._first = np.zeros(self.num_documents + 1, np.int64)
        starts = [np.zeros(0, np.int64)]
        for document in range(self.num_documents):
            start, stop = self.document_starts[document : document + 2]
            if isinstance(sentence, int):
                starts.append(np.arange(start, stop, sentence))
            else:
                starts.append(start + np.cumsum([0, *sentence[document][:-1]]))
            self._first[document + 1] = self._first[document] + len(starts[-1])
        self._starts = np.append(np.concatenate(starts), self.num_tokens)

    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    def counts(self) -> npt.NDArray[np.int64]:
        return np.bincount(self._tokens, minlength=self.vocab_size)

    def tokens(self, start: int, stop: int) -> npt.NDArray[np.uint16]:
        assert 0 <= start <= stop <= self.num_tokens
        return self._tokens[start:stop]

    def sentences(self, document: int) -> npt.NDArray[np.int64]:
        return self._starts[self._first[document] : self._first[document + 1] + 1]

    def first_sentences(self, documents: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return self._first[documents]

    def sentence_starts(self, sentences: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return self._starts[sentences]
