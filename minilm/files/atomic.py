"""Replaces files whole or not at all."""

import contextlib
import glob
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from minilm.errors import CheckpointError

# A temporary file this old (seconds) belongs to a process that was killed.
ABANDONED = 3600.0


def replace_files(writers: Mapping[Path, Callable[[Path], object]]) -> None:
    """Writes files so that readers see each of them whole, the old one or the new one.

    All files are written under temporary names in their directories and flushed to disk, in the
    order given; only then are they moved into place, in the same order. On any error, or if the
    process is killed, files not yet moved into place stay as they were.

    Args:
        writers: for each file, in an existing directory, a function that writes to the path it is
            given.

    Raises:
        CheckpointError: the directory cannot be written or the disk is full.
    """
    temporaries = {_temporary(path): path for path in writers}
    try:
        for temporary, path in temporaries.items():
            if path.is_dir():
                raise CheckpointError(f"{path} is a directory, expected a file. Remove it.")
            _remove_abandoned(path)
            write_synced(temporary, writers[path])
        for temporary, path in temporaries.items():
            os.replace(temporary, path)
        for directory in {path.parent for path in writers}:
            sync(directory)
    except OSError as problem:
        raise CheckpointError(
            f"{', '.join(map(str, writers))} cannot be written: {problem.strerror or problem}."
        ) from problem
    finally:
        for temporary in temporaries:
            with contextlib.suppress(OSError):
                temporary.unlink()


@contextlib.contextmanager
def new_directory(destination: Path) -> Iterator[Path]:
    """Yields a directory to fill, which becomes `destination` at the end, complete or not at all.

    Raises:
        CheckpointError: `destination` is not empty, or cannot be written.
    """
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise CheckpointError(f"{destination} exists and is not empty. Give a new directory.")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{destination.name}.tmp-"
        with tempfile.TemporaryDirectory(dir=destination.parent, prefix=prefix) as temporary:
            complete = Path(temporary) / "complete"
            complete.mkdir()
            yield complete
            for path in (*complete.rglob("*"), complete):
                sync(path)
            if destination.exists():
                destination.rmdir()
            complete.replace(destination)
        sync(destination.parent)
    except OSError as problem:
        raise CheckpointError(
            f"{destination} cannot be written: {problem.strerror or problem}."
        ) from problem


def make_directory(path: Path) -> None:
    """Creates a directory and its missing parents, and syncs them to disk."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for each in reversed(missing):
        sync(each.parent)


def write_synced(path: Path, writer: Callable[[Path], object]) -> None:
    """Writes a new file, in place, and waits until it is on disk.

    Args:
        path: the file, which must not exist yet.
        writer: writes to the path it is given.
    """
    mode = _create(path)
    writer(path)
    path.chmod(mode)  # the safetensors library makes its files private
    sync(path)


def file_list(directory: Path) -> list[str]:
    """The files below a directory, as sorted relative paths."""
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file())


def being_replaced(path: Path, *, within: float) -> bool:
    """Whether `replace_files` is writing `path`.

    Args:
        path: the file.
        within: temporary files not changed for this many seconds do not count.
    """
    return any(abs(age) < within for _, age in _temporaries(path))


def sync(path: Path) -> None:
    """Waits until a file, or the list of files in a directory, is on disk."""
    if path.is_dir() and os.name == "nt":  # Windows cannot open a directory
        return
    # Windows flushes only files that are open for writing
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp-{secrets.token_hex(8)}")


def _temporaries(path: Path) -> Iterator[tuple[Path, float]]:
    """Temporary files of `path` and their ages in seconds."""
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.tmp-*"):
        try:
            age = time.time() - temporary.stat().st_mtime
        except FileNotFoundError:  # moved into place at this moment
            age = 0.0
        yield temporary, age


def _remove_abandoned(path: Path) -> None:
    for temporary, age in _temporaries(path):
        if age > ABANDONED:
            temporary.unlink(missing_ok=True)


def _create(path: Path) -> int:
    """Creates an empty file and returns the mode that the user's umask gave it."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return os.fstat(descriptor).st_mode & 0o777
    finally:
        os.close(descriptor)
