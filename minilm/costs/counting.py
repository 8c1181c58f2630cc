"""The cost of a model, part by part: parameters, operations for a token, memory for training.

    print(minilm.cost(minilm.AlbertConfig()))

Sharing saves memory but no work: a layer that is used twelve times is stored once and computed
twelve times. That is why ALBERT has a tenth of BERT's parameters but is no faster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import cast

import torch
from torch import nn

from minilm.blocks.heads import MaskedLMHead
from minilm.blocks.initialisation import on_meta
from minilm.blocks.kernels import place_in_blocks
from minilm.blocks.transformer import TransformerLayer
from minilm.config import AlbertConfig, EncoderConfig
from minilm.errors import InputError
from minilm.loader import CLASSES, STEMS
from minilm.models.pretrained import PretrainedModel, parse_dtype
from minilm.training.optimiser import hidden_matrices

LENGTH = 128
BATCH = 32
MASK_RATIO = 0.15  # share of tokens for which a masked-LM head is computed in training

FLOAT = 4  # bytes of a number in training
# numbers that optimisers keep per parameter; Muon is for matrices of layers, AdamW for the others
MOMENTS = {"adamw": 2, "lamb": 2, "muon": 2}
MUON_MOMENTS = 1
INDEX = 2  # an int64 takes as much memory as this many numbers
HEADER_BYTES = 128  # approximate size of a tensor's entry in a file header: name, shape, place

# part of the model -> the beginning of its modules' names, in the encoder or in a layer
EMBEDDINGS = {
    "word embeddings": "word",
    "position embeddings": "position",
    "token types": "token_type",
    "embedding norm": "norm",
    "embedding projection": "projection",
}
LAYER = {
    "attention": "attention",
    "feed-forward": "feed_forward",
    "attention norm": "attention_norm",
    "feed-forward norm": "feed_forward_norm",
}
ON_TOP = {
    "masked-LM head": "masked_lm_head",
    "sentence-order head": "sentence_order_head",
    "next-sentence head": "next_sentence_head",
    "dense layer": "pre_classifier",
    "classifier": "classifier",
    "span head": "span_head",
}
# head on an encoder -> the end of the class name
HEADS = {
    "none": "Model",
    "masked-lm": "ForMaskedLM",
    "pretraining": "ForPreTraining",
    "next-sentence": "ForNextSentencePrediction",
    "sequence-classification": "ForSequenceClassification",
    "token-classification": "ForTokenClassification",
    "question-answering": "ForQuestionAnswering",
    "multiple-choice": "ForMultipleChoice",
}
ON_FIRST_TOKEN = ("next-sentence", "sequence-classification", "multiple-choice")
ON_EVERY_TOKEN = ("token-classification", "question-answering")

# number of I-wide states that the backward pass of a feed-forward block needs: input and output of
# the activation, or only the output if the derivative can be computed from it
INNER_STATES = {"relu": 1, "gelu_10": 3}
OTHER_INNER_STATES = 2


@dataclass(frozen=True)
class Part:
    """One part of a model.

    Attributes:
        parameters: number of parameters; those that several layers share count once.
        unshared: number of parameters if every layer had its own.
        flops: floating-point operations for a token in the forward pass.
        file_bytes: bytes in a weights file, which holds copies if layers share only some parts.
        gradient_bytes: bytes of its gradients, in float32, if all of it is trained.
        optimiser_bytes: bytes of the moments that the optimiser keeps, in float32.
        activation_bytes: bytes that the forward pass keeps of a batch for the backward pass.
    """

    parameters: int
    unshared: int
    flops: int
    file_bytes: int
    gradient_bytes: int
    optimiser_bytes: int
    activation_bytes: int


@dataclass(frozen=True)
class Cost:
    """The cost of a model; the result of `cost`.

    Attributes:
        parts: the parts of the model, by name.
        length: tokens of a sequence, on which the work of attention depends.
        batch: number of sequences whose activations are counted.
    """

    parts: Mapping[str, Part]
    length: int
    batch: int

    @property
    def total(self) -> Part:
        """The sums over all parts."""
        return Part(*map(sum, zip(*map(astuple, self.parts.values()), strict=True)))

    @property
    def parameters(self) -> int:
        """Parameters of all parts, as in `model.num_parameters()`."""
        return self.total.parameters

    @property
    def unshared(self) -> int:
        """Parameters if layers did not share any."""
        return self.total.unshared

    @property
    def flops(self) -> int:
        """Floating-point operations for a token in the forward pass."""
        return self.total.flops

    def __str__(self) -> str:
        return table([*self.parts.items(), ("all", self.total)])


def table(rows: Sequence[tuple[str, Part]]) -> str:
    """A table with a line for each name and its cost, after two header lines; MB = 10^6 bytes."""
    lines: list[tuple[str, ...]] = [
        ("", "parameters", "if unshared", "MFLOP", "file", "gradients", "optimiser", "activations"),
        ("", "", "", "a token", "MB", "MB", "MB", "MB"),
    ]
    for name, part in rows:
        stored, unshared, *others = astuple(part)
        millions = [f"{value / 1e6:,.2f}" for value in others]
        lines.append((name, f"{stored:,}", f"{unshared:,}", *millions))
    widths = (14, 14, 11, 9, 10, 10, 12)
    longest = max(20, *(len(name) for name, _ in rows))
    return "\n".join(
        name.ljust(longest) + "".join(map(str.rjust, cells, widths)) for name, *cells in lines
    )


def cost(
    config: EncoderConfig,
    *,
    length: int = LENGTH,
    batch: int = BATCH,
    head: str = "none",
    dtype: str = "float32",
    optimiser: str = "adamw",
) -> Cost:
    """Counts what a model stores, computes and keeps in memory for training, without building it.

    Operations are those of matrix products, with a multiplication and an addition counted as two,
    in sequences of `length` tokens without padding. Work that is done once per sequence (the
    pooler) or at 15 % of the tokens (the masked-LM head) is divided among all tokens. Training
    takes three times as many operations. Embedding look-ups, norms, activations and biases are left
    out: they are well below 1 % of the operations, though not of the time.

    Activations are what autograd keeps of a packed batch in train mode, on a CPU in float32, for
    the dropout rates of `config`. In numbers per token, where p is 1 with dropout and 0 without:

        embeddings      an id for each table, norm E + 2, dropout p E, projection E (ALBERT)
        attention       input H; query, key and value 3 H; context H; with dropout on the maps
                        3 A S for them, without it A; output p H
        feed-forward    input H; before and after the activation 2 I (ReLU: I); p H
        each norm       H + 2
        pooler          2 H for each sequence
        masked-LM head  H + 4 E (ReLU: 3 E) for each masked token, and the gradient of the
                        vocabulary, V E + V, which the loss keeps instead of logits
        other heads     input and output for each token or sequence, and p H

    With dropout on the maps, sequences are in blocks of at least 64 tokens and multiples of 32:
    query, key, value and maps are larger by the unused places, and S is the width of a block.

    If a head reads only the first token, the last layer computes only that one and keeps one row
    per sequence, except for the states that its attention reads and weighs (5 H per token).

    Layers count every time they are applied, whether they share weights or not. Temporary memory is
    left out: gradients of activations, buffers within an operation, the current logits of the loss.
    On a GPU dropout takes a byte for each number, and fused attention keeps no maps. Autocast to
    bfloat16 keeps about 60 % (measured), and copies of the weights. Gradient checkpointing keeps H
    for each layer and token, and the states of one layer at a time.

    Args:
        config: configuration of a BERT, DistilBERT or ALBERT.
        length: tokens of a sequence.
        batch: number of sequences whose activations are counted.
        head: the head on the encoder, a name of `HEADS`; "none" = the encoder with its pooler.
        dtype: dtype of the numbers in a file.
        optimiser: the optimiser whose moments are counted: "adamw" and "lamb" keep two for every
            parameter, "muon" one for the matrices of layers and two for all others.

    Raises:
        InputError: the kind of configuration, the head, the dtype or the optimiser is unknown, or a
            number is below 1.

    Example:
        >>> albert, bert = minilm.cost(minilm.AlbertConfig()), minilm.cost(minilm.BertConfig())
        >>> albert.parameters / bert.parameters, albert.flops / bert.flops
        (0.107, 1.001)
    """
    model = _skeleton(config, head)
    if length < 1:
        raise InputError(f"length is {length}: expected at least 1 token.")
    if batch < 1:
        raise InputError(f"batch is {batch}: expected at least 1 sequence.")
    if optimiser not in MOMENTS:
        raise InputError(f"optimiser is {optimiser!r}: expected one of {', '.join(MOMENTS)}.")
    itemsize = parse_dtype(dtype, torch.float32).itemsize
    matrices = set(hidden_matrices(model)) if optimiser == "muon" else set()
    base = model.base
    layers = [cast(TransformerLayer, layer) for layer in base.virtual_layers()]
    distinct = list(dict.fromkeys(layers))

    # part -> its modules, repeated as often as they are applied, and as often as they are in a file
    modules = {name: _present(base.embeddings, path) for name, path in EMBEDDINGS.items()}
    modules |= {name: [getattr(layer, path) for layer in layers] for name, path in LAYER.items()}
    modules |= {"pooler": _present(base, "pooler")}
    modules |= {name: _present(model, path) for name, path in ON_TOP.items()}
    copies = {name: [getattr(layer, path) for layer in distinct] for name, path in LAYER.items()}
    only_first = head in ON_FIRST_TOKEN
    flops: dict[str, float] = {**_flops(config, length, only_first)}
    kept = _kept_for_backward(model, layers, length, batch, only_first)
    for name, (work, numbers) in _on_top(model, head, length, batch).items():
        flops[name], kept[name] = work, numbers

    parts = {}
    for name, applied in modules.items():
        if not applied:
            continue
        used = [parameter for module in applied for parameter in module.parameters()]
        stored = [p for module in copies.get(name, applied) for p in module.parameters()]
        once = list(dict.fromkeys(used))
        stored_once = sum(parameter.numel() for parameter in once)
        moments = sum(
            parameter.numel() * (MUON_MOMENTS if parameter in matrices else MOMENTS[optimiser])
            for parameter in once
        )
        parts[name] = Part(
            parameters=stored_once,
            unshared=sum(parameter.numel() for parameter in used),
            flops=round(flops.get(name, 0)),
            file_bytes=sum(itemsize * p.numel() + HEADER_BYTES for p in stored),
            gradient_bytes=FLOAT * stored_once,
            optimiser_bytes=FLOAT * moments,
            activation_bytes=round(FLOAT * kept[name]),
        )
    return Cost(parts, length, batch)


def _skeleton(config: EncoderConfig, head: str) -> PretrainedModel:
    stem = STEMS.get(getattr(config, "model_type", ""))
    if stem is None:
        raise InputError(
            f"config is a {type(config).__name__}: expected an AlbertConfig, BertConfig or "
            "DistilBertConfig."
        )
    name = f"{stem}{HEADS.get(head)}"
    if name not in CLASSES:
        known = [head for head, end in HEADS.items() if f"{stem}{end}" in CLASSES]
        raise InputError(f"head is {head!r}: for a {stem} expected one of {', '.join(known)}.")
    with on_meta():
        return CLASSES[name](config)


def _present(module: nn.Module, name: str) -> list[nn.Module]:
    part = getattr(module, name, None)
    return [] if part is None else [part]


def _kept_for_backward(
    model: PretrainedModel,
    layers: Sequence[TransformerLayer],
    length: int,
    batch: int,
    only_first: bool,
) -> dict[str, float]:
    """Numbers that autograd keeps, by part of the encoder; the formula in `cost`."""
    tokens, hidden = length * batch, model.config.hidden_size
    embeddings = model.base.embeddings
    width = embeddings.word.embedding_dim
    layer = layers[0]  # the others have the same sizes
    heads = layer.attention.num_heads
    # query, key, value and context; with dropout, all but the context are in blocks
    states: float = 5 * hidden + heads
    indices = 0
    if layer.attention.dropout:
        block, _, slots = place_in_blocks((length,) * batch)
        states = hidden + slots * (3 * hidden + 3 * heads * block) / tokens
        indices = INDEX * (tokens + slots)  # the same for all layers
    inner = INNER_STATES.get(model.config.hidden_act, OTHER_INNER_STATES)
    inner *= model.config.intermediate_size
    attention = hidden + states + _mask(layer.attention_dropout, hidden)
    feed_forward = hidden + inner + _mask(layer.feed_forward_dropout, hidden)
    applied, alone = tokens * len(layers), 0.0
    if only_first:  # the last layer keeps one row per sequence, except of what attention reads
        applied += batch - tokens
        maps = heads * (3 if layer.attention.dropout else 2)
        alone = tokens * (5 * hidden + maps + 2 * INDEX) + batch * (hidden - states)
    return {
        "word embeddings": tokens * INDEX,
        "position embeddings": tokens * INDEX,
        "token types": tokens * INDEX,
        "embedding norm": tokens * (width + 2 + _mask(embeddings.dropout, width)),
        "embedding projection": tokens * width,
        "attention": applied * attention + alone + indices,
        "feed-forward": applied * feed_forward,
        "attention norm": applied * (hidden + 2),
        "feed-forward norm": applied * (hidden + 2),
    }


def _mask(dropout: nn.Module | None, width: int) -> int:
    """The numbers per token of a dropout mask."""
    return width if isinstance(dropout, nn.Dropout) and dropout.p > 0 else 0


def _on_top(
    model: PretrainedModel, head: str, length: int, batch: int
) -> dict[str, tuple[float, float]]:
    """The operations per token of the pooler and the heads, and the numbers that autograd keeps."""
    tokens, hidden = length * batch, model.config.hidden_size
    found: dict[str, tuple[float, float]] = {
        "pooler": (2 * hidden**2 / length, batch * (2 * hidden + INDEX))
    }
    rows = tokens if head in ON_EVERY_TOKEN else batch
    for name, path in ON_TOP.items():
        part = getattr(model, path, None)
        if isinstance(part, MaskedLMHead):
            width, vocabulary = part.dense.out_features, part.bias.shape[0]
            states = INNER_STATES.get(model.config.hidden_act, OTHER_INNER_STATES)
            row = INDEX + hidden + (states + 1) * width + 2
            found[name] = (
                MASK_RATIO * 2 * width * (hidden + vocabulary),
                MASK_RATIO * tokens * row + vocabulary * (width + 1),
            )
        elif isinstance(part, nn.Linear):
            row = part.in_features + part.out_features
            if path != "pre_classifier":
                row += _mask(getattr(model, "dropout", None), part.in_features)
            found[name] = (
                2 * part.in_features * part.out_features * rows / tokens,
                rows * row,
            )
    return found


def layer_flops(config: EncoderConfig, length: int) -> int:
    """Floating-point operations per token, without the pooler."""
    return round(sum(_flops(config, length).values()))


def _flops(config: EncoderConfig, length: int, only_first: bool = False) -> dict[str, float]:
    """Operations per token, by part; with only_first, the last layer computes only first tokens."""
    hidden, layers = config.hidden_size, config.num_hidden_layers
    flops: dict[str, float] = {}
    if isinstance(config, AlbertConfig):
        layers *= config.inner_group_num
        flops["embedding projection"] = 2 * config.embedding_size * hidden
    # query, key, value and output; then the scores and the weighted sum over all tokens
    asking = layers - 1 + 1 / length if only_first else layers
    flops["attention"] = layers * 2 * 2 * hidden**2
    flops["attention"] += asking * (2 * 2 * hidden**2 + 4 * length * hidden)
    flops["feed-forward"] = asking * 2 * 2 * hidden * config.intermediate_size
    return flops
