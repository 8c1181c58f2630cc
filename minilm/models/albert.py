"""ALBERT: small embedding tables and one layer used many times.

Two ideas make it small. The embedding tables are E wide and projected to H, and the layers share
their weights: with one group, L applications of a single layer. Sharing saves memory, not time:
every application costs as much as a layer of BERT.

Dropout acts on the attention maps and on the output of attention, as in Hugging Face. Google's code
differs: it also applies dropout to the output of the feed-forward block
(`feed_forward_dropout=True`); v2 models train with dropout 0 anyway.

References: Lan et al. 2020, "ALBERT: A Lite BERT for Self-supervised Learning of Language
Representations"; modeling.py of google-research/albert.
"""

from __future__ import annotations

from typing import ClassVar, cast

from torch import Tensor, nn

from minilm.blocks.embeddings import Embeddings
from minilm.blocks.heads import Pooler
from minilm.blocks.transformer import TransformerLayer
from minilm.checkpoints.names import ALBERT, HubNames
from minilm.config import AlbertConfig, EncoderConfig
from minilm.models.encoder import EncoderModel, LayerRun
from minilm.models.tasks import (
    ForMaskedLM,
    ForMultipleChoice,
    ForPreTraining,
    ForQuestionAnswering,
    ForSequenceClassification,
    ForTokenClassification,
)
from minilm.outputs import AlbertPreTrainingOutput

# the modules that "attention" and "feed_forward" mean in `AlbertConfig.shared_between_groups`; each
# norm belongs to the block before it
SHARED_PARTS: dict[str | None, tuple[str, ...]] = {
    None: (),
    "attention": ("attention", "attention_norm"),
    "feed_forward": ("feed_forward", "feed_forward_norm"),
}


class LayerGroup(nn.Module):
    """Layers that are always applied one after the other.

    Args:
        layers: the layers, usually one.
    """

    def __init__(self, layers: list[TransformerLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, hidden: Tensor, run: LayerRun) -> Tensor:
        """(..., H) -> (..., H)."""
        for layer in self.layers:
            hidden = run(layer, hidden)
        return hidden


class AlbertModel(EncoderModel):
    """L applications of G groups of layers; with G = 1 every application uses the same weights.

    Args:
        config: the configuration of the model.
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
        """Make all groups share the first group's modules of these names."""
        first, *others = cast(list[LayerGroup], list(self.groups))
        for group in others:
            for source, layer in zip(first.layers, group.layers, strict=True):
                for part in parts:
                    setattr(layer, part, getattr(source, part))

    def run_layers(self, hidden: Tensor, run: LayerRun) -> Tensor:
        """L applications of G groups: with one group, the same weights L times."""
        depth = self.config.num_hidden_layers
        for i in range(depth):
            # Hugging Face's formula to the letter: i * G // L rounds differently for some L and G
            hidden = self.groups[int(i / (depth / len(self.groups)))](hidden, run)
        return hidden

    def applied_groups(self) -> list[LayerGroup]:
        """The groups in the order in which `run_layers` applies them."""
        depth = self.config.num_hidden_layers
        order = (self.groups[int(i / (depth / len(self.groups)))] for i in range(depth))
        return [cast(LayerGroup, group) for group in order]

    def virtual_layers(self) -> list[nn.Module]:
        return [layer for group in self.applied_groups() for layer in group.layers]


class AlbertForMaskedLM(ForMaskedLM):
    """ALBERT that predicts masked tokens."""

    encoder_class = AlbertModel


class AlbertForSequenceClassification(ForSequenceClassification):
    """ALBERT with a classifier on the pooled first token."""

    encoder_class = AlbertModel

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__(config, dropout=config.classifier_dropout)


class AlbertForTokenClassification(ForTokenClassification):
    """ALBERT with a classifier on every token."""

    encoder_class = AlbertModel

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__(config, dropout=config.classifier_dropout)


class AlbertForQuestionAnswering(ForQuestionAnswering):
    """ALBERT with a span head; no dropout before it."""

    encoder_class = AlbertModel

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__(config, dropout=0.0)


class AlbertForMultipleChoice(ForMultipleChoice):
    """ALBERT with a score for the pooled first token of every choice."""

    encoder_class = AlbertModel

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__(config, dropout=config.classifier_dropout)


class AlbertForPreTraining(ForPreTraining):
    """ALBERT with both pretraining heads: masked tokens and "are the two segments in order?"."""

    encoder_class = AlbertModel
    pair_head_name = "sentence_order_head"
    pair_label = "sentence_order_label"
    pair_logits_name = "sop_logits"
    output_class = AlbertPreTrainingOutput

    sentence_order_head: nn.Linear

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__(config, dropout=config.classifier_dropout)
