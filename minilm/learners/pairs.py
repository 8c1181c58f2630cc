"""Pretraining as in BERT and ALBERT: masked tokens, and a question about two segments."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from minilm.data.batches import SentenceTask, TokenBatch
from minilm.errors import InputError, argument
from minilm.learners.base import ModelLearner
from minilm.learners.tokens import (
    MASKED_LM_SCORES,
    encode,
    masked_lm_loss,
    masked_lm_scores,
    masked_ratio,
    states,
    token_counts,
)
from minilm.losses.elementary import LossSum, cross_entropy
from minilm.models.tasks import ForPreTraining
from minilm.outputs import EncoderOutput

PAIR_SCORES = ("sentence_order_accuracy", "next_sentence_accuracy")


class PretrainingLearner(ModelLearner):
    """Learns masked tokens and a label for each pair of segments.

    Args:
        model: AlbertForPreTraining or BertForPreTraining; either can learn either task.
        task: the meaning of the pairs' labels.
        pair_weight: weight of the pairs' loss; that of the masked tokens is 1. Both papers add the
            two.

    Raises:
        InputError: the model is another one, or the weight is not above 0.

    References: Devlin et al. 2019, section 3.1; Lan et al. 2020, section 3.1.
    """

    def __init__(
        self, model: ForPreTraining, task: SentenceTask, *, pair_weight: float = 1.0
    ) -> None:
        if not isinstance(model, ForPreTraining):
            raise InputError(
                f"model is a {type(model).__name__}: expected AlbertForPreTraining or "
                "BertForPreTraining."
            )
        if not 0 < pair_weight < math.inf:
            raise InputError(
                f"{argument('pair_weight')} is {pair_weight!r}: expected a finite number above 0. "
                "To learn from masked tokens only, use masked_lm."
            )
        super().__init__(model.device)
        self.model = model
        self.task = task
        self.pair_weight = pair_weight

    def counts(self, batch: TokenBatch) -> dict[str, int]:
        """The numbers of all tokens, of tokens to predict, and of pairs with a label."""
        return {**token_counts(batch), "pairs": count_pairs(batch)}

    def forward(self, batch: TokenBatch, counts: Mapping[str, float]) -> dict[str, Tensor]:
        """ "loss", its terms "mlm" and the one with the task's name, and "masked_share"."""
        if batch.tokens == 0:
            return self.empty_terms("mlm", self.task, "masked_share")
        encoded = encode(self.model, batch, batch.token_type_ids)
        labels = encoded.layout.pack(batch.labels)
        mlm = masked_lm_loss(states(self.model, encoded), labels, counts)
        pairs = pair_loss(self.model, encoded, batch).sum / max(counts["pairs"], 1)
        return {
            "loss": mlm + self.pair_weight * pairs,
            "mlm": mlm.detach(),
            self.task: pairs.detach(),
            "masked_share": masked_ratio(labels, counts),
        }

    @property
    def metric_names(self) -> tuple[str, ...]:
        """See `eval_step`."""
        return (*MASKED_LM_SCORES, *PAIR_SCORES)

    @torch.no_grad()
    def eval_step(self, batch: TokenBatch) -> dict[str, tuple[float, int]]:
        """The scores for which the batch has labels.

        masked_loss and masked_accuracy, over masked tokens; sentence_order_accuracy or
        next_sentence_accuracy, over pairs, by the task of the batch: the head answers either
        question, whichever it was trained for.
        """
        if batch.sentence_labels is not None:
            return pair_scores(self.model, batch)
        encoded = encode(self.model, batch, batch.token_type_ids)
        labels = encoded.layout.pack(batch.labels)
        return masked_lm_scores(states(self.model, encoded), labels)


def count_pairs(batch: TokenBatch) -> int:
    """The number of pairs of a batch with a label."""
    return 0 if batch.sentence_labels is None else batch.sentence_labels.shape[0]


def pair_loss(model: ForPreTraining, encoded: EncoderOutput, batch: TokenBatch) -> LossSum:
    """Cross-entropy of the labels of pairs, over B pairs.

    Args:
        model: a model with a head for pairs.
        encoded: the result of `encode` for the batch, with its token types.
        batch: a batch of pairs.

    Raises:
        InputError: the sequences of the batch are not pairs.
    """
    if batch.sentence_labels is None:
        raise InputError(
            f"The batch has sequences of one segment, but {type(model).__name__} learns from "
            "pairs: read the corpus with segments='sentence_order'."
        )
    return cross_entropy(model.pair_logits(encoded), batch.sentence_labels)  # of (B, 2)


def pair_scores(model: ForPreTraining, batch: TokenBatch) -> dict[str, tuple[float, int]]:
    """sentence_order_accuracy or next_sentence_accuracy of a batch of pairs, and their number."""
    assert batch.sentence_labels is not None
    answers = model.pair_logits(encode(model, batch, batch.token_type_ids))  # (B, 2)
    right = answers.argmax(dim=1) == batch.sentence_labels
    return {f"{batch.sentence_task}_accuracy": (float(right.sum()), right.shape[0])}
