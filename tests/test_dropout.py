"""Dropout that draws 16 bits for every number."""

import pytest
import torch
from torch import Tensor

from minilm.blocks.dropout import Dropout
from minilm.blocks.kernels import drop


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_numbers_are_dropped_as_often_as_asked_and_the_others_scaled(
    dtype: torch.dtype, probability: float
) -> None:
    torch.manual_seed(0)
    found = drop(torch.ones(250, 401, dtype=dtype), probability)
    assert found.dtype is dtype
    kept = 1 / (1 - probability)
    values = found.unique().tolist()
    assert values[0] == 0
    assert values[1:] == [pytest.approx(kept, rel=2**-7)]
    # four standard deviations of the share, over all, in rows and in columns of four neighbours
    for part in (found, found[7], found[:, 3], *found.flatten()[:100_000].view(-1, 4).unbind(1)):
        share = float((part == 0).double().mean())
        deviation = (probability * (1 - probability) / part.numel()) ** 0.5
        assert abs(share - probability) < 4 * deviation


def test_neighbours_and_calls_are_independent() -> None:
    torch.manual_seed(1)
    first, second = (drop(torch.ones(100_000), 0.5) / 2 for _ in range(2))
    for other in (second, first.roll(1), first.roll(4)):
        assert abs(float((first * other).mean()) - 0.25) < 0.006


def test_the_seed_decides() -> None:
    def drawn(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return drop(torch.ones(1000), 0.3)

    assert torch.equal(drawn(5), drawn(5))
    assert not torch.equal(drawn(5), drawn(6))


def test_the_gradient_passes_where_a_number_was_kept() -> None:
    x = torch.rand(7, 9, dtype=torch.float64, requires_grad=True)
    found = drop(x, 0.4)
    found.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad * x, found)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5), (2, 3, 7)])
def test_any_shape(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    assert drop(x, 0.5).shape == x.shape
    assert torch.equal(drop(x, 0.0), x)
    assert torch.equal(drop(x, 1e-9), x)
    assert torch.equal(drop(x, 1.0), torch.zeros(shape))


def test_the_module_acts_in_training_alone() -> None:
    module = Dropout(0.5)
    x = torch.ones(1000)
    assert not torch.equal(module(x), x)
    assert torch.equal(module.eval()(x), x)


def test_it_compiles_and_runs_on_other_devices_as_torchs() -> None:
    x = torch.ones(10, device="meta")
    assert drop(x, 0.5).device.type == "meta"
    compiled = torch.compile(Dropout(0.5), backend="eager", fullgraph=True)
    assert set(compiled(torch.ones(100)).unique().tolist()) == {0.0, 2.0}
