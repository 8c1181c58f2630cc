"""Locks that let only one process at a time do something."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from minilm.errors import MinilmError

# errors on file systems that have no locks
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL}


@contextmanager
def locked(path: Path, busy: MinilmError) -> Iterator[None]:
    """Keeps other processes out; the system releases the lock however this process ends.

    On file systems without locks, other processes are not kept out.

    Args:
        path: an empty file for the lock, which may stay there.
        busy: the error to raise if another process holds the lock; an error of the same class is
            raised if the file cannot be written.

    Raises:
        MinilmError: of the class of `busy`, in both cases.
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
