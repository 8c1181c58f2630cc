"""Small tokenizer files of every layout, for tests."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minilm import Tokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def wordpiece(directory: Path, tokens: Sequence[str], **settings: object) -> Tokenizer:
    """A tokenizer from a vocab.txt, with `settings` as its tokenizer_config.json."""
    directory.mkdir(exist_ok=True)
    (directory / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    if settings:
        write_json(directory / "tokenizer_config.json", settings)
    return Tokenizer.from_pretrained(directory)


def message_field(number: int, value: bytes | int | float) -> bytes:
    """One field of a protocol buffer."""
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    data = b""
    while value > 127:
        data += bytes([value & 127 | 128])
        value >>= 7
    return data + bytes([value])


NORMAL, UNKNOWN, CONTROL, USER = 1, 2, 3, 4
PIECES: list[tuple[str, float, int]] = [
    ("<pad>", 0.0, CONTROL),
    ("<unk>", 0.0, UNKNOWN),
    ("[CLS]", 0.0, CONTROL),
    ("[SEP]", 0.0, CONTROL),
    ("[MASK]", 0.0, CONTROL),
    ('"', 0.0, USER),
    (".", 0.0, USER),
    ("▁", -2.0, NORMAL),
    (",", -3.0, NORMAL),
    ("▁the", -3.5, NORMAL),
    ("▁in", -4.0, NORMAL),
    ("▁test", -5.0, NORMAL),
    ("test", -5.5, NORMAL),
    ("▁2010,", -6.0, NORMAL),
    ("▁9", -6.5, NORMAL),
    ("▁2010", -7.0, NORMAL),
    ("2000,", -7.0, NORMAL),
    ("2000", -7.5, NORMAL),
    ("▁false", -8.0, NORMAL),
    ("▁fal", -8.5, NORMAL),
    ("▁snow", -9.0, NORMAL),
    *((letter, -10.0 - i / 8, NORMAL) for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz")),
]


def charsmap(replacements: Mapping[str, str], size: int | None = None) -> bytes:
    """sentencepiece's compiled normalisation: a double-array trie over bytes, then the results.

    Every node gets 256 units of its own, which is wasteful and easy to see through. `size` cuts the
    trie, which damages it.
    """
    trie, results = [0] * 256, b""
    bases = {b"": 256}  # node -> where its children begin
    trie[0] = 256 << 10
    trie += [0] * 256
    for source, target in replacements.items():
        key = source.encode()
        for end in range(1, len(key) + 1):
            node = key[:end]
            if node in bases:
                continue
            bases[node] = len(trie)
            position = bases[key[: end - 1]] ^ key[end - 1]
            trie += [0] * 256
            trie[position] = (position ^ bases[node]) << 10 | key[end - 1]
            if node == key:
                trie[position] |= 1 << 8
                trie[bases[node]] = len(results) | 1 << 31
        results += target.encode() + b"\0"
    units = struct.pack(f"<{len(trie)}I", *trie)[: None if size is None else 4 * size]
    return struct.pack("<I", len(units)) + units + results


def spiece(
    pieces: Sequence[tuple[str | bytes, float, int]] = PIECES,
    *,
    compiled: bytes | None = charsmap({"☃": "snow"}),
    model_type: int = 1,
    vocab_size: int | None = None,
    switches: Mapping[int, int] | None = None,
) -> bytes:
    """The bytes of a sentencepiece model."""
    data = b""
    for piece, score, kind in pieces:
        text = piece.encode() if isinstance(piece, str) else piece
        entry = message_field(1, text) + message_field(2, score) + message_field(3, kind)
        data += message_field(1, entry)
    trainer = message_field(3, model_type)
    trainer += message_field(4, len(pieces) if vocab_size is None else vocab_size)
    data += message_field(2, trainer)
    normalizer = message_field(1, b"nmt_nfkc")
    if compiled is not None:
        normalizer += message_field(2, compiled)
    for number, value in (switches or {}).items():
        normalizer += message_field(number, value)
    return data + message_field(3, normalizer)


def unigram(directory: Path, data: bytes | None = None, **settings: object) -> Tokenizer:
    """A tokenizer from a spiece.model, with `settings` as its tokenizer_config.json."""
    directory.mkdir(exist_ok=True)
    (directory / "spiece.model").write_bytes(spiece() if data is None else data)
    if settings:
        write_json(directory / "tokenizer_config.json", settings)
    return Tokenizer.from_pretrained(directory)


def description(**changes: object) -> dict[str, Any]:
    """A small valid tokenizer.json."""
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, "a", "b"])}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocabulary,
        },
    } | changes
