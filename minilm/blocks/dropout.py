"""Dropout as a module."""

from torch import Tensor, nn

from minilm.blocks import kernels


class Dropout(nn.Dropout):
    """Applies `kernels.drop` in train mode, and nothing in eval mode."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape and floating dtype; the result has the same."""
        return kernels.drop(input, self.p) if self.training else input
