"""Configurations: exact round trips, strict values, Hugging Face's keys at the border only."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import minilm
from minilm import AlbertConfig, BertConfig, ConfigError, DistilBertConfig
from minilm.config import EncoderConfig
from tiny import tiny

CONFIGS: list[type[EncoderConfig]] = [BertConfig, DistilBertConfig, AlbertConfig]


@pytest.mark.parametrize("cls", CONFIGS)
def test_a_config_survives_the_round_trip(cls: type[EncoderConfig]) -> None:
    config = cls(
        num_hidden_layers=3,
        hidden_dropout_prob=0,
        id2label={0: "no", 1: "yes", 2: "who knows"},
        initializer="truncated_normal",
        problem_type="multi_label_classification",
        extra={"use_cache": True, "gap_size": 0},
    )
    again = cls.from_dict(config.to_dict())
    assert again == config
    assert again.to_dict() == config.to_dict()
    assert copy.deepcopy(config) == config
    assert (again.num_labels, again.label2id["yes"]) == (3, 1)


@pytest.mark.parametrize("cls", CONFIGS)
def test_transformers_reads_what_we_write_and_the_reverse(cls: type[EncoderConfig]) -> None:
    config = cls(num_hidden_layers=2, hidden_size=24, num_labels=4, hidden_act="relu")
    theirs = getattr(transformers, cls.__name__).from_dict(config.to_dict())
    assert theirs.hidden_size == 24
    assert theirs.num_labels == 4
    again = cls.from_dict(theirs.to_dict())
    assert again.replace(extra={}) == config


def test_defaults_are_the_published_base_models() -> None:
    assert BertConfig().num_hidden_layers == 12
    assert DistilBertConfig().num_hidden_layers == 6
    albert = AlbertConfig()
    assert (albert.hidden_size, albert.embedding_size, albert.hidden_act) == (768, 128, "gelu_new")
    sparse = AlbertConfig.from_dict({})  # what Hugging Face assumes for absent keys: xxlarge
    theirs = transformers.AlbertConfig()
    assert sparse.hidden_size == theirs.hidden_size
    assert sparse.intermediate_size == theirs.intermediate_size
    assert sparse.num_attention_heads == theirs.num_attention_heads


def test_distilbert_uses_googles_names_inside_and_the_hubs_outside() -> None:
    data = DistilBertConfig(hidden_size=48, intermediate_size=96, classifier_dropout=0.3).to_dict()
    assert (data["dim"], data["hidden_dim"], data["seq_classif_dropout"]) == (48, 96, 0.3)
    assert "hidden_size" not in data
    assert "layer_norm_eps" not in data
    with pytest.raises(ConfigError, match="has no 'dim': it is called 'hidden_size' here"):
        DistilBertConfig(dim=48)
    with pytest.raises(ConfigError, match="it is called 'hidden_size'"):
        DistilBertConfig().replace(dim=48)
    with pytest.raises(ConfigError, match="defined with 1e-12"):
        DistilBertConfig(layer_norm_eps=1e-5)
    assert DistilBertConfig.from_dict({"dim": 48, "hidden_size": 24}).hidden_size == 48
    assert DistilBertConfig.from_dict({"hidden_size": 24}).hidden_size == 24


def test_a_differing_num_labels_wins_as_in_hugging_face() -> None:
    config = BertConfig.from_dict({"num_labels": 50, "id2label": {"0": "LABEL_0", "1": "LABEL_1"}})
    assert (config.num_labels, config.id2label[49]) == (50, "LABEL_49")
    named = BertConfig.from_dict({"id2label": {"0": "a", "1": "b", "2": "c"}})
    assert named.replace(num_hidden_layers=2).label2id == {"a": 0, "b": 1, "c": 2}
    assert named.replace(num_labels=5).id2label[4] == "LABEL_4"


def test_keys_that_could_bring_code_are_dropped_and_others_kept() -> None:
    data = {
        "auto_map": {"AutoModel": "modeling_x.Evil"},
        "trust_remote_code": True,
        "_attn_implementation_internal": "somebody/kernel",
        "quantization_config": {"bits": 4},
        "net_structure_type": 0,
    }
    config = AlbertConfig.from_dict(data)
    assert config.extra == {"net_structure_type": 0}
    assert "auto_map" not in config.to_dict()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_size": 100}, "hidden_size 100 is not a multiple of num_attention_heads 12"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True: expected a whole number"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0: expected 1 to 128"),
        ({"vocab_size": 2**40}, "vocab_size is 1099511627776: expected 1 to"),
        ({"vocab_size": "30522"}, "vocab_size is '30522': expected a whole number"),
        ({"hidden_act": "mish"}, "hidden_act is 'mish': expected one of 'gelu'"),
        ({"hidden_dropout_prob": 1.5}, "hidden_dropout_prob is 1.5: expected 0.0 to 1.0"),
        ({"hidden_dropout_prob": "0.1"}, "hidden_dropout_prob is '0.1': expected a number"),
        ({"pad_token_id": -1}, "pad_token_id is -1: expected 0 to 30521"),
        ({"problem_type": "ranking"}, "problem_type is 'ranking'"),
        ({"initializer": "zeros"}, "initializer is 'zeros'"),
        ({"num_labels": 3, "id2label": {0: "a", 1: "b"}}, "num_labels is 3 but id2label names 2"),
        ({"id2label": {0: "a", 2: "b"}}, "expected every number from 0 to 1 once"),
        ({"num_layers": 3}, "BertConfig has no 'num_layers'. Known: "),
        (
            {"hidden_size": 2**16, "num_attention_heads": 16, "num_hidden_layers": 128},
            "describes about .* parameters",
        ),
    ],
)
def test_wrong_values_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BertConfig(**values)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"model_type": "albert"}, "model_type is 'albert', BertConfig reads 'bert'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"is_decoder": True}, "is_decoder is True: unsupported"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings is False: unsupported"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads"),
        ({"id2label": ["a"]}, "id2label: expected an object"),
        ({"id2label": {"x": "a"}}, "not all numbers"),
        ({"num_labels": 0.0}, "num_labels is 0.0: expected a whole number"),
        ({"num_labels": 2.0, "id2label": {"0": "a", "1": "b"}}, "num_labels is 2.0"),
        ({"num_labels": "two"}, "num_labels is 'two'"),
        ({"num_labels": 1_000_000}, "num_labels is 1000000: expected 1 to 131072"),
    ],
)
def test_unsupported_files_are_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BertConfig.from_dict(data)


@pytest.mark.parametrize("cls", CONFIGS)
def test_a_config_can_be_changed_in_place(cls: type[EncoderConfig]) -> None:
    config, before = cls(), cls()
    config.use_cache = True
    config.problem_type = "regression"
    config.num_labels = 4
    config.hidden_dropout_prob = 0
    assert before == cls()  # nothing is shared between two
    assert config.use_cache is True
    assert config.extra == {"use_cache": True}
    assert config.label2id["LABEL_3"] == 3
    assert cls.from_dict(config.to_dict()) == config == copy.deepcopy(config)
    assert pickle.loads(pickle.dumps(config)) == config  # noqa: S301
    config.update({"num_labels": 3, "gap_size": 1})
    assert (config.num_labels, config.gap_size) == (3, 1)
    config.label2id = {"b": 0, "a": 1}
    assert (config.id2label, config.num_labels) == ({0: "b", 1: "a"}, 2)
    config.id2label = {0: "x", 1: "y", 2: "z"}
    assert config.label2id == {"x": 0, "y": 1, "z": 2}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("hidden_size", 3, "hidden_size 3 is not a multiple"),
        ("hidden_act", "mish", "hidden_act is 'mish'"),
        ("problem_type", "ranking", "problem_type is 'ranking'"),
        ("num_labels", 0, "num_labels is 0"),
        ("id2label", {0: "a", 2: "b"}, "expected every number from 0 to 1"),
        ("id2label", ["a", "b"], "id2label: expected an object"),
        ("id2label", {0: "a", 1: "a"}, "two classes the same name"),
        ("label2id", {"a": 0, "b": 3}, "expected every number from 0 to 1"),
        ("is_decoder", True, "is_decoder is True: unsupported"),
        ("tie_word_embeddings", False, "tie_word_embeddings is False: unsupported"),
        ("return_dict", False, "return_dict is False: unsupported"),
        ("output_hidden_states", 1, "output_hidden_states is 1"),
    ],
)
@pytest.mark.parametrize("cls", CONFIGS)
def test_wrong_assignments_change_nothing(
    cls: type[EncoderConfig], name: str, value: Any, message: str
) -> None:
    config = cls()
    with pytest.raises(ConfigError, match=message):
        setattr(config, name, value)
    with pytest.raises(ConfigError, match=message):
        config.update({"hidden_dropout_prob": 0.3, name: value})
    assert config == cls()


def test_the_hubs_names_are_not_kept_aside() -> None:
    config = DistilBertConfig()
    with pytest.raises(ConfigError, match="it is called 'hidden_size' here"):
        config.dim = 48
    with pytest.raises(AttributeError, match="has no 'dim'"):
        _ = config.dim


@pytest.mark.parametrize("cls", CONFIGS)
def test_what_other_libraries_ask_a_config(cls: type[EncoderConfig]) -> None:
    config, theirs = cls(), getattr(transformers, cls.__name__)()
    assert config.get_text_config(decoder=True) is config
    for name in ("output_attentions", "output_hidden_states", "return_dict", "use_return_dict"):
        assert getattr(config, name) is getattr(theirs, name), name
    for name in ("architectures", "tie_word_embeddings", "name_or_path", "is_encoder_decoder"):
        assert getattr(config, name) == getattr(theirs, name), name
    assert config.get("hidden_size") == 768
    assert config.get("colour", "none") == "none"
    assert "hidden_size" in config
    assert "colour" not in config
    assert not hasattr(config, "colour")
    assert json.loads(config.to_json_string()) == config.to_dict()
    config._attn_implementation = "sdpa"
    assert "_attn_implementation" not in config.to_dict()


def test_an_explicit_two_is_not_the_default() -> None:
    with pytest.raises(ConfigError, match="num_labels is 2 but id2label names 3 classes"):
        BertConfig(num_labels=2, id2label={0: "a", 1: "b", 2: "c"})
    assert BertConfig(num_labels=3, id2label={0: "a", 1: "b", 2: "c"}).num_labels == 3
    assert BertConfig(id2label={"0": "a", "1": "b", "2": "c"}).id2label[2] == "c"
    assert BertConfig().replace(num_labels=2).num_labels == 2
    named = BertConfig(id2label={0: "a", 1: "b", 2: "c"})
    with pytest.raises(ConfigError, match="num_labels is 2 but"):
        named.replace(num_labels=2, id2label={0: "a", 1: "b", 2: "c"})
    assert named.replace(num_labels=2).id2label == {0: "LABEL_0", 1: "LABEL_1"}
    assert named.replace(num_labels=3).id2label == named.id2label


NAMES = [
    ({"0": 0, "1": 1}, ["0", "1"]),
    ({"0": 0.0, "1": 2.5}, ["0.0", "2.5"]),
    ({"0": False, "1": True}, ["false", "true"]),
    ({"0": None, "1": "x"}, ["null", "x"]),
    ({"0": "x", "1": "x", "2": "y", "3": "x"}, ["x", "x_1", "y", "x_3"]),
    ({"0": 1, "1": "1"}, ["1", "1_1"]),
    ({"0": "x_1", "1": "x_1", "2": "x_1_1"}, ["x_1", "x_1_1", "x_1_1_2"]),
    ({"1": "a", "2": "b"}, ["LABEL_0", "a"]),
    ({"0": "a", "2": "b", "5": "c"}, ["a", "LABEL_1", "b"]),
    ({"-1": "a", "0": "b"}, ["b", "LABEL_1"]),
]


@pytest.mark.parametrize(("names", "expected"), NAMES)
@pytest.mark.parametrize("kind", ["Bert", "Albert", "DistilBert"])
def test_odd_class_names_are_read_and_said(
    names: dict[str, Any], expected: list[str], kind: str, tmp_path: Path
) -> None:
    model = tiny(f"{kind}ForSequenceClassification", torch.float32, num_labels=len(expected))
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "id2label": names}))
    again = minilm.load(tmp_path)
    assert list(again.config.id2label.values()) == expected
    assert len(again.config.label2id) == len(expected)
    assert torch.equal(again.classifier.weight, model.classifier.weight)
    (note,) = again.load_report.notes
    assert note.startswith("config.json: id2label names ")
    again.save_pretrained(tmp_path / "again")
    assert minilm.load(tmp_path / "again").load_report.notes == []


def test_names_that_are_no_text_are_refused() -> None:
    for wrong in (["a"], {"name": "a"}):
        with pytest.raises(ConfigError, match="the name of class 0 is"):
            BertConfig.from_dict({"id2label": {"0": wrong, "1": "b"}})
