"""Writes TensorFlow checkpoints and computes what Google's code would, knowing nothing of minilm.

The writer follows LevelDB's and TensorFlow's documents on its own: checksums bit by bit, blocks
with prefix compression and restarts, several blocks, several data files. The forward passes are
numpy in Google's convention: kernels are (in, out), x @ kernel + bias.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Variables = dict[str, Array]

MAGIC = 0xDB4775248B80FB57
TYPES = {"float32": 1, "float64": 2, "int32": 3, "int64": 9, "float16": 19}


def checksum(data: bytes) -> int:
    """Masked CRC-32C, one bit after another."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ 0x82F63B78 if crc & 1 else crc >> 1
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | ((crc << 17) & 0xFFFFFFFF)) + 0xA282EAD8) & 0xFFFFFFFF


def varint(number: int) -> bytes:
    parts = []
    while number > 0x7F:
        parts.append(0x80 | (number & 0x7F))
        number >>= 7
    return bytes([*parts, number])


def message(*fields: tuple[int, int | bytes]) -> bytes:
    """A protocol buffer: numbers as varints, bytes with their length."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            out += varint(number << 3 | 2) + varint(len(value)) + value
    return out


def entry(array: Array, shard: int, offset: int, data: bytes) -> bytes:
    """A BundleEntryProto."""
    dims = b"".join(message((2, message((1, size)))) for size in array.shape)
    start = message((1, TYPES[array.dtype.name]), (2, dims), (3, shard), (4, offset))
    return start + message((5, len(data))) + varint(6 << 3 | 5) + struct.pack("<I", checksum(data))


def block(pairs: list[tuple[bytes, bytes]], interval: int = 16) -> bytes:
    """The content of a block, with a restart every `interval` pairs."""
    out, restarts, before = b"", [], b""
    for number, (key, value) in enumerate(pairs):
        shared = 0
        if number % interval:
            while shared < min(len(key), len(before)) and key[shared] == before[shared]:
                shared += 1
        else:
            restarts.append(len(out))
        rest = key[shared:]
        out += varint(shared) + varint(len(rest)) + varint(len(value)) + rest + value
        before = key
    restarts = restarts or [0]
    return out + b"".join(struct.pack("<I", place) for place in [*restarts, len(restarts)])


def table(pairs: list[tuple[bytes, bytes]], pairs_in_block: int = 7, compression: int = 0) -> bytes:
    """A whole sorted table."""
    out = b""

    def place(content: bytes) -> bytes:
        nonlocal out
        handle = varint(len(out)) + varint(len(content))
        kind = bytes([compression])
        out += content + kind + struct.pack("<I", checksum(content + kind))
        return handle

    pairs = sorted(pairs)
    parts = [pairs[i : i + pairs_in_block] for i in range(0, len(pairs), pairs_in_block)]
    index = [(part[-1][0], place(block(part, interval=3))) for part in parts]
    meta = place(block([]))
    top = place(block(index, interval=1))
    return out + (meta + top).ljust(40, b"\0") + struct.pack("<Q", MAGIC)


def write_checkpoint(prefix: Path, variables: Mapping[str, Array], shards: int = 2) -> Path:
    """Writes an index and its data files; values lie in another order than names."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    data = [bytearray() for _ in range(shards)]
    pairs = [(b"", message((1, shards), (3, message((1, 1)))))]
    for number, name in enumerate(sorted(variables, key=lambda name: name[::-1])):
        values = variables[name].tobytes()
        shard = number % shards
        pairs.append((name.encode(), entry(variables[name], shard, len(data[shard]), values)))
        data[shard] += values
    Path(f"{prefix}.index").write_bytes(table(pairs))
    for shard, content in enumerate(data):
        Path(f"{prefix}.data-{shard:05}-of-{shards:05}").write_bytes(content)
    Path(f"{prefix}.meta").write_bytes(b"a graph, never read")
    return prefix


# --- variables, by the names that Google's code gives them ---


def _dense(variables: Variables, scope: str, inside: int, out: int) -> None:
    variables[f"{scope}/kernel"] = _draw(inside, out)
    variables[f"{scope}/bias"] = _draw(out)


def _norm(variables: Variables, scope: str, width: int) -> None:
    variables[f"{scope}/gamma"] = 1 + _draw(width)
    variables[f"{scope}/beta"] = _draw(width)


