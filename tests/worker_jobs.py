"""Jobs for worker processes, in a module that imports little: every worker imports it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from minilm.errors import DataError, setting
from minilm.files.workers import Work


@dataclass(frozen=True)
class Job:
    """Does what `kind` says at task 3, and writes a file for every other one.

    Attributes:
        directory: of the files.
        kind: "work", "error", "failure", "kill", "wait" or "broken" (it does not even start).
    """

    directory: Path
    kind: str = "work"

    @contextmanager
    def open(self) -> Iterator[Work]:
        if self.kind == "broken":
            raise DataError("the model is missing.")

        def work(task: int, on_rows: Callable[[int], object]) -> dict[str, int]:
            if task == 3 and self.kind == "error":
                raise DataError(f"row 17 is bad; say {setting('errors', 'ignore')}.")
            if task == 3 and self.kind == "failure":
                raise ZeroDivisionError("a mistake in the code")
            if task == 3 and self.kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if task == 3 and self.kind == "wait":
                tqdm(disable=True)  # a lock between processes would be missed when this one ends
                (self.directory / "waiting").write_text(str(os.getpid()))
                time.sleep(600)
            for _ in range(task):
                on_rows(10)
            (self.directory / str(task)).write_text(str(os.getpid()))
            return {"made": task}

        yield work
