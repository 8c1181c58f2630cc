"""Finds configurations, without weights: of public models by their hub names, and in files."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minilm.checkpoints.config_file import MAX_BYTES
from minilm.checkpoints.hub import SHIPPED, resolve
from minilm.config import AlbertConfig, BertConfig, DistilBertConfig, EncoderConfig
from minilm.errors import ConfigError, InputError
from minilm.files.file_names import CONFIG
from minilm.files.json_file import read_json

CASED, MULTILINGUAL, GERMAN = 28_996, 119_547, 31_102  # vocabulary sizes
KINDS: tuple[type[EncoderConfig], ...] = (AlbertConfig, BertConfig, DistilBertConfig)


def _bert(layers: int, hidden: int, **changes: Any) -> BertConfig:
    sizes = {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": hidden // 64,
        "intermediate_size": 4 * hidden,
    }
    return BertConfig(**{**sizes, **changes})


def _albert(
    layers: int, hidden: int, heads: int, *, activation: str = "gelu_new", dropout: float = 0.0
) -> AlbertConfig:
    return AlbertConfig(
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        hidden_act=activation,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )


# size -> layers, H, heads
_ALBERT_SIZES = {
    "base": (12, 768, 12),
    "large": (24, 1024, 16),
    "xlarge": (24, 2048, 16),
    "xxlarge": (12, 4096, 64),
}

# full name on the hub -> configuration; the part after the owner is enough to find it
PUBLISHED: Mapping[str, EncoderConfig] = {
    "google-bert/bert-base-uncased": _bert(12, 768),
    "google-bert/bert-base-cased": _bert(12, 768, vocab_size=CASED),
    "google-bert/bert-base-multilingual-cased": _bert(12, 768, vocab_size=MULTILINGUAL),
    "google-bert/bert-large-uncased": _bert(24, 1024),
    "google-bert/bert-large-cased": _bert(24, 1024, vocab_size=CASED),
    "prajjwal1/bert-tiny": _bert(2, 128),
    "prajjwal1/bert-small": _bert(4, 512),
    "sentence-transformers/all-MiniLM-L6-v2": _bert(6, 384, num_attention_heads=12),
    "microsoft/MiniLM-L12-H384-uncased": _bert(12, 384, num_attention_heads=12),
    "MiniLM-L12-H384": _bert(12, 384, num_attention_heads=12),
    "distilbert/distilbert-base-uncased": DistilBertConfig(),
    "distilbert/distilbert-base-cased": DistilBertConfig(vocab_size=CASED),
    "distilbert/distilbert-base-multilingual-cased": DistilBertConfig(vocab_size=MULTILINGUAL),
    "distilbert/distilbert-base-german-cased": DistilBertConfig(
        vocab_size=GERMAN, sinusoidal_position_embeddings=True
    ),
    "distilbert/distilbert-base-uncased-distilled-squad": DistilBertConfig(),
    "distilbert/distilbert-base-cased-distilled-squad": DistilBertConfig(
        vocab_size=CASED, sinusoidal_position_embeddings=True
    ),
    "distilbert/distilbert-base-uncased-finetuned-sst-2-english": DistilBertConfig(
        id2label={0: "NEGATIVE", 1: "POSITIVE"}
    ),
    **{
        f"albert/albert-{size}-v1": _albert(
            *sizes, activation="gelu", dropout=0.0 if size == "xxlarge" else 0.1
        )
        for size, sizes in _ALBERT_SIZES.items()
    },
    **{f"albert/albert-{size}-v2": _albert(*sizes) for size, sizes in _ALBERT_SIZES.items()},
    "nreimers/albert-small-v2": _albert(6, 768, 12),
    "sentence-transformers/paraphrase-albert-small-v2": _albert(6, 768, 12),
    "sentence-transformers/paraphrase-albert-base-v2": _albert(12, 768, 12),
}


def find_config(model: str | os.PathLike[str]) -> EncoderConfig:
    """The configuration of a model, without its weights and without network access.

    Args:
        model: a directory with a config.json, such a file, a name of `PUBLISHED`, with or without
            its owner, or the short name of a model in the repository. Existing files and
            directories take precedence.

    Raises:
        ConfigError: config.json is missing, damaged or of another kind of model.
        InputError: there is no such file and no such name; the message suggests similar names.

    Example:
        >>> find_config("albert-xxlarge-v2").hidden_size
        4096
    """
    name = os.fspath(model)
    path = Path(os.path.expanduser(model))
    if name and os.path.lexists(path):
        return _read(path / CONFIG if path.is_dir() else path)
    short = {full.rpartition("/")[2]: config for full, config in PUBLISHED.items()}
    known = PUBLISHED if "/" in name else short
    if name in known:
        return known[name]
    if name in SHIPPED:
        return _read(resolve(name) / CONFIG)
    near = difflib.get_close_matches(name, known, n=5)
    hint = f"Did you mean {', '.join(near)}?" if near else f"Known: {', '.join(short)}."
    raise InputError(
        f"{name[:200]!r} is neither a directory, a config.json nor a published name that minilm "
        f"knows. {hint} For another model, give the path of its config.json."
    )


def _read(path: Path) -> EncoderConfig:
    data = read_json(path, max_bytes=MAX_BYTES, error=ConfigError)
    for kind in KINDS:
        if data.get("model_type") == kind.model_type:
            try:
                return kind.from_dict(data)
            except ConfigError as error:
                raise ConfigError(f"{path}: {error}") from None
    raise ConfigError(
        f"{path}: model_type is {data.get('model_type')!r}: expected one of "
        f"{', '.join(kind.model_type for kind in KINDS)}. If you know which it is, add the key."
    )
