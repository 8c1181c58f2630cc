"""Configurations of the models, validated before anything is built.

Field names are Google's for all three models. Hugging Face's DistilBERT has names of its own
(dim, n_layers, ...); they exist only in the tables that read and write config.json.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from minilm.blocks.activations import ACTIVATIONS
from minilm.errors import ConfigError

PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")

# Keys that could make other libraries run or fetch code, that describe a stored form minilm does
# not read, or that say how one run trained (freeze_position_embeddings). They are dropped, whatever
# they say, and named in the load report.
IGNORED_KEYS = (
    "auto_map",
    "trust_remote_code",
    "quantization_config",
    "custom_pipelines",
    "freeze_position_embeddings",
)
IGNORED_PREFIX = "_attn_implementation"

# Keys whose other values change the arithmetic in a way minilm does not implement.
REQUIRED_VALUES: dict[str, tuple[Any, ...]] = {
    "position_embedding_type": ("absolute", None),
    "is_decoder": (False, None),
    "add_cross_attention": (False, None),
    "is_encoder_decoder": (False, None),
    "tie_word_embeddings": (True, None),
    "pruned_heads": ({}, None),
}
# these change what calls return: refused when assigned, kept without effect from a file
IN_CALLS: dict[str, tuple[Any, ...]] = {
    "return_dict": (True, None),
    "use_return_dict": (True, None),
}

# Fields that are written only when they differ from the default.
UNLESS_DEFAULT = ("problem_type", "output_attentions", "output_hidden_states")

# Attributes that other libraries read, with their usual values.
USUAL_VALUES: dict[str, Any] = {
    "architectures": None,
    "name_or_path": "",
    "use_cache": False,
    **{key: allowed[0] for key, allowed in (REQUIRED_VALUES | IN_CALLS).items()},
}

SHOWN = 4  # class names shown in one remark

# Every class gets a name, so a few bytes in a file could fill the memory.
MAX_LABELS = 2**17

# A file is refused before anything is allocated if it describes more parameters than this.
MAX_PARAMETERS = 2**35


def _int(default: int, low: int, high: int) -> Any:
    return field(default=default, metadata={"kind": "int", "low": low, "high": high})


def _float(default: float, low: float, high: float) -> Any:
    return field(default=default, metadata={"kind": "float", "low": low, "high": high})


def _probability(default: float) -> Any:
    return _float(default, 0.0, 1.0)


def _choice(default: str | None, choices: tuple[str | None, ...]) -> Any:
    return field(default=default, metadata={"kind": "choice", "choices": choices})


def _bool(default: bool) -> Any:
    return field(default=default, metadata={"kind": "bool"})


@dataclass(kw_only=True)
class EncoderConfig:
    """The fields that all three models share. Use one of the subclasses.

    Assigning to a field validates all fields again; other names are kept in `extra`. Models that
    are already built do not change.

    Attributes:
        vocab_size: V, number of token ids.
        hidden_size: H, a multiple of `num_attention_heads`.
        num_hidden_layers: L, how many times a layer is applied.
        num_attention_heads: A, heads of each layer.
        intermediate_size: I, width of the feed-forward block.
        hidden_act: activation, a name of `minilm.blocks.activations.ACTIVATIONS`.
        hidden_dropout_prob: dropout on embeddings and residual branches.
        attention_probs_dropout_prob: dropout on attention maps.
        max_position_embeddings: longest input in tokens.
        layer_norm_eps: epsilon of every layer norm.
        initializer_range: standard deviation of newly initialised weights.
        initializer: "normal" as in Hugging Face, "truncated_normal" as in Google's code.
        pad_token_id: id of the padding token; None = there is none.
        num_labels: classes of a classification head; as many as `id2label` names, by default 2.
        id2label: class names by class number, each name once; LABEL_0, LABEL_1, ... by default.
        problem_type: the loss of a sequence classifier, one of `PROBLEM_TYPES`; None = chosen by
            the labels.
        output_attentions, output_hidden_states: whether calls return these by default.
        extra: keys of config.json that minilm does not use; written back untouched.
    """

    model_type: ClassVar[str]
    # own field -> key in config.json, where they differ
    hub_keys: ClassVar[Mapping[str, str]] = {}
    # what Hugging Face assumes for keys that a config.json lacks, where that differs from ours
    hub_defaults: ClassVar[Mapping[str, Any]] = {}
    # fields that the hub's format has no key for; the class accepts their default only
    not_stored: ClassVar[tuple[str, ...]] = ()
    # own options, written only if they differ from the default; other libraries ignore such keys
    own_options: ClassVar[tuple[str, ...]] = ("initializer",)

    vocab_size: int = _int(30522, 1, 2**22)
    hidden_size: int = _int(768, 1, 2**16)
    num_hidden_layers: int = _int(12, 1, 128)
    num_attention_heads: int = _int(12, 1, 2**10)
    intermediate_size: int = _int(3072, 1, 2**18)
    hidden_act: str = _choice("gelu", tuple(ACTIVATIONS))
    hidden_dropout_prob: float = _probability(0.1)
    attention_probs_dropout_prob: float = _probability(0.1)
    max_position_embeddings: int = _int(512, 1, 2**17)
    layer_norm_eps: float = _float(1e-12, 0.0, 1.0)
    initializer_range: float = _float(0.02, 0.0, 10.0)
    initializer: str = _choice("normal", ("normal", "truncated_normal"))
    pad_token_id: int | None = 0
    num_labels: int = cast(int, None)
    id2label: Mapping[int, str] = field(default_factory=dict)
    problem_type: str | None = _choice(None, (None, *PROBLEM_TYPES))
    output_attentions: bool = _bool(False)
    output_hidden_states: bool = _bool(False)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __new__(cls, **values: Any) -> Self:
        """Refuses unknown names before the generated `__init__` does, with a better message."""
        cls.check_names(values)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            if spec.metadata:
                vars(self)[spec.name] = _checked(spec.name, getattr(self, spec.name), spec.metadata)
        if self.pad_token_id is not None:
            _check_int("pad_token_id", self.pad_token_id, 0, self.vocab_size - 1)
        labels = _numbered(self.id2label)
        count = len(labels) or 2 if self.num_labels is None else self.num_labels
        _check_int("num_labels", count, 1, MAX_LABELS)
        labels = labels or {number: f"LABEL_{number}" for number in range(count)}
        if sorted(labels) != list(range(len(labels))):
            raise ConfigError(
                f"id2label numbers {sorted(labels)[:5]}...: expected every number from 0 to "
                f"{len(labels) - 1} once."
            )
        if count != len(labels):
            raise ConfigError(
                f"num_labels is {count} but id2label names {len(labels)} classes; give one of the "
                "two."
            )
        if len(set(labels.values())) < count:
            raise ConfigError(f"id2label gives two classes the same name: {labels}.")
        vars(self).update(id2label=labels, num_labels=count, extra=dict(self.extra))
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads "
                f"{self.num_attention_heads}: every head needs the same width."
            )
        if self._size() > MAX_PARAMETERS:
            raise ConfigError(
                f"This configuration describes about {self._size():,} parameters, more than minilm "
                f"builds ({MAX_PARAMETERS:,}). Check vocab_size, hidden_size, intermediate_size "
                "and num_hidden_layers."
            )
        vars(self)["_complete"] = True

    def __setattr__(self, name: str, value: Any) -> None:
        """See `update`."""
        if "_complete" in vars(self):
            self.update({name: value})
        else:  # in the generated `__init__`
            object.__setattr__(self, name, value)

    if not TYPE_CHECKING:  # a misspelt field stays an error for type checkers

        def __getattr__(self, name: str) -> Any:
            """The value of a key that is not a field: from `extra`, or other libraries' default."""
            for values in (vars(self).get("extra", {}), USUAL_VALUES):
                if name in values:
                    return values[name]
            raise AttributeError(f"{type(self).__name__} has no {name!r}.")

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and hasattr(self, name)

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a field or of an extra key."""
        return getattr(self, name, default)

    def update(self, values: Mapping[str, Any]) -> None:
        """Changes fields, all or none of them; keeps other names in `extra`.

        Raises:
            ConfigError: a value is invalid, or a name differs in minilm.
        """
        _check_supported(values, REQUIRED_VALUES | IN_CALLS)
        checked = {*_field_names(type(self)), "label2id", *self.hub_keys.values()}
        fields = {name: values[name] for name in values.keys() & checked}
        extra = {name: values[name] for name in values.keys() - checked}
        vars(self).update(vars(self.replace(**{"extra": {**self.extra, **extra}, **fields})))

    def get_text_config(self, **_: Any) -> Self:
        """Returns this configuration, as these models have only a text part."""
        return self

    @property
    def label2id(self) -> dict[str, int]:
        """Class numbers by class name."""
        return {name: number for number, name in self.id2label.items()}

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, validated again.

        A new `num_labels` brings new default label names unless `id2label` is given too. `label2id`
        may replace `id2label`; if both are given, they must agree.
        """
        if (numbers := changes.pop("label2id", None)) is not None:
            labels = {number: name for name, number in numbers.items()}
            if _numbered(changes.setdefault("id2label", labels)) != _numbered(labels):
                raise ConfigError(f"label2id {numbers} and id2label {changes['id2label']} differ.")
        self.check_names(changes)
        if changes.get("num_labels") not in (None, self.num_labels):
            changes.setdefault("id2label", {})
        if "id2label" in changes:
            changes.setdefault("num_labels", None)
        return dataclasses.replace(self, **changes)

    @classmethod
    def check_names(cls, values: Mapping[str, Any]) -> None:
        """Raises ConfigError for the first name that is not a field of this class."""
        for key in values:
            if key in _field_names(cls):
                continue
            for name, hub_key in cls.hub_keys.items():
                if hub_key == key:
                    raise ConfigError(f"{cls.__name__} has no {key!r}: it is called {name!r} here.")
            known = ", ".join(sorted(_field_names(cls)))
            raise ConfigError(f"{cls.__name__} has no {key!r}. Known: {known}.")

    @classmethod
    def of(cls, config: EncoderConfig | Mapping[str, Any] | Any) -> Self:
        """Converts a configuration of minilm or transformers, or a dictionary, to this class.

        Raises:
            ConfigError: it is something else, or belongs to another architecture.
        """
        if isinstance(config, cls):
            return config
        content = config if isinstance(config, Mapping) else getattr(config, "to_dict", dict)()
        if not content:
            raise ConfigError(
                f"config is {config!r}: expected a {cls.__name__}, one of transformers, or a "
                "dictionary as in config.json."
            )
        return cls.from_dict(content)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Makes a configuration from the content of a config.json.

        Args:
            data: keys as on the hub. Declared fields are type-checked, unknown harmless keys go
                to `extra`, and keys that could load code are dropped (`ignored_keys`).

        Raises:
            ConfigError: a value has the wrong type or range, or is unsupported; the message names
                the key.
        """
        model_type = data.get("model_type") or cls.model_type
        if model_type != cls.model_type:
            raise ConfigError(
                f"model_type is {model_type!r}, {cls.__name__} reads {cls.model_type!r}. Use "
                "minilm.load to have the class chosen for you."
            )
        _check_supported(data, REQUIRED_VALUES)
        names = _field_names(cls) - {"extra"}
        own_name = {cls.hub_keys.get(name, name): name for name in names}
        dropped = {"model_type", "label2id", *ignored_keys(data)}
        values: dict[str, Any] = dict(cls.hub_defaults)
        extra: dict[str, Any] = {}
        for key, value in data.items():
            if key in dropped:
                continue
            # a hub key wins over Google's name for the same thing, as in Hugging Face
            name = own_name.get(key, key if key in names else None)
            if name is None:
                extra[key] = value
            elif key in own_name or cls.hub_keys.get(name) not in data:
                values[name] = value
        values.update(_labels(values))
        return cls(**values, extra=extra)

    def to_dict(self) -> dict[str, Any]:
        """The content of a config.json, in the hub's format and with the hub's keys."""
        extra = {key: self.extra[key] for key in self.extra.keys() - set(ignored_keys(self.extra))}
        data: dict[str, Any] = {**extra, "model_type": self.model_type}
        for spec in dataclasses.fields(self):
            value = getattr(self, spec.name)
            if spec.name in ("extra", "num_labels", "id2label", *self.not_stored):
                continue
            if spec.name in (*self.own_options, *UNLESS_DEFAULT):
                if value != spec.default:
                    data[spec.name] = value
            else:
                data[self.hub_keys.get(spec.name, spec.name)] = value
        data["id2label"] = {str(number): name for number, name in self.id2label.items()}
        data["label2id"] = self.label2id
        return data

    def to_json_string(self, use_diff: bool = False) -> str:
        """The text of a config.json, always with all keys; `use_diff` has no effect."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def _size(self) -> int:
        """The approximate number of parameters of the encoder."""
        layer = 4 * self.hidden_size**2 + 2 * self.hidden_size * self.intermediate_size
        tables = (self.vocab_size + self.max_position_embeddings) * self.hidden_size
        return tables + self.num_hidden_layers * layer