_random = np.random.default_rng(7)


def _draw(*shape: int) -> Array:
    return (_random.standard_normal(shape) * 0.2).astype(np.float32)


def _embeddings(variables: Variables, config: Mapping[str, Any], width: int) -> None:
    start = "bert/embeddings"
    variables[f"{start}/word_embeddings"] = _draw(config["vocab_size"], width)
    variables[f"{start}/position_embeddings"] = _draw(config["max_position_embeddings"], width)
    variables[f"{start}/token_type_embeddings"] = _draw(config["type_vocab_size"], width)
    _norm(variables, f"{start}/LayerNorm", width)


def _bert_layer(variables: Variables, scope: str, config: Mapping[str, Any]) -> None:
    width, inner = config["hidden_size"], config["intermediate_size"]
    for name in ("query", "key", "value"):
        _dense(variables, f"{scope}/attention/self/{name}", width, width)
    _dense(variables, f"{scope}/attention/output/dense", width, width)
    _norm(variables, f"{scope}/attention/output/LayerNorm", width)
    _dense(variables, f"{scope}/intermediate/dense", width, inner)
    _dense(variables, f"{scope}/output/dense", inner, width)
    _norm(variables, f"{scope}/output/LayerNorm", width)


def _heads(variables: Variables, config: Mapping[str, Any], width: int) -> None:
    hidden = config["hidden_size"]
    _dense(variables, "bert/pooler/dense", hidden, hidden)
    _dense(variables, "cls/predictions/transform/dense", hidden, width)
    _norm(variables, "cls/predictions/transform/LayerNorm", width)
    variables["cls/predictions/output_bias"] = _draw(config["vocab_size"])
    variables["cls/seq_relationship/output_weights"] = _draw(2, hidden)
    variables["cls/seq_relationship/output_bias"] = _draw(2)


def bert_variables(config: Mapping[str, Any]) -> Variables:
    variables: Variables = {}
    _embeddings(variables, config, config["hidden_size"])
    for layer in range(config["num_hidden_layers"]):
        _bert_layer(variables, f"bert/encoder/layer_{layer}", config)
    _heads(variables, config, config["hidden_size"])
    return variables


def albert_variables(config: Mapping[str, Any]) -> Variables:
    variables: Variables = {}
    embedding, hidden = config["embedding_size"], config["hidden_size"]
    _embeddings(variables, config, embedding)
    if embedding != hidden:
        _dense(variables, "bert/encoder/embedding_hidden_mapping_in", embedding, hidden)
    for group in range(config["num_hidden_groups"]):
        for inner in range(config["inner_group_num"]):
            scope = f"bert/encoder/transformer/group_{group}/inner_group_{inner}"
            for name in ("query", "key", "value"):
                _dense(variables, f"{scope}/attention_1/self/{name}", hidden, hidden)
            _dense(variables, f"{scope}/attention_1/output/dense", hidden, hidden)
            _norm(variables, f"{scope}/LayerNorm", hidden)
            _dense(
                variables, f"{scope}/ffn_1/intermediate/dense", hidden, config["intermediate_size"]
            )
            _dense(
                variables,
                f"{scope}/ffn_1/intermediate/output/dense",
                config["intermediate_size"],
                hidden,
            )
            _norm(variables, f"{scope}/LayerNorm_1", hidden)
    _heads(variables, config, embedding)
    return variables


def albert_zh_variables(config: Mapping[str, Any]) -> Variables:
    """brightmart's layout."""
    variables: Variables = {}
    hidden, embedding = config["hidden_size"], config["embedding_size"]
    _embeddings(variables, config, hidden)
    variables["bert/embeddings/word_embeddings"] = _draw(config["vocab_size"], embedding)
    variables["bert/embeddings/word_embeddings_2"] = _draw(embedding, hidden)
    _bert_layer(variables, "bert/encoder/layer_shared", config)
    _heads(variables, config, hidden)
    return variables


def with_optimiser(variables: Variables) -> Variables:
    """What a training run adds to a checkpoint."""
    slots = {
        f"{name}/{slot}": np.zeros_like(array)
        for name, array in variables.items()
        for slot in ("adam_m", "adam_v")
    }
    return {**variables, **slots, "global_step": np.array(125000, np.int64)}


