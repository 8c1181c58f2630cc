"""What a model costs, part by part: numbers to store, and work to do for every token.

    print(minilm.cost(minilm.AlbertConfig()))

Sharing saves memory and no work: a layer that is used twelve times is stored once and computed
twelve times. That is why ALBERT has a tenth of BERT's parameters and is no faster.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from minilm.blocks.initialisation import unallocated
from minilm.config import AlbertConfig, BertConfig, DistilBertConfig, EncoderConfig
from minilm.errors import InputError
from minilm.models.albert import AlbertModel
from minilm.models.base import EncoderModel
from minilm.models.bert import BertModel
from minilm.models.distilbert import DistilBertModel

LENGTH = 128

# part of the model -> how its modules' names begin, in the encoder or in a layer
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


@dataclass(frozen=True)
class Part:
    """One part of a model.

    Attributes:
        parameters: numbers it stores; what several layers share counts once.
        unshared: what it would store if every layer had its own.
        flops: floating-point operations for a token in the forward pass.
    """

    parameters: int
    unshared: int
    flops: int


@dataclass(frozen=True)
class Cost:
    """What an encoder with its pooler costs; made by `cost`.

    Attributes:
        parts: by name.
        length: tokens of a sequence, which the work of attention depends on.
    """

    parts: Mapping[str, Part]
    length: int

    @property
    def parameters(self) -> int:
        """Of all parts: `model.num_parameters()`."""
        return sum(part.parameters for part in self.parts.values())

    @property
    def unshared(self) -> int:
        """Parameters, if no layer shared any."""
        return sum(part.unshared for part in self.parts.values())

    @property
    def flops(self) -> int:
        """Floating-point operations for a token in the forward pass."""
        return sum(part.flops for part in self.parts.values())

    def __str__(self) -> str:
        rows = [*self.parts.items(), ("all", Part(self.parameters, self.unshared, self.flops))]
        lines = [f"{'':<22}{'parameters':>14}{'if unshared':>14}{'MFLOP a token':>15}"]
        for name, part in rows:
            lines.append(
                f"{name:<22}{part.parameters:>14,}{part.unshared:>14,}{part.flops / 1e6:>15,.2f}"
            )
        return "\n".join(lines)


def cost(config: EncoderConfig, *, length: int = LENGTH) -> Cost:
    """Counts the parameters and operations of an encoder with its pooler, without building it.

    Operations are those of matrix products, a multiplication and an addition counted as two, in
    sequences of `length` tokens without padding; the pooler's, once a sequence, is shared out among
    them. Training takes three times as many. Looking up embeddings, norms, activations and biases
    are left out: well below 1 % of the work, though not of the time.

    Args:
        config: of a BERT, DistilBERT or ALBERT.
        length: tokens of a sequence.

    Raises:
        InputError: the configuration is of no known kind, or the length below 1.

    Example:
        >>> albert, bert = minilm.cost(minilm.AlbertConfig()), minilm.cost(minilm.BertConfig())
        >>> albert.parameters / bert.parameters, albert.flops / bert.flops
        (0.107, 1.001)
    """
    if length < 1:
        raise InputError(f"length is {length}: expected at least 1 token.")
    model = _skeleton(config)
    layers = list(model.virtual_layers())
    work = _flops(config, length)
    parts: dict[str, Part] = {}
    for name, attribute in EMBEDDINGS.items():
        module = getattr(model.embeddings, attribute, None)
        if module is not None:
            stored = _count([module])
            parts[name] = Part(stored, stored, work.get(name, 0))
    for name, attribute in LAYER.items():
        modules = [getattr(layer, attribute) for layer in layers]
        unshared = sum(_count([module]) for module in modules)
        parts[name] = Part(_count(modules), unshared, work.get(name, 0))
    if model.pooler is not None:
        stored = _count([model.pooler])
        parts["pooler"] = Part(stored, stored, round(2 * config.hidden_size**2 / length))
    return Cost(parts, length)


def _skeleton(config: EncoderConfig) -> EncoderModel:
    with unallocated():
        if isinstance(config, AlbertConfig):
            return AlbertModel(config)
        if isinstance(config, BertConfig):
            return BertModel(config)
        if isinstance(config, DistilBertConfig):
            return DistilBertModel(config)
    raise InputError(
        f"config is a {type(config).__name__}: expected an AlbertConfig, BertConfig or "
        "DistilBertConfig."
    )


def _count(modules: list[nn.Module]) -> int:
    """Parameters; a module that is there several times counts once."""
    return sum({id(p): p.numel() for module in modules for p in module.parameters()}.values())


def layer_flops(config: EncoderConfig, length: int) -> int:
    """Floating-point operations for a token, without the pooler."""
    return sum(_flops(config, length).values())


def _flops(config: EncoderConfig, length: int) -> dict[str, int]:
    """For a token, by part."""
    hidden, layers, flops = config.hidden_size, config.num_hidden_layers, {}
    if isinstance(config, AlbertConfig):
        layers *= config.inner_group_num
        flops["embedding projection"] = 2 * config.embedding_size * hidden
    # query, key, value and output; then scores and their weighted sum over all tokens
    flops["attention"] = layers * (2 * 4 * hidden**2 + 4 * length * hidden)
    flops["feed-forward"] = layers * 2 * 2 * hidden * config.intermediate_size
    return flops
