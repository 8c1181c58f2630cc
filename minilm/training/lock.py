"""One process at a time in the directory of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minilm.errors import TrainingError

LOCK = "lock"


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Keeps other processes out; the kernel lets go when this one ends, however it does.

    Best effort: on Windows, and on file systems without locks, no other process is kept out.

    Args:
        run: the directory, in which an empty file is left.

    Raises:
        TrainingError: another process holds it, or the file cannot be written.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    try:
        file = (run / LOCK).open("a")
    except OSError as problem:
        raise TrainingError(f"{run / LOCK} cannot be written: {problem.strerror}.") from problem
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainingError(
                f"Another process is training in {run.parent}: wait for it, or take another output."
            ) from None
        except OSError:  # a file system without locks
            pass
        yield
