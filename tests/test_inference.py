"""Layers with packed weights: the numbers of the layers of the papers, and never stale ones."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import minilm
from minilm.bench.memory import held_by_tensors
from minilm.blocks import inference
from minilm.blocks.activations import ACTIVATIONS
from minilm.models.pretrained import PretrainedModel
from tiny import ragged as ragged_with_types, tiny

CLASSES = ["BertModel", "DistilBertModel", "AlbertModel", "BertForSequenceClassification"]


def ragged() -> dict[str, Tensor]:
    return {k: v for k, v in ragged_with_types().items() if k != "token_type_ids"}


def fresh(class_name: str = "BertModel", **changes: Any) -> PretrainedModel:
    torch.manual_seed(0)
    model = tiny(class_name, torch.float32, **changes).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many layers ran with packed weights, one entry each."""
    calls: list[int] = []
    real = inference._apply
    monkeypatch.setattr(inference, "_apply", lambda *a: calls.append(1) or real(*a))
    return calls


def states(model: PretrainedModel, batch: dict[str, Tensor] | None = None) -> Tensor:
    """Fast, in inference mode."""
    with torch.inference_mode():
        return model(**(batch or ragged()))[0]


def reference(model: PretrainedModel, batch: dict[str, Tensor] | None = None) -> Tensor:
    """As the papers describe it."""
    with torch.inference_mode(), minilm.attention("explicit"):
        return model(**(batch or ragged()))[0]


def agree(model: PretrainedModel, batch: dict[str, Tensor] | None = None) -> bool:
    return torch.allclose(states(model, batch), reference(model, batch), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("class_name", CLASSES)
@pytest.mark.parametrize("layout", ["auto", "padded", "packed"])
def test_the_numbers_are_the_same(class_name: str, layout: Any, taken: list[int]) -> None:
    model = fresh(class_name)
    model.layout = layout
    for batch in (ragged(), {"input_ids": torch.tensor([[3, 4, 5]])}):
        taken.clear()
        assert agree(model, batch)
        assert len(taken) == len(list(model.base.virtual_layers()))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation: str, taken: list[int]) -> None:
    assert agree(fresh(hidden_act=activation))
    assert taken


def test_long_batches_are_computed_in_parts(taken: list[int]) -> None:
    model = fresh()
    ids = torch.randint(1, 40, (60, 12))  # 720 tokens
    assert agree(model, {"input_ids": ids})
    assert taken


def test_bfloat16_is_as_exact_as_before(taken: list[int]) -> None:
    model = fresh()
    exact = reference(model)
    model = model.to(torch.bfloat16)
    error = [float((f(model).float() - exact).abs().mean()) for f in (states, reference)]
    assert error[0] <= 1.5 * error[1]
    assert bool(taken) == inference._has_bfloat16()


def test_numbers_change_where_a_weight_of_the_copy_does(taken: list[int]) -> None:
    """The control: agreement is no accident of small weights."""
    model = fresh()
    before = states(model)
    packed = inference._packed[next(iter(model.base.virtual_layers()))]
    with torch.inference_mode():
        packed.qkv[1].add_(torch.randn(len(packed.qkv[1])))
    assert not torch.allclose(states(model), before, atol=1e-2)


# --- when weights change ---


def _linear(model: PretrainedModel) -> nn.Linear:
    layer = next(iter(model.base.virtual_layers()))
    return layer.attention.key  # type: ignore[no-any-return, union-attr, return-value]


def _value(model: PretrainedModel) -> nn.Linear:
    layer: Any = next(iter(model.base.virtual_layers()))
    found: nn.Linear = layer.attention.value
    return found


def _in_place(model: PretrainedModel) -> None:
    with torch.no_grad():
        _linear(model).weight[2, 3] += 5


def _in_place_in_inference_mode(model: PretrainedModel) -> None:
    with torch.inference_mode():
        _value(model).bias[1] += 5


def _step(model: PretrainedModel) -> None:
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(**ragged())[0].sum().backward()
    optimiser.step()
    optimiser.zero_grad()


def _load(model: PretrainedModel) -> None:
    model.load_state_dict({k: v + 0.1 for k, v in model.state_dict().items()})


def _assign(model: PretrainedModel) -> None:
    model.load_state_dict({k: v + 0.1 for k, v in model.state_dict().items()}, assign=True)


def _replace(model: PretrainedModel) -> None:
    linear = _linear(model)
    linear.weight = nn.Parameter(linear.weight + 0.5)


def _replace_module(model: PretrainedModel) -> None:
    layer: Any = next(iter(model.base.virtual_layers()))
    old = layer.feed_forward.intermediate
    layer.feed_forward.intermediate = nn.Linear(old.in_features, old.out_features).eval()


def _through_data(model: PretrainedModel) -> None:
    _linear(model).weight.data.mul_(1.5)


def _through_numpy(model: PretrainedModel) -> None:
    _linear(model).weight.detach().numpy()[:] *= 1.5


def _new_data(model: PretrainedModel) -> None:
    _linear(model).weight.data = _linear(model).weight.data * 1.5


def _one_head_through_data(model: PretrainedModel) -> None:
    layer: Any = next(iter(model.base.virtual_layers()))
    size = layer.attention.value.weight.shape[0] // layer.attention.num_heads
    layer.attention.value.weight.data[:size] = 0


def _one_bias_through_data(model: PretrainedModel) -> None:
    _value(model).bias.data[1] += 9


