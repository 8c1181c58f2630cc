"""One process at a time in the directory of a run."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from minilm.errors import TrainingError
from minilm.files import lock

LOCK = "lock"


def locked(run: Path) -> AbstractContextManager[None]:
    """Keeps other processes out of the block; see `minilm.files.lock`.

    Args:
        run: the directory, in which an empty file may be left.

    Raises:
        TrainingError: another process holds it, or the file cannot be written.
    """
    busy = f"Another process is training in {run.parent}: wait for it, or take another output."
    return lock.locked(run / LOCK, TrainingError(busy))
