"""LAMB against steps by hand, against another implementation, and inside the engine."""

import math
from typing import Any

import pytest
import torch
from torch import nn

import minilm
from minilm.errors import TrainingError
from minilm.training.optimiser import build_optimiser
from minilm.training.settings import TrainingSettings
from tiny import tiny

EXACT: dict[str, Any] = {"rtol": 0, "atol": 1e-15}


def parameter(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=torch.float64))


def step(optimiser: torch.optim.Optimizer, weight: nn.Parameter, *gradient: float) -> None:
    weight.grad = torch.tensor(gradient, dtype=weight.dtype)
    optimiser.step()


def test_two_steps_by_hand() -> None:
    """w = (3, 4), g = (1, 0) twice; norms 5, everything written out."""
    weight = parameter(3, 4)
    optimiser = minilm.Lamb([weight], lr=0.1, weight_decay=0.01)
    step(optimiser, weight, 1, 0)
    u = (0.1 / (math.sqrt(0.001) + 1e-6) + 0.03, 0.04)
    assert u[0] - 0.03 == pytest.approx(3.16218, abs=1e-5)
    ratio = 5 / math.hypot(*u)
    wanted = (3 - 0.1 * ratio * u[0], 4 - 0.1 * ratio * u[1])
    torch.testing.assert_close(weight, parameter(*wanted), **EXACT)

    step(optimiser, weight, 1, 0)
    u = (0.19 / (math.sqrt(0.001999) + 1e-6) + 0.01 * wanted[0], 0.01 * wanted[1])
    ratio = math.hypot(*wanted) / math.hypot(*u)
    wanted = (wanted[0] - 0.1 * ratio * u[0], wanted[1] - 0.1 * ratio * u[1])
    torch.testing.assert_close(weight, parameter(*wanted), rtol=0, atol=1e-14)


def test_bias_correction_makes_the_first_direction_the_sign() -> None:
    weight = parameter(3, 4)
    optimiser = minilm.Lamb([weight], lr=0.1, eps=0, weight_decay=0, bias_correction=True)
    step(optimiser, weight, 7, -0.002)
    length = 0.1 * 5 / math.sqrt(2)
    torch.testing.assert_close(weight, parameter(3 - length, 4 + length), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "ratio"),
    [({}, 5.0), ({"clip_trust_ratio": 1.5}, 1.5), ({"adapt": False}, 1.0)],
)
def test_trust_ratio(options: dict[str, Any], ratio: float) -> None:
    """The direction has the norm 1, the weight the norm 5."""
    weight = parameter(3, 4)
    group = {"params": [weight], "weight_decay": 0.0, **options}
    optimiser = minilm.Lamb([group], lr=0.01, betas=(0.0, 0.0), eps=1e-15)
    step(optimiser, weight, 0, 8)
    torch.testing.assert_close(weight, parameter(3, 4 - 0.01 * ratio), rtol=0, atol=1e-14)


def test_norms_of_zero_leave_the_ratio_at_one() -> None:
    zero, still = parameter(0, 0), parameter(3, 4)
    optimiser = minilm.Lamb([zero, still], lr=0.1, betas=(0.0, 0.0), eps=1e-3, weight_decay=0.0)
    zero.grad, still.grad = torch.tensor([1.0, 0.0]).double(), torch.zeros(2).double()
    optimiser.step()
    torch.testing.assert_close(zero, parameter(-0.1 / 1.001, 0), **EXACT)
    torch.testing.assert_close(still, parameter(3, 4), **EXACT)


def test_parameters_without_gradient_stay_and_have_no_state() -> None:
    moved, kept = parameter(1, 1), parameter(2, 2)
    optimiser = minilm.Lamb([moved, kept], lr=0.1)
    step(optimiser, moved, 1, 2)
    assert kept not in optimiser.state
    torch.testing.assert_close(kept, parameter(2, 2), **EXACT)


def test_a_closure_gives_the_loss() -> None:
    weight = parameter(1, 2)
    optimiser = minilm.Lamb([weight], lr=0.1)

    def closure() -> float:
        optimiser.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return float(loss.detach())

    assert optimiser.step(closure) == 5.0
    assert float(weight.detach().square().sum()) < 5.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_against_another_implementation(dtype: torch.dtype) -> None:
    """torch_optimizer's, whose limit of weight norms is set out of the way; ten steps."""
    from torch_optimizer import Lamb as Reference

    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in ((7, 5), (5,), (3, 2, 4))]
    theirs = [nn.Parameter(weight.detach().clone()) for weight in ours]
    lamb = minilm.Lamb(ours, lr=0.03, weight_decay=0.02)
    reference = Reference(theirs, lr=0.03, weight_decay=0.02, eps=1e-6, clamp_value=1e9)
    for _ in range(10):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        lamb.step()
        reference.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_a_shared_layer_is_one_tensor_with_one_ratio() -> None:
    albert = tiny("AlbertForMaskedLM")
    groups = minilm.parameter_groups(albert, 0.01)
    assert [group["adapt"] for group in groups] == [True, False]
    together = [p for group in groups for p in group["params"]]
    assert len(together) == len({id(p) for p in together}) == len(list(albert.parameters()))
    norms_and_biases = {id(p) for p in groups[1]["params"]}
    for name, value in albert.named_parameters():
        assert (id(value) in norms_and_biases) == ("norm" in name or name.endswith("bias")), name


def test_settings_choose_the_optimiser() -> None:
    module = nn.Linear(3, 2)
    lamb = build_optimiser(
        module, TrainingSettings(steps=1, optimiser="lamb", betas=(0.8, 0.9), epsilon=1e-3)
    )
    assert isinstance(lamb, minilm.Lamb)
    group = lamb.param_groups[0]
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.8, 0.9), 1e-3, 0.01)
    assert (group["bias_correction"], group["clip_trust_ratio"]) == (False, None)
    assert isinstance(build_optimiser(module, TrainingSettings(steps=1)), torch.optim.AdamW)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": -1.0}, "lr is -1.0"),
        ({"betas": (0.9, 1.0)}, r"betas\[1\] is 1.0"),
        ({"eps": math.nan}, "eps is nan"),
        ({"clip_trust_ratio": -1.0}, "clip_trust_ratio is -1.0"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        minilm.Lamb([parameter(1)], **{"lr": 0.1, **changes})
