"""Load a checkpoint without naming its class."""

from __future__ import annotations

import os
from typing import Any

from minilm.checkpoints.hub import resolve
from minilm.checkpoints.names import ARCHITECTURES, architecture_of
from minilm.checkpoints.weights import open_directory
from minilm.errors import CheckpointError
from minilm.models import albert, bert, distilbert
from minilm.models.pretrained import PretrainedModel
from minilm.models.tasks import ForMaskedLM, ForPreTraining

CLASSES: dict[str, type[PretrainedModel]] = {
    **bert.CLASSES,
    **distilbert.CLASSES,
    **albert.CLASSES,
}
STEMS = {"bert": "Bert", "distilbert": "DistilBert", "albert": "Albert"}


def load(
    path_or_repo: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    **options: Any,
) -> PretrainedModel:
    """Load a checkpoint with the class that it was saved from.

    The class is found in a fixed table, first by `architectures` in config.json, then by
    `model_type` and the names of the stored tensors. Nothing that a file says is ever imported.

    Args:
        path_or_repo: a directory (no network is touched), or a hub name.
        revision, token, cache_dir, local_files_only: for hub names, as in huggingface_hub.
        **options: as for `PretrainedModel.from_pretrained`.

    Returns:
        The model in eval mode.

    Raises:
        CheckpointError: the class cannot be told, or as `from_pretrained`.

    Example:
        >>> model = minilm.load("sentence-transformers/all-MiniLM-L6-v2")
        >>> type(model).__name__
        'BertModel'
    """
    directory = resolve(
        path_or_repo,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
    )
    return find_class(directory).from_pretrained(directory, **options)


def load_masked_lm(path_or_repo: str | os.PathLike[str], **options: Any) -> ForMaskedLM:
    """Load the encoder and the masked-LM head of a checkpoint, whatever else it holds.

    Args:
        path_or_repo: a directory, or a hub name.
        **options: as for `PretrainedModel.from_pretrained`.

    Raises:
        CheckpointError: the checkpoint has no masked-LM head.
    """
    model, fresh, stem = _load_as("ForMaskedLM", path_or_repo, options)
    assert isinstance(model, ForMaskedLM)
    _require_masked_lm(fresh, path_or_repo, stem)
    return model


def load_pretraining(path_or_repo: str | os.PathLike[str], **options: Any) -> ForPreTraining:
    """Load a BERT or ALBERT with the heads it was pretrained with.

    Pooler and pair head may be missing, as in many public files: they start fresh, as
    `model.load_report` says.

    Args:
        path_or_repo: a directory, or a hub name.
        **options: as for `PretrainedModel.from_pretrained`.

    Raises:
        CheckpointError: the checkpoint has no masked-LM head, or is a DistilBERT.
    """
    model, fresh, stem = _load_as("ForPreTraining", path_or_repo, options)
    assert isinstance(model, ForPreTraining)
    _require_masked_lm(fresh, path_or_repo, stem)
    return model


def _load_as(
    head: str, path_or_repo: str | os.PathLike[str], options: dict[str, Any]
) -> tuple[PretrainedModel, list[str], str]:
    """A checkpoint with this head: the model, which tensors are fresh, the architecture's stem."""
    directory = resolve(path_or_repo)
    stem = STEMS[find_class(directory).config_class.model_type]
    if f"{stem}{head}" not in CLASSES:
        raise CheckpointError(
            f"{directory} is a {stem}, and there is no {stem}{head}: a BERT or ALBERT is expected."
        )
    model = CLASSES[f"{stem}{head}"].from_pretrained(directory, **options)
    assert model.load_report is not None
    return model, [entry.own or "" for entry in model.load_report.of("new")], stem


def _require_masked_lm(fresh: list[str], path: str | os.PathLike[str], stem: str) -> None:
    missing = [name for name in fresh if name.startswith("masked_lm_head")]
    if missing:
        others = f" or {stem}ForPreTraining" if f"{stem}ForPreTraining" in CLASSES else ""
        raise CheckpointError(
            f"{path} has no masked-LM head (it lacks {missing[0]}), and a new one would predict "
            f"random words. Use a checkpoint of a {stem}ForMaskedLM{others}."
        )


def find_class(directory: os.PathLike[str]) -> type[PretrainedModel]:
    """The class that a checkpoint directory was saved from.

    Raises:
        CheckpointError: it cannot be told; the message lists the classes to choose from.
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
            f"tell either: expected one of {', '.join(ARCHITECTURES)}. If you know the class, "
            "call its from_pretrained."
        )
    names = ARCHITECTURES[model_type]
    head = _head({own: shape for name, shape in stored.items() if (own := names.to_own(name))})
    if head is None:
        raise CheckpointError(
            f"{path}: config.json names no architecture and the stored classifier could belong to "
            "several. Call from_pretrained of the class you mean, e.g. "
            f"minilm.{STEMS[model_type]}ForSequenceClassification."
        )
    return CLASSES[STEMS[model_type] + head]


def _head(own: dict[str, tuple[int, ...]]) -> str | None:
    """The end of the class name that goes with the stored tensors; None if several do."""
    if "masked_lm_head.dense.weight" in own:
        pairs = {"next_sentence_head.weight", "sentence_order_head.weight"} & own.keys()
        return "ForPreTraining" if pairs else "ForMaskedLM"
    if "next_sentence_head.weight" in own:
        return "ForNextSentencePrediction"
    if "span_head.weight" in own:
        return "ForQuestionAnswering"
    if "classifier.weight" not in own:
        return "Model"
    if "encoder.pooler.dense.weight" not in own and "pre_classifier.weight" not in own:
        return "ForTokenClassification"
    # one output on a pooled state is regression or multiple choice
    return None if own["classifier.weight"][0] == 1 else "ForSequenceClassification"
