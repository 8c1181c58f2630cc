"""Determines which of the teacher's layers a student's layers start from.

A student that shares its layers has fewer layers than it applies: each is used at several depths.
There are three ways to initialise it. "interval" takes teacher layers at equal distances, including
the first and the last (0, 6 and 11 of 12 for three); "average" takes the mean of all the layers
that a shared one replaces; "random" takes none. If the teacher's layers still resemble each other,
as in one that was grown by stacking, little is lost by the mean; for other teachers, try which
start is better.

References: Bae et al. 2024, Relaxed Recursive Transformers, section 2.2 ("Stepwise" is "interval"
here); Sanh et al. 2019, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from minilm.blocks.feed_forward import FeedForward
from minilm.blocks.transformer import TransformerLayer
from minilm.errors import InputError, argument

LayerChoice = Literal["every_other", "published"] | list[int] | tuple[int, ...] | range
Start = Literal["interval", "average", "random"]
STARTS: tuple[str, ...] = get_args(Start)

# the layers that the released DistilBERT was made of; the paper says "one layer out of two"
PUBLISHED_LAYERS = (0, 2, 4, 7, 9, 11)
PUBLISHED_DEPTH = 12

# each block is taken with the norm after it
BLOCKS = (("attention", "attention_norm"), ("feed_forward", "feed_forward_norm"))


def chosen_layers(layers: LayerChoice, depth: int, name: str = "layers") -> tuple[int, ...]:
    """The numbers of the teacher's layers that a choice means.

    Args:
        layers: as for `init_student`.
        depth: the number of the teacher's layers.
        name: name of the argument, for the message.

    Raises:
        InputError: a layer does not exist; the message says which do.
    """
    if isinstance(layers, str):
        if layers == "every_other":
            return tuple(range(0, depth, 2))
        if layers == "published":
            return _published(depth)
    elif isinstance(layers, list | tuple | range) and len(layers) > 0:
        for number in layers:
            if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < depth:
                raise InputError(
                    f"{argument(name)} contains {number!r}: the teacher has layers 0 to "
                    f"{depth - 1}."
                )
        return tuple(layers)
    raise InputError(
        f"{argument(name)} is {layers!r}: expected 'every_other', 'published' or numbers from 0 to "
        f"{depth - 1}, at least one."
    )


def _published(depth: int) -> tuple[int, ...]:
    if depth != PUBLISHED_DEPTH:
        raise InputError(
            f"layers is 'published', which is {PUBLISHED_LAYERS} of {PUBLISHED_DEPTH} layers; the "
            f"teacher has {depth}. Use 'every_other' or give numbers."
        )
    return PUBLISHED_LAYERS


def layers_at_interval(count: int, depth: int) -> tuple[int, ...]:
    """Chooses this many layers at equal distances, including the first and the last.

    Args:
        count: the number of layers to choose; if it is greater than `depth`, some are repeated.
        depth: the number of layers there are.

    Returns:
        Their numbers from 0; a single one is the middle layer.

    Example:
        >>> layers_at_interval(3, 12), layers_at_interval(6, 12), layers_at_interval(1, 12)
        ((0, 6, 11), (0, 2, 4, 7, 9, 11), (6,))
    """
    if count == 1:
        return (depth // 2,)
    # in integer arithmetic, halves rounded up
    return tuple((2 * i * (depth - 1) + count - 1) // (2 * (count - 1)) for i in range(count))


def layers_stood_for(places: Sequence[int], applications: int, depth: int) -> tuple[int, ...]:
    """The teacher's layers that a student's layer replaces.

    With both depths scaled to the same length, a layer replaces those that it overlaps.

    Args:
        places: where the student applies the layer, from 0.
        applications: the number of layers that the student applies.
        depth: the number of layers that the teacher applies.

    Example:
        >>> layers_stood_for([0, 3, 6, 9], 12, 12), layers_stood_for([0], 3, 12)
        ((0, 3, 6, 9), (0, 1, 2, 3))
    """
    return tuple(
        number
        for number in range(depth)
        if any(
            place * depth < (number + 1) * applications
            and number * applications < (place + 1) * depth
            for place in places
        )
    )


def sources_of(
    start: Start | Sequence[int], applied: Sequence[nn.Module], depth: int
) -> list[tuple[int, ...]]:
    """For each layer of a student, the teacher's layers that it starts from.

    Args:
        start: a name, or the number of a teacher's layer for each of the student's.
        applied: the student's layers in the order in which it applies them.
        depth: the number of layers that the teacher applies.

    Returns:
        The numbers of the teacher's layers for each layer, in the order in which the layers are
        first applied; empty for a random start.
    """
    unique = list(dict.fromkeys(applied))
    if start == "random":
        return [() for _ in unique]
    if start == "average":
        places = [[i for i, layer in enumerate(applied) if layer is each] for each in unique]
        return [layers_stood_for(found, len(applied), depth) for found in places]
    chosen = layers_at_interval(len(unique), depth) if start == "interval" else start
    return [(int(number),) for number in chosen]


@torch.no_grad()
def start_block(
    target: TransformerLayer, sources: Sequence[TransformerLayer], parts: Sequence[str]
) -> None:
    """Give parts of a layer the values of another layer, or the mean of several.

    Args:
        target: the student's layer.
        sources: layers of the teacher, at least one, with the same shapes. From a wider
            feed-forward block the strongest neurons are taken.
        parts: names of modules of a layer, such as those in `BLOCKS`.
    """
    for part in parts:
        states = [source.get_submodule(part).state_dict() for source in sources]
        block = target.get_submodule(part)
        start = dict(states[0])
        if len(states) > 1:
            for name in start:
                start[name] = torch.stack([state[name].double() for state in states]).mean(0)
        if isinstance(block, FeedForward):
            start = _strongest_neurons(start, block.intermediate.out_features)
        block.load_state_dict(start)


def _strongest_neurons(state: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """A feed-forward block with only this many of its neurons, those with the largest weights.

    A neuron's strength is the norm of its input weights times the norm of its output weights. Li et
    al. 2017, Pruning Filters for Efficient ConvNets, also choose units by norms of weights.
    """
    inward, outward = state["intermediate.weight"], state["output.weight"]
    if count == len(inward):
        return state
    incoming = torch.cat([inward, state["intermediate.bias"][:, None]], 1).double().norm(dim=1)
    strength = incoming * outward.double().norm(dim=0)
    kept = strength.topk(count).indices.sort().values
    return state | {
        "intermediate.weight": inward[kept],
        "intermediate.bias": state["intermediate.bias"][kept],
        "output.weight": outward[:, kept],
    }
