"""A deeper model from a shallow one, to go on training.

A stack of few layers learns the easy part of a language for a fraction of the work. Progressive
stacking trains one first and puts its layers on top of each other for the rest of the training. The
deeper model then has to find its way back to the score of the shallow one; one whose new layers
start as identities has that score from the first step.

References: Gong et al. 2019, Efficient Training of BERT by Progressively Stacking; Chen et al.
2016, Net2Net, for new layers that keep the function.
"""

from __future__ import annotations

import copy
from typing import Literal, TypeVar

import torch
from torch import nn

from minilm.blocks.transformer import TransformerLayer
from minilm.errors import InputError
from minilm.models.pretrained import PretrainedModel

Model = TypeVar("Model", bound=PretrainedModel)
NewLayers = Literal["repeat", "identity"]


def deepen(model: Model, num_hidden_layers: int, *, new_layers: NewLayers = "repeat") -> Model:
    """A deeper copy: its layers are the model's, from the first to the last and again.

    An ALBERT keeps its groups of layers, each applied more often, and all its parameters. Modules,
    buffers and settings of your own are copied, those in a layer with the layer.

    Args:
        model: a BERT, DistilBERT or ALBERT with any head.
        num_hidden_layers: at least as many as the model has.
        new_layers: "repeat" puts the layers on top of each other; "identity" spreads new layers
            between the model's, which at first pass on what they receive: the copy computes what
            the model does, up to rounding. They read what the layer below them reads, so that
            training can use them from the first step. Not for ALBERT, whose layers are shared.

    Returns:
        A model of the same class, on the same device, in the same dtype and mode.

    Raises:
        InputError: fewer layers (`num_hidden_layers=` of from_pretrained takes the first few), a
            part of the model's class that depends on the depth and cannot be copied (names it), or
            "identity" for an ALBERT or for layers of a class of your own.
        ConfigError: more layers than a configuration allows.

    Example:
        >>> shallow = minilm.BertForMaskedLM(minilm.BertConfig(num_hidden_layers=3))
        >>> minilm.deepen(shallow, 12).config.num_hidden_layers
        12
    """
    depth = model.config.num_hidden_layers
    if num_hidden_layers < depth:
        raise InputError(
            f"num_hidden_layers is {num_hidden_layers}, fewer than the model's {depth}. For the "
            "first few layers of a checkpoint, give num_hidden_layers to from_pretrained."
        )
    config = model.config.replace(num_hidden_layers=num_hidden_layers)
    deep = copy.deepcopy(model)
    deep.config = deep.base.config = config
    layers = getattr(deep.base, "layers", None)
    if new_layers == "identity":
        _add_identities(layers, num_hidden_layers - depth)
    elif new_layers != "repeat":
        raise InputError(f"new_layers is {new_layers!r}; expected 'repeat' or 'identity'.")
    elif isinstance(layers, nn.ModuleList):
        for number in range(depth, num_hidden_layers):
            layers.append(copy.deepcopy(layers[number % depth]))
    check_shapes(deep)
    return deep


def _add_identities(layers: object, number: int) -> None:
    if not isinstance(layers, nn.ModuleList) or any(
        type(x) is not TransformerLayer for x in layers
    ):
        raise InputError(
            "new_layers is 'identity': expected a BERT or DistilBERT with layers of its own class; "
            "those of an ALBERT are shared. Use 'repeat'."
        )
    depth = len(layers)
    for place in reversed(range(depth)):  # from the last: the places of the others stay
        for _ in range((place + 1) * number // depth - place * number // depth):
            layers.insert(place + 1, _identity_above(layers[place]))


@torch.no_grad()
def _identity_above(layer: nn.Module) -> TransformerLayer:
    """A copy of a layer that hands on what that layer computes.

    Its blocks add nothing to the residual, and a norm leaves normalised states as they are; so the
    layer now ends in bare normalised states, and the copy applies the scale and shift to them.
    """
    assert isinstance(layer, TransformerLayer)
    copied = copy.deepcopy(layer)
    for last in (copied.attention.output, copied.feed_forward.output):
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    for norm in (layer.feed_forward_norm, copied.attention_norm):
        norm.reset_parameters()
    return copied


def check_shapes(changed: PretrainedModel) -> None:
    """Refuse what a copy with another configuration cannot carry of a class of one's own.

    Args:
        changed: the copy.

    Raises:
        InputError: its class would build a tensor of its own that the copy lacks or has in another
            shape, such as one weight for each layer.
    """
    cls = type(changed)
    if cls.__module__.startswith("minilm.models."):
        return
    found = {name: tuple(value.shape) for name, value in changed.state_dict().items()}
    for name, value in cls(changed.config).state_dict().items():
        own = not changed.hub_names.knows(f"{changed.own_prefix}{name}")
        if own and found.get(name) != tuple(value.shape):
            raise InputError(
                f"{name} of {cls.__name__} is {tuple(value.shape)} in the new configuration and "
                f"{found.get(name, 'absent')} in the copy: it cannot be carried over. Build a "
                f"{cls.__name__} with that configuration and copy what fits."
            )
