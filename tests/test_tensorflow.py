"""TensorFlow checkpoints: converted without TensorFlow, equal to what Google's code computes."""

from __future__ import annotations

import json
import random
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import minilm
import tensorflow_files as tf
from minilm.checkpoints.tensorflow import find_source
from minilm.cli import main
from minilm.errors import CheckpointError, MinilmError
from minilm.files.archive import extracted
from minilm.files.crc32c import crc32c, masked_crc32c
from minilm.files.sorted_table import MAX_KEY_BYTES, MAX_PAIRS, read_sorted_table
from minilm.files.tensor_bundle import TensorBundle
from tokenizer_files import PIECES, SPECIAL, spiece

BERT: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 16,
    "type_vocab_size": 2,
    "initializer_range": 0.02,
}
ALBERT: dict[str, Any] = BERT | {
    "vocab_size": len(PIECES),
    "embedding_size": 12,
    "num_hidden_groups": 1,
    "inner_group_num": 1,
    "hidden_dropout_prob": 0,
    "attention_probs_dropout_prob": 0,
    "net_structure_type": 0,
    "gap_size": 0,
    "num_memory_blocks": 0,
    "down_scale_factor": 1,
}
CHINESE = [
    *SPECIAL,
    *"的一是不了人我在有他这中大来上国到说们",
    *(f"[unused{i}]" for i in range(16)),
]
ZH = {key: ALBERT[key] for key in (*BERT, "embedding_size")} | {"vocab_size": 40}
IDS, TYPES = [2, 7, 11, 30, 3, 9, 21, 3], [0, 0, 0, 0, 0, 1, 1, 1]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def write(
    directory: Path,
    variables: tf.Variables,
    config: dict[str, Any],
    *,
    prefix: str = "model.ckpt-best",
    vocabulary: str = "vocab.txt",
    shards: int = 2,
) -> Path:
    """A directory as in the published archives."""
    tf.write_checkpoint(directory / prefix, variables, shards)
    kind = "albert" if "embedding_size" in config else "bert"
    (directory / f"{kind}_config.json").write_text(json.dumps(config))
    if vocabulary.endswith(".model"):
        (directory / vocabulary).write_bytes(spiece(PIECES))
        (directory / "30k-clean.vocab").write_text("only for people to read")
    elif vocabulary:
        (directory / vocabulary).write_text("\n".join(CHINESE) + "\n", encoding="utf-8")
    return directory


def outputs(directory: Path) -> dict[str, np.ndarray[Any, Any]]:
    """What minilm computes from a converted checkpoint, in float64."""
    model = minilm.load(directory).double()
    with torch.no_grad():
        out = model(
            input_ids=torch.tensor([IDS]),
            attention_mask=torch.ones(1, len(IDS), dtype=torch.long),
            token_type_ids=torch.tensor([TYPES]),
            output_hidden_states=True,
        )
    pair = out["sop_logits" if "Albert" in type(model).__name__ else "seq_relationship_logits"]
    return {
        "states": out.hidden_states[-1][0].numpy(),
        "masked_lm": out.prediction_logits[0].numpy(),
        "pair": pair[0].numpy(),
    }


def assert_equal(
    found: dict[str, np.ndarray[Any, Any]], expected: dict[str, np.ndarray[Any, Any]]
) -> None:
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=2e-6, err_msg=name)


# --- whole checkpoints against Google's arithmetic ---


