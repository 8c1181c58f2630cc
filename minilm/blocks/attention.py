"""Multi-head self-attention: one arithmetic, two executions.

`explicit_attention` spells the formula out and returns the attention maps; `fused_attention` gives
the same context without ever holding the maps. Which tokens may see each other is the layout's
business (layout.py).

References: Vaswani et al. 2017, section 3.2; Devlin et al. 2019.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from minilm.blocks.layout import Layout


def additive_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn a (B, S) mask, True = attend, into what is added to the scores.

    The smallest finite number stands for "no": with minus infinity a row that attends to nothing
    would be NaN, with a finite number it is an ordinary average.

    Returns:
        (B, 1, 1, S) of `dtype`: 0 where attended, the smallest finite value elsewhere.
    """
    zeros = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return zeros.masked_fill(~mask, torch.finfo(dtype).min)[:, None, None, :]


def explicit_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float
) -> tuple[Tensor, Tensor]:
    """softmax(Q K^T / sqrt(D) + mask) V, step by step.

    Args:
        query, key, value: (B, A, S, D).
        mask: what is added to the scores, broadcastable to (B, A, S, S), or None.
        dropout: probability with which an attention weight is dropped; 0 outside training.

    Returns:
        The context (B, A, S, D) and the attention maps (B, A, S, S), after dropout.
    """
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5  # (B, A, S, S)
    if mask is not None:
        scores = scores + mask
    maps = F.dropout(scores.softmax(dim=-1), dropout)  # (B, A, S, S)
    return maps @ value, maps  # (B, A, S, D)


def fused_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float
) -> Tensor:
    """The context of `explicit_attention`, (B, A, S, D), without the maps."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)


class SelfAttention(nn.Module):
    """Every token looks at every other token of its own sequence.

    Args:
        hidden_size: H, a multiple of `num_heads`.
        num_heads: A.
        dropout: dropout on the attention maps.
    """

    def __init__(self, *, hidden_size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)

    def forward(
        self, hidden: Tensor, layout: Layout, return_maps: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Mix information between the tokens of each sequence.

        Args:
            hidden: (..., H) in the order of `layout`.
            layout: says which tokens belong together.
            return_maps: also return the attention maps (padded layout only).

        Returns:
            The mixed states (..., H), before residual and norm, and the maps (B, A, S, S) or None.
        """
        heads = (self.num_heads, -1)
        query: Tensor = self.query(hidden).unflatten(-1, heads)  # (..., A, D)
        key: Tensor = self.key(hidden).unflatten(-1, heads)  # (..., A, D)
        value: Tensor = self.value(hidden).unflatten(-1, heads)  # (..., A, D)
        dropout = self.dropout if self.training else 0.0
        context, maps = layout.attend(query, key, value, dropout, return_maps)
        mixed: Tensor = self.output(context.flatten(-2))  # (..., H)
        return mixed, maps
