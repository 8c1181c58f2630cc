"""The arithmetic of attention, in two executions.

`explicit_attention` spells the formula out and returns the attention maps; `fused_attention` gives
the same context without ever holding the maps; `attention_context` picks the faster of the two.
Which tokens may see each other is the layout's business (layout.py).

References: Vaswani et al. 2017, section 3.2; Devlin et al. 2019.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from minilm.blocks.dropout import dropout as drop_out

# Up to this length, the backward of torch's fused kernel takes 2 to 10 times as long in bfloat16 on
# a CPU as that of the formula spelled out (measured with 4 and 12 heads of 64, on AMX).
SPELLED_OUT_UNTIL = 256


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
    scores = query @ key.transpose(-1, -2)  # (B, A, S, S)
    scale = query.shape[-1] ** -0.5
    scores = scores * scale if mask is None else torch.add(mask, scores, alpha=scale)
    maps = drop_out(scores.softmax(dim=-1), dropout)  # (B, A, S, S)
    return maps @ value, maps  # (B, A, S, D)


def fused_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float
) -> Tensor:
    """The context of `explicit_attention`, (B, A, S, D), without the maps."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)


def attention_context(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float
) -> Tensor:
    """The same context, (B, A, S, D), by the execution that takes less time."""
    if spells_out(query, query.shape[-2], dropout):
        return explicit_attention(query, key, value, mask, dropout)[0]
    return fused_attention(query, key, value, mask, dropout)


def spells_out(query: Tensor, length: int, dropout: float) -> bool:
    """Whether sequences of this length are better off with the formula than with the kernel."""
    if not torch.is_grad_enabled() or query.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    # with dropout torch's function spells it out itself, and draws its masks slowly
    return dropout > 0 or (query.dtype is torch.bfloat16 and length <= SPELLED_OUT_UNTIL)
