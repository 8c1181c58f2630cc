"""Checks of shapes, without which broadcasting or reshaping could pair the wrong numbers."""

from collections.abc import Sequence

import torch
from torch import Tensor

from minilm.errors import InputError


def check_classes(name: str, labels: Tensor, shape: Sequence[int]) -> None:
    """Raise InputError unless the labels are int64, one for each item of this shape."""
    if tuple(labels.shape) != tuple(shape) or labels.dtype != torch.int64:
        raise InputError(
            f"{name}: expected {tuple(shape)} int64, got {tuple(labels.shape)} {labels.dtype}."
        )


def check_same_shape(name: str, one: Tensor, other_name: str, other: Tensor) -> None:
    """Raise InputError unless two tensors have the same shape."""
    if one.shape != other.shape:
        raise InputError(
            f"{name} has shape {tuple(one.shape)}, {other_name} {tuple(other.shape)}: they must "
            "be equal."
        )
