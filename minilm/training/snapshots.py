"""Snapshots of a run: each one complete or not there, checked when written and when read.

    snapshots/step-00000120/
        model.safetensors       the learner's state
        optimiser.safetensors   the optimiser's tensors, by parameter name
        state.json              where the data stands, best score, ...
        manifest.json           written last: the size and SHA-256 of the three files above

A snapshot is filled under a temporary name, every file flushed to the disk, compared with what is
in memory, and only then renamed. A process that is killed at any moment leaves a complete
snapshot or a directory with a temporary name, which the next save removes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import minilm
from minilm.errors import CheckpointError, MinilmError, TrainingError
from minilm.files.atomic import ABANDONED, make_directory, sync, write_synced
from minilm.files.json_file import json_bytes, parse_json, read_json
from minilm.files.safetensors_file import DTYPES, SafetensorsFile, write_tensors

FORMAT = 1
MODEL, OPTIMISER, STATE = "model.safetensors", "optimiser.safetensors", "state.json"
FILES = (MODEL, OPTIMISER, STATE)
MANIFEST = "manifest.json"
MAX_JSON_BYTES = 10_000_000

_NAME = re.compile(r"step-(\d{8,})")
_TEMPORARY = re.compile(r"step-\d{8,}\.tmp-(\d+)-([0-9a-f]+)")
# tells what this process writes from what a dead one with the same number left
_TOKEN = secrets.token_hex(4)


@dataclass(frozen=True)
class Snapshot:
    """Everything that a run needs to resume.

    Attributes:
        step: updates done.
        model: tensors of the learner, by name; any dtype, shape and device.
        optimiser: tensors of the optimiser, by name, 0-d ones included.
        state: JSON values, such as where the data stands.
    """

    step: int
    model: Mapping[str, Tensor]
    optimiser: Mapping[str, Tensor]
    state: Mapping[str, Any]


def save_snapshot(
    directory: Path, snapshot: Snapshot, *, keep: int = 2, trusted: Collection[int] = ()
) -> Path:
    """Writes a snapshot, complete or not at all, then removes the ones it makes superfluous.

    These are damaged ones, whole ones beyond the newest `keep`, and all of later steps, which the
    run did not resume from. One process at a time may save to a directory.

    Args:
        directory: the directory of the snapshots of one run; created if missing.
        snapshot: what to write.
        keep: number of whole snapshots to keep, this one included; at least 2.
        trusted: steps of snapshots that this process has written or read; only their sizes are
            checked again.

    Returns:
        The snapshot's directory, `directory/step-00000120`.

    Raises:
        TrainingError: as for `write_snapshot`.
    """
    if keep < 2:
        raise TrainingError(f"keep is {keep}: at least 2 snapshots stay, in case one is damaged.")
    place = write_snapshot(directory, snapshot)
    _prune(directory, snapshot.step, keep, trusted)
    return place


def write_snapshot(directory: Path, snapshot: Snapshot) -> Path:
    """Writes a snapshot, complete or not at all, and removes no other.

    Args:
        directory: the directory of the snapshots of one run; created if missing.
        snapshot: what to write.

    Returns:
        The snapshot's directory, `directory/step-00000120`.

    Raises:
        TrainingError: it cannot be written (disk full, no permission), or the files do not read
            back as they were written. No part of it is left, and earlier snapshots are untouched.
    """
    place = _place(directory, snapshot.step)
    content = _state_bytes(place, snapshot.state)
    model, optimiser = (_on_cpu(place, x) for x in (snapshot.model, snapshot.optimiser))
    temporary, replaced = _temporary(place), _temporary(place)
    try:
        make_directory(directory)
        _remove_abandoned(directory)
        temporary.mkdir()
        write_synced(temporary / MODEL, lambda path: write_tensors(path, model))
        write_synced(temporary / OPTIMISER, lambda path: write_tensors(path, optimiser))
        write_synced(temporary / STATE, lambda path: path.write_bytes(content))
        _compare(temporary / MODEL, model)
        _compare(temporary / OPTIMISER, optimiser)
        manifest = json_bytes(_manifest(temporary, snapshot.step))
        write_synced(temporary / MANIFEST, lambda path: path.write_bytes(manifest))
        sync(temporary)
        if place.exists():  # damaged, or the run would have gone on from it
            place.rename(replaced)
        temporary.rename(place)
        sync(directory)
    except (OSError, CheckpointError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else None
        raise TrainingError(
            f"The snapshot {place} cannot be written: {reason or problem}. Earlier snapshots are "
            "intact; make room or mend the disk."
        ) from problem
    finally:
        for leftover in (temporary, replaced):
            shutil.rmtree(leftover, ignore_errors=True)
    return place


def newest_snapshot(directory: Path, *, say: Callable[[str], None]) -> Snapshot | None:
    """Reads the newest snapshot that is whole.

    Args:
        directory: as for `save_snapshot`; it need not exist.
        say: receives a message for each snapshot that is skipped, with the reason.

    Returns:
        The snapshot, its tensors on the CPU; None if there is none yet.

    Raises:
        TrainingError: there are snapshots and none is whole, or a newer minilm wrote one.
    """
    places = _places(directory)
    for _, place in sorted(places.items(), reverse=True):
        try:
            return _read(place)
        except (CheckpointError, OSError) as problem:
            say(f"The snapshot {place} is passed over: {problem}")
    if places:
        raise TrainingError(
            f"None of the {len(places)} snapshots in {directory} is whole. Restore one from a "
            "backup, or remove the directory to start from the beginning."
        )
    return None


def read_snapshot(directory: Path, step: int) -> Snapshot:
    """Reads the snapshot of a step.

    Raises:
        CheckpointError: it is missing or damaged.
        OSError: it cannot be read.
    """
    return _read(_place(directory, step))


def snapshot_states(directory: Path) -> dict[int, dict[str, Any]]:
    """The states of all snapshots that have a readable one, whole or not, by step."""
    states = {}
    for step, place in _places(directory).items():
        with contextlib.suppress(CheckpointError, OSError):
            states[step] = read_json(place / STATE, max_bytes=MAX_JSON_BYTES, error=CheckpointError)
    return states


def remove_snapshots(directory: Path, *, keep: Collection[int] = ()) -> None:
    """Removes all snapshots but those of some steps; one that cannot be removed stays."""
    for step, place in _places(directory).items():
        if step not in keep:
            with contextlib.suppress(OSError):
                _discard(place)


def _read(place: Path) -> Snapshot:
    step = _check(place)
    state = read_json(place / STATE, max_bytes=MAX_JSON_BYTES, error=CheckpointError)
    return Snapshot(step, _tensors(place / MODEL), _tensors(place / OPTIMISER), state)


def _check(place: Path, *, content: bool = True) -> int:
    """Compares a snapshot with its manifest, or only its size, and returns its step."""
    step, files = _read_manifest(place)
    for name, entry in files.items():
        found = _size(place / name)
        if found != entry["bytes"]:
            raise CheckpointError(
                f"{place / name} has {found:,} bytes, expected {entry['bytes']:,}."
            )
    for name, digest in _digests(place).items() if content else ():
        if digest != files[name]["sha256"]:
            raise CheckpointError(
                f"{place / name} is damaged: its SHA-256 is {digest}, expected "
                f"{files[name]['sha256']}."
            )
    return step


def _read_manifest(place: Path) -> tuple[int, dict[str, Any]]:
    """The step, and for each file of a snapshot its "bytes" and "sha256"."""
    path = place / MANIFEST
    manifest = read_json(path, max_bytes=MAX_JSON_BYTES, error=CheckpointError)
    version, step, files = (manifest.get(key) for key in ("format", "step", "files"))
    if not isinstance(version, int):
        raise CheckpointError(f"{path} has no format.")
    if version > FORMAT:
        raise TrainingError(
            f"{place} was written by minilm {str(manifest.get('minilm'))[:50]} in format "
            f"{version}; this is minilm {minilm.__version__}, which reads up to format {FORMAT}. "
            "Update minilm, or train in another directory."
        )
    if (
        not isinstance(files, dict)
        or files.keys() != set(FILES)
        or not all(map(_is_entry, files.values()))
    ):
        raise CheckpointError(f"{path} does not list {', '.join(FILES)}.")
    if not isinstance(step, int) or place != _place(place.parent, step):
        raise CheckpointError(f"{path} is that of step {str(step)[:50]}: was it moved?")
    return step, files


def _is_entry(entry: object) -> bool:
    match entry:
        case {"bytes": int(), "sha256": str()}:
            return True
    return False


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist.") from None


def _tensors(path: Path) -> dict[str, Tensor]:
    with SafetensorsFile(path) as file:
        return {name: file.read(name) for name in file.tensors}


def _manifest(place: Path, step: int) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "step": step,
        "minilm": minilm.__version__,
        "torch": torch.__version__,
        "files": {
            name: {"bytes": (place / name).stat().st_size, "sha256": digest}
            for name, digest in _digests(place).items()
        },
    }


def _digests(place: Path) -> dict[str, str]:
    """SHA-256 of the files of a snapshot, two at a time."""

    def digest(name: str) -> str:
        with (place / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(FILES, pool.map(digest, FILES), strict=True))


def _compare(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Reads a file back and compares it with what it was written from, bit by bit."""
    with SafetensorsFile(path) as file:
        for name, tensor in tensors.items():
            if name not in file.tensors or not _identical(file.read(name), tensor):
                raise CheckpointError(f"{path}: {name!r} does not read back as it was written")


