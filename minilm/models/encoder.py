"""The way from the arguments of a call through embeddings and layers to states."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypedDict

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from minilm.blocks.embeddings import Embeddings
from minilm.blocks.heads import Pooler
from minilm.blocks.layout import Layout
from minilm.checkpoints.names import ENCODER
from minilm.config import EncoderConfig
from minilm.models.inputs import prepare
from minilm.models.pretrained import PretrainedModel
from minilm.outputs import EncoderOutput


class EncoderOptions(TypedDict, total=False):
    """Rarer arguments of every model, all keyword-only.

    position_ids: (B, S), (S,) or (T,) int64; default: the column, or the place in its sequence.
    inputs_embeds: (B, S, E) or (T, E) word vectors instead of input_ids.
    lengths: (B,) sequence lengths of a packed call.
    output_attentions: return attention maps (padded calls only).
    output_hidden_states: return the state after the embeddings and after every layer.
    """

    position_ids: Tensor | None
    inputs_embeds: Tensor | None
    lengths: Tensor | Sequence[int] | None
    output_attentions: bool
    output_hidden_states: bool


@dataclass(frozen=True, eq=False)
class Encoded:
    """What an encoder computed, in the inner order of the call's layout.

    Attributes:
        layout: where sequences begin and end.
        last: the last layer's states, (B, S, H) or (T, H), or (B, H) if only_first.
        hidden_states: states after the embeddings and after every layer, in the caller's order.
        attentions: (B, A, S, S) for every layer.
        only_first: the last layer computed the states of the first tokens alone.
    """

    layout: Layout
    last: Tensor
    hidden_states: tuple[Tensor, ...] | None
    attentions: tuple[Tensor, ...] | None
    only_first: bool = False

    @property
    def first(self) -> Tensor:
        """The last state of the first token of every sequence: (B, H)."""
        return self.last if self.only_first else self.layout.first(self.last)


class EncoderModel(PretrainedModel):
    """Embeddings, layers and perhaps a pooler; the subclasses say which layers, in which order."""

    own_prefix: ClassVar[str] = ENCODER

    embeddings: Embeddings
    pooler: Pooler | None

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        self.gradient_checkpointing = False

    @property
    def base(self) -> EncoderModel:
        return self

    @abstractmethod
    def virtual_layers(self) -> Iterable[nn.Module]:
        """The layers in the order they are applied; a shared one appears as often as it is used.

        Each is a `TransformerLayer`.
        """

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        *,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> EncoderOutput:
        """Encode a batch of texts.

        There are two ways to call it. Padded: `model(input_ids (B, S), attention_mask (B, S))`.
        Where the mask has zeros the model packs the tokens itself and unpacks what it returns.
        Packed: `model(input_ids (T,), lengths=(B,))`, all texts in one line, no padding at all.

        Args:
            input_ids: (B, S) or (T,) int64 token ids.
            attention_mask: (B, S), 1 = attend, 0 = ignore; None = all 1.
            token_type_ids: like input_ids; segment numbers; None = all 0.
            position_ids: (B, S), (S,) or (T,) int64; default: the column, or the place in its
                sequence.
            inputs_embeds: (B, S, E) or (T, E) word vectors instead of input_ids.
            lengths: (B,) sequence lengths of a packed call; they sum to T.
            output_attentions: return attention maps (padded calls only).
            output_hidden_states: return the state after the embeddings and after every layer.

        Returns:
            last_hidden_state (B, S, H) or (T, H), zero at unattended positions; pooler_output
            (B, H) if there is a pooler; hidden_states and attentions on request.

        Raises:
            InputError: an argument of a wrong shape, dtype or range; names it and both values.
        """
        encoded = self.encode(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            lengths=lengths,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            reads_first=self.pooler is not None,
        )
        layout = encoded.layout
        pooled = None if self.pooler is None else self.pooler(encoded.first)
        return EncoderOutput(
            layout.restore(encoded.last), pooled, encoded.hidden_states, encoded.attentions
        )

    def encode(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        token_type_ids: Tensor | None,
        *,
        reads_first: bool,
        reads_others: bool = True,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> Encoded:
        """Run the encoder and leave its states where they are, for a head to read.

        Args:
            reads_first: the caller will read the state of column 0, which must then exist.
            reads_others: the caller will read the other states too. Otherwise the last layer leaves
                them out, unless hidden states or attention maps are asked for.
            Others: see `forward`.
        """
        table = self.embeddings.token_type
        inputs = prepare(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            inputs_embeds,
            lengths,
            vocab_size=self.config.vocab_size,
            max_positions=self.config.max_position_embeddings,
            token_types=0 if table is None else table.num_embeddings,
            embedding_size=self.embeddings.word.embedding_dim,
            reads_first=reads_first,
            needs_rows=output_attentions,
        )
        layout = inputs.layout
        hidden: Tensor = self.embeddings(inputs.words, inputs.position_ids, inputs.token_type_ids)
        states, maps = [hidden], []
        layers = list(self.virtual_layers())
        only_first = not (reads_others or output_hidden_states or output_attentions)
        for number, layer in enumerate(layers, 1):
            alone = only_first and number == len(layers)
            if self.gradient_checkpointing and self.training:
                hidden, layer_maps = checkpoint(
                    layer, hidden, layout, output_attentions, alone, use_reentrant=False
                )
            else:
                hidden, layer_maps = layer(hidden, layout, output_attentions, alone)
            if output_hidden_states:
                states.append(hidden)
            maps.append(layer_maps)
        return Encoded(
            layout,
            hidden,
            tuple(layout.restore(state) for state in states) if output_hidden_states else None,
            tuple(maps) if output_attentions else None,
            only_first,
        )
