"""How well a language model reads a text: masked words, and the order of sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from minilm.bench.workload import SEED
from minilm.data.batches import TokenBatch
from minilm.data.sentence_splitting import split_sentences
from minilm.errors import InputError
from minilm.learners.masked_lm import MaskedLMLearner
from minilm.learners.pairs import PretrainingLearner
from minilm.loader import check_vocabulary
from minilm.losses.elementary import IGNORED_LABEL
from minilm.models.tasks import ForMaskedLM, ForPreTraining
from minilm.sentence.encoder import pack
from minilm.tokenization.tokenizer import Tokenizer

MAX_LENGTH = 128  # tokens to which paragraphs and pairs are cut
MASKED = 0.15  # of a paragraph's tokens
SHORTEST = 8  # tokens of a paragraph that is looked at, special tokens included
RUN = 3  # sentences on either side of a pair
TOKENS_PER_BATCH = 4096


@dataclass(frozen=True)
class TextScores:
    """The scores of a model on a text.

    Attributes:
        masked_accuracy: share of masked tokens that are predicted right, 0 to 1.
        masked_loss: mean cross-entropy of masked tokens, in nats.
        masked_tokens: number of masked tokens.
        sentence_order_accuracy: share of pairs whose order is recognised, 0 to 1; None for a model
            without a head for it, or a text without pairs.
        pairs: number of pairs.
    """

    masked_accuracy: float
    masked_loss: float
    masked_tokens: int
    sentence_order_accuracy: float | None
    pairs: int


def score_text(
    model: ForMaskedLM | ForPreTraining,
    tokenizer: Tokenizer,
    documents: Sequence[str],
    *,
    max_tokens: int | None = None,
    seed: int = SEED,
    sentence_order: bool = True,
) -> TextScores:
    """Scores a model on documents.

    Every paragraph is cut at 128 tokens and 15 % of its tokens are replaced by [MASK]. A pair
    consists of two successive runs of three sentences, cut at 128 tokens together; every other pair
    is swapped. Masks depend only on the seed and the paragraph, so models with the same tokenizer
    get the same ones.

    Args:
        model: a model with a masked-LM head; a pretraining ALBERT also predicts the order of
            sentences.
        tokenizer: the model's tokenizer.
        documents: texts, one paragraph a line.
        max_tokens: stop after about this many tokens, for each of the two scores; None = all.
        seed: random seed of the masks; the default is that of `minilm compare`.
        sentence_order: whether to score the order of sentences.

    Raises:
        InputError: no paragraph has 8 tokens or more, or the tokenizer has more tokens than the
            model.
    """
    check_vocabulary(model.config, tokenizer)
    learner: MaskedLMLearner | PretrainingLearner
    sentence_order &= isinstance(model, ForPreTraining) and hasattr(model, "sentence_order_head")
    if isinstance(model, ForPreTraining):
        learner = PretrainingLearner(model, "sentence_order")
    else:
        learner = MaskedLMLearner(model)
    learner.eval()
    longest = min(MAX_LENGTH, model.config.max_position_embeddings)
    batches = _masked_batches(tokenizer, documents, longest, max_tokens, seed)
    if not batches:
        raise InputError(
            f"The text has no paragraph (line) of {SHORTEST} tokens or more: there is nothing to "
            "mask."
        )
    if sentence_order:
        batches += _pair_batches(tokenizer, documents, longest, max_tokens)
    sums: dict[str, tuple[float, float]] = {}
    with torch.inference_mode():
        for batch in batches:
            for name, (total, count) in learner.eval_step(batch.to(model.device)).items():
                before = sums.get(name, (0.0, 0.0))
                sums[name] = (before[0] + total, before[1] + count)
    right, pairs = sums.get("sentence_order_accuracy", (0.0, 0))
    accuracy, loss = sums["masked_accuracy"], sums["masked_loss"]
    return TextScores(
        masked_accuracy=accuracy[0] / accuracy[1],
        masked_loss=loss[0] / loss[1],
        masked_tokens=int(accuracy[1]),
        sentence_order_accuracy=right / pairs if pairs else None,
        pairs=int(pairs),
    )


def help_topics() -> list[str]:
    """A text that every Python installation has: the topics of `help()`, as documents.

    Lines of one paragraph are joined.
    """
    from pydoc_data.topics import topics

    return [
        "\n".join(" ".join(part.split()) for part in topic.split("\n\n") if part.strip())
        for _, topic in sorted(topics.items())
    ]


def _masked_batches(
    tokenizer: Tokenizer, documents: Iterable[str], longest: int, limit: int | None, seed: int
) -> list[TokenBatch]:
    special = np.array(tokenizer.all_special_ids)
    rows: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    seen = 0
    for number, line in enumerate(line for text in documents for line in text.splitlines()):
        if limit is not None and seen >= limit:
            break
        if not line.strip():
            continue
        ids = tokenizer(line, max_length=longest)["input_ids"][0].numpy()
        if len(ids) < SHORTEST:
            continue
        positions = np.flatnonzero(~np.isin(ids, special))
        random = np.random.default_rng([seed, number])
        count = min(len(positions), max(1, round(MASKED * len(positions))))
        positions = random.choice(positions, size=count, replace=False)
        targets = np.full_like(ids, IGNORED_LABEL)
        targets[positions] = ids[positions]
        ids[positions] = tokenizer.mask_token_id
        rows.append(ids)
        labels.append(targets)
        seen += len(ids)
    return [
        TokenBatch(
            samples=np.array(chosen),
            input_ids=torch.from_numpy(np.concatenate([rows[n] for n in chosen])),
            lengths=torch.tensor([len(rows[n]) for n in chosen]),
            labels=torch.from_numpy(np.concatenate([labels[n] for n in chosen])),
        )
        for chosen in pack([len(row) for row in rows], TOKENS_PER_BATCH)
    ]


def _pair_batches(
    tokenizer: Tokenizer, documents: Iterable[str], longest: int, limit: int | None
) -> list[TokenBatch]:
    pairs: list[tuple[str, str]] = []
    for text in documents:
        sentences = split_sentences(text)
        for start in range(0, len(sentences) - 2 * RUN + 1, 2 * RUN):
            one, two = (" ".join(sentences[begin : begin + RUN]) for begin in (start, start + RUN))
            pairs.append((one, two))
    if limit is not None:
        pairs = pairs[: max(2, limit // longest)]
    batches = []
    size = max(2, TOKENS_PER_BATCH // longest)
    for start in range(0, len(pairs), size):
        numbers = np.arange(start, min(start + size, len(pairs)))
        swapped = numbers % 2 == 1
        ordered = [pairs[n][::-1] if n % 2 else pairs[n] for n in numbers]
        batch = tokenizer(
            [first for first, _ in ordered],
            [second for _, second in ordered],
            max_length=longest,
            layout="packed",
        )
        batches.append(
            TokenBatch(
                samples=numbers,
                input_ids=batch["input_ids"],
                lengths=batch["lengths"],
                labels=torch.full_like(batch["input_ids"], IGNORED_LABEL),
                token_type_ids=batch["token_type_ids"],
                sentence_labels=torch.from_numpy(swapped).long(),
                sentence_task="sentence_order",
            )
        )
    return batches
