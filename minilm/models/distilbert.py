"""DistilBERT: BERT with half the layers, without token types and without a pooler.

Dropout acts on the attention maps and on the output of the feed-forward block, but not on the
output of attention.

References: Sanh et al. 2019, "DistilBERT, a distilled version of BERT".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from minilm.blocks.embeddings import Embeddings, sinusoidal_table
from minilm.blocks.transformer import TransformerLayer
from minilm.checkpoints.names import DISTILBERT, HubNames
from minilm.config import DistilBertConfig, EncoderConfig
from minilm.models.encoder import EncoderModel, LayerRun
from minilm.models.tasks import (
    ForMaskedLM,
    ForMultipleChoice,
    ForQuestionAnswering,
    ForSequenceClassification,
    ForTokenClassification,
)
from minilm.outputs import EncoderOutput


class DistilBertModel(EncoderModel):
    """L layers, each with its own weights; the first token's state serves as the sequence vector.

    `token_type_ids` are accepted and ignored, with one warning if any is not 0.

    Args:
        config: the configuration of the model.
        add_pooling_layer: has no effect here, as heads have their own dense layer.
    """

    config_class: ClassVar[type[EncoderConfig]] = DistilBertConfig
    hub_names: ClassVar[HubNames] = DISTILBERT

    def __init__(self, config: DistilBertConfig, *, add_pooling_layer: bool = False) -> None:
        super().__init__(config)
        self.embeddings = Embeddings(
            vocab_size=config.vocab_size,
            embedding_size=config.hidden_size,
            max_positions=config.max_position_embeddings,
            token_types=0,
            padding_id=config.pad_token_id,
            norm_eps=config.layer_norm_eps,
            dropout=config.hidden_dropout_prob,
        )
        self.layers = nn.ModuleList(
            TransformerLayer(
                hidden_size=config.hidden_size,
                num_heads=config.num_attention_heads,
                intermediate_size=config.intermediate_size,
                activation=config.hidden_act,
                norm_eps=config.layer_norm_eps,
                attention_dropout=config.attention_probs_dropout_prob,
                attention_output_dropout=0.0,
                feed_forward_dropout=config.hidden_dropout_prob,
            )
            for _ in range(config.num_hidden_layers)
        )
        self.pooler = None
        self._initialise(self)
        positions = self.embeddings.position.weight
        if config.sinusoidal_position_embeddings:
            positions.data.copy_(sinusoidal_table(*positions.shape))

    def run_layers(self, hidden: Tensor, run: LayerRun) -> Tensor:
        for layer in self.layers:
            hidden = run(layer, hidden)
        return hidden

    def virtual_layers(self) -> Iterable[nn.Module]:
        return self.layers


def _pool(
    self: DistilBertForSequenceClassification | DistilBertForMultipleChoice, encoded: EncoderOutput
) -> Tensor:
    """A dense layer and ReLU on the first token stand in for BERT's pooler: (B, H)."""
    states = encoded.last_hidden_state
    return F.relu(self.pre_classifier(states if states.dim() == 2 else states[:, 0]))


class DistilBertForMaskedLM(ForMaskedLM):
    """DistilBERT that predicts masked tokens."""

    encoder_class = DistilBertModel


class DistilBertForSequenceClassification(ForSequenceClassification):
    """DistilBERT with a dense layer, ReLU and a classifier on the first token."""

    encoder_class = DistilBertModel
    pool = _pool

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__(config, dropout=config.classifier_dropout)
        self.pre_classifier = self.new_linear(config.hidden_size)


class DistilBertForTokenClassification(ForTokenClassification):
    """DistilBERT with a classifier on every token."""

    encoder_class = DistilBertModel

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__(config, dropout=config.hidden_dropout_prob)


class DistilBertForQuestionAnswering(ForQuestionAnswering):
    """DistilBERT with a span head."""

    encoder_class = DistilBertModel

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__(config, dropout=config.qa_dropout)


class DistilBertForMultipleChoice(ForMultipleChoice):
    """DistilBERT with a dense layer, ReLU and a score on the first token of every choice."""

    encoder_class = DistilBertModel
    pool = _pool

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__(config, dropout=config.classifier_dropout)
        self.pre_classifier = self.new_linear(config.hidden_size)
