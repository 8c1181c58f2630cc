"""Observers of a run: log.jsonl, the progress bar, and those that a user adds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from minilm.errors import TrainingError
from minilm.training.settings import TrainingSettings


class Observer:
    """Follows a training run; every method does nothing until it is overridden.

    The methods are called in the first process only, in the training thread, between updates: slow
    methods make the run longer. They cannot change the run: rows and scores are copies. An observer
    that raises an exception is not called again; the run saves a snapshot and ends with a
    `TrainingError` that names it, and the same command resumes from there. Scores and losses may be
    NaN.

    Example:
        Weights & Biases; for TensorBoard there is `minilm.TensorBoard`.

        ```python
        class WeightsAndBiases(minilm.Observer):
            def on_step(self, row):
                wandb.log(row, step=row["step"])

            def on_evaluation(self, step, scores):
                wandb.log({f"held_out/{name}": value for name, value in scores.items()}, step=step)

        wandb.init(project="sentiment", id="first", resume="allow")
        minilm.finetune(..., observers=[WeightsAndBiases()])
        ```
    """

    def on_start(self, step: int, settings: TrainingSettings) -> None:
        """Before the first step.

        Args:
            step: number of updates done before: 0, or that of the snapshot that the run resumes
                from.
            settings: the settings of the loop.
        """

    def on_step(self, row: Mapping[str, Any]) -> None:
        """After every update.

        Args:
            row: "step" (1 for the first), "epoch", "tokens" seen so far, "loss" and the learner's
                other terms (means over the step), "learning_rate", "gradient_norm" before clipping,
                "tokens_per_second" with the wait for data, "seconds" since the start; "skipped" if
                the update was left out because something was not finite.
        """

    def on_evaluation(self, step: int, scores: Mapping[str, float]) -> None:
        """After every evaluation.

        Args:
            step: number of updates before it.
            scores: by name; NaN for those that do not exist.
        """

    def on_snapshot(self, step: int) -> None:
        """When a snapshot is complete on the disk, some steps after it was taken.

        Args:
            step: number of updates before it.
        """

    def on_event(self, event: Mapping[str, Any]) -> None:
        """When something happens that is worth a line in the log.

        Args:
            event: "event" (its name: "resumed", "save failed", "early stopping", "not a number"),
                "step" and "message", a sentence.
        """

    def on_end(self, step: int, finished: bool) -> None:
        """When the run has ended, however it did; called last, once the model is written.

        Args:
            step: number of updates done.
            finished: False after a signal or an error.
        """


class Observers(Observer):
    """All observers of a run as one.

    Args:
        own: the engine's observers; what they raise is raised.
        users: the user's observers; what they raise is kept in `failure`.

    Attributes:
        failure: the first exception of a user's observer, as an error that names the observer.
    """

    def __init__(self, own: Sequence[Observer], users: Sequence[Observer]) -> None:
        for observer in users:
            if not isinstance(observer, Observer):
                raise TrainingError(
                    f"observers holds {observer!r:.80}: expected objects of classes derived from "
                    "minilm.Observer."
                )
        self._own = list(own)
        self._users = list(users)
        self.failure: TrainingError | None = None

    @property
    def failed(self) -> bool:
        """Whether a user's observer raised something."""
        return self.failure is not None

    def on_start(self, step: int, settings: TrainingSettings) -> None:
        self._tell("on_start", lambda observer: observer.on_start(step, settings))

    def on_step(self, row: Mapping[str, Any]) -> None:
        self._tell("on_step", lambda observer: observer.on_step(dict(row)))

    def on_evaluation(self, step: int, scores: Mapping[str, float]) -> None:
        self._tell("on_evaluation", lambda observer: observer.on_evaluation(step, dict(scores)))

    def on_snapshot(self, step: int) -> None:
        self._tell("on_snapshot", lambda observer: observer.on_snapshot(step))

    def on_event(self, event: Mapping[str, Any]) -> None:
        self._tell("on_event", lambda observer: observer.on_event(dict(event)))

    def on_end(self, step: int, finished: bool) -> None:
        self._tell("on_end", lambda observer: observer.on_end(step, finished))

    def _tell(self, method: str, call: Callable[[Observer], None]) -> None:
        for observer in self._own:
            call(observer)
        for observer in list(self._users):
            try:
                call(observer)
            except Exception as problem:
                self._users.remove(observer)
                if self.failure is None:
                    kind = type(observer).__name__
                    self.failure = TrainingError(
                        f"The observer {kind} failed in {method}: "
                        f"{type(problem).__name__}: {problem}"
                    )
                    self.failure.__cause__ = problem