@dataclass(kw_only=True)
class BertConfig(EncoderConfig):
    """BERT; the defaults are bert-base-uncased.

    Attributes:
        type_vocab_size: number of token types.
        classifier_dropout: dropout before a classifier; None = `hidden_dropout_prob`.
    """

    model_type: ClassVar[str] = "bert"

    type_vocab_size: int = _int(2, 1, 2**16)
    classifier_dropout: float | None = field(
        default=None, metadata={"kind": "float", "low": 0.0, "high": 1.0, "optional": True}
    )


@dataclass(kw_only=True)
class DistilBertConfig(EncoderConfig):
    """DistilBERT; the defaults are distilbert-base-uncased.

    Attributes:
        classifier_dropout: dropout before the classifier of a sequence or multiple-choice head.
        qa_dropout: dropout before the span head.
        sinusoidal_position_embeddings: whether to initialise the position table with sines and
            cosines.
    """

    model_type: ClassVar[str] = "distilbert"
    hub_keys: ClassVar[Mapping[str, str]] = {
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "hidden_act": "activation",
        "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
        "classifier_dropout": "seq_classif_dropout",
        "sinusoidal_position_embeddings": "sinusoidal_pos_embds",
    }
    not_stored: ClassVar[tuple[str, ...]] = ("layer_norm_eps",)
    num_hidden_layers: int = _int(6, 1, 128)
    classifier_dropout: float = _probability(0.2)
    qa_dropout: float = _probability(0.1)
    sinusoidal_position_embeddings: bool = _bool(False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layer_norm_eps != 1e-12:
            raise ConfigError(
                f"layer_norm_eps is {self.layer_norm_eps}: DistilBERT is defined with 1e-12 and "
                "its config.json has no key for another value."
            )


@dataclass(kw_only=True)
class AlbertConfig(EncoderConfig):
    """ALBERT; the defaults are albert-base-v2 (Hugging Face's own defaults are xxlarge).

    Attributes:
        embedding_size: E, width of the embedding tables.
        num_hidden_groups: G, number of groups of layers with their own weights; 1 = all shared.
        inner_group_num: number of layers in a group; a group is applied as a whole.
        shared_between_groups: the part that all groups still share: "attention" or "feed_forward",
            each with its norm; None = nothing. A checkpoint holds equal copies of it in all groups,
            and other libraries read it as an ordinary ALBERT.
        type_vocab_size: number of token types.
        classifier_dropout: dropout before every head on the pooled state.
        feed_forward_dropout: whether `hidden_dropout_prob` also applies to the output of the
            feed-forward block, as in Google's code and unlike Hugging Face's.
    """

    model_type: ClassVar[str] = "albert"
    hub_keys: ClassVar[Mapping[str, str]] = {"classifier_dropout": "classifier_dropout_prob"}
    own_options: ClassVar[tuple[str, ...]] = (
        "initializer",
        "feed_forward_dropout",
        "shared_between_groups",
    )
    hub_defaults: ClassVar[Mapping[str, Any]] = {
        "hidden_size": 4096,
        "num_attention_heads": 64,
        "intermediate_size": 16384,
    }

    vocab_size: int = _int(30000, 1, 2**22)
    embedding_size: int = _int(128, 1, 2**16)
    num_hidden_groups: int = _int(1, 1, 128)
    inner_group_num: int = _int(1, 1, 128)
    shared_between_groups: str | None = _choice(None, (None, "attention", "feed_forward"))
    hidden_act: str = _choice("gelu_new", tuple(ACTIVATIONS))
    hidden_dropout_prob: float = _probability(0.0)
    attention_probs_dropout_prob: float = _probability(0.0)
    type_vocab_size: int = _int(2, 1, 2**16)
    classifier_dropout: float = _probability(0.1)
    feed_forward_dropout: bool = _bool(False)

    def with_sharing(self, sharing: str | int) -> Self:
        """The same configuration with another sharing of weights between layers.

        Args:
            sharing: "all" (ALBERT), "attention", "feed_forward", "none", or a number M: groups of M
                consecutive layers share all their weights, different groups share none (Lan et al.
                2020, section 4.6 and table 4).

        Raises:
            ConfigError: it is none of these, or M does not divide the number of layers.
        """
        layers = self.num_hidden_layers
        if sharing == "all":
            return self.replace(num_hidden_groups=1, shared_between_groups=None)
        if sharing == "none":
            return self.replace(num_hidden_groups=layers, shared_between_groups=None)
        if sharing in ("attention", "feed_forward"):
            return self.replace(num_hidden_groups=layers, shared_between_groups=sharing)
        if not isinstance(sharing, int) or isinstance(sharing, bool) or sharing < 1:
            raise ConfigError(
                f"sharing is {sharing!r}: expected 'all', 'attention', 'feed_forward', 'none' or "
                "the number of layers that share their weights."
            )
        if layers % sharing:
            raise ConfigError(
                f"sharing is {sharing}: groups of this many layers do not add up to the {layers} "
                "layers of this model."
            )
        return self.replace(num_hidden_groups=layers // sharing, shared_between_groups=None)

    def _size(self) -> int:
        layer = 4 * self.hidden_size**2 + 2 * self.hidden_size * self.intermediate_size
        tables = (self.vocab_size + self.max_position_embeddings) * self.embedding_size
        return tables + self.num_hidden_groups * self.inner_group_num * layer


def ignored_keys(data: Mapping[str, Any]) -> list[str]:
    """The keys of a config.json that are dropped whatever their values, sorted."""
    return sorted(key for key in data if key in IGNORED_KEYS or key.startswith(IGNORED_PREFIX))


def remarks(data: Mapping[str, Any]) -> list[str]:
    """Remarks of a load report on a config.json: ignored keys and changed class names."""
    found = [f"config.json: {key} ignored" for key in ignored_keys(data)]
    stored, labels = data.get("id2label") or {}, _labels(data)["id2label"]
    changed = [
        f"{number} -> {name}"
        for number, name in labels.items()
        if stored.get(str(number), stored.get(number)) != name
    ]
    if changed:
        more = ", ..." if len(changed) > SHOWN else ""
        found.append(
            f"config.json: id2label names {list(stored.values())[:SHOWN]}, read as "
            f"{', '.join(changed[:SHOWN])}{more}"
        )
    return found


def _field_names(cls: type[EncoderConfig]) -> set[str]:
    return {spec.name for spec in dataclasses.fields(cls)}


def _check_supported(data: Mapping[str, Any], required: Mapping[str, tuple[Any, ...]]) -> None:
    for key, allowed in required.items():
        if key in data and data[key] not in allowed:
            raise ConfigError(
                f"{key} is {data[key]!r}: unsupported, minilm implements {allowed[0]!r} only."
            )


def _numbered(names: Any) -> dict[int, str]:
    """id2label with integers as keys, which JSON turns into strings, and strings as names."""
    if not isinstance(names, Mapping):
        raise ConfigError(f"id2label: expected an object of class number -> name, not {names!r}.")
    labels = {}
    for number, name in names.items():
        if not isinstance(name, str | int | float | None):
            raise ConfigError(f"id2label: the name of class {number} is {name!r}: expected text.")
        try:
            labels[int(number)] = name if isinstance(name, str) else json.dumps(name)
        except (TypeError, ValueError):
            raise ConfigError(
                f"id2label: the keys {list(names)[:3]}... are not all numbers."
            ) from None
    return labels


def _labels(values: Mapping[str, Any]) -> dict[str, Any]:
    """num_labels and id2label with their meaning in config.json.

    As in Hugging Face, num_labels has priority if they differ, and there are as many classes as
    names, whatever their numbers: in {1: "a", 2: "b"}, class 0 has no name, and there is no class
    2. A name that occurs twice gets its number appended.
    """
    found = _numbered(values.get("id2label") or {})
    count = values.get("num_labels")
    if count is None:
        count = len(found) or 2
    labels: dict[int, str] = {}
    for number in range(count if isinstance(count, int) and len(found) == count else 0):
        name = found.get(number, f"LABEL_{number}")
        while name in labels.values():
            name = f"{name}_{number}"
        labels[number] = name
    return {"num_labels": count, "id2label": labels}


def _check_int(name: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{name} is {value!r}: expected a whole number.")
    if not low <= value <= high:
        raise ConfigError(f"{name} is {value}: expected {low} to {high}.")


def _checked(name: str, value: Any, rule: Mapping[str, Any]) -> Any:
    """Checks a value against its field's rule and returns it, with ints converted to floats."""
    if value is None and rule.get("optional"):
        return value
    if rule["kind"] == "int":
        _check_int(name, value, rule["low"], rule["high"])
    elif rule["kind"] == "float":
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{name} is {value!r}: expected a number.")
        if not rule["low"] <= value <= rule["high"]:
            raise ConfigError(f"{name} is {value}: expected {rule['low']} to {rule['high']}.")
        return float(value)
    elif rule["kind"] == "bool":
        if not isinstance(value, bool):
            raise ConfigError(f"{name} is {value!r}: expected true or false.")
    elif value not in rule["choices"]:
        raise ConfigError(
            f"{name} is {value!r}: expected one of {', '.join(map(repr, rule['choices']))}."
        )
    return value
