"""One process at a time in the directory of a run."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from minilm.errors import TrainingError

LOCK = "lock"
# what systems answer whose file system has no locks
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL}


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Keeps other processes out; the system lets go when this one ends, however it does.

    Best effort: on file systems without locks, no other process is kept out.

    Args:
        run: the directory, in which an empty file may be left.

    Raises:
        TrainingError: another process holds it, or the file cannot be written.
    """
    lock = FileLock(run / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise TrainingError(
            f"Another process is training in {run.parent}: wait for it, or take another output."
        ) from None
    except NotImplementedError:
        pass
    except OSError as problem:
        if problem.errno not in _NO_LOCKS:
            raise TrainingError(
                f"{run / LOCK} cannot be written: {problem.strerror or problem}."
            ) from problem
    try:
        yield
    finally:
        lock.release()
