"""The variable names of the original TensorFlow checkpoints, as tables.

Each row pairs a module here with the TensorFlow scope that has the same parameters; `{}` stands for
the number of a layer or group. The content of a scope depends on its kind:

- an embedding table is the variable itself;
- a dense layer has `kernel` and `bias`; a kernel is (in, out), so it is transposed;
- a norm has `gamma` and `beta`;
- an output layer that Google's scripts write by hand has `output_weights`, (out, in) as in PyTorch,
  and `output_bias`.

References:
    google-research/bert and google-research/albert, modeling.py, run_pretraining.py,
    run_classifier.py and run_squad.py; brightmart/albert_zh, modeling.py
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from minilm.checkpoints.names import ALBERT, BERT, ENCODER, HubNames

PROJECTION = "embeddings.projection"

# Scopes that hub.Module and others put before the name.
_WRAPPERS = re.compile(r"^(?:module/|model/)+")
# The number of a layer or group; those in attention_1, ffn_1 and LayerNorm_1 are constant.
_NUMBER = re.compile(r"(?<=layer_|group_)\d+(?=/)")
# The last part of the name of a variable that is not a weight -> what it is.
_STATE = {
    **dict.fromkeys(("adam_m", "adam_v", "Adam", "Adam_1"), "Adam's state"),
    **dict.fromkeys(("lamb_m", "lamb_v", "LAMB", "LAMB_1"), "LAMB's state"),
    **dict.fromkeys(("vr", "vc", "v"), "Adafactor's state"),
    **dict.fromkeys(("AdamWeightDecayOptimizer", "AdamWeightDecayOptimizer_1"), "Adam's state"),
    **dict.fromkeys(("beta1_power", "beta2_power"), "Adam's state"),
    **dict.fromkeys(("Momentum", "ExponentialMovingAverage"), "an optimiser's state"),
    "global_step": "the number of the step",
    "current_loss_scale": "the loss scale of mixed precision",
    "good_steps": "the loss scale of mixed precision",
    "STOP": "a signal of the training script",
}


@dataclass(frozen=True)
class TensorFlowNames:
    """The variables of one family of checkpoints.

    Attributes:
        hub: the names under which tensors are finally stored.
        tables: module of a base model -> variable.
        dense, norms: module of a base model -> scope.
        head_dense, head_norms: module of a task model -> scope.
        outputs: tensor of a task model -> variable.
    """

    hub: HubNames
    tables: Mapping[str, str]
    dense: Mapping[str, str]
    norms: Mapping[str, str]
    head_dense: Mapping[str, str]
    head_norms: Mapping[str, str]
    outputs: Mapping[str, str]
    _rows: dict[str, tuple[str, bool]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        rows = self._rows
        for module, variable in self.tables.items():
            rows[variable] = (f"{ENCODER}{module}.weight", False)
        for prefix, layers in ((ENCODER, self.dense), ("", self.head_dense)):
            for module, scope in layers.items():
                rows[f"{scope}/kernel"] = (f"{prefix}{module}.weight", True)
                rows[f"{scope}/bias"] = (f"{prefix}{module}.bias", False)
        for prefix, layers in ((ENCODER, self.norms), ("", self.head_norms)):
            for module, scope in layers.items():
                rows[f"{scope}/gamma"] = (f"{prefix}{module}.weight", False)
                rows[f"{scope}/beta"] = (f"{prefix}{module}.bias", False)
        for tensor, variable in self.outputs.items():
            rows[variable] = (tensor, False)

    def to_local(self, variable: str) -> tuple[str, bool] | None:
        """The tensor of a task model that a variable holds, and whether it is transposed.

        Args:
            variable: the variable's name in the checkpoint.

        Returns:
            None for a variable that is not in the table.
        """
        plain = unwrapped(variable)
        row = self._rows.get(_NUMBER.sub("{}", plain))
        return row and (row[0].format(*_NUMBER.findall(plain)), row[1])


def unwrapped(variable: str) -> str:
    """A variable's name without the scopes that TF-Hub puts before it."""
    return _WRAPPERS.sub("", variable)


def state(variable: str) -> str | None:
    """Describes a variable that belongs to the training, not to the model; None for weights."""
    *_, last = variable.split("/")
    return _STATE.get(last)


