"""BERT: the teacher and the baseline.

Dropout acts on the attention maps and on the outputs of attention and of the feed-forward block.

References: Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Unpack

from torch import Tensor, nn

from minilm.blocks.embeddings import Embeddings
from minilm.blocks.heads import Pooler
from minilm.blocks.transformer import TransformerLayer
from minilm.checkpoints.names import BERT, HubNames
from minilm.config import BertConfig, EncoderConfig
from minilm.losses.heads import token_loss
from minilm.models.encoder import EncoderModel, EncoderOptions, LayerRun
from minilm.models.inputs import check_labels
from minilm.models.tasks import (
    ForMaskedLM,
    ForMultipleChoice,
    ForPreTraining,
    ForQuestionAnswering,
    ForSequenceClassification,
    ForTokenClassification,
    TaskModel,
)
from minilm.outputs import BertPreTrainingOutput, EncoderOutput, HeadOutput


class BertModel(EncoderModel):
    """L layers, each with weights of its own.

    Args:
        config: the configuration of the model.
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

    def run_layers(self, hidden: Tensor, run: LayerRun) -> Tensor:
        for layer in self.layers:
            hidden = run(layer, hidden)
        return hidden

    def virtual_layers(self) -> Iterable[nn.Module]:
        return self.layers


def _classifier_dropout(config: BertConfig) -> float:
    if config.classifier_dropout is None:
        return config.hidden_dropout_prob
    return config.classifier_dropout


class BertForMaskedLM(ForMaskedLM):
    """BERT that predicts masked tokens."""

    encoder_class = BertModel


class BertForSequenceClassification(ForSequenceClassification):
    """BERT with a classifier on the pooled first token."""

    encoder_class = BertModel

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config, dropout=_classifier_dropout(config))


class BertForTokenClassification(ForTokenClassification):
    """BERT with a classifier on every token."""

    encoder_class = BertModel

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config, dropout=_classifier_dropout(config))


class BertForQuestionAnswering(ForQuestionAnswering):
    """BERT with a span head; no dropout before it."""

    encoder_class = BertModel

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config, dropout=0.0)


class BertForMultipleChoice(ForMultipleChoice):
    """BERT with a score for the pooled first token of every choice."""

    encoder_class = BertModel

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config, dropout=_classifier_dropout(config))


class BertForPreTraining(ForPreTraining):
    """BERT with both pretraining heads: masked tokens and "does segment 2 follow segment 1?"."""

    encoder_class = BertModel
    pair_head_name = "next_sentence_head"
    pair_label = "next_sentence_label"
    pair_logits_name = "seq_relationship_logits"
    output_class = BertPreTrainingOutput

    next_sentence_head: nn.Linear

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config, dropout=0.0)


class BertForNextSentencePrediction(TaskModel):
    """BERT that answers "does the second segment follow the first?"."""

    encoder_class = BertModel

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config, pools=True)
        self.next_sentence_head = self.new_linear(2)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **options: Unpack[EncoderOptions],
    ) -> HeadOutput:
        """Score the two answers.

        Args:
            labels: (B,) int64; 0 = the second segment follows, 1 = it is a random one.
            others: as in `EncoderModel.forward`.

        Returns:
            logits (B, 2); loss, the mean cross-entropy, if labels are given.
        """
        tokens = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        encoded: EncoderOutput = self.encoder(*tokens, reads="first", **options)
        logits: Tensor = self.next_sentence_head(self.pool(encoded))  # (B, 2)
        loss = {}
        if labels is not None:
            check_labels("labels", labels, 2, (logits.shape[0],))
            loss = {"loss": token_loss(logits, labels)}
        rest = encoded.records() if len(encoded) > 1 else {}
        output = HeadOutput(**loss, logits=logits, **rest)
        return output if return_dict is not False else output.to_tuple()
