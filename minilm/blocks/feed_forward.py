"""The position-wise feed-forward block: two linear layers with an activation between."""

import torch
from torch import Tensor, nn

from minilm.blocks.activations import ACTIVATIONS

# Without gradients a CPU works through this many tokens at a time, so that the (tokens, I) state
# between the two layers stays in its cache; measured best between 256 and 512.
TOKENS_AT_ONCE = 512


class FeedForward(nn.Module):
    """H -> I -> H for every token on its own.

    Args:
        hidden_size: H.
        intermediate_size: I.
        activation: a name of `ACTIVATIONS`.
    """

    def __init__(self, *, hidden_size: int, intermediate_size: int, activation: str) -> None:
        super().__init__()
        self.intermediate = nn.Linear(hidden_size, intermediate_size)
        self.output = nn.Linear(intermediate_size, hidden_size)
        self.activation = ACTIVATIONS[activation]

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., H) -> (..., H), before residual and norm."""
        if torch.is_grad_enabled() or hidden.device.type != "cpu" or torch.compiler.is_compiling():
            return self._dense(hidden)
        tokens = hidden.flatten(0, -2)  # (tokens, H)
        starts = range(0, len(tokens), TOKENS_AT_ONCE)
        blocks = [self._dense(tokens[start : start + TOKENS_AT_ONCE]) for start in starts]
        return torch.cat(blocks).view(hidden.shape)

    def _dense(self, hidden: Tensor) -> Tensor:
        widened: Tensor = self.activation(self.intermediate(hidden))  # (..., I)
        narrowed: Tensor = self.output(widened)  # (..., H)
        return narrowed
