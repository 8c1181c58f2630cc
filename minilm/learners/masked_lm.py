"""Masked-LM training: predict the masked tokens."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from minilm.data.batches import TokenBatch
from minilm.learners.base import ModelLearner
from minilm.learners.tokens import (
    MASKED_LM_SCORES,
    check_masked_lm,
    encode,
    masked_lm_loss,
    masked_lm_scores,
    masked_ratio,
    states,
    token_counts,
)
from minilm.models.tasks import ForMaskedLM


class MaskedLMLearner(ModelLearner):
    """Learns to predict masked tokens; vocabulary logits are computed only at masked tokens.

    Args:
        model: BertForMaskedLM, DistilBertForMaskedLM or AlbertForMaskedLM.

    Raises:
        InputError: the model is another one.
    """

    def __init__(self, model: ForMaskedLM) -> None:
        check_masked_lm("model", model)
        super().__init__(model.device)
        self.model = model

    def counts(self, batch: TokenBatch) -> dict[str, int]:
        """The numbers of all tokens ("attended") and of those to predict ("masked")."""
        return token_counts(batch)

    def forward(self, batch: TokenBatch, counts: Mapping[str, float]) -> dict[str, Tensor]:
        """ "loss" and "mlm", both the cross-entropy, and "masked_share"; see `Learner.forward`."""
        if batch.tokens == 0:
            return self.empty_terms("mlm", "masked_share")
        encoded = encode(self.model, batch, batch.token_type_ids)
        labels = encoded.layout.pack(batch.labels)
        loss = masked_lm_loss(states(self.model, encoded), labels, counts)
        return {"loss": loss, "mlm": loss.detach(), "masked_share": masked_ratio(labels, counts)}

    @property
    def metric_names(self) -> tuple[str, ...]:
        """See `eval_step`."""
        return MASKED_LM_SCORES

    @torch.no_grad()
    def eval_step(self, batch: TokenBatch) -> dict[str, tuple[float, int]]:
        """masked_loss and masked_accuracy, over masked tokens."""
        encoded = encode(self.model, batch, batch.token_type_ids)
        return masked_lm_scores(states(self.model, encoded), encoded.layout.pack(batch.labels))
