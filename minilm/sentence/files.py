"""What the files of sentence-transformers say about using a model as a sentence encoder.

Models that were trained to give sentence vectors come with `sentence_bert_config.json` (after how
many tokens a text is cut) and `1_Pooling/config.json` (how token states become one vector). Reading
them is what makes the vectors here those that the model's users know. Nothing that the files name
is imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from minilm.checkpoints.file_names import MAX_LENGTH, MODULES, POOLING
from minilm.checkpoints.json_file import parse_json, read_bytes, read_json
from minilm.errors import ConfigError

MAX_BYTES = 1_000_000

KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")
_MODE = "pooling_mode_"
_OWN_NAMES = {"mean_tokens": "mean", "cls_token": "cls"}


@dataclass(frozen=True)
class SentenceSettings:
    """How a checkpoint wants to be used; None where no file says anything.

    Attributes:
        max_length: texts are cut after so many tokens, special ones included.
        pooling: "mean", "cls", or the file's words for a way that minilm does not have.
    """

    max_length: int | None = None
    pooling: str | None = None


def read_sentence_settings(directory: Path) -> SentenceSettings:
    """Reads the files, as far as they are there.

    Raises:
        ConfigError: a file is damaged, a value has the wrong type, or the vectors go through a
            module that minilm does not have.
    """
    _check_modules(directory)
    return SentenceSettings(_max_length(directory), _pooling(directory))


def _check_modules(directory: Path) -> None:
    """Raises ConfigError for a module such as Dense: leaving it out would give other vectors."""
    path = directory / MODULES
    if not path.exists():
        return
    try:
        modules = parse_json(read_bytes(path, max_bytes=MAX_BYTES, error=ConfigError))
        kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
    except (ValueError, TypeError, KeyError) as problem:
        raise ConfigError(f"{path}: no list of modules with a type each ({problem}).") from problem
    unknown = sorted(set(kinds) - set(KNOWN_MODULES))
    if unknown:
        raise ConfigError(
            f"{path}: vectors of this model go through {', '.join(unknown)}, which minilm does not "
            f"have (only {', '.join(KNOWN_MODULES)}). Use minilm.load for the encoder alone."
        )


def _max_length(directory: Path) -> int | None:
    path = directory / MAX_LENGTH
    if not path.exists():
        return None
    value = read_json(path, max_bytes=MAX_BYTES, error=ConfigError).get("max_seq_length")
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ConfigError(f"{path}: max_seq_length is {value!r}: expected a positive number.")
    return value


def _pooling(directory: Path) -> str | None:
    path = directory / POOLING
    if not path.exists():
        return None
    modes = [
        _OWN_NAMES.get(key.removeprefix(_MODE), key)
        for key, value in read_json(path, max_bytes=MAX_BYTES, error=ConfigError).items()
        if key.startswith(_MODE) and value is True
    ]
    return " + ".join(modes) or None
