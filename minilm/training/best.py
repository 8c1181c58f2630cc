"""The best evaluation of a run: which one it was, its weights, and early stopping.

Its weights lie in RUN/best, as a snapshot without optimiser. They are written together with a
snapshot of the run, which follows whenever a better evaluation is found. Until they are on the
disk, for which there may be no room, they are kept in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from minilm.errors import CheckpointError, TrainingError
from minilm.metrics.score_table import score_named
from minilm.training.saving import BEST
from minilm.training.settings import TrainingSettings
from minilm.training.snapshots import Snapshot, read_snapshot


class Best:
    """Finds the best evaluation by the score that `settings.select` names, if it names one.

    Args:
        run: the run's directory.
        settings: the settings of the loop.
        first: whether this process is the one that keeps the weights.
        evaluation: JSON values that identify the held-out data.

    Attributes:
        step: updates before the best evaluation; None before the first one.
        bad_evals: evaluations since then, none of them better.
        unsaved: its weights, as long as they are not on the disk.
    """

    def __init__(
        self,
        run: Path,
        settings: TrainingSettings,
        first: bool,
        evaluation: Mapping[str, Any] | None = None,
    ) -> None:
        self._directory = run / BEST
        self._evaluation = dict(evaluation or {})
        self._name = settings.select
        self._patience = settings.patience
        self._first = first
        self._scores: dict[str, float] = {}
        self.step: int | None = None
        self.bad_evals = 0
        self.unsaved: Snapshot | None = None

    @property
    def should_stop(self) -> bool:
        """Whether patience is exhausted, so that early stopping ends the run."""
        return self._patience is not None and self.bad_evals >= self._patience

    def update(
        self, step: int, scores: Mapping[str, float], weights: Callable[[], Mapping[str, Tensor]]
    ) -> bool:
        """Whether an evaluation is better than all before; if so, its weights are kept.

        Of evaluations with equal scores the one with the lower "loss" is better, if they have one:
        accuracy on a small dev set takes few values, the loss on it hardly ever the same twice. Of
        those equal in both the first is kept.

        Args:
            step: number of updates before the evaluation.
            scores: its scores.
            weights: returns copies of the learner's tensors.

        Raises:
            TrainingError: the evaluation has no score of the selected name.
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
            self.unsaved = Snapshot(step, weights(), {}, {"scores": to_json(self._scores)})
        return True

    def saved(self, step: int) -> None:
        """Notes that the best weights, those of this step, are on the disk."""
        if self.unsaved is not None and self.unsaved.step == step:
            self.unsaved = None

    @property
    def scores(self) -> dict[str, float]:
        """The scores of the best evaluation."""
        return dict(self._scores)

    def weights(self) -> Mapping[str, Tensor]:
        """The learner's tensors at the best evaluation, which must exist.

        Raises:
            TrainingError: they are not there, or damaged.
        """
        assert self.step is not None
        if self.unsaved is not None:
            return self.unsaved.model
        try:
            return read_snapshot(self._directory, self.step).model
        except (CheckpointError, OSError) as problem:
            raise TrainingError(
                f"The weights of the best evaluation, after step {self.step:,}, cannot be read: "
                f"{problem} Restore them from a backup, or train in another output."
            ) from problem

    def state(self) -> dict[str, Any]:
        """JSON values for a snapshot."""
        return {
            "step": self.step,
            "waited": self.bad_evals,
            "scores": to_json(self._scores),
            "select": self._name,
            "evaluation": self._evaluation,
        }

    def restore(self, state: Mapping[str, Any]) -> bool:
        """Restores what `state` returned.

        Returns:
            False, with nothing restored, if that was another score or on other held-out data, as
            the two cannot be compared.
        """
        same = (state.get("select", self._name), state.get("evaluation", self._evaluation))
        if same != (self._name, self._evaluation):
            return False
        self.step, self.bad_evals = state["step"], state["waited"]
        self._scores = from_json(state["scores"])
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


def to_json(scores: Mapping[str, float]) -> dict[str, float | None]:
    """Scores as JSON has them: null for those that are not finite."""
    return {name: value if math.isfinite(value) else None for name, value in scores.items()}


def from_json(scores: Mapping[str, float | None]) -> dict[str, float]:
    """The scores that `to_json` converted, with NaN for null."""
    return {name: math.nan if value is None else value for name, value in scores.items()}
