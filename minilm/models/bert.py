"""BERT: the teacher and the baseline.

Dropout acts on the attention maps, on what attention adds and on what the feed-forward block adds.

References: Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar, Unpack

from torch import Tensor, nn

from minilm.blocks.embeddings import Embeddings
from minilm.blocks.heads import Pooler
from minilm.blocks.transformer import TransformerLayer
from minilm.checkpoints.names import BERT, HubNames
from minilm.config import BertConfig, EncoderConfig
from minilm.models.encoder import EncoderModel, EncoderOptions
from minilm.models.inputs import check_labels
from minilm.models.pretrained import PretrainedModel
from minilm.models.tasks import (
    ForMaskedLM,
    ForMultipleChoice,
    ForPreTraining,
    ForQuestionAnswering,
    ForSequenceClassification,
    ForTokenClassification,
    TaskModel,
)
from minilm.objectives.tasks import token_loss
from minilm.outputs import BertPreTrainingOutput


class BertModel(EncoderModel):
    """L layers, each with weights of its own.

    Args:
        config: what the model is made of.
        add_pooling_layer: also compute `pooler_output`.

    Example:
        >>> model = minilm.BertModel(minilm.BertConfig(num_hidden_layers=2))
        >>> model(torch.tensor([[101, 7592, 102]])).last_hidden_state.shape
        torch.Size([1, 3, 768])
    """

    config_class: ClassVar[type[EncoderConfig]] = BertConfig
    hub_names: ClassVar[HubNames] = BERT

    def __init__(self, config: BertConfig, *, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.embeddings = Embeddings(
            vocab_size=config.vocab_size,
            embedding_size=config.hidden_size,
            max_positions=config.max_position_embeddings,
            token_types=config.type_vocab_size,
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
                attention_output_dropout=config.hidden_dropout_prob,
                feed_forward_dropout=config.hidden_dropout_prob,
            )
            for _ in range(config.num_hidden_layers)
        )
        self.pooler = Pooler(config.hidden_size) if add_pooling_layer else None
        self._initialise(self)

    def virtual_layers(self) -> Iterable[nn.Module]:
        return self.layers


class _BertTask(TaskModel):
    encoder_class: ClassVar[Callable[..., EncoderModel]] = BertModel
    config_class: ClassVar[type[EncoderConfig]] = BertConfig
    hub_names: ClassVar[HubNames] = BERT


def _classifier_dropout(config: BertConfig) -> float:
    if config.classifier_dropout is None:
        return config.hidden_dropout_prob
    return config.classifier_dropout


class BertForMaskedLM(_BertTask, ForMaskedLM):
    """BERT that predicts masked tokens."""


class BertForSequenceClassification(_BertTask, ForSequenceClassification):
    """BERT with a classifier on the pooled first token."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config, dropout=_classifier_dropout(config))


class BertForTokenClassification(_BertTask, ForTokenClassification):
    """BERT with a classifier on every token."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config, dropout=_classifier_dropout(config))


class BertForQuestionAnswering(_BertTask, ForQuestionAnswering):
    """BERT with a span head; no dropout before it."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config, dropout=0.0)


class BertForMultipleChoice(_BertTask, ForMultipleChoice):
    """BERT with a score for the pooled first token of every choice."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config, dropout=_classifier_dropout(config))


class BertForPreTraining(_BertTask, ForPreTraining):
    """BERT as it was pretrained: masked tokens and "does the second segment follow the first?"."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config, dropout=0.0)
        self.next_sentence_head = self.new_linear(2)

    @property
    def pair_head(self) -> nn.Linear:
        return self.next_sentence_head

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        next_sentence_label: Tensor | None = None,
        **options: Unpack[EncoderOptions],
    ) -> BertPreTrainingOutput:
        """Both predictions.

        Args:
            input_ids, attention_mask, token_type_ids, **options: as in `EncoderModel.forward`.
            labels: (B, S) or (T,) int64 true ids; -100 = not predicted here.
            next_sentence_label: (B,) int64; 0 = it follows, 1 = it is a random one.

        Returns:
            prediction_logits (B, S, V) or (T, V); seq_relationship_logits (B, 2); loss, the sum of
            the mean cross-entropies whose labels were given (differs from Hugging Face, which
            needs both).
        """
        encoded = self.encoder.encode(
            input_ids, attention_mask, token_type_ids, reads_first=True, **options
        )
        logits, loss = self.masked_lm(self.masked_lm_head, encoded, labels)
        relationship = self.pair_logits(encoded)  # (B, 2)
        if next_sentence_label is not None:
            check_labels("next_sentence_label", next_sentence_label, 2, (relationship.shape[0],))
            next_loss = token_loss(relationship, next_sentence_label)
            loss = next_loss if loss is None else loss + next_loss
        return BertPreTrainingOutput(
            loss, logits, relationship, encoded.hidden_states, encoded.attentions
        )


CLASSES: dict[str, type[PretrainedModel]] = {
    cls.__name__: cls
    for cls in (
        BertModel,
        BertForMaskedLM,
        BertForPreTraining,
        BertForSequenceClassification,
        BertForTokenClassification,
        BertForQuestionAnswering,
        BertForMultipleChoice,
    )
}
