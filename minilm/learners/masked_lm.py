"""Masked-LM training: predict the tokens that were hidden."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from minilm.blocks.heads import MaskedLMHead
from minilm.data.batches import TokenBatch
from minilm.errors import InputError
from minilm.losses.distillation import States
from minilm.losses.elementary import IGNORED_LABEL
from minilm.losses.vocabulary import fused_vocab_losses, masked_scores
from minilm.models.pretrained import PretrainedModel
from minilm.models.tasks import ForMaskedLM
from minilm.outputs import EncoderOutput
from minilm.training.updates import Learner

MASKED_LM_SCORES = ("masked_loss", "masked_accuracy")


class MaskedLMLearner(Learner):
    """Learns to predict masked tokens; vocabulary logits exist only where a token was masked.

    Args:
        model: BertForMaskedLM, DistilBertForMaskedLM or AlbertForMaskedLM.

    Raises:
        InputError: the model is another one.
    """

    def __init__(self, model: ForMaskedLM) -> None:
        super().__init__()
        check_masked_lm("model", model)
        self.model = model

    def counts(self, batch: TokenBatch) -> dict[str, int]:
        """How many tokens there are ("attended"), and how many to predict ("masked")."""
        return token_counts(batch)

    def forward(self, batch: TokenBatch, counts: Mapping[str, float]) -> dict[str, Tensor]:
        """ "loss" and "mlm", both the cross-entropy, and "masked_share"; see `Learner.forward`."""
        if batch.tokens == 0:
            return empty_terms(self, ("mlm", "masked_share"))
        encoded = encode(self.model, batch, batch.token_type_ids)
        labels = encoded.layout.pack(batch.labels)
        where = masked_positions(labels)
        sums = fused_vocab_losses(
            states(self.model, encoded).logit_inputs(where),
            labels=labels[where],
            mlm=1 / max(counts["masked"], 1),
        )
        return {
            "loss": sums.total,
            "mlm": sums.total.detach(),
            "masked_share": masked_ratio(labels, counts),
        }

    @property
    def metric_names(self) -> tuple[str, ...]:
        """See `eval_step`."""
        return MASKED_LM_SCORES

    @torch.no_grad()
    def eval_step(self, batch: TokenBatch) -> dict[str, tuple[float, int]]:
        """masked_loss and masked_accuracy, over masked tokens."""
        encoded = encode(self.model, batch, batch.token_type_ids)
        return masked_lm_scores(states(self.model, encoded), encoded.layout.pack(batch.labels))


def check_masked_lm(name: str, model: PretrainedModel) -> None:
    """Raise InputError unless the model is an encoder with nothing but a masked-LM head."""
    if not isinstance(model, ForMaskedLM):
        raise InputError(
            f"{name} is a {type(model).__name__}: expected BertForMaskedLM, DistilBertForMaskedLM "
            "or AlbertForMaskedLM."
        )


def token_counts(batch: TokenBatch) -> dict[str, int]:
    """How many tokens a batch has, and how many of them are to be predicted."""
    return {"attended": batch.tokens, "masked": int((batch.labels != IGNORED_LABEL).sum())}


def encode(
    model: PretrainedModel,
    batch: TokenBatch,
    token_type_ids: Tensor | None,
) -> EncoderOutput:
    """The encoder's states of a batch, in the inner order of its layout."""
    encoded: EncoderOutput = model.base(
        batch.input_ids, None, token_type_ids, lengths=batch.lengths, reads="all"
    )
    return encoded


def states(model: PretrainedModel, encoded: EncoderOutput) -> States:
    """What a loss needs of a model's states, in the order they are in."""
    head = getattr(model, "masked_lm_head", None)
    matrix = model.get_input_embeddings().weight
    if not isinstance(head, MaskedLMHead):
        return States(encoded.last_hidden_state, None, matrix, None)
    return States(encoded.last_hidden_state, head, matrix, head.bias)


def masked_positions(labels: Tensor) -> Tensor:
    """The numbers of the labelled tokens, (n,)."""
    return (labels != IGNORED_LABEL).nonzero()[:, 0]


def masked_ratio(labels: Tensor, counts: Mapping[str, float]) -> Tensor:
    """A term for the log: how many of a step's tokens are predicted, special ones counted."""
    return (labels != IGNORED_LABEL).sum().double() / counts["attended"]


def masked_lm_scores(student: States, labels: Tensor) -> dict[str, tuple[float, int]]:
    """masked_loss and masked_accuracy: (sum, number of labels)."""
    where = masked_positions(labels)
    loss, correct = masked_scores(student.logit_inputs(where), labels[where])
    count = where.shape[0]
    return {"masked_loss": (float(loss), count), "masked_accuracy": (float(correct), count)}


def empty_terms(learner: nn.Module, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Zeros for a batch without tokens; all trained parameters take part in the loss."""
    trained = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    loss = torch.stack([parameter.flatten()[:0].sum() for parameter in trained]).sum()
    return {"loss": loss, **{name: torch.zeros_like(loss) for name in names}}
