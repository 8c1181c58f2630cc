"""From a token store to the training and evaluation data of a run."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from minilm.compression.warm_start import warm_start
from minilm.data.batches import SampleSource, SentenceTask, TokenBatch
from minilm.data.mask_ratios import ChangingRatio
from minilm.data.masked_lm import MaskedLMData, evaluation_batches
from minilm.data.masking import (
    Corruption,
    Masking,
    RareTokenMasking,
    TokenMasking,
    WholeWordMasking,
)
from minilm.data.ngram_masking import NGramMasking
from minilm.data.segment_pairs import (
    NoPairsError,
    PairMode,
    SegmentPairs,
    pair_evaluation_batches,
)
from minilm.data.sequences import Sequences
from minilm.data.token_store import TokenStore
from minilm.data.vocabulary import Vocabulary
from minilm.data.word_vectors import count_word_vectors
from minilm.errors import DataError, argument
from minilm.files.progress import counted
from minilm.models.pretrained import PretrainedModel
from minilm.recipes.settings import MaskingName
from minilm.tokenization.tokenizer import Tokenizer

Segments = Literal["single", "sentence_order", "next_sentence"]


@dataclass(frozen=True, kw_only=True)
class CorpusSettings:
    """Which part of a token store to learn from, and how.

    Attributes:
        store: directory that `minilm tokenize` made.
        held_out: number of documents at the end of the store that are held out for evaluation.
        max_length: maximum sequence length in tokens, [CLS] and [SEP] included.
        min_length: minimum sequence length in tokens; shorter sequences are left out.
        segments: "single" sequences, or pairs: "sentence_order" as in ALBERT, "next_sentence" as in
            BERT.
        pair_mode: how pairs for sentence order are made; see `SegmentPairs`.
        short_probability: fraction of documents whose pairs are cut to a shorter length.
        masking: how masked tokens are chosen: "tokens" as in BERT, "whole_words", "ngrams" as in
            ALBERT, or "rare_tokens", rare ones more often, as in DistilBERT.
        probability: mask ratio: fraction of a sequence's tokens to predict.
        final_probability: mask ratio at the end of the run, reached linearly; needs `steps` or
            `epochs`. None = it stays the same.
        mask_replace_probability: fraction of the tokens to predict that become [MASK]; half of the
            others become random tokens, half stay. Held-out batches always have BERT's 0.8.
        max_predictions: maximum number of tokens to predict in a sequence; None = no limit.
        max_ngram: longest n-gram in words.
        tokens_per_step: batch size of a step in tokens; it takes as many sequences as fit.
        tokens_per_evaluation: maximum number of held-out tokens to evaluate on; None = all.
        seed: random seed of data order and masks.
        steps, epochs: length of the run, for `final_probability`.
        mask_rounds: number of epochs after which the masks repeat; None = every epoch has its own.
    """

    store: str | os.PathLike[str]
    held_out: int = 0
    max_length: int = 128
    min_length: int = 12
    segments: Segments = "single"
    pair_mode: PairMode = "pure"
    short_probability: float = 0.1
    masking: MaskingName = "tokens"
    probability: float = 0.15
    mask_replace_probability: float = 0.8
    max_predictions: int | None = None
    max_ngram: int = 3
    tokens_per_step: int = 8192
    tokens_per_evaluation: int | None = 65536
    seed: int = 0
    final_probability: float | None = None
    steps: int | None = None
    epochs: int | None = None
    mask_rounds: int | None = None


@dataclass(frozen=True)
class Corpus:
    """An opened corpus.

    Attributes:
        store: the token store.
        tokenizer: the tokenizer that the store was made with.
        data: the training data.
        held_out: batches for evaluation: single sequences with fixed masks, the same for every way
            of training, and, for a model that learns from pairs, fixed pairs of both kinds, as far
            as the held-out documents give them.
    """

    store: TokenStore
    tokenizer: Tokenizer
    data: MaskedLMData
    held_out: list[TokenBatch]


def open_corpus(settings: CorpusSettings, say: Callable[[str], None] = lambda _: None) -> Corpus:
    """Opens a store for training.

    Args:
        settings: which part of the store to read, and how.
        say: receives a message if the held-out documents give no pairs of a kind.

    Raises:
        DataError: the store is damaged or incomplete, or nothing is left to train on.
    """
    store = TokenStore.open(settings.store)
    if not 0 <= settings.held_out < store.num_documents:
        raise DataError(
            f"{settings.store}: {argument('held_out')} is {settings.held_out}, the store has "
            f"{counted(store.num_documents, 'document')}. Leave some to train on."
        )
    tokenizer = store.tokenizer()
    vocabulary = Vocabulary.of(tokenizer)
    border = store.num_documents - settings.held_out
    data = MaskedLMData(
        _source(store, settings, range(border)),
        _masking(settings, vocabulary, store),
        vocabulary,
        tokens_per_step=settings.tokens_per_step,
        seed=settings.seed,
        corruption=Corruption.with_mask_share(settings.mask_replace_probability),
        ratio=_ratio(settings),
        mask_rounds=settings.mask_rounds,
    )
    held_out = _held_out(store, settings, vocabulary, say) if settings.held_out else []
    return Corpus(store, tokenizer, data, held_out)


def warm_start_inputs(settings: CorpusSettings) -> dict[str, Any]:
    """The input of a warm start, as JSON values: the documents that are counted.

    Raises:
        DataError: the store is damaged.
    """
    store = TokenStore.open(settings.store)
    return {"store": store.fingerprint, "documents": store.num_documents - settings.held_out}


def with_warm_start(model: PretrainedModel, settings: CorpusSettings) -> None:
    """Warm-starts a fresh model from the documents it will learn from; see `minilm.warm_start`.

    Raises:
        DataError: the store is damaged.
        InputError: the corpus is too small, or made for another vocabulary.
    """
    store = TokenStore.open(settings.store)
    size = model.base.embeddings.word.embedding_dim
    documents = range(store.num_documents - settings.held_out)
    warm_start(model, count_word_vectors(store, size, documents=documents))


def _ratio(settings: CorpusSettings) -> ChangingRatio | None:
    if settings.final_probability is None:
        return None
    return ChangingRatio(
        first=settings.probability,
        last=settings.final_probability,
        steps=settings.steps,
        epochs=settings.epochs,
    )


def _source(store: TokenStore, settings: CorpusSettings, documents: range) -> SampleSource:
    if settings.segments == "single":
        return _sequences(store, settings, documents)
    return SegmentPairs(
        store,
        task=settings.segments,
        mode=settings.pair_mode,
        max_length=settings.max_length,
        documents=documents,
        short_probability=settings.short_probability,
        min_length=_min_length(settings),
    )


def _held_out(
    store: TokenStore,
    settings: CorpusSettings,
    vocabulary: Vocabulary,
    say: Callable[[str], None],
) -> list[TokenBatch]:
    documents = range(store.num_documents - settings.held_out, store.num_documents)
    batches = evaluation_batches(
        _sequences(store, settings, documents),
        TokenMasking(vocabulary),
        vocabulary,
        tokens_per_batch=settings.tokens_per_step,
        limit_tokens=settings.tokens_per_evaluation,
    )
    if settings.segments == "single":
        return batches
    for task in get_args(SentenceTask):
        try:
            pairs = SegmentPairs(
                store,
                task=task,
                max_length=settings.max_length,
                documents=documents,
                short_probability=0.0,
                min_length=_min_length(settings),
            )
            batches += pair_evaluation_batches(
                pairs,
                tokens_per_batch=settings.tokens_per_step,
                limit_tokens=settings.tokens_per_evaluation,
            )
        except NoPairsError as problem:
            if task == settings.segments:  # nobody asked for the other
                say(f"note: {task} is trained, but not evaluated on the held-out part: {problem}")
    return batches


def _sequences(store: TokenStore, settings: CorpusSettings, documents: range) -> Sequences:
    return Sequences(
        store,
        max_length=settings.max_length,
        documents=documents,
        min_length=_min_length(settings),
    )


def _min_length(settings: CorpusSettings) -> int:
    return min(settings.min_length, settings.max_length)


def _masking(settings: CorpusSettings, vocabulary: Vocabulary, store: TokenStore) -> Masking:
    share, most = settings.probability, settings.max_predictions
    if settings.masking == "tokens":
        return TokenMasking(vocabulary, share, max_predictions=most)
    if settings.masking == "whole_words":
        return WholeWordMasking(vocabulary, share, max_predictions=most)
    if settings.masking == "ngrams":
        return NGramMasking(vocabulary, share, max_ngram=settings.max_ngram, max_predictions=most)
    if settings.masking == "rare_tokens":
        return RareTokenMasking(vocabulary, store.counts(), share, max_predictions=most)
    raise DataError(
        f"masking is {settings.masking!r}: expected one of {', '.join(get_args(MaskingName))}."
    )