def _activation(model: PretrainedModel) -> None:
    layer: Any = next(iter(model.base.virtual_layers()))
    layer.feed_forward.activation = ACTIVATIONS["relu"]


def _epsilon(model: PretrainedModel) -> None:
    layer: Any = next(iter(model.base.virtual_layers()))
    layer.attention_norm.eps = 10.0


def _norm(model: PretrainedModel) -> None:
    layer: Any = next(iter(model.base.virtual_layers()))
    layer.attention_norm.weight.data.mul_(2)  # is not copied


CHANGES: list[Callable[[PretrainedModel], None]] = [
    _in_place, _in_place_in_inference_mode, _step, _load, _assign, _replace, _replace_module,
    _through_data, _through_numpy, _new_data, _one_head_through_data,
    _one_bias_through_data, _activation, _epsilon, _norm,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("class_name", ["BertModel", "AlbertModel"])
def test_no_copy_outlives_what_it_was_made_of(
    class_name: str, change: Callable[[PretrainedModel], None], taken: list[int]
) -> None:
    model = fresh(class_name)
    before = states(model)
    assert agree(model)
    change(model)
    taken.clear()
    assert agree(model)
    assert taken
    assert not torch.allclose(states(model), before, atol=1e-3)


def test_single_numbers_written_past_autograd_wait_for_eval() -> None:
    """The one trap, which the documentation names."""
    model = fresh(hidden_size=64, num_attention_heads=4)
    states(model)
    _linear(model).weight.data[1, 0] += 9  # is in no sample
    assert not agree(model)
    model.eval()
    assert agree(model)


def test_other_calls_drop_the_copy() -> None:
    model = fresh()
    layers = list(model.base.virtual_layers())
    for forget in (
        lambda: model(**ragged()),
        lambda: torch.no_grad()(model)(**ragged()),
        lambda: model.train().eval(),
    ):
        states(model)
        assert all(layer in inference._packed for layer in layers)
        forget()
        assert not any(layer in inference._packed for layer in layers)


def test_copies_pickles_and_states_know_nothing_of_it() -> None:
    model = fresh()
    names = list(model.state_dict())
    states(model)
    assert list(model.state_dict()) == names
    twin = copy.deepcopy(model)
    _in_place(twin)
    assert agree(twin)
    assert agree(model)
    assert not torch.allclose(states(twin), states(model))
    double = model.to(torch.float64)
    assert states(double).dtype is torch.float64


def test_a_copy_goes_with_its_layer() -> None:
    before = len(inference._packed)
    model = fresh()
    states(model)
    assert len(inference._packed) > before
    del model
    assert len(inference._packed) == before


def test_a_model_that_is_moved_keeps_no_copy_of_what_it_was() -> None:
    model = fresh()
    before = held_by_tensors()
    states(model)
    model.half()  # never runs with packed weights
    assert held_by_tensors() < before


def test_the_memory_of_copies_is_counted() -> None:
    model = fresh()
    before = held_by_tensors()
    states(model)
    weights = sum(p.nbytes for p in model.base.layers.parameters() if p.dim() == 2)  # type: ignore[union-attr, operator]
    assert held_by_tensors() - before >= weights


# --- who watches gets the layer itself ---


def test_hooks_see_every_part(taken: list[int]) -> None:
    model = fresh()
    states(model)
    seen: list[nn.Module] = []
    layer: Any = next(iter(model.base.virtual_layers()))
    handles = [
        part.register_forward_hook(lambda module, *_: seen.append(module))
        for part in layer.modules()
        if part is not layer
    ]
    states(model)
    assert len(set(seen)) == len(handles)
    for handle in handles:
        handle.remove()
    taken.clear()
    seen.clear()
    states(model)
    assert taken
    assert not seen


def test_global_hooks_see_every_part() -> None:
    model = fresh()
    states(model)
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda m, *_: seen.append(type(m)))
    states(model)
    handle.remove()
    assert seen.count(nn.Linear) >= 6


def test_a_replaced_forward_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    model = fresh()
    states(model)
    called = []
    linear = _linear(model)
    forward = linear.forward
    linear.forward = lambda x: called.append(1) or forward(x)  # type: ignore[method-assign, assignment, func-returns-value]
    states(model)
    assert called == [1]
    del linear.forward
    real = nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: called.append(2) or real(self, x))
    states(model)
    assert called.count(2) >= 6


def test_adapters_and_parametrisations_are_respected(taken: list[int]) -> None:
    model = fresh()
    before = states(model)
    layer: Any = next(iter(model.base.virtual_layers()))
    parametrizations.weight_norm(layer.attention.query)
    taken.clear()
    torch.testing.assert_close(states(model), before, rtol=1e-4, atol=1e-4)
    assert len(taken) == len(list(model.base.virtual_layers())) - 1


@pytest.mark.parametrize("how", ["no_grad", "autocast", "explicit", "mkldnn", "float64", "train"])
def test_where_the_layer_runs_itself(how: str, taken: list[int]) -> None:
    model = fresh()
    with torch.inference_mode(how != "no_grad"), torch.no_grad():
        if how == "autocast":
            with torch.autocast("cpu", torch.bfloat16):
                model(**ragged())
        elif how == "explicit":
            with minilm.attention("explicit"):
                model(**ragged())
        elif how == "mkldnn":
            torch._C._set_mkldnn_enabled(False)
            try:
                model(**ragged())
            finally:
                torch._C._set_mkldnn_enabled(True)
        elif how == "float64":
            model.double()(**ragged())
        elif how == "train":
            model.train()(**ragged())
        else:
            model(**ragged())
    assert not taken
