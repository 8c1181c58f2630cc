"""Configurations: what a model is made of, validated before anything is built.

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

# What other libraries ask a configuration that says nothing of it.
USUAL_VALUES: dict[str, Any] = {
    "architectures": None,
    "name_or_path": "",
    "use_cache": False,
    **{key: allowed[0] for key, allowed in (REQUIRED_VALUES | IN_CALLS).items()},
}

SHOWN = 4  # class names in one remark

# Every class gets a name, so a few bytes in a file would fill the memory.
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
    """Fields that all three models share. Use one of the subclasses.

    Assigning to a field checks everything again; other names are kept in `extra`. The parts of a
    model that is built already stay as they are.

    Attributes:
        vocab_size: V.
        hidden_size: H, a multiple of `num_attention_heads`.
        num_hidden_layers: L, how many times a layer is applied.
        num_attention_heads: A.
        intermediate_size: I, width of the feed-forward block.
        hidden_act: activation, a name of `minilm.blocks.activations.ACTIVATIONS`.
        hidden_dropout_prob: dropout on embeddings and residual branches.
        attention_probs_dropout_prob: dropout on attention maps.
        max_position_embeddings: longest input in tokens.
        layer_norm_eps: epsilon of every norm.
        initializer_range: standard deviation of fresh weights.
        initializer: "normal" as in Hugging Face, "truncated_normal" as in Google's code.
        pad_token_id: the padding token; None = none.
        num_labels: classes of a classification head; as many as `id2label` names, by default 2.
        id2label: class names by class number, each name once; LABEL_0, LABEL_1, ... by default.
        problem_type: which loss a sequence classifier uses; None = decided from the labels.
        output_attentions, output_hidden_states: what calls return when they are not told.
        extra: keys of config.json that minilm does not use; written back untouched.
    """

    model_type: ClassVar[str]
    # own field -> key in config.json, where they differ
    hub_keys: ClassVar[Mapping[str, str]] = {}
    # what Hugging Face assumes for keys that a config.json lacks, where that differs from ours
    hub_defaults: ClassVar[Mapping[str, Any]] = {}
    # fields that the hub's format has no key for; the class accepts their default only
    not_stored: ClassVar[tuple[str, ...]] = ()
    # own options, written only when they differ from the default; others ignore the extra key
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
        """Refuse unknown names before the generated `__init__` does, with a better message."""
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
            """What is not a field: from `extra`, or what other libraries assume."""
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
        """Change fields, all or none of them; keep what is not a field in `extra`.

        Raises:
            ConfigError: something does not fit, or is called otherwise here.
        """
        _check_supported(values, REQUIRED_VALUES | IN_CALLS)
        checked = {*_field_names(type(self)), "label2id", *self.hub_keys.values()}
        fields = {name: values[name] for name in values.keys() & checked}
        extra = {name: values[name] for name in values.keys() - checked}
        vars(self).update(vars(self.replace(**{"extra": {**self.extra, **extra}, **fields})))

    def get_text_config(self, **_: Any) -> Self:
        """This configuration, as these models have only a text part."""
        return self

    @property
    def label2id(self) -> dict[str, int]:
        """Class numbers by class name."""
        return {name: number for number, name in self.id2label.items()}

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, validated again.

        A new `num_labels` brings new default label names unless `id2label` is given too. `label2id`
        may stand for `id2label`; if both are given, they must agree.
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
        """Raise ConfigError for the first name that is not a field of this class."""
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
        """A configuration of this class from one of minilm or transformers, or a dictionary.

        Raises:
            ConfigError: it is something else, or of another architecture.
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
        """Read the content of a config.json.

        Args:
            data: keys as on the hub. Declared fields are type-checked, unknown harmless keys go
                to `extra`, keys that could bring code are dropped (`ignored_keys`).

        Raises:
            ConfigError: a value of the wrong type or range, or an unsupported one; names the key.
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
        """The text of a config.json, with every key whatever `use_diff` says."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def _size(self) -> int:
        """About how many parameters the encoder has."""
        layer = 4 * self.hidden_size**2 + 2 * self.hidden_size * self.intermediate_size
        tables = (self.vocab_size + self.max_position_embeddings) * self.hidden_size
        return tables + self.num_hidden_layers * layer


@dataclass(kw_only=True)
class BertConfig(EncoderConfig):
    """BERT; the defaults are bert-base-uncased.

    Attributes:
        type_vocab_size: rows of the token-type table.
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
        sinusoidal_position_embeddings: start the position table with sines and cosines.
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
        num_hidden_groups: G, how many groups of layers have weights of their own; 1 = all shared.
        inner_group_num: layers in a group; a group is applied as a whole.
        shared_between_groups: what all groups have in common nevertheless: "attention" or
            "feed_forward", each with its norm; None = nothing. A checkpoint then holds equal copies
            in all groups, and other libraries read it as an ordinary ALBERT.
        type_vocab_size: rows of the token-type table.
        classifier_dropout: dropout before every head on the pooled state.
        feed_forward_dropout: also drop out what the feed-forward block adds, by
            `hidden_dropout_prob`: as Google's code does, and Hugging Face's does not.
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
        """The same model with other layers sharing their weights.

        Args:
            sharing: "all" (ALBERT), "attention", "feed_forward", "none", or a number M: every M
                layers that follow each other share all their weights, those of different groups
                none (Lan et al. 2020, section 4.6 and table 4).

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
                "how many layers share their weights."
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
    """The keys of a config.json that are dropped without being looked at, sorted."""
    return sorted(key for key in data if key in IGNORED_KEYS or key.startswith(IGNORED_PREFIX))


def remarks(data: Mapping[str, Any]) -> list[str]:
    """What a load report says of a config.json: ignored keys, class names that were changed."""
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
    """id2label with whole numbers for keys, which JSON turns into strings, and names as text."""
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
    """num_labels and id2label as config.json means them.

    As in Hugging Face, a differing num_labels wins, and there are as many classes as names,
    whatever their numbers: class 0 of {1: "a", 2: "b"} has no name, and nothing is class 2. A name
    that stands twice gets its number behind it.
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
    """Check one value against its field's rule and return it, ints widened to floats."""
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