def _identical(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors agree in every bit; NaN equals NaN."""
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    return torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


def _on_cpu(place: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    known = set(DTYPES.values())
    for name, tensor in tensors.items():
        if tensor.dtype not in known:
            raise TrainingError(
                f"The snapshot {place} cannot be written: {name!r} is of dtype {tensor.dtype}; "
                f"snapshots hold {', '.join(DTYPES)}."
            )
    return {name: tensor.detach().cpu() for name, tensor in tensors.items()}


def _state_bytes(place: Path, state: Mapping[str, Any]) -> bytes:
    try:
        content = json_bytes(dict(state))
        same = parse_json(content) == state and len(content) <= MAX_JSON_BYTES
    except (TypeError, ValueError) as problem:
        raise TrainingError(
            f"The snapshot {place} cannot be written: its state is not JSON: {problem}."
        ) from problem
    if not same:
        raise TrainingError(
            f"The snapshot {place} cannot be written: its state does not read back as it was "
            f"(keys that are not strings, tuples) or has more than {MAX_JSON_BYTES:,} bytes."
        )
    return content


def _places(directory: Path) -> dict[int, Path]:
    """The directories of all snapshots, whole or not, by step."""
    if not directory.is_dir():
        return {}
    named = ((_NAME.fullmatch(path.name), path) for path in directory.iterdir())
    return {int(match[1]): path for match, path in named if match and path.is_dir()}


def _place(directory: Path, step: int) -> Path:
    return directory / f"step-{step:08d}"


def _prune(directory: Path, step: int, keep: int, trusted: Collection[int]) -> None:
    """Removes what the snapshot of `step` makes superfluous; damaged ones do not count."""
    places = _places(directory)
    stay: set[int] = set()
    for number in sorted(places, reverse=True):
        if number == step or (
            number < step
            and len(stay) < keep
            and _is_whole(places[number], content=number not in trusted)
        ):
            stay.add(number)
    remove_snapshots(directory, keep=stay)  # what stays against our will, the next save tries again


def _is_whole(place: Path, *, content: bool) -> bool:
    try:
        _check(place, content=content)
    except (MinilmError, OSError):
        return False
    return True


def _discard(place: Path) -> None:
    """Removes a snapshot; one that is removed only in part has a temporary name."""
    temporary = _temporary(place)
    place.rename(temporary)
    shutil.rmtree(temporary)


def _temporary(place: Path) -> Path:
    return place.with_name(f"{place.name}.tmp-{os.getpid()}-{_TOKEN}{secrets.token_hex(4)}")


def _remove_abandoned(directory: Path) -> None:
    """Removes what dead processes left; no process that lives is disturbed."""
    for path in directory.iterdir():
        match = _TEMPORARY.fullmatch(path.name)
        if match and _abandoned(path, int(match[1]), match[2]):
            shutil.rmtree(path, ignore_errors=True)


def _abandoned(path: Path, process: int, token: str) -> bool:
    if process == os.getpid():
        return not token.startswith(_TOKEN)
    if os.name == "nt":  # asking a process whether it lives would end it
        return time.time() - path.stat().st_mtime > ABANDONED
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it is another user's
        return False
    return False
