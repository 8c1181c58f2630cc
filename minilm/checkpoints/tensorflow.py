"""Converts Google's original BERT and ALBERT checkpoints, without TensorFlow.

The input is a checkpoint of TensorFlow 1 (`model.ckpt-best.index` and `.data-…`) with the variable
names of Google's code: from the archives of BERT and ALBERT, from a TF-Hub module
(`variables/variables.index`), from the fine-tuning scripts, or the Chinese ALBERT of
brightmart/albert_zh. The output is a model directory in the hub's layout.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from minilm.checkpoints.names import ENCODER
from minilm.checkpoints.report import Entry, LoadReport
from minilm.checkpoints.tensorflow_config import TANH_GELU, hub_config
from minilm.checkpoints.tensorflow_names import (
    PROJECTION,
    TF_ALBERT,
    TF_ALBERT_ZH,
    ZH_PROJECTION,
    TensorFlowNames,
    family_of,
    state,
    unwrapped,
)
from minilm.checkpoints.weights import save_directory
from minilm.errors import CheckpointError
from minilm.files.file_names import CONFIG
from minilm.files.json_file import json_bytes, read_json
from minilm.files.progress import DELAY
from minilm.files.tensor_bundle import INDEX_SUFFIX, TensorBundle

MAX_CONFIG_BYTES = 1_000_000
SHOWN = 8

_OBJECT_BASED = "/.ATTRIBUTES/VARIABLE_VALUE"
_DATA = re.compile(r"\.data-\d{5}-of-\d{5}$")
_WORD = f"{ENCODER}embeddings.word.weight"
_PROJECTION = f"{ENCODER}{PROJECTION}"


@dataclass(frozen=True)
class Source:
    """The files of one checkpoint.

    Attributes:
        prefix: the common part of the names of index and data files.
        config: the file that describes the model.
        vocabulary: vocab.txt or a sentencepiece model; None if there is none.
    """

    prefix: Path
    config: Path
    vocabulary: Path | None


def find_prefix(source: Path) -> Path | None:
    """The prefix of the TensorFlow checkpoint at a path; None if there is none.

    Args:
        source: a prefix such as `albert_base/model.ckpt-best`, its index file, or a directory with
            one checkpoint, at the top, in `variables/` or in its only subdirectory.

    Raises:
        CheckpointError: the directory holds several checkpoints.
    """
    if Path(f"{source}{INDEX_SUFFIX}").is_file():
        return source
    if source.is_file() and (source.suffix == INDEX_SUFFIX or _DATA.search(source.name)):
        return source.with_name(_DATA.sub("", source.name).removesuffix(INDEX_SUFFIX))
    if not source.is_dir():
        return None
    for pattern in ("*", "variables/*", "*/*", "*/variables/*"):
        found = sorted(source.glob(pattern + INDEX_SUFFIX))
        if len(found) > 1:
            names = ", ".join(str(path.relative_to(source)) for path in found[:SHOWN])
            first = str(found[0]).removesuffix(INDEX_SUFFIX)
            raise CheckpointError(
                f"{source} holds {len(found)} TensorFlow checkpoints: {names}. Name one of them, "
                f"without .index: {first}"
            )
        if found:
            return found[0].with_name(found[0].name.removesuffix(INDEX_SUFFIX))
    return None


def find_source(source: Path) -> Source:
    """The files of the checkpoint at a path.

    Raises:
        CheckpointError: there is no checkpoint, or no file that describes the model.
    """
    prefix = find_prefix(source)
    if prefix is None:
        what = "does not exist" if not source.exists() else "holds no TensorFlow checkpoint"
        raise CheckpointError(
            f"{source} {what}: expected files such as model.ckpt.index and "
            "model.ckpt.data-00000-of-00001. Give the extracted directory, or the path without "
            ".index."
        )
    here = prefix.parent
    folders = [here, here.parent / "assets"] if here.name == "variables" else [here]
    configs: list[Path] = []
    for pattern in ("*bert*config*.json", CONFIG):  # albert_config_tiny.json, bert_config.json
        configs = configs or [path for folder in folders for path in sorted(folder.glob(pattern))]
    if len(configs) != 1:
        found = ", ".join(path.name for path in configs) or "none"
        raise CheckpointError(
            f"{folders[-1]} needs one albert_config.json or bert_config.json, which says how many "
            f"layers and heads the model has; found: {found}. Put the one from the published "
            "archive there."
        )
    vocabularies = [
        path
        for pattern in ("*.model", "vocab*.txt")
        for folder in folders
        for path in sorted(folder.glob(pattern))
    ]
    if len(vocabularies) > 1:
        names = ", ".join(path.name for path in vocabularies)
        raise CheckpointError(
            f"{folders[-1]} has several vocabularies: {names}. Leave the one that belongs to the "
            "model."
        )
    return Source(prefix, configs[0], next(iter(vocabularies), None))


def convert_tensorflow(source: Source, destination: Path) -> LoadReport:
    """Writes a TensorFlow checkpoint as config.json, model.safetensors and the vocabulary file.

    The heads determine the class in config.json: with a masked-LM head and a head for pairs it is
    BertForPreTraining or AlbertForPreTraining, with the original sentence-order weights.

    Differs from the ALBERT v1 files on the hub: `hidden_act` is the tanh form of GELU for v1 too,
    because Google's code computes that; the hub's v1 files name the erf form.

    Args:
        source: the files of the checkpoint.
        destination: an existing directory.

    Returns:
        A report on every variable.

    Raises:
        CheckpointError: the files are damaged, or hold another model.
        ConfigError: the configuration is damaged.
    """
    bundle = TensorBundle(source.prefix)
    names = _family(bundle)
    raw = read_json(source.config, max_bytes=MAX_CONFIG_BYTES, error=CheckpointError)
    tensors, report = _translate(bundle, names)
    if names is TF_ALBERT_ZH:
        _check_post_norm(source.config, raw)
        tensors = _one_embedding_matrix(bundle, tensors, report)
    spiece = source.vocabulary is not None and source.vocabulary.suffix == ".model"
    config = hub_config(raw, source.config, names.hub, tensors, spiece=spiece)
    if config["hidden_act"] == TANH_GELU != raw.get("hidden_act"):
        report.notes.append(
            f"hidden_act is {TANH_GELU}, the tanh form that Google's ALBERT computes under the "
            "name gelu; config.json of the v1 models on the hub says gelu, the erf form"
        )
    if names is TF_ALBERT and f"{_PROJECTION}.weight" not in tensors:
        width = config["hidden_size"]
        if config["embedding_size"] == width:
            tensors |= _identity(width)
            report.notes.append(
                "embeddings as wide as the states: Google's code then has no projection, so an "
                "identity was written"
            )
    heads = any(not name.startswith(ENCODER) for name in tensors)
    stored = {names.hub.to_hub(name, with_prefix=heads): value for name, value in tensors.items()}
    save_directory(destination, config, stored)
    if source.vocabulary is None:
        report.notes.append("no vocab.txt or sentencepiece model found: no tokenizer was written")
    else:
        _copy_vocabulary(source.vocabulary, destination, config)
    return report


def _family(bundle: TensorBundle) -> TensorFlowNames:
    if any(name.endswith(_OBJECT_BASED) for name in bundle.variables):
        raise CheckpointError(
            f"{bundle.index} is a checkpoint of TensorFlow 2 (variables by objects, as in the "
            "model garden's and newer TF-Hub models). minilm reads Google's original TensorFlow 1 "
            "checkpoints; for this model look for the archive that its page calls original or TF1."
        )
    names = family_of(bundle.variables)
    if names is None:
        found = ", ".join(list(bundle.variables)[:SHOWN]) or "nothing"
        raise CheckpointError(
            f"{bundle.index} holds neither a BERT nor an ALBERT by the names of Google's code: "
            f"no bert/encoder/layer_N or bert/encoder/transformer/group_N. Found: {found}."
        )
    return names


def _translate(
    bundle: TensorBundle, names: TensorFlowNames
) -> tuple[dict[str, Tensor], LoadReport]:
    """The weights by their names in a task model, and a report on every variable.

    Raises:
        CheckpointError: a weight of the encoder is unknown, not a floating-point tensor, or
            present twice.
    """
    report = LoadReport(str(bundle.prefix))
    tensors: dict[str, Tensor] = {}
    for variable in tqdm(bundle.variables, delay=DELAY, desc="convert", disable=None):
        place = names.to_local(variable)
        if place is not None:
            local, transposed = place
            if local in tensors:
                raise CheckpointError(f"{bundle.index}: {variable!r} is there under two names.")
            tensor = bundle.read(variable)
            if not tensor.is_floating_point() or (transposed and tensor.ndim != 2):
                raise CheckpointError(
                    f"{bundle.index}: variable {variable!r} is {tuple(tensor.shape)} "
                    f"{tensor.dtype}, expected "
                    f"{'a matrix of ' if transposed else ''}floating-point numbers."
                )
            tensors[local] = tensor.T.contiguous() if transposed else tensor
            note = "transposed" if transposed else ""
            report.entries.append(Entry("renamed", variable, local, note))
        elif names is TF_ALBERT_ZH and unwrapped(variable) == ZH_PROJECTION:
            continue  # see _one_embedding_matrix
        elif reason := state(variable):
            report.entries.append(Entry("ignored", variable, None, reason))
        elif unwrapped(variable).startswith("bert/"):
            raise CheckpointError(
                f"{bundle.index}: variable {variable!r} is part of the encoder, but not of "
                "Google's BERT or ALBERT: the model was changed, and converting the rest would "
                "give wrong results."
            )
        else:
            note = "of no head that minilm has"
            report.entries.append(Entry("ignored", variable, None, note))
    return tensors, report


def _check_post_norm(path: Path, config: Mapping[str, Any]) -> None:
    """Refuses brightmart's models with the norm before each block (pre-norm).

    Both kinds have the same variables with the same shapes. The published pre-norm models are the
    xlarge ones (hidden_size 2048); where a config.json has the key `ln_type`, it says so.
    """
    kind = config.get("ln_type", "preln" if config.get("hidden_size") == 2048 else "postln")
    if kind != "postln":
        raise CheckpointError(
            f"{path}: brightmart's xlarge ALBERT has its norms before attention and feed-forward "
            "(pre-norm), whereas minilm's and the published ALBERT have them after; its weights "
            "would give wrong results without any error. If you know that this model was trained "
            'with norms after, add "ln_type": "postln" to the file.'
        )


def _one_embedding_matrix(
    bundle: TensorBundle, tensors: Mapping[str, Tensor], report: LoadReport
) -> dict[str, Tensor]:
    """Multiplies brightmart's two matrices of word embeddings, which ALBERT can represent exactly.

    In albert_zh the word embeddings (V, E) are multiplied by a second matrix (E, H) before position
    and token type, both H wide, are added; in Google's ALBERT everything is added E wide and
    projected afterwards. The product (V, H) with embedding_size = hidden_size and an identity as
    the projection computes the same, and the masked-LM head, which applies both matrices, is tied
    to the product.
    """
    variable = next(name for name in bundle.variables if unwrapped(name) == ZH_PROJECTION)
    second, first = bundle.read(variable), tensors.get(_WORD)
    if first is None or first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[0]:
        shape = None if first is None else tuple(first.shape)
        raise CheckpointError(
            f"{bundle.index}: word embeddings {shape} and {tuple(second.shape)} do not multiply."
        )
    product = (first.double() @ second.double()).to(first.dtype)
    report.entries.append(Entry("renamed", variable, _WORD, "multiplied into the word embeddings"))
    report.notes.append(
        f"embedding_size is {second.shape[1]} instead of {second.shape[0]}: albert_zh adds "
        "positions after the second embedding matrix, so the two were multiplied"
    )
    return {**tensors, _WORD: product, **_identity(second.shape[1])}


def _identity(width: int) -> dict[str, Tensor]:
    """The weights of an embedding projection that is the identity."""
    return {f"{_PROJECTION}.weight": torch.eye(width), f"{_PROJECTION}.bias": torch.zeros(width)}


def _copy_vocabulary(vocabulary: Path, destination: Path, config: Mapping[str, Any]) -> None:
    """Copies the vocabulary under the hub's name, with the settings that it needs there."""
    settings: dict[str, Any] = {"model_max_length": config["max_position_embeddings"]}
    try:
        if vocabulary.suffix == ".model":
            shutil.copyfile(vocabulary, destination / "spiece.model")
            settings |= {"tokenizer_class": "AlbertTokenizer", "do_lower_case": True}
        else:
            shutil.copyfile(vocabulary, destination / "vocab.txt")
            settings |= {"tokenizer_class": "BertTokenizer"}
    except OSError as problem:
        raise CheckpointError(f"{vocabulary} cannot be read: {problem.strerror}.") from problem
    (destination / "tokenizer_config.json").write_bytes(json_bytes(settings))
