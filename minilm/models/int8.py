"""Converts models to 8 bits and back, and marks 8-bit models in config.json."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from minilm.blocks.feed_forward import FeedForward
from minilm.blocks.heads import MaskedLMHead, Pooler
from minilm.blocks.int8 import (
    QuantizedEmbedding,
    QuantizedLinear,
    QuantizedWeight,
    SameEverywhere,
    float_weight,
)
from minilm.errors import CheckpointError

if TYPE_CHECKING:
    from minilm.models.pretrained import PretrainedModel

Model = TypeVar("Model", bound="PretrainedModel")

ACTIVE = (FeedForward, MaskedLMHead, Pooler)  # blocks with an activation function
KEY = "quantization_config"  # in config.json
# "quant_method" is missing on purpose: transformers then refuses the directory. With a method that
# it does not know, it would load the integers as weights, with only a warning.
MARKER: Mapping[str, Any] = {
    "format": "minilm-int8",
    "version": 1,
    "weights": "int8, a scale for each output (linear layers) or row (tables)",
    "activations": "8 or 7 bits, a range for each token, computed at run time",
}


def is_int8(model: nn.Module) -> bool:
    """Whether any part of a model is 8-bit."""
    return any(isinstance(part, QuantizedWeight) for part in model.modules())


def stored_int8(data: Mapping[str, Any], source: object) -> bool:
    """Whether a config.json belongs to a model saved in 8 bits.

    Args:
        data: the content of config.json.
        source: the directory, for the message.

    Raises:
        CheckpointError: the model was saved in a later version of the format.
    """
    marker = data.get(KEY)
    if not isinstance(marker, Mapping) or marker.get("format") != MARKER["format"]:
        return False
    if marker.get("version") != MARKER["version"]:
        raise CheckpointError(
            f"{source}: config.json says {MARKER['format']} version {marker.get('version')!r}; "
            f"this minilm reads version {MARKER['version']}. Upgrade minilm, or quantise the float "
            "model again."
        )
    return True


def to_int8(model: Model) -> Model:
    """A copy in eval mode whose linear layers and tables are 8-bit.

    A module that is used in several places is quantised once and stays shared. Modules that the
    architecture does not know, such as adapters, are copied as they are.
    """
    replaced: dict[int, nn.Module] = {}
    for name, part in model.named_modules():
        if type(part) is nn.Linear and model.hub_names.knows(f"{model.own_prefix}{name}.weight"):
            replaced[id(part)] = QuantizedLinear.of(part)
        elif type(part) is nn.Embedding:
            replaced[id(part)] = QuantizedEmbedding.of(part)
    made = _with(model, replaced).requires_grad_(False).float()
    for part in made.modules():
        if isinstance(part, ACTIVE):
            part.activation = SameEverywhere(part.activation)
    return made


@torch.no_grad()
def to_float(model: Model) -> Model:
    """A dequantised copy of an 8-bit model, in float32; it can be trained."""
    replaced: dict[int, nn.Module] = {}
    for part in model.modules():
        if isinstance(part, QuantizedLinear):
            linear = nn.Linear(part.in_features, part.out_features, device="meta")
            linear.weight = nn.Parameter(float_weight(part))
            linear.bias = nn.Parameter(part.bias.clone())
            replaced[id(part)] = linear
        elif isinstance(part, QuantizedEmbedding):
            rows, width = part.weight.shape
            table = nn.Embedding(rows, width, part.padding_idx, device="meta")
            table.weight = nn.Parameter(float_weight(part))
            replaced[id(part)] = table
    made = _with(model, replaced).requires_grad_(True)
    for part in made.modules():
        if isinstance(part, ACTIVE) and isinstance(part.activation, SameEverywhere):
            part.activation = part.activation.function
    return made


def _with(model: Model, replaced: dict[int, nn.Module]) -> Model:
    """A copy with some modules replaced, by way of deepcopy's memo."""
    for part in replaced.values():
        part.eval()
    return copy.deepcopy(model, dict[int, Any](replaced)).eval()
