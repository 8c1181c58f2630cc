"""The best evaluation of a run: which one it was, its weights, and early stopping.

Its weights lie in RUN/best, as a snapshot without optimiser. A snapshot of the run follows whenever
a better one is found, so what the run remembers is never more than one evaluation behind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from minilm.errors import CheckpointError, TrainingError
from minilm.metrics.score_table import score_named
from minilm.training.settings import TrainingSettings
from minilm.training.snapshots import Snapshot, read_snapshot, save_snapshot

DIRECTORY = "best"


class Best:
    """Compares evaluations; of no use, and of no cost, unless `settings.select` names a score.

    Args:
        run: the run's directory.
        settings: of the loop.
        first: this process writes.
        evaluation: JSON values that identify what is evaluated on.

    Attributes:
        step: updates before the best evaluation; None before the first one.
        bad_evals: evaluations since then, none of them better.
    """

    def __init__(
        self,
        run: Path,
        settings: TrainingSettings,
        first: bool,
        evaluation: Mapping[str, Any] | None = None,
    ) -> None:
        self._directory = run / DIRECTORY
        self._evaluation = dict(evaluation or {})
        self._name = settings.select
        self._patience = settings.patience
        self._first = first
        self._scores: dict[str, float] = {}
        self.step: int | None = None
        self.bad_evals = 0

    @property
    def should_stop(self) -> bool:
        """Patience is exhausted: early stopping ends the run."""
        return self._patience is not None and self.bad_evals >= self._patience

    def update(
        self, step: int, scores: Mapping[str, float], weights: Callable[[], Mapping[str, Tensor]]
    ) -> bool:
        """Whether an evaluation is better than all before; if so, its weights are kept.

        Of evaluations with equal scores the one with the lower "loss" is better, if they have one:
        accuracy on a small dev set takes few values, the loss on it hardly ever the same twice. Of
        those equal in both the first is kept.

        Args:
            step: updates before it.
            scores: what was found.
            weights: gives the learner's tensors.

        Raises:
            TrainingError: there is no such score, or the weights cannot be written.
        """
        if self._name is None:
            return False
        if self._name not in scores:
            raise TrainingError(
                f"select is {self._name!r}: the evaluation gives {', '.join(scores) or 'nothing'}."
            )
        if self.step is not None and self._worth(scores) <= self._worth(self._scores):
            self.bad_evals += 1
            return False
        self.step, self.bad_evals, self._scores = step, 0, dict(scores)
        if self._first:
            save_snapshot(self._directory, Snapshot(step, weights(), {}, {"scores": self._scores}))
        return True

    def weights(self) -> tuple[Mapping[str, Tensor], dict[str, float]] | None:
        """The learner's tensors at the best evaluation and its scores; None without `select`.

        Raises:
            TrainingError: they are not there, or damaged.
        """
        if self._name is None or self.step is None:
            return None
        try:
            return read_snapshot(self._directory, self.step).model, self._scores
        except (CheckpointError, OSError) as problem:
            raise TrainingError(
                f"The weights of the best evaluation, after step {self.step:,}, cannot be read: "
                f"{problem}"
            ) from problem

    def state(self) -> dict[str, Any]:
        """JSON values for a snapshot."""
        return {
            "step": self.step,
            "waited": self.bad_evals,
            "scores": self._scores,
            "select": self._name,
            "evaluation": self._evaluation,
        }

    def restore(self, state: Mapping[str, Any]) -> bool:
        """Puts back what `state` gave.

        Returns:
            False if that was by another score or on other data: then nothing is put back, as scores
            of the two do not compare.
        """
        same = (state.get("select", self._name), state.get("evaluation", self._evaluation))
        if same != (self._name, self._evaluation):
            return False
        self.step, self.bad_evals = state["step"], state["waited"]
        self._scores = dict(state["scores"])
        return True

    def _worth(self, scores: Mapping[str, float]) -> tuple[float, float]:
        """Higher is better, not a number worse than anything; then the loss."""
        assert self._name is not None
        score, loss = scores[self._name], scores.get("loss", math.nan)
        if not score_named(self._name, scores).higher_is_better:
            score = -score
        return (
            -math.inf if math.isnan(score) else score,
            -math.inf if math.isnan(loss) else -loss,
        )
