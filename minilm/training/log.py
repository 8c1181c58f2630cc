"""log.jsonl: what a run writes down, one JSON object a line."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minilm.errors import TrainingError
from minilm.files.atomic import replace_files
from minilm.training.observers import Observer
from minilm.training.settings import TrainingSettings, is_due

LOG = Path("run", "log.jsonl")  # in the directory of a run


class Log(Observer):
    """A line for every logged step, every evaluation and every event.

    A run that resumes from a snapshot first drops what was logged after it, so that a run that was
    interrupted leaves the same lines as one that was not (except for seconds and events).

    Args:
        path: the file, created if missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: Any = None
        self._waiting = b""
        self._lock = threading.Lock()  # a snapshot waits for the log in a thread of its own

    def forget(self, step: int, evaluated: int) -> None:
        """Drops what was logged after a snapshot.

        Args:
            step: the step of the snapshot to resume from.
            evaluated: the step of the last evaluation before that snapshot.
        """
        if self._path.exists():
            lines = self._path.read_bytes().splitlines(True)
            kept = b"".join(line for line in lines if _kept(line, step, evaluated))
            replace_files({self._path: lambda temporary: temporary.write_bytes(kept)})

    def on_start(self, step: int, settings: TrainingSettings) -> None:
        self._settings = settings
        try:
            self._file = self._path.open("ab", buffering=0)
        except OSError as problem:
            raise _unwritable(self._path, problem) from problem

    def on_step(self, row: Mapping[str, Any]) -> None:
        settings = self._settings
        if is_due(row["step"], settings.log_every, settings.steps) or "skipped" in row:
            self.write(row)

    def on_evaluation(self, step: int, scores: Mapping[str, float]) -> None:
        self.write({"step": step, "held_out": scores})

    def on_event(self, event: Mapping[str, Any]) -> None:
        self.write(event)

    def on_end(self, step: int, finished: bool) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends a line; on a full disk it waits until there is room.

        Numbers are written as they are, even if they are not finite.
        """
        with self._lock, contextlib.suppress(OSError):
            self._waiting += (json.dumps(row) + "\n").encode()
            self._flush()

    def sync(self) -> None:
        """Waits until all lines are on the disk. May be called in another thread.

        Raises:
            TrainingError: the disk has no room for them.
        """
        try:
            with self._lock:
                self._flush()
            os.fsync(self._file.fileno())
        except OSError as problem:
            raise _unwritable(self._path, problem) from problem

    def _flush(self) -> None:
        while self._waiting:
            self._waiting = self._waiting[self._file.write(self._waiting) :]


def _unwritable(path: Path, problem: OSError) -> TrainingError:
    return TrainingError(
        f"{path} cannot be written: {problem.strerror}. Free some space or repair the disk, then "
        "run the same command again."
    )


def _kept(line: bytes, step: int, evaluated: int) -> bool:
    try:
        row = json.loads(line)
    except ValueError:  # cut short when the run was killed
        return False
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        return False
    return bool(row["step"] <= (evaluated if "held_out" in row else step))
