"""The precision of losses: at least float32, independent of a model's dtype.

A sum of 6,300 cross-entropies is more than float16 can hold, and bfloat16 has three digits. So a
loss of float16 or bfloat16 logits is float32; one of float64 logits is float64. The conversion is
part of the graph: gradients of logits have the dtype of the logits.
"""

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """The same values in float32, or in their own dtype if that is wider."""
    return values.to(wide_dtype(values.dtype))


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the result of `at_least_float32` for values of this dtype."""
    return torch.promote_types(dtype, torch.float32)
