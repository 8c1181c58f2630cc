"""Deeper models from shallow ones."""

from pathlib import Path

import pytest
import torch

import minilm
from minilm.errors import ConfigError, InputError
from minilm.loader import CLASSES
from minilm.models.pretrained import PretrainedModel
from tiny import ALL_CLASSES, tiny


def states(model: PretrainedModel) -> tuple[torch.Tensor, ...]:
    ids = torch.tensor([[3, 14, 15, 9, 26], [5, 35, 8, 9, 7]])
    with torch.no_grad():
        found = model.base(ids, output_hidden_states=True).hidden_states
    assert found is not None
    return found


@pytest.mark.parametrize("name", ALL_CLASSES)
def test_layers_repeat(name: str) -> None:
    shallow = tiny(name)  # 3 layers
    deep = minilm.deepen(shallow, 7)
    assert type(deep) is CLASSES[name]
    assert deep.config == shallow.config.replace(num_hidden_layers=7)
    assert deep.dtype == torch.float64
    assert not deep.training
    assert minilm.deepen(shallow.train(), 7).training
    layers = list(deep.base.virtual_layers())
    for number, layer in enumerate(layers):
        source = list(shallow.base.virtual_layers())[number % 3]
        for found, expected in zip(layer.parameters(), source.parameters(), strict=True):
            assert torch.equal(found, expected)
    shallow.eval()
    assert all(map(torch.equal, states(deep)[:4], states(shallow)))
    others = {k: v for k, v in deep.state_dict().items() if "layers." not in k}
    assert others.keys() == {k for k in shallow.state_dict() if "layers." not in k}
    assert all(torch.equal(v, shallow.state_dict()[k]) for k, v in others.items())


def test_the_copies_are_apart() -> None:
    shallow = tiny("BertModel")
    deep = minilm.deepen(shallow, 6)
    parameters = list(deep.parameters())
    assert len({parameter.data_ptr() for parameter in parameters}) == len(parameters)
    assert not {p.data_ptr() for p in parameters} & {p.data_ptr() for p in shallow.parameters()}


@pytest.mark.parametrize("sharing", ["all", "attention", "none"])
def test_albert_keeps_its_parameters(sharing: str, tmp_path: Path) -> None:
    shallow = minilm.AlbertForMaskedLM(tiny("AlbertForMaskedLM").config.with_sharing(sharing))
    deep = minilm.deepen(shallow, 12)
    assert deep.num_parameters() == shallow.num_parameters()
    deep.save_pretrained(tmp_path)
    again = minilm.AlbertForMaskedLM.from_pretrained(tmp_path)
    assert again.num_parameters() == shallow.num_parameters()
    assert all(map(torch.equal, states(again), states(deep.eval())))


@pytest.mark.parametrize("name", ["BertForMaskedLM", "DistilBertModel", "BertForPreTraining"])
@pytest.mark.parametrize("depth", [3, 5, 12])
def test_identities_change_nothing(name: str, depth: int) -> None:
    shallow = tiny(name)  # 3 layers
    with torch.no_grad():  # norms that have learned something
        for layer in shallow.base.virtual_layers():
            for norm in (layer.attention_norm, layer.feed_forward_norm):
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.uniform_(-0.5, 0.5)
    before = {key: value.clone() for key, value in shallow.state_dict().items()}
    deep = minilm.deepen(shallow, depth, new_layers="identity")
    assert len(list(deep.base.virtual_layers())) == deep.config.num_hidden_layers == depth
    torch.testing.assert_close(states(deep)[-1], states(shallow)[-1], rtol=1e-12, atol=1e-12)
    assert all(torch.equal(value, before[key]) for key, value in shallow.state_dict().items())


def test_identities_are_spread_and_learn() -> None:
    shallow = tiny("BertForMaskedLM")
    deep = minilm.deepen(shallow, 5, new_layers="identity").train()
    added = [not layer.attention.output.weight.any() for layer in deep.base.virtual_layers()]
    assert added == [False, False, True, False, True]
    ids = torch.tensor([[3, 14, 15, 9, 26]])
    deep(ids, labels=ids).loss.backward()
    new = list(deep.base.virtual_layers())[2]
    for last in (new.attention.output, new.feed_forward.output):
        assert last.weight.grad is not None
        assert last.weight.grad.abs().max() > 0


def test_where_no_identity_fits() -> None:
    with pytest.raises(InputError, match="those of an ALBERT are shared"):
        minilm.deepen(tiny("AlbertModel"), 4, new_layers="identity")
    with pytest.raises(InputError, match="new_layers is 'copy'; expected 'repeat' or 'identity'"):
        minilm.deepen(tiny("BertModel"), 4, new_layers="copy")  # type: ignore[arg-type]


def test_what_belongs_to_a_model_stays() -> None:
    headless = minilm.AlbertModel(tiny("AlbertModel").config, add_pooling_layer=False)
    assert minilm.deepen(headless, 4).pooler is None
    frozen = tiny("DistilBertModel")
    frozen.base.embeddings.position.requires_grad_(False)
    deep = minilm.deepen(frozen, 4)
    assert not deep.base.embeddings.position.weight.requires_grad
    assert deep.base.embeddings.word.weight.requires_grad


def test_not_every_depth_is_possible() -> None:
    with pytest.raises(InputError, match=r"num_hidden_layers is 2, fewer than the model's 3"):
        minilm.deepen(tiny("BertModel"), 2)
    with pytest.raises(ConfigError, match="num_hidden_layers"):
        minilm.deepen(tiny("BertModel"), 1000)
