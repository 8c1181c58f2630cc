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
        if hidden.device.type == "cpu" and not torch.is_grad_enabled():
            return self._in_blocks(hidden)
        widened: Tensor = self.activation(self.intermediate(hidden))  # (..., I)
        narrowed: Tensor = self.output(widened)  # (..., H)
        return narrowed

    def _in_blocks(self, hidden: Tensor) -> Tensor:
        """The same numbers, a block of tokens at a time."""
        tokens = hidden.flatten(0, -2)  # (tokens, H)
        result = torch.empty_like(tokens)
        weight, bias = self.output.weight.t(), self.output.bias
        for start in range(0, len(tokens), TOKENS_AT_ONCE):
            block = slice(start, start + TOKENS_AT_ONCE)
            widened: Tensor = self.activation(self.intermediate(tokens[block]))  # (block, I)
            torch.addmm(bias, widened, weight, out=result[block])  # (block, H)
        return result.view(hidden.shape)
