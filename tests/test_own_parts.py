"""Changed models: modules of one's own, wrapped layers, models inside other modules."""

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import minilm
from minilm import CheckpointError, InputError
from minilm.checkpoints.names import ARCHITECTURES
from minilm.models.pretrained import PretrainedModel
from oracle import hugging_face
from tiny import ALL_CLASSES, architecture, tiny

IDS = torch.tensor([[3, 14, 15, 9, 26], [5, 35, 8, 9, 7]])
KINDS = ["Bert", "DistilBert", "Albert"]


class LowRank(nn.Module):
    """A layer with a trainable correction, as LoRA has."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base
        self.lora_A = nn.ParameterDict({"default": nn.Parameter(torch.zeros(2, base.in_features))})
        self.lora_B = nn.Linear(2, base.out_features, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        result: Tensor = self.base_layer(states) + self.lora_B(states @ self.lora_A["default"].T)
        return result


def adapter(model: PretrainedModel) -> None:
    model.base.adapter = nn.Linear(16, 16)  # type: ignore[assignment]


def in_every_layer(model: PretrainedModel) -> None:
    for layer in model.base.virtual_layers():
        layer.gates = nn.ModuleList([nn.Linear(16, 1), nn.LayerNorm(16)])


def parameter(model: PretrainedModel) -> None:
    model.base.scale = nn.Parameter(torch.full((), 0.5))  # type: ignore[assignment]


def buffers(model: PretrainedModel) -> None:
    model.base.register_buffer("mean", torch.linspace(0, 1, 16))
    model.register_buffer("steps", torch.arange(3))
    model.base.embeddings.register_buffer("position_ids", torch.arange(20)[None])
    model.register_buffer("mask", torch.tensor([True, False]))
    model.base.register_buffer("passing", torch.ones(2), persistent=False)


def low_rank(model: PretrainedModel) -> None:
    for layer in dict.fromkeys(model.base.virtual_layers()):
        layer.attention.query = LowRank(layer.attention.query)  # type: ignore[union-attr]


def weight_normed(model: PretrainedModel) -> None:
    for layer in dict.fromkeys(model.base.virtual_layers()):
        weight_norm(layer.feed_forward.output)  # type: ignore[union-attr]


def own_head(model: PretrainedModel) -> None:
    model.scorer = nn.Sequential(nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 1))  # type: ignore[assignment]


CHANGES = [adapter, in_every_layer, parameter, buffers, low_rank, weight_normed, own_head]
Change = Callable[[PretrainedModel], None]


def changed_class(name: str, change: Change) -> type[PretrainedModel]:
    """A class of one's own: the plain one, changed when it is built."""

    class Changed(getattr(minilm, name)):  # type: ignore[misc]
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            change(self)

    return Changed


def filled(cls: type[PretrainedModel], name: str) -> PretrainedModel:
    model = cls(tiny(name).config)
    for number, value in enumerate(model.state_dict().values()):
        torch.manual_seed(number)
        if value.is_floating_point():
            value.normal_(std=0.4)
    return model.eval()


