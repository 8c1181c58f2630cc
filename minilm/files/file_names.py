"""The file names of a model directory, and checks of the names that an index gives."""

import re
import shutil
from pathlib import Path

from minilm.errors import CheckpointError
from minilm.files.json_file import read_json

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "spiece.model",
)
# The files of sentence-transformers: modules, encoder, pooling and prompts.
MODULES = "modules.json"
TRANSFORMER = tuple(f"sentence_{name}_config.json" for name in ("bert", "distilbert", "albert"))
POOLING = "1_Pooling/config.json"
PROMPTS = "config_sentence_transformers.json"
SENTENCE_FILES = (MODULES, *TRANSFORMER, POOLING, PROMPTS)
# The task of `minilm finetune`: its name, lengths and thresholds.
TASK = "task.json"
# The classifiers of early exit, which `minilm finetune --exits` trains.
EXITS = "exits.safetensors"
# All companion files of a model's weights.
COMPANIONS = (*TOKENIZER_FILES, *SENTENCE_FILES, TASK, EXITS)

MAX_INDEX_BYTES = 10_000_000
MAX_SHARDS = 128
MAX_NAME = 200  # characters; file systems have room for 255 bytes

# Pickles that a training run leaves beside the weights.
_TRAINING_STATE = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state|random_states)")

# One plain name: no separator, drive, stream or control character of any system, not hidden.
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")
# Windows opens a device for these, whatever the extension.
_DEVICE = re.compile(r"(CON|PRN|AUX|NUL|COM[0-9]|LPT[0-9])(\..*)?", re.IGNORECASE)


def copy_companions(source: Path, destination: Path) -> None:
    """Copies the companion files of a model's weights that exist."""
    for name in COMPANIONS:
        if (source / name).is_file():
            (destination / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, destination / name)


def check_directory(directory: Path) -> None:
    """Raises CheckpointError unless it is a directory, and not one with a model for each seed."""
    if directory.is_dir():
        seeds = sorted(path.parent.name for path in directory.glob(f"seed-*/{CONFIG}"))
        if seeds and not (directory / CONFIG).exists():
            raise CheckpointError(
                f"{directory} holds {len(seeds)} models, one for each seed: {', '.join(seeds)}. "
                f"Name one of them: {directory / seeds[0]}"
            )
        return
    if directory.exists():
        raise CheckpointError(
            f"{directory} is a file. Give the directory that holds {CONFIG} and {WEIGHTS}: "
            f"{directory.parent}"
        )
    raise CheckpointError(f"The directory {directory} does not exist. Check the path.")


def check_shard_name(name: object, suffix: str, index: Path) -> str:
    """Returns a file name from an index if it can only name a file beside the index.

    The rules of both POSIX and Windows apply on every system, so that a directory that is safe here
    is safe elsewhere.

    Args:
        name: the value found.
        suffix: the extension it must have, such as ".safetensors".
        index: the index file, for messages.

    Raises:
        CheckpointError: it is another name, or not a string.
    """
    if not isinstance(name, str):
        raise CheckpointError(f"{index}: {name!r:.100} in weight_map is not a file name.")
    plain = len(name) <= MAX_NAME and _PLAIN.fullmatch(name) and not _DEVICE.fullmatch(name)
    if not plain or not name.endswith(suffix):
        raise CheckpointError(
            f"{index}: {name[:200]!r} in weight_map is refused. Expected the plain name of a "
            f"{suffix} file in the same directory, such as 'model-00001-of-00002{suffix}'. "
            "Do not trust this checkpoint."
        )
    return name


def check_link(path: Path, directory: Path) -> None:
    """Refuses a symbolic link that leads a shard out of its directory.

    The hub's cache is the exception: `models--…/snapshots/<commit>/` holds links into the `blobs`
    folder of the same repository, where huggingface_hub 2 puts links into the `blobs` folder that
    the whole cache shares.

    Args:
        path: a file in `directory`.
        directory: the model directory.

    Raises:
        CheckpointError: `path` leads out of the directory.
    """
    home = directory.resolve()
    allowed = [home]
    for parent in home.parents:
        if parent.name == "snapshots" and parent.parent.name.startswith("models--"):
            allowed += [parent.parent / "blobs", parent.parents[1] / "blobs"]
    target = path.resolve()
    if not any(target.is_relative_to(root) for root in allowed):
        raise CheckpointError(
            f"{path} is a link to {target}, outside the checkpoint directory. If you trust it, "
            "replace it by the file itself."
        )


def read_shard_index(path: Path, suffix: str = ".safetensors") -> dict[str, str]:
    """Reads the index of a sharded checkpoint.

    Args:
        path: model.safetensors.index.json, or the index of another kind of file.
        suffix: the extension that shards must have.

    Returns:
        File names by tensor name, each checked by `check_shard_name`.

    Raises:
        CheckpointError: the file is damaged or names a file that is refused.
    """
    data = read_json(path, max_bytes=MAX_INDEX_BYTES, error=CheckpointError)
    weight_map = data.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f"{path}: weight_map is missing or empty, expected an object of tensor name -> file."
        )
    checked = {name: check_shard_name(file, suffix, path) for name, file in weight_map.items()}
    if (shards := len(set(checked.values()))) > MAX_SHARDS:
        raise CheckpointError(
            f"{path}: weight_map names {shards:,} files, at most {MAX_SHARDS:,} are opened."
        )
    return checked


def pickle_files(directory: Path) -> list[Path]:
    """The pickled weights in a directory: one file, or the shards of one checkpoint.

    Raises:
        CheckpointError: the index of the shards is damaged or names files that are refused.
    """
    single, index = directory / "pytorch_model.bin", directory / "pytorch_model.bin.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        shards = [directory / name for name in set(read_shard_index(index, ".bin").values())]
        for shard in shards:
            check_link(shard, directory)
        return sorted(shards)
    return [
        path
        for path in sorted(directory.iterdir())
        if path.suffix in (".bin", ".pt", ".pth", ".ckpt") and not _TRAINING_STATE.match(path.name)
    ]


def weight_files(directory: Path) -> list[Path]:
    """The weight files of a checkpoint: one, or the shards in its index.

    Raises:
        CheckpointError: there is no such file, or the index is damaged.
    """
    if (directory / WEIGHTS).exists():
        return [directory / WEIGHTS]
    return [directory / name for name in sorted(set(read_shard_index(directory / INDEX).values()))]
