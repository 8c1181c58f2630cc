"""A deeper model from a shallow one, to go on training.

A stack of few layers learns the easy part of a language for a fraction of the work. Progressive
stacking trains one first and puts its layers on top of each other for the rest of the training.

References: Gong et al. 2019, Efficient Training of BERT by Progressively Stacking.
"""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

from minilm.errors import InputError
from minilm.models.pretrained import PretrainedModel

Model = TypeVar("Model", bound=PretrainedModel)


def deepen(model: Model, num_hidden_layers: int) -> Model:
    """A deeper copy: its layers are the model's, from the first to the last and again.

    An ALBERT keeps its groups of layers, each applied more often, and all its parameters. Modules,
    buffers and settings of your own are copied, those in a layer with the layer.

    Args:
        model: a BERT, DistilBERT or ALBERT with any head.
        num_hidden_layers: at least as many as the model has.

    Returns:
        A model of the same class, on the same device, in the same dtype and mode.

    Raises:
        InputError: fewer layers (`num_hidden_layers=` of from_pretrained takes the first few), or
            a part of the model's class that depends on the depth and cannot be copied; names it.
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
    if isinstance(layers, nn.ModuleList):
        for number in range(depth, num_hidden_layers):
            layers.append(copy.deepcopy(layers[number % depth]))
    check_shapes(deep)
    return deep


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