def same_tensors(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head", ["Model", "ForSequenceClassification", "ForMaskedLM"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_comes_back(change: Change, head: str, kind: str, tmp_path: Path) -> None:
    cls = changed_class(kind + head, change)
    model = filled(cls, kind + head)
    model.save_pretrained(tmp_path)
    again = cls.from_pretrained(tmp_path)
    assert same_tensors(again, model)
    assert {entry.verdict for entry in again.load_report.entries} == {"loaded"}
    assert torch.equal(again(IDS)[0], model(IDS)[0])
    fresh = cls(model.config)
    fresh.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert same_tensors(fresh, model)


@pytest.mark.parametrize("kind", KINDS)
def test_own_names_stand_behind_the_hubs(kind: str, tmp_path: Path) -> None:
    """A twin around the transformers model takes them."""
    names = ARCHITECTURES[kind.lower()]
    filled(changed_class(f"{kind}ForMaskedLM", low_rank), f"{kind}ForMaskedLM").save_pretrained(
        tmp_path
    )
    query = {
        "Bert": "bert.encoder.layer.0.attention.self.query",
        "DistilBert": "distilbert.transformer.layer.0.attention.q_lin",
        "Albert": "albert.encoder.albert_layer_groups.0.albert_layers.0.attention.query",
    }[kind]
    stored = load_file(tmp_path / "model.safetensors").keys()
    parts = ("base_layer.weight", "base_layer.bias", "lora_A.default", "lora_B.weight")
    assert {f"{query}.{part}" for part in parts} <= stored
    for name in stored:
        local = names.to_local(name, {names.to_local(name) or "", f"encoder.{name}"})
        if "base_layer" not in name and "lora" not in name:
            assert local is not None
            assert names.to_hub(local) == name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head", ["Model", "ForTokenClassification"])
@pytest.mark.parametrize("change", [adapter, in_every_layer, parameter, buffers, own_head])
def test_a_public_checkpoint_leaves_new_parts_as_they_were_built(
    change: Change, head: str, kind: str, tmp_path: Path
) -> None:
    public = tiny(kind + head, torch.float32)
    public.save_pretrained(tmp_path)
    cls = changed_class(kind + head, change)
    with pytest.warns(UserWarning, match="newly initialised, train before use"):
        model = cls.from_pretrained(tmp_path)
    state, built = model.state_dict(), cls(public.config).state_dict()
    new = state.keys() - public.state_dict().keys()
    assert {entry.own for entry in model.load_report.of("new")} == new
    assert {entry.note for entry in model.load_report.of("new")} == {"part of this class"}
    assert "part of this class" in str(model.load_report)
    for name, value in public.state_dict().items():
        assert torch.equal(state[name], value)
    for name in new:  # drawn as nn.Linear draws, or the very value
        assert state[name].isfinite().all()
        if change in (parameter, buffers) or "1.weight" in name:
            assert torch.equal(state[name], built[name])
        elif name.endswith("weight"):
            assert 0 < state[name].std() < 2 * built[name].std() + 0.1
    if change is buffers:
        assert torch.equal(model.base.passing, torch.ones(2))
    with pytest.raises(CheckpointError, match="does not store .* of its Changed"):
        cls.from_pretrained(tmp_path, new_parts="refuse")
    half = cls.from_pretrained(tmp_path, new_parts="allow", dtype="bfloat16")
    assert {v.dtype for v in half.state_dict().values() if v.is_floating_point()} == {
        torch.bfloat16
    }


def test_what_is_not_registered_has_a_value_too(tmp_path: Path) -> None:
    class Scaled(minilm.BertModel):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.factors = [torch.arange(3.0)]

    tiny("BertModel", torch.float32).save_pretrained(tmp_path)
    assert Scaled.from_pretrained(tmp_path).factors[0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_tensor_of_the_architecture_stays_an_error(kind: str, tmp_path: Path) -> None:
    cls = changed_class(f"{kind}Model", adapter)
    filled(cls, f"{kind}Model").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    lost = next(name for name in tensors if "norm" in name.lower() and "layer" in name)
    del tensors[lost]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="missing .*stored as") as caught:
        cls.from_pretrained(tmp_path)
    assert f"stored as {lost}" in str(caught.value)


@pytest.mark.parametrize("change", [low_rank, weight_normed])
def test_wrapped_layers_do_not_pass_for_new_ones(change: Change, tmp_path: Path) -> None:
    """Otherwise the weights of the layer would start anew."""
    tiny("BertModel", torch.float32).save_pretrained(tmp_path)
    cls = changed_class("BertModel", change)
    for options in ({}, {"allow_unexpected": True}):
        with pytest.raises(CheckpointError, match="load the checkpoint first, then wrap"):
            cls.from_pretrained(tmp_path, **options)
    model = minilm.BertModel.from_pretrained(tmp_path)
    before = model(IDS)[0]
    change(model)
    torch.testing.assert_close(model(IDS)[0], before)


def test_a_plain_class_names_what_it_has_no_place_for(tmp_path: Path) -> None:
    filled(changed_class("AlbertModel", adapter), "AlbertModel").save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"unexpected adapter.bias"):
        minilm.AlbertModel.from_pretrained(tmp_path)
    minilm.AlbertModel.from_pretrained(tmp_path, allow_unexpected=True)


@pytest.mark.parametrize("direction", ["base from task", "task from base"])
def test_own_parts_of_the_encoder_move_with_it(direction: str, tmp_path: Path) -> None:
    class Encoder(minilm.BertModel):
        def __init__(self, config: Any, *, add_pooling_layer: bool = True) -> None:
            super().__init__(config, add_pooling_layer=add_pooling_layer)
            adapter(self)

    task = changed_class("BertForTokenClassification", adapter)
    classes = {"task": (task, "BertForTokenClassification"), "base": (Encoder, "BertModel")}
    target, source = direction.split(" from ")
    model = filled(*classes[source])
    model.save_pretrained(tmp_path)
    again = classes[target][0].from_pretrained(tmp_path, new_parts="allow")
    assert same_tensors(again.base.adapter, model.base.adapter)


# --- models inside other modules ---


