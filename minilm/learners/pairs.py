"""Pretraining as BERT and ALBERT did it: masked tokens, and a question about two segments."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from minilm.data.batches import SentenceTask, TokenBatch
from minilm.errors import InputError
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
from minilm.losses.elementary import cross_entropy
from minilm.models.tasks import ForPreTraining


class PretrainingLearner(ModelLearner):
    """Learns masked tokens and a label for each pair of segments, with equal weights.

    Args:
        model: AlbertForPreTraining or BertForPreTraining; either can learn either task.
        task: what the labels of the pairs mean.

    Raises:
        InputError: the model is another one.

    References: Devlin et al. 2019, section 3.1; Lan et al. 2020, section 3.1.
    """

    def __init__(self, model: ForPreTraining, task: SentenceTask) -> None:
        if not isinstance(model, ForPreTraining):
            raise InputError(
                f"model is a {type(model).__name__}: expected AlbertForPreTraining or "
                "BertForPreTraining."
            )
        super().__init__(model.device)
        self.model = model
        self.task = task

    def counts(self, batch: TokenBatch) -> dict[str, int]:
        """How many tokens there are, how many to predict, and how many pairs have a label."""
        labels = batch.sentence_labels
        return {**token_counts(batch), "pairs": 0 if labels is None else labels.shape[0]}

    def forward(self, batch: TokenBatch, counts: Mapping[str, float]) -> dict[str, Tensor]:
        """ "loss", its two terms "mlm" and the task's name, and "masked_share"."""
        if batch.tokens == 0:
            return self.empty_terms("mlm", self.task, "masked_share")
        encoded = encode(self.model, batch, batch.token_type_ids)
        labels = encoded.layout.pack(batch.labels)
        mlm = masked_lm_loss(states(self.model, encoded), labels, counts)
        assert batch.sentence_labels is not None
        answers = self.model.pair_logits(encoded)  # (B, 2)
        pairs = cross_entropy(answers, batch.sentence_labels).sum / max(counts["pairs"], 1)
        return {
            "loss": mlm + pairs,
            "mlm": mlm.detach(),
            self.task: pairs.detach(),
            "masked_share": masked_ratio(labels, counts),
        }

    @property
    def metric_names(self) -> tuple[str, ...]:
        """See `eval_step`."""
        return (*MASKED_LM_SCORES, "sentence_order_accuracy", "next_sentence_accuracy")

    @torch.no_grad()
    def eval_step(self, batch: TokenBatch) -> dict[str, tuple[float, int]]:
        """What the batch has labels for.

        masked_loss and masked_accuracy, over masked tokens; sentence_order_accuracy or
        next_sentence_accuracy, over pairs. One head answers both questions, whichever it was
        trained for.
        """
        encoded = encode(self.model, batch, batch.token_type_ids)
        if batch.sentence_labels is None:
            labels = encoded.layout.pack(batch.labels)
            return masked_lm_scores(states(self.model, encoded), labels)
        right = self.model.pair_logits(encoded).argmax(dim=1) == batch.sentence_labels
        return {f"{batch.sentence_task}_accuracy": (float(right.sum()), right.shape[0])}
