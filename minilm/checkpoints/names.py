"""Hugging Face's parameter names, as tables.

Each row pairs a module here with the module that has the same parameters in a hub checkpoint; `{}`
stands for a number. Parameters have the same last name on both sides (weight, bias). A part without
a row, such as an adapter in a layer, keeps its own name after that of the known module around it.
The scale of a weight stored in 8 bits is beside it, as "scale" on both sides. Only this file knows
hub names.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field

ENCODER = "encoder."  # the prefix of the base model in a task model

# prefixes and infixes in the names of a model that was saved in its wrapper: DataParallel and
# DeepSpeed, Lightning; torch.compile, FSDP, activation checkpointing
_OUTSIDE = re.compile(r"^(?:(?:module|model)\.)+")
_BETWEEN = re.compile(
    r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)


@dataclass(frozen=True)
class HubNames:
    """The names of one architecture.

    A *local* name is the name in a task model here: base-model names start with "encoder.".

    Attributes:
        prefix: prefix of base-model names in a checkpoint with heads.
        base: module of the base model -> hub module.
        heads: module of a task model -> hub module.
        decoder: hub module that repeats the tied word embeddings (weight) and the masked-LM bias.
        layer: a whole layer of the base model here, and of the hub's.
    """

    prefix: str
    base: Mapping[str, str]
    heads: Mapping[str, str]
    decoder: str
    layer: tuple[str, str]
    _hub: dict[str, str] = field(default_factory=dict, repr=False)  # local -> hub
    _local: dict[str, str] = field(default_factory=dict, repr=False)  # hub or local -> local

    def __post_init__(self) -> None:
        base = {**self.base, self.layer[0]: self.layer[1]}
        self._hub.update({**self.heads, **{ENCODER + module: hub for module, hub in base.items()}})
        self._local.update({module.removeprefix(ENCODER): module for module in self._hub})
        self._local.update({module: module for module in self._hub})
        self._local.update({hub: module for module, hub in self._hub.items()})

    def to_local(self, name: str, expected: Container[str] = ()) -> str | None:
        """The local name of a stored tensor, or None if it is unknown.

        Accepts hub names and local ones, with and without the base prefix, the old gamma and
        beta, and the prefixes of wrappers.

        Args:
            name: the stored name.
            expected: the model's local names, including names that are in no table.
        """
        for plain in (name, self.unwrapped(name)):
            hub = without_gamma_beta(plain).removeprefix(self.prefix)
            module, parameter = _split(hub, self._local)
            translated = f"{module}.{parameter}"
            for local in (plain, translated, ENCODER + hub):  # a user's own part goes first
                tied = plain == f"{self.decoder}.weight" and local != plain
                if local in expected and not tied:
                    return local
            if self.knows(translated) and plain != f"{self.decoder}.weight":
                return translated
        return None

    def to_hub(self, local: str, with_prefix: bool = True) -> str:
        """The hub name of a tensor.

        Args:
            local: the name in a task model.
            with_prefix: whether base-model names get the architecture's prefix.
        """
        prefix = self.prefix if with_prefix and local.startswith(ENCODER) else ""
        module, parameter = _split(local, self._hub)
        return prefix + (f"{module}.{parameter}" if module else local.removeprefix(ENCODER))

    def knows(self, local: str) -> bool:
        """Whether a tensor belongs to the architecture or its heads, not to an added part."""
        module, _, parameter = local.rpartition(".")
        template = _template(module.split("."))
        is_layer = template == ENCODER + self.layer[0]
        return parameter in ("weight", "scale", "bias") and template in self._hub and not is_layer

    def ignored(self, name: str) -> str | None:
        """Why a stored tensor that no model has may be left out; None if it may not."""
        hub = self.unwrapped(name).removeprefix(self.prefix)
        if hub in ("embeddings.position_ids", "embeddings.token_type_ids"):
            return "a counter that old files store; computed here"
        if hub == f"{self.decoder}.weight":
            return "a copy of the word embeddings (tied)"
        if hub == f"{self.decoder}.bias":
            return "a copy of the masked-LM bias"
        return None

    def unwrapped(self, name: str) -> str:
        """Removes the prefixes of wrappers, and a base prefix that occurs twice."""
        name = _OUTSIDE.sub("", _BETWEEN.sub("", name))
        while name.startswith(2 * self.prefix):
            name = name[len(self.prefix) :]
        return name


def _split(name: str, table: Mapping[str, str]) -> tuple[str, str]:
    """The longest known module of a name, translated ("" if none is known), and the rest."""
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        if (template := _template(parts[:end])) in table:
            numbers = (part for part in parts[:end] if part.isdecimal())
            return table[template].format(*numbers), ".".join(parts[end:])
    return "", name


def _template(parts: list[str]) -> str:
    return ".".join("{}" if part.isdecimal() else part for part in parts)


def without_gamma_beta(hub_name: str) -> str:
    """Today's name of an old norm parameter: gamma -> weight, beta -> bias."""
    for old, new in (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")):
        if hub_name.endswith(old):
            return hub_name.removesuffix(old) + new
    return hub_name


BERT = HubNames(
    prefix="bert.",
    base={
        "embeddings.word": "embeddings.word_embeddings",
        "embeddings.position": "embeddings.position_embeddings",
        "embeddings.token_type": "embeddings.token_type_embeddings",
        "embeddings.norm": "embeddings.LayerNorm",
        "layers.{}.attention.query": "encoder.layer.{}.attention.self.query",
        "layers.{}.attention.key": "encoder.layer.{}.attention.self.key",
        "layers.{}.attention.value": "encoder.layer.{}.attention.self.value",
        "layers.{}.attention.output": "encoder.layer.{}.attention.output.dense",
        "layers.{}.attention_norm": "encoder.layer.{}.attention.output.LayerNorm",
        "layers.{}.feed_forward.intermediate": "encoder.layer.{}.intermediate.dense",
        "layers.{}.feed_forward.output": "encoder.layer.{}.output.dense",
        "layers.{}.feed_forward_norm": "encoder.layer.{}.output.LayerNorm",
        "pooler.dense": "pooler.dense",
    },
    heads={
        "masked_lm_head": "cls.predictions",
        "masked_lm_head.dense": "cls.predictions.transform.dense",
        "masked_lm_head.norm": "cls.predictions.transform.LayerNorm",
        "next_sentence_head": "cls.seq_relationship",
        "classifier": "classifier",
        "span_head": "qa_outputs",
    },
    decoder="cls.predictions.decoder",
    layer=("layers.{}", "encoder.layer.{}"),
)

DISTILBERT = HubNames(
    prefix="distilbert.",
    base={
        "embeddings.word": "embeddings.word_embeddings",
        "embeddings.position": "embeddings.position_embeddings",
        "embeddings.norm": "embeddings.LayerNorm",
        "layers.{}.attention.query": "transformer.layer.{}.attention.q_lin",
        "layers.{}.attention.key": "transformer.layer.{}.attention.k_lin",
        "layers.{}.attention.value": "transformer.layer.{}.attention.v_lin",
        "layers.{}.attention.output": "transformer.layer.{}.attention.out_lin",
        "layers.{}.attention_norm": "transformer.layer.{}.sa_layer_norm",
        "layers.{}.feed_forward.intermediate": "transformer.layer.{}.ffn.lin1",
        "layers.{}.feed_forward.output": "transformer.layer.{}.ffn.lin2",
        "layers.{}.feed_forward_norm": "transformer.layer.{}.output_layer_norm",
    },
    heads={
        "masked_lm_head": "vocab_projector",
        "masked_lm_head.dense": "vocab_transform",
        "masked_lm_head.norm": "vocab_layer_norm",
        "pre_classifier": "pre_classifier",
        "classifier": "classifier",
        "span_head": "qa_outputs",
    },
    decoder="vocab_projector",
    layer=("layers.{}", "transformer.layer.{}"),
)

ALBERT = HubNames(
    prefix="albert.",
    base={
        "embeddings.word": "embeddings.word_embeddings",
        "embeddings.position": "embeddings.position_embeddings",
        "embeddings.token_type": "embeddings.token_type_embeddings",
        "embeddings.norm": "embeddings.LayerNorm",
        "embeddings.projection": "encoder.embedding_hidden_mapping_in",
        **{
            f"groups.{{}}.layers.{{}}.{local}": (
                f"encoder.albert_layer_groups.{{}}.albert_layers.{{}}.{hub}"
            )
            for local, hub in {
                "attention.query": "attention.query",
                "attention.key": "attention.key",
                "attention.value": "attention.value",
                "attention.output": "attention.dense",
                "attention_norm": "attention.LayerNorm",
                "feed_forward.intermediate": "ffn",
                "feed_forward.output": "ffn_output",
                "feed_forward_norm": "full_layer_layer_norm",
            }.items()
        },
        "pooler.dense": "pooler",
    },
    heads={
        "masked_lm_head": "predictions",
        "masked_lm_head.dense": "predictions.dense",
        "masked_lm_head.norm": "predictions.LayerNorm",
        "sentence_order_head": "sop_classifier.classifier",
        "classifier": "classifier",
        "span_head": "qa_outputs",
    },
    decoder="predictions.decoder",
    layer=(
        "groups.{}.layers.{}",
        "encoder.albert_layer_groups.{}.albert_layers.{}",
    ),
)

ARCHITECTURES: Mapping[str, HubNames] = {"bert": BERT, "distilbert": DISTILBERT, "albert": ALBERT}


def architecture_of(hub_names: Iterable[str]) -> str | None:
    """Guesses the architecture ("bert", "distilbert", "albert") from the stored tensor names.

    Returns:
        The only architecture whose table has at least one of the layer tensors; None if unclear.
    """
    stored = list(hub_names)
    found = []
    for architecture, names in ARCHITECTURES.items():
        local = (names.to_local(name) or "" for name in stored)
        if any(name.startswith((f"{ENCODER}layers.", f"{ENCODER}groups.")) for name in local):
            found.append(architecture)
    return found[0] if len(found) == 1 else None
