"""Exercise 6: a step of LAMB.

ALBERT was trained in batches of 4,096 sequences, and with the optimiser made for such batches. Adam
gives every number of a tensor a direction u; LAMB also chooses how far to go: in proportion to the
length of the tensor itself. A tensor with large weights takes large steps, a small one small steps,
and the learning rate says which fraction of its length a tensor moves in one step.

    m = b1 m + (1 - b1) g              u = m / (sqrt(v) + eps) + weight_decay w
    v = b2 v + (1 - b2) g^2            w = w - lr (|w| / |u|) u

|w| / |u| is the *trust ratio*, one number for the whole tensor; |.| is the root of the sum of
squares. If w or u is 0 the ratio is 1: a bias that starts at 0 would otherwise never move.

Weight decay is part of u, so it is in the norm of u as well. ALBERT's released code does not
correct the bias of m and v in early steps, as Adam does; the paper of LAMB does. Leave it out here.

Fill in `lamb_step` and run the check: `python examples/exercises/6_lamb.py`

In the library: `Lamb` in minilm/training/lamb.py.
References: You et al. 2020, algorithm 2; lamb_optimizer.py of google-research/albert.
"""

import torch
from checking import equal, explain, require, require_tensor, run
from torch import Tensor

import minilm


def lamb_step(
    weight: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """One step for one tensor.

    Args:
        weight, gradient: w and g, of one shape.
        mean, square: m and v so far, of the same shape.
        lr: learning rate.
        betas: b1 and b2.
        eps: added to the root of v.
        weight_decay: how much of w is added to the direction.

    Returns:
        The new w, m and v.
    """
    raise NotImplementedError("Write the body of lamb_step(): about six lines.")


def check(lamb_step):
    """Compares with the library's Lamb, and with what the usual mistakes give."""
    torch.manual_seed(0)
    weight, gradient, mean = torch.randn(3, 4, 5, dtype=torch.float64)
    square = torch.rand(4, 5, dtype=torch.float64)
    numbers = {"lr": 0.1, "betas": (0.9, 0.95), "eps": 0.05, "weight_decay": 0.3}
    lr, eps, decay = 0.1, 0.05, 0.3
    before = [value.clone() for value in (weight, gradient, mean, square)]

    answer = lamb_step(weight, gradient, mean, square, **numbers)
    require(
        isinstance(answer, tuple) and len(answer) == 3,
        "lamb_step returns three things: the new w, m and v.",
    )
    for name, value in zip("mv", answer[1:], strict=True):
        require_tensor(f"The new {name}", value, (4, 5))
    weight, gradient, mean, square = before  # an answer may have changed them in place
    wanted, m, v = _library(*before, numbers)
    shares = {"The new m is m + g: a share of each, b1 and 1 - b1.": mean + gradient}
    shares["The shares of m are swapped: b1 of the old m, 1 - b1 of the gradient."] = (
        0.1 * mean + 0.9 * gradient
    )
    explain(answer[1], m, shares, "The new m")
    squares = {"The gradient is not squared in v.": 0.95 * square + 0.05 * gradient}
    squares["v was made with b1. It has its own share, b2."] = 0.9 * square + 0.1 * gradient**2
    explain(answer[2], v, squares, "The new v")
    require_tensor("The new w", answer[0], (4, 5))

    root = v.sqrt()
    adam = m / (root + eps)
    u = adam + decay * weight
    length = weight.norm()
    corrected = (m / 0.1) / ((v / 0.05).sqrt() + eps) + decay * weight
    rows = weight.norm(dim=-1, keepdim=True) / u.norm(dim=-1, keepdim=True)
    inner = m / (v + eps).sqrt() + decay * weight
    steps = {
        "The trust ratio is missing: this is AdamW. Multiply by |w| / |u|.": u,
        "The trust ratio is inverted: it is |w| / |u|.": u * u.norm() / length,
        "The trust ratio is |w| / |g|. It is |w| / |u|: the length of the direction that is "
        "taken.": u * length / gradient.norm(),
        "Weight decay is added after the trust ratio. It is part of u, before its norm is taken.": (
            adam * length / adam.norm() + decay * weight
        ),
        "Weight decay is not in the norm of u. Add it to u first, then take the norm.": u
        * length
        / adam.norm(),
        "Weight decay is missing.": adam * length / adam.norm(),
        "The trust ratio is one number for each row. It is one for the whole tensor.": u * rows,
        "The trust ratio is one number for each weight. It is one for the whole tensor.": u
        * weight.abs()
        / u.abs(),
        "m and v are corrected as in Adam (divided by 1 - b^t). ALBERT's code does not do that.": (
            corrected * length / corrected.norm()
        ),
        "eps is under the root. It is added to the root.": inner * length / inner.norm(),
        "The root of v is missing.": _direction(m / (v + eps) + decay * weight, length),
        "The direction is the gradient. It is m / (sqrt(v) + eps) + weight_decay w.": _direction(
            gradient / (root + eps) + decay * weight, length
        ),
        "The norms are sums of absolute numbers. Take the root of the sum of squares.": u
        * weight.abs().sum()
        / u.abs().sum(),
        "The old m and v were used. Update them first.": _direction(
            mean / (square.sqrt() + eps) + decay * weight, length
        ),
    }
    mistakes = {message: weight - lr * step for message, step in steps.items()}
    mistakes["The sign is wrong: the step goes up the hill."] = weight + lr * length / u.norm() * u
    mistakes["The weight does not change."] = weight
    explain(answer[0], wanted, mistakes, "The new w")

    _check_zeros(lamb_step, weight, gradient, numbers)


def _check_zeros(lamb_step, weight, gradient, numbers):
    nothing = torch.zeros_like(weight)
    for name, w, g in (
        ("a weight of zeros", nothing, gradient),
        ("no gradient and no weight decay", weight, nothing),
    ):
        numbers = {**numbers, "weight_decay": 0.0}
        given = [value.clone() for value in (w, g, nothing, nothing)]
        found = lamb_step(*given, **numbers)[0]
        require(
            bool(found.isfinite().all()),
            f"With {name} the new w is NaN: the trust ratio is x / 0. Where w or u is 0, it is 1.",
        )
        wanted = _library(w, g, nothing, nothing, numbers)[0]
        stuck = torch.equal(found, w) and not torch.equal(wanted, w)
        require(
            not stuck,
            "The trust ratio is zero for a weight of zeros: a bias that starts at 0 would never "
            "move. Where w or u is 0, it is 1.",
        )
        require(equal(found, wanted), f"With {name} the step is another. Is the trust ratio 1?")


def _direction(u: Tensor, length: Tensor) -> Tensor:
    return u * length / u.norm()


def _library(
    weight: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, numbers: dict[str, object]
) -> tuple[Tensor, Tensor, Tensor]:
    """The same step by the library's optimiser."""
    parameter = torch.nn.Parameter(weight.clone())
    parameter.grad = gradient.clone()
    optimiser = minilm.Lamb([parameter], **numbers)
    state = {"exp_avg": mean.clone(), "exp_avg_sq": square.clone(), "step": torch.zeros(())}
    optimiser.state[parameter] = state
    optimiser.step()
    return parameter.detach(), state["exp_avg"], state["exp_avg_sq"]


if __name__ == "__main__":
    run(check, lamb_step)