_TABLES = {
    "embeddings.word": "bert/embeddings/word_embeddings",
    "embeddings.position": "bert/embeddings/position_embeddings",
    "embeddings.token_type": "bert/embeddings/token_type_embeddings",
}
_EMBEDDING_NORM = {"embeddings.norm": "bert/embeddings/LayerNorm"}
_POOLER = {"pooler.dense": "bert/pooler/dense"}
_HEAD_DENSE = {"masked_lm_head.dense": "cls/predictions/transform/dense"}
_HEAD_NORMS = {"masked_lm_head.norm": "cls/predictions/transform/LayerNorm"}


def _outputs(pair_head: str) -> dict[str, str]:
    return {
        "masked_lm_head.bias": "cls/predictions/output_bias",
        f"{pair_head}.weight": "cls/seq_relationship/output_weights",
        f"{pair_head}.bias": "cls/seq_relationship/output_bias",
        "classifier.weight": "output_weights",
        "classifier.bias": "output_bias",
        "span_head.weight": "cls/squad/output_weights",
        "span_head.bias": "cls/squad/output_bias",
    }


# A layer of BERT: module in it -> scope in it.
_LAYER_DENSE = {
    "attention.query": "attention/self/query",
    "attention.key": "attention/self/key",
    "attention.value": "attention/self/value",
    "attention.output": "attention/output/dense",
    "feed_forward.intermediate": "intermediate/dense",
    "feed_forward.output": "output/dense",
}
_LAYER_NORMS = {
    "attention_norm": "attention/output/LayerNorm",
    "feed_forward_norm": "output/LayerNorm",
}


def _layer(local: str, scope: str, parts: Mapping[str, str]) -> dict[str, str]:
    return {f"{local}.{module}": f"{scope}/{inside}" for module, inside in parts.items()}


TF_BERT = TensorFlowNames(
    hub=BERT,
    tables=_TABLES,
    dense=_layer("layers.{}", "bert/encoder/layer_{}", _LAYER_DENSE) | _POOLER,
    norms=_layer("layers.{}", "bert/encoder/layer_{}", _LAYER_NORMS) | _EMBEDDING_NORM,
    head_dense=_HEAD_DENSE,
    head_norms=_HEAD_NORMS,
    outputs=_outputs("next_sentence_head"),
)

_GROUP = "bert/encoder/transformer/group_{}/inner_group_{}"

TF_ALBERT = TensorFlowNames(
    hub=ALBERT,
    tables=_TABLES,
    dense={
        PROJECTION: "bert/encoder/embedding_hidden_mapping_in",
        **_layer(
            "groups.{}.layers.{}",
            _GROUP,
            {
                "attention.query": "attention_1/self/query",
                "attention.key": "attention_1/self/key",
                "attention.value": "attention_1/self/value",
                "attention.output": "attention_1/output/dense",
                "feed_forward.intermediate": "ffn_1/intermediate/dense",
                "feed_forward.output": "ffn_1/intermediate/output/dense",
            },
        ),
        **_POOLER,
    },
    norms=_layer(
        "groups.{}.layers.{}",
        _GROUP,
        {"attention_norm": "LayerNorm", "feed_forward_norm": "LayerNorm_1"},
    )
    | _EMBEDDING_NORM,
    head_dense=_HEAD_DENSE,
    head_norms=_HEAD_NORMS,
    outputs=_outputs("sentence_order_head"),
)

# brightmart's Chinese ALBERT: BERT's layer under one name, and two matrices of word embeddings, the
# second without a bias and before positions are added.
ZH_PROJECTION = "bert/embeddings/word_embeddings_2"

TF_ALBERT_ZH = TensorFlowNames(
    hub=ALBERT,
    tables=_TABLES,
    dense=_layer("groups.0.layers.0", "bert/encoder/layer_shared", _LAYER_DENSE) | _POOLER,
    norms=_layer("groups.0.layers.0", "bert/encoder/layer_shared", _LAYER_NORMS) | _EMBEDDING_NORM,
    head_dense=_HEAD_DENSE,
    head_norms=_HEAD_NORMS,
    outputs=_outputs("sentence_order_head"),
)


def family_of(variables: Iterable[str]) -> TensorFlowNames | None:
    """The table for a checkpoint, found by its layer names; None if it is of no known kind."""
    plain = [unwrapped(variable) for variable in variables]
    if ZH_PROJECTION in plain:
        return TF_ALBERT_ZH
    for start, names in (
        ("bert/encoder/transformer/group_", TF_ALBERT),
        ("bert/encoder/layer_", TF_BERT),
    ):
        if any(variable.startswith(start) for variable in plain):
            return names
    return None
