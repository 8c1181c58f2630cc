"""DistilBERT: BERT with half the layers, without token types and without pooler.

What attention adds is not dropped out; the attention maps and what the feed-forward block adds are.

References: Sanh et al. 2019, "DistilBERT, a distilled version of BERT".
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minilm.blocks.embeddings import Embeddings, sinusoidal_table
from minilm.blocks.transformer import TransformerLayer
from minilm.checkpoints.names import DISTILBERT, HubNames
from minilm.config import DistilBertConfig, EncoderConfig
from minilm.models.encoder import Encoded, EncoderModel
from minilm.models.pretrained import PretrainedModel
from minilm.models.tasks import (
    ForMaskedLM,
    ForMultipleChoice,
    ForQuestionAnswering,
    ForSequenceClassification,
    ForTokenClassification,
    TaskModel,
)


class DistilBertModel(EncoderModel):
    """L layers, each with weights of its own; the first token's state serves as sequence vector.

    `token_type_ids` are accepted and ignored, with one warning if any is not 0.

    Args:
        config: what the model is made of.
        add_pooling_layer: has no meaning here; heads bring their own dense layer.
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
        positions.requires_grad_(not config.freeze_position_embeddings)
        self._warned_of_token_types = False

    def virtual_layers(self) -> Iterable[nn.Module]:
        return self.layers

    def encode(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        token_type_ids: Tensor | None,
        **options: Any,
    ) -> Encoded:
        if (
            token_type_ids is not None
            and not self._warned_of_token_types
            and not torch.compiler.is_compiling()
            and bool(token_type_ids.any())
        ):
            self._warned_of_token_types = True
            warnings.warn(
                "token_type_ids other than 0 are ignored: DistilBERT has no token types.",
                stacklevel=2,
            )
        return super().encode(input_ids, attention_mask, token_type_ids, **options)


class _DistilBertTask(TaskModel):
    encoder_class: ClassVar[Callable[..., EncoderModel]] = DistilBertModel
    config_class: ClassVar[type[EncoderConfig]] = DistilBertConfig
    hub_names: ClassVar[HubNames] = DISTILBERT

    pre_classifier: nn.Linear

    def pool(self, first: Tensor) -> Tensor:
        """A dense layer and ReLU stand in for BERT's pooler."""
        return F.relu(self.pre_classifier(first))


class DistilBertForMaskedLM(_DistilBertTask, ForMaskedLM):
    """DistilBERT that predicts masked tokens."""


class DistilBertForSequenceClassification(_DistilBertTask, ForSequenceClassification):
    """DistilBERT with a dense layer, ReLU and a classifier on the first token."""

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__(config, dropout=config.classifier_dropout)
        self.pre_classifier = self.new_linear(config.hidden_size)


class DistilBertForTokenClassification(_DistilBertTask, ForTokenClassification):
    """DistilBERT with a classifier on every token."""

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__(config, dropout=config.hidden_dropout_prob)


class DistilBertForQuestionAnswering(_DistilBertTask, ForQuestionAnswering):
    """DistilBERT with a span head."""

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__(config, dropout=config.qa_dropout)


class DistilBertForMultipleChoice(_DistilBertTask, ForMultipleChoice):
    """DistilBERT with a dense layer, ReLU and a score on the first token of every choice."""

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__(config, dropout=config.classifier_dropout)
        self.pre_classifier = self.new_linear(config.hidden_size)


CLASSES: dict[str, type[PretrainedModel]] = {
    cls.__name__: cls
    for cls in (
        DistilBertModel,
        DistilBertForMaskedLM,
        DistilBertForSequenceClassification,
        DistilBertForTokenClassification,
        DistilBertForQuestionAnswering,
        DistilBertForMultipleChoice,
    )
}
