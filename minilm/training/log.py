"""What a run writes down: one JSON object a line, and a line or a bar for whoever watches."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tqdm.auto import tqdm

from minilm.errors import TrainingError
from minilm.files.atomic import replace_files

LOG = Path("run", "log.jsonl")  # in the directory of a run
LINE_EVERY = 10.0  # seconds between plain progress lines


class Log:
    """log.jsonl: a line for every logged step, every evaluation and every event.

    A run that goes on from a snapshot first drops what was logged after it, so that a run that was
    interrupted leaves the same lines as one that was not (except for seconds and events).

    Args:
        path: the file, created if missing; None = nothing is written.
        step: of the snapshot to go on from; later lines are dropped.
        evaluated: step of the last evaluation that the snapshot knows of; later ones are dropped.
    """

    def __init__(self, path: Path | None, step: int, evaluated: int) -> None:
        self._file = None
        self._waiting = b""
        if path is None:
            return
        if path.exists():
            kept = b"".join(
                line for line in path.read_bytes().splitlines(True) if _kept(line, step, evaluated)
            )
            replace_files({path: lambda temporary: temporary.write_bytes(kept)})
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as problem:
            raise _unwritable(path, problem) from problem

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends a line; on a full disk it waits until there is room.

        Numbers are written as they are, also those that are not finite.
        """
        if self._file is None:
            return
        self._waiting += (json.dumps(row) + "\n").encode()
        with contextlib.suppress(OSError):
            self._flush()

    def sync(self) -> None:
        """Waits until all lines are on the disk.

        Raises:
            TrainingError: there is no room for them.
        """
        if self._file is None:
            return
        try:
            self._flush()
            os.fsync(self._file.fileno())
        except OSError as problem:
            raise _unwritable(Path(self._file.name), problem) from problem

    def _flush(self) -> None:
        while self._file is not None and self._waiting:
            self._waiting = self._waiting[self._file.write(self._waiting) :]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()


def _unwritable(path: Path, problem: OSError) -> TrainingError:
    return TrainingError(
        f"{path} cannot be written: {problem.strerror}. Make room or mend the disk, then start the "
        "same command again."
    )


def _kept(line: bytes, step: int, evaluated: int) -> bool:
    try:
        row = json.loads(line)
    except ValueError:  # cut short when the run was killed
        return False
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        return False
    return bool(row["step"] <= (evaluated if "held_out" in row else step))


class Progress:
    """One bar on a terminal, plain lines elsewhere.

    Args:
        start: steps done before.
        steps: steps in all.
        say: takes a plain line.
        bar: whether to draw a bar on stderr.
    """

    def __init__(self, start: int, steps: int, say: Callable[[str], None], *, bar: bool) -> None:
        self._steps = steps
        self._start = start
        self._say = say
        self._began = self._last = time.monotonic()
        self._bar = tqdm(total=steps, initial=start, unit="step", leave=False) if bar else None

    def step(self, step: int, row: Mapping[str, float]) -> None:
        """Shows a finished step."""
        if self._bar is not None:
            self._bar.set_postfix(
                loss=f"{row['loss']:.3f}",
                tokens_s=f"{row['tokens_per_second']:,.0f}",
                refresh=False,
            )
            self._bar.update(step - self._bar.n)
            return
        now = time.monotonic()
        if now - self._last < LINE_EVERY and step < self._steps:
            return
        self._last = now
        left = (now - self._began) / (step - self._start) * (self._steps - step)
        self._say(
            f"step {step:,} of {self._steps:,}  loss {row['loss']:.3f}  "
            f"{row['tokens_per_second']:,.0f} tokens/s  {_duration(left)} left"
        )

    def note(self, text: str) -> None:
        """A line that stays."""
        if self._bar is not None:
            self._bar.clear()
        self._say(text)

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.close()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
