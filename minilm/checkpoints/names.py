"""Hugging Face's parameter names, as tables.

Each row pairs a module here with the module that holds the same numbers in a hub checkpoint; `{}`
stands for a number. Parameters have the same last name on both sides (weight, bias). This is the
only file that knows hub names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

ENCODER = "encoder."  # where a task model keeps its base model


@dataclass(frozen=True)
class HubNames:
    """The names of one architecture.

    Attributes:
        prefix: what stands before base-model names in a checkpoint with heads.
        base: module of the base model -> hub module.
        heads: module of a task model -> hub module.
        decoder: hub module that repeats the tied word embeddings (weight) and the masked-LM bias.
    """

    prefix: str
    base: Mapping[str, str]
    heads: Mapping[str, str]
    decoder: str
    _patterns: list[tuple[re.Pattern[str], str, str]] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        for table, own_prefix in ((self.base, ENCODER), (self.heads, "")):
            for own, hub in table.items():
                pattern = re.escape(hub).replace(r"\{\}", r"(\d+)")
                self._patterns.append((re.compile(pattern), own_prefix + own, hub))

    def to_own(self, hub_name: str) -> str | None:
        """The name in a task model here ("encoder.layers.0...", "classifier.weight"), or None.

        Understands names with and without the base prefix, and the old gamma and beta.
        """
        if hub_name == f"{self.decoder}.weight":
            return None  # a copy of the word embeddings, no parameter of its own
        module, _, parameter = modern(hub_name).rpartition(".")
        if parameter not in ("weight", "bias"):
            return None
        if module.startswith(self.prefix):
            module = module[len(self.prefix) :]
        for pattern, own, _ in self._patterns:
            if match := pattern.fullmatch(module):
                return f"{own.format(*match.groups())}.{parameter}"
        return None

    def to_hub(self, own_name: str, with_prefix: bool = True) -> str:
        """The hub name of a task model's parameter.

        Args:
            own_name: as in a task model; base-model names start with "encoder.".
            with_prefix: write base-model names with the architecture's prefix.
        """
        module, _, parameter = own_name.rpartition(".")
        table, prefix = self.heads, ""
        if module.startswith(ENCODER):
            module = module[len(ENCODER) :]
            table, prefix = self.base, self.prefix if with_prefix else ""
        numbers = re.findall(r"(?<=\.)\d+(?=\.)", module)
        template = re.sub(r"(?<=\.)\d+(?=\.)", "{}", module)
        return f"{prefix}{table[template].format(*numbers)}.{parameter}"

    def ignored(self, hub_name: str) -> str | None:
        """Why a stored tensor that has no place in any model may be left out, or None."""
        if hub_name.removeprefix(self.prefix) in (
            "embeddings.position_ids",
            "embeddings.token_type_ids",
        ):
            return "a counter that old files store; computed here"
        if hub_name == f"{self.decoder}.weight":
            return "a copy of the word embeddings (tied)"
        if hub_name == f"{self.decoder}.bias":
            return "a copy of the masked-LM bias"
        return None


def modern(hub_name: str) -> str:
    """Old TensorFlow-era norm parameters by today's names: gamma -> weight, beta -> bias."""
    if hub_name.endswith("LayerNorm.gamma"):
        return hub_name[: -len("gamma")] + "weight"
    if hub_name.endswith("LayerNorm.beta"):
        return hub_name[: -len("beta")] + "bias"
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
            f"groups.{{}}.layers.{{}}.{own}": (
                f"encoder.albert_layer_groups.{{}}.albert_layers.{{}}.{hub}"
            )
            for own, hub in {
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
)

ARCHITECTURES: Mapping[str, HubNames] = {"bert": BERT, "distilbert": DISTILBERT, "albert": ALBERT}


def architecture_of(hub_names: Iterable[str]) -> str | None:
    """Guess the architecture ("bert", "distilbert", "albert") from the stored tensor names.

    Returns:
        The only architecture whose table knows at least one layer tensor; None if unclear.
    """
    stored = list(hub_names)
    found = []
    for architecture, names in ARCHITECTURES.items():
        own = (names.to_own(name) or "" for name in stored)
        if any(name.startswith((f"{ENCODER}layers.", f"{ENCODER}groups.")) for name in own):
            found.append(architecture)
    return found[0] if len(found) == 1 else None