@pytest.mark.parametrize(
    ("name", "config", "variables", "vocabulary"),
    [
        ("bert", BERT, tf.bert_variables, "vocab.txt"),
        ("albert-v2", ALBERT, tf.albert_variables, "30k-clean.model"),
        (
            "albert-v1",
            ALBERT | {"hidden_dropout_prob": 0.1},
            tf.albert_variables,
            "30k-clean.model",
        ),
        (
            "groups",
            ALBERT | {"num_hidden_groups": 3, "inner_group_num": 2},
            tf.albert_variables,
            "30k-clean.model",
        ),
        ("wide", ALBERT | {"embedding_size": 24}, tf.albert_variables, "30k-clean.model"),
        (
            "google-zh",
            ALBERT | {"hidden_act": "relu", "vocab_size": 40},
            tf.albert_variables,
            "vocab_chinese.txt",
        ),
        ("albert_zh", ZH, tf.albert_zh_variables, "vocab.txt"),
    ],
)
def test_converted_checkpoints_compute_what_googles_code_computes(
    tmp_path: Path,
    name: str,
    config: dict[str, Any],
    variables: Callable[[dict[str, Any]], tf.Variables],
    vocabulary: str,
) -> None:
    weights = variables(config)
    source = write(
        tmp_path / "src", tf.with_optimiser(weights), config, vocabulary=vocabulary, shards=3
    )
    result = run("convert", source, tmp_path / "dst", "--from-tensorflow")
    assert result.exit_code == 0, result.stderr
    tanh = name != "bert"
    expected = tf.Forward(weights, config, tanh=tanh)(IDS, TYPES)
    found = outputs(tmp_path / "dst")
    assert_equal(found, expected)
    # the comparison can fail: the other form of GELU is told apart
    if config["hidden_act"] == "gelu":
        other = tf.Forward(weights, config, tanh=not tanh)(IDS, TYPES)
        assert np.abs(other["states"] - found["states"]).max() > 1e-5
    assert "Adam's state" in result.stderr
    assert "the number of the step" in result.stderr
    assert ("tanh form" in result.stderr) == (tanh and config["hidden_act"] == "gelu")
    written = json.loads((tmp_path / "dst" / "config.json").read_text())
    assert written["hidden_dropout_prob"] == config["hidden_dropout_prob"]
    assert written["architectures"][0].endswith("ForPreTraining")


def test_the_result_loads_in_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    weights = tf.albert_variables(ALBERT)
    write(tmp_path / "src", weights, ALBERT, vocabulary="30k-clean.model")
    assert run("convert", tmp_path / "src", tmp_path / "dst").exit_code == 0
    model = transformers.AutoModelForPreTraining.from_pretrained(tmp_path / "dst").double().eval()
    with torch.no_grad():
        out = model(torch.tensor([IDS]), token_type_ids=torch.tensor([TYPES]))
    expected = tf.Forward(weights, ALBERT, tanh=True)(IDS, TYPES)
    np.testing.assert_allclose(out.prediction_logits[0], expected["masked_lm"], atol=2e-6)
    np.testing.assert_allclose(out.sop_logits[0], expected["pair"], atol=2e-6)
    text = "the test in 2010, false"
    ours = minilm.Tokenizer.from_pretrained(tmp_path / "dst")(text)["input_ids"][0].tolist()
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "dst")(text)["input_ids"]
    assert ours == theirs
    assert 1 not in ours


# --- where a checkpoint is found ---


def hub_module(directory: Path) -> Path:
    """As hub.Module saves it: variables behind a scope, the rest in assets."""
    weights = {
        f"module/{name}": array
        for name, array in tf.albert_variables(ALBERT).items()
        if "seq_relationship" not in name
    }
    tf.write_checkpoint(directory / "variables" / "variables", weights, shards=1)
    assets = directory / "assets"
    assets.mkdir()
    (assets / "albert_config.json").write_text(json.dumps(ALBERT))
    (assets / "30k-clean.model").write_bytes(spiece(PIECES))
    (directory / "saved_model.pb").write_bytes(b"a graph, never read")
    return directory