class Twin(nn.Module):
    """What a user builds around a model."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.bert = encoder
        self.top = nn.Linear(16, 3)


class Outer(nn.Module):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.inner = nn.ModuleList([Twin(encoder)])


@pytest.mark.parametrize("around", [Twin, Outer])
@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("name", ALL_CLASSES)
def test_hub_names_load_at_any_depth(
    name: str, assign: bool, around: Callable[[nn.Module], nn.Module]
) -> None:
    model = tiny(name, torch.float32)
    theirs = around(hugging_face(model)).state_dict()
    before = dict(theirs)
    fresh = type(model)(model.config)
    mine = around(fresh)
    assert str(mine.load_state_dict(theirs, assign=assign)) == "<All keys matched successfully>"
    assert same_tensors(fresh, model)
    assert theirs.keys() == before.keys()
    if assign:
        with torch.device("meta"):
            mine = around(type(model)(model.config))
        mine.load_state_dict(theirs, assign=True)
        assert not any(value.is_meta for value in mine.state_dict().values())


def test_strict_is_right_at_any_depth() -> None:
    model = tiny("BertForTokenClassification", torch.float32)
    state = Outer(hugging_face(model)).state_dict()
    lost = "inner.0.bert.bert.encoder.layer.1.output.dense.bias"
    del state[lost]
    state["inner.0.bert.bert.adapter.weight"] = torch.ones(2)
    state["inner.0.bert.classifier.gain"] = torch.ones(2)
    mine = Outer(type(model)(model.config))
    with pytest.raises(RuntimeError) as caught:
        mine.load_state_dict(state)
    for name in ("bert.adapter.weight", "classifier.gain", "layers.1.feed_forward.output.bias"):
        assert name in str(caught.value)
    missing, unexpected = mine.load_state_dict(state, strict=False)
    assert missing == ["inner.0.bert.encoder.layers.1.feed_forward.output.bias"]
    assert set(unexpected) == {
        "inner.0.bert.bert.adapter.weight",
        "inner.0.bert.classifier.gain",
    }


def test_copies_must_be_equal_at_any_depth() -> None:
    model = tiny("BertForMaskedLM", torch.float32)
    state = Outer(hugging_face(model)).state_dict()
    name = "inner.0.bert.cls.predictions.decoder.weight"
    state[name] = state[name] + 1
    with pytest.raises(CheckpointError, match="differs from"):
        Outer(type(model)(model.config)).load_state_dict(state)


@pytest.mark.parametrize("part", ["attention", "feed_forward"])
def test_shared_weights_at_any_depth(part: str) -> None:
    model = tiny("AlbertModel", torch.float32, num_hidden_groups=3, shared_between_groups=part)
    theirs = Twin(hugging_face(model)).state_dict()
    mine = Twin(minilm.AlbertModel(model.config))
    mine.load_state_dict(theirs)
    assert same_tensors(mine.bert, model)
    name = {"attention": "attention.query.bias", "feed_forward": "ffn.bias"}[part]
    theirs[f"bert.encoder.albert_layer_groups.2.albert_layers.0.{name}"] += 1
    with pytest.raises(CheckpointError, match="differs from"):
        mine.load_state_dict(theirs)


def test_versions_of_modules_survive() -> None:
    """A quantised module needs them to read its own state."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao is on its way out
        one, other = (
            torch.ao.quantization.quantize_dynamic(Twin(tiny("BertModel", torch.float32)))
            for _ in range(2)
        )
        with torch.no_grad():
            other.bert.embeddings.word.weight.zero_()
        expected = one.bert(IDS)[0]
        other.load_state_dict(one.state_dict())
    assert torch.equal(other.bert(IDS)[0], expected)


def test_what_safetensors_cannot_hold_is_named(tmp_path: Path) -> None:
    model = tiny("BertModel", torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.ao.quantization.quantize_dynamic(model)
    with pytest.raises(CheckpointError, match=r"layers.0.attention.query.*cannot be stored"):
        quantised.save_pretrained(tmp_path)
    with torch.device("meta"):
        empty = minilm.BertModel(model.config)
    with pytest.raises(CheckpointError, match="cannot be stored"):
        empty.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


# --- deeper, shared, copied ---


def changed(name: str, change: Change, **config: Any) -> PretrainedModel:
    model = tiny(name, torch.float32, **config)
    change(model)
    model.gradient_checkpointing_enable()
    model.base.layout = "padded"
    return model.train()


def settings_are_kept(model: PretrainedModel) -> bool:
    return model.training and model.is_gradient_checkpointing and model.base.layout == "padded"


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["BertForMaskedLM", "DistilBertModel", "AlbertModel"])
def test_a_deeper_model_keeps_what_was_changed(name: str, change: Change) -> None:
    model = changed(name, change)
    deep = minilm.deepen(model, 7)
    assert settings_are_kept(deep)
    found, before = deep.state_dict(), model.state_dict()
    assert all(torch.equal(found[key], before[key]) for key in before)
    layers, sources = list(deep.base.virtual_layers()), list(model.base.virtual_layers())
    assert all(same_tensors(layer, sources[i % 3]) for i, layer in enumerate(layers))
    assert not {p.data_ptr() for p in deep.parameters()} & {
        p.data_ptr() for p in model.parameters()
    }


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["AlbertModel", "AlbertForMaskedLM"])
def test_sharing_keeps_what_was_changed(name: str, change: Change) -> None:
    model = changed(name, change)
    apart = minilm.unshare(model)
    again = minilm.share(apart)
    for one in (apart, again):
        assert settings_are_kept(one)
        assert torch.equal(one.eval()(IDS)[0], model.eval()(IDS)[0])
        one.train()
        model.train()
    assert same_tensors(again, model)
    assert len({id(layer) for layer in apart.base.virtual_layers()}) == 3


