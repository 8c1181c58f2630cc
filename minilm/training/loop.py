"""The training loop: steps in order, evaluations, snapshots, and going on after an interruption.

    data.steps(epoch) -> the samples of a step -> data.split -> data.batch      (steps.py)
        -> learner(batch) -> loss terms -> gradients -> checks -> optimiser     (updates.py)
        -> observers: log.jsonl, progress, the user's own                       (observers.py)
        -> now and then an evaluation and a snapshot                            (best.py, saving.py)

A run lives in a directory: OUTPUT/run/ holds settings.json, log.jsonl and snapshots/; what the run
was for, a model that loads, appears in OUTPUT itself at the end. The same command goes on where a
killed run stopped. As all randomness is a function of (seed, step, sample), and on a GPU that of
dropout one of (seed, step, micro-batch, process), a snapshot holds no generator, and the weights
at the end do not show that the run was ever interrupted.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minilm.errors import TrainingError, setting
from minilm.files.atomic import make_directory
from minilm.training.best import Best, from_json, to_json
from minilm.training.distributed import Processes
from minilm.training.finished import Finished, clean_up, finished_before
from minilm.training.lock import locked
from minilm.training.log import LOG, Log
from minilm.training.observers import Observer, Observers
from minilm.training.progress import Progress
from minilm.training.record import SETTINGS, check_record, environment
from minilm.training.saving import SNAPSHOTS, Saver, copied
from minilm.training.settings import TrainingSettings
from minilm.training.signals import StopRequest
from minilm.training.snapshots import Snapshot, newest_snapshot
from minilm.training.steps import DataPosition, is_due, prepared_steps
from minilm.training.updates import Learner, Outcome, TrainingBatch, TrainingData, Updater


@dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
        step: updates done.
        finished: False if it was asked to stop before the end.
        held_out: the last evaluation, or the best one if the settings select it.
        chosen: updates before the weights that the run ends with.
        exit_code: what a command should exit with: 0, or 128 plus the signal's number.
    """

    step: int
    finished: bool
    held_out: Mapping[str, float]
    chosen: int
    exit_code: int = 0


