"""Makes a deeper model from a shallow one, for further training.

A few layers learn the easy part of a language for a fraction of the work. Progressive stacking
trains them first and stacks copies of them for the rest of the training. The deeper model then has
to recover the score of the shallow one; if its new layers start as identities, it has that score
from the first step.

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
    """A deeper copy whose layers are the model's, repeated in order from the first to the last.

    An ALBERT keeps its groups of layers and all its parameters, and applies each group more often.
    Modules, buffers and settings of your own are copied, those in a layer with the layer.

    Args:
        model: a BERT, DistilBERT or ALBERT with any head.
        num_hidden_layers: at least as many as the model has.
        new_layers: "repeat" stacks copies of the layers; "identity" puts new layers between the
            model's that pass on their input at first, so that the copy computes what the model
            does, up to rounding. They are copies of the layer below with outputs of 0, so that
            training can use them from the first step. Not for ALBERT, whose layers are shared.

    Returns:
        A model of the same class, on the same device, in the same dtype and mode.

    Raises:
        InputError: fewer layers are asked for (`num_hidden_layers=` of from_pretrained takes the
            first few), a part of the model's class depends on the depth and cannot be copied (the
            message names it), or `new_layers` is "identity" for an ALBERT or for layers of a class
            of your own.
        ConfigError: there are more layers than a configuration allows.

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
    for place in reversed(range(depth)):  # from the last, so that the places of the others stay
        for _ in range((place + 1) * number // depth - place * number // depth):
            layers.insert(place + 1, _identity_above(layers[place]))


@torch.no_grad()
def _identity_above(layer: nn.Module) -> TransformerLayer:
    """A copy of a layer that passes on what that layer computes.

    Its blocks add nothing to the residual, and a norm does not change normalised states; so the
    layer itself now ends in plain normalised states, and the copy applies scale and shift to them.
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
    """Check that a copy with another configuration has all tensors of a user's own class.

    Args:
        changed: the copy.

    Raises:
        InputError: the class would build a tensor of its own that the copy lacks or has in another
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
