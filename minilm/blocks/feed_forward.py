"""The position-wise feed-forward block: two linear layers with an activation between."""

from torch import Tensor, nn

from minilm.blocks.activations import ACTIVATIONS
from minilm.blocks.kernels import feed_forward


class FeedForward(nn.Module):
    """H -> I -> H, applied to every token separately.

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
        return feed_forward(hidden, self.intermediate, self.activation, self.output)
