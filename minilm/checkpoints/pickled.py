"""Converts pickled PyTorch weights to safetensors: the one place that reads a pickle.

Nothing else in minilm calls this; users do, with `minilm convert SRC DST --from-pickle`.
"""

import pickle
import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from minilm.errors import CheckpointError
from minilm.files.atomic import file_list, new_directory
from minilm.files.file_names import (
    CONFIG,
    INDEX,
    WEIGHTS,
    copy_companions,
    pickle_files,
)
from minilm.files.safetensors_file import write_weights

# The first release without known ways to run code through weights_only (CVE-2025-32434 and
# CVE-2026-24747).
SAFE_TORCH = (2, 10)

# the keys of the weights in what training scripts, Lightning and DeepSpeed save
NESTED = ("state_dict", "model_state_dict", "model", "module")


def convert_pickle(source: Path, destination: Path) -> list[str]:
    """Converts a model directory with pickled weights to one with model.safetensors.

    Reads pytorch_model.bin (or its shards, or a single other .bin, .pt, .pth or .ckpt file) with
    torch's restricted unpickler, in the zip format or the older one. Every name is stored, tied
    tensors twice. config.json and its companion files are copied.

    Args:
        source: a model directory.
        destination: a directory that does not exist yet, or is empty. It appears complete or not
            at all.

    Returns:
        The names of the files written, sorted.

    Raises:
        CheckpointError: torch is too old, the file holds anything but tensors, or it cannot be
            read or written.
    """
    check_torch(torch.__version__)
    files = _find(source)
    with new_directory(destination) as complete:
        tensors: dict[str, Tensor] = {}
        for file in files:
            for name, tensor in _read(file).items():
                if name in tensors:
                    raise CheckpointError(f"{file}: tensor {name!r} is in another shard too.")
                tensors[name] = tensor
        write_weights(complete / WEIGHTS, tensors)
        if (source / CONFIG).is_file():
            shutil.copyfile(source / CONFIG, complete / CONFIG)
        copy_companions(source, complete)
        return file_list(complete)


def check_torch(version: str) -> None:
    """Refuses a torch whose restricted unpickler is known to be unsafe.

    Args:
        version: version of torch, such as "2.13.0+cpu".

    Raises:
        CheckpointError: the version is older than 2.10.
    """
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < SAFE_TORCH:
        wanted = ".".join(map(str, SAFE_TORCH))
        raise CheckpointError(
            f"torch {version} can be made to run code by a pickle file even with weights_only. "
            f"Install torch {wanted} or newer to convert."
        )


def _find(source: Path) -> list[Path]:
    if not source.is_dir():
        raise CheckpointError(f"{source} is not a directory. Give the one that holds {CONFIG}.")
    if (source / WEIGHTS).exists() or (source / INDEX).exists():
        raise CheckpointError(f"{source} has safetensors already: minilm loads it as it is.")
    if not (source / CONFIG).is_file():
        raise CheckpointError(f"{source} has no {CONFIG}, without which weights cannot be used.")
    files = pickle_files(source)
    shards = (source / "pytorch_model.bin.index.json").is_file()
    if not files or (len(files) > 1 and not shards):
        found = ", ".join(file.name for file in files) or "none"
        raise CheckpointError(
            f"{source}: expected pytorch_model.bin or one other file of weights, found {found}."
        )
    return files


def _read(path: Path) -> Mapping[str, Tensor]:
    """The tensors in a pickle file, by name."""
    try:
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as problem:
        wanted = re.search(r"GLOBAL (\S+)", str(problem))
        reason = f"it asks for {wanted[1]}" if wanted else "it is damaged or holds other objects"
        raise CheckpointError(
            f"{path} is refused: {reason}, expected nothing but tensors. No code in it was run."
        ) from problem
    except FileNotFoundError as problem:
        raise CheckpointError(f"{path} does not exist.") from problem
    except Exception as problem:  # a damaged file can make torch fail in any way
        raise CheckpointError(
            f"{path} cannot be read: {type(problem).__name__}: {str(problem)[:200]}. "
            "Download it again."
        ) from problem
    while isinstance(content, dict):  # the weights among other things that were saved
        inner = [content[key] for key in NESTED if isinstance(content.get(key), dict)]
        if not inner:
            break
        content = inner[0]
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, expected named tensors.")
    for name, tensor in content.items():
        _check(path, name, tensor)
    # expanded and shared tensors can claim any size; tying explains twice that of the file
    claimed, size = sum(tensor.nbytes for tensor in content.values()), path.stat().st_size
    if claimed > 4 * size:
        raise CheckpointError(
            f"{path}: its tensors claim {claimed:,} bytes, the file has {size:,}. "
            "Do not trust this checkpoint."
        )
    return content


def _check(path: Path, name: object, tensor: object) -> None:
    if not isinstance(name, str) or not isinstance(tensor, Tensor):
        raise CheckpointError(
            f"{path}: {name!r:.200} is a {type(tensor).__name__}, expected tensors only, by name. "
            "Is it a model's state dictionary?"
        )
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise CheckpointError(f"{path}: tensor {name!r:.200} is not a plain dense tensor.")
