"""Loads a checkpoint without naming its class."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

from minilm.checkpoints.hub import resolve
from minilm.checkpoints.names import ARCHITECTURES, architecture_of
from minilm.checkpoints.weights import open_directory
from minilm.config import EncoderConfig
from minilm.errors import CheckpointError, InputError, by_place
from minilm.models import albert, bert, distilbert
from minilm.models.pretrained import PretrainedModel
from minilm.models.tasks import ForMaskedLM, ForPreTraining
from minilm.tokenization.tokenizer import Tokenizer

CLASSES: dict[str, type[PretrainedModel]] = {
    name: cls
    for module in (bert, distilbert, albert)
    for name, cls in vars(module).items()
    if isinstance(cls, type) and cls.__module__ == module.__name__
    if issubclass(cls, PretrainedModel)
}
STEMS = {"bert": "Bert", "distilbert": "DistilBert", "albert": "Albert"}


def load(
    path_or_repo: str | os.PathLike[str],
    *,
    revision: str | None = None,
    subfolder: str = "",
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    **options: Any,
) -> PretrainedModel:
    """Loads a checkpoint with the class that it was saved from.

    The class is found in a fixed table, first by `architectures` in config.json, then by
    `model_type` and the names of the stored tensors. Nothing that a file names is ever imported.

    Args:
        path_or_repo: a directory (no network access), or a hub name.
        revision, subfolder, token, cache_dir, local_files_only: as in huggingface_hub.
        **options: as for `PretrainedModel.from_pretrained`.

    Returns:
        The model in eval mode.

    Raises:
        CheckpointError: the class cannot be determined, or as for `from_pretrained`.

    Example:
        >>> model = minilm.load("sentence-transformers/all-MiniLM-L6-v2")
        >>> type(model).__name__
        'BertModel'
    """
    directory = resolve(
        path_or_repo,
        revision=revision,
        subfolder=subfolder,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
    )
    return find_class(directory).from_pretrained(directory, **options)


def load_masked_lm(path_or_repo: str | os.PathLike[str], **options: Any) -> ForMaskedLM:
    """Loads the encoder and the masked-LM head of a checkpoint, ignoring other heads.

    Args:
        path_or_repo: a directory, or a hub name.
        **options: as for `PretrainedModel.from_pretrained`.

    Raises:
        CheckpointError: the checkpoint has no masked-LM head.
    """
    model = _load_as("ForMaskedLM", path_or_repo, options)
    assert isinstance(model, ForMaskedLM)
    return model


def load_pretraining(path_or_repo: str | os.PathLike[str], **options: Any) -> ForPreTraining:
    """Loads a BERT or ALBERT with the heads it was pretrained with.

    Pooler and pair head may be missing, as in many public files: they are then initialised at
    random, and `model.load_report` lists them.

    Args:
        path_or_repo: a directory, or a hub name.
        **options: as for `PretrainedModel.from_pretrained`.

    Raises:
        CheckpointError: the checkpoint has no masked-LM head, or is a DistilBERT.
    """
    model = _load_as("ForPreTraining", path_or_repo, options)
    assert isinstance(model, ForPreTraining)
    return model


def load_finetuned(path_or_repo: str | os.PathLike[str], **options: Any) -> PretrainedModel:
    """Loads a checkpoint whose head is complete, for predictions.

    Args:
        path_or_repo: a directory, or a hub name.
        **options: as for `PretrainedModel.from_pretrained`.

    Raises:
        CheckpointError: the head or a part of it is not stored; random weights would give random
            answers.
    """
    model = load(path_or_repo, new_parts="allow", **options)
    if missing := missing_tensors(model):
        raise CheckpointError(
            f"{path_or_repo} does not store {', '.join(missing)} of its {type(model).__name__}, "
            "and new ones would give random answers. Fine-tune it first (minilm finetune --help), "
            "or correct architectures in config.json to the class that the weights belong to."
        )
    return model


def missing_tensors(model: PretrainedModel, under: str | tuple[str, ...] = "") -> list[str]:
    """The tensors of a loaded model that its checkpoint did not store, and so are random.

    Args:
        model: a loaded model.
        under: only tensors whose name in a task model of minilm begins with this.

    Returns:
        Names of tensors, as on the hub; none for a model that was not loaded.
    """
    if model.load_report is None:
        return []
    names = [f"{model.own_prefix}{entry.own}" for entry in model.load_report.of("new")]
    return [model.hub_names.to_hub(name) for name in names if name.startswith(under)]


def check_vocabulary(config: EncoderConfig, tokenizer: Tokenizer) -> None:
    """Raises InputError if a tokenizer has tokens for which the model has no embedding."""
    if tokenizer.vocab_size > config.vocab_size:
        raise InputError(
            f"The tokenizer has {tokenizer.vocab_size:,} tokens, the vocabulary of the model "
            f"{config.vocab_size:,} (vocab_size). Use the model's own tokenizer, or let the model "
            "grow: "
            + by_place(
                python=f"model.resize_token_embeddings({tokenizer.vocab_size}).",
                command="minilm finetune --resize-embeddings.",
            )
        )


def _load_as(
    head: str, path_or_repo: str | os.PathLike[str], options: dict[str, Any]
) -> PretrainedModel:
    """Loads a checkpoint with a masked-LM head, saved from any class."""
    directory = resolve(path_or_repo)
    stem = STEMS[find_class(directory).config_class.model_type]
    if f"{stem}{head}" not in CLASSES:
        raise CheckpointError(
            f"{directory} is a {stem}, and there is no {stem}{head}: a BERT or ALBERT is expected."
        )
    model = CLASSES[f"{stem}{head}"].from_pretrained(directory, new_parts="allow", **options)
    if missing := missing_tensors(model, "masked_lm_head"):
        others = f" or {stem}ForPreTraining" if f"{stem}ForPreTraining" in CLASSES else ""
        raise CheckpointError(
            f"{path_or_repo} has no masked-LM head (it lacks {missing[0]}), and a new one would "
            f"predict random words. Use a checkpoint of a {stem}ForMaskedLM{others}."
        )
    return model


def find_class(directory: os.PathLike[str]) -> type[PretrainedModel]:
    """The class that a checkpoint directory was saved from.

    Raises:
        CheckpointError: it cannot be determined; the message lists the classes to choose from.
    """
    path = resolve(directory)
    data, weights = open_directory(path)
    with weights:
        stored = {name: info.shape for name, info in weights.tensors.items()}
    architectures = data.get("architectures")
    if isinstance(architectures, list) and architectures:
        if isinstance(architectures[0], str) and architectures[0] in CLASSES:
            return CLASSES[architectures[0]]
        raise CheckpointError(
            f"{path / 'config.json'}: architectures is {architectures!r}, not among minilm's "
            f"classes ({', '.join(CLASSES)}). If one of them fits, call its from_pretrained."
        )
    model_type = data.get("model_type") or architecture_of(stored)
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        raise CheckpointError(
            f"{path / 'config.json'}: model_type is {model_type!r} and the tensor names do not "
            f"tell it either: expected one of {', '.join(ARCHITECTURES)}. If you know the class, "
            "call its from_pretrained."
        )
    names = ARCHITECTURES[model_type]
    head = _head({own: shape for name, shape in stored.items() if (own := names.to_local(name))})
    if head is None:
        raise CheckpointError(
            f"{path}: config.json names no architecture and the stored classifier could belong to "
            "several. Call from_pretrained of the class you mean, e.g. "
            f"minilm.{STEMS[model_type]}ForSequenceClassification."
        )
    return CLASSES[STEMS[model_type] + head]


def stored_heads(own: Collection[str]) -> list[str]:
    """The class name suffixes of the heads that a checkpoint stores.

    Args:
        own: names of the stored tensors in a task model of minilm.

    Returns:
        The suffixes. A classifier on pooled states counts as one of sequences, though it may be
        multiple choice.
    """
    heads = []
    pairs = {"next_sentence_head.weight", "sentence_order_head.weight"} & set(own)
    if "masked_lm_head.dense.weight" in own:
        heads.append("ForPreTraining" if pairs else "ForMaskedLM")
    elif "next_sentence_head.weight" in own:
        heads.append("ForNextSentencePrediction")
    if "span_head.weight" in own:
        heads.append("ForQuestionAnswering")
    if "classifier.weight" in own:
        pooled = {"encoder.pooler.dense.weight", "pre_classifier.weight"} & set(own)
        heads.append("ForSequenceClassification" if pooled else "ForTokenClassification")
    return heads


def _head(own: Mapping[str, tuple[int, ...]]) -> str | None:
    """The class name suffix that fits the stored tensors; None if several do."""
    head = (stored_heads(own) or ["Model"])[0]
    # one output on a pooled state is regression or multiple choice
    unclear = head == "ForSequenceClassification" and own["classifier.weight"][0] == 1
    return None if unclear else head
