"""Curves for TensorBoard: the lines of log.jsonl, as its event files."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from minilm.errors import DependencyError
from minilm.training.observers import Observer
from minilm.training.settings import TrainingSettings, is_due

EVENTS = Path("run", "tensorboard")  # in the directory of a run
_PLACES = ("step", "epoch", "tokens", "seconds", "skipped")  # where a row is, not how well it does


class TensorBoard(Observer):
    """Writes what log.jsonl holds as TensorBoard's event files; `tensorboard --logdir` shows them.

    Training rows become the curves "train/loss", "train/learning_rate" and so on, evaluations
    "held_out/f1" and so on, events texts. When a run resumes after an interruption, TensorBoard
    drops what was written after the snapshot. A disk without room ends the curves, not the run.

    Args:
        directory: the directory of the event files; created at the first step.
        say: receives a message when the files cannot be written.

    Raises:
        DependencyError: the package tensorboard is not installed.

    Example:
        >>> curves = minilm.TensorBoard("sentiment/run/tensorboard")
        >>> minilm.finetune("classification", model, train, "sentiment", observers=[curves])
    """

    def __init__(
        self, directory: str | os.PathLike[str], say: Callable[[str], None] = lambda _: None
    ) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as problem:
            raise DependencyError(
                "Curves for TensorBoard need the package tensorboard: "
                "pip install 'minilm[tensorboard]'"
            ) from problem
        self._open: Callable[..., Any] = SummaryWriter
        self._directory = Path(directory)
        self._writer: Any = None
        self._say = say
        self._failed = False

    def on_start(self, step: int, settings: TrainingSettings) -> None:
        self._start, self._settings = step, settings

    def on_step(self, row: Mapping[str, Any]) -> None:
        settings = self._settings
        if is_due(row["step"], settings.log_every, settings.steps) or "skipped" in row:
            self._write(row["step"], _curves("train", row))

    def on_evaluation(self, step: int, scores: Mapping[str, float]) -> None:
        self._write(step, _curves("held_out", scores))

    def on_event(self, event: Mapping[str, Any]) -> None:
        self._write(event["step"], {}, f"{event['event']}: {event['message']}")

    def on_snapshot(self, step: int) -> None:
        self._try(lambda: self._writer and self._writer.flush())

    def on_end(self, step: int, finished: bool) -> None:
        self._try(lambda: self._writer and self._writer.close())

    def _write(self, step: int, values: Mapping[str, float], text: str | None = None) -> None:
        def write() -> None:
            if self._writer is None:
                self._writer = self._open(str(self._directory), purge_step=self._start + 1)
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
            if text is not None:
                self._writer.add_text("events", text, step)

        self._try(write)

    def _try(self, write: Callable[[], Any]) -> None:
        if self._failed:
            return
        try:
            write()
        except OSError as problem:
            self._failed = True
            self._say(
                f"warning: {self._directory} cannot be written ({problem.strerror or problem}): "
                "no more curves for TensorBoard. The run and log.jsonl continue."
            )


def _curves(group: str, values: Mapping[str, Any]) -> dict[str, float]:
    return {f"{group}/{name}": value for name, value in values.items() if name not in _PLACES}
