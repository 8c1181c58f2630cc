"""What is fuzzed: for every reader of files a way to feed it bytes, and valid files to start from.

Formats with lengths and checksums get these right for a part of the inputs, so that the fuzzer
reaches what stands behind them: the first byte of an input says how the rest is wrapped.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

import tensorflow_files as tf
from malformed import tiny_config, tiny_tensors
from minilm.checkpoints.config_file import read_config
from minilm.checkpoints.names import ALBERT
from minilm.checkpoints.tensorflow_config import hub_config
from minilm.checkpoints.weights import open_weights
from minilm.config import AlbertConfig, BertConfig, DistilBertConfig
from minilm.data.records.base import Skips
from minilm.data.records.files import read_records
from minilm.data.text_files import TextFormat, read_documents
from minilm.files.crc32c import masked_crc32c
from minilm.files.json_file import parse_json
from minilm.files.tensor_bundle import TensorBundle
from minilm.tokenization.tokenizer import Tokenizer
from tokenizer_files import PIECES, SPECIAL, description, spiece

Read = Callable[[Path, bytes], object]


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        read: writes an input into the directory as the file that the reader wants, and reads it.
        seeds: valid inputs.
        words: what inputs of this kind are made of; mutations put them in.
    """

    read: Read
    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...] = ()


def _put(directory: Path, name: str, data: bytes) -> Path:
    path = directory / name
    path.write_bytes(data)
    return path


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


# --- checkpoints ---


def _config(directory: Path, data: bytes) -> None:
    _put(directory, "config.json", data)
    content = read_config(directory)
    for cls in (BertConfig, DistilBertConfig, AlbertConfig):
        if content.get("model_type") in (None, cls.model_type):
            cls.from_dict(content).to_json_string()


def _safetensors(directory: Path, data: bytes) -> None:
    """First byte: 0 = the file itself, else the header, before so many bytes of values."""
    if data[:1] not in (b"", b"\0"):
        data = b"_" + struct.pack("<Q", len(data) - 1) + data[1:] + bytes(data[0])
    _put(directory, "model.safetensors", data[1:])
    with open_weights(directory) as weights:
        for name in weights.tensors:
            weights.read(name)


def _index(directory: Path, data: bytes) -> None:
    _put(directory, "model.safetensors.index.json", data)
    _put(directory, "model-00001-of-00001.safetensors", _WEIGHTS)
    with open_weights(directory) as weights:
        for name in weights.tensors:
            weights.read(name)


def _tensorflow(directory: Path, data: bytes) -> None:
    """First byte: 0 the file itself, 1 a block with data, 2 an entry, else the block of blocks."""
    kind, data = data[:1], data[1:]
    if kind == b"\1":
        data = _table(data)
    elif kind == b"\2":
        data = _table(tf.block([(b"", tf.message((1, 1))), (b"a", data)]))
    elif kind not in (b"", b"\0"):
        data = _table(tf.block([(b"", tf.message((1, 1)))]), data)
    _put(directory, "x.index", data)
    _put(directory, "x.data-00000-of-00001", bytes(64))
    bundle = TensorBundle(directory / "x")
    for name in bundle.variables:
        bundle.read(name)


def _table(first: bytes, top: bytes | None = None) -> bytes:
    """A sorted table of one block with data, everything else right."""
    out = b""
    places = []
    for content in (first, tf.block([]), top):
        if content is None:
            content = tf.block([(b"z", places[0])])
        places.append(tf.varint(len(out)) + tf.varint(len(content)))
        out += content + b"\0" + struct.pack("<I", masked_crc32c(content + b"\0"))
    return out + (places[1] + places[2]).ljust(40, b"\0") + struct.pack("<Q", tf.MAGIC)


def _google_config(directory: Path, data: bytes) -> None:
    path = _put(directory, "albert_config.json", data)
    try:
        content = parse_json(data)
    except ValueError:
        return
    if isinstance(content, dict):
        hub_config(content, path, ALBERT, _ALBERT_TENSORS, spiece=True)


# --- tokenizers ---


def _tokenizer(name: str, directory: Path, data: bytes) -> None:
    if name == "tokenizer_config.json":
        _put(directory, "vocab.txt", _VOCABULARY)
    _put(directory, name, data)
    tokenizer = Tokenizer.from_pretrained(directory)
    tokenizer.decode(tokenizer(["the test", "ab, 2010"])["input_ids"][0])


# --- data ---


def _records(name: str, format: str | None, directory: Path, data: bytes) -> None:
    """Inputs of odd length: bad records are skipped; of even length: they are errors."""
    path = _put(directory, name, data)
    skips = Skips("skip") if len(data) % 2 else Skips()
    for record in read_records(path, format=format, skips=skips):
        dict(record)


