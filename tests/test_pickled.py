"""Converting pickled weights: both formats are read, and nothing in them is ever run."""

from __future__ import annotations

import json
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

import minilm
from malformed import tiny_config, tiny_tensors, write_valid
from minilm.checkpoints.pickled import check_torch, convert_pickle
from minilm.checkpoints.weights import open_weights
from minilm.errors import CheckpointError, MinilmError
from minilm.files.file_names import TOKENIZER_FILES

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def write_pickle(
    directory: Path, content: object, *, zipped: bool = True, name: str = "pytorch_model.bin"
) -> Path:
    """A model directory with pickled weights."""
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(tiny_config()))
    torch.save(content, directory / name, _use_new_zipfile_serialization=zipped)
    return directory


def stored(directory: Path) -> dict[str, torch.Tensor]:
    with open_weights(directory) as weights:
        return {name: weights.read(name) for name in weights.tensors}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


# --- what is converted ---


@FORMATS
def test_weights_arrive_unchanged(tmp_path: Path, zipped: bool) -> None:
    tensors = tiny_tensors() | {
        "half": torch.randn(3).half(),
        "brain": torch.randn(3).bfloat16(),
        "ids": torch.arange(4).expand(1, -1),
        "transposed": torch.randn(3, 2).T,
        "scalar": torch.tensor(1.5),
        "nothing": torch.zeros(0, 4),
        "parameter": torch.nn.Parameter(torch.randn(2)),
    }
    source = write_pickle(tmp_path / "source", OrderedDict(tensors), zipped=zipped)
    assert convert_pickle(source, tmp_path / "new" / "place") == [
        "config.json",
        "model.safetensors",
    ]
    assert_same(stored(tmp_path / "new" / "place"), tensors)


@FORMATS
def test_the_result_is_a_model(tmp_path: Path, zipped: bool) -> None:
    source = write_pickle(tmp_path / "source", tiny_tensors(), zipped=zipped)
    convert_pickle(source, tmp_path / "done")
    assert isinstance(minilm.load(tmp_path / "done"), minilm.BertModel)


@FORMATS
def test_tied_tensors_are_stored_by_every_name(tmp_path: Path, zipped: bool) -> None:
    shared = torch.randn(6, 4)
    tensors = {"word": shared, "decoder": shared, "rows": shared[2:4], "column": shared[:, 1]}
    convert_pickle(write_pickle(tmp_path / "source", tensors, zipped=zipped), tmp_path / "done")
    assert_same(stored(tmp_path / "done"), tensors)


@pytest.mark.parametrize(
    "keys",
    [
        ("state_dict",),
        ("model_state_dict",),
        ("model",),
        ("module",),
        ("model", "state_dict"),
        ("state_dict", "model", "module"),
    ],
)
@FORMATS
def test_weights_beside_other_things(keys: tuple[str, ...], zipped: bool, tmp_path: Path) -> None:
    content: dict[str, object] = dict(tiny_tensors())
    for key in reversed(keys):
        content = {"epoch": 3, key: content, "optimizer": {"lr": 0.1}}
    source = write_pickle(tmp_path / "source", content, name="best.ckpt", zipped=zipped)
    convert_pickle(source, tmp_path / "done")
    assert_same(stored(tmp_path / "done"), tiny_tensors())


def test_shards(tmp_path: Path) -> None:
    tensors = tiny_tensors()
    names = list(tensors)
    for number, part in ((1, names[:4]), (2, names[4:])):
        shard = {name: tensors[name] for name in part}
        write_pickle(tmp_path / "source", shard, name=f"pytorch_model-0000{number}-of-00002.bin")
    weight_map = {
        name: f"pytorch_model-0000{1 + (i >= 4)}-of-00002.bin" for i, name in enumerate(names)
    }
    index = tmp_path / "source" / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    convert_pickle(tmp_path / "source", tmp_path / "done")
    assert_same(stored(tmp_path / "done"), tensors)

    index.write_text(json.dumps({"weight_map": {names[0]: "../secret.bin"}}))
    with pytest.raises(CheckpointError, match=r"'\.\./secret\.bin' in weight_map is refused"):
        convert_pickle(tmp_path / "source", tmp_path / "other")


def test_tokenizer_files_come_along_and_nothing_else(tmp_path: Path) -> None:
    source = write_pickle(tmp_path / "source", tiny_tensors())
    for name in (*TOKENIZER_FILES, "training_args.bin", "optimizer.pt", "modeling_x.py"):
        (source / name).write_bytes(name.encode())
    (tmp_path / "done").mkdir()
    written = convert_pickle(source, tmp_path / "done")
    assert written == sorted(["config.json", "model.safetensors", *TOKENIZER_FILES])
    assert sorted(path.name for path in (tmp_path / "done").iterdir()) == written
    assert (tmp_path / "done" / "vocab.txt").read_bytes() == b"vocab.txt"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["done", "source"]


def test_a_directory_with_a_pickle_says_how_to_convert(tmp_path: Path) -> None:
    source = write_pickle(tmp_path / "my model", tiny_tensors())
    with pytest.raises(CheckpointError) as caught:
        minilm.load(source)
    command = f"minilm convert '{source}' '{source}-safetensors' --from-pickle"
    assert command in str(caught.value)


