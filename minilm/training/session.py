"""One process's part of a run, from its first or restored step to its last."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minilm.errors import TrainingError, setting
from minilm.files.progress import counted
from minilm.training.best import Best, from_json, to_json
from minilm.training.distributed import Processes
from minilm.training.learner import TrainingBatch, TrainingData
from minilm.training.log import LOG, Log
from minilm.training.observers import Observer, Observers
from minilm.training.progress import Progress
from minilm.training.saving import Saver, copied
from minilm.training.settings import TrainingSettings, is_due
from minilm.training.signals import StopRequest
from minilm.training.snapshots import Snapshot
from minilm.training.steps import DataPosition, prepared_steps
from minilm.training.updates import Outcome, Updater


class Session:
    """What a process does from its start to its end: steps, evaluations, snapshots.

    Args:
        updater: takes the steps.
        settings: the settings of the loop.
        run: the run's directory, with log and snapshots.
        processes: the processes that take part.
        held_out: batches to evaluate on; the same in every process.
        best: chooses an evaluation.
        observers: the user's observers; called in the first process only.
        say: receives messages.

    Attributes:
        step: number of updates done.
        scores: the scores of the last evaluation; after `choose`, of the chosen one.
    """

    def __init__(
        self,
        updater: Updater,
        settings: TrainingSettings,
        run: Path,
        processes: Processes,
        held_out: Sequence[TrainingBatch],
        best: Best,
        observers: Sequence[Observer],
        say: Callable[[str], None],
    ) -> None:
        self._updater = updater
        self._settings = settings
        self._run = run
        self._processes = processes
        self._held_out = held_out
        self.step = 0
        self.scores: dict[str, float] = {}
        self._best = best
        self._position = DataPosition()
        self._tokens = 0
        self._skips = 0  # in a row
        self._evaluated = 0  # the step of the last evaluation
        self._saved = -1  # the step of the last snapshot that is known to be complete
        self._warned = False  # of scores that are no numbers
        own: list[Observer] = []
        if processes.first:
            self._log = Log(run / LOG.name)
            self._saver = Saver(run, settings.keep_snapshots, self._log.sync)
            own = [self._log, Progress(say)]
        self._observers = Observers(own, observers if processes.first else ())
        self._say = say

    def restore(self, snapshot: Snapshot) -> None:
        """Continues from where a snapshot was taken."""
        if snapshot.step > self._settings.steps:
            raise TrainingError(
                f"{self._run.parent} holds a run that has done {snapshot.step:,} steps, more than "
                f"the {self._settings.steps:,} asked for. Ask for more, or take another output."
            )
        self._updater.restore(snapshot.model, snapshot.optimiser)
        state = snapshot.state
        self.step = self._saved = snapshot.step
        self.scores = from_json(state["scores"])
        self._position = DataPosition(state["epoch"], state["index"])
        self._tokens = state["tokens"]
        self._skips = state["skips"]
        self._evaluated = state["evaluated"]
        # "best" is not in snapshots of earlier versions
        if "best" in state and not self._best.restore(state["best"]):
            self.scores, self._evaluated = {}, 0
            if self._processes.first:
                self._say("the evaluation differs: earlier scores are left out")
        with self._processes.waiting_for_first():
            if self._processes.first and self._best.step is not None:
                self._best.weights()  # if they are lost, that is said now, not at the end
        if self._processes.first:
            self._saver.trust(snapshot.step)
            if self.step == self._settings.steps or self._best.should_stop:
                self._say("all steps are done")

    def run(self, data: TrainingData, stop: StopRequest) -> bool:
        """Takes the remaining steps; False if it was asked to stop before the end."""
        if self._processes.first:
            self._log.forget(self.step, self._evaluated)
        self._observers.on_start(self.step, self._settings)
        finished = self._run_steps(data, lambda: stop.requested or self._observers.failed)
        if self._processes.first:
            self._collect(wait=True, must=not finished)
        return finished

    def end(self, finished: bool) -> None:
        """Waits for the last snapshot and tells observers of the end; called whatever happened."""
        if self._processes.first:
            self._saver.close()
        self._observers.on_end(self.step, finished)

    def raise_failure_of_observers(self, finished: bool) -> None:
        """Raises what a user's observer raised, now that nothing can be lost by it."""
        failure = self._observers.failure
        if failure is not None:
            raise TrainingError(
                f"{failure}. "
                + (
                    f"The run is finished all the same: its model is in {self._run.parent}."
                    if finished
                    else f"The run was saved after step {self.step:,}: mend the observer or leave "
                    "it out, and the same command resumes from there."
                )
            ) from failure.__cause__

    def choose(self) -> int:
        """Loads the averaged or the best weights into the learner, if the settings say so.

        Returns:
            The step of these weights.
        """
        chosen = self.step
        if self._best.step is not None:
            chosen, self.scores = self._best.step, self._best.scores
            with self._processes.waiting_for_first():
                if self._processes.first:
                    self._updater.restore(self._best.weights(), {})
            self._processes.share(self._updater.state()[0].values())
        else:
            self._updater.apply_average()
        self._check_finite(chosen)
        return chosen

    def _run_steps(self, data: TrainingData, stop_requested: Callable[[], bool]) -> bool:
        settings = self._settings
        if 0 < self.step < settings.steps and not self._best.should_stop:
            self._tell("resumed", f"going on after step {self.step:,}")
        # an evaluation that a signal cut short is made up for first
        if not self._evaluate_if_due(stop_requested):
            return False
        if self._best.should_stop:
            return True
        steps = prepared_steps(data, settings, self._processes, self._position)
        started = began = time.monotonic()
        while self.step < settings.steps:
            position, batches = next(steps)
            outcome = self._updater.update(self.step + 1, batches, stop_requested)
            self._count(outcome)
            self.step += 1
            self._position = position
            self._tokens += outcome.tokens
            now = time.monotonic()
            row = _row(outcome, self.step, position.epoch, self._tokens, now - began, now - started)
            self._observers.on_step(row)
            stopped = outcome.stop or not self._evaluate_if_due(stop_requested)
            better, should_stop = self._best.step == self.step, self._best.should_stop
            due = is_due(self.step, settings.snapshot_every, settings.steps)
            saves = stopped or better or should_stop or due
            if saves:
                self._check_finite(self.step)  # in all processes, so that all end alike
            if self._processes.first:
                self._collect(wait=False)
                if saves:
                    self._save()
            if stopped:
                return False
            if should_stop:
                self._tell(
                    "early stopping",
                    f"early stopping: no better for {counted(self._best.bad_evals, 'evaluation')}",
                )
                return True
            began = time.monotonic()
        return True

    def _count(self, outcome: Outcome) -> None:
        """Bears a few skipped updates in a row, no more."""
        self._skips = self._skips + 1 if outcome.skipped else 0
        if self._skips > self._settings.max_skips:
            raise TrainingError(
                f"Step {self.step + 1}: the loss or its gradient was not finite "
                f"{counted(self._skips, 'time')} in a row. {self._advice()}"
            )

    def _evaluate_if_due(self, stop_requested: Callable[[], bool]) -> bool:
        """Evaluates where the settings say so; False if a signal came in between."""
        settings = self._settings
        due = self.step > 0 and is_due(self.step, settings.evaluate_every, settings.steps)
        if not due or not self._held_out or self._evaluated == self.step:
            return True
        scores = self._updater.evaluate(self._held_out, stop_requested)
        if scores is None:
            return False
        self.scores, self._evaluated = scores, self.step
        self._observers.on_evaluation(self.step, scores)
        self._warn_of_no_numbers(scores)
        with self._updater.averaged():
            self._best.update(self.step, scores, lambda: copied(self._updater.state()[0]))
        return True

    def _warn_of_no_numbers(self, scores: Mapping[str, float]) -> None:
        lost = [name for name, value in scores.items() if not math.isfinite(value)]
        if not lost or self._warned:
            return
        self._warned = True
        if any(name.endswith(("loss", "error")) for name in lost):
            reason = f"the run has probably diverged. {self._advice()}"
        else:
            reason = (
                "the held-out records do not determine it, they are too few or too much alike. It "
                "never counts as the best."
            )
        self._tell("not a number", f"warning: held-out {', '.join(lost)} not a number: {reason}")

    def _advice(self) -> str:
        clipping = f", clip gradients ({setting('max_gradient_norm', 1.0)})"
        return (
            f"Lower the learning rate ({self._settings.learning_rate:g}), lengthen the warm-up "
            f"({self._settings.warmup:,} steps)"
            f"{clipping if self._settings.max_gradient_norm is None else ''} or inspect the data."
        )

    def _tell(self, event: str, message: str, **more: Any) -> None:
        self._observers.on_event({"event": event, "step": self.step, "message": message, **more})

    def _save(self) -> None:
        """Takes a snapshot, which is then written in the background."""
        self._collect(wait=True)
        model, optimiser = self._updater.state()
        best = self._best.unsaved
        # the best weights were copied a moment ago, if they are those of this step, no averages
        same = best is not None and best.step == self.step and not self._updater.averages
        snapshot = Snapshot(
            self.step,
            best.model if best is not None and same else copied(model),
            copied(optimiser),
            {
                "epoch": self._position.epoch,
                "index": self._position.index,
                "tokens": self._tokens,
                "skips": self._skips,
                "evaluated": self._evaluated,
                "scores": to_json(self.scores),
                "best": self._best.state(),
            },
        )
        self._saver.save(snapshot, best, self._best.step)

    def _collect(self, *, wait: bool, must: bool = False) -> None:
        """Handles the result of the last snapshot; the only place that reacts to a full disk."""
        saved = self._saver.collect(wait=wait)
        if saved is None:
            return
        if saved.problem is None:
            self._saved = saved.step
            if saved.best is not None:
                self._best.saved(saved.best)
            self._observers.on_snapshot(saved.step)
            return
        if must or self._settings.on_save_error == "raise" or self._saved < 0:
            raise saved.problem
        self._observers.on_event(
            {
                "event": "save failed",
                "step": saved.step,
                "message": f"warning: {saved.problem} The run continues; the last snapshot is of "
                f"step {self._saved:,}.",
            }
        )

    def _check_finite(self, step: int) -> None:
        """Nothing that is not finite is ever written as weights."""
        lost = [
            name
            for name, parameter in self._updater.learner.named_parameters()
            if parameter.requires_grad and not _is_finite(parameter.detach())
        ]
        if lost:
            raise TrainingError(
                f"After step {step:,} there are NaN or infinite values in "
                f"{counted(len(lost), 'tensor')}, such as {lost[0]!r}: the run has diverged, and "
                f"these weights are not written. {self._advice()} Start in another output."
            )


def _is_finite(tensor: Tensor) -> bool:
    # one pass and no copy, unlike isfinite().all(); NaN is passed on
    return tensor.numel() == 0 or all(bool(x.isfinite()) for x in torch.aminmax(tensor))


def _row(
    outcome: Outcome, step: int, epoch: int, tokens: int, seconds: float, since: float
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "step": step,
        "epoch": epoch,
        "tokens": tokens,
        **outcome.terms,
        "learning_rate": outcome.learning_rate,
        "gradient_norm": outcome.gradient_norm,
        "tokens_per_second": round(outcome.tokens / seconds, 1),
        "seconds": round(since, 3),
    }
    return {**row, "skipped": True} if outcome.skipped else row
