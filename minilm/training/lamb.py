"""LAMB: Adam's direction for every tensor, with a length in proportion to the tensor's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from minilm.errors import TrainingError


class Lamb(torch.optim.Optimizer):
    """Layer-wise adaptive moments for large batches. For every tensor w with the gradient g:

        m = b1 m + (1 - b1) g          u = m / (sqrt(v) + eps) + weight_decay w
        v = b2 v + (1 - b2) g^2        w = w - lr (|w| / |u|) u

    The trust ratio |w| / |u| is 1 if one of the norms is 0. A tensor that a model uses in several
    places is one tensor with one ratio, as ALBERT's shared layer is in Google's code.

    It guesses nothing from names or shapes: every tensor is decayed and adapted, unless its group
    says `"weight_decay": 0.0` or `"adapt": False` (ratio 1). `minilm.parameter_groups` makes the
    groups of the released code, where norms and biases are neither.

    Clip the gradients before each step; LAMB's own scripts clip them to a global norm of 1.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        betas: b1 and b2.
        eps: added to the root of the second moment.
        weight_decay: added to the direction, before its norm is taken.
        bias_correction: divide m by 1 - b1^t and v by 1 - b2^t, as Adam does.
        clip_trust_ratio: the largest trust ratio; None = no limit.

    Variants: the defaults are google-research/albert's. The LAMB paper, apex's FusedLAMB and timm's
    Lamb correct the bias (`bias_correction=True`); the latter two adapt only tensors that are
    decayed, which the groups of `minilm.parameter_groups` do, and timm's `trust_clip` is
    `clip_trust_ratio=1.0`.

    Raises:
        TrainingError: an argument is out of range.

    References:
        You et al. 2020, "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes",
        algorithm 2; lamb_optimizer.py of google-research/albert.

    Example:
        >>> groups = minilm.parameter_groups(model, weight_decay=0.01)
        >>> optimiser = minilm.Lamb(groups, lr=0.00176)
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        bias_correction: bool = False,
        clip_trust_ratio: float | None = None,
    ) -> None:
        numbers = {"lr": lr, "eps": eps, "weight_decay": weight_decay}
        numbers |= {f"betas[{place}]": beta for place, beta in enumerate(betas)}
        if clip_trust_ratio is not None:
            numbers["clip_trust_ratio"] = clip_trust_ratio
        for name, value in numbers.items():
            below = 1.0 if name.startswith("betas") else math.inf
            if not 0 <= value < below:
                raise TrainingError(
                    f"{name} is {value!r}: expected a number from 0 to below {below}."
                )
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "bias_correction": bias_correction,
            "clip_trust_ratio": clip_trust_ratio,
            "adapt": True,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Updates every parameter that has a gradient.

        Args:
            closure: computes the loss again, with gradients; its value is returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
            state["step"] = torch.zeros(())
        state["step"] += 1
        beta1, beta2 = group["betas"]
        mean = state["exp_avg"].lerp_(gradient, 1 - beta1)
        square = state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)

        root = square.sqrt()
        if group["bias_correction"]:
            updates = float(state["step"])
            root /= math.sqrt(1 - beta2**updates)
            direction = (mean / (1 - beta1**updates)).div_(root.add_(group["eps"]))
        else:
            direction = torch.div(mean, root.add_(group["eps"]), out=root)
        direction.add_(parameter, alpha=group["weight_decay"])

        length = torch.tensor(group["lr"], dtype=parameter.dtype, device=parameter.device)
        if group["adapt"]:
            length = length * _trust_ratio(parameter, direction, group["clip_trust_ratio"])
        parameter.sub_(direction.mul_(length))


def _trust_ratio(parameter: Tensor, direction: Tensor, limit: float | None) -> Tensor:
    """|w| / |u|, a scalar; on its device, so that a GPU need not be waited for."""
    weight, update = parameter.norm(), direction.norm()
    ratio = torch.where((weight > 0) & (update > 0), weight / update, torch.ones_like(weight))
    return ratio if limit is None else ratio.clamp(max=limit)
