"""A digest that identifies the exact weights of a model."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import torch
from torch import nn


def weights_digest(model: nn.Module, but_not: Collection[str] = ()) -> str:
    """A digest that identifies the exact weights of a model.

    Args:
        model: any module.
        but_not: names of tensors to leave out.
    """
    summary = hashlib.blake2b(digest_size=16)
    for name, value in sorted(model.state_dict().items()):
        if name in but_not:
            continue
        summary.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        # flat, as a scalar tensor cannot be viewed as bytes
        flat = value.detach().cpu().contiguous().reshape(-1)
        summary.update(flat.view(torch.uint8).numpy())
    return summary.hexdigest()
