"""Checks whether data derived from parameters, such as a packed copy, still matches them."""

from __future__ import annotations

from operator import is_

import torch
from torch import Tensor

SAMPLES = 32  # rows of a matrix from which one number is compared at every call


class Source:
    """The tensors that other data was derived from, and a way to notice changes in them.

    Writing through `.data`, into a numpy array or into a tensor made in inference mode does not
    increase a tensor's version. Such changes are looked for in all numbers of vectors, and in one
    number of every few rows of a matrix.

    Args:
        tensors: matrices and vectors.
    """

    def __init__(self, *tensors: Tensor) -> None:
        self.tensors = tensors  # kept, so that no other tensor gets their addresses
        self.marks = [_mark(tensor) for tensor in tensors]
        views = [_sample(tensor.detach()) for tensor in tensors]
        alike = [[v for v in views if v.dtype is one] for one in {v.dtype for v in views}]
        self.samples = [(group, torch.cat(group)) for group in alike]  # slow with several dtypes

    def fits(self, *tensors: Tensor) -> bool:
        """Whether these are the same tensors with the same numbers."""
        return (
            len(tensors) == len(self.tensors)
            and all(map(is_, tensors, self.tensors))
            and [_mark(tensor) for tensor in tensors] == self.marks
            and all(torch.equal(torch.cat(views), sample) for views, sample in self.samples)
        )


def _mark(tensor: Tensor) -> tuple[int, int]:
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version


def _sample(tensor: Tensor) -> Tensor:
    """A view of a vector, or of one number in every few rows of a matrix, in changing columns."""
    flat = tensor.view(-1)
    if tensor.dim() == 1:
        return flat
    rows, columns = tensor.shape
    return flat[:: max(rows // SAMPLES, 1) * columns + 1]
