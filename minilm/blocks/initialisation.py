"""Initial values of fresh weights."""

import torch
from torch import Tensor, nn


@torch.no_grad()
def initialise(module: nn.Module, *, std: float, truncated: bool = False) -> None:
    """Give every parameter of `module` and its children its initial value, in place.

    Matrices and embeddings are drawn from N(0, std), biases are 0, norms are (1, 0), and the
    padding row of an embedding is 0: what Hugging Face does.

    Args:
        module: what to initialise.
        std: standard deviation of the normal distribution.
        truncated: draw again beyond two standard deviations and leave the padding row as drawn,
            as Google's code does; the standard deviation of what remains is about 0.88 x `std`.

    References: `create_initializer` in google-research/albert modeling.py.
    """

    def draw(weight: Tensor) -> None:
        if truncated:
            nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
        else:
            nn.init.normal_(weight, std=std)

    for part in module.modules():
        if isinstance(part, nn.Linear):
            draw(part.weight)
            nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Embedding):
            draw(part.weight)
            if part.padding_idx is not None and not truncated:
                part.weight[part.padding_idx].zero_()
        elif isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
        else:  # a bias of its own, as in the masked-LM head
            for parameter in part.parameters(recurse=False):
                nn.init.zeros_(parameter)
