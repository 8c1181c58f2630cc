"""What the learners on batches of tokens share: encoding, counts, masked words and their scores."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from minilm.blocks.heads import MaskedLMHead
from minilm.blocks.int8 import float_weight
from minilm.blocks.layout import Packed
from minilm.blocks.transformer import SelfAttention, TransformerLayer
from minilm.data.batches import TokenBatch
from minilm.errors import InputError
from minilm.losses.elementary import IGNORED_LABEL
from minilm.losses.states import LayerPart, LayerReads, LayerSizes, States
from minilm.losses.vocabulary import fused_vocab_losses, masked_scores
from minilm.models.pretrained import PretrainedModel
from minilm.models.tasks import ForMaskedLM
from minilm.outputs import EncoderOutput

MASKED_LM_SCORES = ("masked_loss", "masked_accuracy")


def check_masked_lm(name: str, model: PretrainedModel) -> None:
    """Raise InputError unless the model is an encoder with nothing but a masked-LM head."""
    if not isinstance(model, ForMaskedLM):
        raise InputError(
            f"{name} is a {type(model).__name__}: expected BertForMaskedLM, DistilBertForMaskedLM "
            "or AlbertForMaskedLM."
        )


def token_counts(batch: TokenBatch) -> dict[str, int]:
    """The numbers of all tokens of a batch ("attended") and of those to predict ("masked")."""
    return {"attended": batch.tokens, "masked": int((batch.labels != IGNORED_LABEL).sum())}


def encode(
    model: PretrainedModel,
    batch: TokenBatch,
    token_type_ids: Tensor | None,
    *,
    layers: bool = False,
) -> EncoderOutput:
    """The encoder's states of a batch, in the inner order of its layout.

    Args:
        model: any model.
        batch: the tokens to encode.
        token_type_ids: segment numbers; None = all 0.
        layers: also return the states after the embeddings and every layer (`hidden_states`).
    """
    encoded: EncoderOutput = model.base(
        batch.input_ids,
        None,
        token_type_ids,
        lengths=batch.lengths,
        reads="layers" if layers else "all",
    )
    return encoded


def states(
    model: PretrainedModel, encoded: EncoderOutput, reads: LayerReads | None = None
) -> States:
    """The states that a loss needs, in the inner order of `encoded`.

    Args:
        model: the model.
        encoded: its result of `encode`, with the states of layers if any are read.
        reads: which parts of the layers are read; None = none.
    """
    head = getattr(model, "masked_lm_head", None)
    matrix = float_weight(model.get_input_embeddings())
    transform, bias = (head, head.bias) if isinstance(head, MaskedLMHead) else (None, None)
    layout = getattr(encoded, "layout", None)
    lengths = layout.lengths if isinstance(layout, Packed) else ()
    layers = _layer_parts(model, encoded, reads) if reads else {}
    return States(encoded.last_hidden_state, transform, matrix, bias, lengths, layers)


def layer_sizes(model: PretrainedModel) -> LayerSizes:
    """Depth, width and heads of a model."""
    config = model.config
    depth = len(list(model.base.virtual_layers()))
    return LayerSizes(depth, config.hidden_size, config.num_attention_heads)


def _layer_parts(
    model: PretrainedModel, encoded: EncoderOutput, reads: LayerReads
) -> dict[int, dict[LayerPart, Tensor]]:
    """Outputs, queries, keys and values of the layer applications that are read.

    Attention does not return its queries, keys and values; they are computed again from the state
    before the layer. This costs up to three matrix products for each application that is read.
    """
    hidden, layers = encoded.hidden_states, list(model.base.virtual_layers())
    assert hidden is not None
    found: dict[int, dict[LayerPart, Tensor]] = {}
    for number, parts in reads.items():
        layer = layers[number]
        assert isinstance(layer, TransformerLayer)
        found[number] = {
            part: hidden[number + 1]
            if part == "output"
            else _linear(layer.attention, part)(hidden[number])
            for part in parts
        }
    return found


def _linear(attention: SelfAttention, part: LayerPart) -> nn.Linear:
    linears = {"query": attention.query, "key": attention.key, "value": attention.value}
    return linears[part]


def masked_lm_loss(student: States, labels: Tensor, counts: Mapping[str, float]) -> Tensor:
    """Cross-entropy of the labels: the batch's part of the mean over a step's masked tokens."""
    where = masked_positions(labels)
    inputs = student.logit_inputs(where)
    return fused_vocab_losses(inputs, labels=labels[where], mlm=1 / max(counts["masked"], 1)).total


def masked_positions(labels: Tensor) -> Tensor:
    """The numbers of the labelled tokens, (n,)."""
    return (labels != IGNORED_LABEL).nonzero()[:, 0]


def masked_ratio(labels: Tensor, counts: Mapping[str, float]) -> Tensor:
    """The share of a step's tokens, special ones included, that are predicted, for the log."""
    return (labels != IGNORED_LABEL).sum().double() / counts["attended"]


def masked_lm_scores(student: States, labels: Tensor) -> dict[str, tuple[float, int]]:
    """masked_loss and masked_accuracy: (sum, number of labels)."""
    where = masked_positions(labels)
    loss, correct = masked_scores(student.logit_inputs(where), labels[where])
    count = where.shape[0]
    return {"masked_loss": (float(loss), count), "masked_accuracy": (float(correct), count)}
