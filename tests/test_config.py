"""Configurations: exact round trips, strict values, Hugging Face's keys at the border only."""

import copy
from typing import Any

import pytest
import transformers

import minilm
from minilm import AlbertConfig, BertConfig, ConfigError, DistilBertConfig
from minilm.config import EncoderConfig

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
    ],
)
def test_unsupported_files_are_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BertConfig.from_dict(data)


def test_a_config_cannot_be_changed_in_place() -> None:
    with pytest.raises(AttributeError):
        minilm.BertConfig().hidden_size = 3  # type: ignore[misc]
