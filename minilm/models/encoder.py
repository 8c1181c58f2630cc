"""The encoder: from the arguments of a call through embeddings and layers to states."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from minilm.blocks.embeddings import Embeddings
from minilm.blocks.heads import Pooler
from minilm.blocks.layout import Layout, Padded
from minilm.blocks.sample_dropout import entered, numbered
from minilm.config import EncoderConfig
from minilm.errors import InputError
from minilm.models.inputs import LayoutChoice, prepare
from minilm.models.pretrained import PretrainedModel
from minilm.outputs import EncoderOutput

Reads = Literal["all", "first", "layers"]
# Takes the states of the first tokens after an application, (B, H), and returns the numbers of the
# sequences that go on, (N,) int64 in ascending order; None = all.
AfterLayer = Callable[[Tensor], Tensor | None]


class EncoderOptions(TypedDict, total=False):
    """Less common arguments of every model, all keyword-only; see `EncoderModel.forward`."""

    lengths: Tensor | Sequence[int] | None
    output_attentions: bool | None
    output_hidden_states: bool | None


@dataclass(eq=False)
class LayerRun:
    """Applies the layers in one call of a model, and records what the caller asked for.

    Attributes:
        layout: where sequences begin and end; only the sequences that have not left are in it.
        batch: B, the number of these sequences.
        last: the number of the last application, if it computes only the first tokens; else 0.
        checkpointing: keep only the input of each layer for the backward pass.
        states: the states so far; None = not recorded.
        probs: attention probabilities so far; None = not recorded.
        inner_order: record states in the order of the layout instead of the caller's.
        after: called with the first tokens after every application but the last; returns which
            sequences go on. None = all do.
        depth: the number of applications, if `after` is given.
        applied: the number of layers applied so far.
        only_first: whether the states are those of the first tokens only.
    """

    layout: Layout
    batch: int
    last: int
    checkpointing: bool
    states: list[Tensor] | None
    probs: list[Tensor] | None
    inner_order: bool = False
    after: AfterLayer | None = None
    depth: int = 0
    applied: int = 0
    only_first: bool = False

    def __call__(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        """Applies a layer: (..., H) -> (..., H), or (B, H) if it computes only first tokens."""
        self.applied += 1
        if 0 < self.last < self.applied:
            raise InputError("run_layers applies more layers than virtual_layers lists.")
        if self.batch == 0:  # all have left
            return hidden
        self.only_first = first_only = self.applied == self.last
        apply = numbered(layer) if layer.training else layer
        if self.checkpointing:
            hidden = checkpoint(
                apply, hidden, self.layout, first_only, self.probs, use_reentrant=False
            )
        else:
            hidden = apply(hidden, self.layout, first_only, self.probs)
        obeyed = not first_only or (hidden.dim() == 2 and hidden.shape[0] == self.batch)
        if not obeyed or (self.probs is not None and len(self.probs) != self.applied):
            raise InputError(
                f"{type(layer).__name__} took no notice of "
                f"{'probs' if obeyed else 'first_only'}: pass all arguments to the layer inside, "
                "as TransformerLayer.forward takes them, or set model.layout = 'padded'."
            )
        if self.after is not None and self.applied < self.depth:
            hidden = self.leave(self.after(self.layout.first(hidden)), hidden)
        return hidden if self.states is None else self.record(hidden)

    def leave(self, going_on: Tensor | None, hidden: Tensor) -> Tensor:
        """Removes the sequences that do not go on; returns the states of the others."""
        if going_on is None:
            return hidden
        self.batch = len(going_on)
        if self.batch == 0:  # no sequence is left, so the remaining layers have nothing to do
            self.layout, hidden = Padded(None), self.layout.first(hidden)[:0, None]  # (0, 1, H)
        else:
            self.layout, hidden = self.layout.keep(going_on, hidden)
        return hidden

    def record(self, hidden: Tensor) -> Tensor:
        """Records a state. The state returned is computed from it, so that it gets a gradient."""
        assert self.states is not None
        if self.inner_order:
            self.states.append(hidden)
            return hidden
        self.states.append(self.layout.unpack(hidden))
        return self.layout.merge(self.states[-1], hidden)

    def records(self) -> dict[str, tuple[Tensor, ...]]:
        """The recorded states and attention maps, by the names of output items."""
        found = {"hidden_states": self.states, "attentions": self.probs}
        return {name: tuple(values) for name, values in found.items() if values is not None}


class EncoderModel(PretrainedModel):
    """Embeddings, layers and perhaps a pooler; subclasses define the layers and their order.

    Attributes:
        layout: how padded calls are laid out inside. "padded": rows (B, S, ...) in the caller's
            order, in every module, as in transformers: for hooks, attributions, per-sample
            gradients. "packed": only attended tokens, always. "auto": packed if the mask has zeros
            and nothing needs rows (see `prepare`). Except with "padded", the last layer computes
            only the first tokens if a head reads no others.
    """

    embeddings: Embeddings
    pooler: Pooler | None

    def __init__(self, config: EncoderConfig, *, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.gradient_checkpointing = False
        self.layout_choice: LayoutChoice = "auto"

    @property
    def base(self) -> EncoderModel:
        return self

    @abstractmethod
    def run_layers(self, hidden: Tensor, run: LayerRun) -> Tensor:
        """Apply the layers to the embedded tokens: `hidden = run(layer, hidden)` for each."""

    @abstractmethod
    def virtual_layers(self) -> Iterable[nn.Module]:
        """The layers in the order of application; a shared layer is repeated.

        Each is a `TransformerLayer`.
        """

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        reads: Reads | None = None,
        after: AfterLayer | None = None,
    ) -> EncoderOutput:
        """Encode a batch of texts.

        There are two ways to call it. Padded: `model(input_ids (B, S), attention_mask (B, S))`.
        If the mask has zeros, the model packs the tokens itself and unpacks what it returns (see
        `layout`). Packed: `model(input_ids (T,), lengths=(B,))`, with all texts in one line and no
        padding at all.

        Args:
            input_ids: (B, S) or (T,) int64 token ids.
            attention_mask: (B, S), 1 = attend, 0 = ignore; None = all 1.
            token_type_ids: like input_ids; segment numbers; None = all 0.
            position_ids: (B, S), (S,) or (T,) int64; None = the column, or the place in the
                sequence of a packed call.
            inputs_embeds: (B, S, E) or (T, E) word vectors instead of input_ids.
            lengths: (B,) sequence lengths of a packed call; they sum to T.
            output_attentions: return attention maps (padded calls only); None = as the
                configuration says.
            output_hidden_states: return the state after the embeddings and after every layer; None
                = as the configuration says.
            return_dict: False returns a tuple of the same values.
            reads: for heads: which last states they read. The states are then left in the order of
                `output.layout`; with "first" they may be those of the first tokens only, (B, H).
                "layers" is like "all", with hidden_states in that order, too.
            after: for early exit, with reads="first": called with the states of the first tokens
                after every application but the last, (B, H); returns the numbers of the sequences
                that go on, (N,) int64 in ascending order, counted among those it was given; None =
                all. The output then has only the sequences that went on to the end, perhaps none.

        Returns:
            last_hidden_state (B, S, H) or (T, H), zero at unattended positions; pooler_output
            (B, H) if there is a pooler; hidden_states and attentions on request.

        Raises:
            InputError: an argument has a wrong shape, dtype or range; the message names it, what
                was found and what was expected.
        """
        config = self.config
        if output_attentions is None:
            output_attentions = config.output_attentions
        if output_hidden_states is None:
            output_hidden_states = config.output_hidden_states
        tokens = prepare(
            config,
            self.layout_choice,
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            inputs_embeds,
            lengths,
            reads_first=self.pooler is not None or reads == "first",
            needs_rows=output_attentions,
        )
        layout, recorded = tokens.layout, output_hidden_states or output_attentions
        if after is not None and (recorded or reads != "first"):
            raise InputError(
                "Early exit needs only the first tokens: leave output_hidden_states and "
                "output_attentions out, in the configuration, too."
            )
        if self.training:
            entered(layout)
        only_first = reads == "first" and self.layout_choice != "padded"
        cut_last = only_first and not recorded  # the last layer computes first tokens only
        depth = len(list(self.virtual_layers())) if cut_last or after is not None else 0
        run = LayerRun(
            layout,
            batch=tokens.batch,
            last=depth if cut_last else 0,
            checkpointing=self.gradient_checkpointing and self.training,
            states=[] if output_hidden_states or reads == "layers" else None,
            probs=[] if output_attentions else None,
            inner_order=reads == "layers",
            after=after,
            depth=depth,
        )
        hidden: Tensor = self.embeddings(
            tokens.input_ids, tokens.position_ids, tokens.token_type_ids, tokens.inputs_embeds
        )
        if run.states is not None:
            hidden = run.record(hidden)
        hidden = self.run_layers(hidden, run)
        layout = run.layout
        if only_first and not run.only_first:  # the states of all tokens were computed
            hidden = layout.first(hidden)

        output = EncoderOutput(last_hidden_state=layout.unpack(hidden) if reads is None else hidden)
        if self.pooler is not None:
            output["pooler_output"] = self.pooler(hidden if only_first else layout.first(hidden))
        if recorded or reads == "layers":
            output.update(run.records())
        if reads is not None:
            object.__setattr__(output, "layout", layout)  # an attribute, not an item
        return output if return_dict is not False else output.to_tuple()
