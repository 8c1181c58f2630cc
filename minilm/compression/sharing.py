"""ALBERT's layers with weights of their own, and back.

shared = minilm.AlbertForMaskedLM.from_pretrained(...)
apart = minilm.unshare(shared)      # computes the same, layer by layer
again = minilm.share(apart)         # if the layers are still equal
"""

from __future__ import annotations

from typing import TypeVar

import torch

from minilm.config import AlbertConfig
from minilm.errors import InputError
from minilm.models.pretrained import PretrainedModel

Model = TypeVar("Model", bound=PretrainedModel)


def unshare(model: Model) -> Model:
    """An ALBERT whose layers are equal copies, to be trained, pruned or quantised apart.

    The copy computes exactly what the original does and is stored in the hub's layout, with as many
    groups as layers.

    There is no exact copy in BERT's layout: ALBERT's norm stands between its small embeddings (E)
    and their projection to the hidden size (H), BERT's behind embeddings of full width. A norm over
    H numbers cannot do what a norm over E numbers and a matrix do.

    Args:
        model: an ALBERT with any head.

    Returns:
        A model of the same class on the same device, in the same dtype and mode; the memory of the
        two is separate.

    Raises:
        InputError: the model is no ALBERT.

    Example:
        >>> albert = minilm.AlbertModel(minilm.AlbertConfig())
        >>> apart = minilm.unshare(albert)
        >>> albert.num_parameters(), apart.num_parameters()
        (11683584, 89650176)
    """
    config = _config_of(model)
    return _rebuilt(model, config.with_sharing("none"))


def share(model: Model, sharing: str | int = "all") -> Model:
    """An ALBERT whose equal layers become one again: the way back from `unshare`.

    Args:
        model: an ALBERT with any head.
        sharing: what is to be shared; see `AlbertConfig.with_sharing`.

    Returns:
        A model of the same class on the same device, in the same dtype and mode.

    Raises:
        InputError: the model is no ALBERT, or weights that would become one differ; names them.
        ConfigError: `sharing` is not possible.
    """
    config = _config_of(model)
    return _rebuilt(model, config.with_sharing(sharing))


def _config_of(model: PretrainedModel) -> AlbertConfig:
    if not isinstance(model, PretrainedModel) or not isinstance(model.config, AlbertConfig):
        raise InputError(
            f"model is a {type(model).__name__}: expected an ALBERT, such as AlbertModel or "
            "AlbertForMaskedLM. The layers of other models share nothing."
        )
    return model.config


@torch.no_grad()
def _rebuilt(model: Model, config: AlbertConfig) -> Model:
    """The same weights in a model with other sharing."""
    rebuilt = model.like(config)
    sources = {name: parameter for name, parameter in model.named_parameters()}
    for name, parameter in rebuilt.named_parameters():
        if "groups." not in name:
            parameter.copy_(sources[name]).requires_grad_(sources[name].requires_grad)
    filled: dict[int, str] = {}
    layers = zip(model.base.virtual_layers(), rebuilt.base.virtual_layers(), strict=True)
    for number, (source_layer, layer) in enumerate(layers):
        for (name, source), parameter in zip(
            source_layer.named_parameters(), layer.parameters(), strict=True
        ):
            place = f"{name} of layer {number}"
            if id(parameter) not in filled:
                filled[id(parameter)] = place
                parameter.copy_(source).requires_grad_(source.requires_grad)
            elif not torch.equal(parameter, source):
                apart = float((parameter - source).abs().max())
                raise InputError(
                    f"{place} differs from {filled[id(parameter)]}, by up to {apart:.3g}: only "
                    "equal layers can be shared."
                )
    return rebuilt
