"""Activation functions by the names that configurations use."""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor

Activation = Callable[[Tensor], Tensor]


gelu: Activation = F.gelu  # x * Phi(x), with Phi the exact normal distribution function
# the tanh approximation of GELU, as in Google's BERT and ALBERT code
gelu_tanh: Activation = partial(F.gelu, approximate="tanh")


def gelu_10(x: Tensor) -> Tensor:
    """Exact GELU clipped to [-10, 10]."""
    return F.gelu(x).clamp(-10.0, 10.0)


# The same formula has several names on the hub. A trap worth knowing: "gelu" means the exact
# function here and in Hugging Face, but the tanh formula in Google's TensorFlow ALBERT.
ACTIVATIONS: dict[str, Activation] = {
    "gelu": gelu,
    "gelu_python": gelu,
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "gelu_accurate": gelu_tanh,
    "gelu_10": gelu_10,
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
}
