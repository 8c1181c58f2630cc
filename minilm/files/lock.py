"""One process at a time."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from minilm.errors import MinilmError

# what systems answer whose file system has no locks
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL}


@contextmanager
def locked(path: Path, busy: MinilmError) -> Iterator[None]:
    """Keeps other processes out; the system lets go when this one ends, however it does.

    Best effort: on file systems without locks, no other process is kept out.

    Args:
        path: an empty file, which may be left there.
        busy: the error to raise when another process holds it; one of the same class is raised
            when the file cannot be written.

    Raises:
        MinilmError: one of these.
    """
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise busy from None
    except NotImplementedError:
        pass
    except OSError as problem:
        if problem.errno not in _NO_LOCKS:
            reason = problem.strerror or problem
            raise type(busy)(f"{path} cannot be written: {reason}.") from problem
    try:
        yield
    finally:
        lock.release()
