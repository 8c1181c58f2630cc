"""Model directories that must be refused, each with one clear error.

`cases()` is the corpus of the promise "a damaged or hostile file gives one clear error that names
the file and the tensor or key". Every case starts from a tiny valid BERT and breaks one thing.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Case:
    """A way to break a model directory.

    Attributes:
        name: what is wrong.
        part: what must notice: "weights" opening the weights, "config" reading config.json,
            "model" fitting the one to the other.
        write: writes the whole broken directory into an empty one.
        expected: what the message must contain.
    """

    name: str
    part: Literal["weights", "config", "model"]
    write: Callable[[Path], None]
    expected: tuple[str, ...]


def tiny_config() -> dict[str, Any]:
    """A BERT of one layer, as config.json has it."""
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": 8,
        "hidden_size": 4,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "max_position_embeddings": 8,
        "type_vocab_size": 2,
    }


def tiny_tensors() -> dict[str, torch.Tensor]:
    """The weights that go with `tiny_config`, by their names on the hub."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (8, 4),
        "embeddings.position_embeddings.weight": (8, 4),
        "embeddings.token_type_embeddings.weight": (2, 4),
        **_linear("pooler.dense", 4, 4),
        **_linear("encoder.layer.0.intermediate.dense", 8, 4),
        **_linear("encoder.layer.0.output.dense", 4, 8),
    }
    for name in ("self.query", "self.key", "self.value", "output.dense"):
        shapes |= _linear(f"encoder.layer.0.attention.{name}", 4, 4)
    for place in ("embeddings", "encoder.layer.0.attention.output", "encoder.layer.0.output"):
        shapes |= {f"{place}.LayerNorm.weight": (4,), f"{place}.LayerNorm.bias": (4,)}
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def _linear(name: str, outputs: int, inputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def write_valid(directory: Path) -> None:
    """The directory that every case breaks."""
    (directory / CONFIG).write_text(json.dumps(tiny_config()))
    (directory / WEIGHTS).write_bytes(save(tiny_tensors(), {"format": "pt"}))


def cases() -> list[Case]:
    """All of them, each with a name of its own."""
    found = [
        *_published_headers(),
        *_headers(),
        *_files(),
        *_indexes(),
        *_configs(),
        *_misfits(),
    ]
    assert len({case.name for case in found}) == len(found)
    return found


# --- safetensors files -----------------------------------------------------------------------


def raw_file(header: bytes | dict[str, Any], data: bytes = b"") -> bytes:
    """A safetensors file of any header and any data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(shape: list[Any], begin: Any, end: Any, dtype: str = "F32") -> dict[str, object]:
    """A tensor in a header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def _i32(shape: str, end: int) -> bytes:
    """A header of the published cases, which are spelled without spaces."""
    text = f'{{"test":{{"dtype":"I32","shape":{shape},"data_offsets":[0,{end}]}}}}'
    return struct.pack("<Q", len(text)) + text.encode()


_OVERLAP = ",".join(
    f'"weight_{i}":{{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}' for i in range(10)
)
_ZERO_SIZED = b'{"test":{"dtype":"I32","shape":[2,0],"data_offsets":[0, 0]}}'
_DISAGREE = b'{"test":{"dtype":"I32","shape":[2,2],"data_offsets":[0, 4]}}'

# The files of the safetensors library's own tests (huggingface/safetensors, commit 24b0b285,
# safetensors/src/tensor.rs), and what our message about each must contain. The four valid ones
# are no models: their case is "model".
PUBLISHED: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "ok minimal": (_i32("[2,2]", 16) + bytes(16), ("embeddings.word",)),
    "ten tensors in one place": (raw_file(f"{{{_OVERLAP}}}".encode(), bytes(16)), ("weight_",)),
    "appended bytes (polyglot)": (
        _i32("[2,2]", 16) + bytes(16) + b"extra_bogus_data_for_polyglot_file",
        ("appended", "84", "118"),
    ),
    "two bytes short": (_i32("[2,2]", 16) + bytes(14), ("cut short", "84", "82")),
    "huge header length": (
        struct.pack("<Q", 0xFFFFFF000000003C) + (_i32("[2,2]", 16) + bytes(16))[8:],
        ("header of", "download it again"),
    ),
    "empty file": (b"", ("0 bytes",)),
    "header length past the end": (bytes.fromhex("3c00000000000000"), ("cut short", "68")),
    "header not UTF-8": (bytes.fromhex("0100000000000000ff"), ("header", "utf-8")),
    "header not JSON": (bytes.fromhex("01000000000000007b"), ("header", "JSON")),
    "ok trailing whitespace": (bytes.fromhex("06000000000000007b7d0d20090a"), ("embeddings.word",)),
    "ok leading whitespace": (bytes.fromhex("0600000000000000090a7b7d0d20"), ("embeddings.word",)),
    "ok zero-sized tensor": (raw_file(_ZERO_SIZED), ("embeddings.word",)),
    "place disagrees with shape": (raw_file(_DISAGREE), ("'test'", "16", "4")),
    "shape overflows": (_i32("[2,18446744073709551614]", 16) + bytes(16), ("'test'",)),
    "bytes overflow": (_i32("[2,9223372036854775807]", 16) + bytes(16), ("'test'",)),
}


