"""Gives ALBERT's layers separate weights, and shares them again.

shared = minilm.AlbertForMaskedLM.from_pretrained(...)
apart = minilm.unshare(shared)                  # computes the same, layer by layer
again = minilm.share(apart)                     # if the layers are still equal
tied = minilm.share(apart, merge="average")     # if they have been trained apart

A student with shared layers learns faster if it is trained with separate layers first, which are
tied half-way (progressive sharing): the mean of layers with a common start is a good start.
"""

from __future__ import annotations

import copy
from typing import Literal, TypeVar, cast, get_args

import torch
from torch import Tensor, nn

from minilm.compression.growth import check_shapes
from minilm.config import AlbertConfig
from minilm.errors import InputError, setting
from minilm.models.albert import SHARED_PARTS, AlbertModel
from minilm.models.pretrained import PretrainedModel

Model = TypeVar("Model", bound=PretrainedModel)
Merge = Literal["equal", "average"]


def unshare(model: Model) -> Model:
    """An ALBERT whose layers are equal copies, to be trained, pruned or quantised apart.

    The copy computes exactly what the original does and is stored in the hub's layout, with as many
    groups as layers. Modules, buffers and settings of your own are copied.

    There is no exact copy in BERT's layout: ALBERT's norm is between its small embeddings (E) and
    their projection to the hidden size (H), BERT's after embeddings of full width. A norm over H
    numbers cannot replace a norm over E numbers and a matrix.

    Args:
        model: an ALBERT with any head.

    Returns:
        A model of the same class on the same device, in the same dtype and mode; the memory of the
        two is separate.

    Raises:
        InputError: the model is not an ALBERT.

    Example:
        >>> albert = minilm.AlbertModel(minilm.AlbertConfig())
        >>> apart = minilm.unshare(albert)
        >>> albert.num_parameters(), apart.num_parameters()
        (11683584, 89650176)
    """
    config = _config_of(model)
    return _rebuilt(model, config.with_sharing("none"))


def share(model: Model, sharing: str | int = "all", merge: Merge = "equal") -> Model:
    """An ALBERT whose layers are shared again: the inverse of `unshare`.

    A group of several layers stays a group: layers in the same place of their groups become one.

    Args:
        model: an ALBERT with any head.
        sharing: what to share; see `AlbertConfig.with_sharing`.
        merge: "equal" = layers that become one must be equal; "average" = they may differ, and
            their mean is used.

    Returns:
        A model of the same class on the same device, in the same dtype and mode.

    Raises:
        InputError: the model is not an ALBERT; `merge` is neither of the two; weights to share
            differ without "average", or are not in every group (the message names them).
        ConfigError: `sharing` is not possible.

    Example:
        >>> apart = minilm.unshare(minilm.AlbertModel(minilm.AlbertConfig()))
        >>> minilm.share(apart, 4, merge="average").config.num_hidden_groups
        3
    """
    if merge not in get_args(Merge):
        raise InputError(f"merge is {merge!r}: expected 'equal' or 'average'.")
    config = _config_of(model)
    return _rebuilt(model, config.with_sharing(sharing), merge)


def _config_of(model: PretrainedModel) -> AlbertConfig:
    if not isinstance(model, PretrainedModel) or not isinstance(model.config, AlbertConfig):
        raise InputError(
            f"model is a {type(model).__name__}: expected an ALBERT, such as AlbertModel or "
            "AlbertForMaskedLM. Other models do not share layers."
        )
    return model.config


@torch.no_grad()
def _rebuilt(model: Model, config: AlbertConfig, merge: Merge = "equal") -> Model:
    """A copy of the model with other sharing; other modules in a group or a layer are kept."""
    rebuilt = copy.deepcopy(model)
    base = cast(AlbertModel, rebuilt.base)
    applied, span = base.applied_groups(), config.num_hidden_layers // config.num_hidden_groups
    base.groups = nn.ModuleList(copy.deepcopy(group) for group in applied[::span])
    base._share(SHARED_PARTS[config.shared_between_groups])
    rebuilt.config = base.config = config
    places: dict[int, str] = {}
    merged: dict[int, tuple[Tensor, list[Tensor]]] = {}
    for number, source in enumerate(applied):
        tensors, copies = _tensors(source), _tensors(base.groups[number // span])
        if lost := sorted(tensors.keys() ^ copies.keys()):
            raise InputError(f"{lost[0]} is not in every group: only equal groups can be shared.")
        for name, values in tensors.items():
            _, layer, part = name.split(".", 2) if name.startswith("layers.") else ("", "0", name)
            place = f"{part} of layer {number * config.inner_group_num + int(layer)}"
            first = places.setdefault(id(copies[name]), place)
            if merge == "average":
                merged.setdefault(id(copies[name]), (copies[name], []))[1].append(values)
            elif not torch.equal(copies[name], values):
                apart = float((copies[name].double() - values.double()).abs().max())
                raise InputError(
                    f"{place} differs from {first}, by up to {apart:.3g}: only equal layers can be "
                    f"shared. For their mean, give {setting('merge', 'average')}."
                )
    for target, found in merged.values():
        # equal values are kept to the bit; integers such as counters have no mean
        if not all(torch.equal(values, target) for values in found):
            if not target.is_floating_point():
                raise InputError(
                    f"{places[id(target)]} is {target.dtype} and differs between layers: it has no "
                    "mean."
                )
            target.copy_(torch.stack([values.double() for values in found]).mean(0))
    check_shapes(rebuilt)
    return rebuilt


def _tensors(group: nn.Module) -> dict[str, Tensor]:
    return {**dict(group.named_parameters()), **dict(group.named_buffers())}