def train(
    learner: Learner,
    data: TrainingData,
    settings: TrainingSettings,
    output: Path,
    *,
    processes: Processes,
    finish: Callable[[Path], None],
    held_out: Sequence[TrainingBatch] = (),
    description: Mapping[str, Any] | None = None,
    evaluation: Mapping[str, Any] | None = None,
    allow_changes: bool = False,
    observers: Sequence[Observer] = (),
    clean: bool = False,
    reload: Callable[[Path], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> Result:
    """Trains, or goes on training, until all steps are done or a signal asks to stop.

    With `settings.select` it may end earlier, and ends with the best weights.

    Args:
        learner: what is trained.
        data: what it learns from.
        settings: numbers of the loop.
        output: the run's directory; created. If it holds a run, that one goes on.
        processes: see `minilm.training.distributed.join`.
        finish: writes the trained model into the directory it is given; called at the end by the
            first process.
        held_out: batches to evaluate on; the same in every process.
        description: JSON values that say what is trained on what; a run that goes on must be told
            the same.
        evaluation: JSON values that identify `held_out`; if they are others when a run goes on, it
            must be allowed, and the choice of the best evaluation starts anew.
        allow_changes: go on although settings or data are others than at the start.
        observers: are told what happens, in the first process.
        clean: once the run is finished, remove its snapshots and best weights.
        reload: gives the learner what `finish` wrote; called in all processes if the run was
            finished and cleaned before.
        say: takes messages.

    Returns:
        How it ended, with the learner in eval mode. After SIGINT, SIGTERM or SIGUSR1 everything is
        saved first.

    Raises:
        TrainingError: other settings or data than the run was started with; another process is at
            it; numbers that are not finite; a snapshot that cannot be written; an observer that
            failed.
    """
    if settings.select is not None and not held_out:
        raise TrainingError(
            f"select is {settings.select!r}, but nothing is held out to evaluate on."
        )
    run = (output / LOG).parent
    with ExitStack() as stack:
        if processes.first:
            try:
                make_directory(run / SNAPSHOTS)
            except OSError as problem:
                raise TrainingError(
                    f"{run} cannot be created: {problem.strerror or problem}."
                ) from problem
            stack.enter_context(locked(run))
            if not (run / SETTINGS).exists() and any((run / SNAPSHOTS).iterdir()):
                raise TrainingError(
                    f"{run} holds snapshots, but no {SETTINGS} that says what they are of. Remove "
                    "the directory, or take another output."
                )
            record = {
                "settings": settings.to_dict(),
                "data": dict(data.fingerprint),
                "description": dict(description or {}),
                "evaluation": dict(evaluation or {}),
            }
            check_record(run, record, environment(processes), allow_changes, say)
        processes.wait()
        if (before := finished_before(run, settings, processes, say)) is not None:
            reload(output)
            learner.eval()
            return Result(before.step, True, before.held_out, before.chosen)
        updater = Updater(learner, settings, processes)
        snapshot = _common_snapshot(run / SNAPSHOTS, processes, say)
        best = Best(run, settings, processes.first, evaluation)
        session = _Session(updater, settings, run, processes, held_out, best, observers, say)
        if snapshot is not None:
            session.restore(snapshot)
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stop = stack.enter_context(StopRequest())
        ended = False  # all that was to be done is done, the model is written
        try:
            finished = session.run(data, stop)
            chosen = session.choose() if finished else session.step
            learner.eval()
            if finished and processes.first:
                finish(output)
                end = Finished(settings.steps, session.step, chosen, session.scores)
                clean_up(run, end, clean, say)
            processes.wait()
            ended = finished
        finally:
            session.end(ended)
        session.raise_failure_of_observers(finished)
        if not finished and processes.first:
            say(f"stopped after step {session.step:,}; the same command goes on from there")
        # a process that got no signal itself was stopped by one that another got
        exit_code = 0 if finished else stop.exit_code or 128 + signal.SIGTERM
    return Result(session.step, finished, session.scores, chosen, exit_code)


class _Session:
    """The part of a run that one process start does."""

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
        """Goes back to where a snapshot was taken."""
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
        if self._processes.first:
            self._saver.trust(snapshot.step)
            if self.step == self._settings.steps or self._best.should_stop:
                self._say("all steps are done")

    def run(self, data: TrainingData, stop: StopRequest) -> bool:
        """Does what is left to do; False if it was asked to stop before the end."""
        if self._processes.first:
            self._log.forget(self.step, self._evaluated)
        self._observers.on_start(self.step, self._settings)
        finished = self._run_steps(data, lambda: stop.requested or self._observers.failed)
        if self._processes.first:
            self._collect(wait=True, must=not finished)
        return finished

    def end(self, finished: bool) -> None:
        """Whatever happened: nothing is being written any more, and observers hear of the end."""
        if self._processes.first:
            self._saver.close()
        self._observers.on_end(self.step, finished)

    def raise_failure_of_observers(self, finished: bool) -> None:
        """What a user's observer raised, now that nothing can be lost by it."""
        failure = self._observers.failure
        if failure is not None:
            raise TrainingError(
                f"{failure}. "
                + (
                    f"The run is finished all the same: its model is in {self._run.parent}."
                    if finished
                    else f"The run was saved after step {self.step:,}: mend the observer or leave "
                    "it out, and the same command goes on from there."
                )
            ) from failure.__cause__

    def choose(self) -> int:
        """Goes back to the best weights if the settings say so; the step they are of."""
        chosen = self.step
        if self._best.step is not None:
            chosen, self.scores = self._best.step, self._best.scores
            if self._processes.first:
                self._updater.restore(self._best.weights(), {})
            self._processes.share(self._updater.state()[0].values())
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
                    f"early stopping: no better for {self._best.bad_evals} evaluations",
                )
                return True
            began = time.monotonic()
        return True

    def _count(self, outcome: Outcome) -> None:
        """Bears a few skipped updates in a row, no more."""
        self._skips = self._skips + 1 if outcome.skipped else 0
        if self._skips > self._settings.max_skips:
            raise TrainingError(
                f"Step {self.step + 1}: the loss or its gradient was not finite {self._skips} "
                f"times in a row. {self._advice()}"
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
        snapshot = Snapshot(
            self.step,
            # the best weights were copied a moment ago, if they are of this step
            best.model if best is not None and best.step == self.step else copied(model),
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
        """Hears what became of the last snapshot: the one place where a full disk is judged."""
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
                "message": f"warning: {saved.problem} The run goes on; the last snapshot is of "
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
                f"After step {step:,} {len(lost)} tensors are not finite, such as {lost[0]!r}: the "
                f"run has diverged, and these weights are not written. {self._advice()} Start in "
                "another output."
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


def _common_snapshot(
    directory: Path, processes: Processes, say: Callable[[str], None]
) -> Snapshot | None:
    """The newest sound snapshot; the first process chooses, the others take the same."""
    found = newest_snapshot(directory, say=say) if processes.first else None
    step = processes.agree(-1 if found is None else found.step)
    if step < 0 or processes.first:
        return found
    same = newest_snapshot(directory, say=lambda _: None)
    if same is None or same.step != step:
        raise TrainingError(
            f"{directory}: the first process goes on from step {step}, this one "
            "cannot read that snapshot. Is the directory shared?"
        )
    return same
