"""What ALBERT's layers share: in memory, on disk, in the papers' tables."""

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

import minilm
from minilm.blocks.initialisation import on_meta
from minilm.errors import CheckpointError, ConfigError, InputError
from minilm.loader import CLASSES
from tiny import tiny

MODES: list[str | int] = ["all", "attention", "feed_forward", "none", 2]
IDS = torch.tensor([[3, 14, 15, 9, 26], [5, 35, 8, 9, 7]])


def albert(
    sharing: str | int = "all", cls: str = "AlbertForMaskedLM", **changes: Any
) -> minilm.AlbertForMaskedLM:
    """Four layers, every parameter drawn anew."""
    config = tiny(cls, **{"num_hidden_layers": 4, **changes}).config
    assert isinstance(config, minilm.AlbertConfig)
    model = CLASSES[cls](config.with_sharing(sharing)).eval()
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)
    return model  # type: ignore[return-value]


def output(model: Any) -> Tensor:
    with torch.no_grad():
        found = model(IDS[:, None] if "MultipleChoice" in type(model).__name__ else IDS)
    if hasattr(found, "last_hidden_state"):
        return torch.as_tensor(found.last_hidden_state)
    names = ("logits", "prediction_logits", "start_logits")
    return torch.as_tensor(next(getattr(found, name) for name in names if hasattr(found, name)))


def layer_numbers(model: minilm.AlbertForMaskedLM, part: str) -> list[int]:
    """Which of the layers' modules of this name are one and the same."""
    modules = [getattr(layer, part) for layer in model.base.virtual_layers()]
    return [modules.index(module) for module in modules]


@pytest.mark.parametrize(
    ("sharing", "attention", "feed_forward"),
    [
        ("all", [0, 0, 0, 0], [0, 0, 0, 0]),
        ("attention", [0, 0, 0, 0], [0, 1, 2, 3]),
        ("feed_forward", [0, 1, 2, 3], [0, 0, 0, 0]),
        ("none", [0, 1, 2, 3], [0, 1, 2, 3]),
        (2, [0, 0, 2, 2], [0, 0, 2, 2]),
        (4, [0, 0, 0, 0], [0, 0, 0, 0]),
    ],
)
def test_modes(sharing: str | int, attention: list[int], feed_forward: list[int]) -> None:
    """Each norm belongs to its block."""
    model = albert(sharing)
    for part in ("attention", "attention_norm"):
        assert layer_numbers(model, part) == attention
    for part in ("feed_forward", "feed_forward_norm"):
        assert layer_numbers(model, part) == feed_forward


@pytest.mark.parametrize("inner", [1, 2])
@pytest.mark.parametrize("sharing", MODES)
def test_a_checkpoint_is_an_ordinary_albert(sharing: str | int, inner: int, tmp_path: Path) -> None:
    """It comes back as it was, and transformers computes the same."""
    model = albert(sharing, inner_group_num=inner)
    model.save_pretrained(tmp_path)
    again = minilm.AlbertForMaskedLM.from_pretrained(tmp_path)
    assert again.config.replace(extra={}) == model.config
    assert again.num_parameters() == model.num_parameters()
    assert torch.equal(output(again), output(model))
    assert layer_numbers(again, "attention") == layer_numbers(model, "attention")
    assert type(minilm.load(tmp_path)) is minilm.AlbertForMaskedLM
    oracle = transformers.AlbertForMaskedLM.from_pretrained(tmp_path, local_files_only=True)
    torch.testing.assert_close(output(again), output(oracle.eval()), rtol=0, atol=2e-5)
    stored = json.loads((tmp_path / "config.json").read_text())
    wanted = sharing if sharing in ("attention", "feed_forward") else None
    assert stored.get("shared_between_groups") == wanted
    assert len(load_file(tmp_path / "model.safetensors")) == len(model.state_dict())