def test_own_parts_of_layers_must_be_equal_to_be_shared() -> None:
    apart = minilm.unshare(changed("AlbertModel", in_every_layer))
    with torch.no_grad():
        apart.base.virtual_layers()[1].gates[0].bias += 0.25
    with pytest.raises(InputError, match=r"gates.0.bias of layer 1 differs from .* 0.25"):
        minilm.share(apart)


def per_layer(model: PretrainedModel) -> None:
    model.mix = nn.Parameter(torch.ones(model.config.num_hidden_layers))  # type: ignore[assignment]


def side_modules(model: PretrainedModel) -> None:
    model.side = nn.ModuleList(  # type: ignore[assignment]
        nn.Linear(1, 1) for _ in range(model.config.num_hidden_layers)
    )


@pytest.mark.parametrize("change", [per_layer, side_modules])
@pytest.mark.parametrize("kind", KINDS)
def test_what_depends_on_the_depth_is_refused_by_name(change: Change, kind: str) -> None:
    model = changed_class(f"{kind}Model", change)(tiny(f"{kind}Model").config)
    with pytest.raises(
        InputError, match=r"(mix|side\.3\.weight) of Changed is .*cannot be carried"
    ):
        minilm.deepen(model, 5)


def test_a_changed_model_can_be_copied_and_pickled() -> None:
    import pickle

    model = changed("BertModel", low_rank)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301
        assert same_tensors(again, model)
        assert settings_are_kept(again)
        again.load_state_dict(model.state_dict())


def test_transformers_reads_the_known_part(tmp_path: Path) -> None:
    model = filled(changed_class("BertModel", adapter), "BertModel")
    model.save_pretrained(tmp_path)
    theirs, info = transformers.BertModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert set(info["unexpected_keys"]) == {"adapter.weight", "adapter.bias"}
    ours = minilm.BertModel.from_pretrained(tmp_path, allow_unexpected=True)
    torch.testing.assert_close(theirs(IDS)[0], ours(IDS)[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ALL_CLASSES)
def test_files_with_our_own_names_are_read(name: str, tmp_path: Path) -> None:
    """What Trainer and plain scripts write: the state dictionary as it is."""
    model = tiny(name, torch.float32)
    model.save_pretrained(tmp_path)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    again = minilm.load(tmp_path)
    assert type(again) is type(model)
    assert same_tensors(again, model)
    assert architecture(name) == again.config.model_type


def test_a_model_with_other_layers_than_its_configuration_says_is_not_saved(tmp_path: Path) -> None:
    model = tiny("BertModel")
    model.layers = model.layers[:2]
    with pytest.raises(CheckpointError, match="has 2 layers, its configuration says 3"):
        model.save_pretrained(tmp_path)
    model.config.num_hidden_layers = 2
    model.save_pretrained(tmp_path)
    assert len(minilm.BertModel.from_pretrained(tmp_path).layers) == 2


class Padded(minilm.BertModel):
    def __init__(self, config: Any, **options: Any) -> None:
        super().__init__(config, **options)
        self.layout = "padded"
        self.register_buffer("calls", torch.zeros(1, dtype=torch.int64))


def test_a_class_keeps_its_layout_and_buffers_of_whole_numbers(tmp_path: Path) -> None:
    config = tiny("BertModel").config
    Padded(config).half().save_pretrained(tmp_path)
    again = Padded.from_pretrained(tmp_path, dtype="auto")
    assert again.layout == "padded"
    assert again.dtype is torch.float16
    assert again.calls.dtype is torch.int64
    assert Padded.from_pretrained(tmp_path, layout="auto").layout == "auto"


class Projector(minilm.DistilBertForSequenceClassification):
    """A part of one's own under a name that the hub gives to tied weights."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.vocab_projector = torch.nn.Linear(4, 4)


def test_a_part_under_a_name_of_the_hub_is_read_back(tmp_path: Path) -> None:
    model = Projector(tiny("DistilBertForSequenceClassification").config)
    model.save_pretrained(tmp_path)
    again = Projector.from_pretrained(tmp_path)
    assert torch.equal(again.vocab_projector.weight, model.vocab_projector.weight)
