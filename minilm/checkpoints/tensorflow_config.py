"""Translates albert_config.json and bert_config.json of Google's checkpoints to config.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from minilm.checkpoints.names import ALBERT, ENCODER, HubNames
from minilm.config import AlbertConfig, BertConfig
from minilm.errors import CheckpointError, ConfigError

# Required keys: the weights do not tell the first two.
_REQUIRED = ("num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size")
# Google's defaults for missing keys, where they differ from the hub's.
_ALBERT_DEFAULTS = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
# Google's ALBERT computes the tanh form of GELU and calls it "gelu". BERT's files on the hub keep
# the name, and so the erf form.
GOOGLES_GELU, TANH_GELU = "gelu", "gelu_new"
# Keys of the file that say nothing about the model that is written.
_DROPPED = ("ln_type", "directionality")

# The kind of class by the head that is stored, the first that fits.
_CLASSES = (
    (("masked_lm_head.bias", "sentence_order_head.weight"), "ForPreTraining"),
    (("masked_lm_head.bias", "next_sentence_head.weight"), "ForPreTraining"),
    (("span_head.weight",), "ForQuestionAnswering"),
    (("classifier.weight",), "ForSequenceClassification"),
    (("masked_lm_head.bias",), "ForMaskedLM"),
    (("next_sentence_head.weight",), "ForNextSentencePrediction"),
)


def hub_config(
    raw: Mapping[str, Any],
    path: Path,
    names: HubNames,
    tensors: Mapping[str, Tensor],
    *,
    spiece: bool,
) -> dict[str, Any]:
    """The content of config.json.

    Args:
        raw: the content of Google's file.
        path: the file, for messages.
        names: the names of the architecture.
        tensors: the weights, by their names in a task model; widths that the file lacks or that
            the conversion changed are taken from them.
        spiece: whether the vocabulary is a sentencepiece model, whose bos and eos ids differ.

    Raises:
        CheckpointError: a key is missing.
        ConfigError: a value is invalid.
    """
    if missing := [key for key in _REQUIRED if key not in raw]:
        raise CheckpointError(
            f"{path} has no {', '.join(missing)}: it does not describe a BERT or ALBERT. Take the "
            "file from the published archive."
        )
    albert = names is ALBERT
    data: dict[str, Any] = {**(_ALBERT_DEFAULTS if albert else {}), **raw}
    data = {k: v for k, v in data.items() if k not in _DROPPED and not k.startswith("pooler_")}
    word = tensors.get(f"{ENCODER}embeddings.word.weight")
    types = tensors.get(f"{ENCODER}embeddings.token_type.weight")
    if word is None or types is None or word.ndim != 2 or types.ndim != 2:
        raise CheckpointError(
            f"{path.parent}: the checkpoint has no word or token-type embeddings."
        )
    data.setdefault("vocab_size", word.shape[0])
    data.setdefault("type_vocab_size", types.shape[0])
    if albert:
        data["embedding_size"] = word.shape[1]
        if data.setdefault("hidden_act", GOOGLES_GELU) == GOOGLES_GELU:
            data["hidden_act"] = TANH_GELU
        if spiece:
            data |= {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    if (classifier := tensors.get("classifier.weight")) is not None and classifier.ndim == 2:
        data["num_labels"] = classifier.shape[0]
    kind = next((kind for parts, kind in _CLASSES if all(p in tensors for p in parts)), "Model")
    data["architectures"] = [f"{'Albert' if albert else 'Bert'}{kind}"]
    try:
        config = (AlbertConfig if albert else BertConfig).from_dict(data)
    except ConfigError as problem:
        raise ConfigError(f"{path}: {problem}") from None
    if isinstance(config, AlbertConfig):
        _check_groups(path, config.num_hidden_layers, config.num_hidden_groups)
    return config.to_dict()


def _check_groups(path: Path, layers: int, groups: int) -> None:
    """Refuses a number of groups that Google's code and Hugging Face's distribute differently.

    Both divide in floating point, in different order; no published model is affected.
    """
    if any(int(i / layers * groups) != int(i / (layers / groups)) for i in range(layers)):
        raise CheckpointError(
            f"{path}: {layers} layers in {groups} groups. Google's code and Hugging Face's assign "
            "some of these layers to different groups, so the result would not be the same model."
        )
