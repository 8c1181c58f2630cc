"""From a token store to what a run trains and is judged on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from minilm.data.batches import TokenBatch
from minilm.data.masked_lm import MaskedLMData, evaluation_batches
from minilm.data.masking import Masking, RareTokenMasking, TokenMasking, WholeWordMasking
from minilm.data.sequences import Sequences
from minilm.data.token_store import TokenStore
from minilm.data.vocabulary import Vocabulary
from minilm.errors import DataError
from minilm.tokenization import Tokenizer

MaskingName = Literal["tokens", "whole_words", "rare_tokens"]


@dataclass(frozen=True, kw_only=True)
class CorpusSettings:
    """Which part of a token store is learned from, and how.

    Attributes:
        store: directory that `minilm tokenize` made.
        held_out: so many documents at the end of the store are for evaluation only.
        max_length: longest sequence in tokens, [CLS] and [SEP] included.
        min_length: shorter sequences are left out.
        masking: "tokens" as BERT, "whole_words", or "rare_tokens", DistilBERT's preference.
        probability: share of a sequence's tokens that is predicted.
        max_predictions: at most so many in a sequence; None = no such limit.
        tokens_per_step: a step takes as many sequences as fit.
        tokens_per_evaluation: held-out tokens that are looked at; None = all.
        seed: of order and masks.
    """

    store: str | os.PathLike[str]
    held_out: int = 0
    max_length: int = 128
    min_length: int = 12
    masking: MaskingName = "tokens"
    probability: float = 0.15
    max_predictions: int | None = None
    tokens_per_step: int = 8192
    tokens_per_evaluation: int | None = 65536
    seed: int = 0


@dataclass(frozen=True)
class Corpus:
    """An opened corpus.

    Attributes:
        store: the token store.
        tokenizer: what the store was made with.
        data: what is learned from.
        held_out: batches for evaluation, with fixed masks.
    """

    store: TokenStore
    tokenizer: Tokenizer
    data: MaskedLMData
    held_out: list[TokenBatch]


def open_corpus(settings: CorpusSettings) -> Corpus:
    """Opens a store for training.

    Raises:
        DataError: the store is damaged or incomplete, or nothing is left to train on.
    """
    store = TokenStore.open(settings.store)
    if not 0 <= settings.held_out < store.num_documents:
        raise DataError(
            f"{settings.store}: held_out is {settings.held_out}, the store has "
            f"{store.num_documents} documents. Leave some to train on."
        )
    tokenizer = store.tokenizer()
    vocabulary = Vocabulary.of(tokenizer)
    border = store.num_documents - settings.held_out
    trained = _sequences(store, settings, range(border))
    data = MaskedLMData(
        trained,
        _masking(settings, vocabulary, store),
        vocabulary,
        tokens_per_step=settings.tokens_per_step,
        seed=settings.seed,
    )
    held_out: list[TokenBatch] = []
    if settings.held_out:
        kept = range(border, store.num_documents)
        held_out = evaluation_batches(
            _sequences(store, settings, kept),
            TokenMasking(vocabulary),
            vocabulary,
            tokens_per_batch=settings.tokens_per_step,
            limit_tokens=settings.tokens_per_evaluation,
        )
    return Corpus(store, tokenizer, data, held_out)


def _sequences(store: TokenStore, settings: CorpusSettings, documents: range) -> Sequences:
    return Sequences(
        store,
        max_length=settings.max_length,
        documents=documents,
        min_length=min(settings.min_length, settings.max_length),
    )


def _masking(settings: CorpusSettings, vocabulary: Vocabulary, store: TokenStore) -> Masking:
    share, most = settings.probability, settings.max_predictions
    if settings.masking == "tokens":
        return TokenMasking(vocabulary, share, max_predictions=most)
    if settings.masking == "whole_words":
        return WholeWordMasking(vocabulary, share, max_predictions=most)
    if settings.masking == "rare_tokens":
        return RareTokenMasking(vocabulary, store.counts(), share, max_predictions=most)
    raise DataError(
        f"masking is {settings.masking!r}: expected tokens, whole_words or rare_tokens."
    )
