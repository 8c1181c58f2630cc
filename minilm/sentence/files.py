"""The files of sentence-transformers with the settings of a sentence encoder.

`modules.json` lists the steps from text to vector, `sentence_bert_config.json` describes the
encoder, `1_Pooling/config.json` how token states become one vector, and
`config_sentence_transformers.json` the prompts. With these settings the vectors here equal those of
sentence-transformers. Version 6 writes other keys than earlier versions; both are read. No class
that the files name is imported, and settings that would give other vectors are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from minilm.errors import ConfigError
from minilm.files.atomic import replace_files
from minilm.files.file_names import CONFIG, MODULES, POOLING, PROMPTS, TRANSFORMER
from minilm.files.json_file import parse_json, read_bytes, read_json

MAX_BYTES = 1_000_000

NO_PROMPTS = {"query": "", "document": ""}  # prompt names that every model has
KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")  # in this order
# switches of versions before 6 -> names of pooling modes
_SWITCHES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# arguments of the tokenizer that change no vector: minilm does not pad here, and always truncates
_HARMLESS = {"padding", "pad_to_multiple_of", "truncation", "return_tensors"}
# one plain name beside modules.json
_FOLDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")


@dataclass(frozen=True)
class SentenceSettings:
    """The settings of a checkpoint as a sentence encoder; None where no file gives a value.

    Attributes:
        folder: the folder of encoder and tokenizer in the checkpoint's directory; usually "".
        max_length: length at which texts are cut, in tokens, special tokens included.
        pooling: "mean", "cls", or the names of other modes, joined by " + ".
        include_prompt: whether the tokens of a prompt are pooled too.
        unit_length: whether the last module scales every vector to length 1.
        lower_case: whether texts are lower-cased before they are tokenised.
        prompts: texts to put before a text, by name.
        default_prompt_name: name of the prompt that is used by default.
    """

    folder: str = ""
    max_length: int | None = None
    pooling: str | None = None
    include_prompt: bool = True
    unit_length: bool = False
    lower_case: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None


def read_sentence_settings(directory: Path) -> SentenceSettings:
    """Reads the settings from the files that exist.

    Raises:
        ConfigError: a file is damaged, a value has the wrong type, or there are modules or a
            pooling that minilm does not implement.
    """
    folders = _module_folders(directory)
    folder = folders.get("Transformer", "")
    pooling, include_prompt = _pooling(directory, folders.get("Pooling"))
    max_length, lower_case = _transformer(directory / folder)
    prompts, default = _prompts(directory / PROMPTS)
    return SentenceSettings(
        folder=folder,
        max_length=max_length,
        pooling=pooling,
        include_prompt=include_prompt,
        unit_length="Normalize" in folders,
        lower_case=lower_case,
        prompts=prompts,
        default_prompt_name=default,
    )


def write_sentence_settings(directory: Path, settings: SentenceSettings) -> None:
    """Writes the files for an encoder that is stored in the directory itself.

    Then both `minilm.SentenceEncoder` and sentence-transformers can load it.

    Args:
        directory: the directory of the encoder's weights.
        settings: `max_length` and `pooling` must not be None; `folder` is not used.

    Raises:
        CheckpointError: the directory cannot be written.
    """
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    modules += [("2_Normalize", "Normalize")] if settings.unit_length else []
    names = [
        {
            "idx": number,
            "name": str(number),
            "path": path,
            "type": f"sentence_transformers.models.{kind}",
        }
        for number, (path, kind) in enumerate(modules)
    ]
    pooling = {
        "word_embedding_dimension": read_json(
            directory / CONFIG, max_bytes=MAX_BYTES, error=ConfigError
        ).get("hidden_size"),
        **{key: name == settings.pooling for key, name in _SWITCHES.items()},
        "include_prompt": settings.include_prompt,
    }
    encoder = {"max_seq_length": settings.max_length, "do_lower_case": settings.lower_case}
    prompts = {
        "prompts": dict(settings.prompts),
        "default_prompt_name": settings.default_prompt_name,
        "similarity_fn_name": "cosine",
    }
    for path, _ in modules[1:]:
        (directory / path).mkdir(exist_ok=True)
    contents = {MODULES: names, POOLING: pooling, TRANSFORMER[0]: encoder, PROMPTS: prompts}
    for name, content in contents.items():
        data = (json.dumps(content, indent=2) + "\n").encode()
        replace_files({directory / name: partial(Path.write_bytes, data=data)})


def _module_folders(directory: Path) -> dict[str, str]:
    """The folder of each module.

    Raises:
        ConfigError: there is a module that minilm does not have, such as Dense: leaving it out
            would give other vectors.
    """
    path = directory / MODULES
    if not path.exists():
        return {}
    try:
        modules = parse_json(read_bytes(path, max_bytes=MAX_BYTES, error=ConfigError))
        types = [str(module["type"]) for module in modules]
        folders = [str(module.get("path") or "") for module in modules]
    except (ValueError, TypeError, KeyError, AttributeError) as problem:
        raise ConfigError(f"{path}: no list of modules with a type each ({problem}).") from problem
    kinds = [
        name.rpartition(".")[2] if name.startswith("sentence_transformers.") else name
        for name in types
    ]
    if unknown := sorted(set(kinds) - set(KNOWN_MODULES)):
        raise ConfigError(
            f"{path}: vectors of this model go through {', '.join(unknown)}, which minilm does not "
            f"have (only {', '.join(KNOWN_MODULES)}). Use minilm.load for the encoder alone."
        )
    if kinds[:1] != ["Transformer"] or kinds != [name for name in KNOWN_MODULES if name in kinds]:
        raise ConfigError(
            f"{path}: the modules are {', '.join(kinds) or 'none'}; expected "
            f"{', '.join(KNOWN_MODULES)}, in this order and once each."
        )
    for name in folders:
        if name and not _FOLDER.fullmatch(name):
            raise ConfigError(
                f"{path}: {name!r:.200} is not a folder of a module, such as '1_Pooling'."
            )
    return dict(zip(kinds, folders, strict=True))


def _transformer(folder: Path) -> tuple[int | None, bool]:
    """The maximum length in tokens, and whether texts are lower-cased."""
    path = next((folder / name for name in TRANSFORMER if (folder / name).exists()), None)
    if path is None:
        return None, False
    config = read_json(path, max_bytes=MAX_BYTES, error=ConfigError)
    task = config.get("transformer_task") or "feature-extraction"
    output = _table(path, config, "modality_config", "text").get("method_output_name")
    if task != "feature-extraction" or output not in (None, "last_hidden_state"):
        raise ConfigError(
            f"{path}: vectors of this model are made of {output or task!r}, expected the "
            "last_hidden_state of feature-extraction. Use minilm.load for the model itself."
        )
    calls = _table(path, config, "processing_kwargs", "common")
    calls |= _table(path, config, "processing_kwargs", "text")
    unknown = sorted(calls.keys() - _HARMLESS - {"max_length"})
    if unknown or calls.get("truncation") is False:
        raise ConfigError(
            f"{path}: processing_kwargs tells the tokenizer {', '.join(unknown) or 'not to cut'}, "
            "which minilm does not do. Use minilm.Encoder(model, tokenizer) to leave it out."
        )
    lengths = [calls.get("max_length"), config.get("max_seq_length")]
    for value in lengths:
        if value is not None and (type(value) is not int or value < 1):
            raise ConfigError(f"{path}: max_seq_length is {value!r}: expected a positive number.")
    return lengths[0] or lengths[1], bool(config.get("do_lower_case"))


def _table(path: Path, config: dict[str, Any], *keys: str) -> dict[str, Any]:
    """The object under nested keys; an empty one if a key is missing."""
    for key in keys:
        config = config.get(key) or {}
        if not isinstance(config, dict):
            raise ConfigError(f"{path}: {'.'.join(keys)}: expected objects, not {config!r:.200}.")
    return config


def _pooling(directory: Path, folder: str | None) -> tuple[str | None, bool]:
    """The names of the pooling modes, and whether the tokens of a prompt are pooled too."""
    path = directory / (POOLING if folder is None else f"{folder}/config.json")
    if not path.exists():
        return None, True
    config = read_json(path, max_bytes=MAX_BYTES, error=ConfigError)
    modes = config.get("pooling_mode", [mode for key, mode in _SWITCHES.items() if config.get(key)])
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, list) or not all(isinstance(mode, str) for mode in modes):
        raise ConfigError(f"{path}: pooling_mode is {modes!r}: expected a name or a list of names.")
    return " + ".join(modes) or None, config.get("include_prompt") is not False


def _prompts(path: Path) -> tuple[dict[str, str], str | None]:
    """The prompts by name, and the name of the default prompt."""
    if not path.exists():
        return {}, None
    config = read_json(path, max_bytes=MAX_BYTES, error=ConfigError)
    prompts, default = _table(path, config, "prompts"), config.get("default_prompt_name")
    if not all(isinstance(prompt, str | None) for prompt in prompts.values()):
        raise ConfigError(f"{path}: prompts is {prompts!r:.200}: expected texts by name.")
    prompts = {**NO_PROMPTS, **{name: prompt or "" for name, prompt in prompts.items()}}
    if default is not None and not (isinstance(default, str) and default in prompts):
        raise ConfigError(
            f"{path}: default_prompt_name is {default!r:.200}, which is not one of the prompts "
            f"({', '.join(prompts)})."
        )
    return prompts, default