def test_the_shared_albert_is_stored_as_before(tmp_path: Path) -> None:
    """To the byte: the digests are of files written before there were other modes."""
    torch.manual_seed(0)
    config = minilm.AlbertConfig(
        vocab_size=50, embedding_size=4, hidden_size=8, num_attention_heads=2, intermediate_size=16
    )
    minilm.AlbertForMaskedLM(config).save_pretrained(tmp_path)
    found = [
        hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()[:16]
        for name in ("config.json", "model.safetensors")
    ]
    assert found == ["a86db5983dc005d3", "df53ba39346cec54"]


@pytest.mark.parametrize("sharing", ["attention", "feed_forward"])
def test_copies_that_differ_are_refused(sharing: str, tmp_path: Path) -> None:
    model = albert(sharing)
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    part = {"attention": "attention.query", "feed_forward": "full_layer_layer_norm"}[sharing]
    name = f"albert.encoder.albert_layer_groups.2.albert_layers.0.{part}.bias"
    tensors[name][1] += 1e-3
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=rf"groups\.2.*{part}.*differs from .*groups\.0"):
        minilm.AlbertForMaskedLM.from_pretrained(tmp_path)
    own = model.state_dict()
    before = {key: value.clone() for key, value in own.items()}
    spoiled = {key: value.clone() for key, value in own.items()}
    own_part = {"attention": "attention.query", "feed_forward": "feed_forward_norm"}[sharing]
    spoiled[f"encoder.groups.3.layers.0.{own_part}.bias"][0] += 1
    with pytest.raises(CheckpointError, match=r"groups\.3.* differs from .*groups\.0"):
        model.load_state_dict(spoiled)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("sharing", MODES)
def test_everyday_operations_keep_the_sharing(sharing: str | int) -> None:
    model = albert(sharing)
    numbers = layer_numbers(model, "feed_forward"), layer_numbers(model, "attention")
    names = dict(model.named_parameters())
    assert model.num_parameters() == sum(p.numel() for p in names.values())
    twin = copy.deepcopy(model).double()
    assert (layer_numbers(twin, "feed_forward"), layer_numbers(twin, "attention")) == numbers
    assert len(dict(twin.named_parameters())) == len(names)
    other = albert(sharing)
    with torch.no_grad():
        next(other.parameters()).zero_()
    other.load_state_dict(model.state_dict())
    other.load_state_dict({name: value.detach() for name, value in names.items()})
    other.resize_token_embeddings(70)
    assert torch.equal(output(other)[..., :61], output(model))


@pytest.mark.parametrize("cls", [name for name in CLASSES if name.startswith("Albert")])
def test_unshared_layers_compute_the_same(cls: str) -> None:
    model = albert(cls=cls)
    apart = minilm.unshare(model)
    assert type(apart) is type(model)
    assert torch.equal(output(apart), output(model))
    assert apart.config.num_hidden_groups == 4  # type: ignore[attr-defined]
    layer = sum(p.numel() for p in model.base.virtual_layers()[0].parameters())
    assert apart.num_parameters() == model.num_parameters() + 3 * layer
    again = minilm.share(apart)
    assert again.config == model.config
    for (name, one), (other_name, other) in zip(
        model.named_parameters(), again.named_parameters(), strict=True
    ):
        assert name == other_name
        assert torch.equal(one, other)
        assert one.data_ptr() != other.data_ptr()


@pytest.mark.parametrize("sharing", MODES)
def test_any_mode_can_be_unshared_and_shared_again(sharing: str | int) -> None:
    model = albert(sharing, inner_group_num=2).double().train()
    model.get_input_embeddings().weight.requires_grad_(False)
    apart = minilm.unshare(model)
    assert apart.training
    assert apart.dtype == torch.float64
    assert not apart.get_input_embeddings().weight.requires_grad
    again = minilm.share(apart, sharing)
    assert again.config == model.config
    assert torch.equal(output(again.eval()), output(model.eval()))