# --- what Google's code computes from them, in float64 ---


class Forward:
    """The forward pass of a checkpoint in Google's convention.

    Args:
        variables: by name.
        config: the content of albert_config.json or bert_config.json.
    """

    def __init__(self, variables: Variables, config: Mapping[str, Any], *, tanh: bool) -> None:
        self.v = {name: array.astype(np.float64) for name, array in variables.items()}
        self.config = config
        self.tanh = tanh

    def dense(self, x: Array, scope: str) -> Array:
        return np.asarray(x @ self.v[f"{scope}/kernel"] + self.v[f"{scope}/bias"])

    def norm(self, x: Array, scope: str) -> Array:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return np.asarray(x * self.v[f"{scope}/gamma"] + self.v[f"{scope}/beta"])

    def act(self, x: Array) -> Array:
        if self.config["hidden_act"] == "relu":
            return np.maximum(x, 0)
        if self.tanh:
            return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        return np.asarray(0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))))

    def attention(self, x: Array, scope: str) -> Array:
        heads = self.config["num_attention_heads"]
        split = [
            self.dense(x, f"{scope}/{name}").reshape(len(x), heads, -1).transpose(1, 0, 2)
            for name in ("query", "key", "value")
        ]
        query, key, value = split
        scores = query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[-1])
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return np.asarray((weights @ value).transpose(1, 0, 2).reshape(len(x), -1))

    def layer(self, x: Array, scope: str) -> Array:
        """One of BERT, or brightmart's."""
        y = self.dense(
            self.attention(x, f"{scope}/attention/self"), f"{scope}/attention/output/dense"
        )
        x = self.norm(x + y, f"{scope}/attention/output/LayerNorm")
        y = self.dense(
            self.act(self.dense(x, f"{scope}/intermediate/dense")), f"{scope}/output/dense"
        )
        return self.norm(x + y, f"{scope}/output/LayerNorm")

    def albert_layer(self, x: Array, scope: str) -> Array:
        y = self.dense(
            self.attention(x, f"{scope}/attention_1/self"), f"{scope}/attention_1/output/dense"
        )
        x = self.norm(x + y, f"{scope}/LayerNorm")
        y = self.act(self.dense(x, f"{scope}/ffn_1/intermediate/dense"))
        return self.norm(
            x + self.dense(y, f"{scope}/ffn_1/intermediate/output/dense"), f"{scope}/LayerNorm_1"
        )

    def __call__(self, ids: list[int], types: list[int]) -> dict[str, Array]:
        """Of one text: states, masked-LM logits and pair logits."""
        start = "bert/embeddings"
        table = self.v[f"{start}/word_embeddings"]
        second = self.v.get(f"{start}/word_embeddings_2")
        matrix = table if second is None else table @ second
        x = matrix[ids] + self.v[f"{start}/token_type_embeddings"][types]
        x = self.norm(x + self.v[f"{start}/position_embeddings"][: len(ids)], f"{start}/LayerNorm")
        layers = self.config["num_hidden_layers"]
        if "bert/encoder/embedding_hidden_mapping_in/kernel" in self.v:
            x = self.dense(x, "bert/encoder/embedding_hidden_mapping_in")
        for number in range(layers):
            if second is not None:
                x = self.layer(x, "bert/encoder/layer_shared")
            elif "embedding_size" in self.config:
                group = int(number / layers * self.config["num_hidden_groups"])
                for inner in range(self.config["inner_group_num"]):
                    x = self.albert_layer(
                        x, f"bert/encoder/transformer/group_{group}/inner_group_{inner}"
                    )
            else:
                x = self.layer(x, f"bert/encoder/layer_{number}")
        pooled = np.tanh(self.dense(x[0], "bert/pooler/dense"))
        hidden = self.norm(
            self.act(self.dense(x, "cls/predictions/transform/dense")),
            "cls/predictions/transform/LayerNorm",
        )
        pair = self.v["cls/seq_relationship/output_weights"]
        return {
            "states": x,
            "masked_lm": hidden @ matrix.T + self.v["cls/predictions/output_bias"],
            "pair": pair @ pooled + self.v["cls/seq_relationship/output_bias"],
        }
