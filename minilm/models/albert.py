"""ALBERT: small embedding tables and one layer used many times.

Two ideas make it small. The embedding tables are E wide and projected to H, and the layers share
their weights: with one group, L applications of a single layer. Sharing saves memory, not time:
every application costs as much as a layer of BERT.

Dropout acts on the attention maps and on what attention adds, as in Hugging Face. Differs from
Google's code, which also drops out what the feed-forward block adds (`feed_forward_dropout=True`);
v2 models train with dropout 0 anyway.

References: Lan et al. 2020, "ALBERT: A Lite BERT for Self-supervised Learning of Language
Representations"; modeling.py of google-research/albert.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Unpack, cast

from torch import Tensor, nn

from minilm.blocks.embeddings import Embeddings
from minilm.blocks.heads import Pooler
from minilm.blocks.transformer import TransformerLayer
from minilm.checkpoints.names import ALBERT, HubNames
from minilm.config import AlbertConfig, EncoderConfig
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
from minilm.outputs import AlbertPreTrainingOutput

# what "attention" and "feed_forward" mean in `AlbertConfig.shared_between_groups`: each norm goes
# with the block before it
SHARED_PARTS: dict[str | None, tuple[str, ...]] = {
    None: (),
    "attention": ("attention", "attention_norm"),
    "feed_forward": ("feed_forward", "feed_forward_norm"),
}


class LayerGroup(nn.Module):
    """Layers that are always applied one after the other.

    Args:
        layers: usually one.
    """

    def __init__(self, layers: list[TransformerLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


class AlbertModel(EncoderModel):
    """L applications of G groups of layers; with G = 1 every application uses the same weights.

    Args:
        config: what the model is made of.
        add_pooling_layer: also compute `pooler_output`.

    Example:
        >>> model = minilm.AlbertModel(minilm.AlbertConfig())
        >>> len(model.groups), len(model.virtual_layers()), model.num_parameters()
        (1, 12, 11683584)
    """

    config_class: ClassVar[type[EncoderConfig]] = AlbertConfig
    hub_names: ClassVar[HubNames] = ALBERT

    def __init__(self, config: AlbertConfig, *, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.embeddings = Embeddings(
            vocab_size=config.vocab_size,
            embedding_size=config.embedding_size,
            max_positions=config.max_position_embeddings,
            token_types=config.type_vocab_size,
            padding_id=config.pad_token_id,
            norm_eps=config.layer_norm_eps,
            dropout=config.hidden_dropout_prob,
            projection_size=config.hidden_size,
        )

        feed_forward_dropout = config.hidden_dropout_prob if config.feed_forward_dropout else 0.0

        def layer() -> TransformerLayer:
            return TransformerLayer(
                hidden_size=config.hidden_size,
                num_heads=config.num_attention_heads,
                intermediate_size=config.intermediate_size,
                activation=config.hidden_act,
                norm_eps=config.layer_norm_eps,
                attention_dropout=config.attention_probs_dropout_prob,
                attention_output_dropout=config.hidden_dropout_prob,
                feed_forward_dropout=feed_forward_dropout,
            )

        self.groups = nn.ModuleList(
            LayerGroup([layer() for _ in range(config.inner_group_num)])
            for _ in range(config.num_hidden_groups)
        )
        self._share(SHARED_PARTS[config.shared_between_groups])
        self.pooler = Pooler(config.hidden_size) if add_pooling_layer else None
        self._initialise(self)

    def _share(self, parts: tuple[str, ...]) -> None:
        """Put the first group's modules of these names into every other group."""
        first, *others = cast(list[LayerGroup], list(self.groups))
        for group in others:
            for source, layer in zip(first.layers, group.layers, strict=True):
                for part in parts:
                    setattr(layer, part, getattr(source, part))

    def virtual_layers(self) -> list[nn.Module]:
        """The layers in the order they are applied; a shared one appears as often as it is used."""
        applications = self.config.num_hidden_layers
        layers: list[nn.Module] = []
        for i in range(applications):
            # Hugging Face's formula to the letter: i * G // L rounds differently for some L and G
            group = cast(LayerGroup, self.groups[int(i / (applications / len(self.groups)))])
            layers.extend(group.layers)
        return layers


class _AlbertTask(TaskModel):
    encoder_class: ClassVar[Callable[..., EncoderModel]] = AlbertModel
    config_class: ClassVar[type[EncoderConfig]] = AlbertConfig
    hub_names: ClassVar[HubNames] = ALBERT


class AlbertForMaskedLM(_AlbertTask, ForMaskedLM):
    """ALBERT that predicts masked tokens."""


class AlbertForSequenceClassification(_AlbertTask, ForSequenceClassification):
    """ALBERT with a classifier on the pooled first token."""

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__(config, dropout=config.classifier_dropout)


class AlbertForTokenClassification(_AlbertTask, ForTokenClassification):
    """ALBERT with a classifier on every token."""

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__(config, dropout=config.classifier_dropout)


class AlbertForQuestionAnswering(_AlbertTask, ForQuestionAnswering):
    """ALBERT with a span head; no dropout before it."""

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__(config, dropout=0.0)


class AlbertForMultipleChoice(_AlbertTask, ForMultipleChoice):
    """ALBERT with a score for the pooled first token of every choice."""

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__(config, dropout=config.classifier_dropout)


class AlbertForPreTraining(_AlbertTask, ForPreTraining):
    """ALBERT as it was pretrained: masked tokens and "are the two segments in order?"."""

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__(config, dropout=config.classifier_dropout)
        self.sentence_order_head = self.new_linear(2)

    @property
    def pair_head(self) -> nn.Linear:
        return self.sentence_order_head

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        sentence_order_label: Tensor | None = None,
        **options: Unpack[EncoderOptions],
    ) -> AlbertPreTrainingOutput:
        """Both predictions.

        Args:
            input_ids, attention_mask, token_type_ids, **options: as in `EncoderModel.forward`.
            labels: (B, S) or (T,) int64 true ids; -100 = not predicted here.
            sentence_order_label: (B,) int64; 0 = original order, 1 = swapped.

        Returns:
            prediction_logits (B, S, V) or (T, V); sop_logits (B, 2), always two classes (differs
            from Hugging Face, where `num_labels` changes them and breaks the loss); loss, the sum
            of the mean cross-entropies whose labels were given (differs from Hugging Face, which
            needs both).
        """
        encoded = self.encoder.encode(
            input_ids, attention_mask, token_type_ids, reads_first=True, **options
        )
        logits, loss = self.masked_lm(self.masked_lm_head, encoded, labels)
        order = self.pair_logits(encoded)  # (B, 2)
        if sentence_order_label is not None:
            check_labels("sentence_order_label", sentence_order_label, 2, (order.shape[0],))
            order_loss = token_loss(order, sentence_order_label)
            loss = order_loss if loss is None else loss + order_loss
        return AlbertPreTrainingOutput(
            loss, logits, order, encoded.hidden_states, encoded.attentions
        )


CLASSES: dict[str, type[PretrainedModel]] = {
    cls.__name__: cls
    for cls in (
        AlbertModel,
        AlbertForMaskedLM,
        AlbertForPreTraining,
        AlbertForSequenceClassification,
        AlbertForTokenClassification,
        AlbertForQuestionAnswering,
        AlbertForMultipleChoice,
    )
}
