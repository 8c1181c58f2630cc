"""Reads the weights of a model directory, in one or several safetensors files, and saves one."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import Tensor

from minilm.checkpoints.config_file import read_config
from minilm.errors import CheckpointError
from minilm.files.atomic import being_replaced, replace_files
from minilm.files.file_names import (
    CONFIG,
    INDEX,
    WEIGHTS,
    check_directory,
    check_link,
    pickle_files,
    read_shard_index,
)
from minilm.files.json_file import json_bytes
from minilm.files.safetensors_file import SafetensorsFile, TensorInfo, write_tensors

FOREIGN_WEIGHTS = (".h5", ".msgpack", ".onnx", ".tflite", ".gguf")
TENSORFLOW_INDEX = ".index"
SHOWN = 8  # names in one error message

# A save that has been between its two files for this many seconds was killed.
KILLED = 10.0


class Weights(ExitStack):
    """The open weights of a model. Use as a context manager; get it from `open_weights`.

    Attributes:
        tensors: the headers' information on each tensor, by stored name.
        metadata: the free-form strings of the headers.
    """

    def __init__(self, files: list[SafetensorsFile], opened: ExitStack) -> None:
        super().__init__()
        self.push(opened)
        self._files = {name: file for file in files for name in file.tensors}
        self.tensors: Mapping[str, TensorInfo] = {
            name: info for file in files for name, info in file.tensors.items()
        }
        self.metadata: Mapping[str, str] = {
            key: value for file in files for key, value in file.metadata.items()
        }

    def read(self, name: str) -> Tensor:
        """Reads one tensor into memory of its own, on the CPU and in its stored dtype.

        Args:
            name: a key of `tensors`.

        Raises:
            CheckpointError: the file was changed while it was open.
        """
        return self._files[name].read(name)


def open_weights(directory: Path) -> Weights:
    """Opens model.safetensors, or the shards that model.safetensors.index.json lists.

    Only headers are read. Nothing is ever unpickled.

    Args:
        directory: a model directory.

    Returns:
        The open weights; close them, or use them in a `with` statement.

    Raises:
        CheckpointError: the weights are missing, damaged, incomplete or unsafe.
    """
    check_directory(directory)
    with ExitStack() as opened:
        if os.path.lexists(directory / WEIGHTS):
            files = [opened.enter_context(SafetensorsFile(directory / WEIGHTS))]
        elif not os.path.lexists(directory / INDEX):
            raise _without_weights(directory)
        else:
            weight_map = read_shard_index(directory / INDEX)
            _check_shards(directory, weight_map)
            files = [
                opened.enter_context(SafetensorsFile(directory / shard))
                for shard in sorted(set(weight_map.values()))
            ]
            _check_against_index(directory / INDEX, weight_map, files)
        return Weights(files, opened.pop_all())


def open_directory(directory: Path) -> tuple[dict[str, Any], Weights]:
    """Opens a model directory.

    Two files cannot be replaced at the same instant. `save_directory` moves the weights into place,
    then config.json; a reader that comes in between notices it and reads again, so that it never
    gets the config of one save with the weights of another.

    Args:
        directory: a model directory.

    Raises:
        ConfigError: config.json is missing, too large or not a JSON object.
        CheckpointError: as for `open_weights`.
    """
    check_directory(directory)
    path = directory / CONFIG
    while True:
        before = _version(path)
        config = read_config(directory)
        weights = open_weights(directory)
        # The temporary config.json of a save exists before it touches the weights and until it
        # becomes config.json: look for it first, then whether config.json is still the one read.
        if not being_replaced(path, within=KILLED) and _version(path) == before:
            return config, weights
        weights.close()
        time.sleep(0.001)


def save_directory(directory: Path, config: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Writes model.safetensors and config.json, each replaced whole.

    Both files are complete on the disk before either is moved into place, weights first. Readers
    that use `open_directory` never see files of different saves; other readers may, for the moment
    between two renames, and only if the config changed. Only one process at a time may save to a
    directory.

    Args:
        directory: created if it does not exist. Other files in it stay, except the index of an
            older sharded checkpoint, which would now be wrong.
        config: the content of config.json.
        tensors: the tensors, by the names to store.

    Raises:
        CheckpointError: the directory cannot be written; the older files stay as they were.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise CheckpointError(
            f"{directory} cannot be created: {problem.strerror or problem}."
        ) from problem
    text = json_bytes(config)
    replace_files(
        {
            directory / WEIGHTS: lambda path: write_tensors(path, tensors),
            directory / CONFIG: lambda path: path.write_bytes(text),
        }
    )
    (directory / INDEX).unlink(missing_ok=True)


def _without_weights(directory: Path) -> CheckpointError:
    names = sorted(path.name for path in directory.iterdir())
    if pickles := pickle_files(directory):
        source = directory.resolve()
        destination = source.with_name(f"{source.name}-safetensors")
        command = shlex.join(["minilm", "convert", str(source), str(destination), "--from-pickle"])
        return CheckpointError(
            f"{directory} has its weights in {pickles[0].name}, a pickle file, which can run code "
            f"when it is read. If you trust where it comes from, convert it once:\n  {command}"
        )
    if any(name.endswith(TENSORFLOW_INDEX) for name in names):
        source = directory.resolve()
        destination = source.with_name(f"{source.name}-safetensors")
        words = ["minilm", "convert", str(source), str(destination), "--from-tensorflow"]
        return CheckpointError(
            f"{directory} has its weights in a TensorFlow checkpoint. Convert it once, which needs "
            f"no TensorFlow:\n  {shlex.join(words)}"
        )
    foreign = [name for name in names if name.endswith(FOREIGN_WEIGHTS)]
    if foreign:
        return CheckpointError(
            f"{directory} has no {WEIGHTS}, only {foreign[0]}. Keras, Flax and ONNX weights "
            "are unsupported: look for a safetensors version of this model."
        )
    found = ", ".join(names[:SHOWN]) or "nothing"
    return CheckpointError(
        f"{directory} has no weights: expected {WEIGHTS} or {INDEX}, found {found}."
    )


def _check_shards(directory: Path, weight_map: Mapping[str, str]) -> None:
    shards = sorted(set(weight_map.values()))
    missing = [shard for shard in shards if not (directory / shard).exists()]
    if missing:
        raise CheckpointError(
            f"{directory} lacks {len(missing)} of the {len(shards)} files that {INDEX} lists: "
            f"{', '.join(missing)}. Download them into the same directory."
        )
    for shard in shards:
        check_link(directory / shard, directory)


def _check_against_index(
    index: Path, weight_map: Mapping[str, str], files: list[SafetensorsFile]
) -> None:
    """Checks that each tensor is in one file, the one that the index names."""
    stored: dict[str, str] = {}
    for file in files:
        for name in file.tensors:
            if name in stored:
                raise CheckpointError(
                    f"{index.parent}: tensor {name[:200]!r} is stored in {stored[name]} and in "
                    f"{file.path.name}. Save the checkpoint again."
                )
            stored[name] = file.path.name
    for name, shard in weight_map.items():
        if stored.get(name) != shard:
            place = f"it is in {stored[name]}" if name in stored else "it is in none of the files"
            raise CheckpointError(
                f"{index}: tensor {name[:200]!r} should be in {shard}, but {place}. The index and "
                "the files are of different saves: download them again."
            )


def _version(path: Path) -> tuple[int, int, int] | None:
    """A value that changes when the file is replaced."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