def test_a_tf_hub_module(tmp_path: Path) -> None:
    result = run("convert", hub_module(tmp_path / "hub"), tmp_path / "dst")
    assert result.exit_code == 0, result.stderr
    assert type(minilm.load(tmp_path / "dst")).__name__ == "AlbertForMaskedLM"
    assert minilm.AlbertModel.from_pretrained(tmp_path / "dst").pooler is not None


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_archives(tmp_path: Path, kind: str) -> None:
    source = write(tmp_path / "albert_base", tf.albert_variables(ALBERT), ALBERT)
    (source / "vocab.txt").unlink()
    archive = tmp_path / f"albert_base_v2.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as file:
            for path in sorted(source.iterdir()):
                file.write(path, f"albert_base/{path.name}")
    else:
        with tarfile.open(archive, "w:gz") as file:
            file.add(source, "albert_base")
    result = run("convert", archive, tmp_path / "dst", "--from-tensorflow")
    assert result.exit_code == 0, result.stderr
    assert "no tokenizer was written" in result.stderr
    assert type(minilm.load(tmp_path / "dst")).__name__ == "AlbertForPreTraining"


def test_members_of_archives_stay_inside(tmp_path: Path) -> None:
    archive = tmp_path / "evil.tar"
    with tarfile.open(archive, "w") as file:
        for name in ("../../up.txt", "/etc/absolute.txt", "a/b/c/deep.txt"):
            member = tarfile.TarInfo(name)
            file.addfile(member)
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
    with extracted(archive) as directory:
        names = {str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file()}
        assert names == {"up.txt", "etc/absolute.txt", "c/deep.txt"}
        assert not any(path.is_symlink() for path in directory.rglob("*"))
    assert not directory.exists()


@pytest.mark.parametrize("name", ["x.tar.gz", "x.zip", "x.tar"])
def test_damaged_archives(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no archive at all" * 100)
    result = run("convert", tmp_path / name, tmp_path / "dst", "--from-tensorflow")
    assert result.exit_code == 2
    assert name in result.stderr
    assert "Traceback" not in result.stderr


def test_a_prefix_and_several_checkpoints(tmp_path: Path) -> None:
    weights = tf.bert_variables(BERT)
    source = write(tmp_path / "src", weights, BERT, prefix="model.ckpt-100")
    tf.write_checkpoint(source / "model.ckpt-200", weights)
    ambiguous = run("convert", source, tmp_path / "dst")
    assert ambiguous.exit_code == 2
    assert "model.ckpt-100" in ambiguous.stderr
    assert "Name one of them" in ambiguous.stderr
    for end in ("", ".index", ".data-00000-of-00002"):
        destination = tmp_path / f"dst{end}"
        result = run("convert", f"{source / 'model.ckpt-200'}{end}", destination)
        assert result.exit_code == 0, result.stderr
        assert "model.ckpt-200" in result.stderr


def test_loading_names_the_command(tmp_path: Path) -> None:
    source = write(tmp_path / "src", tf.bert_variables(BERT), BERT)
    shutil.copy(source / "bert_config.json", source / "config.json")
    with pytest.raises(CheckpointError, match="--from-tensorflow"):
        minilm.BertModel.from_pretrained(source)


def test_finetuned_heads(tmp_path: Path) -> None:
    for name, head, cls in (
        ("cls/squad/", 2, "AlbertForQuestionAnswering"),
        ("", 3, "AlbertForSequenceClassification"),
    ):
        weights = {k: v for k, v in tf.albert_variables(ALBERT).items() if not k.startswith("cls")}
        weights[f"{name}output_weights"] = np.arange(24 * head, dtype=np.float32).reshape(head, 24)
        weights[f"{name}output_bias"] = np.ones(head, np.float32)
        source = write(tmp_path / f"src{head}", weights, ALBERT, vocabulary="30k-clean.model")
        assert run("convert", source, tmp_path / f"dst{head}").exit_code == 0
        model = minilm.load(tmp_path / f"dst{head}")
        assert type(model).__name__ == cls
        stored = model.span_head.weight if head == 2 else model.classifier.weight
        assert torch.equal(stored, torch.from_numpy(weights[f"{name}output_weights"]))


# --- refusals ---


def test_groups_that_two_codes_spread_differently(tmp_path: Path) -> None:
    config = ALBERT | {"num_hidden_layers": 18, "num_hidden_groups": 14}
    source = write(tmp_path / "src", tf.albert_variables(config), config, vocabulary="")
    refused(source, tmp_path / "dst", "18 layers in 14 groups")


def refused(source: Path, destination: Path, *words: str) -> None:
    result = run("convert", source, destination, "--from-tensorflow")
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr, result.stderr
    assert not destination.exists()


def test_pre_norm_models_are_refused(tmp_path: Path) -> None:
    config = ZH | {"ln_type": "preln"}
    source = write(tmp_path / "src", tf.albert_zh_variables(ZH), config)
    refused(source, tmp_path / "dst", "pre-norm", "ln_type")
    (source / "albert_config.json").write_text(json.dumps(ZH | {"hidden_size": 2048}))
    refused(source, tmp_path / "dst", "pre-norm")


def test_object_based_checkpoints_are_refused(tmp_path: Path) -> None:
    names = tf.albert_variables(ALBERT)
    variables = {f"{name}/.ATTRIBUTES/VARIABLE_VALUE": array for name, array in names.items()}
    refused(write(tmp_path / "src", variables, ALBERT), tmp_path / "dst", "TensorFlow 2")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bert/embeddings/extra": np.zeros(3, np.float32)}, ("bert/embeddings/extra", "changed")),
        ({"bert/pooler/dense/kernel": np.zeros(3, np.float32)}, ("a matrix of",)),
        ({"bert/pooler/dense/kernel": np.zeros((24, 24), np.int32)}, ("floating-point",)),
        ({"bert/pooler/dense/bias": np.zeros(25, np.float32)}, ("(25,)", "do not fit")),
        ({"bert/pooler/dense/bias": np.full(24, np.nan, np.float32)}, ("NaN",)),
        ({"bert/encoder/layer_1/output/dense/bias": None}, ("layer.1.output.dense.bias",)),
        ({"bert/embeddings/word_embeddings": None}, ("no word or token-type",)),
    ],
    ids=["unknown", "shape", "integers", "width", "nan", "missing", "no words"],
)
def test_other_models_are_refused(
    tmp_path: Path, change: dict[str, Any], words: tuple[str, ...]
) -> None:
    variables = tf.bert_variables(BERT) | change
    variables = {name: array for name, array in variables.items() if array is not None}
    refused(write(tmp_path / "src", variables, BERT), tmp_path / "dst", *words)