def _published_headers() -> Iterator[Case]:
    for name, (data, expected) in PUBLISHED.items():
        if name.startswith("ok"):
            yield _weights(f"published: {name}", data, *expected, part="model")
        else:
            yield _weights(f"published: {name}", data, WEIGHTS, *expected)


def _weights(
    name: str, data: bytes, *expected: str, part: Literal["weights", "model"] = "weights"
) -> Case:
    """A valid config.json with these bytes as the weights."""

    def write(directory: Path) -> None:
        (directory / CONFIG).write_text(json.dumps(tiny_config()))
        (directory / WEIGHTS).write_bytes(data)

    return Case(name, part, write, expected)


def _headers() -> Iterator[Case]:
    one = {"a": entry([2], 0, 8)}
    for name, data, *expected in (
        ("header length 2^63", struct.pack("<Q", 2**63) + b"{}", "9,223,372,036,854,775,808"),
        ("header length 10^8 + 1", struct.pack("<Q", 10**8 + 1) + b"{}", "100,000,001"),
        ("header length 0", bytes(8), "JSON"),
        ("file of 7 bytes", bytes(7), "7 bytes"),
        (
            "duplicate tensor",
            raw_file(b'{"a":%s,"a":%s}' % ((_bytes(one["a"]),) * 2), bytes(8)),
            "'a'",
            "twice",
        ),
        ("hole between tensors", raw_file({**one, "b": entry([2], 16, 24)}, bytes(24)), "'b'"),
        ("overlapping tensors", raw_file({**one, "b": entry([2], 4, 12)}, bytes(12)), "'b'"),
        ("data before the first tensor", raw_file({"a": entry([2], 8, 16)}, bytes(16)), "'a'"),
        ("place ends before it begins", raw_file({"a": entry([2], 8, 0)}, bytes(8)), "'a'"),
        ("negative place", raw_file({"a": entry([2], -8, 0)}, bytes(8)), "'a'"),
        ("negative length", raw_file({"a": entry([-2], 0, 8)}, bytes(8)), "'a'"),
        ("fractional length", raw_file({"a": entry([2.5], 0, 8)}, bytes(8)), "'a'"),
        ("place as text", raw_file({"a": entry([2], "0", "8")}, bytes(8)), "'a'"),
        ("no place", raw_file({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)), "'a'"),
        ("entry is a list", raw_file({"a": []}), "'a'"),
        ("unknown dtype", raw_file({"a": entry([2], 0, 8, "F99")}, bytes(8)), "'a'"),
        ("4-bit dtype", raw_file({"a": entry([2], 0, 1, "F4")}, bytes(1)), "'a'", "F4"),
        ("dtype in small letters", raw_file({"a": entry([2], 0, 8, "f32")}, bytes(8)), "'a'"),
        ("metadata not of strings", raw_file({"__metadata__": {"x": 1}}), "__metadata__"),
        ("header is a list", raw_file(b"[]"), "header"),
        ("header is a number", raw_file(b"17"), "header"),
        ("header of blanks", raw_file(b" " * 64), "header"),
        ("header nested deep", raw_file(b'{"a":' * 50_000), "header"),
        ("NUL in a tensor name", raw_file({"a\0b": entry([2], 0, 8)}, bytes(8)), r"'a\x00b'"),
        (
            "terminal codes in a tensor name",
            raw_file({"\x1b[2J": entry([2], 0, 8)}, bytes(8)),
            r"'\x1b[2J'",
        ),
        ("git LFS pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "LFS"),
        ("web page", b"<!DOCTYPE html><html><body>Not found</body></html>", "header of"),
        ("pickle, zip format", _pickle(zipped=True), "pickle"),
        ("pickle, old format", _pickle(zipped=False), "pickle"),
    ):
        yield _weights(name, data, WEIGHTS, *expected)

    def garbage(directory: Path) -> None:
        (directory / CONFIG).write_text(json.dumps(tiny_config()))
        with (directory / WEIGHTS).open("wb") as file:
            file.write(struct.pack("<Q", 10**8) + b"{garbage")
            file.truncate(8 + 10**8)

    yield Case("100 MB of garbage as header", "weights", garbage, (WEIGHTS, "100,000,000"))


def _bytes(value: object) -> bytes:
    return json.dumps(value).encode()


def _pickle(*, zipped: bool) -> bytes:
    import io

    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


# --- missing files and things in their place -------------------------------------------------


def _files() -> Iterator[Case]:
    def only(*names: str) -> Callable[[Path], None]:
        def write(directory: Path) -> None:
            (directory / CONFIG).write_text(json.dumps(tiny_config()))
            for name in names:
                (directory / name).write_bytes(b"something")

        return write

    convert = ("minilm convert", "--from-pickle")
    yield Case("only config.json", "weights", only(), (WEIGHTS, "config.json"))
    yield Case("only pytorch_model.bin", "weights", only("pytorch_model.bin"), convert)
    yield Case("only a .pt file", "weights", only("model.pt"), ("model.pt", *convert))
    yield Case("only a .ckpt file", "weights", only("best.ckpt"), ("best.ckpt", *convert))
    yield Case("only TensorFlow", "weights", only("tf_model.h5"), ("tf_model.h5", "unsupported"))
    yield Case(
        "only Flax", "weights", only("flax_model.msgpack"), ("flax_model.msgpack", "unsupported")
    )
    yield Case("only ONNX", "weights", only("model.onnx"), ("model.onnx", "unsupported"))
    yield Case("empty directory", "weights", lambda directory: None, ())

    def replaced(name: str, by: Callable[[Path], object]) -> Callable[[Path], None]:
        def write(directory: Path) -> None:
            write_valid(directory)
            (directory / name).unlink()
            by(directory / name)

        return write

    yield Case(
        "a directory as weights", "weights", replaced(WEIGHTS, Path.mkdir), (WEIGHTS, "directory")
    )
    yield Case("a pipe as weights", "weights", replaced(WEIGHTS, os.mkfifo), (WEIGHTS,))
    yield Case(
        "a device as weights",
        "weights",
        replaced(WEIGHTS, lambda path: path.symlink_to("/dev/zero")),
        (WEIGHTS, "no regular file"),
    )
    yield Case(
        "a broken link as weights",
        "weights",
        replaced(WEIGHTS, lambda path: path.symlink_to("../nowhere.safetensors")),
        (WEIGHTS, "link"),
    )
    yield Case("no config.json", "config", replaced(CONFIG, lambda path: None), (CONFIG,))
    yield Case("a directory as config", "config", replaced(CONFIG, Path.mkdir), (CONFIG,))
    yield Case("a pipe as config", "config", replaced(CONFIG, os.mkfifo), (CONFIG,))


# --- model.safetensors.index.json ------------------------------------------------------------


def write_sharded(directory: Path, weight_map: object = None) -> None:
    """The valid model in two shards; `weight_map` replaces the right one."""
    (directory / CONFIG).write_text(json.dumps(tiny_config()))
    tensors = tiny_tensors()
    names = sorted(tensors)
    right: dict[str, str] = {}
    for number, part in enumerate((names[:9], names[9:]), 1):
        shard = f"model-0000{number}-of-00002.safetensors"
        (directory / shard).write_bytes(save({name: tensors[name] for name in part}))
        right |= dict.fromkeys(part, shard)
    content = {"metadata": {}, "weight_map": right if weight_map is None else weight_map}
    (directory / INDEX).write_text(json.dumps(content))


# The names of huggingface_hub #4033 and #4540 (a parent directory on either system, absolute,
# with a drive, drive-relative, UNC, a pickle), and others of their kind.
MALICIOUS_NAMES = (
    "../x.safetensors",
    "..\\x.safetensors",
    "/tmp/x.safetensors",
    "C:\\x.safetensors",
    "D:x.safetensors",
    "\\\\server\\share\\x.safetensors",
    "x.bin",
    "//server/share/x.safetensors",
    "a/../../x.safetensors",
    "a\0.safetensors",
    "x.safetensors:stream.safetensors",
    "CON.safetensors",
    ".hidden.safetensors",
    "~/x.safetensors",
    "",
)


def _index(name: str, weight_map: object, *expected: str) -> Case:
    """The valid shards with this weight_map."""

    def write(directory: Path) -> None:
        write_sharded(directory, weight_map)

    return Case(name, "weights", write, (INDEX, *expected))


def _indexes() -> Iterator[Case]:
    first = "model-00001-of-00002.safetensors"
    for name in MALICIOUS_NAMES:
        yield _index(f"index names {name!r}", dict.fromkeys(tiny_tensors(), name), repr(name))
    thousand = {f"{i}": f"{i}.safetensors" for i in range(1000)}
    yield _index("index maps to a number", {"a": 7}, "7")
    yield _index("index maps to a list", {"a": [first]}, first)
    yield _index("index is empty", {}, "weight_map")
    yield _index("index maps by a list", [first], "weight_map")
    yield _index("index names a missing file", {"a": first, "b": "x.safetensors"}, "x.safetensors")
    yield _index("index names an unknown tensor", {"ghost.weight": first}, "'ghost.weight'")
    long = "x" * 300 + ".safetensors"
    yield _index("index names a file with a long name", {"a": first, "b": long}, "plain name")
    yield _index("index names 1,000 files", thousand, "1,000")

    def changed(change: Callable[[Path], object]) -> Callable[[Path], None]:
        def write(directory: Path) -> None:
            write_sharded(directory)
            change(directory)

        return write

    def misplace(directory: Path) -> None:
        content = json.loads((directory / INDEX).read_text())
        name = next(iter(content["weight_map"]))
        content["weight_map"][name] = "model-00002-of-00002.safetensors"
        (directory / INDEX).write_text(json.dumps(content))

    def store_twice(directory: Path) -> None:
        content = json.loads((directory / INDEX).read_text())
        (directory / "more.safetensors").write_bytes(save({"pooler.dense.bias": torch.zeros(4)}))
        content["weight_map"]["other"] = "more.safetensors"
        (directory / INDEX).write_text(json.dumps(content))

    def leave(directory: Path) -> None:
        outside = directory.parent / f"{directory.name}-outside.safetensors"
        (directory / first).rename(outside)
        (directory / first).symlink_to(outside)

    def mangle(text: str) -> Callable[[Path], object]:
        return lambda directory: (directory / INDEX).write_text(text)

    def cut(name: str, size: int) -> Callable[[Path], object]:
        return lambda directory: os.truncate(directory / name, size)

    def make_directory(directory: Path) -> None:
        (directory / INDEX).unlink()
        (directory / INDEX).mkdir()

    twice = '{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}'
    changes: list[tuple[str, Callable[[Path], object], tuple[str, ...]]] = [
        ("index maps to the other file", misplace, (INDEX, "embeddings.LayerNorm.bias")),
        ("a tensor in two files", store_twice, ("pooler.dense.bias", "more.safetensors")),
        ("a shard is a link out of the directory", leave, (first, "link")),
        ("a shard is missing", lambda directory: (directory / first).unlink(), (first,)),
        ("a shard is cut short", cut(first, 300), (first, "cut short")),
        ("index is no JSON", mangle('{"weight_map": {"a":'), (INDEX,)),
        ("index has a tensor twice", mangle(twice), (INDEX, "'a'")),
        ("index of 11 MB", cut(INDEX, 11_000_000), (INDEX, "11,000,000")),
        ("a directory as index", make_directory, (INDEX,)),
    ]
    for name, change, expected in changes:
        yield Case(name, "weights", changed(change), expected)


# --- config.json -----------------------------------------------------------------------------


def _configs() -> Iterator[Case]:
    for name, changes, *expected in (
        ("number as text", {"hidden_size": "4"}, "hidden_size"),
        ("true as number", {"num_hidden_layers": True}, "num_hidden_layers"),
        ("fraction as number", {"num_attention_heads": 2.0}, "num_attention_heads"),
        ("null as number", {"hidden_size": None}, "hidden_size"),
        ("list as number", {"vocab_size": [8]}, "vocab_size"),
        ("negative layers", {"num_hidden_layers": -1}, "num_hidden_layers"),
        ("no layers", {"num_hidden_layers": 0}, "num_hidden_layers"),
        ("a million layers", {"num_hidden_layers": 10**6}, "num_hidden_layers"),
        ("heads do not divide", {"num_attention_heads": 3}, "hidden_size", "num_attention_heads"),
        ("no heads", {"num_attention_heads": 0}, "num_attention_heads"),
        ("vocabulary of 2^40", {"vocab_size": 2**40}, "vocab_size", str(2**40)),
        ("positions of 2^40", {"max_position_embeddings": 2**40}, "max_position_embeddings"),
        ("no token types", {"type_vocab_size": 0}, "type_vocab_size"),
        (
            "each size is fine, their product is not",
            {"hidden_size": 2**16, "num_hidden_layers": 128, "intermediate_size": 2**18},
            "hidden_size",
        ),
        (
            "relative positions",
            {"position_embedding_type": "relative_key"},
            "position_embedding_type",
        ),
        ("a decoder", {"is_decoder": True}, "is_decoder"),
        ("cross attention", {"add_cross_attention": True}, "add_cross_attention"),
        ("untied embeddings", {"tie_word_embeddings": False}, "tie_word_embeddings"),
        ("unknown activation", {"hidden_act": "sin"}, "hidden_act", "sin"),
        ("activation as number", {"hidden_act": 3}, "hidden_act"),
        ("dropout above one", {"hidden_dropout_prob": 1.5}, "hidden_dropout_prob"),
        (
            "dropout as text",
            {"attention_probs_dropout_prob": "0.1"},
            "attention_probs_dropout_prob",
        ),
        ("negative epsilon", {"layer_norm_eps": -1e-12}, "layer_norm_eps"),
        ("padding beyond the vocabulary", {"pad_token_id": 8}, "pad_token_id"),
        ("labels as list", {"id2label": ["a", "b"]}, "id2label"),
        ("label numbers as words", {"id2label": {"zero": "a"}}, "id2label"),
        ("label names as lists", {"id2label": {"0": ["a"], "1": "b"}}, "id2label"),
        ("label count as text", {"num_labels": "two"}, "num_labels"),
        ("label count of 2^40", {"num_labels": 2**40}, "num_labels"),
        ("unknown model type", {"model_type": "t5", "architectures": None}, "model_type", "t5"),
        ("model type as list", {"model_type": ["bert"], "architectures": None}, "model_type"),
        ("unknown architecture", {"architectures": ["T5Model"]}, "architectures", "T5Model"),
        ("architecture as number", {"architectures": [7]}, "architectures"),
        ("of another architecture", {"architectures": ["AlbertModel"]}, "model_type"),
    ):
        text = json.dumps(tiny_config() | changes).encode()
        yield _config(name, text, *expected)
    valid = json.dumps(tiny_config()).encode()
    opened = valid.removesuffix(b"}")
    for name, text, *expected in (
        ("NaN", opened + b', "hidden_dropout_prob": NaN}', "NaN"),
        ("Infinity", opened + b', "layer_norm_eps": Infinity}', "Infinity"),
        ("1e999", opened + b', "layer_norm_eps": 1e999}', "1e999"),
        ("a number of 5,000 digits", opened + b', "x": ' + b"9" * 5000 + b"}"),
        ("duplicate key", opened + b', "hidden_size": 8}', "'hidden_size'", "twice"),
        ("list at the top", b"[" + valid + b"]", "a list"),
        ("text at the top", b'"bert"', "a string"),
        ("null", b"null", "null"),
        ("empty", b""),
        ("cut short", valid[:40]),
        ("something after the end", valid + b"{}"),
        ("a comment", b"// bert\n" + valid),
        ("not UTF-8", opened + b', "x": "\xff"}', "utf-8"),
        ("UTF-16", valid.decode().encode("utf-16")),
        ("20 MB", valid + b" " * 20_000_000, "bytes"),
        ("nested 100,000 deep", opened + b', "x": ' + b"[" * 100_000, "nested"),
        ("nested 65 deep", opened + b', "x": ' + b"[" * 65 + b"]" * 65 + b"}", "nested"),
    ):
        yield _config(name, text, *expected)


def _config(name: str, text: bytes, *expected: str) -> Case:
    """Valid weights with these bytes as config.json."""

    def write(directory: Path) -> None:
        write_valid(directory)
        (directory / CONFIG).write_bytes(text)

    return Case(f"config: {name}", "config", write, (CONFIG, *expected))


# --- weights that do not fit -----------------------------------------------------------------


def _misfits() -> Iterator[Case]:
    word = "embeddings.word_embeddings.weight"
    query = "encoder.layer.0.attention.self.query.weight"
    nan = torch.zeros(4, 4)
    nan[1, 2] = float("nan")
    for name, changes, *expected in (
        ("an embedding is missing", {word: None}, "embeddings.word"),
        ("a layer's tensor is missing", {query: None}, "attention.query.weight"),
        ("a tensor has another shape", {query: torch.zeros(4, 5)}, query, "(4, 5)", "(4, 4)"),
        ("a tensor of integers", {query: torch.zeros(4, 4, dtype=torch.int64)}, query, "int64"),
        ("a tensor of 8-bit floats", {query: torch.zeros(4, 4).to(torch.float8_e5m2)}, query),
        ("a tensor nobody knows", {"surprise.weight": torch.zeros(1)}, "surprise.weight"),
        (
            "one layer too many",
            {"encoder.layer.1.output.dense.bias": torch.zeros(4)},
            "encoder.layer.1.output.dense.bias",
        ),
        ("NaN", {query: nan}, query),
        ("infinity", {"pooler.dense.bias": torch.full((4,), torch.inf)}, "pooler.dense.bias"),
        ("a tensor without values", {word: torch.zeros(0, 4)}, word),
        ("a scalar", {"pooler.dense.bias": torch.tensor(1.0)}, "pooler.dense.bias"),
    ):
        tensors = {k: v for k, v in (tiny_tensors() | changes).items() if v is not None}
        yield _weights(f"misfit: {name}", save(tensors), *expected, part="model")

    def sparse(directory: Path) -> None:
        """A tensor of 64 GB, of which nothing is on the disk."""
        size = 2**36
        header = raw_file({word: entry([size // 16, 4], 0, size)})
        (directory / CONFIG).write_text(json.dumps(tiny_config()))
        with (directory / WEIGHTS).open("wb") as file:
            file.write(header)
            file.truncate(len(header) + size)

    yield Case("misfit: a tensor of 64 GB", "model", sparse, (word,))