def _utterances(directory: Path, data: bytes) -> None:
    texts, _, tags = data.partition(b"\xff")
    for name, content in (("seq.in", texts), ("seq.out", tags), ("label", b"x\n")):
        _put(directory, name, content)
    list(read_records(directory, format="utterances", skips=Skips("skip")))


def _documents(name: str, directory: Path, data: bytes) -> None:
    path = _put(directory, name, data)
    lenient = TextFormat(encoding_errors="replace") if len(data) % 2 else TextFormat()
    for _ in read_documents(path, lenient):
        pass


_WEIGHTS = save(tiny_tensors(), metadata={"format": "pt"})
_HEADER = _WEIGHTS[8 : 8 + int.from_bytes(_WEIGHTS[:8], "little")]
_VOCABULARY = "\n".join([*SPECIAL, *"abcdefgh", "##a", "##b", "the", "test"]).encode()
_ALBERT = tiny_config() | {
    "embedding_size": 4,
    "model_type": "albert",
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "num_hidden_groups": 1,
    "num_labels": 2,
    "ln_type": "postln",
    "pooler_type": "first_token_transform",
}
_ALBERT_TENSORS = {
    f"encoder.embeddings.{name}.weight": torch.zeros(8, 4) for name in ("word", "token_type")
}
_ZEROS = np.zeros((2, 3), np.float32)
_ENTRY = tf.entry(_ZEROS, 0, 0, _ZEROS.tobytes())
_NEXT = tf.entry(_ZEROS, 0, 24, _ZEROS.tobytes())
_PAIRS = [(b"", tf.message((1, 1))), (b"bert/a", _ENTRY), (b"bert/b", _NEXT)]

_SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Rivers",
            "paragraphs": [
                {
                    "context": "The Rhine is long.",
                    "qas": [
                        {
                            "id": "1",
                            "question": "What is long?",
                            "answers": [{"text": "Rhine", "answer_start": 4}],
                        },
                        {"id": 2, "question": "Why?", "answers": [], "is_impossible": True},
                    ],
                }
            ],
        }
    ],
}
_ROWS = [{"text": "fine", "label": "good"}, {"text": "bad film", "label": "poor"}]
_JSON_WORDS = tuple(
    word.encode()
    for word in ("{", "}", "[", "]", '"', ":", ",", "null", "true", "1e999", "-1", "NaN", "\\ud800")
)
_CONFIG_WORDS = (
    *_JSON_WORDS,
    *(b'"%s"' % key.encode() for key in (*_ALBERT, "id2label", "label2id", "num_labels", "dim")),
    b"9" * 30,
)
_LINE_WORDS = (b"\t", b"\n", b"\r\n", b"\n\n", b" ", b'"', b",", b"\0", b"\xff", b"\xef\xbb\xbf")


def _parquet() -> tuple[bytes, ...]:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        return (b"PAR1",)
    names = {"label": {"_type": "ClassLabel", "names": ["a", "b"]}}
    classes = {b"huggingface": _json({"info": {"features": names}})}
    tables = [
        arrow.Table.from_pylist(_ROWS),
        arrow.Table.from_pylist([{"tokens": ["a", "b"], "tags": [1, 2]}]),
        arrow.Table.from_pylist([{"text": None, "time": datetime(2020, 1, 1)}]),
        arrow.Table.from_pylist([{"text": "a", "label": 1}]).replace_schema_metadata(classes),
    ]
    seeds = []
    for table in tables:
        file = io.BytesIO()
        parquet.write_table(table, file, compression="NONE")
        seeds.append(file.getvalue())
    return tuple(seeds)


_TABLE = b'text,label\nfine,good\n"a ""b"", c",poor\n"two\nlines",good\n'
_CONLL = b"-DOCSTART- -X- O O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\nGerman JJ B-NP B-MISC\n"
_CONLL_U = b"# text = a b\n1\ta\ta\tX\t_\t_\t0\troot\t_\tO\n1-2\tab\t_\t_\t_\t_\t_\t_\t_\t_\n\n"
_LINES = b"".join(_json(row) + b"\n" for row in _ROWS)

