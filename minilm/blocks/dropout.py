"""Dropout as a module."""

from torch import Tensor, nn

from minilm.blocks import kernels


class Dropout(nn.Dropout):
    """`kernels.drop` in training, nothing otherwise."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape and floating dtype; the same comes out."""
        return kernels.drop(input, self.p) if self.training else input
