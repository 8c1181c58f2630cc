"""The progress of a run: a bar on a terminal or in a notebook, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from tqdm.auto import tqdm

from minilm.files.progress import duration, is_watched
from minilm.training.observers import Observer
from minilm.training.settings import TrainingSettings

LINE_EVERY = 10.0  # seconds between plain progress lines


class Progress(Observer):
    """Shows a bar where a bar can be seen, plain lines elsewhere.

    Args:
        say: receives a plain line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._bar: Any = None

    def on_start(self, step: int, settings: TrainingSettings) -> None:
        self._start, self._steps = step, settings.steps
        self._began = self._last = time.monotonic()
        self._bar = tqdm(
            total=settings.steps, initial=step, unit="step", leave=False, disable=not is_watched()
        )

    def on_step(self, row: Mapping[str, Any]) -> None:
        step = row["step"]
        if not self._bar.disable:
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
            f"{row['tokens_per_second']:,.0f} tokens/s  {duration(left)} left"
        )

    def on_evaluation(self, step: int, scores: Mapping[str, float]) -> None:
        shown = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
        self._note(f"step {step:,} held out  {shown}")

    def on_event(self, event: Mapping[str, Any]) -> None:
        self._note(event["message"])

    def on_end(self, step: int, finished: bool) -> None:
        if self._bar is not None:
            self._bar.close()

    def _note(self, text: str) -> None:
        """A line that stays."""
        if not self._bar.disable:
            self._bar.clear()
        self._say(text)