def test_gradients_of_the_copies_add_up_to_that_of_the_shared_layer() -> None:
    model = albert().double()
    apart = minilm.unshare(model)
    for one in (model, apart):
        one(IDS).logits.square().mean().backward()
    shared = dict(model.base.virtual_layers()[0].named_parameters())
    for name, parameter in shared.items():
        copies = [dict(layer.named_parameters())[name] for layer in apart.base.virtual_layers()]
        total = torch.stack([c.grad for c in copies if c.grad is not None]).sum(dim=0)
        torch.testing.assert_close(total, parameter.grad, rtol=0, atol=1e-11)


def test_layers_that_differ_are_not_shared() -> None:
    apart = minilm.unshare(albert())
    with torch.no_grad():
        apart.base.virtual_layers()[2].attention.key.bias[0] += 0.5  # type: ignore[union-attr,index]
    with pytest.raises(InputError, match=r"attention.key.bias of layer 2 differs from .* 0.5"):
        minilm.share(apart)
    assert minilm.share(apart, "feed_forward").num_parameters() < apart.num_parameters()


def test_only_alberts() -> None:
    for function in (minilm.unshare, minilm.share):
        with pytest.raises(InputError, match="is a BertModel: expected an ALBERT"):
            function(tiny("BertModel"))


@pytest.mark.parametrize(("sharing", "message"), [(5, "5.*12"), (0, "0"), ("some", "some")])
def test_wrong_modes_are_named(sharing: str | int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        minilm.AlbertConfig().with_sharing(sharing)
    with pytest.raises(ConfigError, match="shared_between_groups"):
        minilm.AlbertConfig(shared_between_groups="norms")


# --- parameter counts of the papers ---


def parameters(config: minilm.AlbertConfig, cls: str = "AlbertModel", **options: Any) -> int:
    with on_meta():
        return CLASSES[cls](config, **options).num_parameters()


PUBLISHED = {
    "base": (768, 12, 12, 3072, 11_683_584, 11_092_992, 11_221_680, 11_813_810),
    "large": (1024, 24, 16, 4096, 17_683_968, 16_634_368, 16_795_824, 17_847_474),
    "xlarge": (2048, 24, 16, 8192, 58_724_864, 54_528_512, 54_821_040, 59_021_490),
    "xxlarge": (4096, 12, 64, 16384, 222_595_584, 205_814_272, 206_368_944, 223_158_450),
}


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("size", PUBLISHED)
def test_published_configurations(size: str, version: int) -> None:
    """Activation and dropouts, all that v1 and v2 differ in, have no parameters."""
    hidden, layers, heads, intermediate, *counts = PUBLISHED[size]
    dropout = 0.1 if version == 1 and size != "xxlarge" else 0.0
    config = minilm.AlbertConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate,
        hidden_act="gelu" if version == 1 else "gelu_new",
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    assert [
        parameters(config),
        parameters(config, add_pooling_layer=False),
        parameters(config, "AlbertForMaskedLM"),
        parameters(config, "AlbertForPreTraining"),
    ] == counts


# Lan et al. 2020, tables 3 and 4: sharing, embedding size, millions of parameters. They are rounded
# counts of Google's model, which has no projection where E = H; with the pooler, but for the rows
# where nothing is shared, which are without.
TABLE_3 = [
    ("none", 64, 87), ("none", 128, 89), ("none", 256, 93), ("none", 768, 108),
    ("all", 64, 10), ("all", 128, 12), ("all", 256, 16), ("all", 768, 31),
]  # fmt: skip
TABLE_4 = [
    ("all", 768, 31), ("attention", 768, 83), ("feed_forward", 768, 57), ("none", 768, 108),
    ("all", 128, 12), ("attention", 128, 64), ("feed_forward", 128, 38), ("none", 128, 89),
]  # fmt: skip


def by_hand(sharing: str, embedding: int) -> int:
    """ALBERT-base: V 30,000, P 512, T 2, H 768, I 3,072, L 12."""
    width, inner, layers = 768, 3072, 12
    tables = (30_000 + 512 + 2) * embedding + 2 * embedding + embedding * width + width
    attention = 4 * (width * width + width) + 2 * width
    feed_forward = width * inner + inner + inner * width + width + 2 * width
    pooler = width * width + width
    attentions = 1 if sharing in ("all", "attention") else layers
    feed_forwards = 1 if sharing in ("all", "feed_forward") else layers
    return tables + attentions * attention + feed_forwards * feed_forward + pooler


@pytest.mark.parametrize(("sharing", "embedding", "millions"), [*TABLE_3, *TABLE_4])
def test_tables_of_the_paper(sharing: str, embedding: int, millions: int) -> None:
    config = minilm.AlbertConfig(embedding_size=embedding).with_sharing(sharing)
    assert parameters(config) == by_hand(sharing, embedding)
    papers = parameters(config, add_pooling_layer=sharing != "none")
    if embedding == 768:
        papers -= 768 * 768 + 768
    assert round(papers / 1e6) == millions


def test_parts_of_groups_come_along_or_are_named() -> None:
    model = albert("none")
    for group in model.encoder.groups:
        group.register_buffer("scale", torch.ones(1))
    apart = minilm.unshare(model)
    assert all(hasattr(group, "scale") for group in apart.encoder.groups)
    shared = albert("all")
    shared.encoder.groups[0].extra = torch.nn.Linear(2, 2)
    again = minilm.unshare(shared)
    assert all(
        torch.equal(g.extra.weight, shared.encoder.groups[0].extra.weight)
        for g in again.encoder.groups
    )
    again.encoder.groups[1].extra.weight.data += 1
    with pytest.raises(InputError, match=r"extra.weight of layer 1 differs from .* layer 0"):
        minilm.share(again)
    del again.encoder.groups[2].extra
    with pytest.raises(InputError, match="is not in every group|differs"):
        minilm.share(again)


def test_layers_that_were_trained_apart_become_their_mean() -> None:
    apart = albert("none")
    tied = minilm.share(apart, 2, merge="average")
    assert tied.num_parameters() == minilm.share(minilm.unshare(albert()), 2).num_parameters()
    assert layer_numbers(tied, "attention") == [0, 0, 2, 2]
    theirs = [layer.state_dict() for layer in apart.base.virtual_layers()]
    for ours, pair in zip(list(tied.base.virtual_layers())[::2], ((0, 1), (2, 3)), strict=True):
        for name, value in ours.state_dict().items():
            mean = (theirs[pair[0]][name].double() + theirs[pair[1]][name].double()) / 2
            torch.testing.assert_close(value.double(), mean, rtol=0, atol=1e-7)
            assert not torch.equal(value, theirs[pair[0]][name])
    with pytest.raises(InputError, match='differs from .* For their mean, give merge="average"'):
        minilm.share(apart, 2)


def test_an_average_over_groups_of_layers_and_over_parts() -> None:
    """Layers in the same place of their groups become one; what is not shared stays."""
    apart = albert("none", inner_group_num=3, num_hidden_layers=2)
    tied = minilm.share(apart, merge="average")
    assert layer_numbers(tied, "feed_forward") == [0, 1, 2, 0, 1, 2]
    theirs = list(apart.base.virtual_layers())
    ours = list(tied.base.virtual_layers())[1].get_parameter("attention.key.weight")
    found = [theirs[n].get_parameter("attention.key.weight") for n in (1, 4)]
    torch.testing.assert_close(ours, (found[0] + found[1]) / 2)
    attention = minilm.share(albert("none"), "attention", merge="average")
    blocks = [layer.get_submodule("feed_forward") for layer in albert("none").base.virtual_layers()]
    for layer, block in zip(attention.base.virtual_layers(), blocks, strict=True):
        for name, value in block.state_dict().items():
            assert torch.equal(layer.get_submodule("feed_forward").state_dict()[name], value)
    assert layer_numbers(attention, "attention") == [0, 0, 0, 0]


def test_the_mean_of_equal_layers_is_the_layer() -> None:
    model = albert()
    again = minilm.share(minilm.unshare(model), merge="average")
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    with pytest.raises(InputError, match="merge is 'mean': expected 'equal' or 'average'"):
        minilm.share(model, merge="mean")  # type: ignore[arg-type]
