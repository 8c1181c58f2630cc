"""The running average of the weights of a run, which is evaluated and becomes its result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from minilm.errors import TrainingError

PREFIX = "average/"  # of its tensors in a snapshot
COUNT = f"{PREFIX}updates"


class WeightAverage:
    """An exponential moving average of all trained parameters, one number after each update:

        a_t = (1 - decay) (w_t + decay w_(t-1) + decay^2 w_(t-2) + ... + decay^(t-1) w_1)
              / (1 - decay^t)

    The division corrects the bias towards zero, so that the average of a single update is its
    weights, and that of the first few is their mean. It takes about 1 / (1 - decay) updates to
    forget one. Updates that are left out do not count.

    It smooths what the noise of the last steps does to the weights, as a falling learning rate
    also does: the higher the rate at the end, the more there is to gain.

    Differs from `torch.optim.swa_utils.AveragedModel`, a copy of a whole module, in that it keeps
    nothing but trained parameters, in float32 or wider, and corrects the bias.

    Args:
        module: its trained parameters are averaged, and nothing else.
        decay: above 0 and below 1.

    References: Polyak and Juditsky 1992, "Acceleration of Stochastic Approximation by Averaging";
        Kingma and Ba 2015, "Adam", section 7.2 (with the correction).

    Example:
        >>> average = WeightAverage(model, 0.999)
        >>> average.update()  # after each step of the optimiser
        >>> with average.applied():
        ...     evaluate(model)
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._decay = decay
        self._updates = 0
        self._parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self._averages: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self) -> None:
        """Adds the current weights to the average."""
        self._updates += 1
        if self._updates == 1:
            self._averages = {
                name: value.detach().to(torch.promote_types(value.dtype, torch.float32), copy=True)
                for name, value in self._parameters.items()
            }
            return
        share = (1 - self._decay) / (1 - self._decay**self._updates)
        for name, average in self._averages.items():
            average.lerp_(self._parameters[name].to(average.dtype), share)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Gives the module the averaged weights inside the block, and its own again after it."""
        own = {name: self._parameters[name].detach().clone() for name in self._averages}
        self._copy(self._averages)
        try:
            yield
        finally:
            self._copy(own)

    def apply(self) -> None:
        """Gives the module the averaged weights for good; without any update it keeps its own."""
        self._copy(self._averages)

    @torch.no_grad()
    def _copy(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self._parameters[name].copy_(value)

    def state(self) -> dict[str, Tensor]:
        """The tensors of the average, by name; each name begins with `PREFIX`."""
        if not self._updates:
            return {}
        averages = {f"{PREFIX}{name}": value for name, value in self._averages.items()}
        return {**averages, COUNT: torch.tensor(self._updates)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores what `state` returned; without tensors the average starts afresh.

        Raises:
            TrainingError: the tensors belong to another model.
        """
        count = tensors.get(COUNT)
        self._updates = 0 if count is None else int(count)
        found = {n.removeprefix(PREFIX): value for n, value in tensors.items() if n != COUNT}
        expected = self._parameters if self._updates else {}
        if found.keys() != expected.keys() or any(
            value.shape != expected[name].shape for name, value in found.items()
        ):
            raise TrainingError(
                "The snapshot holds averages of weights that are not trained here. It belongs to "
                "another model."
            )
        self._averages = {n: value.to(expected[n].device, copy=True) for n, value in found.items()}
