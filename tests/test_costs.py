"""Counts by formula against models that are really built, and against a counter of operations."""

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import minilm
from minilm.config import EncoderConfig
from minilm.costs import Cost
from minilm.errors import InputError
from tiny import SIZES, tiny

NAMES = ["BertModel", "DistilBertModel", "AlbertModel"]


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_the_models(name: str) -> None:
    model = tiny(name)
    assert minilm.cost(model.config).parameters == model.num_parameters()


@pytest.mark.parametrize("inner", [1, 2])
@pytest.mark.parametrize("sharing", ["all", "attention", "feed_forward", "none", 3])
def test_sharing(sharing: str | int, inner: int) -> None:
    config = minilm.AlbertConfig(**SIZES, embedding_size=8, inner_group_num=inner)
    config = config.with_sharing(sharing)
    found = minilm.cost(config)
    assert found.parameters == minilm.AlbertModel(config).num_parameters()
    assert found.unshared == minilm.cost(config.with_sharing("none")).parameters
    assert found.flops == minilm.cost(config.with_sharing("all")).flops


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (minilm.BertConfig(), 109_482_240),
        (minilm.DistilBertConfig(), 66_362_880),
        (minilm.AlbertConfig(), 11_683_584),
    ],
)
def test_published_counts(config: EncoderConfig, parameters: int) -> None:
    assert minilm.cost(config).parameters == parameters


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", [4, 20])
def test_operations_are_those_that_torch_counts(name: str, length: int) -> None:
    """Attention spelled out, as the counter does not look into the fused kernel."""
    model = tiny(name, torch.float32)
    found = minilm.cost(model.config, length=length)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(torch.ones(1, length, dtype=torch.int64))
    counted = counter.get_total_flops()
    assert counted == pytest.approx(found.flops * length, abs=length)


def test_the_table_adds_up() -> None:
    found = minilm.cost(minilm.AlbertConfig(), length=64)
    assert isinstance(found, Cost)
    assert found.length == 64
    *rows, last = str(found).splitlines()[1:]
    assert len(rows) == len(found.parts)
    columns = [[int(row.split()[i].replace(",", "")) for row in rows] for i in (-3, -2)]
    assert [f"{sum(column):,}" for column in columns] == last.split()[1:3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"length": 0}, "length is 0"), ({"config": EncoderConfig()}, "is a EncoderConfig")],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        minilm.cost(arguments.get("config", minilm.BertConfig()), length=arguments.get("length", 8))