def test_what_describes_the_model_is_needed(tmp_path: Path) -> None:
    source = write(tmp_path / "src", tf.bert_variables(BERT), BERT)
    config = source / "bert_config.json"
    config.write_text(json.dumps({"hidden_size": 24}))
    refused(source, tmp_path / "dst", "num_hidden_layers")
    config.write_text("{")
    refused(source, tmp_path / "dst", "not valid JSON")
    config.write_text(json.dumps(BERT | {"hidden_act": ["gelu"]}))
    refused(source, tmp_path / "dst", "bert_config.json", "hidden_act")
    config.write_text(json.dumps(BERT | {"num_attention_heads": 5}))
    refused(source, tmp_path / "dst", "bert_config.json", "num_attention_heads")
    shutil.copy(config, source / "albert_config.json")
    refused(source, tmp_path / "dst", "albert_config.json, bert_config.json")
    (source / "albert_config.json").unlink()
    config.unlink()
    refused(source, tmp_path / "dst", "bert_config.json")
    (source / "config.json").write_text(json.dumps(BERT))
    result = run("convert", source, tmp_path / "dst", "--from-tensorflow")
    assert result.exit_code == 0, result.stderr
    shutil.rmtree(tmp_path / "dst")
    refused(tmp_path / "nothing", tmp_path / "dst", "does not exist")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", tmp_path / "dst", "no TensorFlow checkpoint")


def test_a_vocabulary_of_another_model(tmp_path: Path) -> None:
    source = write(tmp_path / "src", tf.bert_variables(BERT), BERT)
    with (source / "vocab.txt").open("a", encoding="utf-8") as file:
        file.write("one\nmore\n")
    refused(source, tmp_path / "dst", "42")
    (source / "vocab_chinese.txt").write_text("x")
    refused(source, tmp_path / "dst", "several vocabularies")


