"""A deeper model from a shallow one, to go on training.

A stack of few layers learns the easy part of a language for a fraction of the work. Progressive
stacking trains one first and puts its layers on top of each other for the rest of the training.

References: Gong et al. 2019, Efficient Training of BERT by Progressively Stacking.
"""

from __future__ import annotations

import re
from typing import TypeVar

import torch

from minilm.errors import InputError
from minilm.models.pretrained import PretrainedModel

Model = TypeVar("Model", bound=PretrainedModel)

# of BERT and DistilBERT; the layers of ALBERT stand in groups, which a deeper one uses more often
_LAYER = re.compile(r"^((?:encoder\.)?layers\.)(\d+)(?=\.)")


@torch.no_grad()
def deepen(model: Model, num_hidden_layers: int) -> Model:
    """A deeper copy: its layers are the model's, from the first to the last and again.

    An ALBERT keeps its groups of layers, each applied more often, and all its parameters.

    Args:
        model: a BERT, DistilBERT or ALBERT with any head.
        num_hidden_layers: at least as many as the model has.

    Returns:
        A model of the same class, on the same device, in the same dtype and mode.

    Raises:
        InputError: fewer layers; `num_hidden_layers=` of from_pretrained takes the first few.
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
    deep = model.like(model.config.replace(num_hidden_layers=num_hidden_layers))
    sources = dict(model.named_parameters())
    for name, parameter in deep.named_parameters():
        source = sources[_LAYER.sub(lambda found: f"{found[1]}{int(found[2]) % depth}", name)]
        parameter.copy_(source).requires_grad_(source.requires_grad)
    return deep
