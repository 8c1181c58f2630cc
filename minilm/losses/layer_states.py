"""Hidden states of a student and its teacher, compared layer by layer and sentence by sentence.

A student has fewer layers than its teacher, or one layer that is applied many times; a *layer map*
says which application of a layer is compared with which layer of the teacher. All functions take
packed tokens: the states of all sequences in a row, without padding.

References: Jiao et al. 2020, "TinyBERT", section 3.1, for layer maps and the squared error; Sanh et
al. 2019, section 2, for the cosine, there of the last states; Nouriborji et al. 2023, "MiniALBERT",
section 3.2, for the cosine at every application of a shared layer; Reimers and Gurevych 2020,
section 2, for sentence vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from minilm.errors import InputError, argument
from minilm.files.progress import counted
from minilm.losses.elementary import LossSum, cosine_distance, squared_error
from minilm.losses.precision import at_least_float32

LayerMap = Literal["uniform", "last"] | Sequence[int]


def layer_pairs(
    layer_map: LayerMap, student_layers: int, teacher_layers: int
) -> tuple[tuple[int, int], ...]:
    """Determines which application of a layer is compared with which layer of the teacher.

    Args:
        layer_map: "uniform" = every application, with the teacher's layer at the same share of the
            depth, so that the last is compared with the last; "last" = only these two; or the
            number of a teacher's layer for every application, in order.
        student_layers: the number of layer applications of the student.
        teacher_layers: the number of layer applications of the teacher.

    Returns:
        (student's application, teacher's layer), both counted from 0, in the student's order.

    Raises:
        InputError: the list does not fit the models.

    Example:
        >>> layer_pairs("uniform", 3, 12)
        ((0, 3), (1, 7), (2, 11))
    """
    if layer_map == "last":
        return ((student_layers - 1, teacher_layers - 1),)
    if layer_map == "uniform":
        # (i + 1) Lt / Ls, rounded half up, in integer arithmetic
        ends = (
            (2 * (i + 1) * teacher_layers + student_layers) // (2 * student_layers)
            for i in range(student_layers)
        )
        return tuple((i, max(end, 1) - 1) for i, end in enumerate(ends))
    check_layer_map(layer_map)
    if len(layer_map) != student_layers:
        raise InputError(
            f"{argument('layer_map')} has {counted(len(layer_map), 'number')}, but the student "
            f"applies {counted(student_layers, 'layer')}: give one layer of the teacher for each, "
            "or 'uniform'."
        )
    for number in layer_map:
        if int(number) >= teacher_layers:
            raise InputError(
                f"{argument('layer_map')} names layer {number}, but the teacher has layers 0 to "
                f"{teacher_layers - 1}."
            )
    return tuple((i, int(number)) for i, number in enumerate(layer_map))


def check_layer_map(layer_map: object) -> None:
    """Raise InputError unless this is a layer map for any student and teacher."""
    if layer_map in ("uniform", "last"):
        return
    numbers = isinstance(layer_map, Sequence) and not isinstance(layer_map, str)
    if not numbers or any(type(number) is not int or number < 0 for number in layer_map):  # type: ignore[attr-defined]
        raise InputError(
            f"{argument('layer_map')} is {layer_map!r}: expected 'uniform', 'last', or a list of "
            "layer numbers of the teacher such as 3,7,11, counted from 0."
        )


def hidden_cosine(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> LossSum:
    """1 - cosine between the hidden states of a student and its teacher, at several layers.

    Args:
        student: (T, H) states, one tensor for each compared layer.
        teacher: as many tensors of the same shapes.

    Returns:
        The sum over T tokens of the mean over layers, between 0 and 2 each. 0 if both are equal.

    Raises:
        InputError: the shapes or the numbers of layers differ.

    Example:
        >>> states = [torch.randn(5, 8)] * 3
        >>> round(float(hidden_cosine(states, states).mean()), 5)
        0.0
    """
    _check_counts(student, teacher)
    found = [cosine_distance(*pair) for pair in zip(student, teacher, strict=True)]
    return LossSum(torch.stack([loss.sum for loss in found]).mean(), student[0].shape[0])


def hidden_mse(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> LossSum:
    """Squared difference of the hidden states of a student and its teacher, at several layers.

    Args:
        student: (T, H) states, one tensor for each compared layer; if the widths differ, after a
            learned linear map to the teacher's.
        teacher: as many tensors of the same shapes.

    Returns:
        The sum over T tokens of the mean over H numbers and layers. 0 if both are equal.

    Raises:
        InputError: the shapes or the numbers of layers differ.
    """
    _check_counts(student, teacher)
    found = [
        squared_error(*pair).sum / pair[0].shape[-1] for pair in zip(student, teacher, strict=True)
    ]
    return LossSum(torch.stack(found).mean(), student[0].shape[0])


def mean_pool(hidden: Tensor, lengths: Sequence[int]) -> Tensor:
    """The mean of the states of every sequence.

    Args:
        hidden: (T, H), all sequences in one line.
        lengths: tokens of each of the B sequences, at least 1 each; they sum to T.

    Returns:
        (B, H), of at least float32.

    Raises:
        InputError: the lengths do not sum to T, or one is 0.
    """
    check_lengths(hidden, lengths)
    sizes = torch.tensor(list(lengths), dtype=torch.int64, device=hidden.device)  # (B,)
    numbers = torch.arange(len(sizes), device=hidden.device)
    owner = numbers.repeat_interleave(sizes, output_size=hidden.shape[0])  # (T,)
    wide = at_least_float32(hidden)
    sums = wide.new_zeros(len(sizes), hidden.shape[-1]).index_add(0, owner, wide)
    return sums / sizes[:, None]


def pooled_cosine(student: Tensor, teacher: Tensor, lengths: Sequence[int]) -> LossSum:
    """1 - cosine between the student's and the teacher's mean state of each sequence.

    Args:
        student, teacher: (T, H) states, all sequences in one line.
        lengths: tokens of each of the B sequences.

    Returns:
        The sum over B sequences, between 0 and 2 each. 0 if both are equal.

    Raises:
        InputError: the shapes differ, or the lengths do not fit.
    """
    return cosine_distance(mean_pool(student, lengths), mean_pool(teacher, lengths))


def pooled_mse(student: Tensor, teacher: Tensor, lengths: Sequence[int]) -> LossSum:
    """Squared difference of the student's and the teacher's mean state of each sequence.

    Args:
        student, teacher: (T, H) states, all sequences in one line.
        lengths: tokens of each of the B sequences.

    Returns:
        The sum over B sequences of the mean over H numbers. 0 if both are equal.

    Raises:
        InputError: the shapes differ, or the lengths do not fit.
    """
    one, other = mean_pool(student, lengths), mean_pool(teacher, lengths)
    return LossSum(squared_error(one, other).sum / one.shape[-1], one.shape[0])


def check_lengths(states: Tensor, lengths: Sequence[int]) -> None:
    """Raise InputError unless these are the lengths of the sequences of packed states."""
    if sum(lengths) != states.shape[0] or any(length < 1 for length in lengths):
        raise InputError(
            f"lengths are {list(lengths)}: expected numbers of at least 1 that sum to "
            f"{states.shape[0]}, the number of tokens of the states."
        )


def _check_counts(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> None:
    if len(student) != len(teacher) or not student:
        raise InputError(
            f"The student's states are those of {counted(len(student), 'layer')}, the teacher's of "
            f"{len(teacher)}: expected the same number, at least one."
        )