def test_flags_exclude_each_other(tmp_path: Path) -> None:
    both = run("convert", "a", "b", "--from-pickle", "--from-tensorflow")
    assert both.exit_code == 2
    assert "exclude" in both.stderr
    source = write(tmp_path / "src", tf.bert_variables(BERT), BERT)
    dtype = run("convert", source, tmp_path / "dst", "--dtype", "float16")
    assert dtype.exit_code == 2
    assert "--from-tensorflow" in dtype.stderr


# --- the format ---


def test_checksums() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    drawn = random.Random(3)
    for size in (0, 1, 4095, 4096, 4097, 8192, 8193, 20_001):
        data = drawn.randbytes(size)
        assert masked_crc32c(data) == tf.checksum(data)
    long = drawn.randbytes(2**23 + 8192 + 5)  # several chunks: equal to the sum of its parts
    flipped = bytearray(long)
    flipped[12345] ^= 1
    assert crc32c(long) != crc32c(bytes(flipped))


@pytest.mark.parametrize("pairs_in_block", [1, 2, 5, 1000])
def test_sorted_tables(tmp_path: Path, pairs_in_block: int) -> None:
    drawn = random.Random(pairs_in_block)
    pairs = {
        ("/".join(drawn.choices(["bert", "layer", "layer_1", "x" * 200], k=4))).encode(): (
            drawn.randbytes(drawn.randrange(300))
        )
        for _ in range(60)
    } | {b"": b"header"}
    path = tmp_path / "t.index"
    path.write_bytes(tf.table(list(pairs.items()), pairs_in_block))
    assert list(read_sorted_table(path)) == sorted(pairs.items())


def test_every_type_and_shape(tmp_path: Path) -> None:
    variables: tf.Variables = {
        "scalar": np.array(1.5, np.float32),
        "empty": np.zeros((0, 3), np.float32),
        "double": np.linspace(0, 1, 7),
        "half": np.ones((2, 3, 4), np.float16),
        "long": np.arange(-3, 3, dtype=np.int64),
    }
    bundle = TensorBundle(tf.write_checkpoint(tmp_path / "x.ckpt", variables, shards=3))
    assert set(bundle.variables) == set(variables)
    for name, array in variables.items():
        assert np.array_equal(bundle.read(name).numpy(), array)
        assert bundle.read(name).numpy().dtype == array.dtype


