"""Checkpoints in and out: every quirk of the public files, and nothing that does not fit."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

import minilm
from minilm import CheckpointError, ConfigError, InputError
from minilm.checkpoints.names import ARCHITECTURES, ENCODER
from minilm.models.pretrained import PretrainedModel
from tiny import ALL_CLASSES, architecture, ragged, tiny

Tensors = dict[str, Tensor]


def outputs(model: PretrainedModel) -> tuple[Tensor, ...]:
    batch = ragged()
    if model.config.model_type == "distilbert":
        del batch["token_type_ids"]
    if type(model).__name__.endswith("MultipleChoice"):
        batch = {key: value[:, None] for key, value in batch.items()}
    with torch.no_grad():
        return model(**batch).to_tuple()


def same(one: PretrainedModel, other: PretrainedModel) -> bool:
    pairs = zip(outputs(one), outputs(other), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def rewrite(directory: Path, change: Callable[[Tensors], Tensors | None]) -> None:
    """Store the tensors of a checkpoint in another form."""
    tensors = load_file(directory / "model.safetensors")
    changed = change(tensors)
    save_file(tensors if changed is None else changed, directory / "model.safetensors")


def set_config(directory: Path, **values: Any) -> None:
    path = directory / "config.json"
    data = json.loads(path.read_text())
    data.update(values)
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not ...}))


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., tuple[PretrainedModel, Path]]:
    def save(name: str, **changes: Any) -> tuple[PretrainedModel, Path]:
        model = tiny(name, torch.float32, **changes)
        model.save_pretrained(tmp_path / name)
        return model, tmp_path / name

    return save


Saved = Callable[..., tuple[PretrainedModel, Path]]


# --- names ---


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_the_name_tables_are_bijective(name: str) -> None:
    names = ARCHITECTURES[name]
    assert len(set(names.base.values())) == len(names.base)
    assert len(set(names.heads.values())) == len(names.heads)
    for own in [*(ENCODER + key for key in names.base), *names.heads]:
        own = own.format(3, 7) + ".weight"
        for prefix in (True, False):
            if names.to_hub(own, prefix) != f"{names.decoder}.weight":
                assert names.to_local(names.to_hub(own, prefix)) == own


@pytest.mark.parametrize("name", ALL_CLASSES)
def test_transformers_loads_what_we_save_and_the_reverse(name: str, tmp_path: Path) -> None:
    model = tiny(name, torch.float32)
    model.save_pretrained(tmp_path / "ours")
    theirs, info = getattr(transformers, name).from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(info.values()), info
    theirs.save_pretrained(tmp_path / "theirs")
    again = minilm.load(tmp_path / "theirs")
    assert type(again) is type(model)
    assert same(model, again)
    report = again.load_report
    assert not report.missing + report.unexpected + report.mismatched
    model.load_state_dict({key: value * 0 for key, value in model.state_dict().items()})
    model.load_state_dict(theirs.state_dict())
    assert same(model, again)


def test_saving_twice_gives_the_same_bytes(saved: Saved) -> None:
    _, directory = saved("AlbertForPreTraining")
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    minilm.load(directory).save_pretrained(directory)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before
    model = minilm.load(directory)
    with torch.no_grad():
        model.sentence_order_head.bias.add_(1.0)
    model.save_pretrained(directory)  # over the file it came from
    again = minilm.load(directory)
    changed = {
        key
        for key, value in again.state_dict().items()
        if not torch.equal(value, model_before(before, key, directory))
    }
    assert changed == {"sentence_order_head.bias"}


def model_before(files: dict[str, bytes], key: str, directory: Path) -> Tensor:
    """One tensor of an earlier save."""
    old = directory.parent / "before"
    old.mkdir(exist_ok=True)
    for name, content in files.items():
        (old / name).write_bytes(content)
    return minilm.load(old).state_dict()[key]


# --- quirks of public checkpoints ---


def old_norm_names(tensors: Tensors) -> Tensors:
    return {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): value
        for key, value in tensors.items()
    }


def without_prefix(tensors: Tensors) -> Tensors:
    return {key.removeprefix("bert.").removeprefix("albert."): v for key, v in tensors.items()}


def with_counters(tensors: Tensors) -> None:
    tensors["bert.embeddings.position_ids"] = torch.arange(20)[None]
    tensors["embeddings.token_type_ids"] = torch.zeros(1, 20, dtype=torch.int64)


def with_decoder(tensors: Tensors) -> None:
    tensors["cls.predictions.decoder.weight"] = tensors[
        "bert.embeddings.word_embeddings.weight"
    ].clone()
    tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"].clone()


def only_decoder(tensors: Tensors) -> None:
    with_decoder(tensors)
    del tensors["bert.embeddings.word_embeddings.weight"], tensors["cls.predictions.bias"]


@pytest.mark.parametrize(
    "quirk", [old_norm_names, without_prefix, with_counters, with_decoder, only_decoder]
)
@pytest.mark.parametrize("name", ["BertForMaskedLM", "BertForPreTraining"])
def test_quirks_of_public_files(quirk: Any, name: str, saved: Saved) -> None:
    model, directory = saved(name)
    rewrite(directory, quirk)
    assert same(model, minilm.load(directory))
    clone = type(model)(model.config).eval()
    clone.load_state_dict(load_file(directory / "model.safetensors"))
    assert same(model, clone)


def test_heads_that_a_class_does_not_have_are_left_out(saved: Saved) -> None:
    model, directory = saved("BertForPreTraining")
    masked = minilm.BertForMaskedLM.from_pretrained(directory)
    dropped = {entry.stored for entry in masked.load_report.ignored}
    assert dropped == {
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
        "cls.seq_relationship.weight",
        "cls.seq_relationship.bias",
    }
    assert torch.equal(outputs(masked)[0], outputs(model)[0])
    base = minilm.BertModel.from_pretrained(directory)
    assert not base.load_report.missing
    base.load_state_dict(load_file(directory / "model.safetensors"))


def test_absent_heads_are_new_and_reported(saved: Saved) -> None:
    _, directory = saved("AlbertForMaskedLM")
    with pytest.warns(UserWarning, match=r"encoder.pooler.dense, sentence_order_head: newly"):
        model = minilm.AlbertForPreTraining.from_pretrained(directory)
    assert {entry.own for entry in model.load_report.missing} == {
        "encoder.pooler.dense.weight",
        "encoder.pooler.dense.bias",
        "sentence_order_head.weight",
        "sentence_order_head.bias",
    }
    assert model.sentence_order_head.weight.std() < 0.1  # drawn, not left over memory
    assert not model.sentence_order_head.bias.any()
    text = str(model.load_report)
    assert "4 new: not stored; freshly initialised" in text
    assert "sentence_order_head.weight" in text


@pytest.mark.parametrize("change", [{"model_type": ...}, {"architectures": ...}])
@pytest.mark.parametrize("name", ALL_CLASSES)
def test_old_configs_without_model_type(name: str, change: dict[str, Any], saved: Saved) -> None:
    model, directory = saved(name)
    set_config(directory, **change)
    if "architectures" in change and name.endswith("MultipleChoice"):
        with pytest.raises(CheckpointError, match="could belong to several"):
            minilm.load(directory)
        return
    assert same(model, minilm.load(directory))
    set_config(directory, model_type=..., architectures=...)
    if not name.endswith("MultipleChoice"):
        assert type(minilm.load(directory)) is type(model)


def test_a_class_that_cannot_be_told_is_asked_for(saved: Saved) -> None:
    _, directory = saved("BertModel")
    set_config(directory, architectures=["ElectraModel"])
    with pytest.raises(CheckpointError, match=r"architectures is \['ElectraModel'\].*BertModel"):
        minilm.load(directory)
    set_config(directory, architectures=..., model_type="roberta")
    with pytest.raises(CheckpointError, match="model_type is 'roberta'.*expected one of bert"):
        minilm.load(directory)


def test_shards_are_put_together(saved: Saved) -> None:
    model, directory = saved("AlbertForMaskedLM")
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {
        "model-00001-of-00002.safetensors": names[::2],
        "model-00002-of-00002.safetensors": names[1::2],
    }
    for file, members in shards.items():
        save_file({name: tensors[name] for name in members}, directory / file)
    weight_map = {name: file for file, members in shards.items() for name in members}
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    assert same(model, minilm.load(directory))


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(stored: torch.dtype, saved: Saved) -> None:
    model, directory = saved("BertForTokenClassification")
    rewrite(directory, lambda tensors: {k: v.to(stored) for k, v in tensors.items()})
    assert minilm.load(directory).dtype == torch.float32
    assert minilm.load(directory, dtype="auto").dtype == stored
    assert minilm.load(directory, dtype="bfloat16").dtype == torch.bfloat16
    torch.testing.assert_close(
        outputs(minilm.load(directory))[0], outputs(model.to(stored).float())[0]
    )
    with pytest.raises(InputError, match="dtype is 'int4'"):
        minilm.load(directory, dtype="int4")


def test_a_stored_position_table_wins_over_the_sinusoidal_flag(saved: Saved) -> None:
    model, directory = saved("DistilBertModel", sinusoidal_position_embeddings=True)
    assert json.loads((directory / "config.json").read_text())["sinusoidal_pos_embds"] is True
    again = minilm.load(directory)
    assert torch.equal(again.embeddings.position.weight, model.embeddings.position.weight)


# --- options ---


def test_a_head_of_another_size_is_new_on_request_only(saved: Saved) -> None:
    _, directory = saved("DistilBertForSequenceClassification")
    cls = minilm.DistilBertForSequenceClassification
    with pytest.raises(CheckpointError, match="ignore_mismatched_heads=True") as caught:
        cls.from_pretrained(directory, num_labels=5)
    assert "classifier.weight: stored (2, 16) torch.float32, the model has (5, 16)" in str(
        caught.value
    )
    model = cls.from_pretrained(directory, num_labels=5, ignore_mismatched_heads=True)
    assert outputs(model)[0].shape == (5, 5)
    assert model.config.id2label[4] == "LABEL_4"
    assert {entry.own for entry in model.load_report.missing} == {
        "classifier.weight",
        "classifier.bias",
    }
    assert not model.classifier.bias.any()
    kept = cls.from_pretrained(directory).pre_classifier.weight
    assert torch.equal(model.pre_classifier.weight, kept)


def test_depth_can_be_chosen_at_load(saved: Saved) -> None:
    model, directory = saved("BertModel")
    shallow = minilm.BertModel.from_pretrained(directory, num_hidden_layers=2)
    assert len(shallow.layers) == 2
    deep = model(**ragged(), output_hidden_states=True).hidden_states
    torch.testing.assert_close(shallow(**ragged()).last_hidden_state, deep[2])
    with pytest.raises(
        CheckpointError, match=r"encoder.layers.3.attention.query.*encoder.layer.3.attention.self"
    ):
        minilm.BertModel.from_pretrained(directory, num_hidden_layers=4)
    set_config(directory, num_hidden_layers=2)  # a config that does not fit its weights
    with pytest.raises(CheckpointError, match="unexpected .*layer.2.* describes a model without"):
        minilm.load(directory)
    _, albert = saved("AlbertModel")
    assert len(minilm.load(albert, num_hidden_layers=24).virtual_layers()) == 24


def test_wrong_overrides_are_named(saved: Saved) -> None:
    _, directory = saved("DistilBertModel")
    with pytest.raises(ConfigError, match="it is called 'num_hidden_layers'"):
        minilm.load(directory, n_layers=3)
    with pytest.raises(ConfigError, match=r"^hidden_dropout_prob is 2.0"):
        minilm.load(directory, hidden_dropout_prob=2.0)
    assert minilm.load(directory, hidden_dropout_prob=0.2).embeddings.dropout.p == 0.2


# --- what must not pass ---


def test_unknown_tensors_raise_unless_allowed(saved: Saved) -> None:
    model, directory = saved("BertModel")
    rewrite(directory, lambda tensors: {**tensors, "encoder.adapter.weight": torch.ones(2)})
    with pytest.raises(CheckpointError, match=r"(?s)unexpected encoder.adapter.*allow_unexpected"):
        minilm.load(directory)
    loaded = minilm.load(directory, allow_unexpected=True)
    assert [entry.stored for entry in loaded.load_report.unexpected] == ["encoder.adapter.weight"]
    assert same(model, loaded)
    with pytest.raises(RuntimeError, match="encoder.adapter.weight"):
        model.load_state_dict(load_file(directory / "model.safetensors"))


def test_unknown_parameters_of_known_modules_are_unknown(saved: Saved) -> None:
    _, directory = saved("BertForSequenceClassification")
    rewrite(directory, lambda tensors: {**tensors, "classifier.scale": torch.ones(2)})
    with pytest.raises(CheckpointError, match="unexpected classifier.scale"):
        minilm.load(directory)


def test_missing_and_misshapen_tensors_raise(saved: Saved) -> None:
    _, directory = saved("AlbertModel")
    name = "encoder.albert_layer_groups.0.albert_layers.0.ffn.weight"
    rewrite(directory, lambda tensors: {k: v for k, v in tensors.items() if k != name})
    with pytest.raises(CheckpointError, match=r"missing .*groups.0.layers.0.feed_forward.inter"):
        minilm.load(directory)
    rewrite(directory, lambda tensors: {**tensors, name: torch.ones(3, 3)})
    with pytest.raises(CheckpointError, match=r"stored \(3, 3\) torch.float32, the model has"):
        minilm.load(directory, ignore_mismatched_heads=True)
    rewrite(directory, lambda tensors: {**tensors, name: torch.ones(24, 16, dtype=torch.int8)})
    with pytest.raises(CheckpointError, match="torch.int8"):
        minilm.load(directory)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nonfinite_weights_are_named(value: float, saved: Saved) -> None:
    _, directory = saved("BertModel")

    def spoil(tensors: Tensors) -> None:
        tensors["encoder.layer.1.output.dense.bias"][3] = value

    rewrite(directory, spoil)
    with pytest.raises(CheckpointError, match=r"encoder.layer.1.output.dense.bias \(1\)"):
        minilm.load(directory)
    minilm.load(directory, allow_nonfinite=True)


def test_nonfinite_tied_copies_are_still_copies(saved: Saved) -> None:
    _, directory = saved("BertForMaskedLM")

    def spoil(tensors: Tensors) -> None:
        tensors["bert.embeddings.word_embeddings.weight"][1, 1] = float("nan")
        with_decoder(tensors)

    rewrite(directory, spoil)
    with pytest.raises(CheckpointError, match="NaN or infinite values in 1 tensor:"):
        minilm.load(directory)
    minilm.load(directory, allow_nonfinite=True)


def test_own_names_win_over_a_stale_copy() -> None:
    model = tiny("BertForMaskedLM", torch.float32)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    state["cls.predictions.decoder.weight"] = torch.zeros(61, 16)
    model.load_state_dict(state)
    assert model.get_input_embeddings().weight.any()


def test_the_dtype_is_written_once(saved: Saved) -> None:
    _, directory = saved("BertModel")
    set_config(directory, torch_dtype="float32")
    minilm.load(directory, dtype="bfloat16").save_pretrained(directory)
    data = json.loads((directory / "config.json").read_text())
    assert data["dtype"] == "float32"
    assert "torch_dtype" not in data


@pytest.mark.parametrize("field", ["weight", "bias"])
def test_an_untied_decoder_is_refused(field: str, saved: Saved) -> None:
    model, directory = saved("BertForMaskedLM")

    def untie(tensors: Tensors) -> None:
        with_decoder(tensors)
        tensors[f"cls.predictions.decoder.{field}"][0] += 1

    rewrite(directory, untie)
    with pytest.raises(CheckpointError, match=f"cls.predictions.decoder.{field} differs from"):
        minilm.load(directory)
    with pytest.raises(CheckpointError, match="differs from"):
        model.load_state_dict(load_file(directory / "model.safetensors"))
    # has no masked-LM head to be wrong
    minilm.BertModel.from_pretrained(directory, add_pooling_layer=False)


def test_nothing_a_config_says_is_imported_or_fetched(
    saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    model, directory = saved("BertModel")
    (directory / "modeling_x.py").write_text("raise SystemExit('executed')")
    set_config(
        directory,
        auto_map={"AutoModel": "modeling_x.Model"},
        trust_remote_code=True,
        _attn_implementation_internal="somebody/kernel",
        encoder={"model_type": "x", "auto_map": {"AutoModel": "modeling_x.Model"}},
    )

    class Refuse:
        def find_spec(self, name: str, *_: object) -> None:
            raise AssertionError(f"imported {name}")

    def no_socket(*_: object, **__: object) -> None:
        raise AssertionError("opened a socket")

    monkeypatch.setattr(socket, "socket", no_socket)
    monkeypatch.setattr(sys, "meta_path", [Refuse(), *sys.meta_path])
    loaded = minilm.load(directory)
    assert same(model, loaded)
    assert [note.split()[1] for note in loaded.load_report.notes] == [
        "_attn_implementation_internal",
        "auto_map",
        "trust_remote_code",
    ]
    assert "encoder" in loaded.config.extra


@pytest.mark.parametrize("initializer", ["normal", "truncated_normal"])
def test_loading_imports_no_compiler(initializer: str, saved: Saved) -> None:
    """PyTorch does so, for more than a second, for some calls on the meta device."""
    _, directory = saved("BertForMaskedLM", initializer=initializer)
    code = (
        "import sys, minilm; minilm.init_student(minilm.load(sys.argv[1])); "
        "print(sorted({'torch._dynamo', 'sympy'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "[]\n", done.stdout + done.stderr


@pytest.mark.parametrize("name", ALL_CLASSES)
def test_load_state_dict_takes_hub_names_and_own_names(name: str) -> None:
    model = tiny(name, torch.float32)
    names = ARCHITECTURES[architecture(name)]
    own = {key: value.clone() for key, value in model.state_dict().items()}
    hub = {names.to_hub(model.own_prefix + key): value for key, value in own.items()}
    for state in (own, hub):
        fresh = type(model)(model.config).eval()
        fresh.load_state_dict(state)
        assert same(model, fresh)
    del hub[next(iter(hub))]
    with pytest.raises(RuntimeError, match="Missing key"):
        type(model)(model.config).load_state_dict(hub)


# --- wrappers ---

WRAPPERS = [
    "module.",
    "model.",
    "_orig_mod.",
    "module.model.",
    "model._orig_mod.module.",
    "_fsdp_wrapped_module.",
    "model.bert.",
]


def prefixed(prefix: str, tensors: Tensors) -> Tensors:
    return {f"{prefix}{name}": value.clone() for name, value in tensors.items()}


def compiled_inside(tensors: Tensors) -> Tensors:
    return {
        key.replace("encoder.layer.1.", "encoder.layer.1._orig_mod."): value
        for key, value in tensors.items()
    }


@pytest.mark.parametrize("wrapper", [*WRAPPERS, "own", "inside"])
@pytest.mark.parametrize("name", ["BertForMaskedLM", "BertModel", "BertForTokenClassification"])
def test_names_of_wrappers_are_taken_off(name: str, wrapper: str, saved: Saved) -> None:
    model, directory = saved(name)

    def wrap(tensors: Tensors) -> Tensors:
        if name == "BertForMaskedLM":
            with_decoder(tensors)
        if wrapper == "inside":
            return compiled_inside(tensors)
        if wrapper == "own":
            return prefixed("module._orig_mod.", model.state_dict())
        return prefixed(wrapper, tensors)

    rewrite(directory, wrap)
    again = minilm.load(directory)
    assert same(model, again)
    if wrapper != "own":
        set_config(directory, architectures=..., model_type=...)
        assert type(minilm.load(directory)) is type(model)  # told by the names alone
    assert all("usually " in entry.note for entry in again.load_report.renamed)
    assert again.load_report.renamed or wrapper == "inside"
    clone = type(model)(model.config).eval()
    clone.load_state_dict(load_file(directory / "model.safetensors"))
    assert same(model, clone)


def test_wrapped_copies_are_compared(saved: Saved) -> None:
    _, directory = saved("BertForMaskedLM")

    def untie(tensors: Tensors) -> Tensors:
        with_decoder(tensors)
        tensors["cls.predictions.decoder.weight"][0] += 1
        return prefixed("module.", tensors)

    rewrite(directory, untie)
    with pytest.raises(CheckpointError, match="module.cls.predictions.decoder.weight differs from"):
        minilm.load(directory)


def test_a_name_with_and_without_its_wrapper_means_one_tensor(saved: Saved) -> None:
    _, directory = saved("BertModel")
    rewrite(directory, lambda tensors: {**tensors, **prefixed("module.", tensors)})
    with pytest.raises(CheckpointError, match="is stored too and means the same tensor"):
        minilm.load(directory)


def test_names_nobody_knows_are_shown_beside_what_is_missing(saved: Saved) -> None:
    _, directory = saved("BertForMaskedLM")
    rewrite(directory, lambda tensors: prefixed("net.body.", tensors))
    with pytest.raises(CheckpointError) as caught:
        minilm.load(directory)
    assert "stored as bert.embeddings.word_embeddings.weight" in str(caught.value)
    assert "unexpected net.body." in str(caught.value)
    assert "more" in str(caught.value).splitlines()[-2]


# --- parts that start anew ---


def test_one_warning_for_what_starts_anew(saved: Saved) -> None:
    _, directory = saved("BertForMaskedLM")
    cls = minilm.BertForSequenceClassification
    with pytest.warns(UserWarning, match=r"does not store encoder.pooler.dense, classifier: newly"):
        cls.from_pretrained(directory)
    with pytest.warns(UserWarning, match=r"does not store pooler.dense: newly") as caught:
        minilm.BertModel.from_pretrained(directory)
    assert len(caught) == 1
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    "asked",
    [
        {"num_labels": 5},
        {"id2label": {0: "no", 1: "yes", 2: "who knows"}},
        {"label2id": {"no": 0, "yes": 1}},
        {"ignore_mismatched_heads": True},
        {"ignore_mismatched_sizes": True},
        {"new_parts": "allow"},
    ],
)
def test_no_warning_for_what_was_asked_for(asked: dict[str, Any], saved: Saved) -> None:
    _, directory = saved("BertForMaskedLM")
    model = minilm.BertForSequenceClassification.from_pretrained(directory, **asked)
    assert len(model.load_report.missing) == 4
    minilm.BertModel.from_pretrained(directory, add_pooling_layer=True)
    assert minilm.BertModel.from_pretrained(directory, add_pooling_layer=False).pooler is None
    with pytest.raises(InputError, match="add_pooling_layer is only for base models"):
        minilm.load(directory, add_pooling_layer=True)


def test_new_parts_can_be_refused(saved: Saved) -> None:
    _, directory = saved("BertForMaskedLM")
    minilm.load(directory, new_parts="refuse")
    for cls in (minilm.BertModel, minilm.BertForQuestionAnswering):
        with pytest.raises(CheckpointError, match=r"does not store (pooler.dense|span_head) of"):
            cls.from_pretrained(directory, new_parts="refuse")
    with pytest.raises(InputError, match="new_parts is 'never'"):
        minilm.load(directory, new_parts="never")


# --- the words of transformers ---


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("attn_implementation", "sdpa"),
        ("output_hidden_states", False),
        ("output_attentions", False),
        ("return_dict", True),
        ("trust_remote_code", False),
        ("use_safetensors", True),
        ("low_cpu_mem_usage", True),
        ("torch_dtype", "float32"),
        ("torch_dtype", torch.float32),
        ("device_map", "cpu"),
        ("device_map", {"": "cpu"}),
        ("device_map", None),
        ("ignore_mismatched_sizes", False),
        ("problem_type", "regression"),
    ],
)
def test_words_that_change_nothing_are_taken(word: str, value: Any, saved: Saved) -> None:
    model, directory = saved("BertModel")
    assert same(minilm.load(directory, **{word: value}), model)


@pytest.mark.parametrize(
    ("word", "value", "advice"),
    [
        ("attn_implementation", "eager", r'minilm.attention\("explicit"\)'),
        ("attn_implementation", "flash_attention_2", "minilm.attention"),
        ("return_dict", False, "pass it to the call"),
        ("trust_remote_code", True, "no code of a checkpoint"),
        ("use_safetensors", False, "minilm convert"),
        ("device_map", "auto", "device="),
        ("device_map", {"encoder": 0, "classifier": 1}, "device="),
        ("output_loading_info", True, "load_report"),
        ("quantization_config", {"bits": 4}, "quantise the loaded model"),
        ("variant", "fp16", "directory"),
    ],
)
def test_other_words_say_what_to_use(word: str, value: Any, advice: str, saved: Saved) -> None:
    _, directory = saved("AlbertModel")
    with pytest.raises(InputError, match=rf"(?s){word}.*{advice}"):
        minilm.load(directory, **{word: value})


def test_renamed_words_do_what_they_say(saved: Saved) -> None:
    _, directory = saved("BertForSequenceClassification")
    assert minilm.load(directory, torch_dtype=torch.float64).dtype == torch.float64
    load = minilm.BertForSequenceClassification.from_pretrained
    assert load(directory, num_labels=3, ignore_mismatched_sizes=True).classifier.out_features == 3
    with pytest.raises(InputError, match="torch_dtype is another name for dtype"):
        load(directory, torch_dtype="float64", dtype="float32")
    named = load(directory, num_labels=2, id2label={0: "a", 1: "b"}, label2id={"a": 0, "b": 1})
    assert named.config.label2id == {"a": 0, "b": 1}
    assert load(directory, label2id={"b": 0, "a": 1}).config.id2label == {0: "b", 1: "a"}
    with pytest.raises(ConfigError, match="differ"):
        load(directory, id2label={0: "a", 1: "b"}, label2id={"a": 1, "b": 0})
    with pytest.raises(ConfigError, match="has no 'colour'"):
        load(directory, colour="red")


@pytest.mark.parametrize("name", ["BertModel", "DistilBertModel", "AlbertModel"])
def test_a_config_in_place_of_the_file(name: str, saved: Saved) -> None:
    model, directory = saved(name)
    theirs = getattr(transformers, f"{name.removesuffix('Model')}Config")(**model.config.to_dict())
    cls = type(model)
    for config in (model.config, model.config.to_dict(), theirs):
        assert same(cls.from_pretrained(directory, config=config), model)
    (directory / "config.json").write_text("{}")
    assert same(cls.from_pretrained(directory, config=model.config, dtype="float32"), model)
    shorter = cls.from_pretrained(directory, config=model.config, hidden_dropout_prob=0.3)
    assert shorter.config.hidden_dropout_prob == 0.3
    assert model.config.hidden_dropout_prob != 0.3
    with pytest.raises(ConfigError, match="config is 3"):
        cls.from_pretrained(directory, config=3)
    other = minilm.BertConfig if name != "BertModel" else minilm.AlbertConfig
    with pytest.raises(ConfigError, match="model_type is"):
        cls.from_pretrained(directory, config=other())
    with pytest.raises(ConfigError, match=r"not from a transformers\..*from_dict"):
        cls(theirs)


def test_a_folder_inside(saved: Saved) -> None:
    model, directory = saved("BertModel")
    for load in (minilm.load, minilm.BertModel.from_pretrained):
        assert same(load(directory.parent, subfolder="BertModel"), model)
        with pytest.raises(CheckpointError, match="does not exist"):
            load(directory.parent, subfolder="nowhere")


def test_values_cannot_be_put_on_meta(saved: Saved) -> None:
    _, directory = saved("BertModel")
    with torch.device("meta"), pytest.raises(InputError, match="meta device"):
        minilm.load(directory)
    with pytest.raises(InputError, match="meta device"):
        minilm.load(directory, device="meta")
    with torch.device("meta"):
        assert minilm.load(directory, device="cpu").device.type == "cpu"


@pytest.mark.parametrize("layout", ["auto", "padded", "packed"])
def test_the_layout_is_set_at_load(layout: str, saved: Saved) -> None:
    for name in ("BertModel", "AlbertForMaskedLM"):
        _, directory = saved(name)
        model = minilm.load(directory, layout=layout)
        assert model.layout == model.base.layout == layout


# --- saving as other libraries ask for it ---


@pytest.mark.parametrize("names", ["own", "hub", "wrapped", "parameters"])
@pytest.mark.parametrize("name", ["BertModel", "AlbertForPreTraining"])
def test_a_given_state_dict_is_saved(names: str, name: str, saved: Saved, tmp_path: Path) -> None:
    model, directory = saved(name)
    state = {
        "own": model.state_dict(),
        "hub": load_file(directory / "model.safetensors"),
        "wrapped": prefixed("module.", model.state_dict()),
        "parameters": dict(model.named_parameters()),
    }[names]
    empty = type(model)(model.config)
    empty.save_pretrained(tmp_path / "new", state_dict=state, save_function=print)
    assert same(minilm.load(tmp_path / "new"), model)


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("name", ["AlbertForMaskedLM", "BertForSequenceClassification"])
def test_a_sharded_model_is_saved_from_gathered_values(
    name: str, one_process: None, tmp_path: Path
) -> None:
    from torch.distributed.checkpoint import state_dict as of_torch
    from torch.distributed.fsdp import fully_shard

    sharing = {"num_hidden_groups": 3, "shared_between_groups": "attention"}
    model = tiny(name, torch.float32, **(sharing if "Albert" in name else {}))
    sharded: Any = fully_shard(type(model)(model.config))
    whole = of_torch.StateDictOptions(full_state_dict=True, cpu_offload=True)
    of_torch.set_model_state_dict(sharded, model.state_dict(), options=whole)
    with pytest.raises(CheckpointError, match=r"\(DTensor\) cannot be stored.*state_dict="):
        sharded.save_pretrained(tmp_path / "new")
    gathered = of_torch.get_model_state_dict(sharded, options=whole)
    sharded.save_pretrained(tmp_path / "new", state_dict=gathered)
    again = minilm.load(tmp_path / "new")
    assert type(again) is type(model)
    assert same(again, model)
    sharded.load_state_dict(sharded.state_dict())


def test_a_wrong_state_dict_is_not_saved(saved: Saved, tmp_path: Path) -> None:
    model, _ = saved("BertForTokenClassification")
    state = model.state_dict()
    for wrong, message in (
        ({k: v for k, v in state.items() if k != "classifier.bias"}, "lacks 'classifier.bias'"),
        ({**state, "adapter.weight": torch.ones(2)}, "has the unknown 'adapter.weight'"),
        ({}, "lacks"),
    ):
        with pytest.raises(CheckpointError, match=message):
            model.save_pretrained(tmp_path / "new", state_dict=wrong)
    assert not (tmp_path / "new").exists()


def test_words_of_saving(saved: Saved, tmp_path: Path) -> None:
    model, directory = saved("BertModel")
    model.save_pretrained(tmp_path / "never", is_main_process=False)
    model.save_pretrained(tmp_path / "never", is_main_process=False, state_dict={})
    assert not (tmp_path / "never").exists()
    model.save_pretrained(
        tmp_path / "new", safe_serialization=True, max_shard_size="5GB", push_to_hub=False
    )
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "new" / file).read_bytes() == (directory / file).read_bytes()
    for word, value in (("safe_serialization", False), ("push_to_hub", True), ("variant", "fp16")):
        with pytest.raises(InputError, match=f"save_pretrained does not take {word}"):
            model.save_pretrained(tmp_path / "other", **{word: value})
    with pytest.raises(InputError, match="does not know 'colour'"):
        model.save_pretrained(tmp_path / "other", colour="red")
    assert not (tmp_path / "other").exists()


def test_float16_is_how_weights_are_stored_not_what_others_train_in(
    saved: Saved, tmp_path: Path
) -> None:
    _, directory = saved("BertForSequenceClassification")
    minilm.load(directory, dtype="float16").save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert minilm.load(tmp_path, dtype="auto").dtype == torch.float16
    theirs = transformers.BertForSequenceClassification.from_pretrained(tmp_path)
    assert theirs.dtype == torch.float32


# --- what other libraries ask a model ---


@pytest.mark.parametrize("name", ALL_CLASSES)
def test_sizes_and_tables_are_those_of_transformers(name: str) -> None:
    model = tiny(name, torch.float32)
    theirs = getattr(transformers, name)(
        getattr(transformers, type(model.config).__name__)(**model.config.to_dict())
    )
    for options in ({}, {"only_trainable": True}, {"exclude_embeddings": True}):
        assert model.num_parameters(**options) == theirs.num_parameters(**options)
    assert model.base_model is model.base
    assert model.num_labels == 2
    assert model.main_input_name == theirs.main_input_name
    assert model.accepts_loss_kwargs is False
    tied = model.get_output_embeddings()
    assert (tied is None) == (theirs.get_output_embeddings() is None)
    assert tied is None or tied is model.get_input_embeddings()
    model.tie_weights()
    table = torch.nn.Embedding(61, model.get_input_embeddings().embedding_dim)
    model.set_input_embeddings(table)
    assert model.get_input_embeddings() is table
    model.get_input_embeddings().weight.requires_grad_(False)
    frozen = model.num_parameters() - model.num_parameters(only_trainable=True)
    assert frozen == table.weight.numel()


@pytest.mark.parametrize("name", ["BertForMaskedLM", "AlbertModel", "DistilBertForMaskedLM"])
def test_tables_grow(name: str) -> None:
    model = tiny(name)
    assert model.resize_token_embeddings() is model.get_input_embeddings()
    assert model.resize_token_embeddings(61).num_embeddings == 61
    assert model.resize_token_embeddings(None, pad_to_multiple_of=8).num_embeddings == 64
    assert model.resize_token_embeddings(65, pad_to_multiple_of=10).num_embeddings == 70
    assert model.config.vocab_size == model.base.config.vocab_size == 70
    if "Masked" in name:
        assert model(torch.tensor([[69]])).logits.shape == (1, 1, 70)


def test_checkpointing_takes_what_trainers_pass() -> None:
    model = tiny("BertForMaskedLM")
    assert not model.is_gradient_checkpointing
    for given in (None, {}, {"use_reentrant": False}):
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=given)
        assert model.is_gradient_checkpointing
    wrong: dict[str, Any]
    for wrong in ({"use_reentrant": True}, {"determinism_check": "none"}):
        with pytest.raises(InputError, match="gradient_checkpointing_kwargs"):
            model.gradient_checkpointing_enable(wrong)
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing
    # newer names of the same
    model.activation_checkpointing_enable(None, every_n_layers=1, offload=False)
    assert model.is_gradient_checkpointing
    for wrong in ({"every_n_layers": 2}, {"offload": True}):
        with pytest.raises(InputError, match="gradient_checkpointing_kwargs"):
            model.activation_checkpointing_enable(**wrong)
    model.activation_checkpointing_disable()
    assert not model.is_gradient_checkpointing


def test_a_model_knows_where_it_came_from(saved: Saved) -> None:
    model, directory = saved("BertModel")
    assert model.name_or_path == ""
    assert vars(minilm.load(directory))["name_or_path"] == str(directory)