TARGETS: Mapping[str, Target] = {
    "config": Target(
        _config,
        (
            _json(tiny_config()),
            _json(_ALBERT | {"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}}),
            _json({"model_type": "distilbert", "dim": 8, "n_heads": 2, "n_layers": 1}),
        ),
        _CONFIG_WORDS,
    ),
    "safetensors-header": Target(
        _safetensors,
        (
            b"\0" + _WEIGHTS,
            b"\x10" + _HEADER,
            b"\4" + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        ),
        (*_JSON_WORDS, b'"dtype"', b'"shape"', b'"data_offsets"', b'"__metadata__"', b"F64", b"4"),
    ),
    "safetensors-index": Target(
        _index,
        (
            _json(
                {
                    "metadata": {"total_size": 8},
                    "weight_map": dict.fromkeys(tiny_tensors(), "model-00001-of-00001.safetensors"),
                }
            ),
        ),
        (*_JSON_WORDS, b"../", b"/etc/passwd", b"CON.safetensors", b".safetensors"),
    ),
    "tensorflow-index": Target(
        _tensorflow,
        (
            b"\0" + tf.table(_PAIRS),
            b"\1" + tf.block(_PAIRS, interval=2),
            b"\2" + _ENTRY,
            b"\3" + tf.block([(b"z", b"\0\x0f")]),
        ),
        tuple(tf.varint(n) for n in (127, 128, 2**31, 2**32, 2**62, 2**63, 2**64 - 1)),
    ),
    "google-config": Target(
        _google_config,
        (_json({k: v for k, v in _ALBERT.items() if k != "model_type"}),),
        _CONFIG_WORDS,
    ),
    "tokenizer-json": Target(
        partial(_tokenizer, "tokenizer.json"),
        (_json(description()),),
        (*_JSON_WORDS, b'"type"', b'"Unigram"', b'"Precompiled"', b'"Sequence"', b'"id"'),
    ),
    "tokenizer-config": Target(
        partial(_tokenizer, "tokenizer_config.json"),
        (
            _json({"do_lower_case": True, "cls_token": "[CLS]", "model_max_length": 512}),
            _json({"added_tokens_decoder": {"20": {"content": "<x>", "lstrip": True}}}),
            _json({"extra_special_tokens": ["<a>"], "strip_accents": None}),
        ),
        _JSON_WORDS,
    ),
    "vocab": Target(partial(_tokenizer, "vocab.txt"), (_VOCABULARY,), _LINE_WORDS),
    "spiece": Target(
        partial(_tokenizer, "spiece.model"),
        (spiece(PIECES), spiece(PIECES, compiled=None)),
        tuple(tf.varint(n) for n in (127, 128, 2**31, 2**63)),
    ),
    "csv": Target(partial(_records, "x.csv", None), (_TABLE,), _LINE_WORDS),
    "tsv": Target(partial(_records, "x.tsv", None), (_TABLE.replace(b",", b"\t"),), _LINE_WORDS),
    "json": Target(
        partial(_records, "x.json", None),
        (
            _json(_ROWS),
            _json({"text": ["a", "b"], "label": [0, 1]}),
            _json({"columns": ["text"], "data": [["a"]]}),
            _json({"0": {"text": "a"}, "1": {"text": "b"}}),
            _LINES,
        ),
        _JSON_WORDS,
    ),
    "jsonl": Target(partial(_records, "x.jsonl", None), (_LINES,), (*_JSON_WORDS, *_LINE_WORDS)),
    "squad": Target(
        partial(_records, "x.json", "squad"),
        (_json(_SQUAD),),
        (*_JSON_WORDS, b'"answers"', b'"answer_start"', b'"is_impossible"', b'"qas"'),
    ),
    "conll": Target(partial(_records, "x.conll", None), (_CONLL, _CONLL_U), _LINE_WORDS),
    "text": Target(partial(_records, "x.txt", None), (b"one text\nanother\n",), _LINE_WORDS),
    "glue": Target(
        partial(_records, "x.tsv", "glue:sst2"),
        (b"sentence\tlabel\na fine film\t1\nbad\t0\n",),
        _LINE_WORDS,
    ),
    "utterances": Target(
        _utterances, (b"play a song\xffO O B-x\n", b"a b\nc\xffO B-y\nO\n"), _LINE_WORDS
    ),
    "parquet": Target(partial(_records, "x.parquet", None), _parquet()),
    "documents-txt": Target(partial(_documents, "x.txt"), (b"one\ntwo\n\nthree\n",), _LINE_WORDS),
    "documents-jsonl": Target(
        partial(_documents, "x.jsonl"), (_LINES,), (*_JSON_WORDS, *_LINE_WORDS)
    ),
    "documents-json": Target(partial(_documents, "x.json"), (_json(_ROWS), _LINES), _JSON_WORDS),
    "documents-parquet": Target(partial(_documents, "x.parquet"), _parquet()),
}