# --- what is refused ---


@pytest.mark.parametrize("version", ["1.13.1", "2.5.1", "2.6.0+cu124", "2.9.1", "2.9", "", "main"])
def test_old_torch(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match=r"Install torch 2\.10"):
        check_torch(version)
    monkeypatch.setattr(torch, "__version__", version)
    source = write_pickle(tmp_path / "source", tiny_tensors())
    with pytest.raises(CheckpointError, match=r"Install torch 2\.10"):
        convert_pickle(source, tmp_path / "done")


@pytest.mark.parametrize("version", ["2.10.0", "2.13.0+cpu", "2.11.0a0+git1234", "3.0", "10.0.1"])
def test_new_torch(version: str) -> None:
    check_torch(version)


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("protocol", ["zip", "legacy", "plain 0", "plain 2", "plain 5"])
def test_a_payload_is_not_run_by_converting(tmp_path: Path, protocol: str) -> None:
    source = tmp_path / "source"
    content = tiny_tensors() | {"payload": Payload(tmp_path / "ran")}
    write_pickle(source, content, zipped=protocol == "zip")
    if protocol.startswith("plain"):
        data = pickle.dumps(content["payload"], protocol=int(protocol[-1]))
        (source / "pytorch_model.bin").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is refused"):
        convert_pickle(source, tmp_path / "done")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


@pytest.mark.parametrize("protocol", ["zip", "legacy", "plain 0", "plain 2", "plain 5"])
@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "vocab.txt",
        "spiece.model",
    ],
)
def test_a_payload_is_not_run_by_loading(tmp_path: Path, name: str, protocol: str) -> None:
    directory, marker = tmp_path / "model", tmp_path / "ran"
    directory.mkdir()
    write_valid(directory)
    if name in ("pytorch_model.bin", "model.safetensors.index.json"):
        (directory / "model.safetensors").unlink()
    payload = Payload(marker)
    if protocol.startswith("plain"):
        (directory / name).write_bytes(pickle.dumps(payload, protocol=int(protocol[-1])))
    else:
        torch.save(payload, directory / name, _use_new_zipfile_serialization=protocol == "zip")

    of_tokenizer = name in TOKENIZER_FILES
    if of_tokenizer:
        minilm.load(directory)
    else:
        with pytest.raises(MinilmError):
            minilm.load(directory)
    with pytest.raises(MinilmError):
        minilm.Tokenizer.from_pretrained(directory)
    assert not marker.exists()
    # the marker does appear where a pickle is trusted: the test can fail
    if protocol.startswith("plain"):
        pickle.loads((directory / name).read_bytes())  # noqa: S301
        assert marker.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "list"),
        (torch.zeros(2), "Tensor"),
        ({"a": torch.zeros(2), "b": 3}, "'b' is a int"),
        ({7: torch.zeros(2)}, "7 is a Tensor, expected tensors only, by name"),
        ({"state_dict": {"a": {"b": torch.zeros(2)}}}, "'a' is a dict"),
        ({"a": torch.eye(2).to_sparse()}, "'a' is not a plain dense tensor"),
        ({"a": torch.zeros(1).expand(2**40)}, "claim 4,398,046,511,104 bytes"),
        ({f"{i}": torch.zeros(1).expand(2**20) for i in range(3)}, "claim"),
    ],
)
@FORMATS
def test_anything_but_named_tensors(
    tmp_path: Path, content: object, words: str, zipped: bool
) -> None:
    source = write_pickle(tmp_path / "source", content, zipped=zipped)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin") as caught:
        convert_pickle(source, tmp_path / "done")
    assert words in str(caught.value)
    assert not (tmp_path / "done").exists()


@FORMATS
def test_damaged_files(tmp_path: Path, zipped: bool) -> None:
    source = write_pickle(tmp_path / "source", tiny_tensors(), zipped=zipped)
    path = source / "pytorch_model.bin"
    whole = path.read_bytes()
    for cut in (0, 1, 2, 7, 8, 100, len(whole) // 2, len(whole) - 50):
        path.write_bytes(whole[:cut])
        with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
            convert_pickle(source, tmp_path / "done")
    assert not (tmp_path / "done").exists()


def test_directories_that_cannot_be_converted(tmp_path: Path) -> None:
    source = write_pickle(tmp_path / "source", tiny_tensors())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").touch()
    for destination in (tmp_path / "full", tmp_path / "full" / "something", source):
        with pytest.raises(CheckpointError, match=f"{destination} exists and is not empty"):
            convert_pickle(source, destination)

    def refused(words: str) -> None:
        with pytest.raises(CheckpointError, match=words):
            convert_pickle(source, tmp_path / "done")

    (source / "pytorch_model.bin").rename(source / "a.pt")
    torch.save({}, source / "b.pt")
    refused(r"found a\.pt, b\.pt")
    (source / "a.pt").unlink()
    (source / "b.pt").unlink()
    refused("found none")
    (source / "config.json").unlink()
    refused(r"no config\.json")
    write_valid(source)
    refused("has safetensors already")
    with pytest.raises(CheckpointError, match="is not a directory"):
        convert_pickle(tmp_path / "nowhere", tmp_path / "done")