def damage(path: Path, place: int, value: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= value
    path.write_bytes(data)


def test_damage_is_noticed(tmp_path: Path) -> None:
    prefix = tf.write_checkpoint(tmp_path / "x.ckpt", {"a": np.ones(5, np.float32)}, shards=1)
    shard, index = tmp_path / "x.ckpt.data-00000-of-00001", tmp_path / "x.ckpt.index"
    good = index.read_bytes(), shard.read_bytes()
    damage(shard, 3, 1)
    with pytest.raises(CheckpointError, match="checksum of variable 'a'"):
        TensorBundle(prefix).read("a")
    shard.write_bytes(good[1][:-1])
    with pytest.raises(CheckpointError, match="cut short"):
        TensorBundle(prefix)
    shard.unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        TensorBundle(prefix)
    shard.write_bytes(good[1])
    # The block of metadata, which nobody reads, and the padding of the footer carry no meaning.
    metadata = tf.block([])
    start = good[0].index(metadata, good[0].index(metadata) + 1)
    meaningless = {
        *range(start, start + len(metadata) + 5),
        *range(len(good[0]) - 48, len(good[0])),
    }
    for place in sorted({*range(len(good[0]))} - meaningless):
        index.write_bytes(good[0])
        damage(index, place, 0x15)
        with pytest.raises(CheckpointError):
            TensorBundle(prefix)


def hostile(path: Path, content: bytes, words: str = "x.index") -> None:
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        list(read_sorted_table(path))


def test_hostile_tables(tmp_path: Path) -> None:
    path = tmp_path / "x.index"
    end = struct.pack("<Q", tf.MAGIC)
    hostile(path, b"")
    hostile(path, b"x" * 100)
    hostile(path, tf.varint(2**63 - 1).ljust(40, b"\0") + end)
    hostile(path, (b"\0\0" + tf.varint(2**62) + tf.varint(2**62)).ljust(40, b"\0") + end)
    hostile(path, b"\xff" * 40 + end)
    one = [(b"a", b"1")]
    hostile(path, tf.table(one, compression=1), "snappy")
    hostile(path, tf.table([*one, *one]), "does not come after")
    hostile(path, tf.table([(b"k" * (MAX_KEY_BYTES + 1), b"")]))
    hostile(path, tf.table([(b"%08d" % i, b"") for i in range(MAX_PAIRS + 1)], 5000))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (((1, 1), (5, 4)), None),
        (((1, 1), (5, 8)), "needs 4 bytes"),
        (((1, 99), (5, 4)), "type number 99"),
        (((1, 1), (5, 4), (3, 7)), "data file 7"),
        (((1, 1), (5, 4), (4, 2**60)), "cut short"),
        (((1, 1), (2, tf.message((2, tf.message((1, 2**40))))), (5, 2**42)), "cut short"),
        (((1, 1), (2, tf.message((2, tf.message((1, 2**63))))), (5, 4)), "too large"),
        (((1, 1), (2, tf.message(*[(2, b"")] * 20)), (5, 0)), "20 dimensions"),
        (((1, 1), (2, tf.message((3, 1))), (5, 4)), "unknown rank"),
    ],
)
def test_hostile_entries(
    tmp_path: Path, fields: tuple[tuple[int, int | bytes], ...], words: str | None
) -> None:
    prefix = tmp_path / "x"
    (tmp_path / "x.data-00000-of-00001").write_bytes(bytes(4))
    entry = tf.message(*fields)
    (tmp_path / "x.index").write_bytes(tf.table([(b"", tf.message((1, 1))), (b"a", entry)]))
    if words is None:
        assert TensorBundle(prefix).variables["a"].size == 4
    else:
        with pytest.raises(CheckpointError, match=words):
            TensorBundle(prefix)


def test_headers_slices_strings_and_overlaps(tmp_path: Path) -> None:
    prefix = tmp_path / "x"
    (tmp_path / "x.data-00000-of-00001").write_bytes(bytes(8))
    header = tf.message((1, 1))

    def bundle(*pairs: tuple[bytes, bytes]) -> TensorBundle:
        (tmp_path / "x.index").write_bytes(tf.table(list(pairs)))
        return TensorBundle(prefix)

    with pytest.raises(CheckpointError, match="no header"):
        bundle((b"a", tf.message((1, 1), (5, 4))))
    with pytest.raises(CheckpointError, match="big-endian"):
        bundle((b"", tf.message((1, 1), (2, 1))))
    with pytest.raises(CheckpointError, match="data files"):
        bundle((b"", tf.message((1, 2**40))))
    with pytest.raises(CheckpointError, match="slices"):
        bundle((b"", header), (b"a", tf.message((1, 1), (7, b"")))).read("a")
    with pytest.raises(CheckpointError, match="not hold numbers"):
        bundle((b"", header), (b"a", tf.message((1, 7), (5, 4)))).read("a")
    entry = tf.message((1, 1), (5, 4))
    with pytest.raises(CheckpointError, match="overlap"):
        bundle((b"", header), (b"a", entry), (b"b", entry))
    with pytest.raises(CheckpointError, match="control characters"):
        bundle((b"", header), (b"a\x1b", entry))
    with pytest.raises(CheckpointError, match="damaged"):
        bundle((b"", header), (b"a\xff", entry))


def test_sources_are_found_by_python_too(tmp_path: Path) -> None:
    source = write(tmp_path / "src", tf.bert_variables(BERT), BERT)
    found = find_source(source)
    assert found.prefix == source / "model.ckpt-best"
    assert found.vocabulary == source / "vocab.txt"
    with pytest.raises(MinilmError, match="holds no TensorFlow checkpoint"):
        find_source(source / "vocab.txt")
