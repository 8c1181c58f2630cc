"""Muon: for every matrix a step of the same length in all its directions; AdamW for the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from minilm.errors import TrainingError

# of the quintic whose repetition sends all singular values into the neighbourhood of 1
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
# the root mean square of the elements of a usual update of AdamW, in units of the learning rate
USUAL_RMS = 0.2
LEAST_NORM = 1e-7


def orthogonalise(matrix: Tensor) -> Tensor:
    """Nearly the closest semi-orthogonal matrix: U V^T of the singular values U S V^T.

    Five steps of a Newton-Schulz iteration, x <- a x + b (x x^T) x + c (x x^T)^2 x, which ends with
    singular values between about 0.7 and 1.2 instead of exactly 1. That does not matter to Muon. A
    singular value far below the Frobenius norm (less than about 1/1000) ends lower.

    It computes in bfloat16 on a GPU, as the reference does, and on a CPU in float32, or in the
    matrix's own dtype if that is wider: few processors multiply bfloat16 in hardware, and the
    others take thirty times as long for it.

    Args:
        matrix: (m, n), floating-point; a matrix of zeros stays one.

    Returns:
        (m, n), in the dtype of the computation.

    References: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".

    Example:
        >>> torch.linalg.svdvals(orthogonalise(torch.randn(3, 5))).round(decimals=1)
        tensor([1.1000, 0.9000, 0.7000])
    """
    wide = torch.bfloat16 if matrix.is_cuda else torch.promote_types(matrix.dtype, torch.float32)
    a, b, c = COEFFICIENTS
    x = matrix.to(wide)
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T  # the products are (short, short)
    x = x / x.norm().clamp(min=LEAST_NORM)
    for _ in range(ITERATIONS):
        square = x @ x.T  # (short, short)
        inner = torch.addmm(square, square, square, beta=b, alpha=c)
        x = torch.addmm(x, inner, x, beta=a)
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Muon for matrices and AdamW for all else. For a matrix w (m, n) with the gradient g:

        b = momentum b + (1 - momentum) g        u = (1 - momentum) g + momentum b
        w = w - lr weight_decay w - lr 0.2 sqrt(max(m, n)) orthogonalise(u)

    The factor 0.2 sqrt(max(m, n)) gives the update the root mean square that an update of AdamW
    usually has, 0.2 lr, so that one learning rate and one weight decay serve both, and rates that
    were found for AdamW are good first guesses for Muon.

    A matrix that a model uses in several places, as ALBERT's shared layer does, is orthogonalised
    once. Muon keeps one number for each weight where AdamW keeps two.

    Args:
        params: matrices, or groups of parameters; a group with `"orthogonalise": False` is
            trained by AdamW. Muon is meant for the matrices of layers; embeddings, heads, norms and
            biases belong to AdamW.
        lr: learning rate of both optimisers.
        betas, eps: parameters of AdamW.
        weight_decay: weight decay of both optimisers.
        momentum: decay rate of Muon's running mean of gradients.

    Differs from `torch.optim.Muon`, the same arithmetic with `adjust_lr_fn="match_rms_adamw"`, in
    that it takes all parameters, and orthogonalises in float32 on a CPU.

    Raises:
        TrainingError: an argument is out of range, or Muon's part has a parameter that is no
            matrix.

    References: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; Liu
        et al. 2025, "Muon is Scalable for LLM Training", section 2.2 (weight decay and the factor).

    Example:
        >>> matrices = [p for p in model.encoder.layers.parameters() if p.ndim == 2]
        >>> chosen = set(matrices)
        >>> others = [p for p in model.parameters() if p not in chosen]
        >>> groups = [{"params": matrices}, {"params": others, "orthogonalise": False}]
        >>> optimiser = minilm.Muon(groups, lr=1e-3)
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
    ) -> None:
        for name, value, below in (
            ("lr", lr, math.inf),
            ("eps", eps, math.inf),
            ("weight_decay", weight_decay, math.inf),
            ("momentum", momentum, 1.0),
        ):
            if not 0 <= value < below:
                raise TrainingError(
                    f"{name} is {value!r}: expected a number from 0 to below {below}."
                )
        # AdamW is torch's own: it is given its groups and the common state before every step. As
        # it completes groups, it must have seen them all.
        self._adamw = torch.optim.AdamW(
            params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=True
        )
        own = {"orthogonalise": True, "momentum": momentum}
        super().__init__(self._adamw.param_groups, {**self._adamw.defaults, **own})
        for group in self._groups(orthogonalised=True):
            for parameter in group["params"]:
                if parameter.ndim != 2:
                    raise TrainingError(
                        f"Muon orthogonalises matrices; a parameter has the shape "
                        f"{tuple(parameter.shape)}. Put it into a group with "
                        '"orthogonalise": False.'
                    )

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
        for group in self._groups(orthogonalised=True):
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        self._adamw.param_groups = self._groups(orthogonalised=False)
        self._adamw.state = self.state
        self._adamw.step()
        return loss

    def _groups(self, *, orthogonalised: bool) -> list[dict[str, Any]]:
        return [group for group in self.param_groups if group["orthogonalise"] is orthogonalised]

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        mean = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        direction = orthogonalise(gradient.lerp(mean, group["momentum"]))
        rate = group["lr"]
        parameter.mul_(1 - rate * group["weight_decay"])
        length = rate * USUAL_RMS * math.sqrt(max(parameter.shape))
        parameter.add_(direction.to(parameter.dtype), alpha=-length)
