"""ALBERT's layers with weights of their own, and back.

shared = minilm.AlbertForMaskedLM.from_pretrained(...)
apart = minilm.unshare(shared)      # computes the same, layer by layer
again = minilm.share(apart)         # if the layers are still equal
"""

from __future__ import annotations

import copy
from typing import TypeVar, cast

import torch
from torch import nn

from minilm.blocks.transformer import TransformerLayer
from minilm.compression.growth import check_shapes
from minilm.config import AlbertConfig
from minilm.errors import InputError
from minilm.models.albert import SHARED_PARTS, AlbertModel, LayerGroup
from minilm.models.pretrained import PretrainedModel

Model = TypeVar("Model", bound=PretrainedModel)


def unshare(model: Model) -> Model:
    """An ALBERT whose layers are equal copies, to be trained, pruned or quantised apart.

    The copy computes exactly what the original does and is stored in the hub's layout, with as many
    groups as layers. Modules, buffers and settings of your own are copied.

    There is no exact copy in BERT's layout: ALBERT's norm stands between its small embeddings (E)
    and their projection to the hidden size (H), BERT's behind embeddings of full width. A norm over
    H numbers cannot do what a norm over E numbers and a matrix do.

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


def share(model: Model, sharing: str | int = "all") -> Model:
    """An ALBERT whose equal layers become one again: the way back from `unshare`.

    Args:
        model: an ALBERT with any head.
        sharing: what is to be shared; see `AlbertConfig.with_sharing`.

    Returns:
        A model of the same class on the same device, in the same dtype and mode.

    Raises:
        InputError: the model is not an ALBERT, or weights that would become one differ; names them.
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
    """A copy of the model with other sharing."""
    rebuilt = copy.deepcopy(model)
    base = cast(AlbertModel, rebuilt.base)
    applied = list(base.virtual_layers())
    span, inner = config.num_hidden_layers // config.num_hidden_groups, config.inner_group_num
    base.groups = nn.ModuleList(
        LayerGroup(cast(list[TransformerLayer], copy.deepcopy(applied[first : first + inner])))
        for first in range(0, len(applied), span * inner)
    )
    base._share(SHARED_PARTS[config.shared_between_groups])
    rebuilt.config = base.config = config
    filled: dict[int, str] = {}
    for number, (source, layer) in enumerate(zip(applied, base.virtual_layers(), strict=True)):
        for (name, values), parameter in zip(
            source.named_parameters(), layer.parameters(), strict=True
        ):
            place = filled.setdefault(id(parameter), f"{name} of layer {number}")
            if not torch.equal(parameter, values):
                apart = float((parameter - values).abs().max())
                raise InputError(
                    f"{name} of layer {number} differs from {place}, by up to {apart:.3g}: only "
                    "equal layers can be shared."
                )
    check_shapes(rebuilt)
    return rebuilt
